"""What each sensor predicts alone on a run's test part, scored: the content of results.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from colearn_jax.data.dataset import Index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import metrics, results
from colearn_jax.parallel import processes as distributed
from colearn_jax.types import Task

Predictions = dict[
  str, dict[str, np.ndarray]
]  # of one run: {"prediction" | "specific" | "shared": {m: [n C]}}


def evaluate(task: Task, index: Index, runs: Sequence[Run], predictions: Sequence[Predictions]) -> dict:
  """Every score of every sensor alone, of their ensemble, and of the auxiliary heads, over the runs.

  Each is scored on the samples that it has seen, `samples` of them; a run whose test part has none of them
  has no figures of it.

  Args:
    task: of the data set.
    index: of all its samples.
    runs: the trainings.
    predictions: of each run's test part, in its order.

  Returns:
    `modalities`, `ensemble` and `auxiliary` of results.json.
  """
  targets = [index.target[run.test] for run in runs]
  over_runs = lambda pick: _summary(task, [pick(p) for p in predictions], targets)
  names = list(predictions[0]["prediction"])
  auxiliary = {
    m: {part: over_runs(lambda p, m=m, part=part: p[part][m]) for part in ("specific", "shared")}
    for m in predictions[0]["specific"]
  }
  return {
    "modalities": {m: over_runs(lambda p, m=m: p["prediction"][m]) for m in names},
    "ensemble": over_runs(lambda p: metrics.ensemble(p["prediction"])),
    "auxiliary": auxiliary,
  }


def write(
  directory: Path, task: Task, index: Index, runs: Sequence[Run], predictions: Sequence[Predictions]
) -> dict:
  """Scores every setting of the runs, and writes down their predictions, an ablation's in its own directory.

  Returns:
    What `evaluate` does of the configuration itself, and under `ablations` of each of them, if there are any.
  """
  scored = {}
  for setting in dict.fromkeys(run.setting for run in runs):
    mine = [k for k, run in enumerate(runs) if run.setting == setting]
    own = [runs[k] for k in mine], [predictions[k] for k in mine]
    scored[setting] = evaluate(task, index, *own)
    if distributed.first():
      write_predictions(directory / setting, task, index, *own)
  return scored.pop("") | ({"ablations": scored} if scored else {})


def _summary(task: Task, predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict:
  scores = []
  for prediction, target in zip(predictions, targets):
    seen = ~np.isnan(prediction).all(1)
    one = metrics.scores(task, prediction[seen], target[seen]) if seen.any() else None
    scores.append(one and {**one, "samples": int(seen.sum())})
  if not (known := [one for one in scores if one is not None]):
    return {}
  undefined = jax.tree.map(lambda value: 0 if isinstance(value, int) else np.nan, known[0])
  return results.summarise([undefined if one is None else one for one in scores])


def write_predictions(
  directory: Path, task: Task, index: Index, runs: Sequence[Run], predictions: Sequence[Predictions]
) -> None:
  """Writes `<modality>.csv` with the test predictions of all runs."""
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
      np.concatenate([p["prediction"][m] for p in predictions]),
      task,
    )
