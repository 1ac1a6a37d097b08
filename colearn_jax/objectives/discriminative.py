"""The modality-discriminative objective: which sensor do these features come from?"""

from __future__ import annotations

import jax

from colearn_jax.objectives.task import masked_mean


def modality_loss(logits: jax.Array, modality: int, mask: jax.Array) -> jax.Array:
  """Cross entropy of a modality head, the label being the modality's own index for every row.

  Args:
    logits: `[B M]`.
    modality: the index m.
    mask: `[B]`.
  """
  return masked_mean(-jax.nn.log_softmax(logits)[:, modality], mask)
