"""What the scores of a training are worth: beside chance and a tree ensemble on the same folds.

    python -m benchmarks.controls --config=cropharvest:multi --workdir=runs/cropharvest \
        --config.data.manual_dir=DIR

This trains the configuration in the work directory, or uses the finished training that is there. It prints
for every sensor the scores of

- the training,
- the same training on labels that were shuffled among all labelled samples,
- the most frequent class (or the mean target) of the training part,
- scikit-learn's ExtraTrees on the flattened values of the sensor: 300 trees, at least two samples a leaf,
  balanced classes.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import app
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from colearn_jax import config as config_lib
from colearn_jax import main
from colearn_jax.data.dataset import Dataset, open_dataset
from colearn_jax.data.reader import Index, Table, make_reader, read_index, read_table
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, metrics
from colearn_jax.methods.configured import make_method
from colearn_jax.storage import models
from colearn_jax.training import run as training
from colearn_jax.training import setup
from colearn_jax.training.log import Log
from colearn_jax.types import InputError, Task


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
  make: Callable[[Task, int], BaseEstimator], task: Task, table: Table, index: Index, run: Run
) -> evaluate.Predictions:
  """What an estimator of each sensor predicts for a run's test part.

  Values are standardised with the training part; missing ones become 0.
  """
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
  return {"prediction": out}


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
  config: ConfigDict, dataset: Dataset, index: Index, runs: Sequence[Run]
) -> list[evaluate.Predictions]:
  """What the configured training predicts after its labels were shuffled."""
  known = np.flatnonzero(index.labelled)
  target = index.target.copy()
  target[known] = target[np.random.default_rng(0).permutation(known)]
  modalities = setup.make_modalities(config, dataset)
  recipe = setup.make_recipe(config, dataset.task, modalities)
  shuffled = dataclasses.replace(index, target=target)
  samples = setup.make_samples(config, recipe, dataset, modalities, shuffled)
  pretrained = functools.cache(lambda: setup.load_pretrained(recipe.network))
  with tempfile.TemporaryDirectory() as directory, Log(directory) as log:
    for run in runs:
      training.fit(config, samples, [run], Path(directory), log, lambda run: {}, pretrained)
    finished = [models.restore(Path(directory) / "checkpoints" / run.name) for run in runs]
  return [samples.predict(model, run.test) for model, run in zip(finished, runs, strict=True)]


def compare(config: ConfigDict, workdir: Path) -> str:
  """The table, as Markdown.

  Raises:
    InputError: the method needs others that are trained first.
  """
  method = make_method(config)
  if method.requires:
    raise InputError(f"method={config.method} needs teachers; the controls are for methods without any")
  ours = training.run(config, workdir)
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  index = read_index(dataset)
  runs = [run for run in setup.make_runs(config, dataset, index) if not run.ablation]
  sensors = [dataset.modality(name) for name in config.data.modalities]
  table = read_table(make_reader(dataset, sensors))
  alone = {name: (name,) for name in config.data.modalities}

  def scores_of(make):
    predictions = [estimate(make, dataset.task, table, index, run) for run in runs]
    return evaluate.evaluate(dataset.task, index, runs, predictions, alone).modalities

  random = on_random_labels(config, dataset, index, runs)
  predictors = method.predictors(config.data.modalities)
  variant = config.loss.get("variant")
  rows = {
    config.method + (f", {variant} variant" if variant else ""): ours.scores.modalities,
    "the same on random labels": evaluate.evaluate(dataset.task, index, runs, random, predictors).modalities,
    "mean target" if dataset.task.kind == "regression" else "most frequent class": scores_of(constant),
    "ExtraTrees": scores_of(trees),
  }
  names, headline = list(ours.scores.modalities), metrics.HEADLINE[dataset.task.kind][:2]
  lines = [f"| {' / '.join(headline)} | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
  for name, scored in rows.items():
    cells = [" / ".join(_cell(scored[m][metric]) for metric in headline) for m in names]
    lines.append(f"| {name} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def _cell(stats: dict) -> str:
  if stats["mean"] is None:
    return "-"
  return f"{stats['mean']:.3f}" + ("" if stats["std"] is None else f" ± {stats['std']:.3f}")


if __name__ == "__main__":
  main.define()
  try:
    app.run(
      lambda command: print("\n" + compare(command.config, Path(command.flags.workdir).expanduser())),
      flags_parser=main.parse,
    )
  except InputError as error:
    sys.exit(str(error))
