"""Transformer encoder (Vaswani et al. 2017) with a class token (Devlin et al. 2019)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError

POSITIONS = ("sinusoidal", "none")
ACTIVATIONS = {"relu": nnx.relu, "gelu": lambda x: nnx.gelu(x, approximate=False)}


class Transformer(nnx.Module):
  """Self-attention over a class token and the time steps: series `[B T C]` to `[B layer_size]`.

  The output is that of the class token. `position` is `sinusoidal`, counted from the token, or `none`.
  Without `embed` the layers read the bands directly, and layer_size has to be the number of bands.
  """

  mask_nans = False
  context_joins = "features"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    layer_size: int = 128,
    n_layers: int = 2,
    num_heads: int = 8,
    feedforward_size: int = 256,
    activation: str = "relu",
    position: str = "sinusoidal",
    embed: bool = True,
    dropout: float = 0.2,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if len(shape) != 2:
      raise InputError(f"encoder transformer reads series of shape (T, C), got {shape}")
    if position not in POSITIONS:
      raise InputError(f"encoder transformer: position={position!r}, have {', '.join(POSITIONS)}")
    if not embed and layer_size != shape[1]:
      raise InputError(
        f"encoder transformer without embed: layer_size={layer_size}, the sensor has {shape[1]} bands"
      )
    self.embed = layers.linear(shape[1], layer_size, rngs=rngs, dtype=dtype) if embed else None
    self.token = nnx.Param(jnp.zeros(layer_size))
    make = lambda: Layer(layer_size, num_heads, feedforward_size, activation, dropout, rngs=rngs, dtype=dtype)
    self.layers = nnx.List([make() for _ in range(n_layers)])
    self.drop = layers.Dropout(dropout)
    self.width, self.position, self.dtype = layer_size, position, dtype

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B T C]`."""
    x = x.astype(self.dtype) if self.embed is None else self.embed(x)
    token = jnp.broadcast_to(self.token[...].astype(self.dtype), (x.shape[0], 1, self.width))
    x = jnp.concatenate([token, x], axis=1)
    if self.position == "sinusoidal":
      table = jnp.asarray(positions(x.shape[1], self.width), self.dtype)
      x = self.drop(x + table[None], train=train, rngs=rngs)
    for layer in self.layers:
      x = layer(x, train=train, rngs=rngs)
    return x[:, 0]


def positions(steps: int, width: int) -> np.ndarray:
  """Table `[T D]` of encoded positions, counted from 0."""
  return layers.sinusoid(np.arange(steps), width)


class Layer(nnx.Module):
  """Self-attention, then two dense layers, both with a residual connection and a LayerNorm after it."""

  def __init__(
    self,
    width: int,
    num_heads: int,
    feedforward_size: int,
    activation: str,
    dropout: float,
    *,
    rngs: nnx.Rngs,
    dtype,
  ):
    if width % num_heads:
      raise InputError(f"encoder transformer: num_heads={num_heads} does not divide layer_size={width}")
    if activation not in ACTIVATIONS:
      raise InputError(f"encoder transformer: activation={activation!r}, have {', '.join(ACTIVATIONS)}")
    glorot = nnx.initializers.glorot_uniform()
    zeros = nnx.initializers.zeros
    self.project = nnx.Linear(width, 3 * width, kernel_init=glorot, bias_init=zeros, dtype=dtype, rngs=rngs)
    self.merge = nnx.Linear(
      width, width, kernel_init=layers.uniform_fan_in(width), bias_init=zeros, dtype=dtype, rngs=rngs
    )
    self.dense = layers.linear(width, feedforward_size, rngs=rngs, dtype=dtype)
    self.dense_out = layers.linear(feedforward_size, width, rngs=rngs, dtype=dtype)
    self.norm, self.dense_norm = (layers.layer_norm(width, rngs=rngs, dtype=dtype) for _ in range(2))
    self.drop = layers.Dropout(dropout)
    self.num_heads, self.activation = num_heads, activation

  def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    """One layer, `[B T D]` to the same."""
    drop = lambda a: self.drop(a, train=train, rngs=rngs)
    heads = lambda a: a.reshape(*a.shape[:2], self.num_heads, -1)
    query, key, value = (heads(a) for a in jnp.split(self.project(x), 3, axis=-1))
    scores = layers.widened(jnp.einsum("bqhd,bkhd->bhqk", query, key)) * query.shape[-1] ** -0.5
    attention = drop(jax.nn.softmax(scores, axis=-1)).astype(x.dtype)
    merged = jnp.einsum("bhqk,bkhd->bqhd", attention, value).reshape(x.shape)
    x = self.norm(x + drop(self.merge(merged)))
    y = self.dense_out(drop(ACTIVATIONS[self.activation](self.dense(x))))
    return self.dense_norm(x + drop(y))
