"""The orthogonality loss: the cosine between two kinds of features of a sample, e.g. shared and specific."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from colearn_jax.nn.layers import widened
from colearn_jax.objectives.task import masked_mean


def cosine(za: jax.Array, zb: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean over rows of cos(za, zb) (Ienco & Dantas 2024). A row of zeros has cosine 0 with every row.

  The cosine keeps its sign, so its minimum is at opposite features, not at orthogonal ones.

  Args:
    za: features of one kind, `[B D]`.
    zb: features of the other kind, `[B D]`.
    mask: `[B]`, 1.0 for rows that count.
  """
  za, zb = widened(za), widened(zb)
  squares = jnp.square(za).sum(-1) * jnp.square(zb).sum(-1)
  # The gradient of a square root at 0 is infinite, so rows of zeros are replaced: their gradient is 0.
  some = squares > 0
  cosines = (za * zb).sum(-1) * jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 1.0)), 0.0)
  return masked_mean(cosines, mask)
