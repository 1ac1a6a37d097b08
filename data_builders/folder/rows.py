"""Reads the header and the cells of `samples.csv` or `samples.parquet`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from colearn_jax.datasets.folder.views import nfc

from colearn_jax.types import InputError

ENGINE_ID = "system:index"  # Earth Engine's column with the name of a sample


def read(path: Path) -> tuple[list[str], Sequence[Sequence]]:
  """The names of the columns, and the cells of each row; those of CSV are text, None if they are empty.

  Raises:
    InputError: the file cannot be read, or has no rows.
  """
  return _csv(path) if path.suffix.lower() == ".csv" else _parquet(path)


def no_id(path: Path, header: Sequence[str]) -> InputError:
  """What to raise for a table without ids."""
  separated = next((s for s in (";", "\t", "|") if len(header) == 1 and s in header[0]), None)
  hint = f"; columns are separated by commas, not {separated!r}" if separated else ""
  return InputError(f"{path} has no column 'id', its columns are: {', '.join(map(repr, header))}{hint}")


def _csv(path: Path) -> tuple[list[str], list[list[str | None]]]:
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      reader = csv.reader(_without_nul(file, path), strict=True)
      header, rows = [name.strip() for name in next(reader, [])], []
      if header[:1] == ["sep="]:  # of a spreadsheet
        header = [name.strip() for name in next(reader, [])]
      for row in reader:
        if any(cell.strip() for cell in row):
          if len(row) != len(header):
            if len(header) == 1 and not {"id", ENGINE_ID} & set(header):
              raise no_id(path, header)
            raise InputError(
              f"{path}, line {reader.line_num}: {len(row)} cells where the header has {len(header)}"
            )
          rows.append([nfc(cell.strip()) or None for cell in row])
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"cannot read {path} as comma-separated UTF-8 text: {error}") from error
  if not rows:
    raise InputError(f"{path} has no samples")
  empty = {i for i, name in enumerate(header) if not name and not any(row[i] for row in rows)}
  kept = lambda row: [cell for i, cell in enumerate(row) if i not in empty]
  return kept(header), [kept(row) for row in rows]  # without the columns that a spreadsheet adds


def _without_nul(file, path: Path):
  """The lines of a file; programs that write two bytes for each letter leave NUL between them."""
  for line in file:
    if "\0" in line:
      raise InputError(f"cannot read {path} as comma-separated UTF-8 text: it holds NUL, as UTF-16 does")
    yield line


def _parquet(path: Path) -> tuple[list[str], list[tuple]]:
  import pyarrow
  import pyarrow.parquet

  try:
    table = pyarrow.parquet.read_table(path)
    columns = [column.to_pylist() for column in table.columns]
  except (OSError, pyarrow.ArrowException) as error:
    raise InputError(f"cannot read {path} as Parquet: {' '.join(str(error).split())}") from error
  if not table.num_rows:
    raise InputError(f"{path} has no samples")
  columns = [[_plain(cell) for cell in column] for column in columns]
  return list(table.column_names), list(zip(*columns))


def _plain(cell):
  """Text without blanks around it, None if it is empty; bytes are text, as some programs write it."""
  if isinstance(cell, bytes):
    try:
      cell = cell.decode()
    except UnicodeDecodeError:
      return cell
  return nfc(cell.strip()) or None if isinstance(cell, str) else cell
