"""Mixup: training on interpolations of two samples (Zhang, Cisse, Dauphin, Lopez-Paz 2018, ICLR)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from colearn_jax.methods.base import Batch

Loss = Callable[[Batch], tuple[jax.Array, dict[str, jax.Array]]]


def mix(key: jax.Array, alpha: float, batch: Batch) -> tuple[Batch, Batch, jax.Array]:
  """Mixes every sample of a batch with another one, alike for all its sensors, its context and its target.

  One permutation of the rows and one λ of Beta(α, α) are drawn for the batch. The input of row b becomes
  λ x_b + (1 - λ) x_p(b); values that one of them lacks are missing. A row is left alone where its partner has
  other sensors, or where only one of them has a label.

  Args:
    key: random key.
    alpha: α > 0.
    batch: the batch, with normalised inputs.

  Returns:
    The batch with mixed inputs and its own targets; the same with the targets of the partners; and λ. The
    loss is that of the first, weighted by λ, and that of the second, weighted by 1 - λ: for losses that are
    linear in the target this is the loss of mixed targets, and classes need no mixture.
  """
  of_share, of_order = jax.random.split(key)
  share = jax.random.beta(of_share, alpha, alpha)
  own = jnp.arange(len(batch.row))
  partner = jax.random.permutation(of_order, own)
  alike = [flags == flags[partner] for flags in (*batch.present.values(), batch.labelled > 0)]
  fits = functools.reduce(jnp.logical_and, alike)
  partner = jnp.where(fits, partner, own)

  def mixed(x):
    both = share * x + (1.0 - share) * x[partner]
    return jnp.where(fits.reshape(-1, *[1] * (x.ndim - 1)), both, x)

  batch = dataclasses.replace(batch, inputs=jax.tree.map(mixed, batch.inputs))
  theirs = {name: getattr(batch, name)[partner] for name in ("target", "labelled", "row", "weight")}
  return batch, dataclasses.replace(batch, **theirs), share


def mixed_loss(loss: Loss, own: Batch, theirs: Batch, share: jax.Array):
  """The loss and its terms for a mixed batch, see `mix`."""
  (first, terms), (second, others) = loss(own), loss(theirs)
  blend = lambda a, b: share * a + (1.0 - share) * b
  return blend(first, second), jax.tree.map(blend, terms, others)
