"""Losses that align the features of two sensors, against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax.objectives.alignment import BANDWIDTHS, absolute_difference, coral, decoupling, discrepancy
from tests.small_methods import random

ROWS, D = 9, 4
MASK = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], np.float32)
ZA, ZB = random(ROWS, D, seed=3), random(ROWS, D, seed=4) * 2.0 + 1.0
LOSSES = {
  "discrepancy": discrepancy,
  "coral": coral,
  "decoupling": functools.partial(decoupling, common=3, off_diagonal=0.1),
}


def by_numpy(name, a, b):
  """The losses of the counted rows, by their definitions."""
  a, b = a.astype(np.float64), b.astype(np.float64)
  if name == "coral":
    return ((np.cov(a.T) - np.cov(b.T)) ** 2).sum() / (4 * D * D)
  if name == "decoupling":
    standard = lambda z: (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    correlation = standard(a).T @ standard(b) / len(a)
    total = 0.0
    for part, target in ((correlation[:3, :3], 1.0), (correlation[3:, 3:], 0.0)):
      for i, j in np.ndindex(*part.shape):
        total += (target - part[i, i]) ** 2 if i == j else 0.1 * part[i, j] ** 2
    return total / D
  both = np.concatenate([a, b])
  distances = [((x - y) ** 2).sum() for i, x in enumerate(both) for j, y in enumerate(both) if i != j]
  scale = np.mean(distances)
  k = lambda x, y: np.mean([np.exp(-((x - y) ** 2).sum() / (f * scale)) for f in BANDWIDTHS])
  mean = lambda x, y: np.mean([k(one, other) for one in x for other in y])
  return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@pytest.mark.parametrize("name", LOSSES)
def test_value_of_the_samples_that_both_sensors_have(name):
  loss, rows = jax.jit(LOSSES[name]), MASK > 0
  np.testing.assert_allclose(loss(ZA, ZB, MASK), by_numpy(name, ZA[rows], ZB[rows]), rtol=2e-4)
  one, none = np.eye(ROWS, dtype=np.float32)[1], np.zeros(ROWS, np.float32)
  assert loss(ZA, ZB, none) == 0.0
  assert name == "discrepancy" or loss(ZA, ZB, one) == 0.0
  if name == "decoupling":  # common features are the same, and they are uncorrelated with each other
    q, _ = np.linalg.qr(np.column_stack([np.ones(ROWS), ZA, ZB]))
    base = q[:, 1:]
    a, b = base[:, [0, 1, 2, 3]], base[:, [0, 1, 2, 4]]
    assert loss(100 * a, 300 * b, np.ones(ROWS)) < 1e-4 < loss(a[:, ::-1], b[:, ::-1], np.ones(ROWS))
  else:
    np.testing.assert_allclose(loss(ZA, ZA[::-1], np.ones(ROWS)), 0.0, atol=1e-6)


def test_the_absolute_difference_is_a_mean_over_rows_and_features():
  rows = MASK > 0
  np.testing.assert_allclose(absolute_difference(ZA, ZB, MASK), np.abs(ZA - ZB)[rows].mean(), rtol=1e-5)
  assert absolute_difference(ZA, ZB, 0 * MASK) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_samples_that_lack_a_sensor_have_no_part_in_the_gradient(name):
  grad = jax.jit(jax.grad(LOSSES[name], (0, 1)))
  got = grad(ZA, ZB, MASK)
  hidden = [np.where(MASK[:, None] > 0, z, 1e3).astype(np.float32) for z in (ZA, ZB)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grad(*hidden, MASK), got)
  for side in got:
    assert np.abs(np.asarray(side)[MASK > 0]).max() > 1e-4 and not np.any(np.asarray(side)[MASK == 0])
  # Equal features, one sample and none have finite gradients.
  same = jnp.ones((ROWS, D))
  for mask in (MASK, np.eye(ROWS, dtype=np.float32)[1], np.zeros(ROWS, np.float32)):
    assert all(np.isfinite(side).all() for side in (*grad(same, same, mask), *grad(ZA, ZB, mask)))


def test_discrepancy_by_hand():
  """One sample each, at 0 and at 1: the only distance is 1, so that k = mean of exp(-1/f)."""
  k = np.mean([np.exp(-4.0), np.exp(-2.0), np.exp(-1.0), np.exp(-0.5), np.exp(-0.25)])
  got = discrepancy(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.ones(1))
  np.testing.assert_allclose(got, 2 - 2 * k, rtol=1e-6)


def test_coral_by_hand():
  """Variances 2 (of -1 and 1) and 8 (of -2 and 2): (8 - 2)² / 4."""
  a, b = jnp.array([[-1.0], [1.0]]), jnp.array([[-2.0], [2.0]])
  np.testing.assert_allclose(coral(a, b, jnp.ones(2)), 9.0, rtol=1e-6)
