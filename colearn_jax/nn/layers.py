"""The layers that every encoder shares: they know absent samples, and begin as the paper's did.

Every layer is called as `layer(x, train=..., present=..., rngs=...)` or a part of that. `present` is the
mask `[B]` of the samples that are there (1.0) or not (0.0; padding, or a sensor that did not look); what
absent rows hold changes nothing for the others. Parameters and running statistics are float32; `dtype` is
that of the computation, but what needs more is `widened`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.nn.random import hashed_bits


def widened(x: jax.Array) -> jax.Array:
  """An array in float32 if it was less: statistics, softmax and losses are not computed in bfloat16.

  Nothing forces float64 down to float32, so that a whole training can be repeated in double precision, with
  parameters of that type: this tells rounding from mistakes.
  """
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def uniform_fan_in(fan_in: int) -> nnx.Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of PyTorch's layers for weights and biases alike.

  Drawn with `hashed_bits`, for a Threefry loop a parameter would double the time to compile a model.
  """
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    uniform = (hashed_bits(key, shape) >> 8).astype(dtype) * 2.0**-24
    return (2.0 * uniform - 1.0) * bound

  return init


def he_normal(fan: int) -> nnx.Initializer:
  """N(0, 2 / fan), for layers before a ReLU (He et al. 2015, ICCV); the fan of their input or output.

  Drawn with `hashed_bits`, see `uniform_fan_in`.
  """

  def init(key, shape, dtype=jnp.float32):
    # Middles of 2^23 equal parts, which float32 can tell apart: the ends are never drawn.
    uniform = ((hashed_bits(key, shape) >> 9).astype(dtype) + 0.5) * 2.0**-23
    return (2.0 / fan) ** 0.5 * 2.0**0.5 * jax.lax.erf_inv(2.0 * uniform - 1.0)

  return init


def linear(features_in: int, features_out: int, *, rngs: nnx.Rngs, dtype=jnp.float32) -> nnx.Linear:
  """A dense layer `[... features_in]` to `[... features_out]` with the initial values of `uniform_fan_in`."""
  init = uniform_fan_in(features_in)
  return nnx.Linear(features_in, features_out, kernel_init=init, bias_init=init, dtype=dtype, rngs=rngs)


def layer_norm(features: int, *, rngs: nnx.Rngs, dtype=jnp.float32) -> nnx.LayerNorm:
  """Normalisation of the last axis of each position by itself (Ba et al. 2016), computed in float32."""
  return nnx.LayerNorm(features, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)


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

  It has a gradient of its own, for in the one that JAX derives XLA would write the cotangent anew,
  transposed, before it is multiplied: on a CPU that takes several times as long as the multiplication.
  """
  return x @ kernel


def _product_gradient(kept: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = kept
  flat = lambda a: a.reshape(-1, a.shape[-1])
  return d @ kernel.T, flat(x).T @ flat(d)


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_gradient)


class TemporalConv(nnx.Module):
  """Convolution over time, `[B T C]` to `[B T D]`, zeros beyond both ends ('same' for odd kernels)."""

  def __init__(self, bands: int, width: int, kernel_size: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    init = uniform_fan_in(bands * kernel_size)
    self.kernel = nnx.Param(init(rngs.params(), (kernel_size, bands, width)))
    self.bias = nnx.Param(init(rngs.params(), (width,)))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves `[B T C]`."""
    x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
    # The one place that chooses: XLA's convolution has no fast path on the CPU inside a scan, while one
    # matrix product over shifted slices has; on accelerators it is the other way round.
    y = jax.lax.platform_dependent(x, kernel, cpu=_shifted_product, default=_convolution)
    return y + self.bias[...].astype(self.dtype)


def _convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
  pad = kernel.shape[0] // 2
  return jax.lax.conv_general_dilated(x, kernel, (1,), [(pad, pad)], dimension_numbers=("NWC", "WIO", "NWC"))


def _shifted_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  size, bands, width = kernel.shape
  pad = size // 2
  steps = x.shape[1] + 2 * pad - size + 1
  padded = jnp.pad(x, ((0, 0), (pad, pad), (0, 0)))
  columns = jnp.concatenate([padded[:, k : k + steps] for k in range(size)], axis=-1)
  product = columns.reshape(-1, size * bands) @ kernel.reshape(-1, width)
  return product.reshape(x.shape[0], steps, width)


class BatchNorm(nnx.Module):
  """Normalisation of the last axis over the present samples of the global batch and all their positions.

  Ioffe & Szegedy 2015. Batches are normalised by their biased variance; the running variance is the unbiased
  one, n / (n - 1) of it. `momentum` is the share of the old running value that stays. A batch without any
  present sample leaves the running statistics as they are. `batches` counts those that were recorded.
  """

  def __init__(self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5, dtype=jnp.float32):
    self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
    self.mean, self.var = nnx.BatchStat(jnp.zeros(features)), nnx.BatchStat(jnp.ones(features))
    self.batches = nnx.BatchStat(jnp.zeros((), jnp.int32))
    self.momentum, self.epsilon, self.dtype = momentum, epsilon, dtype

  def __call__(self, x: jax.Array, *, train: bool, present: jax.Array | None = None) -> jax.Array:
    """Normalises `[B ... C]`; training uses and records the batch's statistics, else the running ones."""
    x = widened(x)
    if train:
      mean, var = self._observe(x, present)
    else:
      mean, var = self.mean[...], self.var[...]
    gain = jax.lax.rsqrt(var + self.epsilon) * self.scale[...]
    return ((x - mean) * gain + self.bias[...]).astype(self.dtype)

  def _observe(self, x: jax.Array, present: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    axes, positions = tuple(range(x.ndim - 1)), x[0, ..., 0].size
    if present is None:
      count = jnp.asarray(x.shape[0] * positions, x.dtype)
      mean = x.sum(axes) / count
      var = jnp.square(x - mean).sum(axes) / count
    else:
      mask = present.reshape(-1, *[1] * (x.ndim - 1))
      count = present.sum() * positions
      at_least_one = jnp.maximum(count, 1.0)
      mean = jnp.where(mask > 0, x, 0.0).sum(axes) / at_least_one
      var = jnp.where(mask > 0, jnp.square(x - mean), 0.0).sum(axes) / at_least_one
    new = jnp.where(count > 0, 1.0 - self.momentum, 0.0)
    unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
    # Not by `[...] +=`: that asks tracers for a sharding they do not have, and JAX searches all of the
    # program for what to say of it.
    moved = lambda old, batch: old[...] + new * (jax.lax.stop_gradient(batch) - old[...])
    self.mean.set_value(moved(self.mean, mean))
    self.var.set_value(moved(self.var, unbiased))
    self.batches.set_value(self.batches[...] + (count > 0).astype(jnp.int32))
    return mean, var


class Dropout(nnx.Module):
  """Sets a share `rate` of the values to zero and scales the others by 1 / (1 - rate)."""

  def __init__(self, rate: float):
    self.rate = rate

  def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    """Drops values of x, of any shape, in training only."""
    if not train or self.rate == 0.0:
      return x
    keep = 1.0 - self.rate
    kept = hashed_bits(rngs.dropout(), x.shape) < jnp.uint32(keep * 2**32)
    return jnp.where(kept, x / keep, 0).astype(x.dtype)
