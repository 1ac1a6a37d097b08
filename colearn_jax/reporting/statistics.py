"""Statistical tests that compare methods over the same folds and seeds.

Runs of a cross-validation share most of their training samples, so their scores are not independent. The
t-test here corrects the variance for this; the Wilcoxon test beside it does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Paired:
  """The comparison of two methods over the same runs.

  Values are NaN if there are too few runs, and in `t`, `p`, `low`, `high` and `d_z` also if the differences
  do not vary.

  Attributes:
    n: number of pairs.
    mean: mean of the differences.
    std: their standard deviation, with n - 1.
    factor: variance of the mean, in units of the differences' variance.
    t: corrected t statistic, with n - 1 degrees of freedom.
    p: two-sided p-value of the corrected resampled t-test.
    low: lower end of the corrected 95 % interval of the mean difference.
    high: upper end of this interval.
    d_z: Cohen's d of paired samples: mean / std.
    wilcoxon: two-sided p-value of the Wilcoxon signed-rank test, which takes the runs as independent.
  """

  n: int
  mean: float
  std: float
  factor: float
  t: float
  p: float
  low: float
  high: float
  d_z: float
  wilcoxon: float


def resampled_factor(n: int, ratio: float) -> float:
  """The variance factor of Nadeau & Bengio (2003, Machine Learning 52:239-281): 1/n + n_test / n_train.

  Args:
    n: number of pairs of training and test parts.
    ratio: number of test samples divided by the number of training samples.
  """
  return 1 / n + ratio


def repeated_kfold_factor(folds: int, repeats: int) -> float:
  """The variance factor of the corrected repeated k-fold test (Bouckaert & Frank 2004, PAKDD): see below.

  It is 1/(k r) + 1/(k - 1) for k folds that are cut r times from the same samples. This is
  `resampled_factor` with the sizes of k equal folds.
  """
  return resampled_factor(folds * repeats, 1 / (folds - 1))


def paired(ours: Sequence[float], theirs: Sequence[float], factor: float) -> Paired:
  """Compares the scores of two methods in the same runs. Pairs with an undefined score are left out.

  Args:
    ours: `[n]` scores of a method.
    theirs: `[n]` scores of the method that it is compared with, in the same runs.
    factor: see `Paired`; 1/n gives Student's paired t-test.
  """
  every = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
  d = every[np.isfinite(every)]
  n, nan = len(d), float("nan")
  mean = float(d.mean()) if n else nan
  std = float(d.std(ddof=1)) if n > 1 else nan
  t = p = low = high = d_z = wilcoxon = nan
  if n > 1 and np.any(d != 0):
    wilcoxon = float(stats.wilcoxon(d).pvalue)
  if n > 1 and std > 1e-12 * np.abs(d).max():
    error = std * np.sqrt(factor)
    t, d_z = mean / error, mean / std
    p = float(2 * stats.t.sf(abs(t), n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    low, high = mean - half, mean + half
  return Paired(n, mean, std, factor, t, p, low, high, d_z, wilcoxon)


def holm(p: Sequence[float]) -> np.ndarray:
  """Adjusts p-values for their number by Holm's step-down method (1979, Scand. J. Statist. 6:65-70).

  Args:
    p: `[m]`, one for each comparison that was fixed beforehand. NaN is a comparison without a result; it
      counts in m, so that a missing run never makes another p-value smaller.

  Returns:
    `[m]`, NaN where `p` is NaN.
  """
  values = np.asarray(p, np.float64)
  known = np.where(np.isnan(values), 1.0, values)
  order = np.argsort(known, kind="stable")
  scaled = known[order] * np.arange(len(known), 0, -1)
  out = np.empty(len(known))
  out[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
  return np.where(np.isnan(values), np.nan, out)


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Mean ranks of methods over data sets (Demšar 2006, JMLR 7:1-30).

  Attributes:
    ranks: mean rank of each method, 1 is the best.
    blocks: number of data sets.
    statistic: Friedman's chi-square.
    p: its p-value.
    distance: Nemenyi's critical difference of two mean ranks, at 5 %.
  """

  ranks: dict[str, float]
  blocks: int
  statistic: float
  p: float
  distance: float

  @property
  def groups(self) -> list[tuple[str, ...]]:
    """Largest sets of methods, ordered by rank, whose ranks differ by less than the critical difference."""
    order = sorted(self.ranks, key=self.ranks.__getitem__)
    found: list[tuple[str, ...]] = []
    for first in range(len(order)):
      near = [name for name in order[first:] if self.ranks[name] - self.ranks[order[first]] < self.distance]
      if len(near) > 1 and not (found and set(near) <= set(found[-1])):
        found.append(tuple(near))
    return found


def ranking(scores: Mapping[str, Sequence[float]], *, lower_is_better: Sequence[bool]) -> Ranking | None:
  """Ranks methods over data sets, with Friedman's test and Nemenyi's critical difference.

  Args:
    scores: for each method its score on each data set, without NaN.
    lower_is_better: for each data set, whether low scores are good.

  Returns:
    The ranking; None if there are fewer than three methods or two data sets.
  """
  names, table = list(scores), np.array(list(scores.values()), np.float64)
  k, blocks = table.shape if table.ndim == 2 else (len(names), 0)
  if k < 3 or blocks < 2:
    return None
  sign = np.where(np.asarray(lower_is_better, bool), 1.0, -1.0)
  ranks = stats.rankdata(table * sign, axis=0).mean(1)
  if np.ptp(table, axis=0).any():
    statistic, p = map(float, stats.friedmanchisquare(*table))
  else:
    statistic, p = 0.0, 1.0
  quantile = float(stats.studentized_range.ppf(0.95, k, np.inf)) / np.sqrt(2)
  distance = float(quantile * np.sqrt(k * (k + 1) / (6 * blocks)))
  return Ranking(dict(zip(names, ranks.tolist(), strict=True)), blocks, statistic, p, distance)


def marks(p: float) -> str:
  """`*` for p < 0.05, `**` for p < 0.01, `***` for p < 0.001."""
  return "*" * sum(bool(p < limit) for limit in (0.05, 0.01, 0.001))
