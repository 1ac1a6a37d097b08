"""Convolutions in one and two dimensions, with a second implementation that is fast on CPUs."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn.layers import product, uniform_fan_in

Padding = Sequence[tuple[int, int]]
_IN_LOOP = contextvars.ContextVar("_IN_LOOP", default=True)


@contextlib.contextmanager
def outside_of_loops() -> Iterator[None]:
  """What is traced meanwhile is no part of a scan: XLA's convolution is the fast one on CPUs, too."""
  token = _IN_LOOP.set(False)
  try:
    yield
  finally:
    _IN_LOOP.reset(token)


def convolve(x: jax.Array, kernel: jax.Array, padding: Padding, stride: int = 1) -> jax.Array:
  """Convolves images or series.

  XLA's convolution is slow on CPUs inside a scan, where the train step runs. One matrix product over shifted
  slices is fast there, but half as fast as XLA's convolution in other programs on CPUs, and slow on
  accelerators. This is the one place that chooses between the two, see `outside_of_loops`.

  Args:
    x: inputs, `[B H W C]` or `[B T C]`.
    kernel: weights, `[h w C D]` or `[t C D]`, of the same type.
    padding: for each axis between batch and channels, the number of zeros before and behind.
    stride: step along each of these axes.

  Returns:
    `[B H' W' D]` or `[B T' D]`.
  """
  implementations = (functools.partial(f, padding=padding, stride=stride) for f in (by_slices, by_library))
  cpu, default = implementations
  if not _IN_LOOP.get():
    return default(x, kernel)
  return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def by_library(x: jax.Array, kernel: jax.Array, *, padding: Padding, stride: int) -> jax.Array:
  """`convolve` by XLA's convolution."""
  axes = ("NWC", "WIO", "NWC") if x.ndim == 3 else ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, kernel, (stride,) * len(padding), padding, dimension_numbers=axes)


def by_slices(x: jax.Array, kernel: jax.Array, *, padding: Padding, stride: int) -> jax.Array:
  """`convolve` by one matrix product over shifted slices."""
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  # Shifts along one axis after the other need h + w slices instead of h times w.
  for axis in reversed(range(len(padding))):
    positions = x.shape[1 + axis] - kernel.shape[axis] + 1
    shifted = [
      jax.lax.slice_in_dim(x, k, k + positions, stride, axis=1 + axis) for k in range(kernel.shape[axis])
    ]
    x = jnp.concatenate(shifted, axis=-1)
  return product(x, kernel.reshape(-1, kernel.shape[-1]))


class TemporalConv(nnx.Module):
  """Convolution over time, `[B T C]` to `[B T D]`.

  Both ends are padded by half the kernel, so that an even kernel makes the series one step longer.
  """

  def __init__(self, bands: int, width: int, kernel_size: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    init = uniform_fan_in(bands * kernel_size)
    self.kernel = nnx.Param(init(rngs.params(), (kernel_size, bands, width)))
    self.bias = nnx.Param(init(rngs.params(), (width,)))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves `[B T C]`."""
    kernel = self.kernel[...].astype(self.dtype)
    pad = len(kernel) // 2
    return (
      convolve(x.astype(self.dtype), kernel, [(pad, pad)]) + self.bias[...].astype(self.dtype)[None, None]
    )
