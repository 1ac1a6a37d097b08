"""Gradient reversal and the method that uses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from colearn_jax.nn.reversal import growing, reverse_gradient
from colearn_jax.objectives.orthogonality import cosine
from tests.small_methods import (
  SHAPES,
  B,
  a_batch,
  architecture,
  constants,
  filled,
  forward,
  make,
  masks,
  random,
  targets,
  values,
)


def test_the_gradient_is_reversed():
  x = jnp.array([1.0, -2.0, 3.0])
  np.testing.assert_array_equal(reverse_gradient(x, 0.5), x)
  grads = jax.jit(jax.grad(lambda x, s: jnp.square(reverse_gradient(x, s)).sum(), (0, 1)))(x, 0.5)
  np.testing.assert_allclose(grads[0], -0.5 * 2 * x)
  assert grads[1] == 0.0
  assert jax.grad(lambda x: reverse_gradient(x, 2.0))(jnp.bfloat16(1.0)).dtype == jnp.bfloat16


def test_the_strength_grows():
  got = growing(jnp.array([0.0, 0.1, 0.5, 1.0]))
  np.testing.assert_allclose(got, [0.0, np.tanh(0.5), np.tanh(2.5), np.tanh(5.0)], rtol=1e-5, atol=1e-7)


def test_cosine_by_value():
  za, zb = random(B, 4), random(B, 4, seed=1)
  za[3] = 0.0
  mask, rows = jnp.array([1.0, 0, 1, 1, 0, 1]), [0, 2, 3, 5]
  cos = (za * zb).sum(1) / np.maximum(np.linalg.norm(za, axis=1) * np.linalg.norm(zb, axis=1), 1e-9)
  got, grads = jax.value_and_grad(lambda za: cosine(za, jnp.asarray(zb), mask))(jnp.asarray(za))
  np.testing.assert_allclose(got, cos[rows].mean(), rtol=1e-5)
  assert np.isfinite(grads).all() and not np.any(np.asarray(grads)[[1, 3, 4]])


def test_disentanglement_with_reversal_by_value():
  method = make("discom_kd")
  arch = architecture()
  model = filled(lambda: method.build(arch, rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape, seed=k)) for k, (m, shape) in enumerate(SHAPES.items())}
  outputs = forward(method, model, inputs)
  present = masks(radar=(1, 2), thermal=(0, 5))
  labelled = np.array([1, 0, 1, 1, 1, 1])
  batch = a_batch("multiclass", present=present, labelled=labelled)
  weights = {"main": 1.0, "auxiliary": 2.0, "discriminative": 3.0, "adversarial": 4.0, "orthogonality": 5.0}
  loss, terms = method.loss(outputs, batch, values(method, "multiclass", **weights))
  f, balance = outputs, np.asarray(constants("multiclass")["class_weights"])

  def want(index, m):
    rows, known = np.flatnonzero(present[m]), np.flatnonzero(present[m] * labelled)
    y = targets("multiclass")[known]
    log = lambda logits, rows: scipy.special.log_softmax(np.asarray(logits, np.float64)[rows], 1)
    task_loss = lambda head: np.average(-log(head[m], known)[np.arange(len(y)), y], weights=balance[y])
    tell = lambda head: -log(head[m], rows)[:, index].mean()
    unit = lambda z: np.asarray(z[m])[rows] / np.maximum(np.linalg.norm(z[m], axis=1), 1e-12)[rows, None]
    cos = lambda za, zb: (unit(za) * unit(zb)).sum(1).mean()
    return {
      "main": task_loss(f.prediction),
      "auxiliary": task_loss(f.auxiliary_specific) + task_loss(f.auxiliary_shared),
      "discriminative": tell(f.modality_specific) + tell(f.modality_unused),
      "adversarial": tell(outputs.adversary),
      "orthogonality": cos(f.specific, f.unused) + cos(f.specific, f.shared),
    }

  total = 0.0
  for index, m in enumerate(SHAPES):
    for term, value in want(index, m).items():
      np.testing.assert_allclose(terms[f"{term}/{m}"], value, rtol=1e-4, err_msg=term)
      total += weights[term] * value / 3
  np.testing.assert_allclose(loss, total, rtol=1e-4)
  # Without any label the other terms are what they were.
  given = values(method, "multiclass", **weights)
  unlabelled = method.loss(outputs, batch.replace(labelled=0 * batch.labelled), given)[1]
  for term in weights:
    want_total = 0.0 if term in ("main", "auxiliary") else terms[f"total/{term}"]
    np.testing.assert_allclose(unlabelled[f"total/{term}"], want_total, rtol=1e-6)


@pytest.mark.long
def test_the_head_learns_to_tell_the_sensor_and_the_encoders_to_hide_it():
  method = make("discom_kd", reversal=0.5)
  model = filled(lambda: method.build(architecture(), rngs=nnx.Rngs(0)))
  graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  inputs = {m: jnp.asarray(random(B, *shape, seed=k)) for k, (m, shape) in enumerate(SHAPES.items())}

  @jax.jit
  def grads(progress):
    def loss(params):
      model = nnx.merge(graphdef, params, stats, copy=True)
      outputs = method.forward(model, inputs, progress=progress)
      return method.loss(outputs, a_batch("multiclass"), values(method, "multiclass"))[1]["total/adversarial"]

    return nnx.to_pure_dict(jax.grad(loss)(params))

  def plain(params):
    model = nnx.merge(graphdef, params, stats, copy=True)
    shared = method.forward(model, inputs).shared
    logits = {m: model.adversary(z, train=False, present=None) for m, z in shared.items()}
    return -jnp.stack([jax.nn.log_softmax(logits[m])[:, k] for k, m in enumerate(SHAPES)]).mean()

  want = nnx.to_pure_dict(jax.jit(jax.grad(plain))(params))
  at = lambda progress: 0.5 * np.tanh(5.0 * progress)
  for progress in (0.0, 0.3, 1.0):
    got = grads(progress)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, got["adversary"], want["adversary"])
    for group in ("common", "shared"):
      reversed_ = jax.tree.map(lambda g, at=at, p=progress: -at(p) * g, want[group])
      jax.tree.map(close, got[group], reversed_)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(got["unique"]))
  assert any(np.any(leaf) for leaf in jax.tree.leaves(want["common"]))
  assert not make("discom_kd").paired and make("discom_kd", unpaired=False).paired
