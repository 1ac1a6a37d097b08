"""The tests of the report, against numbers worked out by hand and by scipy."""

import numpy as np
import pytest
from scipy import stats

from colearn_jax.reporting.statistics import (
  holm,
  marks,
  paired,
  ranking,
  repeated_kfold_factor,
  resampled_factor,
)


def test_corrected_t_test_by_hand():
  """Differences 1, 2, 3, 4: mean 2.5, variance 5/3; n_test/n_train = 1/3 as of four folds."""
  ours, theirs = np.array([2.0, 4.0, 6.0, 8.0]), np.array([1.0, 2.0, 3.0, 4.0])
  found = paired(ours, theirs, resampled_factor(4, 1 / 3))
  assert found.n == 4 and found.mean == 2.5
  np.testing.assert_allclose(found.std, np.sqrt(5 / 3))
  # t = 2.5 / sqrt((1/4 + 1/3) · 5/3) = 2.5 / sqrt(35/36)
  np.testing.assert_allclose(found.t, 2.5 / np.sqrt(35 / 36))
  np.testing.assert_allclose(found.d_z, 2.5 / np.sqrt(5 / 3))
  # 3.182446 is the 97.5 % quantile of Student's t with 3 degrees of freedom, from a table.
  half = 3.182446 * np.sqrt(35 / 36)
  np.testing.assert_allclose((found.low, found.high), (2.5 - half, 2.5 + half), rtol=1e-6)
  # Student's t with 3 degrees of freedom has the distribution function in closed form.
  x = found.t / np.sqrt(3)
  tail = 0.5 - (x / (1 + x * x) + np.arctan(x)) / np.pi
  np.testing.assert_allclose(found.p, 2 * tail, rtol=1e-9)
  # All four signs are equal: 2 of the 16 sets of signs are as extreme.
  np.testing.assert_allclose(found.wilcoxon, 2 / 16)


def test_without_correction_it_is_the_paired_t_test_of_scipy():
  rng = np.random.default_rng(0)
  ours, theirs = rng.normal(0.3, 1, 20), rng.normal(0, 1, 20)
  found, known = paired(ours, theirs, 1 / 20), stats.ttest_rel(ours, theirs)
  np.testing.assert_allclose((found.t, found.p), (known.statistic, known.pvalue))
  interval = known.confidence_interval(0.95)
  np.testing.assert_allclose((found.low, found.high), (interval.low, interval.high))
  np.testing.assert_allclose(found.wilcoxon, stats.wilcoxon(ours, theirs).pvalue)


def test_repeated_kfold_is_the_form_of_bouckaert_and_frank():
  np.testing.assert_allclose(repeated_kfold_factor(10, 5), 1 / 50 + 1 / 9)
  np.testing.assert_allclose(repeated_kfold_factor(10, 1), resampled_factor(10, 30 / 270))


def test_the_correction_keeps_its_level_where_the_plain_test_does_not():
  """Ten times 10 folds of noise: the plain t-test finds far more than 5 %, the corrected one does not."""
  rng = np.random.default_rng(1)
  plain = corrected = 0
  for _ in range(200):
    # Two guessers on 100 samples. Each repeat cuts other folds from the same 100 differences.
    sample = rng.normal(size=100)
    d = np.concatenate([rng.permutation(sample).reshape(10, 10).mean(1) for _ in range(10)])
    plain += paired(d, np.zeros(100), 1 / 100).p < 0.05
    corrected += paired(d, np.zeros(100), repeated_kfold_factor(10, 10)).p < 0.05
  assert plain > 60 and corrected <= 20


def test_few_equal_or_undefined_differences():
  lone = paired([1.0], [0.5], 1.0)
  assert lone.n == 1 and lone.mean == 0.5 and np.isnan([lone.std, lone.p, lone.low, lone.wilcoxon]).all()
  equal = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.5)
  assert equal.mean == 0 and np.isnan([equal.t, equal.p, equal.d_z, equal.wilcoxon]).all()
  some = paired([1.0, np.nan, 4.0], [0.0, 2.0, 2.0], 0.5)
  assert some.n == 2 and some.mean == 1.5
  assert paired([], [], 1.0).n == 0


def test_holm_by_hand():
  """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, each at least the one before it."""
  np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
  np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
  assert len(holm([])) == 0


def test_a_missing_comparison_counts_in_holms_number():
  found = holm([0.01, np.nan, 0.04])
  np.testing.assert_allclose(found[[0, 2]], [0.03, 0.08])
  assert np.isnan(found[1])


def test_friedman_and_nemenyi():
  """Four methods on five data sets. q of four methods at 5 % is 2.569 (Demšar 2006, table 5)."""
  table = {
    "a": [0.9, 0.8, 0.7, 0.9, 0.8],
    "b": [0.8, 0.9, 0.6, 0.8, 0.7],
    "c": [0.3, 0.3, 0.4, 0.2, 0.5],
    "d": [0.2, 0.1, 0.3, 0.1, 0.5],
  }
  found = ranking(table, lower_is_better=[False] * 5)
  assert found.ranks == {"a": 1.2, "b": 1.8, "c": 3.1, "d": 3.9} and found.blocks == 5
  known = stats.friedmanchisquare(*table.values())
  np.testing.assert_allclose((found.statistic, found.p), (known.statistic, known.pvalue))
  np.testing.assert_allclose(found.distance, 2.569 * np.sqrt(4 * 5 / (6 * 5)), rtol=1e-3)
  # 2.10: a and c differ by 1.9, b and d by 2.1.
  assert found.groups == [("a", "b", "c"), ("c", "d")]
  low = ranking({name: [-s for s in row] for name, row in table.items()}, lower_is_better=[True] * 5)
  assert low.ranks == found.ranks


@pytest.mark.parametrize("table", [{"a": [1.0, 2.0], "b": [0.0, 1.0]}, {"a": [1.0], "b": [0.0], "c": [2.0]}])
def test_no_ranking_of_few(table):
  assert ranking(table, lower_is_better=[False] * len(table["a"])) is None


def test_marks():
  assert [marks(p) for p in (0.2, 0.04, 0.004, 0.0004, float("nan"))] == ["", "*", "**", "***", ""]
