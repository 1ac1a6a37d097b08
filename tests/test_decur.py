"""DeCUR: common and unique features."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.methods.decur import Outputs
from colearn_jax.objectives.alignment import decoupling
from tests.small_methods import SHAPES, B, a_batch, architecture, filled, forward, make, masks, random, values


def test_the_loss_is_that_of_each_sensor_and_the_redundancy_of_each_pair():
  method = make("decur", off_diagonal=0.1)
  z = {m: random(B, 4, seed=k) for k, m in enumerate(SHAPES)}
  said = {m: jnp.asarray(random(B, 3, seed=k + 5)) for k, m in enumerate(SHAPES)}
  outputs = Outputs(
    said, {m: x[:, :3] for m, x in z.items()}, {m: x[:, 3:] for m, x in z.items()}, tuple(SHAPES)
  )
  present = masks(radar=(1,), optical=(0, 5))
  batch = a_batch("multiclass", present=present, labelled=[1, 0, 1, 1, 1, 1])
  given = values(method, "multiclass", redundancy=3.0)
  loss, terms = method.loss(outputs, batch, given)
  pairs = (("radar", "optical"), ("radar", "thermal"), ("optical", "thermal"))
  of = lambda m, n: decoupling(z[m], z[n], present[m] * present[n], common=3, off_diagonal=0.1)
  for m, n in pairs:
    np.testing.assert_allclose(terms[f"redundancy/{m}__{n}"], of(m, n), rtol=1e-6)
  alone = make("individual").loss(said, batch, values(make("individual"), "multiclass"))[0]
  np.testing.assert_allclose(loss, alone + 3 * sum(of(m, n) for m, n in pairs), rtol=1e-6)


def test_the_first_features_are_common_and_the_head_reads_all():
  method = make("decur", common=0.5)
  model = filled(lambda: method.build(architecture(head_layers=()), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  got = forward(method, model, inputs)
  z = np.asarray(model.encoders["radar"](inputs["radar"], train=False, present=None, rngs=None))
  np.testing.assert_allclose(got.shared["radar"], z[:, :2], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got.specific["radar"], z[:, 2:], rtol=1e-5, atol=1e-6)
  kernel, bias = (
    np.asarray(a[...]) for a in (model.heads["radar"].out.kernel, model.heads["radar"].out.bias)
  )
  np.testing.assert_allclose(got.prediction["radar"], z @ kernel + bias, rtol=1e-4, atol=1e-5)
