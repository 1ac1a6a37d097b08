"""An encoder for small tables and short series: random features of a kernel, then dense layers.

Sources: Rahimi & Recht 2007, NeurIPS (random Fourier features); Rasmussen & Williams 2006, equation 4.14 and
4.15 (Matérn kernels and their spectral density).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError

SQUARES = 128.0  # S, the sum of the squares of the features
SMOOTHNESS = (0.5, 1.5, 2.5)  # ν of the Matérn kernels that have a short closed form


class RandomFeatures(nnx.Module):
  """D random Fourier features of a Matérn kernel, which are drawn once and not trained: `[B F]` to `[B D]`.

  They are √(2 S / D) cos(w·x + b) with b uniform in [0, 2π) and w from the kernel's spectral density, a
  multivariate t distribution with 2ν degrees of freedom. The product of the features of two samples tends to
  S times the kernel of their distance (Rahimi & Recht 2007, algorithm 1). S is 128, as of 128 inputs with
  variance 1, so that the learning rate does not depend on D.

  Args:
    scale: `[F]`, by which the F values are divided before their distance is taken.
    features: D.
    smoothness: ν.
    rngs: the stream `params`.
  """

  def __init__(self, scale: jax.Array, features: int, *, smoothness: float, rngs: nnx.Rngs):
    normal = layers.he_normal(2)  # with variance 1
    chi_square = jnp.square(normal(rngs.params(), (round(2 * smoothness), features))).sum(0)
    direction = normal(rngs.params(), (len(scale), features))
    frequencies = direction * jnp.sqrt(2 * smoothness / chi_square)[None] / (2 * jnp.pi * scale[:, None])
    phases = 0.5 * (1.0 + layers.uniform_fan_in(1)(rngs.params(), (features,)))
    self.amplitude = math.sqrt(2 * SQUARES / features)
    # Constants of a run, as batch statistics are: without gradient and without a state of the optimizer.
    self.frequencies, self.phases = nnx.BatchStat(frequencies), nnx.BatchStat(phases)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes the features of `[B F]`, at least float32."""
    turns = layers.widened(x) @ self.frequencies[...] + self.phases[...][None]
    return self.amplitude * cosine(turns)


def cosine(turns: jax.Array) -> jax.Array:
  """cos(2π t), to 1e-6 for |t| up to 10: a polynomial, which takes a tenth of the time of XLA's on a CPU."""
  angle = 2 * jnp.pi * (0.25 - jnp.abs(turns - jnp.round(turns)))  # cos(2π t) = sin(angle), |angle| <= π/2
  square, out = angle * angle, jnp.zeros_like(turns)
  for order in (11, 9, 7, 5, 3, 1):  # of the Taylor series, by Horner's rule
    out = out * square + (-1) ** (order // 2) / math.factorial(order)
  return angle * out


class Kernel(nnx.Module):
  """Random features of all values of a sample, then dense layers: `[B ...]` to `[B layer_sizes[-1]]`.

  One dense layer on many fixed features is close to a kernel machine. It is trained like any other network,
  yet overfits less on a few thousand samples than layers that are trained down to the values.

  Two samples have the squared distance Σ (Δx / lengthscale)² / F over the F values of the sensor, and
  Σ (Δc / context_lengthscale)² / K over the K values of the context. The kernel begins to fall at distance 1.
  A missing value counts as 0, the mean.

  Args:
    shape: shape of one sample; with a context the number of all values.
    context: K, number of the last values that are the context.
    features: D, number of random features.
    lengthscale: of the sensor's values, in their deviations after normalisation.
    context_lengthscale: of the context's values.
    smoothness: ν of the Matérn kernel, one of `SMOOTHNESS`. 0.5 is the roughest.
    layer_sizes: widths of the dense layers, which have ReLU.
    dropout: of the random features and after each layer.
    dtype: of the dense layers.
    rngs: the stream `params`.
  """

  mask_nans = False
  context_joins = "inputs"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    context: int = 0,
    features: int = 4096,
    lengthscale: float = 2.0,
    context_lengthscale: float = 1.0,
    smoothness: float = 1.5,
    layer_sizes: Sequence[int] = (64,),
    dropout: float = 0.3,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if smoothness not in SMOOTHNESS:
      raise InputError(f"smoothness={smoothness!r} of encoder kernel: have {', '.join(map(str, SMOOTHNESS))}")
    if not layer_sizes:
      raise InputError("layer_sizes of encoder kernel is empty, it names the width of one or more layers")
    values = math.prod(shape) - context
    scale = jnp.concatenate(
      [
        jnp.full(values, lengthscale * math.sqrt(values)),
        jnp.full(context, context_lengthscale * math.sqrt(max(context, 1))),
      ]
    )
    self.random = RandomFeatures(scale, features, smoothness=smoothness, rngs=rngs)
    widths = [features, *layer_sizes]
    self.linears = nnx.List(
      [layers.linear(i, o, rngs=rngs, dtype=dtype) for i, o in zip(widths, layer_sizes)]
    )
    self.drop, self.width = layers.Dropout(dropout), layer_sizes[-1]

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B ...]`."""
    del present  # no statistics of the batch
    x = self.drop(self.random(x.reshape(x.shape[0], -1)), train=train, rngs=rngs)
    for linear in self.linears:
      x = self.drop(nnx.relu(linear(x)), train=train, rngs=rngs)
    return x
