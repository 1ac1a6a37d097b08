"""Reads the work directory of a study or of a single run: which methods were trained on which data.

A study has cells (a data set with a protocol and inputs), and each cell has arms (a method with its
settings). `<workdir>/study.json` lists them, and the comparisons that were fixed before the runs.
`<workdir>/<cell>/<arm>/` is the work directory of an arm. A single run is read as a study with one cell. Its
arms are the method, its ablations, its teachers, and the baseline if it was trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from colearn_jax.evaluation.metrics import HEADLINE
from colearn_jax.evaluation.results import Results, Scores
from colearn_jax.storage.files import read_json
from colearn_jax.types import Description, InputError

BASELINE = "individual"
CONTEXT = "context"  # kind of an arm without a sensor, and its only predictor


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
  """A trained method in one cell.

  Attributes:
    name: short name, unique in the cell.
    title: name in tables.
    kind: `network`, `trees`, or `context` for trees on the context alone, without a sensor.
    directory: work directory of its runs.
    results: content of its results.json.
    ablation: name of the ablation in these results; empty for the configuration itself.
  """

  name: str
  title: str
  kind: str
  directory: Path
  results: Results
  ablation: str = ""

  @property
  def scores(self) -> Scores:
    """The scores of its runs."""
    return self.results.ablations[self.ablation] if self.ablation else self.results.scores

  @property
  def rows(self) -> dict[str, dict]:
    """The statistics of each predictor, with those of the ensemble under `ensemble`."""
    scores = self.scores
    ensemble = {"ensemble": scores.ensemble} if scores.ensemble else {}
    return {
      name: row for name, row in {**scores.modalities, **scores.combinations, **ensemble}.items() if row
    }

  @property
  def runs(self) -> list[tuple[int, int]]:
    """Seed and fold of each run, in the order of `per_fold` in the statistics."""
    known = self.results.timing.get("runs", {}).values()
    own = [(run["seed"], run["fold"]) for run in known if run.get("ablation", "") == self.ablation]
    folds = range(self.results.folds)
    return own or [(seed, fold) for seed in self.results.seeds for fold in folds]

  @property
  def seconds(self) -> float | None:
    """Duration of the training and evaluation of all its runs."""
    return None if self.ablation else self.results.timing.get("seconds")

  def row(self, predictor: str) -> dict:
    """The statistics of a predictor; {} without one. An arm without a sensor always has `context`."""
    return self.rows.get(CONTEXT if self.kind == CONTEXT else predictor, {})

  def per_run(self, predictor: str, metric: str) -> np.ndarray:
    """`[len(runs)]` scores, NaN where undefined."""
    stats = self.row(predictor).get(metric)
    if not stats:
      return np.full(len(self.runs), np.nan)
    return np.array(stats["per_fold"], np.float64)  # None is NaN


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
  """One data set with its protocol and inputs, and the arms that were trained on it.

  Attributes:
    name: short name, unique in the study.
    title: name in tables.
    metric: the score that is compared.
    arms: those that are finished, by name, in the order of the study.
    sensors: the predictors of one sensor, in the order of the configuration.
    missing: titles of arms that are not finished, with the reason if they failed.
    axes: see `plan.Cell`.
  """

  name: str
  title: str
  metric: str
  arms: Mapping[str, Arm]
  sensors: tuple[str, ...] = ()
  missing: tuple[str, ...] = ()
  axes: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def results(self) -> Results:
    """The results of the first arm, for what all arms have in common: task, data set and protocol."""
    return next(iter(self.arms.values())).results

  @property
  def metrics(self) -> tuple[str, ...]:
    """The scores in the tables, the one that is compared first."""
    return tuple(dict.fromkeys((self.metric, *HEADLINE[self.results.task])))

  @property
  def predictors(self) -> tuple[str, ...]:
    """The predictors of all arms with sensors: one sensor, several sensors, the ensemble."""
    own = [arm for arm in self.arms.values() if arm.kind != CONTEXT]
    names = dict.fromkeys([*self.sensors, *(name for arm in own for name in arm.rows)])
    return tuple(sorted(names, key=lambda name: (name not in self.sensors, name == "ensemble")))

  @property
  def baseline(self) -> Arm | None:
    """The arm that trains each sensor by itself."""
    return next((arm for arm in self.arms.values() if arm.results.method == BASELINE), None)

  @property
  def described(self) -> Description | None:
    """The data set, from the first arm that has a dataset.json."""
    for arm in self.arms.values():
      if (path := arm.directory / "dataset.json").is_file():
        return Description.from_json(read_json(path))
    return None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A comparison that was fixed before the runs: two arms of a cell, by name, and the predictors."""

  cell: str
  arm: str
  against: str
  predictors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Study:
  """Everything that a report is about.

  Attributes:
    name: name of the study, or of the run's data set and method.
    directory: its work directory.
    cells: those with at least one finished arm.
    comparisons: fixed beforehand.
    single: whether this is a single run.
    digest: of the study's plan; empty for a single run.
  """

  name: str
  directory: Path
  cells: tuple[Cell, ...]
  comparisons: tuple[Comparison, ...]
  single: bool = False
  digest: str = ""


def read(workdir: str | Path) -> Study:
  """Reads a work directory.

  Raises:
    InputError: it holds neither a study nor a finished run, or no run of the study is finished.
  """
  workdir = Path(workdir).expanduser().absolute()
  if (workdir / "study.json").is_file():
    return _study(workdir)
  if (workdir / "results.json").is_file():
    return _single(workdir)
  raise InputError(f"{workdir} holds no study and no finished run: no study.json, no results.json")


def _study(workdir: Path) -> Study:
  path = workdir / "study.json"
  plan = read_json(path)
  try:
    comparisons = [
      Comparison(one["cell"], one["arm"], one["against"], tuple(one["predictors"]))
      for one in plan["comparisons"]
    ]
    cells = [_cell(workdir, cell) for cell in plan["cells"]]
    name, digest = plan["name"], plan.get("digest", "")
  except (KeyError, TypeError) as error:
    raise InputError(
      f"{workdir / 'study.json'}: missing or wrong entry {error}; colearn_jax.study writes it"
    ) from None
  cells = [cell for cell in cells if cell.arms]
  if not cells:
    raise InputError(f"{workdir} has no finished run yet; colearn_jax.study trains them")
  return Study(name, workdir, tuple(cells), tuple(comparisons), digest=digest)


def _cell(workdir: Path, cell: Mapping) -> Cell:
  found, missing = {}, []
  for arm in cell["arms"]:
    directory = workdir / cell["name"] / arm["name"]
    if (directory / "results.json").is_file():
      results = Results.read(directory / "results.json")
      found[arm["name"]] = Arm(arm["name"], arm["title"], arm["kind"], directory, results)
    else:
      failed = directory / "error.txt"
      why = " ".join(failed.read_text(encoding="utf-8").split()) if failed.is_file() else ""
      missing.append(f"{arm['title']} ({why})" if why else arm["title"])
  sensors, axes = tuple(cell["sensors"]), cell.get("axes", {})
  return Cell(cell["name"], cell["title"], cell["metric"], found, sensors, tuple(missing), axes)


def _single(workdir: Path) -> Study:
  results = Results.read(workdir / "results.json")
  arms = {results.method: Arm(results.method, results.method, "network", workdir, results)}
  for name in results.ablations:
    arms[name] = Arm(name, f"{results.method}, {name}", "network", workdir, results, name)
  for path in sorted(workdir.glob("teachers/*/results.json")):
    own = Results.read(path)
    name = f"teacher {path.parent.name}"
    arms[name] = Arm(name, name, "network", path.parent, own)
  if (path := workdir / BASELINE / "results.json").is_file():
    arms[BASELINE] = Arm(BASELINE, BASELINE, "network", path.parent, Results.read(path))
  sensors = tuple(results.scores.modalities)
  cell = Cell("", results.dataset, HEADLINE[results.task][0], arms, sensors)
  fixed = []
  if BASELINE in arms and results.method != BASELINE:
    both = [name for name in arms[results.method].rows if name in arms[BASELINE].rows]
    fixed = [Comparison("", results.method, BASELINE, tuple(both))]
  return Study(f"{results.dataset}, {results.method}", workdir, (cell,), tuple(fixed), single=True)
