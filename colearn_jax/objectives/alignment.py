"""The alignment loss: pulls the features of two sensors together for the same sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from colearn_jax.nn.layers import widened
from colearn_jax.objectives.task import masked_mean


def absolute_difference(za: jax.Array, zb: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean over rows and features of |za - zb| (Wang et al. 2023, CVPR, section 3.3).

  Args:
    za: features of one sensor, `[B D]`.
    zb: features of the other sensor, `[B D]`.
    mask: `[B]`, 1.0 for samples that have both sensors.
  """
  return masked_mean(jnp.abs(widened(za) - widened(zb)).mean(-1), mask)
