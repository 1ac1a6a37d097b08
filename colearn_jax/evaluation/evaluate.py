"""Scores what a method predicts on the test part of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from colearn_jax.data.reader import Index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import metrics, results
from colearn_jax.evaluation.results import Scores
from colearn_jax.parallel import processes
from colearn_jax.types import Task

# Of one run: {head: {predictor: [n C]}}. The head `prediction` is always there; a row is NaN where a sensor
# that the predictor needs is absent.
Predictions = Mapping[str, Mapping[str, np.ndarray]]


def evaluate(
  task: Task,
  index: Index,
  runs: Sequence[Run],
  predictions: Sequence[Predictions],
  predictors: Mapping[str, Sequence[str]],
) -> Scores:
  """Scores every predictor, the ensemble of those of one sensor, and every further head, over the runs.

  Each is scored on the samples that have its sensors; `samples` is their number. A run whose test part has
  no such sample is left out of the statistics.

  Args:
    task: of the data set.
    index: of all samples of the data set.
    runs: folds and seeds of one setting.
    predictions: for each run, of its test part in the order of `run.test`.
    predictors: the sensors that each predictor needs, by its name.

  Returns:
    The scores. A head `auxiliary_<name>` is called `<name>` there, any other by its own name.
  """
  targets = [index.target[run.test] for run in runs]

  def over_runs(select) -> dict:
    return _summary(task, [select(one) for one in predictions], targets)

  # In the order of `predictors`: the keys of predictions were sorted on their way through jit.
  names = [m for m in predictors if m in predictions[0]["prediction"]]
  each = {m: over_runs(lambda one, m=m: one["prediction"][m]) for m in names}
  alone = [m for m in each if len(predictors[m]) == 1]
  auxiliary: dict[str, dict] = {}
  for head in predictions[0]:
    if head != "prediction":
      for m in filter(predictions[0][head].__contains__, predictors):
        scores = over_runs(lambda one, head=head, m=m: one[head][m])
        auxiliary.setdefault(m, {})[head.removeprefix("auxiliary_")] = scores
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
) -> dict[str, Scores | dict[str, Scores]]:
  """Scores the runs as configured and every ablation, and writes the predictions of each.

  The predictions go to `<directory>/<predictor>.csv`, those of an ablation to
  `<directory>/<ablation>/<predictor>.csv`.

  Returns:
    `scores` and `ablations`, the fields of `Results` of these names.
  """
  scored = {}
  for setting in dict.fromkeys(run.ablation for run in runs):
    mine = [k for k, run in enumerate(runs) if run.ablation == setting]
    own = [runs[k] for k in mine], [predictions[k] for k in mine]
    scored[setting] = evaluate(task, index, *own, predictors)
    if processes.first():
      write_predictions(directory / setting, task, index, *own)
  return {"scores": scored.pop(""), "ablations": scored}


def _summary(task: Task, predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict:
  """The statistics over the runs; of a run without a sample that has the sensors every score is undefined."""
  scores = []
  for prediction, target in zip(predictions, targets, strict=True):
    seen = ~np.isnan(prediction).all(1)
    one = metrics.scores(task, prediction[seen], target[seen]) if seen.any() else None
    scores.append(one and {**one, "samples": int(seen.sum())})
  if not (known := [one for one in scores if one is not None]):
    return {}
  # Counts (support, samples, the confusion matrix) are 0 of no samples.
  undefined = jax.tree.map(lambda value: 0 if isinstance(value, int) else np.nan, known[0])
  return results.summarise([undefined if one is None else one for one in scores])


def write_predictions(
  directory: Path, task: Task, index: Index, runs: Sequence[Run], predictions: Sequence[Predictions]
) -> None:
  """Writes `<predictor>.csv` with the test predictions of all runs."""
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
