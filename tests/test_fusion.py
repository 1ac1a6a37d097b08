"""Fusion of the features of all sensors, with and without sensor dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax.methods import fusion
from colearn_jax.types import InputError
from tests.small_methods import (
  ENCODER,
  SHAPES,
  B,
  a_batch,
  architecture,
  filled,
  forward,
  make,
  masks,
  random,
  targets,
  values,
)


def test_hidden_sensors():
  """Every sample that has a sensor keeps one; the others are hidden with the given probability."""
  rows = 4000
  present = masks(rows, radar=range(1000), optical=range(500))
  kept = {m: np.asarray(a) for m, a in fusion.hide(jax.random.key(0), present, 0.5).items()}
  assert all((kept[m] <= present[m]).all() for m in SHAPES)
  assert (sum(kept.values()) >= 1).all()
  share = lambda m, rows: kept[m][rows].mean()
  assert share("thermal", slice(0, 500)) == 1.0, "the only one stays"
  # Of two: 1/2 not hidden, 1/4 · 1/2 in place of both. Of three: 1/2 and 1/8 · 1/3.
  for m in ("optical", "thermal"):
    assert abs(share(m, slice(500, 1000)) - 0.625) < 0.07
  for m in SHAPES:
    assert abs(share(m, slice(1000, None)) - 0.5417) < 0.03
  most = fusion.hide(jax.random.key(0), masks(rows), 0.1)["radar"].mean()
  assert abs(most - (0.9 + 0.001 / 3)) < 0.02


def test_fusion_concatenates_with_zeros_for_absent_sensors():
  method = make("fusion")
  model = filled(lambda: method.build(architecture(head_layers=()), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  present = masks(radar=(0, 1), thermal=(1, 2))
  got = forward(method, model, inputs, present)
  z = {m: np.asarray(model.encoders[m](inputs[m], train=False, present=None, rngs=None)) for m in SHAPES}
  kernel, bias = np.asarray(model.head.out.kernel[...]), np.asarray(model.head.out.bias[...])

  def want(shown):
    parts = [z[m] * (np.asarray(present[m])[:, None] if m in shown else 0) for m in SHAPES]
    return np.concatenate(parts, 1) @ kernel + bias

  assert set(got) == {"optical+radar+thermal", *SHAPES}
  np.testing.assert_allclose(got["optical+radar+thermal"], want(SHAPES), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got["optical"], want(["optical"]), rtol=1e-4, atol=1e-5)
  two = forward(method, model, {m: inputs[m] for m in ("radar", "thermal")}, present)
  np.testing.assert_allclose(two["radar+thermal"], want(["radar", "thermal"]), rtol=1e-4, atol=1e-5)
  # In training sensors are hidden at random.
  first, second = (forward(method, model, inputs, present, train=True, seed=seed) for seed in (0, 1))
  assert list(first) == ["optical+radar+thermal"]
  assert np.abs(first["optical+radar+thermal"] - second["optical+radar+thermal"]).max() > 1e-3


def test_fusion_counts_every_sample_that_has_a_label_and_a_sensor():
  method, outputs = make("fusion"), jnp.asarray(random(B, 3))
  present = masks(radar=(0, 1), optical=(0, 2), thermal=(0, 3))
  batch = a_batch("regression", present=present, labelled=[1, 1, 1, 1, 0, 1])
  name = "optical+radar+thermal"
  loss, terms = method.loss({name: outputs}, batch, values(method, "regression", main=2.0))
  rows = [1, 2, 3, 5]
  error = (np.asarray(outputs) - targets("regression"))[rows] / [1.0, 2.0, 4.0]
  np.testing.assert_allclose(terms[f"main/{name}"], (error**2).mean(), rtol=1e-5)
  np.testing.assert_allclose(loss, 2 * (error**2).mean(), rtol=1e-5)


def test_without_sensor_dropout_fusion_needs_all_sensors():
  method = make("fusion", sensor_dropout=0.0)
  assert method.predictors(["b", "a"]) == {"a+b": ("b", "a")}
  model = filled(lambda: method.build(architecture(), rngs=nnx.Rngs(0)))
  assert method.predict(method.forward(model, {"radar": jnp.ones((B, 3))})) == {"prediction": {}}
  with pytest.raises(InputError, match="does not predict with 'radar', but with: optical.radar.thermal"):
    method.build(architecture(), only="radar", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("merge", ["mean", "gated"])
def test_features_of_the_shown_sensors_are_merged(merge):
  method = make("fusion", merge=merge)
  model = filled(lambda: method.build(architecture(head_layers=()), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  present = masks(radar=(0, 1), thermal=(1, 2))
  got = forward(method, model, inputs, present)
  z = {m: np.asarray(model.encoders[m](inputs[m], train=False, present=None, rngs=None)) for m in SHAPES}
  array = lambda layer: (np.asarray(layer.kernel[...]), np.asarray(layer.bias[...]))
  (kernel, bias), gate = array(model.head.out), model.gate and array(model.gate)
  for name in ("optical+radar+thermal", "optical"):
    for row in range(B):
      shown = [m for m in SHAPES if present[m][row] > 0 and m in name.split("+")]
      merged = np.mean([z[m][row] for m in shown], 0)
      if gate:
        scores = np.exp((merged @ gate[0] + gate[1])[[list(SHAPES).index(m) for m in shown]])
        merged = sum(s / scores.sum() * z[m][row] for s, m in zip(scores, shown))
      np.testing.assert_allclose(got[name][row], merged @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_every_subset_is_trained():
  """FCoM: the mean over the subsets of three sensors, of the samples that have any sensor of a subset."""
  method = make("fusion", shown="all", sensor_dropout=0.0)
  model = filled(lambda: method.build(architecture("regression", head_layers=()), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  present = masks(radar=(0, 1), optical=(0,), thermal=range(B))
  outputs = forward(method, model, inputs, present, train=True)
  assert len(outputs) == 7 and set(method.predict(outputs)["prediction"]) == {
    *SHAPES,
    "optical+radar+thermal",
  }
  loss, terms = method.loss(outputs, a_batch("regression", present=present), values(method, "regression"))
  want = {}
  for name, said in outputs.items():
    there = np.max([present[m] for m in name.split("+")], 0) > 0
    error = (np.asarray(said) - targets("regression"))[there] / [1.0, 2.0, 4.0]
    if there.any():  # nobody has the thermal sensor
      want[name] = (error**2).mean()
      np.testing.assert_allclose(terms[f"main/{name}"], want[name], rtol=1e-4)
  assert len(want) == 6
  np.testing.assert_allclose(loss, np.mean(list(want.values())), rtol=1e-4)


def test_contradicting_settings_are_told():
  with pytest.raises(InputError, match="loss.sensor_dropout=0, or loss.shown=drawn"):
    make("fusion", shown="all").build(architecture(), rngs=nnx.Rngs(0))
  many = {f"s{k}": (2,) for k in range(7)}
  arch = dataclasses.replace(architecture(), shapes=many, encoders=dict.fromkeys(many, ENCODER))
  with pytest.raises(InputError, match="at most 6 sensors"):
    make("fusion", shown="all", sensor_dropout=0.0).build(arch, rngs=nnx.Rngs(0))
