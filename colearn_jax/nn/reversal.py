"""Gradient reversal: the identity, whose gradient has the other sign (Ganin et al. 2016, JMLR 17:59)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_vjp
def reverse_gradient(x: jax.Array, strength: jax.Array | float) -> jax.Array:
  """Returns x of any shape; its gradient is multiplied by -strength (equation 11). `strength` has none."""
  del strength
  return x


def _forward(x, strength):
  return x, jnp.asarray(strength, jnp.float32)


def _backward(strength, d):
  return (-strength * d).astype(d.dtype), jnp.zeros_like(strength)


reverse_gradient.defvjp(_forward, _backward)


def growing(progress: jax.Array | float, steepness: float = 10.0) -> jax.Array:
  """The strength λ = 2 / (1 + exp(-γ p)) - 1 for the share p of a training that is over (section 5.2.2).

  It grows from 0 to nearly 1. `steepness` is γ.
  """
  return 2.0 / (1.0 + jnp.exp(-steepness * jnp.asarray(progress))) - 1.0
