"""Reads the predictions that a training wrote, and derives what figures show of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from colearn_jax.reporting.study import Arm
from colearn_jax.storage import manifest
from colearn_jax.types import InputError, Task


@dataclasses.dataclass(frozen=True)
class Predicted:
  """Labelled held-out samples of all runs with their predictions, of one predictor.

  Attributes:
    ids: `[n]` str.
    seed: `[n]` int.
    target: `[n K]`, or `[n]` class numbers.
    prediction: `[n K]` values or probabilities.
  """

  ids: np.ndarray
  seed: np.ndarray
  target: np.ndarray
  prediction: np.ndarray

  def of_first_seed(self) -> Predicted:
    """The samples of the first seed, so that cross-validation has each sample once."""
    keep = self.seed == self.seed[:1]
    return Predicted(*(getattr(self, field.name)[keep] for field in dataclasses.fields(self)))


def read(arm: Arm, predictor: str, task: Task) -> Predicted | None:
  """The predictions of an arm; None if there is no file, or no sample with a label and a prediction.

  Raises:
    InputError: the file was altered or damaged.
  """
  path: Path = arm.directory / "predictions" / arm.ablation / f"{predictor}.csv"
  if not path.is_file():
    return None
  try:
    manifest.check(arm.directory / "predictions", [(Path(arm.ablation) / path.name).as_posix()])
  except manifest.Damaged as error:
    raise InputError(f"{error}; run the training's command again, which writes it anew") from None
  names = [name.replace("\r", " ") for name in task.outputs]
  value = "prediction" if task.kind == "regression" else "probability"
  columns = [f"{value}_{name}" for name in names]
  targets = ["target"] if task.one_class else [f"target_{name}" for name in names]
  types = dict.fromkeys(columns, pa.float64()) | {"id": pa.string(), "seed": pa.int64()}
  types |= dict.fromkeys(targets, pa.string() if task.one_class else pa.float64())
  options = csv.ConvertOptions(
    column_types=types,
    include_columns=list(types),
    strings_can_be_null=False,
    null_values=["", "nan"],
  )
  parsing = csv.ParseOptions(newlines_in_values=True)
  table = csv.read_csv(path, convert_options=options, parse_options=parsing)
  column = lambda name: table[name].to_numpy(zero_copy_only=False)
  prediction = np.stack([column(name) for name in columns], 1)
  if task.one_class:
    number = {name: k for k, name in enumerate(names)}
    target = np.array([number.get(name, -1) for name in column("target")])
    known = target >= 0
  else:
    target = np.stack([column(name) for name in targets], 1)
    known = np.isfinite(target).all(1)
  keep = known & np.isfinite(prediction).all(1)
  if not keep.any():
    return None
  return Predicted(column("id")[keep].astype(str), column("seed")[keep], target[keep], prediction[keep])


def error(task: Task, found: Predicted) -> np.ndarray:
  """`[n]` the error of each sample: |prediction - target|, or 1 for a wrong class, or wrong labels."""
  if task.kind == "regression":
    return np.abs(found.prediction - found.target).mean(1)
  if task.one_class:
    return (found.prediction.argmax(1) != found.target).astype(float)
  return ((found.prediction >= 0.5) != (found.target > 0)).mean(1)


def certainty(task: Task, found: Predicted) -> tuple[np.ndarray, np.ndarray]:
  """Predicted probabilities, and whether the event happened, both `[m]`.

  Of several classes the event is that the most probable class is right; of two classes that the sample has
  the second class; of labels that it has the label.
  """
  p = found.prediction
  if task.kind == "multilabel":
    return p.ravel(), (found.target > 0).ravel()
  if task.kind == "binary":
    return p[:, 1], found.target == 1
  return p.max(1), p.argmax(1) == found.target


def calibration(p: np.ndarray, event: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, float]:
  """Mean probability and frequency of the event in bins of equal width, and the calibration error.

  Returns:
    The means and the frequencies of the bins that are not empty, and the mean of their absolute difference,
    weighted by the number of samples (expected calibration error, Naeini et al. 2015).
  """
  at = np.minimum((p * bins).astype(int), bins - 1)
  count = np.bincount(at, minlength=bins)
  some = count > 0
  mean = np.bincount(at, p, bins)[some] / count[some]
  frequency = np.bincount(at, event, bins)[some] / count[some]
  return mean, frequency, float(np.average(np.abs(mean - frequency), weights=count[some]))
