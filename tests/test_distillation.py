"""Methods that learn from another network: a teacher, peers. `test_teacher.py` has other teachers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from colearn_jax.methods.predict import mean_prediction
from colearn_jax.objectives.distillation import decoupled, distillation
from colearn_jax.types import InputError
from tests.small_methods import (
  KINDS,
  SHAPES,
  B,
  a_batch,
  architecture,
  constants,
  distance,
  make,
  masks,
  outputs_of,
  targets,
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


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_decoupled_distillation_by_value(kind):
  student, teacher = (np.array(outputs_of(kind, seed)["radar"]) for seed in (0, 10))
  mask, rows, label, t = jnp.array([1.0, 1, 0, 1, 0, 1]), [0, 1, 3, 5], targets(kind), 3.0
  teacher[[2, 4]] = np.nan
  weights = {"target_weight": 0.7, "rest_weight": 2.0}
  loss = jax.jit(lambda s: decoupled(s, teacher, label, mask, t, **weights))

  def of_row(row):
    q, p = (scipy.special.softmax(np.asarray(a[row], np.float64) / t) for a in (student, teacher))
    y, others = label[row], [k for k in range(len(p)) if k != label[row]]
    pair = lambda p: np.array([p[y], 1 - p[y]])
    rest = lambda p: p[others] / p[others].sum()
    kl = lambda p, q: scipy.special.rel_entr(p, q).sum()
    return t**2 * (0.7 * kl(pair(p), pair(q)) + 2.0 * kl(rest(p), rest(q)))

  np.testing.assert_allclose(loss(student), np.mean([of_row(row) for row in rows]), rtol=1e-4)
  gradient = np.asarray(jax.jit(jax.grad(loss))(student))
  assert np.isfinite(gradient).all() and not np.any(gradient[[2, 4]]) and np.abs(gradient[rows]).min() > 0
  of_teacher = lambda q: decoupled(student, q, label, mask, t, **weights)
  assert not np.any(jax.jit(jax.grad(of_teacher))(teacher))


def test_decoupled_distillation_by_hand():
  """Teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2), class 0: parts 0.5 log(4/3) and 0.5 log(9/8)."""
  student, teacher = jnp.log(jnp.array([[1.0, 1.0, 2.0]])), jnp.log(jnp.array([[2.0, 1.0, 1.0]]))
  of = lambda a, b: decoupled(
    student, teacher, jnp.zeros(1, int), jnp.ones(1), 1.0, target_weight=a, rest_weight=b
  )
  np.testing.assert_allclose(of(1.0, 0.0), 0.5 * np.log(4 / 3), rtol=1e-5)
  np.testing.assert_allclose(of(0.0, 1.0), 0.5 * np.log(9 / 8), rtol=1e-5)
  # α = 1, β = 1 - (teacher's probability of the class): the divergence of all classes.
  np.testing.assert_allclose(of(1.0, 0.5), distance("multiclass", student, teacher, [0]), rtol=1e-5)


def test_decoupled_distillation_is_for_labelled_samples_of_one_class():
  method, outputs = make("kd decoupled"), outputs_of("multiclass", 0)
  teacher = outputs_of("multiclass", 20)["radar"]
  present, labelled = masks(radar=(1, 2)), np.array([1, 0, 1, 1, 1, 1], np.float32)
  said = {"fusion": {"optical+radar+thermal": teacher}}
  batch = a_batch("multiclass", present=present, labelled=labelled, teachers=said)
  terms = method.loss(outputs, batch, values(method, "multiclass"))[1]
  for m in SHAPES:
    weights = {"target_weight": 1.0, "rest_weight": 8.0}
    want = decoupled(outputs[m], teacher, batch.target, present[m] * labelled, 4.0, **weights)
    np.testing.assert_allclose(terms[f"distillation/{m}"], want, rtol=1e-5)
  assert not method.uses_unlabelled and make("kd").uses_unlabelled
  with pytest.raises(InputError, match="needs one class per sample, the task is regression"):
    method.build(architecture("regression"), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["kd", "dml"])
def test_members_learn_each_by_itself(name):
  """Of two members, the loss is the mean of the losses of each."""
  method, pair = make(name), [outputs_of("multiclass", seed) for seed in (0, 10)]
  teachers = [outputs_of("multiclass", seed)["radar"] for seed in (20, 30)]
  both = {m: jnp.stack([one[m] for one in pair], 1) for m in SHAPES}
  present, given = masks(radar=(1, 2), thermal=(0,)), values(method, "multiclass")

  def of(outputs, teacher):
    said = {"fusion": {"optical+radar+thermal": teacher}}
    return method.loss(outputs, a_batch("multiclass", present=present, teachers=said), given)[0]

  together = jnp.stack(teachers, 1)
  mean = mean_prediction("multiclass", together)
  want = np.mean([of(one, mean) for one in pair])
  np.testing.assert_allclose(of(both, together), want, rtol=1e-5)


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
