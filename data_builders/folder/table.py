"""Reads the table of samples, `samples.csv` or `samples.parquet`."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from colearn_jax.datasets.folder.targets import encode

from colearn_jax.types import InputError

NAMES = ("samples.csv", "samples.parquet")
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
  """A sample of the table: its target as it is stored, and its groups in the table's order."""

  id: str
  split: str
  target: int | tuple[float, ...]
  groups: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
  """All samples, in the table's order.

  Attributes:
    path: of the table.
    rows: one a sample.
    task: `kind`, `outputs` and `unit`, as in the metadata of a data set.
    groups: the names of the groups.
    unused: the columns that mean nothing here.
  """

  path: Path
  rows: tuple[Row, ...]
  task: Mapping[str, object]
  groups: tuple[str, ...]
  unused: tuple[str, ...]


def find_table(folder: Path) -> Path:
  """The table of a folder; InputError if it has none, or two."""
  found = [folder / name for name in NAMES if (folder / name).is_file()]
  if len(found) != 1:
    what = "both, keep one of" if found else "no table of samples, one of"
    raise InputError(f"{folder} holds {what}: {', '.join(NAMES)}; see data_builders/folder/README.md")
  return found[0]


def read_table(path: Path, described: Mapping[str, object]) -> Table:
  """Reads `samples.csv` or `samples.parquet`.

  Args:
    path: of the file, with the columns `id` and `target` (or several, `target_...`), and maybe `split`,
      `group` and `group_...`.
    described: `kind`, `outputs` and `unit` of the task, as far as they are given.

  Raises:
    InputError: it cannot be read, lacks a column, or has an id twice, one that is no name of a file, an
      unknown split, an empty group, or a target that does not fit the others.
  """
  header, cells = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
  if twice := [name for name in header if header.count(name) > 1]:
    raise InputError(f"{path} has the column {twice[0]!r} more than once")
  if "id" not in header:
    raise InputError(f"{path} has no column 'id', its columns are: {', '.join(map(repr, header))}")
  targets = [name for name in header if name == "target" or name.startswith("target_")]
  if not targets or "target" in targets and len(targets) > 1:
    raise InputError(f"{path} has to have one column 'target', or several 'target_...': {', '.join(header)}")
  groups = [name for name in header if name == "group" or name.startswith("group_")]
  column = {name: [row[i] for row in cells] for i, name in enumerate(header)}
  ids = _ids(path, column["id"])
  where = lambda i: f"{path}, sample {ids[i]}"
  splits = ["train"] * len(ids)
  if "split" in header:
    splits = [_text(cell) for cell in column["split"]]
    for i, split in enumerate(splits):
      if split not in SPLITS:
        raise InputError(f"{where(i)}: unknown split {split!r}, have: {', '.join(SPLITS)}")
  for name in groups:
    for i, cell in enumerate(column[name]):
      if cell is None:
        raise InputError(f"{where(i)}: its {name} is empty")
  task, encoded = encode({name: column[name] for name in targets}, described, path, where)
  of_groups = zip(*(map(_text, column[name]) for name in groups)) if groups else [()] * len(ids)
  return Table(
    path=path,
    rows=tuple(Row(*row) for row in zip(ids, splits, encoded, of_groups)),
    task=task,
    groups=tuple(name.removeprefix("group_") for name in groups),
    unused=tuple(name for name in header if name not in {"id", "split", *targets, *groups}),
  )


def _read_csv(path: Path) -> tuple[list[str], list[list[str | None]]]:
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      reader = csv.reader(file, strict=True)
      header = [name.strip() for name in next(reader, [])]
      rows = []
      for row in reader:
        if row:
          if len(row) != len(header):
            raise InputError(
              f"{path}, line {reader.line_num}: {len(row)} cells where the header has {len(header)}"
            )
          rows.append([cell.strip() or None for cell in row])
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"cannot read {path} as comma-separated UTF-8 text: {error}") from error
  if not rows:
    raise InputError(f"{path} has no samples")
  return header, rows


def _read_parquet(path: Path) -> tuple[list[str], list[tuple]]:
  import pyarrow
  import pyarrow.parquet

  try:
    table = pyarrow.parquet.read_table(path)
    columns = [column.to_pylist() for column in table.columns]
  except (OSError, pyarrow.ArrowException) as error:
    raise InputError(f"cannot read {path} as Parquet: {' '.join(str(error).split())}") from error
  if not table.num_rows:
    raise InputError(f"{path} has no samples")
  return list(table.column_names), list(zip(*columns))


def _ids(path: Path, cells: Sequence) -> list[str]:
  """The ids as text, every one another name of a file."""
  ids, seen = [], {}
  for number, cell in enumerate(cells, 1):
    name = _text(cell)
    place = PurePosixPath(name)
    if not name or str(place) != name or any(ord(c) < 32 for c in name):
      raise InputError(f"{path}, sample {number}: {name!r} is no id; the name of a file, without its suffix")
    if place.is_absolute() or ".." in place.parts or "\\" in name:
      raise InputError(f"{path}, sample {name}: that id is a path that leads out of the folder")
    if name in seen:
      raise InputError(f"{path}: id {name!r} is there twice, as samples {seen[name]} and {number}")
    seen[name] = number
    ids.append(name)
  return ids


def _text(cell) -> str:
  return "" if cell is None else str(cell)
