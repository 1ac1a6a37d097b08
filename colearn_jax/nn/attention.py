"""Blocks of self-attention over tokens of which some may be missing, as pretrained transformers have them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.nn.random import hashed_bits
from colearn_jax.types import InputError

ABSENT = -1e9  # added to the score of a token that is not there; finite, so that no row of scores is all -inf


def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU (Hendrycks & Gimpel 2016), by erf: JAX's own uses erfc, which takes three times as long."""
  return 0.5 * x * (1.0 + jax.lax.erf(x * 2.0**-0.5))


class DropPath(nnx.Module):
  """Leaves out a block's contribution to a sample with probability `rate` (Huang et al. 2016, ECCV).

  The contributions that stay are scaled by 1 / (1 - rate).
  """

  def __init__(self, rate: float):
    self.rate = rate

  def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    """Drops samples of x, `[B ...]`, if `train`; `rngs` has the stream `dropout`."""
    if not train or self.rate == 0.0:
      return x
    keep = 1.0 - self.rate
    kept = hashed_bits(rngs.dropout(), (x.shape[0],) + (1,) * (x.ndim - 1)) < jnp.uint32(keep * 2**32)
    return jnp.where(kept, x / keep, 0).astype(x.dtype)


class Block(nnx.Module):
  """Self-attention, then two dense layers with GELU; each reads a LayerNorm of x and is added to x.

  Source: Xiong et al. 2020, ICML (pre-norm). The kernel of `project` has the columns of queries, keys and
  values in this order, each with the heads one after the other.
  """

  def __init__(self, width: int, heads: int, hidden: int, drop_path: float, *, rngs: nnx.Rngs, dtype):
    if width % heads:
      raise InputError(f"num_heads={heads} does not divide the width {width} of the tokens")
    self.norm, self.dense_norm = (layers.layer_norm(width, rngs=rngs, dtype=dtype) for _ in range(2))
    self.project = layers.linear(width, 3 * width, rngs=rngs, dtype=dtype)
    self.merge = layers.linear(width, width, rngs=rngs, dtype=dtype)
    self.dense = layers.linear(width, hidden, rngs=rngs, dtype=dtype)
    self.dense_out = layers.linear(hidden, width, rngs=rngs, dtype=dtype)
    self.drop, self.heads = DropPath(drop_path), heads

  def __call__(
    self, x: jax.Array, there: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """One block.

    Args:
      x: tokens `[B N D]`.
      there: `[B N]` bool. Tokens that are not there get no attention, and their own results mean nothing. If
        none is there, all get the same attention, so that the results stay finite.
      train: whether to leave out contributions, see `DropPath`.
      rngs: the stream `dropout`, in training.
    """
    x = x + self.drop(self.attend(self.norm(x), there), train=train, rngs=rngs)
    y = self.dense_out(gelu(self.dense(self.dense_norm(x))))
    return x + self.drop(y, train=train, rngs=rngs)

  def attend(self, x: jax.Array, there: jax.Array) -> jax.Array:
    """The attention of a block, on normalised tokens `[B N D]`."""
    batch, count, width = x.shape
    heads = self.project(x).reshape(batch, count, 3, self.heads, width // self.heads)
    query, key, value = heads.transpose(2, 0, 3, 1, 4)
    scores = layers.widened(query @ key.swapaxes(2, 3)) * (width // self.heads) ** -0.5
    scores = scores + jnp.where(there, 0.0, ABSENT).astype(scores.dtype)[:, None, None]
    attention = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
    return self.merge((attention @ value).transpose(0, 2, 1, 3).reshape(x.shape))
