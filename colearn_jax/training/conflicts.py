"""Gradients of several loss terms that contradict each other (PCGrad, Yu et al. 2020, NeurIPS)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from colearn_jax.nn.random import hashed_bits
from colearn_jax.training.state import Tree


def projected_sum(key: jax.Array, gradients: Sequence[Tree]) -> Tree:
  """The sum of the gradients of all terms, after the parts in conflict were projected away (algorithm 1).

  Each gradient g_i is compared with the gradients g_j of the other terms in a random order. If g_i · g_j < 0,
  its part along g_j is removed: g_i - (g_i · g_j / |g_j|²) g_j. The g_j are those before any projection.

  Args:
    key: of the random orders.
    gradients: one tree for each term, all of one structure.
  """
  products = jnp.stack([jnp.stack([_dot(a, b) for b in gradients]) for a in gradients])
  weights = coefficients(key, products)
  combine = lambda *parts: sum(weights[k].astype(part.dtype) * part for k, part in enumerate(parts))
  return jax.tree.map(combine, *gradients)


def coefficients(key: jax.Array, products: jax.Array) -> jax.Array:
  """The weights `[K]` of K gradients in their projected sum, from their scalar products `[K K]`.

  Projections only ever subtract multiples of the gradients, so that their scalar products are all that the
  algorithm needs to know of them.
  """
  count = len(products)
  terms, square = jnp.arange(count), jnp.diagonal(products)
  order = jnp.argsort(hashed_bits(key, (count, count)), axis=1)
  mixed = jnp.eye(count, dtype=products.dtype)  # row i: g_i as a combination of all gradients
  for other in order.T:
    along = (mixed @ products)[terms, other]
    conflict = (along < 0) & (other != terms) & (square[other] > 0)
    part = jnp.where(conflict, along / jnp.where(square[other] > 0, square[other], 1.0), 0.0)
    mixed -= part[:, None] * jax.nn.one_hot(other, count, dtype=products.dtype)
  return mixed.sum(0)


def _dot(a: Tree, b: Tree) -> jax.Array:
  """The scalar product of two trees."""
  return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.vdot(x, y), a, b)), jnp.zeros(()))
