"""Normalisation by quantiles and by the interquartile range."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from colearn_jax.data.statistics import Normalisation, moments, sampled_rows
from colearn_jax.methods.predict import normalise
from colearn_jax.nn.quantiles import normal_scores
from colearn_jax.types import Modality


@pytest.fixture
def values():
  x = np.random.default_rng(0).lognormal(size=(400, 3, 2)).astype(np.float32)
  x[:, :, 1] = np.round(x[:, :, 1])  # ties
  x[:5, 0, 0] = np.nan
  return x


def constants(how, x):
  modality = Modality("S1", ("S1",), x.shape[1:], ("a", "b"))
  return Normalisation(how).constants(modality, moments(x), x)


def test_quantiles_become_those_of_a_normal_distribution(values):
  got = np.asarray(normalise({"S1": values}, {"S1": constants("quantile", values)})["S1"])
  np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
  first = got[..., 0][np.isfinite(got[..., 0])]
  for share in (0.05, 0.25, 0.5, 0.9):
    assert np.quantile(first, share) == pytest.approx(norm.ppf(share), abs=0.05)
  flat, order = values[..., 1].ravel(), np.argsort(values[..., 1].ravel())
  assert (np.diff(got[..., 1].ravel()[order]) >= -1e-6).all() and flat.std() > 0
  most = flat == 1.0  # a value that occurs often: the middle of its share
  low, high = (flat < 1.0).mean(), (flat <= 1.0).mean()
  assert norm.cdf(got[..., 1].ravel()[most][0]) == pytest.approx((low + high) / 2, abs=0.02)
  beyond = normalise({"S1": np.full((1, 3, 2), 1e9)}, {"S1": constants("quantile", values)})["S1"]
  np.testing.assert_allclose(beyond, norm.ppf(0.999), rtol=1e-4)
  below = normalise({"S1": np.full((1, 3, 2), -1e9)}, {"S1": constants("quantile", values)})["S1"]
  np.testing.assert_allclose(below, norm.ppf(0.001), rtol=1e-4)


def test_a_band_without_quantiles_stays_as_it_is():
  """The date and the place of a context, which have no scale."""
  quantiles = jnp.stack([jnp.linspace(0.0, 1.0, 101), jnp.full(101, jnp.nan)], axis=1)
  x = jnp.array([[0.5, 0.25], [jnp.nan, jnp.nan], [1.0, -1.0]])
  got = np.asarray(normal_scores(x, quantiles))
  np.testing.assert_array_equal(got[:, 1], x[:, 1])
  np.testing.assert_allclose(got[:, 0], [0.0, np.nan, norm.ppf(0.999)], atol=1e-5)


def test_robust_is_not_moved_by_outliers(values):
  plain = constants("robust", values)
  x = values.copy()
  x[7] = 1e9
  for name in ("offset", "scale"):
    np.testing.assert_allclose(constants("robust", x)[name], plain[name], rtol=0.05)
  assert plain["offset"][0] == pytest.approx(np.nanmedian(values[..., 0]))
  low, high = np.nanquantile(values[..., 0], (0.25, 0.75))
  assert plain["scale"][0] == pytest.approx((high - low) / 1.349, rel=0.01)  # quantiles by linear pieces


def test_a_constant_band_and_a_band_without_values_in_the_sample(values):
  x = values.copy()
  x[..., 1] = 3.0
  got = constants("quantile", x)
  assert got["scale"][1] == 1.0
  assert np.isfinite(normalise({"S1": jnp.asarray(x[5:])}, {"S1": got})["S1"]).all()


def test_a_band_with_equal_quartiles_is_divided_by_its_deviation():
  """As a band of classes or of counts, of which most are the same."""
  x = np.full((100, 3, 2), 3.0, np.float32)
  x[:10, :, 1] = 13.0
  got = constants("robust", x)
  np.testing.assert_allclose(got["scale"], [1.0, 3.0], rtol=1e-6)  # 10 of 100 by 10: sqrt(0.1 * 0.9) * 10
  np.testing.assert_array_equal(got["offset"], [3.0, 3.0])


def test_rows_of_a_large_part_are_sampled_at_equal_distances():
  rows = sampled_rows(np.arange(100_000)[::-1])
  assert len(rows) == 20_000 and rows[0] == 0 and rows[-1] == 99_999 and (np.diff(rows) > 0).all()
