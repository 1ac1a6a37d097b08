"""The bands and the steps of a modality, and how the values of a sample become its input.

Training reads the stored values of a sample with `read`, and prediction those that it is given.

Metadata of a data set may say of a view `units`, the unit of each band, and `steps`, what the steps of a
series without dates are:

- `calendar`: step t, counted from 0, is month t mod 12, and 0 is January.
- `month`: each step is a month; the last one is that of the sample's `date`.
- `N days`, e.g. `30 days`: each step is N days; the last one ends at the sample's `date`. Its month is that
  of its middle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colearn_jax.data.fixed_length import SERIES, FixedLength, apply_to_views
from colearn_jax.types import CALENDAR, MONTH, MONTHLY, STEPS, InputError, Modality, join_views, resolve_views

DATES = "dates"  # of steps that have dates


def describe_steps(
  shapes: Mapping[str, tuple[int | None, ...]], described: Mapping[str, Mapping[str, Any]], dated: bool
) -> dict[str, str]:
  """How the months of each view's steps are known: `dates`, or what `steps` says. Other views are left out.

  Args:
    shapes: of one sample of each view, as it is stored.
    described: the metadata of the views.
    dated: whether samples have a date.
  """
  out = {}
  for view, shape in shapes.items():
    steps = described[view].get("steps", "")
    if len(shape) not in SERIES:
      continue
    if described[view].get("dated", shape[0] is None):
      out[view] = DATES
    elif steps and (dated or steps == CALENDAR):
      out[view] = steps
  return out


def make_modality(
  name: str,
  shapes: Mapping[str, tuple[int, ...]],
  described: Mapping[str, Mapping[str, Any]],
  *,
  steps: Mapping[str, str] | None = None,
) -> Modality:
  """The modality with this name, its views concatenated on the last axis.

  Args:
    name: of the modality, see `types.resolve_views`.
    shapes: of one sample of each view, as it is used.
    described: the metadata of the views: `bands`, and `units` where they are known.
    steps: see `describe_steps`. If given, a series gets a last band with the month of each step.

  Raises:
    InputError: there are no such views, their shapes cannot be concatenated, or the months are not known.
  """
  views = resolve_views(name, shapes)
  shape = join_views(name, shapes, views)
  bands = tuple(band for view in views for band in described[view]["bands"])
  units = [described[view].get("units") or [""] * len(described[view]["bands"]) for view in views]
  known = tuple(unit for own in units for unit in own)
  months = steps is not None and len(shape) in SERIES
  if months and not set(views) & set(steps or ()):
    raise InputError(
      f"{name} has no dates, and its steps are not described; an encoder that reads months needs dates, or "
      f"for a view of a folder `steps` in dataset.json: {STEPS}"
    )
  if months:
    shape, bands = (*shape[:-1], shape[-1] + 1), (*bands, MONTH)
  return Modality(name, views, shape, bands, known if any(known) else (), months)


@dataclasses.dataclass(frozen=True)
class Months:
  """The months of the steps of one modality.

  Attributes:
    steps: of its views of which they are known, see `describe_steps`.
    fixed: of its views, see `fixed_length.fixed_lengths`.
  """

  steps: Mapping[str, str]
  fixed: Mapping[str, FixedLength]

  def append(
    self, values: np.ndarray, days: Mapping[str, np.ndarray | None], sample: Mapping[str, Any]
  ) -> np.ndarray:
    """Appends a band with the month to the values of a sample.

    Args:
      values: `[T ... C]`, as they are used.
      days: of the steps of each view that were kept, see `fixed_length.apply_to_views`.
      sample: as it is stored, with its `date` if `needs_date`.

    Returns:
      `[T ... C + 1]` float32. The month is NaN if it is unknown, and in steps without values.
    """
    month = self._months(len(values), days, sample)
    month = np.broadcast_to(month.reshape(-1, *[1] * (values.ndim - 1)), (*values.shape[:-1], 1))
    seen = ~np.isnan(values).all(axis=tuple(range(1, values.ndim)), keepdims=True)
    return np.concatenate([values, np.where(seen, month, np.nan)], axis=-1, dtype=np.float32)

  @property
  def needs_date(self) -> bool:
    """Whether the date of the sample is needed."""
    return not set(self.steps.values()) <= {DATES, CALENDAR}

  def _months(self, length: int, days: Mapping, sample: Mapping) -> np.ndarray:
    for view, steps in self.steps.items():
      kept = days[view]
      if steps == DATES:
        if self.fixed[view].method == "month":
          return np.arange(12, dtype=np.float32)
        if len(kept):
          found = kept.astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12
          return _last(found, length)
      else:
        stored = len(sample["views"][view])
        numbers = np.arange(stored) if kept is None else kept
        return _last(month_by_rule(steps, numbers, stored, sample.get("date", b"").decode()), length)
    return np.full(length, np.nan, np.float32)  # the sample lacks the modality


def _last(months: np.ndarray, length: int) -> np.ndarray:
  """The last months, NaN in front of fewer; `[length]` float32."""
  out = np.full(length, np.nan, np.float32)
  count = min(length, len(months))
  out[length - count :] = months[len(months) - count :]
  return out


def month_by_rule(steps: str, numbers: np.ndarray, stored: int, date: str) -> np.ndarray:
  """The months of the steps with these numbers, of `stored` ones; NaN without a date."""
  before = stored - 1 - numbers  # steps between this one and the last
  if steps == CALENDAR:
    return numbers % 12
  if not date:
    return np.full(len(numbers), np.nan)
  if steps == MONTHLY:
    return (int(np.datetime64(date, "M").astype(int)) - before) % 12
  length = int(steps.removesuffix(" days"))
  middle = np.datetime64(date, "D") - (length * before + length // 2).astype("timedelta64[D]")
  return middle.astype("datetime64[M]").astype(int) % 12


def with_months(
  modalities: Sequence[Modality], steps: Mapping[str, str], fixed: Mapping[str, FixedLength]
) -> dict[str, Months]:
  """The months of the modalities that have a band for them, by name."""
  of = lambda m, known: {view: known[view] for view in m.views if view in known}
  return {m.name: Months(of(m, steps), of(m, fixed)) for m in modalities if m.months}


def read(
  modality: Modality, fixed: Mapping[str, FixedLength], months: Months | None, sample: Mapping[str, Any]
) -> np.ndarray:
  """The input of a modality: its views of one sample at fixed lengths, concatenated, and the month if needed.

  Args:
    modality: the modality.
    fixed: of its views, see `fixed_length.fixed_lengths`.
    months: of its steps, if it has a band for them.
    sample: its `id` (bytes) and `views`; its `dates`, `date` and `present`, where there are any.

  Returns:
    `[... C]`. Integers of 8 or 16 bits keep their type, all others are float32. Joined views are float32,
    too, if a sample may lack one: its values are NaN then.

  Raises:
    InputError: the views have steps of different dates.
  """
  flags, joined = sample.get("present", {}), len(modality.views) > 1
  lacking = [view for view in modality.views if joined and not flags.get(view, True)]
  absent = {view: np.full(sample["views"][view].shape, np.nan, np.float32) for view in lacking}
  sample = {**sample, "views": sample["views"] | absent}
  parts, days, two = apply_to_views(fixed, modality.views, sample)
  if two is not None:
    raise InputError(
      f"data.modalities: {modality.name} cannot join {two[0]} and {two[1]}, whose dates differ in "
      f"sample {sample['id'].decode()}; data.series=month joins means of months"
    )
  dtype = np.result_type(*parts)
  # All samples have one type, also those that lack no view.
  may_lack = joined and any(view in flags for view in modality.views)
  if may_lack or dtype.kind not in "iu" or dtype.itemsize > 2:
    dtype = np.dtype(np.float32)
  if len(parts) == 1:
    values = np.asarray(parts[0], dtype)
  else:
    values = np.concatenate(parts, axis=-1, dtype=dtype, casting="same_kind")
  return values if months is None else months.append(values, days, sample)


@dataclasses.dataclass(frozen=True)
class View:
  """How a view of a data set is stored and used; it goes with a model, so that others can do the same.

  Attributes:
    bands: their names.
    shape: of one sample as it is stored; None is a length that differs between samples.
    dated: whether its steps have days.
    steps: how the months of its steps are known, see `describe_steps`; empty if they are not.
    fixed: how it gets the shape with which it is used, None if that is the stored one.
  """

  bands: tuple[str, ...]
  shape: tuple[int | None, ...]
  dated: bool = False
  steps: str = ""
  fixed: FixedLength | None = None

  def to_json(self) -> dict[str, Any]:
    """As plain JSON, in which a fill of NaN is null."""
    tree = dataclasses.asdict(self)
    if self.fixed is not None:
      tree["fixed"]["fill"] = None if np.isnan(self.fixed.fill) else self.fixed.fill
    return tree

  @classmethod
  def from_json(cls, tree: Mapping[str, Any]) -> View:
    """The inverse of `to_json`."""
    fixed = None
    if own := tree["fixed"]:
      limits = tuple((int(band), float(limit)) for band, limit in own["limits"])
      fill = np.nan if own["fill"] is None else own["fill"]
      fixed = FixedLength(**{**own, "shape": tuple(own["shape"]), "fill": fill, "limits": limits})
    return cls(tuple(tree["bands"]), tuple(tree["shape"]), tree["dated"], tree["steps"], fixed)
