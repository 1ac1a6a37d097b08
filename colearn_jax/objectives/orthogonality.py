"""The orthogonality objective: two kinds of features of a sample share no direction."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from colearn_jax.nn.layers import widened
from colearn_jax.objectives.task import masked_mean


def cosine(za: jax.Array, zb: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean over rows of cos(za, zb) (Ienco & Dantas 2024). A row of zeros has cosine 0 with every row.

  The cosine keeps its sign, so its minimum is at opposite features, not at orthogonal ones.

  Args:
    za: `[B D]`.
    zb: `[B D]`.
    mask: `[B]`, 1.0 for rows that count.
  """
  za, zb = widened(za), widened(zb)
  squares = jnp.square(za).sum(-1) * jnp.square(zb).sum(-1)
  # The root of 0 has no gradient; a row of zeros gets the gradient 0.
  some = squares > 0
  cosines = (za * zb).sum(-1) * jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 1.0)), 0.0)
  return masked_mean(cosines, mask)
