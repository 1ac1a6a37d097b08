"""Reads Zarr and NetCDF: fill values, scale factors, dates and dimensions by the CF conventions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder import axes, packing
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.datasets.folder.optional import module

from colearn_jax import dates as dates_lib
from colearn_jax.types import InputError

UNNAMED = ("values", "__xarray_dataarray_variable__")  # a variable whose name says nothing of its band
VALUES, DATES, IDS = "values", "dates", ("id", "ids")  # names of arrays in Zarr groups, NetCDF and .npz files


@dataclasses.dataclass(frozen=True)
class Cube:
  """An opened array.

  Attributes:
    shape: of the decoded values, of one sample or (in a stack) of all.
    dtype: of the decoded values.
    take: the decoded values of all (`...`), of one row, of a slice of rows, or of slices by role of the axis,
      `{"row": slice(0, 9)}`, see `axes.ROLES`.
    roles: of the axes of a sample, `time`, `row`, `column` and `band`; () where the dimensions have no names.
    place: WKT of the projection, empty if unknown, and the affine transform of the pixels as rasterio has
      it, None where there are no regular coordinates; read when it is called.
    others: names of the arrays of a stack with one value for each row.
    other: the values of one of them, `[N]`.
    bands: their names, if the file has them.
    dates: the days of the steps, `[T]`, read when it is called; None where there are none.
    ids: of the rows of a stack, read when it is called; None where there are none.
    scaled: whether there is a scale factor that is applied.
    units: of the variables, as the file has them; () if it has none.
    kind: what its numbers are stored as, see `kind`.
    close: releases the file.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  take: Callable
  bands: tuple[str, ...] | None = None
  dates: Callable | None = None
  ids: Callable | None = None
  scaled: bool = False
  units: tuple[str, ...] = ()
  kind: str = ""
  close: Callable = lambda: None
  roles: tuple[str, ...] = ()
  place: Callable = lambda: ("", None)
  others: tuple[str, ...] = ()
  other: Callable = lambda name: None


def kind(*stored: np.dtype) -> str:
  """What numbers of these types are: `b` true and false, `i` whole, `f` decimals; of both `fi`."""
  return "".join(sorted({"i" if dtype.kind == "u" else dtype.kind for dtype in stored}))


def open_cube(path: Path, decoding: Decoding, *, stack: bool = False, wanted: Sequence[str] = ()) -> Cube:
  """Opens a `.zarr` directory or a `.nc` file; only what is taken gets read.

  Args:
    path: of it.
    decoding: what the user says; a scale or an offset there replaces those of the file.
    stack: whether the first axis is that of the samples.
    wanted: names of variables; those that the file has are its bands, and others are not looked at.
  """
  if path.suffix.lower() == ".nc":
    return _labelled(path, _open_netcdf(path), stack, decoding, wanted)
  zarr = module("zarr", "zarr")
  if not path.is_dir():
    raise InputError(f"{path} is a file; a Zarr store is a directory")
  node = zarr.open(str(path), mode="r")
  if isinstance(node, zarr.Group):
    arrays = {name: array for name, array in node.arrays()}
    if any(_dimensions(array) for array in arrays.values()):
      return _labelled(path, _open_labelled(path, arrays), stack, decoding, wanted)
    if VALUES not in arrays:
      have = ", ".join(sorted(node.keys())) or "none"
      groups = "; arrays in groups within it are not read" if any(node.groups()) else ""
      raise InputError(f"{path} has to be an array, or hold {VALUES}; it has: {have}{groups}")
    return _plain(path, arrays[VALUES], arrays, decoding)
  return _plain(path, node, {}, decoding)


def _open_netcdf(path: Path):
  xarray = module("xarray", "zarr")
  with open(path, "rb") as file:
    classic = file.read(3) == b"CDF"
  engine = "scipy" if classic else "h5netcdf"
  if not classic:
    module("h5netcdf", "zarr")
  opened = xarray.open_dataset(path, engine=engine, mask_and_scale=False, decode_times=False, cache=False)
  packing.fill_unwritten(path, opened, classic)
  return opened


def _dimensions(array) -> Sequence[str] | None:
  """The names of an array's dimensions, which xarray and GDAL write."""
  return getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")


def _fill(array):
  """The value of chunks that were never written, where it cannot be an ordinary value."""
  fill = array.fill_value
  return None if fill is None or array.dtype.kind not in "iuf" or fill == 0 or fill != fill else fill


def _plain(path: Path, array, others, decoding: Decoding) -> Cube:
  """An array of Zarr without names of its dimensions."""
  facts = packing.standard(dict(array.attrs), np.dtype(array.dtype), path)
  if "_FillValue" not in facts and (fill := _fill(array)) is not None:
    facts["_FillValue"] = fill
  decode, dtype = packing.decoder(facts, np.dtype(array.dtype), path, decoding)
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
    scaled=not decoding.scaled and facts.get("scale_factor", 1) != 1,
    kind=kind(np.dtype(array.dtype)),
    dates=days,
    ids=None if ids is None else lambda: [str(name) for name in _texts(ids[...]).tolist()],
    others=tuple(name for name, other in others.items() if other.shape == array.shape[:1]),
    other=lambda name: _texts(others[name][...]),
  )


def _texts(values: np.ndarray) -> np.ndarray:
  """Texts of variable length, as Zarr 3 has them, and bytes, as objects."""
  values = np.asarray(values)
  if values.dtype.kind not in "STUO":
    return values
  plain = [value.decode() if isinstance(value, bytes) else value for value in values.reshape(-1).tolist()]
  return np.array(plain, object).reshape(values.shape)


def _open_labelled(path: Path, arrays):
  xarray = module("xarray", "zarr")
  opened = xarray.open_dataset(path, engine="zarr", mask_and_scale=False, decode_times=False)
  for name, array in arrays.items():  # chunks that were never written hold the fill value of Zarr
    if name in opened.data_vars and "_FillValue" not in opened[name].attrs and (fill := _fill(array)):
      opened[name].attrs["_FillValue"] = fill
  return opened


def _labelled(path: Path, opened, stack: bool, decoding: Decoding, wanted: Sequence[str] = ()) -> Cube:
  """A data set whose dimensions have names, its axes in the order of a stored sample's."""
  xarray = module("xarray", "zarr")
  names = _values(path, opened, wanted)
  facts = {name: packing.standard(opened[name].attrs, opened[name].dtype, path) for name in names}
  coders = [packing.decoder(own, opened[name].dtype, path, decoding) for name, own in facts.items()]
  decoded = xarray.decode_cf(opened.drop_vars(names), decode_times=False)  # the coordinates
  dims = opened[names[0]].dims
  sample = axes.sample_axis(path, dims, opened.variables) if stack else None
  role = axes.roles(path, [dim for dim in dims if dim != sample], opened.variables)
  known = any(role.values())
  inner = sorted(role, key=lambda dim: list(axes.ROLES).index(role[dim])) if known else list(role)
  band = next((dim for dim in inner if role[dim] == "band"), None)
  if len(names) > 1 and band is not None:
    raise InputError(f"{path} has several variables with a dimension {band}; name one of them {VALUES}")
  order = [*([sample] if stack else []), *inner]
  widen = len(names) > 1 or band is None and (known or names[0] in wanted)
  shape = tuple(opened.sizes[dim] for dim in order) + ((len(names),) if widen else ())
  turn = {dim: slice(None, None, -1) for dim in inner if axes.backwards(dim, role[dim], opened.variables)}

  def take(at=...):
    picked = {dim: at[role[dim]] for dim in inner if role[dim] in at} if isinstance(at, dict) else {}
    row = {} if at is ... or isinstance(at, dict) else {sample: at}
    parts = [opened[name].isel({**row, **turn}).isel(picked) for name in names]
    left = order[1:] if row and not isinstance(at, slice) else order
    stored = [part.transpose(*left).to_numpy() for part in parts]
    values = [decode(x) for (decode, _), x in zip(coders, stored)]
    join = lambda arrays: np.stack(arrays, axis=-1) if widen else arrays[0]
    return decoding.hide(join(values), join(stored))

  bands = tuple(map(str, names)) if len(names) > 1 or widen and names[0] not in UNNAMED else None
  if band is not None and band in decoded.coords:
    bands = _labels(decoded[band].to_numpy())
  units = tuple(str(opened[name].attrs.get("units", "")) for name in names)
  ids = next((name for name in (*IDS, sample) if name in decoded.variables), None) if stack else None
  return Cube(
    shape=shape,
    dtype=np.result_type(*(dtype for _, dtype in coders)),
    take=take,
    bands=bands,
    scaled=not decoding.scaled and any(own.get("scale_factor", 1) != 1 for own in facts.values()),
    units=units if any(units) else (),
    kind=kind(*(opened[name].dtype for name in names)),
    close=opened.close,
    roles=tuple(role[dim] for dim in inner) + (("band",) if widen and band is None else ()) if known else (),
    others=tuple(name for name, own in decoded.variables.items() if stack and own.dims == (sample,)),
    other=lambda name: _beside(path, decoded[name]),
    place=lambda: _place(opened.isel(turn), names, {role[dim]: dim for dim in inner}),
    dates=_steps(path, decoded, next((dim for dim in inner if role[dim] == "time"), None)),
    ids=None if ids is None else lambda: [str(v) for v in _texts(decoded[ids].to_numpy()).tolist()],
  )


def _beside(path: Path, array) -> np.ndarray:
  """What stands beside the values of each sample; times as days, NaT where there is none."""
  values, units = _texts(array.to_numpy()), str({**array.encoding, **array.attrs}.get("units", ""))
  if values.dtype.kind not in "iuf" or " since " not in units:
    return values
  known = np.isfinite(values) if values.dtype.kind == "f" else values != np.iinfo(values.dtype).min
  days = np.full(values.shape, np.datetime64("NaT", "D"))
  calendar = {**array.encoding, **array.attrs}.get("calendar")
  days[known] = dates_lib.to_days(values[known], str(path), units, calendar).astype("datetime64[D]")
  return days


def _labels(labels: np.ndarray) -> tuple[str, ...] | None:
  """The names of bands from their coordinate, None where it only counts them."""
  labels = _texts(labels)
  if labels.dtype.kind in "iuf":
    if any(np.array_equal(labels, np.arange(first, first + len(labels))) for first in (0, 1)):
      return None
    return tuple(f"{label:g}" for label in labels.tolist())
  return tuple(map(str, labels.tolist())) if labels.dtype.kind in "UTOS" else None


def _place(opened, names: Sequence[str], dims: dict) -> tuple[str, tuple[float, ...] | None]:
  """See `Cube.place`."""
  module("rioxarray", "map")
  row, column = dims.get("row"), dims.get("column")
  if row not in opened.variables or column not in opened.variables:
    return "", None
  for dim in (row, column):
    steps = np.diff(opened[dim].to_numpy().astype(np.float64))
    if not len(steps) or not np.allclose(steps, steps[0], rtol=1e-3):
      return "", None
  others = [name for name in opened.data_vars if name not in names]  # one of them has the projection
  placed = opened.set_coords(others)[names[0]].rio.set_spatial_dims(x_dim=column, y_dim=row)
  crs = placed.rio.crs
  return crs.to_wkt() if crs else "", tuple(placed.rio.transform(recalc=True))[:6]


def _values(path: Path, opened, wanted: Sequence[str] = ()) -> list[str]:
  """The names of the variables that are values: of one grid, without bounds and places.

  Raises:
    InputError: there are none, or they are of several grids.
  """
  if named := [name for name in wanted if name in opened.data_vars]:
    if len({opened[name].dims for name in named}) > 1:
      have = ", ".join(f"{name} {opened[name].dims}" for name in named)
      raise InputError(f"{path}: its variables have to have the same dimensions; they have: {have}")
    return named
  numeric = [name for name, array in opened.data_vars.items() if array.ndim and array.dtype.kind in "biuf"]
  if VALUES in numeric:
    return [VALUES]
  bounds = {array.attrs.get(key) for array in opened.variables.values() for key in ("bounds", "climatology")}
  names = [name for name in numeric if name not in {DATES, *IDS, *bounds}]
  names = [name for name in names if not axes.is_place(name, opened[name].attrs)] or names
  if not names or len({opened[name].dims for name in names}) > 1:
    have = ", ".join(f"{name} {opened[name].dims}" for name in names)
    have = have or "no numbers; arrays in groups within it are not read"
    raise InputError(f"{path} has to hold {VALUES}, or variables of the same dimensions; it has: {have}")
  return names


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
  if stored.dtype.kind == "i":
    nat = stored == np.iinfo(stored.dtype).min  # as xarray writes it
    stored = np.where(nat, np.nan, stored) if nat.any() else stored
  return lambda: dates_lib.to_days(stored, str(path), units, calendar)
