"""The encoder `kernel` beside the kernels that it approximates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import kernel
from colearn_jax.types import InputError

MATERN = {
  0.5: lambda r: np.exp(-r),
  1.5: lambda r: (1 + 3**0.5 * r) * np.exp(-(3**0.5) * r),
  2.5: lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r),
}  # of distances, Rasmussen & Williams 2006, equation 4.17


@pytest.mark.parametrize("smoothness", kernel.SMOOTHNESS)
def test_products_of_random_features_are_the_kernel(smoothness):
  x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
  scale = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
  features = kernel.RandomFeatures(jnp.asarray(scale), 40_000, smoothness=smoothness, rngs=nnx.Rngs(0))
  y = np.asarray(features(jnp.asarray(x)), np.float64)
  distance = np.linalg.norm((x[:, None] - x[None]) / scale, axis=-1)
  np.testing.assert_allclose(y @ y.T / kernel.SQUARES, MATERN[smoothness](distance), rtol=0, atol=0.025)


def test_cosine():
  turns = np.linspace(-10, 10, 10_001, dtype=np.float32)
  np.testing.assert_allclose(kernel.cosine(turns), np.cos(2 * np.pi * turns.astype(np.float64)), atol=5e-6)
  slope = jax.vmap(jax.grad(kernel.cosine))(jnp.array([0.1, 0.3, 1.6]))
  np.testing.assert_allclose(
    slope, -2 * np.pi * np.sin(2 * np.pi * np.array([0.1, 0.3, 1.6])), rtol=1e-3, atol=1e-3
  )


def test_the_context_has_a_lengthscale_of_its_own():
  """Two samples are as far apart as the distances of sensor and context together."""
  settings = {"features": 20_000, "lengthscale": 2.0, "context_lengthscale": 0.5, "layer_sizes": (2,)}
  module = kernel.Kernel((6,), context=2, rngs=nnx.Rngs(0), **settings)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6)), jnp.float32)
  difference = np.asarray(x[0] - x[1], np.float64)
  distance = np.sqrt(np.sum((difference[:4] / 2.0) ** 2) / 4 + np.sum((difference[4:] / 0.5) ** 2) / 2)
  y = np.asarray(module.random(x), np.float64)
  np.testing.assert_allclose(y[0] @ y[1] / kernel.SQUARES, MATERN[1.5](distance), atol=0.03)


def test_random_features_are_not_trained():
  module = encoders.make_encoder({"model_type": "kernel", "features": 8}, (3, 2), 4, rngs=nnx.Rngs(0))
  assert "random" not in nnx.state(module, nnx.Param)["backbone"]
  assert set(nnx.state(module, nnx.BatchStat)["backbone"]["random"]) == {"frequencies", "phases"}


def test_wrong_settings():
  for wrong in ({"smoothness": 1.0}, {"layer_sizes": ()}):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}.* of encoder kernel"):
      kernel.Kernel((6,), rngs=nnx.Rngs(0), **wrong)
