"""Learners of scikit-learn, such as ExtraTrees, on the values of one sensor, on the context, or on both.

Each run (seed and fold) and each predictor chooses a setting by its own validation part. Test parts are only
predicted.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import describe, make_reader, read_index, read_table
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, metrics
from colearn_jax.evaluation.results import Results
from colearn_jax.methods.base import Samples
from colearn_jax.methods.configured import encoder_settings
from colearn_jax.methods.learners import Learner
from colearn_jax.methods.tabular import tabulated
from colearn_jax.plan import LEARNERS, Trees
from colearn_jax.storage import files
from colearn_jax.studies import embeddings
from colearn_jax.training import setup, work_directory
from colearn_jax.types import CONTEXT, InputError


def learners(grid: Mapping[str, Mapping[str, Sequence]], balanced: bool = False) -> list[Learner]:
  """All combinations of the values of each learner.

  Raises:
    InputError: there is no such learner.
  """
  out = []
  for name, values in grid.items():
    if name not in LEARNERS:
      raise InputError(f"trees: unknown learner {name!r}, have: {', '.join(LEARNERS)}")
    for chosen in itertools.product(*values.values()):
      out.append(Learner(name, dict(zip(values, chosen)), balanced))
  return out


def train(config: ConfigDict, workdir: Path, *, kind: str, trees: Trees, metric: str) -> Results:
  """Fits the learners of every run, and writes the files of a work directory and `chosen.json`.

  Runs that were finished before an interruption are not fitted again.

  Args:
    config: the groups `data` and `protocol`, and `loss.class_weights`, are used; for embeddings also the
      encoders.
    workdir: the work directory.
    kind: `trees` or `context`, see `plan.Arm`.
    trees: the settings to try.
    metric: the score that is used for the choice.

  Raises:
    InputError: the configuration does not fit the data, or has no validation part or no context; or see
      `embeddings.embed`.
  """
  began = time.monotonic()
  if kind == "context" and not config.data.context:
    raise InputError("an arm of kind context needs data.context")
  work_directory.claim(config, workdir)
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  modalities = setup.make_modalities(config, dataset)
  index = read_index(dataset)
  runs = setup.make_runs(config, dataset, index)
  work_directory.describe(workdir, describe(dataset, modalities, index), ())

  table = read_table(make_reader(dataset, modalities))
  samples = Samples(table["inputs"], table["present"], index.target, index.labelled, dataset.task)
  embedded: Mapping[str, np.ndarray] = {}
  weights: dict[str, dict[str, str]] = {}
  if "embedding" in trees.inputs:
    sensors = {m.name: encoder_settings(config, m.name, m.shape) for m in modalities if m.name != CONTEXT}
    weights = work_directory.keep_weights(workdir, sensors)
    embedded = embeddings.embed(config, modalities, table["inputs"])
  months = {m.name for m in modalities if m.months}
  inputs = _inputs(samples, kind, months, embedded, bands="bands" in trees.inputs)
  tried = learners(trees.grid, config.loss.class_weights == "balanced")
  fit = functools.partial(fit_run, samples, inputs, tried, refit=trees.refit, metric=metric)
  done = [_kept(workdir / "training" / run.name, functools.partial(fit, run)) for run in runs]

  names = CONTEXT if kind == "context" else config.data.modalities
  predictors = {name: (name,) for name in ((names,) if isinstance(names, str) else names)}
  predictions = [{"prediction": one} for one, _ in done]
  scores, _ = evaluate.write(workdir / "predictions", dataset.task, index, runs, predictions, predictors)
  chosen = {"metric": metric, "per": "run", "refit": trees.refit}
  chosen |= {"candidates": [{"learner": one.name, **one.settings} for one in tried]}
  files.write_json(
    workdir / "chosen.json",
    chosen | {"runs": {run.name: facts["choice"] for run, (_, facts) in zip(runs, done)}},
  )
  seconds = {run.name: facts["seconds"] for run, (_, facts) in zip(runs, done)}
  summary = Results(
    dataset=dataset.name,
    task=dataset.task.kind,
    method=kind,
    scores=scores,
    protocol=config.protocol.name,
    split=config.protocol.split,
    group_by=config.protocol.group_by,
    seeds=tuple(config.protocol.seeds),
    folds=len({run.fold for run in runs}),
    weights=weights,
    timing={
      "seconds": time.monotonic() - began,
      "runs": {
        run.name: {"seed": run.seed, "fold": run.fold, "ablation": "", "seconds": seconds[run.name]}
        for run in runs
      },
    },
  )
  summary.write(workdir / "results.json")
  shutil.rmtree(workdir / "training")
  return summary


def fit_run(
  samples: Samples,
  inputs: Mapping[str, tuple[np.ndarray, np.ndarray]],
  tried: Sequence[Learner],
  run: Run,
  *,
  refit: bool,
  metric: str,
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
  """Chooses a learner for each predictor on the validation part of a run, and predicts the test part.

  Args:
    samples: all samples.
    inputs: for each predictor its values `[N F]`, and which samples it can predict, `[N]` bool.
    tried: the learners to choose from.
    run: the run.
    refit: see `plan.Trees`.
    metric: the score that is used for the choice.

  Returns:
    By predictor: predictions for the test part `[n C]`, NaN for samples that it cannot predict; and
    `{"chosen": number of the learner, "scores": of all learners}`.

  Raises:
    InputError: the validation part is the test part, or it is empty and there are several learners; or no
      training sample has the sensor.
  """
  if len(tried) > 1 and not len(run.validation):
    raise InputError(f"{run.name}: trees choose on a validation part; protocol.validation_fraction > 0")
  if np.isin(run.validation, run.test).any():
    raise InputError(f"{run.name}: trees need a validation part that is not scored; protocol.name=clean")
  task, target, out, choice = samples.task, samples.target, {}, {}
  sign = -1.0 if metric in metrics.LOWER_IS_BETTER else 1.0
  for name, (x, present) in inputs.items():
    usable = present & samples.labelled
    train, validation = run.train[usable[run.train]], run.validation[usable[run.validation]]
    if not len(train):
      raise InputError(f"{run.name}: no labelled sample of the training part has {name}")
    scores: list[float | None] = []
    for learner in tried if len(tried) > 1 and len(validation) else ():
      predicted = learner.predict(task, x[train], target[train], x[validation], run.seed)
      score = metrics.scores(task, predicted, target[validation])[metric]
      scores.append(score if np.isfinite(score) else None)
    known = [k for k, score in enumerate(scores) if score is not None]
    best = max(known, key=lambda k: sign * scores[k], default=0)  # type: ignore[operator]  # not None
    if refit:
      train = np.concatenate([train, validation])
    rows = run.test[present[run.test]]
    out[name] = np.full((len(run.test), len(task.outputs)), np.nan, np.float32)
    if len(rows):
      out[name][present[run.test]] = tried[best].predict(task, x[train], target[train], x[rows], run.seed)
    choice[name] = {"chosen": best, "scores": scores}
  return out, choice


def _inputs(
  samples: Samples,
  kind: str,
  months: Collection[str] = (),
  embedded: Mapping[str, np.ndarray] | None = None,
  bands: bool = True,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """The values of each predictor as columns `[N F]`, and the samples that have its sensor, `[N]` bool.

  Args:
    samples: all samples.
    kind: `trees` or `context`.
    months: sensors whose last band is the month of the step, which is left out.
    embedded: embeddings `[N D]` by sensor, which are read as well.
    bands: whether the values of the sensors are read.
  """
  every = np.arange(len(samples.target))

  def columns(*names: str) -> np.ndarray:
    own = {n: samples.inputs[n][..., :-1] if n in months else samples.inputs[n] for n in names}
    return tabulated(dataclasses.replace(samples, inputs=own, present={}), every)

  context = [CONTEXT] if CONTEXT in samples.inputs else []
  if kind == "context":
    return {CONTEXT: (columns(CONTEXT), np.ones(len(every), bool))}
  out = {}
  for m, there in samples.present.items():
    read = [m, *context] if bands else context
    parts = ([columns(*read)] if read else []) + ([embedded[m]] if embedded else [])
    out[m] = np.concatenate(parts, axis=1), np.asarray(there) > 0
  return out


def _kept(path: Path, fit: Any) -> tuple[dict[str, np.ndarray], dict]:
  """The result of `fit` for a run, from its file if there is one, and facts about it as JSON."""
  path = path.with_name(f"{path.name}.npz")
  if not path.is_file():
    began = time.monotonic()
    predictions, choice = fit()
    facts = json.dumps({"choice": choice, "seconds": time.monotonic() - began})
    with files.replacing(path, binary=True) as file:
      np.savez(file, facts=facts, **{f"of_{name}": values for name, values in predictions.items()})
  with np.load(path, allow_pickle=False) as found:
    predictions = {name[3:]: found[name] for name in found.files if name != "facts"}
    return predictions, json.loads(str(found["facts"]))
