"""Reads files of values: `.npy`, `.npz`, Zarr, NetCDF and GeoTIFF; their shapes first, their values later."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder import cubes, rasters
from colearn_jax.datasets.folder.cubes import DATES, VALUES, Cube
from colearn_jax.datasets.folder.decoding import Decoding, UnclearError

from colearn_jax import dates
from colearn_jax.types import InputError

HDF5 = threading.Lock()
SUFFIXES = (".npy", ".npz", ".zarr", ".nc", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Header:
  """What is known of a sample's values before they are read.

  Attributes:
    shape: of the values.
    dtype: of the values.
    dated: whether they have dates.
    bands: names of the bands, None if the file has none.
    located: whether the file says where it is.
    scaled: whether the file has a scale factor that is applied.
    nodata: what its files say is nodata, with None where one says nothing.
    units: of the bands, as the file has them; () if it has none.
    kinds: what the numbers of each of its files are stored as: `b` true and false, `i` whole, `f` decimals.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  dated: bool = False
  bands: tuple[str, ...] | None = None
  located: bool = False
  scaled: bool = False
  nodata: frozenset[float | None] = frozenset({None})
  units: tuple[str, ...] = ()
  kinds: tuple[str, ...] = ()


def read_header(files: Sequence[Path], decoding: Decoding) -> Header:
  """What the file of a sample holds, or its files, one for each date; no values are read.

  Raises:
    InputError: one cannot be read, holds no array of numbers, or differs from the others.
  """
  headers = [_caught(path, functools.partial(_header, path, decoding)) for path in files]
  for path, header in zip(files, headers):
    if header.dtype.kind == "c":
      raise InputError(f"{path} holds complex numbers; write their parts, or the amplitude, as bands")
    if header.dtype.kind not in "biuf":
      raise InputError(f"{path} holds {header.dtype}, not numbers")
  first = headers[0]
  dtype = decoding.dtype(np.result_type(*(header.dtype for header in headers)))
  if len(files) == 1 and dates_of(files) is None:
    return dataclasses.replace(first, shape=first.shape or (1,), dtype=dtype)
  for path, header in zip(files, headers):
    if (header.shape, header.bands, header.dated) != (first.shape, first.bands, False):
      raise InputError(f"{path} has other shape, bands or dates than {files[0].name}: {header.shape}")
  located = any(header.located for header in headers)
  if odd := next((path for path, header in zip(files, headers) if header.scaled != first.scaled), None):
    raise InputError(f"{odd} and {files[0].name} differ in whether they have a scale factor")
  if odd := next((path for path, header in zip(files, headers) if header.units != first.units), None):
    raise InputError(f"{odd} and {files[0].name} have bands of different units")
  nodata = frozenset().union(*(header.nodata for header in headers))
  shape = (len(files), *(first.shape or (1,)))
  kinds = tuple(itertools.chain(*(header.kinds for header in headers)))
  return Header(shape, dtype, True, first.bands, located, first.scaled, nodata, first.units, kinds)


def read(files: Sequence[Path], decoding: Decoding, *, dated: bool = True):
  """The values of a sample, their days `[T]` int32 or None, and the bounds of the ground in degrees.

  Args:
    files: of the sample.
    decoding: what the user says.
    dated: whether the days of the files are used.

  Raises:
    InputError: a file cannot be read, or its dates are none, or not one for each time step.
  """
  parts = [_caught(path, functools.partial(_read, path, decoding, dated)) for path in files]
  values, days, bounds = parts[0]
  if (steps := dates_of(files)) is not None:
    if len({part[0].shape for part in parts}) > 1:
      raise InputError(f"{files[0].parent}: its files have different shapes")
    values, days = np.stack([part[0] for part in parts]), np.array(steps, np.int32)
    if odd := next((p for p, part in zip(files, parts) if rasters.apart(part[2], bounds)), None):
      raise InputError(f"{odd} does not cover the ground of {files[0].name}")
  if days is not None:
    _check_number(files[0], days.size, values)
  return np.atleast_1d(values), days, bounds


def _check_number(path: Path, number: int, values: np.ndarray):
  if values.shape[:1] != (number,):
    raise InputError(f"{path} has {number} dates for values of shape {values.shape}")


def dates_of(files: Sequence[Path]) -> list[int] | None:
  """The dates of files of which each holds one date; None for a file of a whole sample."""
  return list(files.days) if isinstance(files, Steps) else None


class Steps(tuple):
  """The files of a sample of which each holds one date, and these dates: days since 1970-01-01."""

  days: tuple[int, ...]

  def __new__(cls, files: Sequence[Path], days: Sequence[int]):
    """A tuple of the files."""
    self = super().__new__(cls, files)
    self.days = tuple(days)
    return self


def open_stack(path: Path, decoding: Decoding, stamp: tuple) -> Cube:
  """The file of all samples of a view; it stays open for as long as its `stamp` is the same."""
  return _caught(path, lambda: _open_stack(path, decoding, stamp))


@functools.lru_cache(maxsize=16)
def _open_stack(path: Path, decoding: Decoding, stamp: tuple) -> Cube:
  if path.suffix.lower() == ".npy":
    array = np.lib.format.open_memmap(path, mode="r")
    take = lambda at=...: decoding.hide(np.array(array[at]), np.asarray(array[at]))
    return Cube(array.shape, array.dtype, take)
  return cubes.open_cube(path, decoding, stack=True)


def read_row(path: Path, row: int, decoding: Decoding, stamp: tuple) -> np.ndarray:
  """The values of one sample in a file of all of them."""
  return np.atleast_1d(decoding.unpack(_caught(path, lambda: _open_stack(path, decoding, stamp).take(row))))


def _caught(path: Path, read):
  try:
    try:
      return read()
    except SystemError:  # of Python 3.11, at times, when several threads parse NumPy's headers
      return read()
  except InputError:
    raise
  except UnclearError as error:
    raise InputError(f"{path} {error}") from error
  except Exception as error:  # of a damaged file, whatever the reader stumbles over
    line = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    raise InputError(f"cannot read {path}: {line}") from error


@contextlib.contextmanager
def _open(path: Path, decoding: Decoding):
  """A Zarr or NetCDF file of a sample; HDF5 lets one thread at a time in."""
  with HDF5 if path.suffix.lower() == ".nc" else contextlib.nullcontext():
    cube = cubes.open_cube(path, decoding)
    try:
      yield cube
    finally:
      cube.close()


def _header(path: Path, decoding: Decoding) -> Header:
  suffix = path.suffix.lower()
  if suffix == ".npy":
    array = np.lib.format.open_memmap(path, mode="r")
    return Header(array.shape, array.dtype, kinds=(cubes.kind(array.dtype),))
  if suffix == ".npz":
    return _npz_header(path)
  if suffix in (".zarr", ".nc"):
    with _open(path, decoding) as cube:
      dated = cube.dates is not None
      more = {"scaled": cube.scaled, "units": cube.units, "kinds": (cube.kind,)}
      return Header(_with_band(cube.shape, dated), cube.dtype, dated, cube.bands, **more)
  return Header(**rasters.header(path, decoding))


def _read(path: Path, decoding: Decoding, dated: bool):
  suffix, days, bounds, has_dates = path.suffix.lower(), None, rasters.NOWHERE, False
  if suffix == ".npy":  # not mapped to memory, which would hold the file open for as long as it is used
    values = np.load(path, allow_pickle=False)
    values = decoding.hide(values, values)
  elif suffix == ".npz":
    with np.load(path, allow_pickle=False) as arrays:
      name = _npz_values(path, arrays.files)
      values = decoding.hide(arrays[name], arrays[name])
      has_dates = len(arrays.files) == 2
      if has_dates and dated:
        _check_number(path, np.size(arrays[DATES]), values)
        days = dates.to_days(arrays[DATES], str(path))
  elif suffix in (".zarr", ".nc"):
    with _open(path, decoding) as cube:
      has_dates = cube.dates is not None
      values, days = cube.take(), cube.dates() if cube.dates and dated else None
  else:
    values, bounds = rasters.read(path, decoding)
  return decoding.unpack(values.reshape(_with_band(values.shape, has_dates))), days, bounds


def _npz_values(path: Path, names: Sequence[str]) -> str:
  if len(names) != 1 and set(names) != {VALUES, DATES}:
    have = ", ".join(names) or "none"
    raise InputError(f"{path} has to hold one array, or {VALUES} and {DATES}; it has: {have}")
  return VALUES if VALUES in names else names[0]


def _npz_header(path: Path) -> Header:
  with np.load(path, allow_pickle=False) as arrays, zipfile.ZipFile(path) as archive:
    names = arrays.files
    with archive.open(f"{_npz_values(path, names)}.npy") as file:
      old = np.lib.format.read_magic(file) == (1, 0)
      read_array_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
      shape, _, dtype = read_array_header(file)
    dated = len(names) == 2
    return Header(_with_band(shape, dated), dtype, dated, kinds=(cubes.kind(dtype),))


def _with_band(shape: tuple[int, ...], dated: bool) -> tuple[int, ...]:
  """A shape with an axis of bands: values with a date each are a series of one band."""
  return (*shape, 1) if dated and len(shape) == 1 else shape
