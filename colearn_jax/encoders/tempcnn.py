"""TempCNN: Pelletier, Webb & Petitjean 2019, Remote Sensing 11(5):523."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import convolution, layers
from colearn_jax.types import InputError


class TempCNN(nnx.Module):
  """Convolutions over time, then one dense layer: series `[B T C]` to `[B 4 * layer_size]`.

  There are `n_layers` convolutions. Each of them, and the dense layer after them, is followed by BatchNorm,
  ReLU and dropout.
  """

  mask_nans = False
  context_joins = "features"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    layer_size: int = 128,
    n_layers: int = 2,
    kernel_size: int = 5,
    dropout: float = 0.2,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if len(shape) != 2:
      raise InputError(f"encoder tempcnn reads series of shape (T, C), got {shape}")
    steps, bands = shape
    widths = [bands, *[layer_size] * n_layers]
    self.convs = nnx.List(
      [
        convolution.TemporalConv(i, o, kernel_size, rngs=rngs, dtype=dtype)
        for i, o in zip(widths, widths[1:])
      ]
    )
    self.norms = nnx.List([layers.BatchNorm(layer_size, dtype=dtype) for _ in self.convs])
    self.width = 4 * layer_size
    steps += n_layers * (2 * (kernel_size // 2) - kernel_size + 1)  # an even kernel adds one step a layer
    self.dense = layers.linear(steps * layer_size, self.width, rngs=rngs, dtype=dtype)
    self.dense_norm = layers.BatchNorm(self.width, dtype=dtype)
    self.drop = layers.Dropout(dropout)

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B T C]`."""
    for conv, norm in zip(self.convs, self.norms):
      x = self.drop(nnx.relu(norm(conv(x), train=train, present=present)), train=train, rngs=rngs)
    x = self.dense(x.reshape(x.shape[0], -1))
    return self.drop(nnx.relu(self.dense_norm(x, train=train, present=present)), train=train, rngs=rngs)
