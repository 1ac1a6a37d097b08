"""Reads files of values: `.npy`, `.npz`, Zarr and GeoTIFF, at first no more of them than their shapes."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
import zipfile
from pathlib import Path

import numpy as np

from colearn_jax.types import InputError

SUFFIXES = (".npy", ".npz", ".zarr", ".tif", ".tiff")
VALUES, DATES = "values", "dates"  # names in .npz files and Zarr groups


@dataclasses.dataclass(frozen=True)
class Header:
  """What a file holds: its values' shape and dtype, whether dates stand beside them, the bands it names."""

  shape: tuple[int, ...]
  dtype: np.dtype
  dated: bool = False
  bands: tuple[str, ...] | None = None


def read_header(path: Path) -> Header:
  """What a file holds, without its values.

  Raises:
    InputError: it cannot be read, or holds no array of numbers.
  """
  header, _, _ = _reading(path, whole=False)
  if header.dtype.kind not in "biuf":
    raise InputError(f"{path} holds {header.dtype}, not numbers")
  return dataclasses.replace(header, shape=header.shape or (1,))


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  """The values of a file, and their dates `[T]`, int32 days since 1970-01-01, if it has any.

  Raises:
    InputError: it cannot be read, or its dates are none, or not one for each time step.
  """
  header, values, dates = _reading(path, whole=True)
  if header.dated:
    dates = to_days(dates, str(path))
    if dates.shape != values.shape[:1]:
      raise InputError(f"{path} has {dates.size} dates for values of shape {values.shape}")
  return np.atleast_1d(values), dates


def read_row(path: Path, row: int) -> np.ndarray:
  """The values of one sample in a `.npy` or Zarr file of all of them."""
  take = (
    (lambda: open_zarr(path)[0][row]) if path.suffix == ".zarr" else (lambda: np.array(open_npy(path)[row]))
  )
  return np.atleast_1d(_caught(path, take))


def to_days(dates, where: str) -> np.ndarray:
  """Dates as days since 1970-01-01: of NumPy's type, text as 2024-05-31, or such days already."""
  dates = np.asarray(dates)
  try:
    if dates.dtype.kind in "UST":
      dates = dates.astype(str).astype("datetime64[D]")
    if dates.dtype.kind == "M" and not np.isnat(dates).any():
      return dates.astype("datetime64[D]").astype(np.int32)
    if dates.dtype.kind in "iu" and (np.abs(dates.astype(np.float64)) < 2**31).all():
      return dates.astype(np.int32)
  except ValueError:
    pass
  raise InputError(f"{where}: its dates are no days such as 2024-05-31")


def require(suffixes) -> None:
  """Raises InputError if files with these suffixes cannot be read for want of a library."""
  if ".zarr" in suffixes:
    _module("zarr", "zarr")
  if {".tif", ".tiff"} & set(suffixes):
    _module("rasterio", "raster")


def _reading(path: Path, *, whole: bool):
  """A file's header, and if all of it is wanted its values and dates."""
  reader = {".npy": _npy, ".npz": _npz, ".zarr": _zarr}.get(path.suffix, _geotiff)
  return _caught(path, lambda: reader(path, whole))


def _caught(path: Path, read):
  try:
    return read()
  except InputError:
    raise
  except Exception as error:  # of a damaged file, whatever the reader stumbles over
    line = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    raise InputError(f"cannot read {path}: {line}") from error


def _module(name: str, extra: str):
  """A library that not everybody needs."""
  try:
    return importlib.import_module(name)
  except ImportError:
    raise InputError(f"{extra} files are read with {name}: pip install 'colearn_jax[{extra}]'") from None


def open_npy(path: Path) -> np.ndarray:
  """A `.npy` file, of which only what is used gets read."""
  return np.lib.format.open_memmap(path, mode="r")


def _npy(path: Path, whole: bool):
  # Not mapped to memory if the values are wanted: that would hold the file open for as long as they are used.
  values = np.load(path, allow_pickle=False) if whole else open_npy(path)
  return Header(values.shape, values.dtype), values, None


def _npz(path: Path, whole: bool):
  with np.load(path, allow_pickle=False) as arrays, zipfile.ZipFile(path) as archive:
    names = arrays.files
    if len(names) != 1 and set(names) != {VALUES, DATES}:
      have = ", ".join(names) or "none"
      raise InputError(f"{path} has to hold one array, or {VALUES} and {DATES}; it has: {have}")
    name, dated = VALUES if VALUES in names else names[0], len(names) == 2
    if whole:
      values = arrays[name]
      return Header(values.shape, values.dtype, dated), values, arrays[DATES] if dated else None
    with archive.open(f"{name}.npy") as file:
      version = np.lib.format.read_magic(file)
      old = version == (1, 0)
      read_array_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
      shape, _, dtype = read_array_header(file)
    return Header(shape, dtype, dated), None, None


def open_zarr(path: Path):
  """The values in a Zarr array or group, and their dates if there are any; only what is used gets read."""
  zarr = _module("zarr", "zarr")
  node, dates = zarr.open(str(path), mode="r"), None
  if isinstance(node, zarr.Group):
    names = sorted(node.keys())
    if VALUES not in names:
      raise InputError(f"{path} has to be an array, or hold {VALUES}; it has: {', '.join(names) or 'none'}")
    dates = node[DATES] if DATES in names else None
    node = node[VALUES]
  return node, dates


def _zarr(path: Path, whole: bool):
  node, dates = open_zarr(path)
  header = Header(tuple(node.shape), np.dtype(node.dtype), dates is not None)
  return header, node[...] if whole else None, dates[...] if whole and dates is not None else dates


def _geotiff(path: Path, whole: bool):
  rasterio = _module("rasterio", "raster")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    with rasterio.open(path, driver="GTiff") as image:
      shape, dtype = (image.height, image.width, image.count), np.result_type(*image.dtypes)
      missing = image.nodata is not None and not np.isnan(image.nodata)
      if missing:  # what is nowhere in the image has to be told from what is
        dtype = np.result_type(dtype, np.float32)
      bands = tuple(image.descriptions) if all(image.descriptions) else None
      header = Header(shape, dtype, bands=bands)
      if not whole:
        return header, None, None
      pixels = image.read()
      if missing:
        pixels = np.where(pixels == image.nodata, np.nan, pixels.astype(dtype))
      return header, np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), None
