"""ResNet: He, Zhang, Ren & Sun 2016, CVPR; strides in the 3 x 3 convolutions of bottlenecks (ResNet v1.5)."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import convolution, layers
from colearn_jax.types import InputError

STAGES = {  # by depth: number of blocks in each stage, number of convolutions in a block
  18: ((2, 2, 2, 2), 2),
  34: ((3, 4, 6, 3), 2),
  50: ((3, 4, 6, 3), 3),
  101: ((3, 4, 23, 3), 3),
  152: ((3, 8, 36, 3), 3),
}


class ResNet(nnx.Module):
  """Residual convolutions, then the mean over the image: images `[B H W C]` to `[B 512]` or `[B 2048]`.

  `depth` is 18, 34, 50, 101 or 152. Blocks are bottlenecks from 50 on. Layers and initial values are those
  of torchvision. `weights` names a file of pretrained weights. This module ignores it: the training loads
  the file with `colearn_jax.weights.pretrained`.
  """

  mask_nans = False
  context_joins = "features"

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
    # One key is split for all convolutions, because the time that a stream of nnx takes grows with every key.
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
    self.width, self.depth = width, depth

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
  """Two or three convolutions of `width` channels, whose output is added to the block's input.

  Two convolutions are 3 x 3. Of three (a bottleneck) the outer ones are 1 x 1, and the last is four times
  as wide. If the shape changes, the input goes through a 1 x 1 convolution (`project`) before it is added.
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
  """A convolution of odd size without bias, padded with zeros, then BatchNorm."""

  def __init__(self, features: int, width: int, size: int, stride: int, keys: Iterator[jax.Array], dtype):
    init = layers.he_normal(size * size * width)
    self.kernel = nnx.Param(init(next(keys), (size, size, features, width)))
    self.norm = layers.BatchNorm(width, dtype=dtype)
    self.stride, self.dtype = stride, dtype

  def __call__(self, x: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Convolves `[B H W C]` and normalises."""
    kernel = self.kernel[...].astype(self.dtype)
    padding = [(len(kernel) // 2,) * 2] * 2
    y = convolution.convolve(x.astype(self.dtype), kernel, padding, self.stride)
    return self.norm(y, train=train, present=present)
