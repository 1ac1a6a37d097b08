"""Series as arrays of one shape: the last L steps, or the mean of each calendar month; masks hide pixels.

A data set stores days beside the values of a view, `dates/<view>`, where its metadata has `dated`: true if
these are days, false if they are only the numbers of the steps. A view of shape `(None, ...)`, whose samples
have different lengths, always has them. A view may have a mask: another view with as many steps and pixels,
whose bands say in percent how sure it is that something (`snow`, `cloud`) hides the ground.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from colearn_jax.types import InputError, resolve_views

METHODS = ("pad", "month")
SERIES = (2, 4)  # numbers of axes of a series: (T, C) and (T, H, W, C)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the series of a data set get one length.

  Attributes:
    method: `pad` takes the last steps of a series and pads shorter ones in front; `month` takes the mean of
      all steps in January, February and so on, of whatever year.
    lengths: of padded series by view, that of its mask being the same; else the longest of the data set.
    masked_above: by band of a mask the greatest value with which a pixel counts as seen.
    modalities: that are used; what is asked has to be possible for their views. None: all views.
  """

  method: str = "pad"
  lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  masked_above: Mapping[str, float] = dataclasses.field(default_factory=dict)
  modalities: tuple[str, ...] | None = None


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
class FixedLength:
  """How one view gets the shape with which it is used.

  Attributes:
    view: its name.
    shape: with which it is used, `(L, ...)`.
    method: as in `Settings`.
    fill: what stands in front of a shorter series.
    mask: the view whose bands are looked at, or nothing.
    limits: those bands' positions, and the greatest value with which a pixel counts as seen.
    dated: whether days are stored beside its values.
    changes: whether its values change; else only its days matter, in joins.
  """

  view: str
  shape: tuple[int, ...]
  method: str
  fill: float
  mask: str | None
  limits: tuple[tuple[int, float], ...]
  dated: bool = True
  changes: bool = True

  def apply(self, views: Mapping[str, np.ndarray], dates: Mapping[str, np.ndarray]):
    """The view of one sample.

    A pixel that is hidden is missing, and a step in which all are is left out. Padding in front of a mask is
    0, but a series without any step is missing whatever it is.

    Args:
      views: of the sample, `[T ...]`: this one, and its mask.
      dates: `[T]`, of this one; empty where the sample lacks it.

    Returns:
      `[L ...]` float32 (as it is stored if nothing changes), and the days of the steps that were not left
      out, None for a view without.
    """
    series, days = views[self.view], dates[self.view] if self.dated else None
    if not self.changes:
      return series, days
    if days is not None and len(days) != len(series):  # the sample lacks the view
      return np.full(self.shape, np.nan, np.float32), days
    if self.mask:
      hidden = np.any([views[self.mask][..., band] > limit for band, limit in self.limits], axis=0)
      series = np.where(hidden[..., None], np.nan, series).astype(np.float32)
      if series.ndim not in SERIES:  # an image
        return series, None
      kept = ~hidden.all(axis=tuple(range(1, hidden.ndim)))
      series, days = series[kept], np.flatnonzero(kept) if days is None else days[kept]
    if self.method == "month" and days is not None:
      return monthly(series, days), days
    return pad(series, self.shape[0], self.fill if len(series) else np.nan), days


def apply_to_views(
  fixed: Mapping[str, FixedLength], names: Sequence[str], sample: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[list[np.ndarray], dict[str, np.ndarray | None], tuple[str, str] | None]:
  """The views of one modality as they are used, and two of them whose steps differ.

  Steps of padded series are compared by their days, or by their numbers where no days are stored. Means of
  months need not be of the same days, and a view that the sample lacks fits every other.

  Args:
    fixed: what `fixed_lengths` returned.
    names: of the views.
    sample: its `views`, and its `dates` where there are any.

  Returns:
    The values of each view; by view the days or numbers of the steps that were kept, None if there are none;
    and the names of the first two views whose steps differ, None if there are none.
  """
  parts, steps, kept = [], [], {}
  for view in names:
    stored, days, padded = sample["views"][view], None, True
    if view in fixed:
      values, days = fixed[view].apply(sample["views"], sample.get("dates", {}))
      padded = fixed[view].method == "pad"
    else:
      values = stored
    parts.append(values)
    kept[view] = days
    if padded and len(names) > 1 and stored.ndim in SERIES:
      if days is None and not (stored.dtype.kind == "f" and np.isnan(stored).all()):
        days = np.arange(len(stored))
      if days is not None and len(days):
        steps.append((view, days))
  different = ((steps[0][0], view) for view, days in steps if not np.array_equal(days, steps[0][1]))
  return parts, kept, next(different, None)


def fixed_lengths(
  settings: Settings,
  shapes: Mapping[str, tuple[int | None, ...]],
  described: Mapping[str, Mapping],
  longest: Mapping[str, int],
) -> dict[str, FixedLength]:
  """How each view that has days, has a mask or gets another length comes to its shape.

  Args:
    settings: as configured.
    shapes: of one sample of each view.
    described: what the metadata of the data set say of each view: its `bands`, the `mask` if it has one, and
      `dated`, see above.
    longest: the length of the longest series of each view without a fixed one.

  Raises:
    InputError: the settings name a view or a band that there is not, or a view that is used has no dates
      where they are needed.
  """
  masks = {view: described[view]["mask"] for view in shapes if described[view].get("mask")}
  _check(settings, shapes, described, masks)
  lengths = {masks[v]: n for v, n in settings.lengths.items() if v in masks} | dict(settings.lengths)
  out = {}
  for view, shape in shapes.items():
    series = len(shape) in SERIES
    dated = shape[0] is None or "dated" in described[view]
    month = settings.method == "month" and dated and described[view].get("dated", True)
    limits: tuple[tuple[int, float], ...] = ()
    if mask := masks.get(view):
      positions = {band: i for i, band in enumerate(described[mask]["bands"])}
      limits = tuple((positions[b], limit) for b, limit in settings.masked_above.items() if b in positions)
    stored = longest.get(view, 0) if shape[0] is None else shape[0]
    length = 12 if month else lengths.get(view, stored) if series else stored
    changes = shape[0] is None or month or bool(limits) or length != stored
    if dated or changes:
      out[view] = FixedLength(
        view=view,
        shape=(length, *cast(tuple[int, ...], shape[1:])),  # only the first axis may differ between samples
        method="month" if month else "pad",
        fill=0.0 if view in masks.values() else np.nan,
        mask=mask if limits else None,
        limits=limits,
        dated=dated,
        changes=changes,
      )
  return out


def _views(settings: Settings, shapes: Mapping) -> dict[str, tuple[str, ...]]:
  """The views that each modality is made of."""
  views = {}
  for modality in settings.modalities if settings.modalities is not None else shapes:
    with contextlib.suppress(InputError):  # whoever reads the modality says so
      views[modality] = resolve_views(modality, shapes)
  return views


def _check(settings: Settings, shapes, described, masks: Mapping[str, str]) -> None:
  """Raises InputError for what is asked and cannot be done."""
  modalities = _views(settings, shapes)
  used = list(dict.fromkeys(view for views in modalities.values() for view in views))
  have = lambda names: ", ".join(names) or "there is none here"
  series = [view for view, shape in shapes.items() if len(shape) in SERIES]
  for view in settings.lengths:
    if view not in series:
      raise InputError(f"data.lengths: {view!r} is not allowed; a view with series: {have(series)}")
  bands = {band: None for view in used if view in masks for band in described[masks[view]]["bands"]}
  for band in settings.masked_above:
    if band not in bands:
      raise InputError(
        f"data.masked_above: {band!r} is not allowed; a band of a mask of a view that is used: {have(bands)}"
      )
  has_days = lambda view: described[view].get("dated", None in shapes[view])
  for modality, views in modalities.items():
    steps = [view for view in views if view in series]
    if settings.method == "pad" and len({has_days(view) for view in steps}) > 1:
      known, unknown = (next(v for v in steps if has_days(v) is wanted) for wanted in (True, False))
      raise InputError(
        f"data.modalities: {modality} cannot join {known}, which has dates, and {unknown}, which has none"
      )
  if settings.method == "month":
    # Of all views of a data set some may be static; those that were chosen are meant.
    strict = settings.modalities is not None
    missing = lambda view: None in shapes[view] or "dated" in described[view] or strict
    for view in used:
      if view in series and missing(view) and not has_days(view):
        raise InputError(
          f"data.series: 'month' is not allowed; pad, for view {view} has no dates (of a folder: dates "
          "beside the values, or in dataset.json those of all samples alike)"
        )
