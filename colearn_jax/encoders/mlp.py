"""MLP: dense layers over all values of a sample at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError


class MLP(nnx.Module):
  """Dense layers with ReLU, BatchNorm and dropout: `[B ...]` to `[B layer_sizes[-1]]`.

  Samples may have any shape, such as static values. `layer_sizes` lists the widths of the layers. BatchNorm
  is left out if `batchnorm` is False.
  """

  mask_nans = False
  context_joins = "inputs"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    layer_sizes: Sequence[int] = (128, 128),
    dropout: float = 0.2,
    batchnorm: bool = True,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if not layer_sizes:
      raise InputError("layer_sizes of encoder mlp is empty, it names the width of one or more layers")
    widths = [math.prod(shape), *layer_sizes]
    self.linears = nnx.List([layers.linear(i, o, rngs=rngs, dtype=dtype) for i, o in zip(widths, widths[1:])])
    self.norms = nnx.List([layers.BatchNorm(o, dtype=dtype) for o in layer_sizes] if batchnorm else [])
    self.drop = layers.Dropout(dropout)
    self.width = layer_sizes[-1]

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B ...]`."""
    x = x.reshape(x.shape[0], -1)
    for i, linear in enumerate(self.linears):
      x = nnx.relu(linear(x))
      if self.norms:
        x = self.norms[i](x, train=train, present=present)
      x = self.drop(x, train=train, rngs=rngs)
    return x
