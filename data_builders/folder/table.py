"""Reads the table of samples, `samples.csv` or `samples.parquet`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from colearn_jax.datasets.folder import rows
from colearn_jax.datasets.folder.cells import spelling, unseen
from colearn_jax.datasets.folder.rows import ENGINE_ID
from colearn_jax.datasets.folder.targets import encode
from colearn_jax.datasets.folder.views import Files

from colearn_jax import dates
from colearn_jax.types import InputError

NAMES = ("samples.csv", "samples.parquet")
SPLITS = ("train", "validation", "test")
LATITUDE, LONGITUDE = ("lat", "latitude"), ("lon", "longitude", "long", "lng")
GEOMETRY = ".geo"  # Earth Engine's column with the place, as GeoJSON
COLUMNS, PREFIXES = ("id", "target", "split", "group", "date"), ("target_", "group_")
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
    date: whether the date of any sample is known.
    coordinates: whether the latitude and longitude of any sample are known.
    amounts: least and greatest target of each output of a regression, by its name.
    unseen: codes of `unlabelled` that no target has.
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
  unseen: tuple[str, ...]


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
  header, cells = rows.read(path)
  header = [_column(name, header) for name in header]
  if twice := [name for name in header if header.count(name) > 1]:
    raise InputError(f"{path} has the column {twice[0]!r} more than once")
  key = "id" if "id" in header else ENGINE_ID
  if key not in header:
    raise rows.no_id(path, header)
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
    _check_groups(name, column[name], path, where)
  dated = [name for name in header if name.lower() == "date"]
  if len(dated) > 1:
    raise InputError(f"{path} has to have one column date: {', '.join(dated)}")
  days = dates.column(column[dated[0]], where) if dated else [""] * len(ids)
  places, placed = _coordinates(column, path, where)
  task, encoded = encode({name: column[name] for name in targets}, described, path, where)
  of_groups = zip(*(map(_text, column[name]) for name in groups)) if groups else [()] * len(ids)
  every = zip(ids, splits, encoded, of_groups, days, places or [UNKNOWN] * len(ids))
  used = {key, "split", *dated, *targets, *groups, *placed}
  return Table(
    path=path,
    samples=tuple(Sample(*row) for row in every),
    task=task,
    groups=tuple(name.removeprefix("group_") for name in groups),
    unused=tuple(name for name in header if name not in used),
    split="split" in header,
    date=any(days),
    coordinates=any(not math.isnan(place[0]) for place in places),
    amounts=_amounts(task, encoded),
    unseen=tuple(map(str, unseen([column[name] for name in targets], described.get("unlabelled")))),
  )


def _column(name: str, header: Sequence[str]) -> str:
  """The name of a column, whatever its capitals."""
  prefix = next((prefix for prefix in PREFIXES if name.lower().startswith(prefix)), "")
  known = prefix + name[len(prefix) :] if prefix else name.lower() if name.lower() in COLUMNS else name
  return name if known in header else known


def _check_groups(name: str, cells: Sequence, path: Path, where: Callable) -> None:
  """Refuses an empty group, and two that may be one: its samples would be in several parts."""
  texts: dict[str, None] = {}
  for i, cell in enumerate(cells):
    if cell is None:
      raise InputError(f"{where(i)}: its {name} is empty")
    if (text := _text(cell)) not in texts and text.lower() in dates.UNKNOWN:
      raise InputError(f"{where(i)}: is its {name} {text!r} a group, or unknown? Write another name")
    texts[text] = None
  spelled: dict[str, str] = {}
  for text in texts:
    if (other := spelled.setdefault(spelling(text), text)) != text:
      raise InputError(
        f"{path}: {name} has {other!r} and {text!r}, which differ in capitals, blanks or zeros; write one of "
        "them"
      )


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
    points = [_point(cell) for cell in column[GEOMETRY]]
    return (points, [GEOMETRY]) if set(points) != {UNKNOWN} else ([], [])  # polygons say no place
  if any(len(names) != 1 for names in named):
    have = ", ".join(name for names in named for name in names)
    raise InputError(f"{path} has to have one column lat (or latitude) and one lon (or longitude): {have}")
  out = []
  names = [names[0] for names in named]
  for i, cells in enumerate(zip(*(column[name] for name in names))):
    place = [_degrees(cell, name, where, i) for cell, name in zip(cells, names)]
    out.append(tuple(place))
  check_places(out, names, where)
  return out, names


def check_places(places: Sequence[tuple[float, float]], names: Sequence[str], where: Callable) -> None:
  """Raises InputError for places that cannot be, or are half known.

  Args:
    places: latitude and longitude of each sample, NaN where unknown.
    names: of the two columns.
    where: what messages call the sample of a number.
  """
  for i, place in enumerate(places):
    if math.isnan(place[0]) != math.isnan(place[1]):
      raise InputError(f"{where(i)}: one of {names[0]} and {names[1]} is empty")
    for value, name, most in zip(place, names, (90, 180)):
      if abs(value) > most:
        raise InputError(f"{where(i)}: its {name} {value:g} is outside of -{most} to {most} degrees")
  if (0, 0) in places and any(max(map(abs, place)) > 1 for place in places):
    raise InputError(
      f"{where(places.index((0, 0)))}: its {' and '.join(names)} are 0, in the sea and far from others; "
      "leave both empty if they are unknown"
    )


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
