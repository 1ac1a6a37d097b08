"""Scenes of GeoTIFF files: one with all steps, or one a date."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

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


class Said(NamedTuple):
  """What is said of the stored numbers of a band beside its file, None where nothing is."""

  nodata: float | None = None
  scale: float | None = None
  offset: float | None = None


class Layers(NamedTuple):
  """Bands of one file: their numbers in it, from 1, and their places among the bands that are read.

  The pixels of the file are `coarser` times as wide and high as those of the scene. `said` is of each band,
  or empty.
  """

  path: str
  indexes: tuple[int, ...]
  places: tuple[int, ...]
  coarser: int = 1
  said: tuple[Said, ...] = ()


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
    decoding = _decoding(image, layers, self.decoding)
    values = decoding.unpack(rasters.read_bands(image, list(layers.indexes), decoding, part))
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
  every = [caught(str(path), functools.partial(header, path, said)) for path in paths]
  grid, names = every[0]
  for path, (other, _) in zip(paths, every):
    check_same(path, other, paths[0], grid)
  if len(paths) == 1 and (found := names_lib.steps(list(names), wanted, str(paths[0]))):
    one = lambda step: (_layers_of(paths[0], names, step),)
    return with_facts(Stack(grid, tuple(wanted), tuple(map(one, found.names)), found.days, decoding))
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
  return with_facts(Stack(grid, tuple(wanted), steps, known or None, decoding))


def with_facts(stack: Stack) -> Stack:
  """A scene with the nodata values that some of its files say; others that hold them are unclear.

  Raises:
    InputError: a band has a scale factor in some steps and none in others, or other units.
  """
  nodata, first = set[float | None](), Path(stack.steps[0][0].path).name
  for band, name in enumerate(stack.bands):
    facts = [_facts(stack, step, band) for step in stack.steps]
    nodata |= {own[2] for own in facts}
    for path, (scaled, unit, _) in zip((step[0].path for step in stack.steps), facts):
      if scaled != facts[0][0]:
        raise InputError(
          f"{path} has {'a' if scaled else 'no'} scale factor for {name}, {first} has "
          f"{'none' if scaled else 'one'}; --scale and --offset replace those of all files"
        )
      if unit != facts[0][1]:
        raise InputError(
          f"{path} has {name} in the units {unit or 'none'}, others in {facts[0][1] or 'none'}"
        )
  if None not in nodata or stack.decoding.nodata is not None:
    return stack
  known = tuple(sorted(value for value in nodata if value is not None and value == value))
  return dataclasses.replace(stack, decoding=dataclasses.replace(stack.decoding, elsewhere=known))


def _facts(stack: Stack, step: Sequence[Layers], band: int) -> tuple[bool, str, float | None]:
  """Whether a band has a scale factor in a step, its units, and its nodata value."""
  layers = next(layers for layers in step if band in layers.places)
  at = layers.places.index(band)
  said = layers.said[at] if layers.said else Said()
  with _READING:
    image, i = _opened(layers.path), layers.indexes[at] - 1
    nodata = said.nodata if image.nodatavals[i] is None else image.nodatavals[i]
    scaled = not stack.decoding.scaled and (image.scales[i] != 1 or said.scale not in (None, 1))
    return scaled, image.units[i] or "", nodata


def _decoding(image, layers: Layers, decoding: Decoding) -> Decoding:
  """What the user says, or else what is said of the layers where their file says nothing."""
  at = [i - 1 for i in layers.indexes]
  of = lambda name, none: tuple(none if (v := getattr(s, name)) is None else v for s in layers.said)
  if decoding.nodata is None and all(image.nodatavals[i] is None for i in at):
    if any(own.nodata is not None for own in layers.said):
      decoding = dataclasses.replace(decoding, nodata=of("nodata", math.nan))
  plain = all(image.scales[i] == 1 and image.offsets[i] == 0 for i in at)
  if plain and not decoding.scaled and any(own[1:] != (None, None) for own in layers.said):
    decoding = dataclasses.replace(decoding, scale=of("scale", 1.0), offset=of("offset", 0.0))
  return decoding


def _layers_of(path: Path, names: Mapping[str, int], wanted: Sequence[str]) -> Layers:
  return Layers(str(path), tuple(names[name] for name in wanted), tuple(range(len(wanted))))


def _day_in(path: Path) -> int | None:
  day = dates.in_name(path.name)
  return dates.in_name(path.parent.name) if day is None else day


def header(path: Path, said: Sequence[str] | None) -> tuple[Grid, dict[str, int]]:
  """The pixels of a file, and the number of each band by its name. InputError if it has several images."""
  with _READING:
    image = _opened(str(path))
    if len(image.subdatasets) > 1:
      raise InputError(f"{path} holds {len(image.subdatasets)} images, and one can be read")
    indexes = rasters.measured(image, len(said) if said else None)
    if said and len(said) != len(indexes):
      raise InputError(f"{path} has {len(indexes)} bands, and {len(said)} are named: {', '.join(said)}")
    known = said or rasters.band_names(image, indexes) or [f"b{k + 1}" for k in range(len(indexes))]
    if twice := next((name for name in known if list(known).count(name) > 1), None):
      raise InputError(f"{path} has two bands named {twice}")
    crs = image.crs.to_wkt() if image.crs else ""
    return Grid(image.height, image.width, tuple(image.transform)[:6], crs), dict(zip(known, indexes))


def check_same(path: Path, grid: Grid, first: Path, other: Grid) -> None:
  """Raises InputError if two files do not have the same pixels."""
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


def forget() -> None:
  """Closes all files."""
  with _READING:
    _opened.cache_clear()


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
