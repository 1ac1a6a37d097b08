"""Blocks of self-attention over tokens of which some may be missing, as pretrained transformers have them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.nn.random import hashed_bits
from colearn_jax.types import InputError

ABSENT = -1e9  # added to the scores of a missing token; finite, so that rows without any token stay finite
CACHE = 6 * 2**20  # bytes of scores that a core of a CPU computes at a time, so that they stay in its cache
SIDE_BY_SIDE = 8  # pieces of a batch whose scores a CPU's cores compute at the same time


def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU (Hendrycks & Gimpel 2016) by erf. JAX's uses erfc, which takes three times as long."""
  return 0.5 * x * (1.0 + jax.lax.erf(x * 2.0**-0.5))


def attend(projected: jax.Array, bias: jax.Array, heads: int) -> jax.Array:
  """Scaled dot-product attention of each head (Vaswani et al. 2017, section 3.2).

  Args:
    projected: queries, keys and values side by side `[B N 3D]`, each with the heads one after the other.
    bias: `[B N]`, added to the scores of each key.
    heads: number of heads.

  Returns:
    The attended values `[B N D]`.
  """
  cpu = functools.partial(_by_pieces, heads=heads)
  default = functools.partial(_whole, heads=heads)
  return jax.lax.platform_dependent(projected, bias, cpu=cpu, default=default)


def _split(projected: jax.Array, heads: int) -> jax.Array:
  """Queries, keys and values, `[3 B heads N D/heads]`."""
  batch, count, width = projected.shape
  return projected.reshape(batch, count, 3, heads, width // (3 * heads)).transpose(2, 0, 3, 1, 4)


def _probabilities(query: jax.Array, key: jax.Array, bias: jax.Array) -> jax.Array:
  scores = layers.widened(query @ key.swapaxes(2, 3)) * query.shape[-1] ** -0.5
  return jax.nn.softmax(scores + bias[:, None, None].astype(scores.dtype), axis=-1)


def _whole(projected: jax.Array, bias: jax.Array, heads: int) -> jax.Array:
  query, key, value = _split(projected, heads)
  y = _probabilities(query, key, bias).astype(value.dtype) @ value
  return y.transpose(0, 2, 1, 3).reshape(*projected.shape[:2], -1)


# On CPUs the gradient is written by hand. It computes the probabilities again, piece by piece of the batch.
# The gradient that JAX derives stores and moves them, which takes three times as long.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_pieces(projected: jax.Array, bias: jax.Array, heads: int) -> jax.Array:
  return _map(functools.partial(_whole, heads=heads), heads, projected, bias)


def _forward(projected: jax.Array, bias: jax.Array, heads: int):
  return _by_pieces(projected, bias, heads), (projected, bias)


def _backward(heads: int, residuals: tuple, d: jax.Array):
  def piece(projected, bias, d):
    query, key, value = _split(projected, heads)
    d = d.reshape(*d.shape[:2], heads, -1).transpose(0, 2, 1, 3)
    shares = _probabilities(query, key, bias)
    of_shares = layers.widened(d @ value.swapaxes(2, 3))
    of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdims=True))
    of_scores = (of_scores * query.shape[-1] ** -0.5).astype(query.dtype)
    of_value = shares.astype(d.dtype).swapaxes(2, 3) @ d
    parts = jnp.stack([of_scores @ key, of_scores.swapaxes(2, 3) @ query, of_value])
    return parts.transpose(1, 3, 0, 2, 4).reshape(projected.shape)

  projected, bias = residuals
  return _map(piece, heads, projected, bias, d), jnp.zeros_like(bias)


_by_pieces.defvjp(_forward, _backward)


def _map(function, heads: int, *arrays: jax.Array) -> jax.Array:
  """Applies a function of arrays `[B N ...]` to pieces of the batch whose scores fit in the cache.

  XLA computes a piece on one core, and the steps of a loop one after another. So there is no loop over up to
  `SIDE_BY_SIDE` pieces, and one over more takes so many in each step. A piece has every P-th sample, so that
  a batch which is shared by devices stays where it is. A batch whose size is not known, as in exported
  models, is one piece.
  """
  batch, count = arrays[0].shape[:2]
  if not isinstance(batch, int) or 4 * heads * batch * count**2 <= CACHE:
    return function(*arrays)
  fitting = max(1, CACHE // (4 * heads * count**2))
  least = min(batch, max(SIDE_BY_SIDE, -(-batch // fitting)))
  pieces = next(p for p in range(least, batch + 1) if batch % p == 0)
  together = next(k for k in range(SIDE_BY_SIDE, 0, -1) if pieces % k == 0)
  cut = [a.reshape(batch // pieces, pieces // together, together, *a.shape[1:]) for a in arrays]

  def step(number):
    given = [jax.lax.dynamic_index_in_dim(a, number, 1, keepdims=False) for a in cut]
    return jnp.stack([function(*(a[:, k] for a in given)) for k in range(together)], axis=1)

  if pieces == together:
    y = step(0)
  else:
    y = jnp.moveaxis(jax.lax.map(step, jnp.arange(pieces // together)), 0, 1)
  return y.reshape(batch, count, -1)


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
  """Self-attention, then two dense layers with GELU; each reads a LayerNorm of x, and is added to x.

  Source: Xiong et al. 2020, ICML (pre-norm).
  """

  def __init__(
    self, width: int, num_heads: int, hidden: int, drop_path: float = 0.0, *, rngs: nnx.Rngs, dtype
  ):
    if width % num_heads:
      raise InputError(f"num_heads={num_heads} does not divide the width {width} of the tokens")
    self.norm, self.dense_norm = (layers.layer_norm(width, rngs=rngs, dtype=dtype) for _ in range(2))
    dense = lambda i, o: layers.linear(i, o, rngs=rngs, dtype=dtype)
    self.project, self.merge = dense(width, 3 * width), dense(width, width)
    self.dense, self.dense_out = dense(width, hidden), dense(hidden, width)
    self.drop, self.num_heads = DropPath(drop_path), num_heads

  def __call__(
    self, x: jax.Array, there: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """One block, `[B N D]` to the same.

    Args:
      x: the tokens.
      there: `[B N]` bool. Other tokens get no attention, and their own results mean nothing.
      train: whether to leave out contributions, see `DropPath`.
      rngs: the stream `dropout`, in training.
    """
    x, hidden = self._hidden(x, there, train=train, rngs=rngs)
    return x + self.drop(_dense(self.dense_out, hidden), train=train, rngs=rngs)

  def mean(
    self, x: jax.Array, share: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """The mean over the tokens of what the block returns, `[B N D]` to `[B D]`.

    The last layer is linear, so it is applied to the mean alone.

    Args:
      x: the tokens.
      share: `[B N]`, the weights of the tokens in the mean, which add up to 1; 0 where there is no token.
      train: see a call.
      rngs: see a call.
    """
    x, hidden = self._hidden(x, share > 0, train=train, rngs=rngs)
    # As a product, since XLA would compute the GELU inside of a sum one number at a time.
    weigh = lambda a: jnp.einsum("bn,bnd->bd", share.astype(a.dtype), a)
    return weigh(x) + self.drop(_dense(self.dense_out, weigh(hidden)), train=train, rngs=rngs)

  def _hidden(
    self, x: jax.Array, there: jax.Array, *, train: bool, rngs: nnx.Rngs | None
  ) -> tuple[jax.Array, jax.Array]:
    """The tokens after the attention, and what the last layer reads of them."""
    bias = jnp.where(there, 0.0, ABSENT)
    y = attend(_dense(self.project, self.norm(x)), bias, self.num_heads)
    x = x + self.drop(_dense(self.merge, y), train=train, rngs=rngs)
    return x, gelu(_dense(self.dense, self.dense_norm(x)))


def _dense(layer: nnx.Linear, x: jax.Array) -> jax.Array:
  """The result of a dense layer, with the gradient of `layers.product`, which is faster on CPUs."""
  kernel, bias = layer.kernel[...].astype(x.dtype), layer.bias[...].astype(x.dtype)
  return layers.product(x, kernel) + layers.along_last_axis(bias, x)
