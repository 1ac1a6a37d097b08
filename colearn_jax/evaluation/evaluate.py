"""Scores the predictions of all runs on their test parts, and writes the predictions as CSV files.

`write` is what training calls after its last run. `evaluate` scores the runs of one setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from colearn_jax.data.reader import Index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import metrics, results
from colearn_jax.evaluation.results import Scores
from colearn_jax.parallel import processes
from colearn_jax.storage import manifest
from colearn_jax.types import Task

# Predictions of one run, {head: {predictor: [n C]}}. There is always a head named `prediction`. A row is NaN
# if a sensor that the predictor needs is absent.
Predictions = Mapping[str, Mapping[str, np.ndarray]]


def evaluate(
  task: Task,
  index: Index,
  runs: Sequence[Run],
  predictions: Sequence[Predictions],
  predictors: Mapping[str, Sequence[str]],
) -> Scores:
  """Scores every predictor, the ensemble of all one-sensor predictors, and every further head.

  A predictor is scored on the labelled samples that have all its sensors. Their number is the score
  `samples`. Runs without such a test sample are left out of the statistics.

  Args:
    task: task of the data set.
    index: index of all samples of the data set.
    runs: folds and seeds of one setting.
    predictions: for each run, the predictions for `run.test`, in this order.
    predictors: for each predictor, the sensors that it needs.

  Returns:
    The scores. A head named `auxiliary_<name>` appears as `<name>`.
  """
  targets = [index.target[run.test] for run in runs]

  def over_runs(select: Callable[[Predictions], np.ndarray]) -> dict:
    return _summary(task, [select(one) for one in predictions], targets)

  def over_head(head: str, predictor: str) -> dict:
    return over_runs(lambda one: one[head][predictor])

  # The order of `predictors` is used, because jit sorts the keys of predictions.
  names = [m for m in predictors if m in predictions[0]["prediction"]]
  each = {m: over_head("prediction", m) for m in names}
  alone = [m for m in each if len(predictors[m]) == 1]
  auxiliary: dict[str, dict] = {}
  for head in predictions[0]:
    if head != "prediction":
      for m in filter(predictions[0][head].__contains__, predictors):
        auxiliary.setdefault(m, {})[head.removeprefix("auxiliary_")] = over_head(head, m)
  ensemble = lambda one: metrics.ensemble({m: one["prediction"][m] for m in alone})
  return Scores(
    modalities={m: each[m] for m in alone},
    combinations={m: scores for m, scores in each.items() if m not in alone},
    ensemble=over_runs(ensemble) if alone else {},
    auxiliary=auxiliary,
  )


def write(
  directory: Path,
  task: Task,
  index: Index,
  runs: Sequence[Run],
  predictions: Sequence[Predictions],
  predictors: Mapping[str, Sequence[str]],
) -> tuple[Scores, dict[str, Scores]]:
  """Scores the configured runs and those of every ablation, and writes their predictions.

  Predictions go to `<directory>/<predictor>.csv`, those of an ablation to
  `<directory>/<ablation>/<predictor>.csv`. The checksums of all of them are written last.

  Returns:
    The scores of the configured runs, and those of each ablation by name.
  """
  if processes.first():
    (directory / manifest.NAME).unlink(missing_ok=True)
  scored = {}
  for setting in dict.fromkeys(run.ablation for run in runs):
    mine = [k for k, run in enumerate(runs) if run.ablation == setting]
    own = [runs[k] for k in mine], [predictions[k] for k in mine]
    scored[setting] = evaluate(task, index, *own, predictors)
    if processes.first():
      write_predictions(directory / setting, task, index, *own)
  if processes.first():
    manifest.write(directory)
  return scored.pop(""), scored


def _summary(task: Task, predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict:
  """Statistics over the runs. In a run without a sample that has the sensors, all scores are undefined."""
  scores = []
  for prediction, target in zip(predictions, targets, strict=True):
    known = target >= 0 if target.ndim == 1 else np.isfinite(target).all(1)
    seen = known & ~np.isnan(prediction).all(1)
    one = metrics.scores(task, prediction[seen], target[seen]) if seen.any() else None
    scores.append(one and {**one, "samples": int(seen.sum())})
  if not (known := [one for one in scores if one is not None]):
    return {}
  # Without samples, counts (support, samples, confusion matrix) are 0.
  undefined = jax.tree.map(lambda value: 0 if isinstance(value, int) else np.nan, known[0])
  return results.summarise([undefined if one is None else one for one in scores])


def write_predictions(
  directory: Path, task: Task, index: Index, runs: Sequence[Run], predictions: Sequence[Predictions]
) -> None:
  """Writes `<predictor>.csv` with the test predictions of all runs, for every predictor."""
  directory.mkdir(parents=True, exist_ok=True)
  rows = np.concatenate([run.test for run in runs])
  of_run = lambda field: np.concatenate([np.full(len(run.test), getattr(run, field)) for run in runs])
  for m in predictions[0]["prediction"]:
    results.write_predictions(
      directory / f"{m}.csv",
      index.ids[rows],
      of_run("seed"),
      of_run("fold"),
      index.target[rows],
      np.concatenate([one["prediction"][m] for one in predictions]),
      task,
    )
