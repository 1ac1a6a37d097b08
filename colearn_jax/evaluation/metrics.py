"""Computes the scores of predictions with scikit-learn, from NumPy arrays to plain Python numbers.

`scores` computes all scores that suit the kind of the task. `ensemble` averages the predictions of several
sensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epy

from colearn_jax.types import InputError, Task

with epy.lazy_imports():  # slow to load, and not needed before the first score
  from sklearn import metrics as sk

# Columns of the printed table by kind of task. The first one is the main score.
HEADLINE = {
  "regression": ("r2", "rmse", "mae"),
  "binary": ("f1_macro", "average_accuracy", "accuracy"),
  "multiclass": ("f1_macro", "average_accuracy", "accuracy"),
  "multilabel": ("f1_micro", "f1_macro", "map"),
}
LOWER_IS_BETTER = ("rmse", "rrmse", "mae", "median_ae", "mape")
_EACH = ("precision", "recall", "f1", "support")  # in the order of scikit-learn's result


def scores(task: Task, prediction: np.ndarray, target: np.ndarray) -> dict:
  """Computes every score of one set of predictions.

  Undefined scores are NaN: R² and Pearson's r of a constant, MAPE of a target with zeros, kappa of a single
  class, and scores of a class that occurs neither in the target nor in the prediction. A 0/0 inside
  precision, recall or F1 counts as 0.

  Args:
    task: its kind determines the scores, its outputs are the names of the columns.
    prediction: regression: `[N K]` in the target's unit; binary and multiclass: `[N C]` class
      probabilities, the largest is the predicted class; multilabel: `[N K]` probabilities, predicted if >=
      0.5.
    target: regression: `[N K]`; binary and multiclass: `[N]` class indices; multilabel: `[N K]` of 0 and 1.

  Returns:
    A nested dict of floats, ints and, for a confusion matrix (rows are the truth), lists of lists.
    - regression: `r2`, `rmse`, `rrmse` (RMSE / |mean y|), `mae`, `median_ae`, `mape` (a fraction),
      `bias` (mean of prediction - target) and `pearson_r`; with several targets these are the means over
      the targets, and `per_output` has the scores of each. The authors' program prints RMSE / sqrt(mean y)
      as relative RMSE: multiply `rrmse` by sqrt(mean y) to compare.
    - binary, multiclass: `accuracy`, `kappa`, `{f1,precision,recall}_{macro,weighted}` over the classes
      that occur in the target or the prediction, `average_accuracy` (mean recall of the classes that
      occur in the target), `per_class` and `confusion_matrix` of all classes.
    - multilabel: `{f1,precision,recall}_{micro,macro,weighted}` and `per_class` of all labels, and `map`,
      the mean average precision of the labels that occur in the target.

  Raises:
    InputError: there are no samples, shapes do not fit the task, values are not finite, or targets are out of
      range.
  """
  prediction, target = np.asarray(prediction), np.asarray(target)
  n, columns = len(target), (len(task.outputs),)
  if prediction.shape != (n, *columns) or target.shape != ((n,) if task.one_class else (n, *columns)):
    raise InputError(
      f"{task.kind} with {columns[0]} outputs cannot score prediction {prediction.shape} "
      f"against target {target.shape}, have: [N K] and {'[N]' if task.one_class else '[N K]'}"
    )
  if n == 0:
    raise InputError("no samples to score: prediction and target are empty")
  for name, values in (("prediction", prediction), ("target", target)):
    bad = np.flatnonzero(~np.isfinite(values.reshape(n, -1)).all(1))
    if bad.size:
      raise InputError(f"{name} is not finite in {bad.size} of {n} rows, first in row {bad[0]}")
  choices = (0, 1) if task.kind == "multilabel" else range(columns[0])
  if task.kind != "regression" and not np.isin(target, choices).all():
    wrong = target[~np.isin(target, choices)][0]
    raise InputError(f"{task.kind} target has the value {wrong}, allowed: {min(choices)} to {max(choices)}")
  with warnings.catch_warnings():
    # Some versions of scikit-learn warn if there are many classes in few samples, or only one class.
    warnings.simplefilter("ignore", UserWarning)
    if task.kind == "regression":
      return _regression(task, prediction.astype(np.float64), target.astype(np.float64))
    target = target.astype(np.int64)
    if task.kind == "multilabel":
      return _multilabel(task, prediction.astype(np.float64), target)
    return _classification(task, prediction.argmax(1), target)


def _regression(task: Task, prediction: np.ndarray, target: np.ndarray) -> dict:
  """Scores of `[N K]` float64."""

  def column(p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    constant, mean = np.ptp(y) == 0, np.mean(y)
    rmse = float(sk.root_mean_squared_error(y, p))
    defined = not constant and np.ptp(p) > 0
    return {
      "r2": np.nan if constant else float(sk.r2_score(y, p)),
      "rmse": rmse,
      "rrmse": rmse / abs(float(mean)) if mean else np.nan,
      "mae": float(sk.mean_absolute_error(y, p)),
      "median_ae": float(sk.median_absolute_error(y, p)),
      "mape": float(sk.mean_absolute_percentage_error(y, p)) if y.all() else np.nan,
      "bias": float(np.mean(p - y)),
      "pearson_r": float(np.corrcoef(p, y)[0, 1]) if defined else np.nan,
    }

  each = {name: column(prediction[:, k], target[:, k]) for k, name in enumerate(task.outputs)}
  if len(each) == 1:
    return next(iter(each.values()))
  first = next(iter(each.values()))
  return {m: float(np.mean([c[m] for c in each.values()])) for m in first} | {"per_output": each}


def _classification(task: Task, predicted: np.ndarray, target: np.ndarray) -> dict:
  """Scores of class indices `[N]`."""
  labels, occur = np.arange(len(task.outputs)), np.union1d(target, predicted)
  out: dict[str, Any] = {
    "accuracy": float(sk.accuracy_score(target, predicted)),
    "kappa": float(sk.cohen_kappa_score(target, predicted)) if len(occur) > 1 else np.nan,
  }
  # Classes that do not occur in this fold are left out: they would count as 0 and lower the mean.
  out |= _averages(target, predicted, occur, ("macro", "weighted"))
  each = np.array(sk.precision_recall_fscore_support(target, predicted, labels=labels, zero_division=0))
  out["average_accuracy"] = float(each[1][each[3] > 0].mean())
  each[:3, ~np.isin(labels, occur)] = np.nan
  out["per_class"] = _named(task, each)
  out["confusion_matrix"] = sk.confusion_matrix(target, predicted, labels=labels).tolist()
  return out


def _multilabel(task: Task, probability: np.ndarray, target: np.ndarray) -> dict:
  """Scores of `[N K]` probabilities against 0 and 1."""
  predicted = (probability >= 0.5).astype(np.int64)
  labels = np.arange(len(task.outputs))
  y, p = target, predicted
  if len(labels) == 1:  # scikit-learn treats one column as two classes; score class 1 only
    y, p, labels = target[:, 0], predicted[:, 0], np.array([1])
  out = _averages(y, p, labels, ("micro", "macro", "weighted"))
  each = np.array(sk.precision_recall_fscore_support(y, p, labels=labels, zero_division=0))
  precision = [
    float(sk.average_precision_score(t, q)) if t.any() else np.nan
    for t, q in zip(target.T, probability.T, strict=True)
  ]
  known = [a for a in precision if not np.isnan(a)]
  out["map"] = float(np.mean(known)) if known else np.nan
  each[:3, ~(target.any(0) | predicted.any(0))] = np.nan
  out["per_class"] = _named(task, each)
  for name, a in zip(task.outputs, precision, strict=True):
    out["per_class"][name]["average_precision"] = a
  return out


def _averages(target: np.ndarray, predicted: np.ndarray, labels: np.ndarray, averages: tuple) -> dict:
  """`{f1,precision,recall}_<average>` over `labels`."""
  out: dict[str, Any] = {}
  for average in averages:
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
      target, predicted, labels=labels, average=average, zero_division=0
    )
    figures = {"f1": f1, "precision": precision, "recall": recall}
    out |= {f"{name}_{average}": float(value) for name, value in figures.items()}
  return out


def _named(task: Task, each: np.ndarray) -> dict:
  """Converts `[4 C]` in the order of `_EACH` to `{class: {score: value}}`."""
  out: dict[str, Any] = {
    name: dict(zip(_EACH, map(float, each[:, k]), strict=True)) for k, name in enumerate(task.outputs)
  }
  for row in out.values():
    row["support"] = int(row["support"])
  return out


def ensemble(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
  """Averages the predictions of several sensors for the same samples.

  Args:
    predictions: regression outputs or probabilities `[N K]` of each sensor. A row of NaN means that the
      sensor is absent. It is left out of the mean.

  Returns:
    `[N K]` in the dtype of the inputs. A row is NaN if all sensors are absent.

  Raises:
    InputError: there are no sensors, or their shapes differ.
  """
  shapes = {name: np.shape(p) for name, p in predictions.items()}
  if len(set(shapes.values())) != 1:
    raise InputError(f"an ensemble needs one shape of all sensors, have: {shapes or 'no sensors'}")
  stack = np.stack(list(predictions.values()))
  # Only a row that is all NaN means absence. A single NaN is an error and must stay visible.
  there = ~np.isnan(stack).all(-1, keepdims=True)
  total = np.where(there, stack, 0).sum(0, dtype=np.float64)
  count = there.sum(0)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(stack.dtype)
