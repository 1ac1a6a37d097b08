"""Temporal attention encoders: TAE (Garnot et al. 2020, CVPR) and L-TAE (Garnot & Landrieu 2020, AALTD)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError


class LTAE(nnx.Module):
  """Lightweight temporal attention, series `[B T C]` to `[B n_neurons[-1]]`.

  Each head has one learned query and reads its own slice of the embedding's channels. `n_neurons` lists the
  width of the merged heads, d_model, and then those of the dense layers after them. With `mask_nans`, time
  steps without any value get no attention, see `fill_missing`.
  """

  context_joins = "features"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    num_heads: int = 16,
    d_k: int = 8,
    d_model: int = 256,
    n_neurons: Sequence[int] = (256, 128),
    dropout: float = 0.2,
    attention_dropout: float = 0.1,
    max_period: float = 1000.0,
    mask_nans: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    steps, bands = _series("ltae", shape)
    if d_model % num_heads:
      raise InputError(f"encoder ltae: num_heads={num_heads} does not divide d_model={d_model}")
    self.bands_norm = layers.layer_norm(bands, rngs=rngs, dtype=dtype)
    self.embed = layers.linear(bands, d_model, rngs=rngs, dtype=dtype)
    self.embed_norm = layers.layer_norm(steps * d_model, rngs=rngs, dtype=dtype)
    self.query = nnx.Param(_peaked(d_k)(rngs.params(), (num_heads, d_k)))
    self.key = _projection(d_model, num_heads * d_k, d_k, rngs=rngs, dtype=dtype)
    self.dense = Dense("ltae", d_model, n_neurons, dropout, rngs=rngs, dtype=dtype)
    self.drop = layers.Dropout(attention_dropout)
    self.num_heads, self.max_period, self.dtype = num_heads, max_period, dtype
    self.mask_nans, self.width = mask_nans, self.dense.width

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B T C]`."""
    return self.attend(x, train=train, present=present, rngs=rngs)[0]

  def attend(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes `[B T C]`; returns `[B width]` and the attention of the heads to the steps, `[B H T]`."""
    x, masked = fill_missing(x, self.mask_nans)
    x = _normed_together(self.embed(self.bands_norm(x)), self.embed_norm)
    table = positions(x.shape[1], x.shape[2] // self.num_heads, self.max_period)
    x = x + jnp.asarray(np.tile(table, self.num_heads), self.dtype)[None]
    heads = lambda a: a.reshape(*x.shape[:2], self.num_heads, -1)
    scores = _scores(self.query[...].astype(self.dtype), self.key, x)
    attention = self.drop(_softmax(scores, self.query.shape[1], masked), train=train, rngs=rngs)
    merged = jnp.einsum("bht,bthv->bhv", attention.astype(self.dtype), heads(x)).reshape(x.shape[0], -1)
    return self.dense(merged, train=train, present=present, rngs=rngs), attention


class TAE(nnx.Module):
  """Temporal attention, series `[B T C]` to `[B n_neurons[-1]]`.

  The queries are the mean over time of a projection of the embedding, including missing steps. Each head
  reads all channels of the embedding. `n_neurons` begins with the width of the merged heads, num_heads *
  d_model. For `mask_nans` see `LTAE`.
  """

  context_joins = "features"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    num_heads: int = 4,
    d_k: int = 32,
    d_model: int = 128,
    n_neurons: Sequence[int] = (512, 128, 128),
    dropout: float = 0.2,
    attention_dropout: float = 0.1,
    max_period: float = 1000.0,
    mask_nans: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    steps, bands = _series("tae", shape)
    keys = num_heads * d_k
    self.bands_norm = layers.layer_norm(bands, rngs=rngs, dtype=dtype)
    self.embed = layers.linear(bands, d_model, rngs=rngs, dtype=dtype)
    self.embed_norm = layers.layer_norm(steps * d_model, rngs=rngs, dtype=dtype)
    self.query = _projection(d_model, keys, d_k, rngs=rngs, dtype=dtype)
    self.query_norm = layers.BatchNorm(keys, dtype=dtype)
    self.query_out = layers.linear(keys, keys, rngs=rngs, dtype=dtype)
    self.key = _projection(d_model, keys, d_k, rngs=rngs, dtype=dtype)
    self.dense = Dense("tae", num_heads * d_model, n_neurons, dropout, rngs=rngs, dtype=dtype)
    self.drop = layers.Dropout(attention_dropout)
    self.num_heads, self.max_period, self.dtype = num_heads, max_period, dtype
    self.mask_nans, self.width = mask_nans, self.dense.width

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B T C]`."""
    return self.attend(x, train=train, present=present, rngs=rngs)[0]

  def attend(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes `[B T C]`; returns `[B width]` and the attention of the heads to the steps, `[B H T]`."""
    x, masked = fill_missing(x, self.mask_nans)
    x = self.bands_norm(x)
    table = positions(x.shape[1], x.shape[2], self.max_period)
    x = _normed_together(self.embed(x + jnp.asarray(table, self.dtype)[None]), self.embed_norm)
    heads = lambda a: a.reshape(*a.shape[:-1], self.num_heads, -1)
    # The projection is linear, so it is applied to the mean: T times less work.
    query = self.query_norm(self.query(x.mean(1)), train=train, present=present)
    scores = _scores(heads(self.query_out(query)), self.key, x)
    attention = self.drop(_softmax(scores, query.shape[1] // self.num_heads, masked), train=train, rngs=rngs)
    merged = jnp.einsum("bht,btv->bhv", attention.astype(self.dtype), x).reshape(x.shape[0], -1)
    return self.dense(merged, train=train, present=present, rngs=rngs), attention


class Dense(nnx.Module):
  """The layers after the merged heads: linear, BatchNorm and ReLU; at the end dropout and a LayerNorm."""

  def __init__(
    self, encoder: str, merged: int, widths: Sequence[int], dropout: float, *, rngs: nnx.Rngs, dtype
  ):
    if not widths or widths[0] != merged:
      raise InputError(
        f"encoder {encoder}: n_neurons={tuple(widths)} does not begin with {merged}, the width of its heads"
      )
    self.linears = nnx.List([layers.linear(i, o, rngs=rngs, dtype=dtype) for i, o in zip(widths, widths[1:])])
    self.norms = nnx.List([layers.BatchNorm(o, dtype=dtype) for o in widths[1:]])
    self.out_norm = layers.layer_norm(widths[-1], rngs=rngs, dtype=dtype)
    self.drop = layers.Dropout(dropout)
    self.width = widths[-1]

  def __call__(
    self, x: jax.Array, *, train: bool, present: jax.Array | None, rngs: nnx.Rngs | None
  ) -> jax.Array:
    """From the merged heads `[B H]` to `[B width]`."""
    for linear, norm in zip(self.linears, self.norms):
      x = nnx.relu(norm(linear(x), train=train, present=present))
    return self.out_norm(self.drop(x, train=train, rngs=rngs))


def fill_missing(x: jax.Array, mask_nans: bool) -> tuple[jax.Array, jax.Array]:
  """Sets missing values of a series `[B T C]` to zero and finds the time steps `[B T]` to mask.

  A step is masked if all its bands are missing. A sample without any value is encoded as zeros without a
  mask, because a softmax over masked steps alone is not finite.
  """
  if not mask_nans:
    return x, jnp.zeros(x.shape[:2], bool)
  finite = jnp.isfinite(x)
  masked = ~finite.any(-1)
  return jnp.where(finite, x, 0.0), masked & ~masked.all(-1, keepdims=True)


def positions(steps: int, width: int, max_period: float) -> np.ndarray:
  """Table `[T D]` of encoded positions, counted from 1."""
  return layers.sinusoid(np.arange(1, steps + 1), width, base=max_period)


def _series(encoder: str, shape: tuple[int, ...]) -> tuple[int, int]:
  if len(shape) != 2:
    raise InputError(f"encoder {encoder} reads series of shape (T, C), got {shape}")
  return shape


def _peaked(d_k: int) -> nnx.Initializer:
  """The papers' initial values of queries and keys; their products have a standard deviation of about 2."""
  return nnx.initializers.normal((2.0 / d_k) ** 0.5)


def _projection(features: int, keys: int, d_k: int, *, rngs: nnx.Rngs, dtype) -> nnx.Linear:
  bias_init = layers.uniform_fan_in(features)
  return nnx.Linear(features, keys, kernel_init=_peaked(d_k), bias_init=bias_init, dtype=dtype, rngs=rngs)


def _normed_together(x: jax.Array, norm: nnx.LayerNorm) -> jax.Array:
  """Applies a LayerNorm over all T*D values of each sample of `[B T D]`.

  The result is that of `norm` on samples reshaped to T*D values. XLA does not vectorise the loops over that
  shape on CPUs.
  """
  y = layers.widened(x)
  y = y - y.mean((1, 2), keepdims=True)
  y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 2), keepdims=True) + norm.epsilon)
  scale, bias = (parameter[...].reshape(1, *x.shape[1:]) for parameter in (norm.scale, norm.bias))
  return (y * scale + bias).astype(x.dtype)


def _scores(query: jax.Array, key: nnx.Linear, x: jax.Array) -> jax.Array:
  """Computes the products `[B H T]` of each head's query with its keys of all time steps.

  They are computed as (q W) x instead of q (W x), T times less work, so the keys themselves never exist.

  Args:
    query: `[H K]`, or `[B H K]`.
    key: the projection from steps to keys, D to H*K.
    x: the time steps, `[B T D]`.
  """
  kernel = key.kernel[...].astype(x.dtype).reshape(-1, *query.shape[-2:])
  bias = key.bias[...].astype(x.dtype).reshape(query.shape[-2:])
  folded = jnp.einsum("...hk,dhk->...hd", query, kernel)
  scores = jnp.einsum("hd,btd->bht" if query.ndim == 2 else "bhd,btd->bht", folded, x)
  offset = (query * bias.reshape((1,) * (query.ndim - 2) + bias.shape)).sum(-1)[..., None]
  return scores + offset.reshape((-1, *offset.shape[-2:]))


def _softmax(scores: jax.Array, d_k: int, masked: jax.Array) -> jax.Array:
  """Attention `[B H T]`, at least float32, from products of queries and keys; 0 for masked steps `[B T]`."""
  scores = layers.widened(scores) * d_k**-0.5
  return jax.nn.softmax(jnp.where(masked[:, None], -jnp.inf, scores), axis=-1)
