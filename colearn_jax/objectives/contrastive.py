"""The contrastive objective on one device; `ring.py` has the same over many."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from colearn_jax.nn.layers import widened
from colearn_jax.objectives.task import masked_mean


def contrastive(
  za: jax.Array, zb: jax.Array, temperature: float, mask: jax.Array, *, negatives: str = "both"
) -> jax.Array:
  """NT-Xent between two modalities' features of the same samples (Chen et al. 2020, eq. 1).

  Of the 2B rows of both, with s_ij = cos(z_i, z_j) / τ and p(i) the same sample's row of the other modality:
  mean_i -log( exp s_ip(i) / Σ_{j ≠ i} exp s_ij ). With `negatives="cross"` the sum runs over the other
  modality's rows alone, as in CLIP (Radford et al. 2021). A row of zeros has cosine 0 with every row.

  Args:
    za: `[B D]`.
    zb: `[B D]`.
    temperature: τ.
    mask: `[B]`, the samples that both modalities saw; the others are neither anchors nor negatives.
    negatives: `both` modalities' rows, or only those `cross` the pair.
  """
  z = widened(jnp.concatenate([za, zb]))
  z = z * jax.lax.rsqrt(jnp.maximum(jnp.square(z).sum(-1, keepdims=True), 1e-24))
  similarity = (z @ z.T) / temperature
  rows, batch = jnp.arange(z.shape[0]), za.shape[0]
  positive = similarity[rows, (rows + batch) % (2 * batch)]
  mask = jnp.concatenate([mask, mask])
  counted = (mask > 0)[None, :] & ~jnp.eye(2 * batch, dtype=bool)
  if negatives == "cross":
    counted &= (rows < batch)[:, None] != (rows < batch)[None, :]
  # An absent row's own sum may be over nothing; it counts for nothing, but must not make a NaN gradient.
  counted |= (mask == 0)[:, None]
  total = jax.nn.logsumexp(jnp.where(counted, similarity, -jnp.inf), axis=-1)
  return masked_mean(total - positive, mask)
