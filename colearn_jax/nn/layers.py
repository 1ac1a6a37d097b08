"""Layers that all encoders share: linear, norms, dropout; and how their parameters are initialised.

Layers are called as `layer(x, train=..., present=..., rngs=...)` with the arguments that they need.
`present` is the mask `[B]` of a batch: 1.0 where the sample has data of this sensor, 0.0 for padding and
absent sensors. Rows with `present` 0 have no influence on the other rows. Parameters and running statistics
are float32. `dtype` is the type of the computation; operations that need more precision use `widened`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.nn.random import hashed_bits


def widened(x: jax.Array) -> jax.Array:
  """Converts types below float32 to float32: statistics, softmax and losses are not computed in bfloat16.

  float64 stays float64, so that a training can be repeated in double precision to tell rounding from
  mistakes.
  """
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def along_last_axis(vector: jax.Array, x: jax.Array) -> jax.Array:
  """Reshapes a vector `[C]` to `[1 ... C]`, so that it can be combined with x, `[... C]`."""
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def uniform_fan_in(fan_in: int) -> nnx.Initializer:
  """Uniform initial values in [-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for weights and biases.

  They are drawn with `hashed_bits`, because one Threefry loop for each parameter would double the time that a
  model takes to compile.
  """
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    uniform = (hashed_bits(key, shape) >> 8).astype(dtype) * 2.0**-24
    return (2.0 * uniform - 1.0) * bound

  return init


def he_normal(fan: int) -> nnx.Initializer:
  """Normal initial values with mean 0 and variance 2 / fan, for layers before a ReLU (He et al. 2015, ICCV).

  `fan` is the number of inputs or of outputs of a unit. Drawn with `hashed_bits`, see `uniform_fan_in`.
  """

  def init(key, shape, dtype=jnp.float32):
    # The middles of 2^23 equal intervals are exact in float32 and never 0 or 1, where erf_inv is infinite.
    uniform = ((hashed_bits(key, shape) >> 9).astype(dtype) + 0.5) * 2.0**-23
    return (2.0 / fan) ** 0.5 * 2.0**0.5 * jax.lax.erf_inv(2.0 * uniform - 1.0)

  return init


def linear(features_in: int, features_out: int, *, rngs: nnx.Rngs, dtype=jnp.float32) -> nnx.Linear:
  """A dense layer, `[... features_in]` to `[... features_out]`, initialised by `uniform_fan_in`."""
  init = uniform_fan_in(features_in)
  return nnx.Linear(
    features_in,
    features_out,
    kernel_init=init,
    bias_init=init,
    dtype=dtype,
    dot_general=_product_of_last_axis,
    rngs=rngs,
  )


class LayerNorm(nnx.LayerNorm):
  """Normalises the last axis of every position (Ba et al. 2016), in float32.

  The variance is the mean of squared deviations. Flax's default, mean of squares minus squared mean, loses
  digits. The gradient is written by hand, for the sums in it, see `_column_sums`.
  """

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises `[... C]`."""
    return _layer_norm(widened(x), self.scale[...], self.bias[...], self.epsilon).astype(self.dtype)


def layer_norm(features: int, *, rngs: nnx.Rngs, dtype=jnp.float32) -> LayerNorm:
  """Makes a `LayerNorm` of so many features."""
  return LayerNorm(features, epsilon=1e-5, dtype=dtype, rngs=rngs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
  """Normalises `[... C]` by its last axis, with a scale and a bias `[C]`."""
  return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float):
  mean = x.mean(-1, keepdims=True)
  gain = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon)
  scale, bias = along_last_axis(scale, x), along_last_axis(bias, x)
  return (x - mean) * (gain * scale) + bias, (x, scale, mean, gain)


def _layer_norm_backward(epsilon: float, residuals: tuple, d: jax.Array):
  del epsilon
  x, scale, mean, gain = residuals
  y, share = (x - mean) * gain, scale.ravel() / x.shape[-1]
  moved = _weighted(d, share)[..., None] + y * _weighted(d * y, share)[..., None]
  return gain * (d * scale - moved), _column_sums(d * y), _column_sums(d)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def _weighted(x: jax.Array, weights: jax.Array) -> jax.Array:
  """The sums of `[... C]` over the last axis with weights `[C]`, see `_column_sums`."""
  default = lambda x, weights: (x * along_last_axis(weights, x)).sum(-1)
  return jax.lax.platform_dependent(x, weights, cpu=jnp.matmul, default=default)


def _column_sums(x: jax.Array) -> jax.Array:
  """The sums `[C]` of `[... C]` over all other axes.

  On a CPU they are a product with ones, because XLA's sums of values that it computes first take far longer
  there. On other devices a product would have fewer digits.
  """
  flat = x.reshape(-1, x.shape[-1])
  ones = lambda x: jnp.ones(len(x), x.dtype) @ x
  return jax.lax.platform_dependent(flat, cpu=ones, default=lambda x: x.sum(0))


def sinusoid(positions: np.ndarray, width: int, *, base: float = 10000.0) -> np.ndarray:
  """Sines and cosines of positions `[P]` at `width` frequencies (Vaswani et al. 2017, section 3.5).

  Column j of the table `[P width]` is the sine (even j) or cosine (odd j) of p / base^(2 floor(j/2) / width).
  """
  column = np.arange(width)
  angle = np.multiply.outer(positions, base ** (-2.0 * (column // 2) / width))
  return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The matrix product `[... C] @ [C D]`, for x with many more rows than columns.

  The gradient is written by hand. In the one that JAX derives, XLA copies the cotangent into transposed order
  before it multiplies, which takes several times as long as the multiplication on a CPU. There the gradient
  of a kernel with more rows than columns is computed in transposed order if x has more rows still: XLA's
  product then takes half to four fifths of the time. The barrier keeps XLA from turning it back.
  """
  return x @ kernel


def _product_backward(residuals: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = residuals
  flat = lambda a: a.reshape(-1, a.shape[-1])
  plain = lambda x, d: x.T @ d
  rows, (columns, width) = x.size // x.shape[-1], kernel.shape
  if not rows > columns > width:
    return d @ kernel.T, plain(flat(x), flat(d))
  turned = lambda x, d: jax.lax.optimization_barrier(d.T @ x).T
  return d @ kernel.T, jax.lax.platform_dependent(flat(x), flat(d), cpu=turned, default=plain)


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def _product_of_last_axis(x: jax.Array, kernel: jax.Array, dimensions: Any, **more: Any) -> jax.Array:
  """`product` in the form that `nnx.Linear` calls, which multiplies the last axis of x.

  Of a matrix x XLA copies nothing, and JAX's gradient has the same bits on one core and on several.
  """
  return product(x, kernel) if x.ndim > 2 else jax.lax.dot_general(x, kernel, dimensions, **more)


class BatchNorm(nnx.Module):
  """Normalises the last axis over all positions of the present samples of the global batch.

  Source: Ioffe & Szegedy 2015. As in PyTorch, batches are normalised by the biased variance, while the
  running variance is updated with the unbiased one, n / (n - 1) times as large. `momentum` is the weight of
  the old running value. A batch without present samples does not change the running statistics. `batches`
  counts the batches that did.
  """

  def __init__(self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5, dtype=jnp.float32):
    self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
    self.mean, self.var = nnx.BatchStat(jnp.zeros(features)), nnx.BatchStat(jnp.ones(features))
    self.batches = nnx.BatchStat(jnp.zeros((), jnp.int32))
    self.momentum, self.epsilon, self.dtype = momentum, epsilon, dtype

  def __call__(self, x: jax.Array, *, train: bool, present: jax.Array | None = None) -> jax.Array:
    """Normalises `[B ... C]`, in training by the batch's statistics, otherwise by the running ones."""
    x = widened(x)
    if train:
      mean, var = self._observe(x, present)
    else:
      mean, var = self.mean[...], self.var[...]
    gain = jax.lax.rsqrt(var + self.epsilon) * self.scale[...]
    mean, gain, bias = (along_last_axis(a, x) for a in (mean, gain, self.bias[...]))
    return ((x - mean) * gain + bias).astype(self.dtype)

  def _observe(self, x: jax.Array, present: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    axes, positions = tuple(range(x.ndim - 1)), x[0, ..., 0].size
    if present is None:
      count = jnp.asarray(x.shape[0] * positions, x.dtype)
      mean = x.sum(axes) / count
      var = jnp.square(x - jnp.expand_dims(mean, axes)).sum(axes) / count
    else:
      mask = present.reshape(-1, *[1] * (x.ndim - 1))
      count = present.sum() * positions
      at_least_one = jnp.maximum(count, 1.0)
      mean = jnp.where(mask > 0, x, 0.0).sum(axes) / at_least_one
      var = jnp.where(mask > 0, jnp.square(x - jnp.expand_dims(mean, axes)), 0.0).sum(axes) / at_least_one
    new = jnp.where(count > 0, 1.0 - self.momentum, 0.0)
    unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
    # `[...] +=` would ask tracers for their sharding. They have none, and JAX searches the whole program to
    # compose the error message.
    moved = lambda old, batch: old[...] + new * (jax.lax.stop_gradient(batch) - old[...])
    self.mean.set_value(moved(self.mean, mean))
    self.var.set_value(moved(self.var, unbiased))
    self.batches.set_value(self.batches[...] + (count > 0).astype(jnp.int32))
    return mean, var


class Dropout(nnx.Module):
  """Sets each value to zero with probability `rate` and scales the others by 1 / (1 - rate)."""

  def __init__(self, rate: float):
    self.rate = rate

  def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    """Drops values of x, of any shape, if `train`; `rngs` has the stream `dropout`."""
    if not train or self.rate == 0.0:
      return x
    keep = 1.0 - self.rate
    kept = hashed_bits(rngs.dropout(), x.shape) < jnp.uint32(keep * 2**32)
    return jnp.where(kept, x / keep, 0).astype(x.dtype)
