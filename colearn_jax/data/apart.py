"""Decides which samples are too close to held-out ones: by group, in time, or in space. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

EARTH_KM = 6371.0088  # mean radius (IUGG)


def nearest_days(
  dates: np.ndarray, rows: np.ndarray, others: np.ndarray, within: np.ndarray | None = None
) -> np.ndarray:
  """Days from each of `rows` to the nearest date of `others`, `[len(rows)]` float64; inf if there is none.

  Args:
    dates: `[N]` datetime64[D], NaT if unknown.
    rows: rows of the samples.
    others: rows of the samples to which the distance is taken.
    within: `[N]` int, codes from 0; if given, only samples with the same code count.
  """
  codes = np.zeros(len(dates), np.int64) if within is None else within.astype(np.int64)
  has, others = ~np.isnat(dates[rows]), others[~np.isnat(dates[others])]
  out = np.full(len(rows), np.inf)
  if not len(others) or not has.any():
    return out
  days = np.where(np.isnat(dates), 0, dates.astype("datetime64[D]").astype(np.int64))
  span = np.ptp(days) + 1
  line = codes * span + days - days.min()  # the codes one after another, each in the order of its days
  stored = np.unique(line[others])
  query = line[rows[has]]
  after = np.searchsorted(stored, query)
  nearest = np.full(len(query), np.inf)
  for at in (np.maximum(after - 1, 0), np.minimum(after, len(stored) - 1)):
    same = stored[at] // span == query // span
    nearest = np.minimum(nearest, np.where(same, np.abs(stored[at] - query), np.inf))
  out[has] = nearest
  return out


def nearest_km(places: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Great-circle distance in km from each of `rows` to the nearest of `others`; inf without a place.

  Args:
    places: `[N 2]`, latitude and longitude in degrees, NaN if unknown.
    rows: rows of the samples.
    others: rows of the samples to which the distance is taken.

  Returns:
    `[len(rows)]` float64.
  """
  from sklearn.neighbors import KDTree  # slow to load

  points = on_sphere(places)
  others, has = others[~np.isnan(points[others]).any(1)], ~np.isnan(points[rows]).any(1)
  out = np.full(len(rows), np.inf)
  if len(others) and has.any():
    # The chord through the sphere grows with the distance along its surface.
    chord = KDTree(np.unique(points[others], axis=0)).query(points[rows][has], k=1)[0][:, 0]
    out[has] = 2 * EARTH_KM * np.arcsin(np.minimum(chord / 2, 1.0))
  return out


def on_sphere(places: np.ndarray) -> np.ndarray:
  """Points of the unit sphere `[N 3]` float64 of latitude and longitude `[N 2]` in degrees."""
  latitude, longitude = np.radians(np.asarray(places, np.float64)).T
  flat = np.cos(latitude)
  return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1)


@dataclasses.dataclass(frozen=True)
class Apart:
  """The rules that keep the parts of a run apart. Without any of them, all samples may be in all parts.

  Attributes:
    groups: by feature the group of each sample, `[N]`. Parts have no group of any feature in common.
    purge: samples of different parts are at least this many days apart.
    dates: `[N]` datetime64[D]; needed if `purge` > 0.
    buffer_km: samples of different parts are at least this far apart, in km along a great circle.
    places: `[N 2]`, latitude and longitude in degrees; needed if `buffer_km` > 0.
  """

  groups: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  purge: int = 0
  dates: np.ndarray | None = None
  buffer_km: float = 0.0
  places: np.ndarray | None = None

  def conflicts(self, rows: np.ndarray, held: np.ndarray) -> dict[str, np.ndarray]:
    """For each rule that is in use, which of `rows` break it beside the held-out rows, `[len(rows)]` bool."""
    out = {f"share a {name}": np.isin(of[rows], of[held]) for name, of in self.groups.items()}
    if self.purge and self.dates is not None:
      near = nearest_days(self.dates, rows, held) < self.purge
      out[f"are nearer in time than protocol.purge={self.purge} days"] = near
    if self.buffer_km and self.places is not None:
      near = nearest_km(self.places, rows, held) < self.buffer_km
      out[f"are nearer than protocol.buffer_km={self.buffer_km:g}"] = near
    return out

  def allowed(self, rows: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Those of `rows` that may train beside the held-out rows, in their order."""
    broken = self.conflicts(rows, held)
    return rows[~np.logical_or.reduce(list(broken.values()))] if broken else rows
