"""Makes the inputs of a model from the pixels of a scene, as training made them from its samples.

Training prepares one sample after the other, see `data.fixed_length`; here all pixels are prepared at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from colearn_jax.data.fixed_length import FixedLength, monthly
from colearn_jax.data.modality import DATES, month_by_rule
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.raw import Raw
from colearn_jax.types import MONTH, InputError


class Pixels:
  """The preparation of pixels for one model.

  Args:
    model: the model.

  Attributes:
    bands: that a scene has to have: those of the sensor, then those of its masks.
    sensors: how many of them are the sensor's.
    mask_bands: names of those of the masks.
    dated: whether its steps have days.
    needs_days: whether these have to be known.
    needs_date: whether the day that the prediction is for has to be known.
  """

  def __init__(self, model: Model):
    modality = model.modality
    self.model, self.shape = model, modality.shape
    self.views: Mapping = dict(model.views or {})
    raw = self._raw = Raw(modality, self.views) if self.views else None
    own = raw.bands if raw else modality.bands[:-1] if modality.months else modality.bands
    if twice := next((band for band in own if own.count(band) > 1), None):
      raise InputError(f"the model has two bands named {twice}, which a scene cannot tell apart")
    self.mask_bands = raw.masks if raw else ()
    self.bands, self.sensors = tuple(dict.fromkeys([*own, *self.mask_bands])), len(own)
    self.dated = raw is not None and raw.dated
    self.needs_days = raw is not None and raw.needs_dates
    self.needs_date = raw is not None and raw.needs_date
    fixed = {view: f for view in (modality.views if raw else ()) if (f := self.views[view].fixed) and f.mask}
    self._limits = {
      v: [(self.views[f.mask].bands[k], limit) for k, limit in f.limits] for v, f in fixed.items()
    }

  def check(self, steps: int, days: Sequence[int] | None, date: str) -> None:
    """Raises InputError if a scene of so many steps and such days cannot be read."""
    name, need = self.model.modality.name, len(self.shape) in (2, 4)
    if self.needs_days and days is None:
      raise InputError(f"the model of {name} needs the date of each step; the scene has no dates")
    if self.needs_date and not date:
      raise InputError(f"the model of {name} needs --date, the day that the prediction is for")
    if self.model.modality.months and not self.views:
      raise InputError(
        f"the model of {name} does not know how the months of its steps are told; export it again"
      )
    if not need and steps != 1:
      raise InputError(f"the model of {name} reads one image, the scene has {steps} steps")
    known = self._raw.length if self._raw else self.shape[0]
    if need and known is not None and steps != known:
      raise InputError(f"the model of {name} reads {known} steps, the scene has {steps}")

  def prepare(self, values: np.ndarray, days: np.ndarray | None, date: str = "") -> np.ndarray:
    """The inputs of pixels.

    Args:
      values: `[T P K]` float32, NaN where nothing is known, the bands in the order of `bands`.
      days: `[T]` of the steps, ascending; None if unknown.
      date: the day that the prediction is for, empty if unknown.

    Returns:
      `[P *shape]` float32, as `Model.predict` takes them with `prepared=True`.
    """
    if not self.views:
      return np.moveaxis(values, 0, 1) if len(self.shape) == 2 else values[0]
    parts, month = [], None
    for view in self.model.modality.views:
      place = [self.bands.index(band) for band in self.views[view].bands if band != MONTH]
      own, fixed = values[..., place], self.views[view].fixed
      rule = self.views[view].steps if self.model.modality.months else ""
      months = self._months(rule, days, date, values.shape[:2])
      if fixed is not None and fixed.changes:
        hidden = self._hidden(view, values)
        own, months = _fixed(fixed, own, months, hidden, days)
      parts.append(own)
      month = months if month is None else month
    joined = np.concatenate(parts, axis=-1)
    if self.model.modality.months:
      seen = ~np.isnan(joined).all(-1, keepdims=True)
      known = np.full(joined.shape[:-1], np.nan, np.float32) if month is None else month
      joined = np.concatenate([joined, np.where(seen, known[..., None], np.nan)], axis=-1)
    return np.moveaxis(joined, 0, 1) if len(self.shape) == 2 else joined[0]

  def _hidden(self, view: str, values: np.ndarray) -> np.ndarray | None:
    """Which steps of which pixels are hidden, `[T P]`; None without a mask."""
    named = self._limits.get(view)
    if not named:
      return None
    return np.any([values[..., self.bands.index(band)] > limit for band, limit in named], axis=0)

  def _months(self, rule: str, days, date: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The month of each step of each pixel, `[T P]`, or None."""
    if not rule:
      return None
    if rule == DATES:
      month = days.astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12
    else:
      month = month_by_rule(rule, np.arange(shape[0]), shape[0], date)
    return np.broadcast_to(np.asarray(month, np.float32)[:, None], shape)


def _fixed(
  fixed: FixedLength,
  values: np.ndarray,
  months: np.ndarray | None,
  hidden: np.ndarray | None,
  days: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None]:
  """What `FixedLength.apply` makes of each pixel of `[T P C]`; and of the months of its steps, `[T P]`."""
  length = fixed.shape[0]
  if hidden is not None:
    values = np.where(hidden[..., None], np.float32(np.nan), values)
  if len(fixed.shape) == 1:
    return values, months
  if fixed.method == "month":
    assert days is not None
    means = monthly(values, days)
    every = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None], means.shape[:2])
    return means, None if months is None else every
  if hidden is not None:  # steps that are left out go to the front, where they count as padding
    order = np.argsort(~hidden, axis=0, kind="stable")
    values = np.take_along_axis(values, order[..., None], axis=0)
    if months is not None:
      months = np.take_along_axis(np.where(hidden, np.nan, months), order, axis=0)
  pad = [(max(0, length - len(values)), 0), (0, 0)]
  values = np.pad(values[-length:], [*pad, (0, 0)], constant_values=fixed.fill)
  return values, None if months is None else np.pad(months[-length:], pad, constant_values=np.nan)
