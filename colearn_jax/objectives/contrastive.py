"""The contrastive loss between two sensors' features (NT-Xent, or CLIP's form), on one device.

`objectives.ring` computes the same loss for a batch that is sharded over several devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from colearn_jax.nn.layers import widened
from colearn_jax.objectives.task import masked_mean


def contrastive(
  za: jax.Array, zb: jax.Array, temperature: float, mask: jax.Array, *, negatives: str = "both"
) -> jax.Array:
  """NT-Xent between the features of two modalities for the same samples (Chen et al. 2020, eq. 1).

  The two inputs are concatenated to 2B rows z_i. Let s_ij = cos(z_i, z_j) / τ, and let p(i) be the row of the
  same sample in the other modality. The loss is mean_i -log( exp s_ip(i) / Σ_{j ≠ i} exp s_ij ). With
  `negatives="cross"` the sum runs over the rows of the other modality only, as in CLIP (Radford et al. 2021).
  A row of zeros has cosine 0 with every row.

  Args:
    za: features of one modality, `[B D]`.
    zb: features of the other modality, `[B D]`.
    temperature: τ.
    mask: `[B]`, 1 for samples that both modalities have. The others are neither anchors nor negatives.
    negatives: `both`: rows of both modalities are negatives; `cross`: rows of the other modality only.

  Returns:
    A scalar, 0 if no sample counts.
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
  # The sum of a masked-out row may be empty. The row has no weight, but -inf would make its gradient NaN.
  counted |= (mask == 0)[:, None]
  total = jax.nn.logsumexp(jnp.where(counted, similarity, -jnp.inf), axis=-1)
  return masked_mean(total - positive, mask)
