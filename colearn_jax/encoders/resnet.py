"""ResNet: He, Zhang, Ren & Sun 2016, CVPR; strides in the 3 x 3 convolutions of bottlenecks (ResNet v1.5)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError

STAGES = {  # blocks of each stage, and convolutions of a block
  18: ((2, 2, 2, 2), 2),
  34: ((3, 4, 6, 3), 2),
  50: ((3, 4, 6, 3), 3),
  101: ((3, 4, 23, 3), 3),
  152: ((3, 8, 36, 3), 3),
}


class ResNet(nnx.Module):
  """Residual convolutions, then the mean over the image: images `[B H W C]` to `[B 512]`, or `[B 2048]`.

  `depth` is 18, 34, 50, 101 or 152; from 50 on blocks are bottlenecks. Layers and initial values are those of
  torchvision. `weights` names a file that the values before training come from, see `interop.images`; the
  module itself does not look at it.
  """

  mask_nans = False

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    depth: int = 50,
    weights: str = "",
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    del weights
    if len(shape) != 3:
      raise InputError(f"encoder resnet reads images of shape (H, W, C), got {shape}")
    if depth not in STAGES:
      raise InputError(f"encoder resnet: depth={depth}, have {', '.join(map(str, STAGES))}")
    blocks, convs = STAGES[depth]
    # One key from the stream for all: nnx counts each it gives, which takes longer the more came before.
    keys = iter(jax.random.split(rngs.params(), 1 + (convs + 1) * sum(blocks)))
    self.stem, width = Unit(shape[-1], 64, 7, 2, keys, dtype), 64
    self.stages = nnx.List([])
    for number, count in enumerate(blocks):
      stage = nnx.List([])
      for position in range(count):
        stride = 2 if number > 0 and position == 0 else 1
        stage.append(Block(width, 64 * 2**number, convs, stride, keys, dtype))
        width = stage[-1].width
      self.stages.append(stage)
    self.width = width

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B H W C]`."""
    x = nnx.relu(self.stem(x, train=train, present=present))
    x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage in self.stages:
      for block in stage:
        x = block(x, train=train, present=present)
    return x.mean((1, 2), dtype=jnp.float32).astype(x.dtype)


class Block(nnx.Module):
  """Two or three convolutions of `width` channels, added to what they read.

  Two of them are 3 x 3; of three the outer ones are 1 x 1, and the last is four times as wide (bottleneck).
  Where the shape changes, what they read goes through a 1 x 1 convolution (`project`).
  """

  def __init__(self, features: int, width: int, convs: int, stride: int, keys: Iterator[jax.Array], dtype):
    self.width = width if convs == 2 else 4 * width
    widths = [features, *[width] * (convs - 1), self.width]
    sizes, strides = ((3, 3), (stride, 1)) if convs == 2 else ((1, 3, 1), (1, stride, 1))
    unit = lambda *sizes: Unit(*sizes, keys, dtype)
    self.units = nnx.List([unit(*given) for given in zip(widths, widths[1:], sizes, strides)])
    changed = stride > 1 or features != self.width
    self.project = unit(features, self.width, 1, stride) if changed else None

  def __call__(self, x: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """One block, `[B H W C]` to `[B H' W' width]`."""
    mode = {"train": train, "present": present}
    y = self.units[0](x, **mode)
    for unit in self.units[1:]:
      y = unit(nnx.relu(y), **mode)
    return nnx.relu(y + (x if self.project is None else self.project(x, **mode)))


class Unit(nnx.Module):
  """A convolution of an odd size without a bias, zeros beyond the edges, and BatchNorm behind it."""

  def __init__(self, features: int, width: int, size: int, stride: int, keys: Iterator[jax.Array], dtype):
    init = layers.he_normal(size * size * width)
    self.kernel = nnx.Param(init(next(keys), (size, size, features, width)))
    self.norm = layers.BatchNorm(width, dtype=dtype)
    self.stride, self.dtype = stride, dtype

  def __call__(self, x: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Convolves `[B H W C]` and normalises."""
    y = jax.lax.platform_dependent(
      x.astype(self.dtype),
      self.kernel[...].astype(self.dtype),
      cpu=functools.partial(_shifted_product, self.stride),  # see `layers.TemporalConv`
      default=functools.partial(_convolution, self.stride),
    )
    return self.norm(y, train=train, present=present)


def _convolution(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
  pad, axes = len(kernel) // 2, ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=axes)


def _shifted_product(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
  size, pad = len(kernel), len(kernel) // 2
  x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height, width = (n - size + 1 for n in x.shape[1:3])
  # Shifted along one axis after the other: 2 k slices instead of k^2.
  x = jnp.concatenate([x[:, :, k : k + width : stride] for k in range(size)], axis=-1)
  x = jnp.concatenate([x[:, k : k + height : stride] for k in range(size)], axis=-1)
  return layers.product(x, kernel.reshape(-1, kernel.shape[-1]))
