"""Encodes the context of a sample (date, location, time, static layers) as numbers. Needs NumPy only.

`data.context` names what the context consists of. The columns are in this order:

- `date`: `date_sin`, `date_cos`: sine and cosine of 2 pi (d - 1) / D, for day d of a year of D days.
- `location`: `place_x`, `place_y`, `place_z`: the unit vector (cos lat cos lon, cos lat sin lon, sin lat).
  With `data.fourier` = L also `place_lon_sin_s`, `place_lon_cos_s`, `place_lat_sin_s`, `place_lat_cos_s` for
  each scale s = 1, 2, 4, ..., 2^(L-1): sine and cosine of s pi lon / 180 and of s pi lat / 90, in degrees.
- `time`: `time_years`: years from 2000-01-01 to the date. Unlike `date` it tells one year from another.
- The bands of each static view, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from colearn_jax.types import (
  DATE_COLUMNS,
  TIME_COLUMN,
  UNIT_VECTOR,
  InputError,
  context_layout,
  place_columns,
)

DATE, LOCATION, TIME = "date", "location", "time"
ENCODED = (DATE, LOCATION, TIME)  # names of `data.context` in their order; all others are static views
TIME_BEGINS = np.datetime64("2000-01-01", "D")
YEAR_DAYS = 365.2425


def available(dated: bool, located: bool, static: Sequence[str]) -> tuple[str, ...]:
  """The names that `data.context` may contain for a data set with these static views."""
  known = {DATE: dated, LOCATION: located, TIME: dated}
  return (*(name for name in ENCODED if known[name]), *static)


def ordered(names: Sequence[str]) -> tuple[str, ...]:
  """The names of `data.context` in the order of their columns."""
  return (*(n for n in ENCODED if n in names), *(n for n in names if n not in ENCODED))


def columns(names: Sequence[str], fourier: int, static: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
  """The names of all columns.

  Args:
    names: the names in `data.context`.
    fourier: number of Fourier scales of the location.
    static: bands of each static view.

  Raises:
    InputError: one of the names is that of a view as well.
  """
  if both := [name for name in names if name in ENCODED and name in static]:
    raise InputError(f"data.context: {both[0]!r} may be the {both[0]} of a sample or a view; rename the view")
  of = {DATE: DATE_COLUMNS, LOCATION: place_columns(fourier), TIME: (TIME_COLUMN,)}
  return tuple(column for name in ordered(names) for column in (of[name] if name in of else static[name]))


def encode_dates(dates: Sequence[str] | np.ndarray) -> np.ndarray:
  """Sine and cosine of the day of the year, `[N 2]` float32, NaN for an unknown date.

  Args:
    dates: `[N]`, ISO dates such as `2019-07-28`, empty if unknown, or `datetime64`.

  Raises:
    InputError: a text is not a date.
  """
  days = _days(dates)
  first = days.astype("datetime64[Y]")
  passed = _number(days - first.astype("datetime64[D]"))
  length = _number((first + np.timedelta64(1, "Y")).astype("datetime64[D]") - first.astype("datetime64[D]"))
  angle = 2 * np.pi * passed / length
  return np.stack([np.sin(angle), np.cos(angle)], -1).astype(np.float32)


def encode_times(dates: Sequence[str] | np.ndarray) -> np.ndarray:
  """Years since 2000-01-01, `[N 1]` float32, NaN for an unknown date; see `encode_dates`."""
  return (_number(_days(dates) - TIME_BEGINS) / YEAR_DAYS).astype(np.float32)[:, None]


def _days(dates: Sequence[str] | np.ndarray) -> np.ndarray:
  try:
    return np.asarray(dates).astype("datetime64[D]")
  except ValueError as error:
    raise InputError(f"a date is not in the form 2019-07-28: {error}") from None


def _number(spans: np.ndarray) -> np.ndarray:
  """Days of time spans, float64, NaN if unknown."""
  return np.where(np.isnat(spans), np.nan, spans.astype(np.float64))


def encode_places(coordinates: np.ndarray, fourier: int = 0) -> np.ndarray:
  """The columns of the location, see `place_columns`.

  Args:
    coordinates: `[N 2]`, latitude and longitude in degrees (WGS84), NaN if unknown.
    fourier: number of Fourier scales L.

  Returns:
    `[N 3 + 4L]` float32, NaN for an unknown location.

  Raises:
    InputError: a coordinate is out of range, or the shape is not `[N 2]`.
  """
  coordinates = np.asarray(coordinates, np.float64)
  if coordinates.ndim != 2 or coordinates.shape[1] != 2:
    raise InputError(f"coordinates have shape {coordinates.shape}, not (N, 2): latitude, longitude")
  if (np.abs(coordinates) > [90, 180]).any():
    raise InputError("coordinates have to be latitude (-90 to 90), then longitude (-180 to 180), in degrees")
  coordinates = np.where(np.isnan(coordinates).any(1, keepdims=True), np.nan, coordinates)
  latitude, longitude = np.radians(coordinates).T
  out = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
  for scale in 2.0 ** np.arange(fourier):
    for angle in (scale * longitude, scale * 2 * latitude):
      out += [np.sin(angle), np.cos(angle)]
  return np.stack(out, -1).astype(np.float32)


def encode(
  bands: Sequence[str],
  *,
  dates: Sequence[str] | np.ndarray | None = None,
  coordinates: np.ndarray | None = None,
  static: np.ndarray | None = None,
) -> np.ndarray:
  """The context of N samples, for a model that needs these columns.

  Args:
    bands: the context's columns in the model, e.g. `Model.context`.
    dates: see `encode_dates`.
    coordinates: see `encode_places`.
    static: `[N C]`, the static bands in the order of the columns, NaN if unknown.

  Returns:
    `[N K]` float32, NaN if unknown.

  Raises:
    InputError: a part that the columns need is missing or has the wrong shape.
  """
  date, place, time, names = context_layout(bands)
  parts: list[np.ndarray] = []
  encoders: tuple[tuple[int, Any, str, Callable[[Any], np.ndarray]], ...] = (
    (date, dates, "dates", encode_dates),
    (place, coordinates, "coordinates", lambda x: encode_places(x, (place - len(UNIT_VECTOR)) // 4)),
    (time, dates, "dates", encode_times),
    (len(names), static, f"static values: {', '.join(names)}", lambda x: np.asarray(x, np.float32)),
  )
  for count, given, what, encoder in encoders:
    if count and given is None:
      raise InputError(f"this context needs {what}")
    if count:
      parts.append(encoder(given))
      if parts[-1].ndim != 2 or parts[-1].shape[1] != count or len(parts[-1]) != len(parts[0]):
        raise InputError(f"this context needs as many {what}, [N {count}], not {list(parts[-1].shape)}")
  return np.concatenate(parts, axis=1)
