"""Stored numbers of Zarr and NetCDF as values: fill values, scale factors and valid ranges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.datasets.folder.optional import module

from colearn_jax.types import InputError

CF = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "dtype")
LIMITS = ("valid_range", "valid_min", "valid_max")
UNWRITTEN = {  # what netCDF's library puts where nothing was written; of bytes all values are ordinary
  "i2": -32767,
  "u2": 65535,
  "i4": -2147483647,
  "u4": 4294967295,
  "i8": -9223372036854775806,
  "u8": 18446744073709551614,
  "f4": 9.969209968386869e36,
  "f8": 9.969209968386869e36,
}


def decoder(facts: Mapping, dtype: np.dtype, path: Path, decoding: Decoding):
  """What makes values of stored numbers, by xarray's rules and the valid range; and their dtype."""
  unused = ("scale_factor", "add_offset") if decoding.scaled else ()
  attributes = {key: facts[key] for key in CF if key in facts and key not in unused}
  limits = _limits(facts, dtype, decoding)
  if not attributes and limits is None or dtype.kind not in "iuf":
    return (lambda stored: stored), dtype
  xarray = module("xarray", "zarr")

  def decode(stored):
    dims = tuple(f"d{i}" for i in range(np.ndim(stored)))
    coded = xarray.Variable(dims, stored, attributes)
    return _within(xarray.conventions.decode_cf_variable("values", coded).to_numpy(), stored, limits)

  return decode, decode(np.zeros(1, dtype)).dtype


def standard(facts: dict, dtype: np.dtype, path: Path) -> dict:
  """Attributes of an array, with those of Open Data Cube and of older programs in the words of CF.

  Raises:
    InputError: a number is written as text.
  """
  if dtype.kind not in "iuf":
    return facts
  facts, every = dict(facts), lambda key: set(np.ravel(facts.get(key, ())).tolist())
  one = lambda key: next(iter(every(key))) if len(every(key)) == 1 else None
  for key in ("scale_factor", "add_offset", "_FillValue", "missing_value"):
    if key in facts and any(isinstance(v, str) for v in np.ravel(facts[key]).tolist()):
      raise InputError(f"{path}: its {key} {facts[key]!r} is text, no number")
    if key in facts and np.size(facts[key]) == 1:  # a list of one number
      facts[key] = np.ravel(facts[key])[0]
  nodata = one("nodata") if "nodata" in facts else one("nodatavals")
  if not {"_FillValue", "missing_value"} & set(facts) and isinstance(nodata, int | float):
    if dtype.kind == "f" or np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max:
      facts["_FillValue"] = dtype.type(nodata)
  for own, key, plain in (("scale_factor", "scales", 1), ("add_offset", "offsets", 0)):
    if own not in facts and one(key) not in (None, plain):
      facts[own] = one(key)
  return facts


def _limits(facts: Mapping, dtype: np.dtype, decoding: Decoding) -> tuple[float, float, bool] | None:
  """The least and greatest valid number, and whether they are meant after scaling; None if all are valid."""
  if not set(LIMITS) & set(facts) or dtype.kind not in "iuf" or "_Unsigned" in facts:
    return None
  ends = dict(zip(LIMITS[1:], np.ravel(facts.get("valid_range", ())).tolist()))
  ends |= {key: np.ravel(facts[key]).tolist()[0] for key in LIMITS[1:] if key in facts}
  # Limits of whole numbers that are packed are whole numbers, those of the values have decimals.
  scaled = dtype.kind in "iu" and any(isinstance(end, float) for end in ends.values())
  low, high = (float(ends.get(key, end)) for key, end in zip(LIMITS[1:], (-np.inf, np.inf)))
  return None if scaled and decoding.scaled else (low, high, scaled)


def _within(values: np.ndarray, stored: np.ndarray, limits) -> np.ndarray:
  """The values, NaN where they are outside of the valid range."""
  if limits is None:
    return values
  low, high, scaled = limits
  known = values if scaled else stored
  return np.where((known < low) | (known > high), np.nan, values.astype(np.result_type(values, np.float32)))


def fill_unwritten(path: Path, opened, classic: bool) -> None:
  """Names the fill value of variables of NetCDF whose file has that of the library and does not name it.

  Args:
    path: of the file.
    opened: the data set, which is changed.
    classic: whether it is no HDF5.
  """
  unnamed = {
    name: UNWRITTEN[array.dtype.str[1:]]
    for name, array in opened.data_vars.items()
    if array.dtype.str[1:] in UNWRITTEN and not {"_FillValue", "missing_value"} & set(array.attrs)
  }
  if unnamed and not classic:
    with module("h5py", "zarr").File(path, "r") as file:
      same = lambda name, fill: file[name].fillvalue == np.dtype(file[name].dtype).type(fill)
      unnamed = {name: fill for name, fill in unnamed.items() if name in file and same(name, fill)}
  for name, fill in unnamed.items():
    opened[name].attrs["_FillValue"] = opened[name].dtype.type(fill)
