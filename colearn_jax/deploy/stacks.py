"""Scenes of GeoTIFF files: one with all steps, one a date, or the assets of STAC items on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlparse

import numpy as np

from colearn_jax import dates
from colearn_jax.datasets.folder import rasters
from colearn_jax.datasets.folder.decoding import Decoding, UnclearError
from colearn_jax.datasets.folder.optional import module
from colearn_jax.deploy import names as names_lib
from colearn_jax.types import InputError

T = TypeVar("T")
_READING = threading.RLock()  # files are kept open, and GDAL lets one thread at a time use an open file


class Grid(NamedTuple):
  """The pixels of a scene: rows and columns, the six numbers of its affine transform, and its projection.

  The projection is WKT, empty if it is unknown. The transform is that of rasterio.
  """

  height: int
  width: int
  transform: tuple[float, ...]
  crs: str


class Window(NamedTuple):
  """A part of a scene: its first row and column, and its size."""

  row: int
  column: int
  height: int
  width: int


class Layers(NamedTuple):
  """Bands of one file: their numbers in it, from 1, and their places among the bands that are read.

  The pixels of the file are `coarser` times as wide and high as those of the scene.
  """

  path: str
  indexes: tuple[int, ...]
  places: tuple[int, ...]
  coarser: int = 1


@dataclasses.dataclass(frozen=True)
class Stack:
  """A scene of GeoTIFFs. It can be pickled; files are opened when they are read.

  Attributes:
    grid: its pixels.
    bands: that are read.
    steps: where the bands of each step are, in the order of time.
    days: of the steps, None if unknown.
    decoding: what the user says of the stored numbers.
  """

  grid: Grid
  bands: tuple[str, ...]
  steps: tuple[tuple[Layers, ...], ...]
  days: tuple[int, ...] | None
  decoding: Decoding

  @property
  def files(self) -> tuple[str, ...]:
    """The files that are read."""
    return tuple(dict.fromkeys(layers.path for step in self.steps for layers in step))

  def read(self, window: Window) -> np.ndarray:
    """The values of a window, `[T h w C]` float32, NaN where nothing is known. InputError if it fails."""
    out = np.empty((len(self.steps), window.height, window.width, len(self.bands)), np.float32)
    with _READING:
      for values, step in zip(out, self.steps):
        for layers in step:
          values[..., list(layers.places)] = caught(layers.path, lambda: self._layers(layers, window))  # noqa: B023
    return out

  def check(self) -> None:
    """Reads the last pixel of every file, which a file that was cut off lacks. InputError if it fails."""
    self.read(Window(self.grid.height - 1, self.grid.width - 1, 1, 1))

  def _layers(self, layers: Layers, window: Window) -> np.ndarray:
    image, n = _opened(layers.path), layers.coarser
    top, left = window.row // n, window.column // n
    bottom, right = -(-(window.row + window.height) // n), -(-(window.column + window.width) // n)
    part = module("rasterio.windows", "map").Window(left, top, right - left, bottom - top)
    values = rasters.read_bands(image, list(layers.indexes), self.decoding, part)
    values = self.decoding.unpack(values)
    if n == 1:
      return values
    rows = np.arange(window.row, window.row + window.height) // n - top
    columns = np.arange(window.column, window.column + window.width) // n - left
    return values[rows[:, None], columns[None]]


def open_files(
  paths: Sequence[Path], wanted: Sequence[str], decoding: Decoding, said: Sequence[str] | None = None
) -> Stack:
  """Opens GeoTIFFs: one file, or one for each date.

  Args:
    paths: the files. If there are several, the name of each, or of its directory, has its date.
    wanted: the bands to read.
    decoding: what the user says of the stored numbers.
    said: names of the bands of every file, which replace those in the files.

  Raises:
    InputError: a file cannot be read, lacks a band, has no date, or differs from the others in its pixels.
  """
  every = [caught(str(path), functools.partial(_header, path, said)) for path in paths]
  grid, names = every[0]
  for path, (other, _) in zip(paths, every):
    _check_same(path, other, paths[0], grid)
  if len(paths) == 1 and (found := names_lib.steps(list(names), wanted, str(paths[0]))):
    one = lambda step: (_layers_of(paths[0], names, step),)
    return Stack(grid, tuple(wanted), tuple(map(one, found.names)), found.days, decoding)
  for path, (_, own) in zip(paths, every):
    names_lib.missing(list(own), wanted, str(path))
  days = [_day_in(path) for path in paths]
  if len(paths) > 1:
    if None in days:
      raise InputError(
        f"{paths[days.index(None)]} has no date in its name, as {len(paths)} files need: S2_2023-05-01.tif"
      )
    for day in days:
      if days.count(day) > 1:
        first, second, *_ = (path.name for path, own in zip(paths, days) if own == day)
        raise InputError(f"{first} and {second} are of one date; one file has all bands")
  known = tuple(sorted(day for day in days if day is not None))
  order = sorted(range(len(paths)), key=lambda i: days[i] or 0)
  steps = tuple((_layers_of(paths[i], every[i][1], wanted),) for i in order)
  return Stack(grid, tuple(wanted), steps, known or None, decoding)


def open_items(paths: Sequence[Path], wanted: Sequence[str], decoding: Decoding) -> Stack:
  """Opens STAC items on disk, one a date, whose assets are GeoTIFFs on disk.

  The bands of an asset are those that its `bands` or `eo:bands` name; an asset without them is a band of its
  key's name. Assets may have pixels that are twice, three times and so on as large as the smallest ones.

  Args:
    paths: files with an item, or with a collection of items.
    wanted: the bands to read.
    decoding: what the user says of the stored numbers.

  Raises:
    InputError: an item lacks a band, a date or a file, or files differ in their pixels.
  """
  found: dict[int, dict[str, tuple[Path, int]]] = {}
  for path in paths:
    for item in _items(path):
      name = f"{path}, item {item.get('id', '?')}"
      when = (item.get("properties") or {}).get("datetime")
      if when is None:
        raise InputError(f"{name} has no datetime in its properties")
      day = int(dates.to_days([when], name)[0])
      bands = _assets(item, path.parent)
      names_lib.missing(list(bands), wanted, name)
      if day in found:
        raise InputError(f"{name}: another item has the same date, {dates.to_iso(day)}; mosaic them first")
      found[day] = bands
  files = {file for bands in found.values() for file in (bands[band][0] for band in wanted)}
  grids = {file: caught(str(file), functools.partial(_header, file, None))[0] for file in sorted(files)}
  if not grids:
    raise InputError(f"{paths[0]} has no items")
  finest = max(grids, key=lambda file: grids[file].height)
  factor = {file: _coarser(file, grid, finest, grids[finest]) for file, grid in grids.items()}

  def step(bands: Mapping[str, tuple[Path, int]]) -> tuple[Layers, ...]:
    own = dict.fromkeys(bands[band][0] for band in wanted)
    places = {file: [k for k, band in enumerate(wanted) if bands[band][0] == file] for file in own}
    of = lambda file: tuple(bands[wanted[k]][1] for k in places[file])
    return tuple(Layers(str(file), of(file), tuple(at), factor[file]) for file, at in places.items())

  days = tuple(sorted(found))
  return Stack(grids[finest], tuple(wanted), tuple(step(found[day]) for day in days), days, decoding)


def _items(path: Path) -> list[Mapping[str, Any]]:
  try:
    tree = json.loads(path.read_text(encoding="utf-8"))
    items = tree["features"] if tree.get("type") == "FeatureCollection" else [tree]
    for item in items:
      if item["type"] != "Feature" or "assets" not in item:
        raise KeyError("assets")
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f"{path} is no STAC item or collection of items: {error}") from None
  return items


def _assets(item: Mapping[str, Any], folder: Path) -> dict[str, tuple[Path, int]]:
  """The file and the number of each band of an item."""
  out: dict[str, tuple[Path, int]] = {}
  for key, asset in item["assets"].items():
    link = urlparse(str(asset.get("href", "")))
    if link.scheme not in ("", "file") or not link.path.lower().endswith((".tif", ".tiff")):
      continue
    described = asset.get("bands") or asset.get("eo:bands") or [{}]
    bands = [own.get("name") for own in described]
    named = bands if len(bands) > 1 and all(bands) else [bands[0] or key]
    for number, name in enumerate(named, 1):
      out.setdefault(name, (folder / unquote(link.path), number))
    if len(named) == 1:
      out.setdefault(key, (folder / unquote(link.path), 1))
  return out


def _coarser(path: Path, grid: Grid, first: Path, finest: Grid) -> int:
  """How many times larger the pixels of a file are; InputError if the files cover different ground."""
  n = max(1, round(finest.height / grid.height))
  a, b, c, d, e, f = grid.transform
  fine = (a / n, b / n, c, d / n, e / n, f)
  _check_same(path, Grid(grid.height * n, grid.width * n, fine, grid.crs), first, finest)
  return n


def _layers_of(path: Path, names: Mapping[str, int], wanted: Sequence[str]) -> Layers:
  return Layers(str(path), tuple(names[name] for name in wanted), tuple(range(len(wanted))))


def _day_in(path: Path) -> int | None:
  day = dates.in_name(path.name)
  return dates.in_name(path.parent.name) if day is None else day


def _header(path: Path, said: Sequence[str] | None) -> tuple[Grid, dict[str, int]]:
  """The pixels of a file, and the number of each band by its name."""
  with _READING:
    image = _opened(str(path))
    if len(image.subdatasets) > 1:
      raise InputError(f"{path} holds {len(image.subdatasets)} images, and one can be read")
    indexes = rasters.measured(image, len(said) if said else None)
    if said and len(said) != len(indexes):
      raise InputError(f"{path} has {len(indexes)} bands, and {len(said)} are named: {', '.join(said)}")
    own = [image.descriptions[i - 1] for i in indexes]
    known = said or (own if all(own) else [f"b{k + 1}" for k in range(len(indexes))])
    if twice := next((name for name in known if list(known).count(name) > 1), None):
      raise InputError(f"{path} has two bands named {twice}")
    crs = image.crs.to_wkt() if image.crs else ""
    return Grid(image.height, image.width, tuple(image.transform)[:6], crs), dict(zip(known, indexes))


def _check_same(path: Path, grid: Grid, first: Path, other: Grid) -> None:
  if (grid.height, grid.width) != (other.height, other.width):
    raise InputError(
      f"{path} has {grid.height} x {grid.width} pixels, {first.name} {other.height} x {other.width}; "
      "all have to have the same pixels"
    )
  if grid.crs != other.crs and not _same_crs(grid.crs, other.crs):
    raise InputError(f"{path} has another projection than {first.name}; all have to have the same")
  size = math.hypot(*other.transform[:2]) or 1
  if any(abs(one - two) > 1e-3 * size for one, two in zip(grid.transform, other.transform)):
    raise InputError(f"{path} lies elsewhere, or has pixels of another size, than {first.name}")


def _same_crs(one: str, other: str) -> bool:
  crs = module("rasterio.crs", "map").CRS
  return bool(one and other) and crs.from_wkt(one) == crs.from_wkt(other)


@functools.lru_cache(maxsize=128)
def _opened(path: str):
  return module("rasterio", "map").open(path, driver="GTiff")


def caught(path: str, read: Callable[[], T]) -> T:
  """What `read` returns; InputError in one line with the file's name for whatever it raises."""
  try:
    return read()
  except InputError:
    raise
  except UnclearError as error:
    what = str(error).split(" Say ")[0].split("; say ")[0]
    raise InputError(f"{path} {what}; --nodata=NUMBER says it, or --nodata=none") from None
  except Exception as error:  # of a damaged file, whatever the reader stumbles over
    raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from None
