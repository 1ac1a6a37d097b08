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
  for absent in (1e3, np.nan):
    hidden = [np.where(MASK[:, None] > 0, z, absent).astype(np.float32) for z in (ZA, ZB)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grad(*hidden, MASK), got)
  for side in got:
    assert np.abs(np.asarray(side)[MASK > 0]).max() > 1e-4 and not np.any(np.asarray(side)[MASK == 0])
  # Equal features, one sample and none have finite gradients.
  same = jnp.ones((ROWS, D))
  for mask in (MASK, np.eye(ROWS, dtype=np.float32)[1], np.zeros(ROWS, np.float32)):
    assert all(np.isfinite(side).all() for side in (*grad(same, same, mask), *grad(ZA, ZB, mask)))


def test_small_features_and_two_rows():
  """A variance as small as the constant that is added to it, and as few rows as have a variance."""
  loss = jax.jit(LOSSES["decoupling"])
  for a, b in ((0.003 * ZA, 0.003 * ZB), (ZA[:2], ZB[:2])):
    np.testing.assert_allclose(loss(a, b, np.ones(len(a))), by_numpy("decoupling", a, b), rtol=2e-4)
  assert loss(ZA[:2], ZB[:2], np.ones(2)) > 0.1


def test_the_scale_of_the_discrepancy_is_that_of_the_features_and_has_no_gradient():
  """So features that all grow alike change nothing, while a single one moves by the kernel alone."""
  loss, every = jax.jit(discrepancy), np.ones(ROWS, np.float32)
  np.testing.assert_allclose(loss(0.01 * ZA, 0.01 * ZB, every), loss(ZA, ZB, every), rtol=1e-4)
  both = np.concatenate([ZA, ZB]).astype(np.float64)
  distances = ((both[:, None] - both[None]) ** 2).sum(-1)
  scale = distances.sum() / (len(both) * (len(both) - 1))
  # d/da_0 of (Σ_j k(a_0, a_j) / n² - Σ_j k(a_0, b_j) / n²) · 2, with k' = -2 (x - y) k_f / (f s).
  each = sum(np.exp(-distances[0] / (f * scale)) / f for f in BANDWIDTHS) / len(BANDWIDTHS)
  sides = np.repeat([1.0, -1.0], ROWS) / ROWS**2
  expected = 2 * (sides * each) @ (-2 * (both[0] - both) / scale)
  np.testing.assert_allclose(jax.jit(jax.grad(discrepancy))(ZA, ZB, every)[0], expected, rtol=1e-3, atol=1e-6)


def test_discrepancy_by_hand():
  """One sample each, at 0 and at 1: the only distance is 1, so that k = mean of exp(-1/f)."""
  k = np.mean([np.exp(-4.0), np.exp(-2.0), np.exp(-1.0), np.exp(-0.5), np.exp(-0.25)])
  got = discrepancy(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.ones(1))
  np.testing.assert_allclose(got, 2 - 2 * k, rtol=1e-6)


def test_coral_by_hand():
  """Variances 2 (of -1 and 1) and 8 (of -2 and 2): (8 - 2)² / 4."""
  a, b = jnp.array([[-1.0], [1.0]]), jnp.array([[-2.0], [2.0]])
  np.testing.assert_allclose(coral(a, b, jnp.ones(2)), 9.0, rtol=1e-6)
