"""Compares the arms of a study: those that were fixed beforehand, all others with the baseline, and ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from colearn_jax.evaluation.metrics import LOWER_IS_BETTER
from colearn_jax.reporting.statistics import Paired, Ranking, holm, paired, ranking, resampled_factor
from colearn_jax.reporting.study import Arm, Cell, Study


@dataclasses.dataclass(frozen=True)
class Compared:
  """The result of one comparison of one predictor.

  Attributes:
    cell: where both arms were trained.
    arm: name of the arm.
    against: name of the arm that is subtracted.
    predictor: the predictor of both.
    paired: the tests; None if a run is missing.
    adjusted: p-value after Holm's correction; NaN for a comparison that was not fixed beforehand.
    note: why there is no result; empty otherwise.
  """

  cell: Cell
  arm: str
  against: str
  predictor: str
  paired: Paired | None
  adjusted: float = float("nan")
  note: str = ""

  @property
  def better(self) -> bool:
    """Whether the arm has the better mean."""
    sign = -1 if self.cell.metric in LOWER_IS_BETTER else 1
    return self.paired is not None and sign * self.paired.mean > 0


def fixed(study: Study) -> list[Compared]:
  """The comparisons that were fixed beforehand, with p-values that are corrected for their number."""
  cells = {cell.name: cell for cell in study.cells}
  found = []
  for one in study.comparisons:
    if one.cell in cells:
      found += [compare(cells[one.cell], one.arm, one.against, name) for name in one.predictors]
  lost = sum(len(one.predictors) for one in study.comparisons if one.cell not in cells)
  p = [np.nan if one.paired is None else one.paired.p for one in found] + [np.nan] * lost
  return [dataclasses.replace(one, adjusted=float(q)) for one, q in zip(found, holm(p))]


def others(cell: Cell, known: Sequence[Compared]) -> list[Compared]:
  """The comparisons of all further arms with the baseline. They were not fixed beforehand."""
  base = cell.baseline
  if base is None:
    return []
  done = {(one.arm, one.predictor) for one in known if one.cell is cell and one.against == base.name}
  rest = [arm for arm in cell.arms.values() if arm is not base]
  pairs = [(arm.name, p) for arm in rest for p in base.rows if arm.row(p) and (arm.name, p) not in done]
  every = [compare(cell, name, base.name, p) for name, p in pairs]
  return [one for one in every if one.paired is not None]


def compare(cell: Cell, arm: str, against: str, predictor: str) -> Compared:
  """Compares one predictor of two arms over the runs that both have."""
  nothing = lambda note: Compared(cell, arm, against, predictor, None, note=note)
  for name in (arm, against):
    if name not in cell.arms:
      return nothing(f"{name} is not finished")
    if not cell.arms[name].row(predictor):
      return nothing(f"{name} has no {predictor}")
  ours, theirs = cell.arms[arm], cell.arms[against]
  facts = ("split", "group_by", "folds")
  if differ := [f for f in facts if getattr(ours.results, f) != getattr(theirs.results, f)]:
    return nothing(f"other {', '.join(differ)}")
  runs = [run for run in ours.runs if run in theirs.runs]
  at = lambda one, metric: one.per_run(predictor, metric)[[one.runs.index(run) for run in runs]]
  if not np.array_equal(at(ours, "samples"), at(theirs, "samples")):
    return nothing("not the same test samples")
  factor = resampled_factor(max(len(runs), 1), size_ratio(cell, ours, predictor))
  found = paired(at(ours, cell.metric), at(theirs, cell.metric), factor)
  return Compared(cell, arm, against, predictor, found)


def size_ratio(cell: Cell, arm: Arm, predictor: str) -> float:
  """Number of test samples divided by the number of all other samples, as a mean over the runs.

  Of k equal folds this is 1 / (k - 1), so that the variance factor is that of Bouckaert & Frank. NaN if the
  number of samples is not known.
  """
  test = arm.per_run(predictor, "samples")
  if arm.results.split == "official":
    described = cell.described
    number: Any = (described and described.samples or {}).get("number", np.nan)
    every = np.full(len(test), float(number))
  else:
    seeds = np.array([seed for seed, _ in arm.runs])
    every = np.array([test[seeds == seed].sum() for seed in seeds])
  rest = (every - test).mean()
  return float(test.mean() / rest) if rest > 0 else float("nan")


def ranks(study: Study) -> Ranking | None:
  """Ranks the arms over the cells; see `statistics.ranking`.

  The score of an arm in a cell is the mean over the predictors that all ranked arms have there. An arm that
  lacks a cell is left out.
  """
  complete = [name for name in study.cells[0].arms if all(name in cell.arms for cell in study.cells)]
  common = []
  for cell in study.cells:
    has = lambda p, cell=cell: all(cell.arms[name].row(p) for name in complete)
    common.append([p for p in cell.predictors if p != "ensemble" and has(p)])
  if not all(common):
    return None
  mean = lambda cell, name, predictors: np.mean(
    [np.nanmean(cell.arms[name].per_run(p, cell.metric)) for p in predictors]
  )
  scores = {name: [mean(c, name, p) for c, p in zip(study.cells, common)] for name in complete}
  if not all(np.isfinite(row).all() for row in scores.values()):
    return None
  return ranking(scores, lower_is_better=[cell.metric in LOWER_IS_BETTER for cell in study.cells])
