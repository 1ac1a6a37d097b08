"""Reads the table of samples, `samples.csv` or `samples.parquet`."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from colearn_jax.datasets.folder import dates
from colearn_jax.datasets.folder.targets import encode
from colearn_jax.datasets.folder.views import Files, nfc

from colearn_jax.types import InputError

NAMES = ("samples.csv", "samples.parquet")
SPLITS = ("train", "validation", "test")
LATITUDE, LONGITUDE = ("lat", "latitude"), ("lon", "longitude", "long", "lng")
GEOMETRY = ".geo"  # Earth Engine's column with the place, as GeoJSON
ENGINE_ID = "system:index"  # and its column with the name of a sample
UNKNOWN = (math.nan, math.nan)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
  """One row of the table.

  Attributes:
    id: its name.
    split: the part that it belongs to.
    target: as it is stored: the number of its class, or the values of the outputs.
    groups: in the table's order.
    date: its day as 2018-01-15, empty if unknown.
    coordinates: latitude and longitude in degrees, NaN if unknown.
    files: of each view; known once the headers are.
  """

  id: str
  split: str
  target: int | tuple[float, ...]
  groups: tuple[str, ...]
  date: str = ""
  coordinates: tuple[float, float] = UNKNOWN
  files: tuple[Files, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
  """All samples, in the table's order.

  Attributes:
    path: of the table.
    samples: one a row.
    task: `kind`, `outputs` and `unit`, as in the metadata of a data set.
    groups: the names of the groups.
    unused: the columns that mean nothing here.
    split: whether the table says which part a sample belongs to.
    date: whether it has a column of dates.
    coordinates: whether it has columns of latitudes and longitudes.
    amounts: least and greatest target of each output of a regression, by its name.
  """

  path: Path
  samples: tuple[Sample, ...]
  task: Mapping[str, object]
  groups: tuple[str, ...]
  unused: tuple[str, ...]
  split: bool
  date: bool
  coordinates: bool
  amounts: Mapping[str, tuple[float, float]]


def find_table(folder: Path) -> Path:
  """The table of a folder; InputError if it has none, or two."""
  there = sorted(path for path in folder.iterdir() if path.name.lower().startswith("samples."))
  found = [path for path in there if path.name.lower() in NAMES and path.is_file()]
  if len(found) > 1:
    raise InputError(f"{folder} holds {' and '.join(path.name for path in found)}; keep one of them")
  if not found:
    have = f", but {there[0].name}" if there else ""
    names = ", ".join(NAMES)
    raise InputError(
      f"{folder} holds no table of samples, one of: {names}{have}; see data_builders/folder/README.md"
    )
  return found[0]


def read_table(path: Path, described: Mapping[str, object]) -> Table:
  """Reads `samples.csv` or `samples.parquet`.

  Args:
    path: of the file, with the columns `id` and `target` (or several, `target_...`), and maybe `split`,
      `group`, `group_...`, `date`, `lat` or `latitude`, and `lon` or `longitude`.
    described: `kind`, `outputs`, `unit` and `unlabelled` of the task, as far as they are given.

  Raises:
    InputError: it cannot be read, lacks a column, or has an id twice, one that is no name of a file, an
      unknown split, an empty group, no date or place where there should be one, or a target that does not fit
      the others.
  """
  header, cells = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
  if twice := [name for name in header if header.count(name) > 1]:
    raise InputError(f"{path} has the column {twice[0]!r} more than once")
  key = "id" if "id" in header else ENGINE_ID
  if key not in header:
    raise _no_id(path, header)
  targets = [name for name in header if name == "target" or name.startswith("target_")]
  if not targets or "target" in targets and len(targets) > 1:
    raise InputError(f"{path} has to have one column 'target', or several 'target_...': {', '.join(header)}")
  groups = [name for name in header if name == "group" or name.startswith("group_")]
  column = {name: [row[i] for row in cells] for i, name in enumerate(header)}
  ids = _ids(path, column[key])
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
  dated = [name for name in header if name.lower() == "date"]
  if len(dated) > 1:
    raise InputError(f"{path} has to have one column date: {', '.join(dated)}")
  days = dates.column(column[dated[0]], where) if dated else [""] * len(ids)
  places, placed = _coordinates(column, path, where)
  task, encoded = encode({name: column[name] for name in targets}, described, path, where)
  of_groups = zip(*(map(_text, column[name]) for name in groups)) if groups else [()] * len(ids)
  rows = zip(ids, splits, encoded, of_groups, days, places or [UNKNOWN] * len(ids))
  used = {key, "split", *dated, *targets, *groups, *placed}
  return Table(
    path=path,
    samples=tuple(Sample(*row) for row in rows),
    task=task,
    groups=tuple(name.removeprefix("group_") for name in groups),
    unused=tuple(name for name in header if name not in used),
    split="split" in header,
    date=bool(dated),
    coordinates=bool(placed),
    amounts=_amounts(task, encoded),
  )


def _no_id(path: Path, header: Sequence[str]) -> InputError:
  separated = next((s for s in (";", "\t", "|") if len(header) == 1 and s in header[0]), None)
  hint = f"; columns are separated by commas, not {separated!r}" if separated else ""
  return InputError(f"{path} has no column 'id', its columns are: {', '.join(map(repr, header))}{hint}")


def _amounts(task: Mapping, encoded: Sequence) -> dict[str, tuple[float, float]]:
  if task["kind"] != "regression":
    return {}
  known = [row for row in encoded if row[0] == row[0]]
  return {name: (min(column), max(column)) for name, column in zip(task["outputs"], zip(*known))}


def _coordinates(column: Mapping[str, Sequence], path: Path, where: Callable) -> tuple[list, list[str]]:
  """Latitude and longitude of each sample, and the columns that they are from; nothing if there are none."""
  named = [[name for name in column if name.lower() in known] for known in (LATITUDE, LONGITUDE)]
  if not any(named):
    if GEOMETRY not in column:
      return [], []
    return [_point(cell) for cell in column[GEOMETRY]], [GEOMETRY]
  if any(len(names) != 1 for names in named):
    have = ", ".join(name for names in named for name in names)
    raise InputError(f"{path} has to have one column lat (or latitude) and one lon (or longitude): {have}")
  out = []
  names = [names[0] for names in named]
  for i, cells in enumerate(zip(*(column[name] for name in names))):
    place = [_degrees(cell, name, where, i) for cell, name in zip(cells, names)]
    if math.isnan(place[0]) != math.isnan(place[1]):
      raise InputError(f"{where(i)}: one of {names[0]} and {names[1]} is empty")
    for value, name, most in zip(place, names, (90, 180)):
      if abs(value) > most:
        raise InputError(f"{where(i)}: its {name} {value:g} is outside of -{most} to {most} degrees")
    out.append(tuple(place))
  return out, names


def _degrees(cell, name: str, where: Callable, i: int) -> float:
  try:
    value = math.nan if cell is None or str(cell).lower() in dates.UNKNOWN else float(cell)
  except (TypeError, ValueError):
    raise InputError(f"{where(i)}: its {name} {cell!r} is no number of degrees such as 51.34") from None
  if math.isinf(value):
    raise InputError(f"{where(i)}: its {name} is infinite")
  return value


def _point(cell) -> tuple[float, float]:
  """Latitude and longitude of a point in GeoJSON; of anything else they are not known."""
  try:
    tree = json.loads(cell)
    longitude, latitude = map(float, tree["coordinates"][:2])
    known = tree["type"] == "Point" and abs(latitude) <= 90 and abs(longitude) <= 180
  except (TypeError, ValueError, KeyError):
    return UNKNOWN
  return (latitude, longitude) if known else UNKNOWN


def _read_csv(path: Path) -> tuple[list[str], list[list[str | None]]]:
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      reader = csv.reader(file, strict=True)
      header, rows = [name.strip() for name in next(reader, [])], []
      if header[:1] == ["sep="]:  # of a spreadsheet
        header = [name.strip() for name in next(reader, [])]
      for row in reader:
        if any(cell.strip() for cell in row):
          if len(row) != len(header):
            if len(header) == 1 and not {"id", ENGINE_ID} & set(header):
              raise _no_id(path, header)
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


def _ids(path: Path, cells: Sequence) -> list[str]:
  """The ids as text, every one another name of a file."""
  ids, seen = [], {}
  for number, cell in enumerate(cells, 1):
    name = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else _text(cell)  # pandas' 1.0
    place = PurePosixPath(name)
    if not name or str(place) != name or any(ord(c) < 32 for c in name):
      raise InputError(f"{path}, sample {number}: {name!r} is no id; the name of a file, without its suffix")
    if place.is_absolute() or ".." in place.parts or "\\" in name:
      raise InputError(f"{path}, sample {name}: that id is a path that leads out of the folder")
    if name in seen:
      raise InputError(
        f"{path}: id {name!r} is there twice, as samples {seen[name]} and {number}; "
        "one row is one sample, its time steps are in a file of its own"
      )
    seen[name] = number
    ids.append(name)
  return ids


def _text(cell) -> str:
  return "" if cell is None else str(cell)
