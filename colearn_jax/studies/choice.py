"""Chooses the settings of a network on validation parts.

A candidate is a training with `protocol.scored=validation`: its test part is its validation part, and the
rows of the test part are in none of its runs. So no test target can influence the choice.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.evaluation import metrics
from colearn_jax.evaluation.results import Results
from colearn_jax.plan import Choice
from colearn_jax.storage import files
from colearn_jax.training import run
from colearn_jax.types import InputError

SEED = 0  # of random and optuna searches
Configure = Callable[[Mapping[str, object]], ConfigDict]


def candidates(choice: Choice) -> Generator[dict, float | None, None]:
  """Yields the values of each candidate by key. Receives its score, higher is better, or None if it failed.

  Raises:
    InputError: optuna is not installed.
  """
  keys, sizes = list(choice.values), [len(values) for values in choice.values.values()]
  picked = lambda numbers: {key: choice.values[key][k] for key, k in zip(keys, numbers)}
  if choice.search == "optuna":
    yield from _suggested(choice)
  elif choice.search == "random":
    total = math.prod(sizes)
    for number in random.Random(SEED).sample(range(total), min(choice.draws, total)):
      yield picked(int(k) for k in np.unravel_index(number, sizes))
  else:
    for numbers in itertools.product(*map(range, sizes)):
      yield picked(numbers)


def _suggested(choice: Choice) -> Generator[dict, float | None, None]:
  """Candidates of Optuna's tree-structured Parzen estimator. The same scores give the same candidates."""
  try:
    import optuna
  except ImportError:
    raise InputError("search=optuna needs optuna; pip install 'colearn_jax[optuna]'") from None
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED))
  for _ in range(choice.draws):
    trial = study.ask()
    numbers = {key: trial.suggest_categorical(key, range(len(v))) for key, v in choice.values.items()}
    score = yield {key: choice.values[key][k] for key, k in numbers.items()}
    if score is None:
      study.tell(trial, state=optuna.trial.TrialState.PRUNED)  # counts as worse than any score
    else:
      study.tell(trial, score)


def choose(choice: Choice, metric: str, workdir: Path, configure: Configure) -> dict:
  """Trains all candidates, and writes `chosen.json`.

  Candidates that were finished before an interruption are not trained again. A candidate whose training
  fails, e.g. because it diverges, is not chosen.

  Args:
    choice: the settings to try.
    metric: the score that is used for the choice.
    workdir: the work directory of the arm. Candidates are in `candidates/<number>`.
    configure: returns the configuration with the values of a candidate.

  Returns:
    The content of `chosen.json`: `metric`, `per`, `seconds`; `candidates`, a list of `values`, `score` (mean
    over runs and predictors), `runs` (score by run and predictor) or `error`; and `chosen`, the number of a
    candidate, or for per=run a number by run and predictor.

  Raises:
    InputError: all candidates fail.
  """
  tried: list[dict] = []
  sign = -1.0 if metric in metrics.LOWER_IS_BETTER else 1.0
  search, score, seconds = candidates(choice), None, 0.0
  while True:
    try:
      values = next(search) if not tried else search.send(score)
    except StopIteration:
      break
    more = dict(values) | {"protocol.scored": "validation"}
    if choice.validation_fraction:
      more["protocol.validation_fraction"] = choice.validation_fraction
    if choice.seeds:
      more["protocol.seeds"] = choice.seeds
    facts: dict = {"values": dict(values), "score": None}
    try:
      results, took = train(configure(more), workdir / "candidates" / str(len(tried)))
      seconds += took
      facts["runs"] = by_run(results, metric)
      known = [[v for v in row.values() if v is not None] for row in facts["runs"].values()]
      means = [float(np.mean(row)) for row in known if row]
      facts["score"] = float(np.mean(means)) if means else None
    except InputError as error:
      facts["error"] = str(error)
    tried.append(facts)
    score = None if facts["score"] is None else sign * facts["score"]
  if all(one["score"] is None for one in tried):
    raise InputError(
      f"no candidate has a score; {tried[0].get('error', 'undefined on all validation parts')}"
    )

  def best(scores: list[float | None]) -> int:
    signed = [-math.inf if one is None else sign * one for one in scores]
    return signed.index(max(signed))

  chosen: int | dict[str, dict[str, int]] = best([one["score"] for one in tried])
  if choice.per == "run":
    rows = next(one["runs"] for one in tried if "runs" in one)
    of = lambda run, predictor: [one["runs"][run][predictor] if "runs" in one else None for one in tried]
    chosen = {run: {predictor: best(of(run, predictor)) for predictor in row} for run, row in rows.items()}
  out = {"metric": metric, "per": choice.per, "seconds": seconds, "candidates": tried, "chosen": chosen}
  files.write_json(workdir / "chosen.json", out)
  return out


def train(config: ConfigDict, workdir: Path) -> tuple[Results, float]:
  """The results of a training, and the seconds that it took. Trains unless it is finished."""
  path = workdir / "results.json"
  if path.exists():
    there = files.read_json(workdir / "config.json")
    wanted = config_lib.to_json(config_lib.with_sizes(config, there))
    if not config_lib.differences(there, wanted):
      results = Results.read(path)
      return results, results.timing["seconds"]
  workdir.mkdir(parents=True, exist_ok=True)
  began = time.monotonic()
  return run.train(config, workdir), time.monotonic() - began


def by_run(results: Results, metric: str) -> dict[str, dict[str, float | None]]:
  """A score by the name of the run and by predictor; None where it is undefined."""
  every = {**results.scores.modalities, **results.scores.combinations}
  names = results.timing["runs"]
  columns = {p: one[metric]["per_fold"] if one else [None] * len(names) for p, one in every.items()}
  return {name: {p: column[k] for p, column in columns.items()} for k, name in enumerate(names)}
