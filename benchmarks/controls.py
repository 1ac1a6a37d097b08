"""What a training's scores are to be seen beside, on the same folds: chance, and a tree ensemble.

    python -m benchmarks.controls --config=configs/cropharvest.py:multi --workdir=runs/cropharvest \
        --config.data.manual_dir=DIR

trains the configuration in the work directory (or finds it trained there) and prints, for every sensor: its
scores; those of the same training on labels that were dealt out anew among all samples; of the most frequent
class (or the mean target) of the training part; and of scikit-learn's ExtraTrees (300 trees, two samples a
leaf, balanced classes) on the sensor's values, flattened.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from colearn_jax import config as config_lib
from colearn_jax import main
from colearn_jax.data import dataset as data
from colearn_jax.data import reader as readers
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, metrics
from colearn_jax.training import checkpoint
from colearn_jax.training import run as train
from colearn_jax.training import setup as plan
from colearn_jax.training.log import Log
from colearn_jax.types import InputError, Modality, Task


def trees(task: Task, seed: int) -> BaseEstimator:
  """ExtraTrees for a task."""
  settings = {"n_estimators": 300, "min_samples_leaf": 2, "n_jobs": -1, "random_state": seed}
  if task.kind == "regression":
    return ExtraTreesRegressor(**settings)
  return ExtraTreesClassifier(class_weight="balanced", **settings)


def constant(task: Task, _: int) -> BaseEstimator:
  """The mean target, or the most frequent class."""
  return DummyRegressor() if task.kind == "regression" else DummyClassifier(strategy="most_frequent")


def estimate(
  make: Callable[[Task, int], BaseEstimator], task: Task, table: readers.Table, index: readers.Index, run: Run
) -> evaluate.Predictions:
  """What an estimator of each sensor predicts for a run's test part; what is missing is 0 after z-scoring."""
  out, train_rows = {}, run.train[index.labelled[run.train]]
  for m, x in table["inputs"].items():
    there = table["present"][m] > 0
    rows = train_rows[there[train_rows]]
    x = x.reshape(len(x), -1).astype(np.float32)
    mean, std = np.nanmean(x[rows], 0), np.nanstd(x[rows], 0)
    x = np.nan_to_num((x - mean) / np.where(std > 0, std, 1.0))
    target = index.target[rows]
    estimator = make(task, run.seed).fit(x[rows], target[:, 0] if target.shape[1:] == (1,) else target)
    out[m] = np.full((len(run.test), len(task.outputs)), np.nan, np.float32)
    out[m][there[run.test]] = _outputs(task, estimator, x[run.test[there[run.test]]])
  return {"prediction": out, "specific": {}, "shared": {}}


def _outputs(task: Task, estimator: BaseEstimator, x: np.ndarray) -> np.ndarray:
  if task.kind == "regression":
    return estimator.predict(x).reshape(len(x), -1)
  probability = estimator.predict_proba(x)
  if task.one_class:
    out = np.zeros((len(x), len(task.outputs)))
    out[:, estimator.classes_] = probability
    return out
  one = lambda p, classes: p[:, list(classes).index(1)] if 1 in classes else np.zeros(len(p))
  return np.stack([one(p, c) for p, c in zip(probability, estimator.classes_)], 1)


def on_random_labels(
  config: ConfigDict, dataset: data.Dataset, modalities: list[Modality], index: readers.Index, runs: list[Run]
) -> list[evaluate.Predictions]:
  """What the configured training predicts after labels were dealt out anew."""
  known = np.flatnonzero(index.labelled)
  target = index.target.copy()
  target[known] = target[np.random.default_rng(0).permutation(known)]
  recipe = plan.make_recipe(config, dataset.task, modalities)
  feed = plan.make_feed(config, recipe, dataset, modalities, dataclasses.replace(index, target=target))
  pretrained = functools.cache(lambda: plan.load_pretrained(config, modalities))
  with tempfile.TemporaryDirectory() as directory, Log(directory) as log:
    for run in runs:
      train.fit(config, recipe, feed, [run], Path(directory), log, pretrained)
    models = [checkpoint.restore_model(Path(directory) / "checkpoints" / run.name) for run in runs]
  return [feed.predict(model, run.test) for model, run in zip(models, runs)]


def run(config: ConfigDict, workdir: Path) -> str:
  """The table, as Markdown."""
  ours = train.run(config, workdir)
  dataset = data.open_dataset(plan.prepare(config), config_lib.series_settings(config))
  modalities = [dataset.modality(name) for name in config.data.modalities]
  index = readers.read_index(dataset)
  runs = [run for run in plan.make_runs(config, dataset, index) if not run.setting]
  table = readers.read_table(readers.make_reader(dataset, modalities))
  of = lambda make: [estimate(make, dataset.task, table, index, run) for run in runs]
  score = lambda predictions: evaluate.evaluate(dataset.task, index, runs, predictions)["modalities"]
  rows = {
    f"{config.method}, {config.model.variant} variant": ours["modalities"],
    "the same on random labels": score(on_random_labels(config, dataset, modalities, index, runs)),
    "mean target" if dataset.task.kind == "regression" else "most frequent class": score(of(constant)),
    "ExtraTrees": score(of(trees)),
  }
  names, headline = config.data.modalities, metrics.HEADLINE[dataset.task.kind][:2]
  lines = [f"| {' / '.join(headline)} | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
  cell = lambda stats: "-" if stats["mean"] is None else f"{stats['mean']:.3f} ± {stats['std']:.3f}"
  for method, scored in rows.items():
    cells = [" / ".join(cell(scored[m][metric]) for metric in headline) for m in names]
    lines.append(f"| {method} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


if __name__ == "__main__":
  main.define()
  try:
    app.run(lambda values: print("\n" + run(values.config, Path(values.workdir))), flags_parser=main.parse)
  except InputError as error:
    sys.exit(str(error))
