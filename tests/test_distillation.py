"""Methods that learn from another network: a teacher, peers. `test_teacher.py` has other teachers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax.objectives.distillation import distillation
from tests.small_methods import (
  KINDS,
  SHAPES,
  B,
  a_batch,
  constants,
  distance,
  make,
  masks,
  outputs_of,
  values,
)


@pytest.mark.parametrize("kind", KINDS)
def test_distillation_by_value(kind):
  student, teacher = (np.array(outputs_of(kind, seed)["radar"]) for seed in (0, 10))
  mask, rows = jnp.array([1.0, 1, 0, 1, 0, 1]), [0, 1, 3, 5]
  teacher[[2, 4]] = np.nan
  loss = lambda s, t: distillation(kind, s, t, constants(kind), mask, 3.0)
  got, (to_student, to_teacher) = jax.value_and_grad(loss, (0, 1))(student, teacher)
  np.testing.assert_allclose(got, distance(kind, student, teacher, rows, 3.0), rtol=1e-5)
  assert not np.any(to_teacher) and np.isfinite(to_student).all()
  assert np.abs(to_student)[rows].min() > 0 and not np.any(np.asarray(to_student)[[2, 4]])
  np.testing.assert_allclose(loss(teacher, teacher), 0.0, atol=1e-6) if np.isfinite(teacher).all() else None
  assert distillation(kind, student, teacher, constants(kind), jnp.zeros(B)) == 0.0


def test_distillation_of_two_classes_by_hand():
  """Teacher (1/2, 1/2), student (1/4, 3/4): log 2 + log(2/3), halved."""
  student, teacher = jnp.log(jnp.array([[1.0, 3.0]])), jnp.zeros((1, 2))
  got = distillation("binary", student, teacher, {}, jnp.ones(1))
  np.testing.assert_allclose(got, 0.5 * (np.log(2) + np.log(2 / 3)), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_students_learn_from_the_teacher(kind):
  method, outputs = make("kd", temperature=2.0), outputs_of(kind, 0)
  teacher = outputs_of(kind, 20)["radar"]
  present = masks(radar=(1, 2), thermal=range(B))
  said = {"fusion": {"optical+radar+thermal": teacher, "radar": 0 * teacher}}
  batch = a_batch(kind, present=present, labelled=[1, 0, 1, 1, 1, 1], teachers=said)
  given = values(method, kind, main=0.5, distillation=3.0)
  loss, terms = method.loss(outputs, batch, given)
  want = {
    m: distance(kind, outputs[m], teacher, np.flatnonzero(present[m]), 2.0) for m in ("radar", "optical")
  }
  for m, value in want.items():
    np.testing.assert_allclose(terms[f"distillation/{m}"], value, rtol=1e-5)
  np.testing.assert_allclose(terms["total/distillation"], 3 * np.mean(list(want.values())), rtol=1e-5)
  alone = make("individual").loss(outputs, batch, given)[0]
  np.testing.assert_allclose(terms["total/main"], alone, rtol=1e-6)
  np.testing.assert_allclose(loss, alone + terms["total/distillation"], rtol=1e-6)
  off = dataclasses.replace(method, distillation=0.0)
  assert not off.uses_unlabelled
  assert off.loss(outputs, batch, values(off, kind, main=0.5))[0] == alone


@pytest.mark.parametrize("kind", KINDS)
def test_peers_learn_from_each_other(kind):
  method, outputs = make("dml"), outputs_of(kind, 0)
  present = masks(radar=(1, 2), optical=(2, 3), thermal=(0, 5))
  batch = a_batch(kind, present=present, labelled=[1, 0, 1, 1, 1, 1])
  given = values(method, kind, mutual=2.0)
  loss, terms = method.loss(outputs, batch, given)
  want = {}
  for m in SHAPES:
    both = {k: np.flatnonzero(present[m] * present[k]) for k in SHAPES if k != m}
    want[m] = np.mean([distance(kind, outputs[m], outputs[k], rows) for k, rows in both.items()])
    np.testing.assert_allclose(terms[f"mutual/{m}"], want[m], rtol=1e-5)
  np.testing.assert_allclose(terms["total/mutual"], 2 * np.mean(list(want.values())), rtol=1e-5)
  np.testing.assert_allclose(loss, terms["total/main"] + terms["total/mutual"], rtol=1e-6)
  # A peer that teaches gets no gradient: that of mutual/radar is of the radar's output alone.
  grads = jax.grad(lambda o: method.loss(o, batch, given)[1]["mutual/radar"])(outputs)
  assert np.any(grads["radar"]) and not np.any(grads["optical"]) and not np.any(grads["thermal"])
  # Two sensors that no sample has in common: that pair leaves the mean.
  apart = a_batch(kind, present=masks(radar=(0, 1, 2), thermal=(3, 4, 5)))
  got = method.loss(outputs, apart, given)[1]["mutual/radar"]
  np.testing.assert_allclose(got, distance(kind, outputs["radar"], outputs["optical"], [3, 4, 5]), rtol=1e-5)
