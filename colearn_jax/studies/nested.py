"""Finishes an arm whose settings were chosen for each run and predictor.

A run with its chosen settings was trained as a candidate already. Its model predicts the test part here, and
no training is needed; unless the candidates had a validation part of their own, see `plan.Choice`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import describe, read_index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate
from colearn_jax.evaluation.results import Results
from colearn_jax.storage import models
from colearn_jax.studies import choice
from colearn_jax.training import setup, work_directory


def finish(
  config: ConfigDict,
  workdir: Path,
  chosen: Mapping[str, Mapping[str, int]],
  candidates: Sequence[ConfigDict],
  *,
  again: bool = False,
) -> Results:
  """Predicts the test part of each run with the model of its candidate, and writes the results.

  Args:
    config: the configuration of the arm, without chosen values.
    workdir: the work directory of the arm.
    chosen: the number of the candidate by the name of the run and by predictor.
    candidates: the configurations of all candidates, with `protocol.scored=test`.
    again: whether the runs are trained again with them, in `again/<number>`.
  """
  began = time.monotonic()
  every = sorted({number for row in chosen.values() for number in row.values()})
  for number in every if again else ():
    choice.train(candidates[number], workdir / "again" / str(number))
  work_directory.claim(config, workdir)
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  modalities = setup.make_modalities(config, dataset)
  index = read_index(dataset)
  runs = [run for run in setup.make_runs(config, dataset, index) if not run.ablation]
  work_directory.describe(workdir, describe(dataset, modalities, index), ())

  @functools.cache
  def samples(number: int):
    recipe = setup.make_recipe(candidates[number], dataset.task, modalities)
    return setup.make_samples(candidates[number], recipe, dataset, modalities, index)

  trained = workdir / ("again" if again else "candidates")
  model = lambda run, number: trained / str(number) / "checkpoints" / run.name
  predictors = samples(every[0]).recipe.method.predictors(config.data.modalities)

  def predict(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """The predictions of all heads; those of each predictor are its candidate's."""
    own = chosen[run.name]
    found = {n: samples(n).predict(models.restore(model(run, n)), run.test) for n in set(own.values())}
    heads = next(iter(found.values()))
    return {head: {p: found[own[p]][head][p] for p in values} for head, values in heads.items()}

  predictions = [predict(run) for run in runs]
  scores, _ = evaluate.write(workdir / "predictions", dataset.task, index, runs, predictions, predictors)
  first = lambda run: next(iter(chosen[run.name].values()))  # its epochs stand for those of all predictors
  summary = Results(
    dataset=dataset.name,
    task=dataset.task.kind,
    method=config.method,
    scores=scores,
    variant=config.loss.get("variant"),
    protocol=config.protocol.name,
    split=config.protocol.split,
    group_by=config.protocol.group_by,
    seeds=tuple(config.protocol.seeds),
    folds=len({run.fold for run in runs}),
    timing={
      "seconds": time.monotonic() - began,
      "runs": {run.name: models.progress(model(run, first(run))) for run in runs},
    },
  )
  summary.write(workdir / "results.json")
  return summary
