"""Gradients of several terms that contradict each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax.methods.dml import MutualLearning
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.nn import random
from colearn_jax.nn.random import hashed_bits
from colearn_jax.training.conflicts import projected_sum
from colearn_jax.training.epoch import batched, take
from colearn_jax.training.state import init
from colearn_jax.training.step import train_step
from tests.small_training import BATCH, TRAIN, VALUES, recipe, table


def by_numpy(gradients, order):
  """Algorithm 1 on vectors, with a given order of the others for each gradient."""
  out = np.zeros_like(gradients[0])
  for i, others in enumerate(order):
    g = gradients[i].copy()
    for j in others:
      if j != i and g @ gradients[j] < 0:
        g -= (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
    out += g
  return out


def test_of_two_by_hand():
  """(1, 0) and (-1, 1): the first becomes (1/2, 1/2), the second (0, 1)."""
  got = projected_sum(jax.random.key(0), [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([-1.0, 1.0])}])
  np.testing.assert_allclose(got["w"], [0.5, 1.5], rtol=1e-6)
  agree = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}]
  np.testing.assert_allclose(projected_sum(jax.random.key(0), agree)["w"], [2.0, 1.0])


def test_of_several_trees_against_vectors():
  rng, call = np.random.default_rng(0), jax.jit(projected_sum)
  orders = set()
  for number in range(6):
    vectors = rng.normal(size=(4, 9)).astype(np.float32)
    vectors[3] = 0.0 if number == 0 else vectors[3]  # a term that is switched off
    key = jax.random.key(number)
    got = call(key, [{"a": jnp.asarray(v[:3]), "b": jnp.asarray(v[3:].reshape(2, 3))} for v in vectors])
    order = np.argsort(np.asarray(hashed_bits(key, (4, 4))), axis=1)
    orders.add(str(order))
    want = by_numpy(vectors.astype(np.float64), order)
    np.testing.assert_allclose(np.concatenate([got["a"], got["b"].ravel()]), want, rtol=1e-4, atol=1e-5)
  assert len(orders) > 1
  small = call(key, [{"a": jnp.asarray(0.01 * v)} for v in vectors])["a"]  # the size has no influence
  np.testing.assert_allclose(100 * small, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("method", "opposed"),
  [(MutualLearning(), "mutual"), pytest.param(MDiCo(), "auxiliary", marks=pytest.mark.long)],
)
def test_a_step_projects_the_gradients_of_the_terms(method, opposed):
  """Against the gradients of each term by itself: with the rate of SGD they are the change of parameters."""
  batch = jax.tree.map(jnp.asarray, take(table(), batched(TRAIN, BATCH)[0]))
  plain, projected = (
    jax.jit(functools.partial(train_step, recipe(1, method=method, project_conflicts=on)))
    for on in (False, True)
  )
  terms = method.terms[:4]
  values = VALUES | {"weights": dict.fromkeys(terms, np.float32(1.0))}
  state = jax.jit(functools.partial(init, recipe(1, method=method)))(jax.random.key(0), values)
  # A term that is to grow is opposed to the others.
  weights = {term: np.float32(-1.0 if term == opposed else 1.0) for term in terms}

  def moved(step, weights):
    new = step(dataclasses.replace(state, values=VALUES | {"weights": weights}), batch)[0].params
    leaves = zip(jax.tree.leaves(new), jax.tree.leaves(state.params))
    return np.concatenate([np.asarray(a, np.float64).ravel() - np.asarray(b).ravel() for a, b in leaves])

  only = lambda term: {other: weight * (other == term) for other, weight in weights.items()}
  each = np.array([moved(plain, only(term)) for term in sorted(weights)])  # in the order of a dict
  np.testing.assert_allclose(moved(plain, weights), each.sum(0), rtol=1e-3, atol=1e-6)
  bits = hashed_bits(random.stream(state.key, "conflicts", state.step), (len(terms),) * 2)
  want = by_numpy(each, np.argsort(np.asarray(bits), axis=1))
  assert np.abs(want - each.sum(0)).max() > 1e-3
  np.testing.assert_allclose(moved(projected, weights), want, rtol=5e-3, atol=5e-6)
