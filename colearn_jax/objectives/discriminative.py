"""The modality-discriminative loss: a head classifies which sensor the features come from."""

from __future__ import annotations

import jax

from colearn_jax.objectives.task import masked_mean


def modality_loss(logits: jax.Array, modality: int, mask: jax.Array) -> jax.Array:
  """Cross entropy of a modality head. Every row has the same label, the index of its modality.

  Args:
    logits: `[B M]` for M modalities.
    modality: index of the modality that the features come from.
    mask: `[B]`, 1 for rows that count.
  """
  return masked_mean(-jax.nn.log_softmax(logits)[:, modality], mask)
