"""ESensI: one head for all sensors, and a code for each."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.small_methods import SHAPES, B, architecture, filled, forward, make, random


@pytest.mark.parametrize("merge", ["sum", "product", "concat"])
def test_one_head_reads_features_and_code(merge):
  method = make("esensi", merge=merge)
  model = filled(lambda: method.build(architecture(head_layers=()), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  got = forward(method, model, inputs)
  kernel, bias = np.asarray(model.head.out.kernel[...]), np.asarray(model.head.out.bias[...])
  for m in SHAPES:
    z = np.asarray(model.encoders[m](inputs[m], train=False, present=None, rngs=None))
    code = np.broadcast_to(np.asarray(model.codes[m][...]), z.shape)
    merged = {"sum": z + code, "product": z * code, "concat": np.concatenate([z, code], 1)}[merge]
    np.testing.assert_allclose(got[m], merged @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_codes_begin_as_draws_from_a_normal_distribution():
  codes = make("esensi").build(architecture(emb_dim=200), rngs=nnx.Rngs(0)).codes
  every = np.concatenate([np.asarray(codes[m][...]) for m in SHAPES])
  assert abs(every.mean()) < 0.2 and abs(every.std() - 1) < 0.15
  assert not np.array_equal(codes["radar"][...], codes["optical"][...])
