"""Uncertainty of predictions, from samples that were held back from training.

- Classes and labels: temperature scaling (Guo et al. 2017). The logarithms of the probabilities of each run
  are divided by one temperature, which makes the held-back samples most likely.
- Values: split conformal intervals (Vovk et al. 2005), prediction ± half width. The half width of coverage c
  is the k-th least error of n held-back samples, k = ceil((n + 1) c). The interval of a new sample that is
  exchangeable with them holds its value with a probability of at least c.

A sample that several of the exported runs hold back is predicted by the mean of these runs. With folds this
is cross-conformal prediction: each sample is predicted by the runs of other folds. New samples are predicted
by the mean of all runs, whose errors are smaller, so the intervals are rather too wide than too narrow.

`fit` needs SciPy, the rest NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from colearn_jax.types import InputError, Task

COVERAGES = tuple(k / 100 for k in range(1, 100))
_LEAST = 1e-30  # the least probability whose logarithm is taken


class HeldBack(NamedTuple):
  """Labelled samples that runs held back from training.

  Attributes:
    predictions: `[R n C]` of each run; NaN where the run trained with the sample, or has no prediction.
    target: `[n]` class numbers, or `[n C]`.
  """

  predictions: np.ndarray
  target: np.ndarray


def fit(task: Task, held: HeldBack) -> dict[str, Any]:
  """Fits the temperature, or the half widths of the intervals.

  Returns:
    What `calibrate` and `half_widths` need, as JSON, and the number of `samples`. For classes and labels also
    the mean negative log-likelihood and the calibration error, each `[before, after]`.

  Raises:
    InputError: there are fewer than 10 samples.
  """
  known = np.isfinite(held.predictions).all(2).any(0)
  predictions, target = held.predictions[:, known].astype(np.float64), held.target[known]
  if len(target) < 10:
    raise InputError(
      f"{len(target)} labelled samples were held back from training, 10 are needed to fit the uncertainty; "
      "--no-uncertainty exports without"
    )
  if task.kind == "regression":
    errors = np.sort(np.abs(np.nanmean(predictions, 0) - target), axis=0)
    at = [math.ceil(round((len(errors) + 1) * coverage, 6)) - 1 for coverage in COVERAGES]
    each = [[float(own[k]) if k < len(own) else None for k in at] for own in errors.T]
    return {
      "kind": "conformal",
      "samples": len(target),
      "coverage": list(COVERAGES),
      "half_width": dict(zip(task.outputs, each)),
    }
  from scipy.optimize import minimize_scalar  # not needed to predict

  mean = lambda t: np.nanmean(_sharpened(task, predictions, t), 0)
  loss = lambda t: _negative_log_likelihood(task, mean(t), target)
  found = minimize_scalar(lambda log_t: loss(math.exp(log_t)), bounds=(-3, 3), method="bounded")
  temperature = math.exp(found.x) if found.fun < loss(1.0) else 1.0
  both = (1.0, temperature)
  return {
    "kind": "temperature",
    "samples": len(target),
    "temperature": temperature,
    "negative_log_likelihood": [loss(t) for t in both],
    "calibration_error": [_calibration_error(task, mean(t), target) for t in both],
  }


def calibrate(task: Task, fitted: Mapping[str, Any], predictions: np.ndarray) -> np.ndarray:
  """Calibrated predictions of each run, `[R N C]` as given. Values are not changed."""
  if task.kind == "regression":
    return predictions
  return _sharpened(task, predictions, fitted["temperature"])


def half_widths(task: Task, fitted: Mapping[str, Any], coverage: float) -> np.ndarray:
  """Half widths of the intervals that hold the value of each output with this probability, `[C]`.

  Raises:
    InputError: the coverage is not one of `COVERAGES`, or needs more held-back samples than there were.
  """
  near = [k for k, known in enumerate(fitted["coverage"]) if math.isclose(known, coverage, abs_tol=1e-9)]
  if not near:
    raise InputError(f"coverage={coverage:g} is not allowed; 0.01, 0.02 and so on up to 0.99")
  found = [fitted["half_width"][name][near[0]] for name in task.outputs]
  if None in found:
    raise InputError(
      f"coverage={coverage:g} needs more held-back samples than the {fitted['samples']} of this model; "
      f"up to {math.floor(100 * fitted['samples'] / (fitted['samples'] + 1)) / 100:g} is possible"
    )
  return np.array(found, np.float32)


def _sharpened(task: Task, p: np.ndarray, temperature: float) -> np.ndarray:
  """Probabilities `[... C]` whose logarithms (of labels: logits) are divided by a temperature."""
  log = np.log(np.maximum(p, _LEAST)) / temperature
  if task.kind == "multilabel":
    other = np.log(np.maximum(1 - p, _LEAST)) / temperature
    with np.errstate(over="ignore"):
      return 1 / (1 + np.exp(other - log))
  powers = np.exp(log - log.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def _negative_log_likelihood(task: Task, p: np.ndarray, target: np.ndarray) -> float:
  if task.kind == "multilabel":
    p, target = _events(task, p, target)
    return float(-np.log(np.maximum(np.where(target, p, 1 - p), _LEAST)).mean())
  return float(-np.log(np.maximum(p[np.arange(len(p)), target], _LEAST)).mean())


def _events(task: Task, p: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Probabilities and whether the events happened: each label, or that the most probable class is right."""
  if task.kind == "multilabel":
    return p.ravel(), target.ravel() > 0
  return p.max(1), p.argmax(1) == target


def _calibration_error(task: Task, p: np.ndarray, target: np.ndarray, bins: int = 10) -> float:
  """The expected calibration error over bins of equal width (Naeini et al. 2015)."""
  p, event = _events(task, p, target)
  at = np.minimum((p * bins).astype(int), bins - 1)
  return float(np.abs(np.bincount(at, p - event, bins)).sum() / len(p))
