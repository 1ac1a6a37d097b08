"""ShaSpec: shared features stand for absent sensors."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import nnx

from colearn_jax.methods import shaspec
from colearn_jax.objectives.alignment import absolute_difference
from tests.small_methods import (
  SHAPES,
  B,
  a_batch,
  architecture,
  filled,
  forward,
  make,
  masks,
  outputs_of,
  random,
  targets,
  values,
)


def test_a_random_number_of_sensors_is_shown():
  rows = 6000
  present = masks(rows, radar=range(1000))
  kept = {m: np.asarray(a) for m, a in shaspec.subset(jax.random.key(0), present).items()}
  assert all((kept[m] <= present[m]).all() for m in SHAPES)
  count = sum(kept.values())
  for number in (1, 2, 3):
    assert abs((count[1000:] == number).mean() - 1 / 3) < 0.03
  for number in (1, 2):
    assert abs((count[:1000] == number).mean() - 1 / 2) < 0.07
  for m in SHAPES:
    assert abs(kept[m][1000:].mean() - 2 / 3) < 0.03


def test_shared_features_stand_for_absent_sensors():
  method = make("shaspec")
  model = filled(lambda: method.build(architecture(head_layers=()), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  present = masks(radar=(0, 1), thermal=(1, 2))
  got = forward(method, model, inputs, present)
  run = lambda encoder, m: np.asarray(encoder[m](inputs[m], train=False, present=None, rngs=None))
  dense = lambda layer, x: x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
  trunk = lambda z: dense(model.trunk.out, np.maximum(dense(model.trunk.hidden, z), 0))
  s = {m: trunk(run(model.stems, m)) for m in SHAPES}
  e = {m: run(model.specific, m) for m in SHAPES}
  r = {m: s[m] + dense(model.compose, np.concatenate([s[m], e[m]], 1)) for m in SHAPES}

  def want(row, shown):
    shown = [m for m in shown if present[m][row]]
    mean = np.mean([s[m][row] for m in shown], axis=0)
    return dense(model.head.out, np.concatenate([r[m][row] if m in shown else mean for m in SHAPES]))

  for row in range(B):
    every = got.prediction["optical+radar+thermal"][row]
    np.testing.assert_allclose(every, want(row, SHAPES), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.prediction["optical"][row], want(row, ["optical"]), rtol=1e-4, atol=1e-4)
  for m in SHAPES:
    np.testing.assert_allclose(got.sensor[m], dense(model.sensor_head, e[m]), rtol=1e-4, atol=1e-4)
  # At the beginning no sensor of a training sample is hidden; later the draw decides.
  early = make("shaspec", complete=0.5)

  def trained(progress, seed):
    out = forward(early, model, inputs, present, train=True, progress=progress, seed=seed)
    return np.asarray(out.prediction["optical+radar+thermal"])

  np.testing.assert_array_equal(trained(0.4, 0), trained(0.4, 1))
  assert np.abs(trained(0.5, 0) - trained(0.4, 0)).max() > 1e-3
  assert np.abs(trained(0.5, 0) - trained(0.5, 1)).max() > 1e-3


def test_sensors_are_hidden_from_the_first_epoch_on():
  """A training that stops early has then learnt to predict from single sensors."""
  assert shaspec.ShaSpec().complete == 0


def test_shaspec_by_value():
  method, names = make("shaspec"), tuple(SHAPES)
  assert shaspec.ring(names) == [("radar", "optical"), ("optical", "thermal"), ("thermal", "radar")]
  assert shaspec.ring("ab") == [("a", "b")] and shaspec.ring("a") == []
  prediction = outputs_of("multilabel", 30)["radar"]
  s = {m: jnp.asarray(random(B, 4, seed=k)) for k, m in enumerate(SHAPES)}
  logits = {m: jnp.asarray(random(B, 3, seed=9 + k)) for k, m in enumerate(SHAPES)}
  outputs = shaspec.Outputs({"optical+radar+thermal": prediction}, s, logits, names)
  present = masks(radar=(0, 1), optical=(0, 3), thermal=(0, 4))
  batch = a_batch("multilabel", present=present, labelled=[1, 1, 1, 0, 1, 1])
  loss, terms = method.loss(outputs, batch, values(method, "multilabel"))
  rows, y = [1, 2, 4, 5], targets("multilabel")
  p = scipy.special.expit(np.asarray(prediction, np.float64))[rows]
  main = -(y[rows] * np.log(p) + (1 - y[rows]) * np.log(1 - p)).mean()
  np.testing.assert_allclose(terms["main/optical+radar+thermal"], main, rtol=1e-5)
  alignment, tell = 0.0, []
  for m, n in shaspec.ring(names):
    both = np.flatnonzero(present[m] * present[n])
    difference = np.abs(np.asarray(s[m]) - np.asarray(s[n]))[both].mean()
    np.testing.assert_allclose(terms[f"alignment/{m}__{n}"], difference, rtol=1e-5)
    np.testing.assert_allclose(
      absolute_difference(s[m], s[n], present[m] * present[n]), difference, rtol=1e-5
    )
    alignment += difference
  for k, m in enumerate(SHAPES):
    log = scipy.special.log_softmax(np.asarray(logits[m], np.float64), 1)[np.flatnonzero(present[m]), k]
    np.testing.assert_allclose(terms[f"discriminative/{m}"], -log.mean(), rtol=1e-5)
    tell.append(-log.mean())
  np.testing.assert_allclose(loss, main + 0.1 * alignment + 0.02 * np.mean(tell), rtol=1e-5)
