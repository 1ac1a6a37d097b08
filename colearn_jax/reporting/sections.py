"""What a report says in tables: scores of each cell, comparisons, and their summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from colearn_jax.evaluation.metrics import LOWER_IS_BETTER
from colearn_jax.reporting.comparisons import Compared
from colearn_jax.reporting.statistics import marks
from colearn_jax.reporting.study import Arm, Cell, Study
from colearn_jax.reporting.tables import Entry, Table, duration, number, probability, spread, table

NAMES = {
  "r2": "R²",
  "rmse": "RMSE",
  "mae": "MAE",
  "f1_macro": "macro F1",
  "f1_micro": "micro F1",
  "average_accuracy": "average accuracy",
  "map": "mean average precision",
}
READING = (
  "A score is the mean ± standard deviation over the runs (folds and seeds). The best of each column is in "
  "bold. A model without a sensor (context alone) has the same score in the columns of all sensors. The time "
  "is that of training and evaluating all runs.",
  "p: two-sided t-test of the differences in the same runs. Its variance is corrected, because the training "
  "parts of the runs overlap: (1/n + n_test/n_train) instead of 1/n (Nadeau and Bengio 2003). With k folds "
  "and r seeds on the same samples this is 1/(k r) + 1/(k - 1) (Bouckaert and Frank 2004), so that seeds do "
  "not count as new samples. The 95 % interval has the same correction.",
  "Holm: p after Holm's correction for the number of all comparisons that were fixed beforehand. * p < 0.05, "
  "** p < 0.01, *** p < 0.001.",
  "d_z: mean difference divided by the deviation of the differences. Wilcoxon: p of the signed-rank test. It "
  "takes the runs as independent, so that it is too small; it is not corrected for the number of tests.",
)
OFFICIAL = "All runs have the same test part, so that these tests say little about other samples."
UNPLANNED = "These comparisons were not fixed beforehand. Their p-values are not corrected for their number."


def title_of(metric: str) -> str:
  """A metric's name in tables, with a remark if low values are good."""
  return NAMES.get(metric, metric) + (", lower is better" if metric in LOWER_IS_BETTER else "")


def facts(cell: Cell) -> str:
  """Data set, task and protocol in one line."""
  r = cell.results
  named = {"data set": r.dataset, "task": r.task, "protocol": r.protocol, "split": r.split}
  named |= {"grouped by": r.group_by, "folds": str(r.folds or ""), "seeds": ", ".join(map(str, r.seeds))}
  return "; ".join(f"{name} {value}" for name, value in named.items() if value)


def scores(cell: Cell, metric: str) -> Table:
  """Mean and deviation of each arm and predictor, and the duration. The best of each column is in bold."""
  notes = [f"Not finished: {'; '.join(cell.missing)}."] if cell.missing and metric == cell.metric else []
  best = {p: _best(cell, p, metric) for p in cell.predictors}
  rows: list[list[Entry | str]] = []
  for arm in cell.arms.values():
    bold = lambda p, arm=arm: len(cell.arms) > 1 and arm.name in best[p]
    fields = [Entry(_cell(arm, p, metric), bold(p)) for p in cell.predictors]
    rows.append([arm.title, *fields, duration(arm.seconds)])
  return table(title_of(metric), ["method", *cell.predictors, "time"], rows, notes)


def _cell(arm: Arm, predictor: str, metric: str) -> str:
  stats = arm.row(predictor).get(metric)
  return "-" if not stats else spread(stats["mean"], stats["std"])


def _best(cell: Cell, predictor: str, metric: str) -> set[str]:
  """The arms with the best mean, as far as the table shows it."""
  found = {}
  for arm in cell.arms.values():
    mean = (arm.row(predictor).get(metric) or {}).get("mean")
    if mean is not None:
      found[arm.name] = -mean if metric in LOWER_IS_BETTER else mean
  top = max(found.values(), default=0.0)
  return {name for name, value in found.items() if number(value) == number(top)} if len(found) > 1 else set()


def comparisons(found: Sequence[Compared], *, of_all: int | None, title: str) -> Table:
  """Differences with their tests.

  Args:
    found: all of one metric.
    of_all: number of comparisons that were fixed beforehand; None if these were not.
    title: heading.
  """
  rows: list[list[Entry | str]] = []
  for one in found:
    pair = f"{_title(one, one.arm)} − {_title(one, one.against)}"
    if one.paired is None:
      rows.append([pair, one.predictor, one.note, *["-"] * (5 + (of_all is not None))])
      continue
    q = one.paired
    adjusted = [f"{probability(one.adjusted)} {marks(one.adjusted)}".strip()] if of_all is not None else []
    interval = "-" if np.isnan(q.low) else f"{number(q.low, sign='+')} to {number(q.high, sign='+')}"
    bold = bool(one.adjusted < 0.05)
    fields: list[Entry | str] = [
      one.predictor,
      Entry(number(q.mean, sign="+"), bold),
      interval,
      probability(q.p),
      *adjusted,
    ]
    rows.append([pair, *fields, number(q.d_z, 2), probability(q.wilcoxon), str(q.n)])
  header = ["difference", "predictor", "mean", "95 % interval", "p"]
  header += ["Holm"] if of_all is not None else []
  notes = [UNPLANNED if of_all is None else f"Holm's correction counts {of_all} comparisons."]
  if any(one.cell.results.split == "official" for one in found):
    notes.append(OFFICIAL)
  return table(title, [*header, "d_z", "Wilcoxon", "runs"], rows, notes)


def _title(one: Compared, name: str) -> str:
  return one.cell.arms[name].title if name in one.cell.arms else name


def summary(found: Sequence[Compared], number_fixed: int, single: bool) -> str:
  """What the comparisons say, in a few sentences.

  Args:
    found: those that were fixed beforehand.
    number_fixed: their number, with those that have no cell yet.
    single: whether they are those of a single run with its baseline.
  """
  name = lambda one: f"{_place(one)}{_title(one, one.arm)} against {_title(one, one.against)}"
  sure = [one for one in found if one.adjusted < 0.05]
  better = [name(one) for one in sure if one.better]
  worse = [name(one) for one in sure if not one.better]
  missing = number_fixed - sum(one.paired is not None for one in found)
  lines = [
    f"{number_fixed} comparisons {'with the baseline' if single else 'were fixed beforehand'}: after Holm's "
    f"correction {len(better)} are significantly better and {len(worse)} significantly worse at 5 %."
  ]
  lines += [f"Better: {'; '.join(better)}."] if better else []
  lines += [f"Worse: {'; '.join(worse)}."] if worse else []
  lines += [f"{missing} have no result yet and count as not significant."] if missing else []
  return " ".join(lines)


def _place(one: Compared) -> str:
  return f"{one.cell.title}, {one.predictor}: " if one.cell.name else f"{one.predictor}: "


SCORE_COLUMNS = (
  "cell",
  "arm",
  "kind",
  "predictor",
  "metric",
  "mean",
  "std",
  "runs",
  "seconds",
)


def score_rows(study: Study) -> Iterator[list]:
  """All scores as rows of numbers, see `SCORE_COLUMNS`."""
  for cell in study.cells:
    for arm in cell.arms.values():
      for predictor, row in arm.rows.items():
        for metric in filter(row.__contains__, cell.metrics):
          runs = int(np.isfinite(arm.per_run(predictor, metric)).sum())
          figures = [row[metric]["mean"], row[metric]["std"], runs, arm.seconds]
          yield [cell.name or cell.title, arm.name, arm.kind, predictor, metric, *figures]


COMPARISON_COLUMNS = (
  "cell",
  "arm",
  "against",
  "predictor",
  "metric",
  "fixed",
  "runs",
  "difference",
  "std",
  "low",
  "high",
  "t",
  "p",
  "p_holm",
  "d_z",
  "p_wilcoxon",
  "variance_factor",
)


def comparison_rows(found: Sequence[Compared], fixed: bool) -> Iterator[list]:
  """Comparisons as rows of numbers, see `COMPARISON_COLUMNS`."""
  for one in found:
    q, cell = one.paired, one.cell
    names = [cell.name or cell.title, one.arm, one.against, one.predictor, cell.metric, int(fixed)]
    figures = (
      [None] * 11
      if q is None
      else [*(q.n, q.mean, q.std, q.low, q.high, q.t, q.p, one.adjusted, q.d_z, q.wilcoxon, q.factor)]
    )
    yield names + figures
