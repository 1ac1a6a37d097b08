"""Alignment losses: pull the features of two sensors, or their distributions, together."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from colearn_jax.nn.layers import widened
from colearn_jax.objectives.task import masked_mean

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of `discrepancy`, in units of the mean squared distance


def absolute_difference(za: jax.Array, zb: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean over rows and features of |za - zb| (Wang et al. 2023, CVPR, section 3.3).

  Args:
    za: features of one sensor, `[B D]`.
    zb: features of the other sensor, `[B D]`.
    mask: `[B]`, 1.0 for samples that have both sensors.
  """
  return masked_mean(jnp.abs(widened(za) - widened(zb)).mean(-1), mask)


def discrepancy(za: jax.Array, zb: jax.Array, mask: jax.Array) -> jax.Array:
  """The squared maximum mean discrepancy (MMD) of two sensors' features (Gretton et al. 2012, JMLR 13).

  It is mean k(a, a') + mean k(b, b') - 2 mean k(a, b) over all pairs of counted rows, the biased estimate,
  which is never negative. The kernel k is the mean of five Gaussians exp(-|x - y|² / (f s)) with the factors
  f of `BANDWIDTHS` (Long et al. 2015, ICML). s is the mean of |x - y|² over all pairs of different rows of
  both sensors; it has no gradient. 0 if no row counts.

  Args:
    za: features of one sensor, `[B D]`.
    zb: features of the other sensor, `[B D]`.
    mask: `[B]`, 1.0 for samples that have both sensors.
  """
  z, rows = jnp.concatenate([za, zb]), jnp.concatenate([mask, mask])
  z = jnp.where(rows[:, None] > 0, widened(z), 0.0)
  squares = jnp.square(z).sum(-1)
  distances = jnp.maximum(squares[:, None] + squares[None, :] - 2.0 * (z @ z.T), 0.0)
  counted = rows[:, None] * rows[None, :] * (1.0 - jnp.eye(len(z)))
  mean = (distances * counted).sum() / jnp.maximum(counted.sum(), 1.0)
  mean = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1.0))
  kernel = sum(jnp.exp(-distances / (factor * mean)) for factor in BANDWIDTHS) / len(BANDWIDTHS)
  sides = rows * jnp.repeat(jnp.array([1.0, -1.0]), len(mask)) / jnp.maximum(mask.sum(), 1.0)
  return sides @ kernel @ sides


def coral(za: jax.Array, zb: jax.Array, mask: jax.Array) -> jax.Array:
  """|Cov(za) - Cov(zb)|² / (4 D²), the squared Frobenius norm (Sun & Saenko 2016, ECCV workshops, eq. 1).

  Covariances are divided by the number of counted rows less one. 0 if fewer than two rows count.

  Args:
    za: features of one sensor, `[B D]`.
    zb: features of the other sensor, `[B D]`.
    mask: `[B]`, 1.0 for samples that have both sensors.
  """

  def covariance(z):
    z = jnp.where(mask[:, None] > 0, widened(z), 0.0)
    centred = jnp.where(mask[:, None] > 0, z - z.sum(0)[None] / jnp.maximum(mask.sum(), 1.0), 0.0)
    return centred.T @ centred / jnp.maximum(mask.sum() - 1.0, 1.0)

  return jnp.square(covariance(za) - covariance(zb)).sum() / (4.0 * za.shape[-1] ** 2)


def decoupling(
  za: jax.Array, zb: jax.Array, mask: jax.Array, *, common: int, off_diagonal: float
) -> jax.Array:
  """The redundancy reduction between two sensors of DeCUR (Wang et al. 2024, ECCV, section 3).

  Let C be the correlation of the features of one sensor with those of the other, over the counted rows. Of
  the first `common` features the loss is Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij², of the others
  Σ_i C_ii² + λ Σ_{i≠j} C_ij². Here the sum is divided by D, so that its size does not depend on the width.
  0 if fewer than two rows count.

  Args:
    za: features of one sensor, `[B D]`.
    zb: features of the other sensor, `[B D]`.
    mask: `[B]`, 1.0 for samples that have both sensors.
    common: number of features that are to be common, from 0 to D.
    off_diagonal: λ.
  """
  count = jnp.maximum(mask.sum(), 1.0)

  def standardised(z):
    z = jnp.where(mask[:, None] > 0, widened(z), 0.0)
    centred = jnp.where(mask[:, None] > 0, z - z.sum(0)[None] / count, 0.0)
    variance = jnp.square(centred).sum(0) / count
    return centred * jax.lax.rsqrt(variance + 1e-5)[None]

  correlation = standardised(za).T @ standardised(zb) / count

  def block(part, target):
    diagonal = jnp.diagonal(part)
    others = jnp.square(part).sum() - jnp.square(diagonal).sum()
    return jnp.square(target - diagonal).sum() + off_diagonal * others

  first, rest = correlation[:common, :common], correlation[common:, common:]
  total = (block(first, 1.0) + block(rest, 0.0)) / za.shape[-1]
  return jnp.where(mask.sum() > 1, total, 0.0)
