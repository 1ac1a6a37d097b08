"""Opens what a map is made of: GeoTIFFs, STAC items on disk, or one Zarr or NetCDF cube."""

from __future__ import annotations

import dataclasses
import functools
import glob
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colearn_jax.datasets.folder import cubes
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.datasets.folder.optional import no_warnings
from colearn_jax.deploy import items, stacks
from colearn_jax.deploy import names as names_lib
from colearn_jax.deploy.stacks import Grid, Stack, Window
from colearn_jax.types import InputError

_READING = threading.RLock()  # HDF5 lets one thread at a time in


@dataclasses.dataclass(frozen=True)
class CubeScene:
  """A scene in one Zarr or NetCDF cube. It can be pickled; the file is opened when it is read.

  Attributes:
    path: of the cube.
    grid: its pixels.
    bands: that are read.
    order: their places among the bands of the cube.
    days: of the steps, ascending; None if unknown.
    steps: the places of these steps in the cube; None where there are no days.
    decoding: what the user says of the stored numbers.
  """

  path: str
  grid: Grid
  bands: tuple[str, ...]
  order: tuple[int, ...]
  days: tuple[int, ...] | None
  steps: tuple[int, ...] | None
  decoding: Decoding

  @property
  def files(self) -> tuple[str, ...]:
    """The file that is read."""
    return (self.path,)

  def read(self, window: Window) -> np.ndarray:
    """The values of a window, `[T h w C]` float32, NaN where nothing is known. InputError if it fails."""
    at = {
      "row": slice(window.row, window.row + window.height),
      "column": slice(window.column, window.column + window.width),
    }
    with _READING:
      cube = _opened(self.path, self.bands, self.decoding)
      values = stacks.caught(self.path, lambda: self.decoding.unpack(cube.take(at)))
    values = values[..., list(self.order)].astype(np.float32)
    values = values if "time" in cube.roles else values[None]
    values = values if self.steps is None else values[list(self.steps)]
    return np.where(np.isfinite(values), values, np.float32(np.nan))

  def check(self) -> None:
    """Reads the last pixel. InputError if it fails."""
    self.read(Window(self.grid.height - 1, self.grid.width - 1, 1, 1))


def open_scene(
  patterns: Sequence[str], wanted: Sequence[str], decoding: Decoding, said: Sequence[str] | None = None
) -> Stack | CubeScene:
  """Opens a scene.

  Args:
    patterns: files, or patterns of their names such as `S2_2023*.tif`.
    wanted: the bands to read.
    decoding: what the user says of the stored numbers.
    said: names of the bands of every file, which replace those in the files.

  Raises:
    InputError: there are no such files, they cannot be read, or they lack a band.
  """
  paths = []
  for pattern in patterns:
    found = sorted(glob.glob(str(Path(pattern).expanduser())))
    if not found:
      raise InputError(f"--input={pattern}: there is no such file")
    paths += [Path(path).absolute() for path in found]
  forget()
  kinds = {path.suffix.lower() for path in paths}
  if kinds <= {".tif", ".tiff"}:
    with no_warnings():
      return stacks.open_files(paths, wanted, decoding, said)
  if kinds <= {".json", ".geojson"} and not said:
    with no_warnings():
      return items.open_items(paths, wanted, decoding)
  if kinds <= {".zarr", ".nc"} and len(paths) == 1:
    with no_warnings():
      return _open_cube(paths[0], wanted, decoding, said)
  if said and kinds <= {".json", ".geojson"}:
    raise InputError("--bands is not allowed with STAC items, which name their bands")
  raise InputError(
    f"--input: {names_lib.some([path.name for path in paths])} are no scene; GeoTIFFs (.tif), STAC items "
    "(.json), or one cube (.zarr, .nc)"
  )


def forget() -> None:
  """Closes all files: one that has changed since is read anew."""
  with _READING:
    _opened.cache_clear()
  stacks.forget()


def _open_cube(
  path: Path, wanted: Sequence[str], decoding: Decoding, said: Sequence[str] | None
) -> CubeScene:
  cube = stacks.caught(str(path), lambda: _opened(str(path), tuple(wanted), decoding))
  if not {"row", "column"} <= set(cube.roles):
    raise InputError(f"{path} has no dimensions y and x; it is no scene")
  bands = tuple(said) if said else cube.bands
  width = cube.shape[-1]
  if bands is None:
    bands = tuple(f"b{k + 1}" for k in range(width))
  if len(bands) != width:
    raise InputError(f"{path} has {width} bands, and {len(bands)} are named: {', '.join(bands)}")
  names_lib.missing(list(bands), wanted, str(path))
  size = dict(zip(cube.roles, cube.shape))
  crs, transform = cube.place()
  grid = Grid(size["row"], size["column"], transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), crs)
  days = steps = None
  if cube.dates is not None:
    own = cube.dates()
    steps = tuple(map(int, np.argsort(own, kind="stable")))
    days = tuple(map(int, own[list(steps)]))
  order = tuple(bands.index(band) for band in wanted)
  return CubeScene(str(path), grid, tuple(wanted), order, days, steps, decoding)


@functools.lru_cache(maxsize=4)
def _opened(path: str, wanted: tuple[str, ...], decoding: Decoding) -> cubes.Cube:
  return cubes.open_cube(Path(path), decoding, wanted=wanted)
