"""Prepares values as people have them for a model, by the functions with which training prepares a sample.

The result is the array that the model's function reads. Besides those functions it needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, cast

import numpy as np

from colearn_jax import dates as dates_lib
from colearn_jax.data.fixed_length import SERIES
from colearn_jax.data.modality import View, read, with_months
from colearn_jax.deploy.batches import as_numbers, narrow
from colearn_jax.types import InputError, Modality


class Given(TypedDict, total=False):
  """What may be given beside the values, see `deploy.model.Model.predict`."""

  bands: Sequence[str] | None
  dates: Any
  date: Any
  masks: Mapping[str, Any] | None


class Raw:
  """The preparation of samples for one model.

  Args:
    modality: the sensor.
    views: how its views, and those that mask them, are stored and used.

  Attributes:
    bands: names of the bands of the values.
    masks: names of the bands of masks that are needed beside them.
    dated: whether its steps have days.
    needs_dates: whether these have to be known.
    needs_date: whether the day of the sample has to be known.
  """

  def __init__(self, modality: Modality, views: Mapping[str, View]):
    self.modality, self.views = modality, views
    self.bands = modality.bands[:-1] if modality.months else modality.bands
    self.shape = modality.shape[:-1] + (len(self.bands),)
    self.series = len(modality.shape) in SERIES
    self._own = [views[view] for view in modality.views]
    self._fixed = {view: fixed for view in modality.views if (fixed := views[view].fixed) is not None}
    self._limits = {
      fixed.mask: [views[fixed.mask].bands[band] for band, _ in fixed.limits]
      for fixed in self._fixed.values()
      if fixed.mask is not None
    }
    self.masks = tuple(dict.fromkeys(band for bands in self._limits.values() for band in bands))
    steps = {view: own.steps for view, own in zip(modality.views, self._own) if own.steps}
    self._months = with_months([modality], steps, self._fixed).get(modality.name)
    self.dated = any(own.dated for own in self._own)
    by_month = any(fixed.method == "month" for fixed in self._fixed.values())
    self.needs_dates = self.dated and (by_month or modality.months)
    self.needs_date = self._months is not None and self._months.needs_date

  @property
  def length(self) -> int | None:
    """The number of steps that a series needs to have; None if it may be any."""
    known = [own.shape[0] for own in self._own if not own.dated]
    return next((n for n in known if n is not None), None) if self.series else None

  def __call__(
    self,
    x: Any,
    bands: Sequence[str] | None = None,
    dates: Any = None,
    date: Any = None,
    masks: Mapping[str, Any] | None = None,
  ) -> np.ndarray:
    """The input of the model, `[N *shape]`. See `deploy.model.Model.predict`."""
    self._check(dates, date, masks)
    samples = _samples(x)
    if not len(samples):
      return np.zeros((0, *self.modality.shape), np.float32)
    names = list(self.bands if bands is None else bands)
    places = _places(self.bands, names)
    for i, one in enumerate(samples[:1] if isinstance(samples, np.ndarray) else samples):
      if one is not None:
        self._check_shape(one.shape, i, names, named=bands is not None)
    days = _days(dates, [None if one is None else len(one) for one in samples])
    ascending = all(own is None or (np.diff(own) >= 0).all() for own in days)
    if isinstance(samples, np.ndarray) and ascending and self._is_used_as_it_is(samples.shape):
      return samples if places == list(range(len(names))) else samples[..., places]
    more = zip(days, self._masks(masks, list(samples), names), _date(date, len(samples)))
    return np.stack([self._read(i, one, *own, places) for i, (one, own) in enumerate(zip(samples, more))])

  def _check(self, dates: Any, date: Any, masks: Mapping[str, Any] | None) -> None:
    """Raises InputError if something is missing that is needed, or cannot be used."""
    name = self.modality.name
    if dates is None and self.needs_dates:
      raise InputError(f"the model of {name} needs `dates`, the date of each step")
    if dates is not None and not self.dated:
      raise InputError(f"the model of {name} cannot use `dates`: it was trained with steps without dates")
    if date is None and self.needs_date:
      raise InputError(f"the model of {name} needs `date`, the day of each sample that its last step is of")
    if date is not None and not self.needs_date:
      raise InputError(f"the model of {name} cannot use `date`: it does not depend on the day of the sample")
    if strange := [band for band in masks or () if band not in self.masks]:
      have = ", ".join(self.masks) or "none"
      raise InputError(f"masks: the model of {name} does not use {', '.join(strange)}; it uses: {have}")

  def _check_shape(self, shape: tuple[int, ...], i: int, names: list[str], *, named: bool) -> None:
    """Raises InputError if a sample has a shape that cannot be read."""
    any_length = self.series and self.length is None
    first = [] if len(self.shape) == 1 else [self.shape[0] if self.length is None else self.length]
    wanted = [*first, *self.shape[1:-1], len(names)]
    if len(shape) == len(wanted) and list(shape[any_length:]) == wanted[any_length:]:
      return
    shown = ", ".join("any" if k == 0 and any_length else str(n) for k, n in enumerate(wanted))
    hint = f"the last axis is the bands {', '.join(names)}"
    if self.modality.months and not named and shape[-1:] == (len(names) + 1,):
      hint = "months follow from the dates (prepared=True for arrays that hold them)"
    raise InputError(
      f"modality {self.modality.name} reads samples of shape ({shown}), got {shape} in sample {i}; {hint}"
    )

  def _is_used_as_it_is(self, shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape, whose steps are in order, are the input of the model as they are."""
    fixed = [own for own in self._fixed.values() if own.changes]
    same = all(own.method == "pad" and own.shape[0] == shape[1] for own in fixed)
    return same and self._months is None and not self.masks

  def _masks(self, masks: Mapping[str, Any] | None, samples: Sequence, names: list[str]) -> list[dict]:
    """The bands of masks of each sample, by name."""
    out: list[dict[str, np.ndarray]] = [{} for _ in samples]
    given = masks or {}
    if lacking := [band for band in self.masks if band not in given and band not in names]:
      raise InputError(
        f"the model of {self.modality.name} was trained without what its masks hide, and needs `masks` with "
        f"{', '.join(lacking)}"
      )
    for band in self.masks:
      own = _samples(given[band]) if band in given else None
      if own is not None and len(own) != len(samples):
        raise InputError(f"masks: {band} has {len(own)} samples, the values {len(samples)}")
      for i, x in enumerate(samples):
        if x is None:
          continue
        mask = x[..., names.index(band)] if own is None else own[i]
        if mask is None or mask.shape != x.shape[:-1]:
          has = "none" if mask is None else mask.shape
          raise InputError(f"masks: {band} of sample {i} has shape {has}, its values {x.shape}")
        out[i][band] = 100 * mask.astype(np.uint8) if mask.dtype == bool else mask  # percent
    return out

  def _read(
    self,
    i: int,
    x: np.ndarray | None,
    days: np.ndarray | None,
    masks: Mapping[str, np.ndarray],
    date: str,
    places: list[int],
  ) -> np.ndarray:
    """One sample, as training reads it."""
    if x is None:
      return np.full(self.modality.shape, np.nan, np.float32)
    order = slice(None) if days is None else np.argsort(days, kind="stable")
    x = _finite(x[order][..., places])
    if days is None:
      days = np.arange(len(x))
    else:
      days = days[order]
    views, start = {}, 0
    for view, own in zip(self.modality.views, self._own):
      width = len(own.bands)
      views[view], start = x[..., start : start + width], start + width
    for view, bands in self._limits.items():
      none = np.zeros(x.shape[:-1])
      views[view] = np.stack([masks[b][order] if b in bands else none for b in self.views[view].bands], -1)
    sample = {"id": str(i).encode(), "views": views, "date": date.encode()}
    sample["dates"] = dict.fromkeys(self.modality.views, days)
    return read(self.modality, self._fixed, self._months, sample)


def ordered(x: Any, bands: Sequence[str] | None, wanted: Sequence[str]) -> Any:
  """Values with the bands in the order of a model; InputError that lists those that are missing."""
  if bands is None:
    return x
  x, places = as_numbers(x, "the input"), _places(wanted, list(bands))
  if x.shape[-1] != len(bands):
    raise InputError(f"the input has {x.shape[-1]} bands, and {len(bands)} are named: {', '.join(bands)}")
  return x[..., places]


def _places(wanted: Sequence[str], names: list[str]) -> list[int]:
  """Where the bands of a model are among these names."""
  if names == list(wanted):
    return list(range(len(names)))
  if lacking := [band for band in wanted if band not in names]:
    raise InputError(f"bands: the model needs {', '.join(lacking)} as well; given are: {', '.join(names)}")
  if twice := [band for band in wanted if names.count(band) > 1]:
    raise InputError(f"bands: {twice[0]} is there twice")
  return [names.index(band) for band in wanted]


def _samples(x: Any) -> np.ndarray | list[np.ndarray | None]:
  """The samples: one array, or a list of those of different lengths, in which None is absent."""
  if not isinstance(x, list | tuple) and getattr(x, "dtype", None) != np.dtype(object):
    return as_numbers(x, "the input")
  try:
    shapes = {None if one is None else np.shape(one) for one in x}
  except ValueError as error:
    raise InputError(f"the input has a sample that is no array: {error}") from None
  if len(shapes) == 1 and None not in shapes or not len(x):
    return as_numbers(cast(np.ndarray, list(x)), "the input")
  return [
    None if one is None else as_numbers(np.ma.asanyarray(one), f"sample {i}") for i, one in enumerate(x)
  ]


def _days(dates: Any, lengths: Sequence[int | None]) -> list[np.ndarray | None]:
  """The days of each sample since 1970-01-01, from dates of all samples alike or of each."""
  if dates is None:
    return [None] * len(lengths)
  first: Any = next((one for one in dates if one is not None), ())
  if np.ndim(first) == 0:  # of all samples alike
    every = [dates_lib.to_days(dates, "dates")] * len(lengths)
  else:
    if len(dates) != len(lengths):
      raise InputError(f"dates: {len(dates)} samples have some, the values have {len(lengths)} samples")
    none = np.zeros(0, np.int32)
    every = [none if d is None else dates_lib.to_days(d, f"dates of sample {i}") for i, d in enumerate(dates)]
  for i, (days, length) in enumerate(zip(every, lengths)):
    if length is not None and len(days) != length:
      raise InputError(f"dates: sample {i} has {length} steps and {len(days)} dates")
  return list(every)


def _date(date: Any, number: int) -> list[str]:
  """The day of each sample as 2018-01-15, empty if unknown."""
  if date is None:
    return [""] * number
  every: Iterable = [date] * number if np.ndim(date) == 0 else date
  out = dates_lib.column(every, lambda i: f"date of sample {i}")
  if len(out) != number:
    raise InputError(f"date: there are {len(out)}, the values have {number} samples")
  return out


def _finite(x: np.ndarray) -> np.ndarray:
  """The values of a sample as data sets store them: infinite ones are missing, long ones are float32."""
  if x.dtype.kind in "biu":
    return narrow(x.astype(np.uint8) if x.dtype == bool else x)
  with np.errstate(over="ignore"):
    x = x.astype(np.float32)
  return np.where(np.isfinite(x), x, np.float32(np.nan))
