"""ISensD: one encoder for the bands of all sensors."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax.methods.architecture import Architecture
from colearn_jax.types import InputError
from tests.small_methods import B, filled, forward, make, masks, random, task

SHAPES = {"radar": (5, 3), "optical": (5, 4), "thermal": (2,)}
ENCODER = {"model_type": "mlp", "layer_sizes": (6,), "dropout": 0.0}
NAME = "optical+radar+thermal"


def architecture(shapes=SHAPES, **own):
  encoders = {m: ENCODER | own.get(m, {}) for m in shapes}
  return Architecture(shapes, encoders, task("multiclass"), emb_dim=4)


def test_bands_are_joined_step_by_step_and_absent_ones_are_zeros():
  method = make("isensd")
  model = filled(lambda: method.build(architecture(), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  inputs["radar"] = inputs["radar"].at[2].set(jnp.nan)
  present = masks(radar=(2,), thermal=(0, 1))
  got = forward(method, model, inputs, present)

  def want(shown):
    parts = []
    for m in SHAPES:
      x = np.where(np.asarray(present[m]).reshape(-1, *[1] * len(SHAPES[m])) > 0, inputs[m], 0.0)
      x = x if m in shown else np.zeros_like(x)
      parts.append(np.repeat(x[:, None], 5, axis=1) if x.ndim == 2 else x)
    x = jnp.asarray(np.concatenate(parts, -1))
    z = model.encoder(x, train=False, present=None, rngs=None)
    return model.head(z, train=False, present=None)

  assert set(got) == {NAME, *SHAPES} == set(method.predictors(SHAPES))
  for name in got:
    np.testing.assert_allclose(got[name], want(name.split("+")), rtol=1e-4, atol=1e-5)
  alone = forward(method, model, {"thermal": inputs["thermal"]}, {"thermal": present["thermal"]})
  np.testing.assert_allclose(alone["thermal"], got["thermal"], rtol=1e-4, atol=1e-5)
  first, second = (forward(method, model, inputs, present, train=True, seed=seed) for seed in (0, 1))
  assert list(first) == [NAME] and np.abs(first[NAME] - second[NAME]).max() > 1e-3


def test_the_context_is_read_once():
  method = make("isensd")
  arch = dataclasses.replace(architecture(), context=2)
  model = filled(lambda: method.build(arch, rngs=nnx.Rngs(0)))
  context = jnp.asarray(random(B, 2))
  inputs = {m: (jnp.asarray(random(B, *shape)), context) for m, shape in SHAPES.items()}
  got = forward(method, model, inputs)[NAME]
  other = forward(method, model, {m: (x, context + 1) for m, (x, _) in inputs.items()})[NAME]
  assert np.abs(got - other).max() > 1e-3


@pytest.mark.parametrize(
  ("shapes", "own", "message"),
  [
    ({"a": (5, 3), "b": (6, 3)}, {}, r"differ in their steps: a \(5, 3\), b \(6, 3\)"),
    ({"a": (5, 3), "b": (5, 2)}, {"b": {"layer_sizes": (7,)}}, "one encoder; a and b differ"),
    ({"a": (5, 3), "b": (5, 2)}, dict.fromkeys("ab", {"model_type": "presto"}), "presto .* cannot"),
  ],
)
def test_sensors_that_cannot_be_joined_are_told(shapes, own, message):
  with pytest.raises(InputError, match=message):
    make("isensd").build(architecture(shapes, **own), rngs=nnx.Rngs(0))
