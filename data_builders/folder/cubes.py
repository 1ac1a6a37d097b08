"""Reads Zarr and NetCDF: fill values, scale factors, dates and dimensions by the CF conventions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder import dates as dates_lib
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.datasets.folder.optional import module

from colearn_jax.types import InputError

VALUES, DATES, IDS = "values", "dates", ("id", "ids")  # names of arrays in Zarr groups, NetCDF and .npz files
CF = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
SAMPLES = ("id", "ids", "sample", "samples", "index")
ROLES = {  # of dimensions, by their names; the order here is the order of a stored sample's axes
  "time": ("time", "t", "date", "dates", "step", "month"),
  "row": ("y", "lat", "latitude", "row", "rows", "height", "northing"),
  "column": ("x", "lon", "longitude", "col", "cols", "column", "width", "easting"),
  "band": ("band", "bands", "channel", "channels", "c", "feature", "features", "variable", "spectral"),
}


@dataclasses.dataclass(frozen=True)
class Cube:
  """An opened array.

  Attributes:
    shape: of the decoded values, of one sample or (in a stack) of all.
    dtype: of the decoded values.
    take: the decoded values of all (`...`) or of one row.
    bands: their names, if the file has them.
    dates: the days of the steps, `[T]`, read when it is called; None where there are none.
    ids: of the rows of a stack, read when it is called; None where there are none.
    scaled: whether there is a scale factor that is applied.
    close: releases the file.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  take: Callable
  bands: tuple[str, ...] | None = None
  dates: Callable | None = None
  ids: Callable | None = None
  scaled: bool = False
  close: Callable = lambda: None


def open_cube(path: Path, decoding: Decoding, *, stack: bool = False) -> Cube:
  """Opens a `.zarr` directory or a `.nc` file; only what is taken gets read.

  Args:
    path: of it.
    decoding: what the user says; a scale or an offset there replaces those of the file.
    stack: whether the first axis is that of the samples.
  """
  if path.suffix.lower() == ".nc":
    return _labelled(path, _open_netcdf(path), stack, decoding)
  zarr = module("zarr", "zarr")
  node = zarr.open(str(path), mode="r")
  if isinstance(node, zarr.Group):
    arrays = {name: array for name, array in node.arrays()}
    if any(_dimensions(array) for array in arrays.values()):
      return _labelled(path, _open_labelled(path, arrays), stack, decoding)
    if VALUES not in arrays:
      have = ", ".join(sorted(node.keys())) or "none"
      raise InputError(f"{path} has to be an array, or hold {VALUES}; it has: {have}")
    return _plain(path, arrays[VALUES], arrays, decoding)
  return _plain(path, node, {}, decoding)


def _open_netcdf(path: Path):
  xarray = module("xarray", "zarr")
  with open(path, "rb") as file:
    classic = file.read(3) == b"CDF"
  engine = "scipy" if classic else "h5netcdf"
  if not classic:
    module("h5netcdf", "zarr")
  return xarray.open_dataset(path, engine=engine, mask_and_scale=False, decode_times=False, cache=False)


def _dimensions(array) -> Sequence[str] | None:
  """The names of an array's dimensions, which xarray and GDAL write."""
  return getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")


def _fill(array):
  """The value of chunks that were never written, where it cannot be an ordinary value."""
  fill = array.fill_value
  return None if fill is None or array.dtype.kind not in "iuf" or fill == 0 or fill != fill else fill


def _plain(path: Path, array, others, decoding: Decoding) -> Cube:
  """An array of Zarr without names of its dimensions."""
  attributes = {key: array.attrs[key] for key in CF if key in array.attrs}
  if "_FillValue" not in attributes and (fill := _fill(array)) is not None:
    attributes["_FillValue"] = fill
  decode, dtype = _decoder(attributes, np.dtype(array.dtype), path, decoding)
  stored = others.get(DATES)
  days = None
  if stored is not None:
    units, calendar = stored.attrs.get("units"), stored.attrs.get("calendar")
    days = lambda: dates_lib.to_days(_texts(stored[...]), str(path), units, calendar)
  ids = next((others[name] for name in IDS if name in others), None)

  def take(at=...):
    values = np.asarray(array[at])
    return decoding.hide(decode(values), values)

  return Cube(
    shape=tuple(array.shape),
    dtype=dtype,
    take=take,
    scaled=not decoding.scaled and attributes.get("scale_factor", 1) != 1,
    dates=days,
    ids=None if ids is None else lambda: [str(name) for name in _texts(ids[...]).tolist()],
  )


def _texts(values: np.ndarray) -> np.ndarray:
  """Texts of variable length, as Zarr 3 has them, and bytes, as objects."""
  values = np.asarray(values)
  if values.dtype.kind not in "STUO":
    return values
  plain = [value.decode() if isinstance(value, bytes) else value for value in values.reshape(-1).tolist()]
  return np.array(plain, object).reshape(values.shape)


def _decoder(attributes: dict, dtype: np.dtype, path: Path, decoding: Decoding):
  """What makes values of stored numbers, and the dtype of its result, by xarray's rules."""
  if decoding.scaled:
    attributes = {key: attributes[key] for key in attributes if key not in ("scale_factor", "add_offset")}
  if not attributes or dtype.kind not in "iuf":
    return (lambda stored: stored), dtype
  xarray = module("xarray", "zarr")
  if "_FillValue" in attributes and isinstance(attributes["_FillValue"], str):
    raise InputError(f"{path}: its _FillValue {attributes['_FillValue']!r} is no number")

  def decode(stored):
    dims = tuple(f"d{i}" for i in range(np.ndim(stored)))
    return xarray.conventions.decode_cf_variable(VALUES, xarray.Variable(dims, stored, attributes)).to_numpy()

  return decode, decode(np.zeros(1, dtype)).dtype


def _open_labelled(path: Path, arrays):
  xarray = module("xarray", "zarr")
  opened = xarray.open_dataset(path, engine="zarr", mask_and_scale=False, decode_times=False)
  for name, array in arrays.items():  # chunks that were never written hold the fill value of Zarr
    if name in opened.data_vars and "_FillValue" not in opened[name].attrs and (fill := _fill(array)):
      opened[name].attrs["_FillValue"] = fill
  return opened


def _labelled(path: Path, opened, stack: bool, decoding: Decoding) -> Cube:
  """A data set whose dimensions have names, its axes in the order of a stored sample's."""
  xarray = module("xarray", "zarr")
  numeric = [name for name, array in opened.data_vars.items() if array.ndim and array.dtype.kind in "biuf"]
  others = {DATES, *IDS, *(array.attrs.get("bounds") for array in opened.variables.values())}
  names = [VALUES] if VALUES in numeric else [name for name in numeric if name not in others]
  if not names or len({opened[name].dims for name in names}) > 1:
    have = ", ".join(f"{name} {opened[name].dims}" for name in names) or "no numbers"
    raise InputError(f"{path} has to hold {VALUES}, or variables of the same dimensions; it has: {have}")
  if decoding.scaled:
    for name in names:
      for key in ("scale_factor", "add_offset"):
        opened[name].attrs.pop(key, None)
  decoded = xarray.decode_cf(opened, decode_times=False)
  dims = decoded[names[0]].dims
  sample = next((dim for dim in dims if str(dim).lower() in SAMPLES), dims[0]) if stack else None
  inner = [dim for dim in dims if dim != sample]
  role = {dim: next((r for r, known in ROLES.items() if str(dim).lower() in known), None) for dim in inner}
  clear = all(role.values()) and len(set(role.values())) == len(role)
  if clear:
    inner.sort(key=lambda dim: list(ROLES).index(role[dim]))
  band = next((dim for dim in inner if role[dim] == "band"), None)
  if len(names) > 1 and band is not None:
    raise InputError(f"{path} has several variables with a dimension {band}; name one of them {VALUES}")
  order = [*([sample] if stack else []), *inner]
  widen = len(names) > 1 or clear and band is None
  shape = tuple(decoded.sizes[dim] for dim in order) + ((len(names),) if widen else ())

  def take(at=...):
    def of(data):
      part = data if at is ... else data.isel({sample: at})
      arrays = [part[name].transpose(*(order if at is ... else order[1:])).to_numpy() for name in names]
      return np.stack(arrays, axis=-1) if widen else arrays[0]

    return of(decoded) if decoding.nodata is None else decoding.hide(of(decoded), of(opened))

  bands = tuple(map(str, names)) if len(names) > 1 else None
  if band is not None and band in decoded.coords and decoded[band].dtype.kind in "UTO":
    bands = tuple(map(str, _texts(decoded[band].to_numpy()).tolist()))
  ids = next((name for name in (*IDS, sample) if name in decoded.variables), None) if stack else None
  return Cube(
    shape=shape,
    dtype=np.result_type(*(decoded[name].dtype for name in names)),
    take=take,
    bands=bands,
    scaled=any(opened[name].attrs.get("scale_factor", 1) != 1 for name in names),
    close=opened.close,
    dates=_steps(path, decoded, next((dim for dim in inner if role[dim] == "time"), None)),
    ids=None if ids is None else lambda: [str(v) for v in _texts(decoded[ids].to_numpy()).tolist()],
  )


def _steps(path: Path, decoded, time) -> Callable | None:
  """How the days of a data set are read, None if it has none: its time axis may only be numbered."""
  name = DATES if DATES in decoded.variables else time
  if name is None or name not in decoded.variables:
    return None
  array = decoded[name]
  # xarray keeps the units of a coordinate in its encoding once it was decoded
  units, calendar = ({**array.encoding, **array.attrs}.get(key) for key in ("units", "calendar"))
  stored = _texts(array.to_numpy())
  if stored.dtype.kind in "iu" and not units and stored[:1] in (0, 1):
    if np.array_equal(stored - stored[0], range(len(stored))):
      return None
  return lambda: dates_lib.to_days(stored, str(path), units, calendar)
