"""The plan of a study: which methods are compared, on which data, by which tests.

A study file has a function `get_study()` that returns a `Study`. A study consists of cells. A cell is one row
of a table: a data set, a protocol and the inputs, e.g. `site/bands`. The arms of a cell are what is compared
in it. They have the same seeds and the same test parts.

Files of a study in its work directory W:

- `W/study.json`: `name`; `digest`, a digest of the plan; `cells`, in order, each with `name`, `title`, `task`
  (kind of the task), `metric` (name of the main score), `sensors` (the predictors of one sensor) and `arms`,
  in order, each with `name`, `title` and `kind`; `comparisons`, each with `cell`, `arm`, `against` and
  `predictors`.
- `W/<cell>/<arm>/`: the work directory of an arm, with `config.json`, `dataset.json`, `results.json` and
  `predictions/<predictor>.csv` as every training writes them. Only an arm that is finished has
  `results.json`. A cell's name may contain `/`. `results.json` has `timing`. Predictors are the names of the
  sensors, and `context` for an arm of kind `context`. Methods with several sensors may have more.
- `W/<cell>/<arm>/chosen.json`: settings that were chosen on validation parts, with the scores of all
  candidates; only if the arm makes such a choice.
- `W/<cell>/<arm>/error.txt`: why an arm failed; removed when it succeeds.

The plan is fixed when the study is started: the command refuses another plan in the same directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

KINDS = ("network", "trees", "context")
LEARNERS = ("extra_trees", "boosting", "svm")
SEARCHES = ("grid", "random", "optuna")
INPUTS = ("bands", "embedding")

# Keyword arguments of scikit-learn's classes, each with the values to try.
GRID: Mapping[str, Mapping[str, Sequence]] = {
  "extra_trees": {"n_estimators": (200,), "min_samples_leaf": (2, 5, 10)},
  "boosting": {"max_iter": (200,), "learning_rate": (0.05,), "max_leaf_nodes": (6, 31)},
}


@dataclasses.dataclass(frozen=True)
class Choice:
  """A search for settings. Candidates are scored on validation parts. Test parts are not read.

  Attributes:
    values: the values to try, by dotted key of the configuration. The key `words` stands for words of the
      preset, e.g. `("encoder=gru", "encoder=tempcnn")`.
    search: `grid` tries all combinations; `random` and `optuna` (needs the extra `optuna`) try `draws` of
      them.
    draws: number of candidates of `random` and `optuna`.
    seeds: seeds of the protocol with which candidates are trained; () for all seeds of the cell.
    per: `cell`: one candidate is chosen for the whole cell, by the mean validation score over runs and
      predictors. `run`: one is chosen for each seed, fold and predictor (nested validation), by the score
      on the validation part of this run. It uses all seeds of the cell.
    validation_fraction: `protocol.validation_fraction` of the candidates. 0: that of the arm, whose trainings
      with the chosen settings then stop by this part. With a value, what is chosen is trained again as the
      arm says, e.g. without a validation part.
  """

  values: Mapping[str, Sequence]
  search: str = "grid"
  draws: int = 0
  seeds: tuple[int, ...] = ()
  per: str = "cell"
  validation_fraction: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trees:
  """Learners of scikit-learn. Each seed, fold and sensor chooses one setting on its own validation part.

  Attributes:
    grid: for each learner (see `LEARNERS`) the values to try, by keyword argument.
    refit: whether the chosen setting is fitted again on the training and the validation part.
    inputs: what is read of a sensor: its values (`bands`), the features of its pretrained encoder as it is
      published (`embedding`), or both. The arm names the encoder and its `weights`.
  """

  grid: Mapping[str, Mapping[str, Sequence]] = dataclasses.field(default_factory=lambda: GRID)
  refit: bool = True
  inputs: tuple[str, ...] = ("bands",)


@dataclasses.dataclass(frozen=True)
class Arm:
  """One of the methods that a cell compares.

  Attributes:
    name: name of its directory.
    title: name in tables.
    kind: `network`: a training of this package. `trees`: ExtraTrees and gradient boosting on the values of
      one sensor, with the context if the cell has one. `context`: the same on the context alone.
    config: preset or configuration file with words, instead of the cell's.
    words: further words after the preset, e.g. `individual`.
    values: values by dotted key.
    choose: settings to be chosen on validation parts (networks only).
    trees: settings of the kinds `trees` and `context`.
  """

  name: str
  title: str
  kind: str = "network"
  config: str = ""
  words: str = ""
  values: Mapping[str, object] = dataclasses.field(default_factory=dict)
  choose: Choice | None = None
  trees: Trees = Trees()  # noqa: RUF009, it is frozen


@dataclasses.dataclass(frozen=True)
class Cell:
  """A data set, a protocol and the inputs, which all arms have in common.

  Attributes:
    name: name of its directory, e.g. `site/bands`.
    title: name in tables.
    config: preset or configuration file, with words.
    arms: what is compared.
    values: values of the keys `data.*` and `protocol.*`, for all arms.
    metric: the score for choices and tests; empty: the main score of the task.
    axes: where the cell stands in a study of cells that differ in one or two numbers, such as
      `{"sharedness": 0.5, "labels": 300}`. The report draws the differences along the first one.
  """

  name: str
  title: str
  config: str
  arms: tuple[Arm, ...]
  values: Mapping[str, object] = dataclasses.field(default_factory=dict)
  metric: str = ""
  axes: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A difference between two arms that is tested. The correction for multiple tests counts all of them.

  Attributes:
    cell: name of the cell.
    arm: name of the arm.
    against: name of the other arm. If it is of kind `context`, its predictor is always `context`.
    predictors: predictors that are compared, one test each; () for all sensors of the cell.
  """

  cell: str
  arm: str
  against: str
  predictors: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
  """A plan.

  Attributes:
    name: name of the study.
    cells: in the order of the table.
    comparisons: the differences to be tested.
  """

  name: str
  cells: tuple[Cell, ...]
  comparisons: tuple[Comparison, ...] = ()
