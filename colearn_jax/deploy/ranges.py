"""Notices values that are in other units than those of the training, and dates in other years."""

from __future__ import annotations

import numpy as np

from colearn_jax.data.context import TIME_BEGINS, YEAR_DAYS, encode_times
from colearn_jax.deploy.model import Model
from colearn_jax.types import CONTEXT, InputError, context_layout

FAR = 100  # times the scale by which training normalised
LATE = 3  # times the same scale, for the time of a context, where the training's range is not known
MARGIN = 0.5  # years


def check(model: Model, values: np.ndarray, hint: str) -> None:
  """Raises InputError if half of the values of a band are farther from those of the training than `FAR`.

  Reflectances from 0 to 1 and from 0 to 10000 differ so much. A model that was made without the constants of
  its normalisation is not checked.

  Args:
    model: the model.
    values: `[... C]`, the bands in the order of the model.
    hint: what the message says in the end.
  """
  constants = _constants(model, model.modality.name)
  if not constants:
    return
  for k in range(values.shape[-1]):
    own = values[..., k]
    own = own[np.isfinite(own)]
    offset, scale = float(constants["offset"][k]), float(constants["scale"][k])
    if own.size and (far := float(np.median(np.abs(own - offset)))) > FAR * abs(scale):
      raise InputError(
        f"band {model.bands[k]} has values around {np.median(own):.4g}, training had {offset:.4g} with a "
        f"deviation of {scale:.4g}, {far / abs(scale):.0f} times less far: other units?{hint}"
      )


def check_time(model: Model, dates: np.ndarray, hint: str) -> None:
  """Raises InputError if a model that reads the time gets a date outside of the years of its training.

  What it learnt of the time holds for these years alone. Their range is taken from the constants by which
  training normalised, see `_years`; half a year beyond it is allowed.

  Args:
    model: the model.
    dates: `[N]` datetime64, NaT if unknown.
    hint: what the message says in the end.
  """
  if not context_layout(model.context).time or not (years := _years(model)):
    return
  first, last = years
  times = encode_times(dates)[:, 0]
  if (other := (times < first - MARGIN) | (times > last + MARGIN)).any():
    day = lambda years: TIME_BEGINS + np.timedelta64(round(float(years) * YEAR_DAYS), "D")
    span = f"from about {day(first)} to {day(last)}" if np.isfinite(first) else f"up to about {day(last)}"
    raise InputError(
      f"the model reads the time, and {day(times[other][0])} is outside of its training, which had dates "
      f"{span}; of other years it knows nothing{hint}"
    )


def _years(model: Model) -> tuple[float, float] | None:
  """The first and the last time of the training; None if its normalisation does not tell.

  Those of `quantile` and `minmax` are exact, as is the last of `max`, which does not tell the first (-inf).
  Those of `zscore` and `robust` are the middle and `LATE` times the scale. `fixed` tells neither.
  """
  constants, column = _constants(model, CONTEXT), context_layout(model.context).scaled
  how = model.about.get("configuration", {}).get("data", {}).get("normalisation")
  if not constants or how == "fixed":
    return None
  if "quantiles" in constants:
    return constants["quantiles"][0][column], constants["quantiles"][-1][column]
  offset, scale = (constants[name][column] for name in ("offset", "scale"))
  if how in ("max", "minmax"):
    return offset if how == "minmax" else -np.inf, offset + scale
  return offset - LATE * scale, offset + LATE * scale


def _constants(model: Model, name: str) -> dict[str, list]:
  """The constants by which training normalised an input, in the first of the model's runs; {} if unknown."""
  every: dict[str, dict] = model.about.get("normalisation") or {}
  return next(iter(every.values()), {}).get(name) or {}
