"""Series of different lengths to arrays of one shape: the last L steps, or a mean for each calendar month.

A data set may store a view with a length of its own for every sample, shape `(None, ...)`, and the days of
its steps beside it, `dates/<view>`. A view may name another one as its mask, whose bands say in percent how
sure it is that something (`snow`, `cloud`) hides the ground.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from colearn_jax.types import InputError

HOW = ("pad", "month")


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the series of a data set come to one length.

  Attributes:
    how: `pad` takes the last steps of a series and pads shorter ones in front; `month` takes the mean of all
      steps in January, February and so on, of whatever year.
    lengths: of padded series by view, its mask's being the same;
      else the longest of the data set.
    masked_above: by band of a mask the greatest value with which a pixel counts as seen.
  """

  how: str = "pad"
  lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  masked_above: Mapping[str, float] = dataclasses.field(default_factory=dict)


def pad(series: np.ndarray, length: int, fill: float = np.nan) -> np.ndarray:
  """The last steps of a series `[T ...]`, `fill` in front of a shorter one; `[length ...]` float32."""
  out = np.full((length, *series.shape[1:]), fill, np.float32)
  if steps := min(length, len(series)):
    out[-steps:] = series[-steps:]
  return out


def monthly(series: np.ndarray, days: np.ndarray) -> np.ndarray:
  """The mean of each calendar month, `[12 ...]` float32, NaN left out and NaN where there is nothing.

  Args:
    series: `[T ...]`.
    days: `[T]` int, since 1970-01-01.
  """
  out = np.full((12, *series.shape[1:]), np.nan, np.float32)
  if len(series):
    month = days.astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12
    order = np.argsort(month, kind="stable")
    months, starts = np.unique(month[order], return_index=True)
    ordered = series[order]
    seen = ~np.isnan(ordered)
    total = np.add.reduceat(np.where(seen, ordered, 0), starts, axis=0, dtype=np.float64)
    count = np.add.reduceat(seen, starts, axis=0, dtype=np.int64)
    out[months] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
  return out


@dataclasses.dataclass(frozen=True)
class Ragged:
  """How one view gets its fixed shape.

  Attributes:
    view: its name.
    shape: what it gets, `(L, ...)`.
    how: as in `Settings`.
    fill: what stands in front of a shorter series.
    mask: the view whose bands are looked at, or nothing.
    limits: those bands' positions, and the greatest value with which a pixel counts as seen.
  """

  view: str
  shape: tuple[int, ...]
  how: str
  fill: float
  mask: str | None
  limits: tuple[tuple[int, float], ...]

  def fix(self, views: Mapping[str, np.ndarray], dates: Mapping[str, np.ndarray]):
    """The view of one sample.

    A pixel that is hidden is missing, and a step in which all are is left out. Where a view that is a mask
    is padded there is 0; but a series without any step is missing whatever it is.

    Args:
      views: of the sample, `[T ...]`: this one, and its mask.
      dates: `[T]`, of this one.

    Returns:
      `[L ...]` float32, and the days of the steps that were not left out.
    """
    series, days = views[self.view], dates[self.view]
    if self.mask:
      hidden = np.any([views[self.mask][..., band] > limit for band, limit in self.limits], axis=0)
      kept = ~hidden.all(axis=tuple(range(1, hidden.ndim)))
      series, days = np.where(hidden[..., None], np.nan, series)[kept], days[kept]
    if self.how == "month":
      return monthly(series, days), days
    return pad(series, self.shape[0], self.fill if len(series) else np.nan), days


def plan(
  settings: Settings,
  shapes: Mapping[str, tuple[int | None, ...]],
  described: Mapping[str, Mapping],
  longest: Mapping[str, int],
) -> dict[str, Ragged]:
  """How each view without a fixed length gets one.

  Args:
    settings: as configured.
    shapes: of one sample of each view.
    described: what the metadata of the data set say of each view: its `bands`, the `mask` if it has one, and
      `dated`, false if its days are only the numbers of its steps.
    longest: the length of the longest series of each view.

  Raises:
    InputError: the settings name a view or a band that there is not.
  """
  ragged = [view for view, shape in shapes.items() if None in shape]
  masks = {view: described[view]["mask"] for view in ragged if described[view].get("mask")}
  have = lambda names: ", ".join(names) or "there is none here"
  for view in settings.lengths:
    if view not in ragged:
      raise InputError(
        f"data.lengths: {view!r} is not allowed; a view with series of different lengths: {have(ragged)}"
      )
  bands = {band: None for mask in masks.values() for band in described[mask]["bands"]}
  for band in settings.masked_above:
    if band not in bands:
      raise InputError(f"data.masked_above: {band!r} is not allowed; a band of a mask: {have(bands)}")
  lengths = {masks[v]: n for v, n in settings.lengths.items() if v in masks} | dict(settings.lengths)
  if settings.how == "month" and (odd := [view for view in ragged if not described[view].get("dated", True)]):
    raise InputError(f"data.series: 'month' is not allowed; pad, for view {odd[0]} has no dates")
  out = {}
  for view in ragged:
    length = 12 if settings.how == "month" else lengths.get(view, longest.get(view, 0))
    limits = ()
    if mask := masks.get(view):
      positions = {band: i for i, band in enumerate(described[mask]["bands"])}
      limits = tuple((positions[b], limit) for b, limit in settings.masked_above.items() if b in positions)
    out[view] = Ragged(
      view=view,
      shape=(length, *shapes[view][1:]),
      how=settings.how,
      fill=0.0 if view in masks.values() else np.nan,
      mask=mask if limits else None,
      limits=limits,
    )
  return out
