"""The transform of values to the quantiles of a normal distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp

QUANTILES = 101  # Q, of each band


def normal_scores(x: jax.Array, quantiles: jax.Array) -> jax.Array:
  """Maps values to the quantiles of a standard normal variable, band by band: Φ⁻¹(F(x)).

  F is the distribution of a band in the training part: it is linear between `quantiles` `[Q C]`, which belong
  to Q equally spaced probabilities from 0 to 1. At values that occur often F jumps, and the middle of the
  jump is used. Values out of the training part's range become those of probability 0.001 or 0.999.

  Args:
    x: `[... C]`, NaN = missing.
    quantiles: `[Q C]`, not decreasing. A band with NaN is returned as it is (the date and the location of a
      context, which have no scale).

  Returns:
    `[... C]`, NaN = missing.
  """
  probabilities = jnp.linspace(0.0, 1.0, len(quantiles))

  def one(values, known):
    from_left = jnp.interp(values, known, probabilities)
    from_right = jnp.interp(-values, -known[::-1], 1.0 - probabilities[::-1])
    share = 0.5 * (from_left + 1.0 - from_right)
    score = jax.scipy.stats.norm.ppf(jnp.clip(share, 1e-3, 1.0 - 1e-3))
    return jnp.where(jnp.isnan(known).any() | jnp.isnan(values), values, score)

  return jax.vmap(one, in_axes=(-1, 1), out_axes=-1)(x, quantiles)
