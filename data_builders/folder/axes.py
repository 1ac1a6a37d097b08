"""What the dimensions of Zarr and NetCDF files mean: by the attributes of the CF conventions, and by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from colearn_jax.types import InputError

SAMPLES = ("id", "ids", "sample", "samples", "index")
ROLES = {  # of dimensions, by their names; the order here is the order of a stored sample's axes
  "time": ("time", "t", "date", "dates", "datetime", "timestamp", "step", "month", "year")
  + ("valid_time", "time_counter", "dayofyear", "doy"),
  "row": ("y", "lat", "latitude", "row", "rows", "height", "northing", "rlat", "yc", "ydim"),
  "column": ("x", "lon", "longitude", "col", "cols", "column", "width", "easting", "rlon", "xc", "xdim"),
  "band": ("band", "bands", "channel", "channels", "c", "feature", "features", "variable", "spectral"),
}
PIXELS = ("x", "y", "row", "rows", "col", "cols", "column")  # these may be counted
AXES = {"T": "time", "Y": "row", "X": "column"}
STANDARD = {
  "time": "time",
  **dict.fromkeys(("latitude", "grid_latitude", "projection_y_coordinate"), "row"),
  **dict.fromkeys(("longitude", "grid_longitude", "projection_x_coordinate"), "column"),
}


def roles(path: Path, dims: Sequence[str], variables: Mapping) -> dict[str, str | None]:
  """What each dimension of a sample is: `time`, `row`, `column` or `band`; all None where no one is known.

  Args:
    path: of the file, for messages.
    dims: of the values.
    variables: of the file by name, with their attributes.

  Raises:
    InputError: some are known and others are not.
  """
  out = {dim: _role(dim, variables) for dim in dims}
  if not any(out.values()):
    return out
  for dim in dims:  # a level above the ground, not the rows of an image
    if str(dim).lower() == "height" and list(out.values()).count("row") > 1:
      out[dim] = None
  known = [role for role in out.values() if role]
  unknown = [dim for dim in dims if out[dim] is None]
  image = {"row", "column"} & set(known)
  if len(unknown) == 1 and "band" not in known and len(image) != 1:
    out[unknown[0]] = "band"
    unknown = []
  if unknown or len(set(known)) < len(known) or len(image) == 1:
    raise InputError(
      f"{path}: its dimensions {', '.join(map(str, dims))} cannot be told apart; "
      "rename them to time, y, x and band, each at most once, y and x together"
    )
  return out


def _role(dim, variables: Mapping) -> str | None:
  """What a dimension is, by its coordinate or else by its name."""
  facts = variables[dim].attrs if dim in variables else {}
  units = str(facts.get("units", ""))
  if role := AXES.get(facts.get("axis")) or STANDARD.get(facts.get("standard_name")):
    return role
  if " since " in units:
    return "time"
  return next((role for role, names in ROLES.items() if str(dim).lower() in names), None)


def is_place(name, facts: Mapping) -> bool:
  """Whether a variable holds latitudes or longitudes."""
  latitude = ("latitude", "longitude")
  return facts.get("standard_name") in latitude or str(name).lower() in ("lat", "lon", *latitude)


def sample_axis(path: Path, dims: Sequence[str], variables: Mapping) -> str:
  """The dimension of the samples in a file of all of them: the one that is named so, or that nothing else is.

  Raises:
    InputError: there is none, or there are several.
  """
  named = [dim for dim in dims if str(dim).lower() in SAMPLES]
  others = [dim for dim in dims if _role(dim, variables) is None]
  found = named or (others if len(others) < len(dims) else others[:1])
  if len(found) != 1:
    raise InputError(
      f"{path}: which of its dimensions {', '.join(map(str, dims))} is that of the samples? Name it id"
    )
  return found[0]


def backwards(dim, role: str | None, variables: Mapping) -> bool:
  """Whether rows go from south to north, or columns from east to west; by the coordinate, if there is one.

  A coordinate `y` or `x` that counts pixels from 0 or 1 says nothing.
  """
  if role not in ("row", "column") or dim not in variables:
    return False
  along = variables[dim].to_numpy()
  if along.ndim != 1 or along.size < 2 or along.dtype.kind not in "iuf":
    return False
  along = along.astype(np.float64)
  if str(dim).lower() in PIXELS and along[0] in (0, 0.5, 1) and (np.diff(along) == 1).all():
    return False
  step = np.diff(along)
  return bool((step > 0).all() if role == "row" else (step < 0).all())
