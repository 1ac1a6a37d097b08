"""ConvTran: Foumani, Tan, Webb & Salehi 2024, Data Mining and Knowledge Discovery 38:22-48."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError

POSITIONS = ("tape", "sinusoidal", "learned", "none")
RELATIVE_POSITIONS = ("erpe", "vector", "none")


class ConvTran(nnx.Module):
  """Convolutions, one block of attention, the mean over time: series `[B T C]` to `[B layer_size]`.

  A convolution over time widens every band to 4 * layer_size channels, and one over bands collapses them to
  layer_size; n_layers counts these two and those between them over time, each a layer_size narrower.

  `position` is added to what attention reads: `tape`, whose frequencies depend on the series' length (the
  paper's equation 13), `sinusoidal`, `learned` or `none`. `relative_position` is about pairs of time steps:
  `erpe`, a learned scalar for each difference in time and head, added behind the softmax (equation 17);
  `vector`, a learned vector for each difference, multiplied with the query before it (Huang et al. 2019); or
  `none`.
  """

  mask_nans = False

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    layer_size: int = 64,
    n_layers: int = 2,
    num_heads: int = 8,
    feedforward_size: int = 256,
    position: str = "tape",
    relative_position: str = "erpe",
    dropout: float = 0.2,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if len(shape) != 2:
      raise InputError(f"encoder convtran reads series of shape (T, C), got {shape}")
    if position not in POSITIONS:
      raise InputError(f"encoder convtran: position={position!r}, have {', '.join(POSITIONS)}")
    steps, bands = shape
    kernel_size = min(8, steps)
    factors = [4, *(max(3 - i, 1) for i in range(n_layers - 2))]
    widths = [1, *(layer_size * factor for factor in factors)]
    self.convs = nnx.List(
      [layers.TemporalConv(i, o, kernel_size, rngs=rngs, dtype=dtype) for i, o in zip(widths, widths[1:])]
    )
    self.norms = nnx.List([layers.BatchNorm(width, dtype=dtype) for width in widths[1:]])
    self.collapse = layers.linear(bands * widths[-1], layer_size, rngs=rngs, dtype=dtype)
    self.collapse_norm = layers.BatchNorm(layer_size, dtype=dtype)
    if position == "learned":
      self.table = nnx.Param(nnx.initializers.uniform(0.04)(rngs.params(), (steps, layer_size)) - 0.02)
    elif position != "none":
      # Not trained, yet part of the state: a model that comes from elsewhere keeps the digits it learnt with.
      factor = layer_size / steps if position == "tape" else 1.0
      self.table = nnx.BatchStat(jnp.asarray(layers.sinusoid(np.arange(steps) * factor, layer_size)))
    self.attention = Attention(steps, layer_size, num_heads, relative_position, rngs=rngs, dtype=dtype)
    self.dense = layers.linear(layer_size, feedforward_size, rngs=rngs, dtype=dtype)
    self.dense_out = layers.linear(feedforward_size, layer_size, rngs=rngs, dtype=dtype)
    self.norm, self.dense_norm = (layers.layer_norm(layer_size, rngs=rngs, dtype=dtype) for _ in range(2))
    self.drop = layers.Dropout(dropout)
    self.steps, self.width, self.position, self.dtype = steps, layer_size, position, dtype

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B T C]`."""
    drop = lambda a: self.drop(a, train=train, rngs=rngs)
    x = x[..., None]
    for conv, norm in zip(self.convs, self.norms):
      x = _gelu(norm(_over_time(conv, x), train=train, present=present))
    # Over bands and channels as they stand: were they one axis, the kernel's gradient would write x anew. And
    # without gradients band by band: else the loop that makes x would not be vectorised on the CPU.
    kernel = self.collapse.kernel[...].astype(self.dtype).reshape(*x.shape[2:], -1)
    if train:
      x = jnp.einsum("btcf,cfd->btd", x, kernel)
    else:
      x = jnp.einsum("btcf,cfd->cbtd", x, kernel).sum(0)
    x = x + self.collapse.bias[...].astype(self.dtype)
    x = _gelu(self.collapse_norm(x, train=train, present=present))
    positioned = x if self.position == "none" else drop(x + self.table[...].astype(self.dtype)[None])
    x = self.norm(x + self.attention(positioned))
    x = self.dense_norm(x + drop(self.dense_out(drop(nnx.relu(self.dense(x))))))
    return x.mean(1)


def _gelu(x: jax.Array) -> jax.Array:
  """The exact GELU by erf, as PyTorch has it; by erfc, as JAX has it, it is several times slower on a CPU."""
  return 0.5 * x * (1.0 + jax.lax.erf(x * 2**-0.5))


def _over_time(conv: layers.TemporalConv, x: jax.Array) -> jax.Array:
  """Convolves every band `[B T C D]` over time; an even kernel has one more zero behind than before.

  Bands stay behind time, as the layer that collapses them wants them.
  """
  kernel = conv.kernel[...].astype(conv.dtype)
  pad = (len(kernel) - 1) // 2, len(kernel) // 2
  x = jax.lax.platform_dependent(
    x.astype(conv.dtype),
    kernel,
    cpu=functools.partial(_shifted_product, pad),  # see `layers.TemporalConv`
    default=functools.partial(_convolution, pad),
  )
  return x + conv.bias[...].astype(conv.dtype)


def _convolution(pad: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
  axes = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, kernel[:, None], (1, 1), [pad, (0, 0)], dimension_numbers=axes)


def _shifted_product(pad: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
  padded = jnp.pad(x, ((0, 0), pad, (0, 0), (0, 0)))
  columns = jnp.concatenate([padded[:, k : k + x.shape[1]] for k in range(len(kernel))], axis=-1)
  return layers.product(columns, kernel.reshape(-1, kernel.shape[-1]))


class Attention(nnx.Module):
  """Self-attention over time with relative positions, `[B T D]` to the same; a LayerNorm merges its heads."""

  def __init__(self, steps: int, width: int, num_heads: int, relative: str, *, rngs: nnx.Rngs, dtype):
    if width % num_heads:
      raise InputError(f"encoder convtran: num_heads={num_heads} does not divide layer_size={width}")
    if relative not in RELATIVE_POSITIONS:
      have = ", ".join(RELATIVE_POSITIONS)
      raise InputError(f"encoder convtran: relative_position={relative!r}, have {have}")
    init = layers.uniform_fan_in(width)
    make = lambda: nnx.Linear(width, width, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)
    self.query, self.key, self.value = make(), make(), make()
    self.norm = layers.layer_norm(width, rngs=rngs, dtype=dtype)
    if relative == "erpe":
      self.bias = nnx.Param(jnp.zeros((2 * steps - 1, num_heads)))
    elif relative == "vector":
      self.vectors = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (steps, width // num_heads)))
    self.num_heads, self.relative = num_heads, relative

  def __call__(self, x: jax.Array) -> jax.Array:
    """Attends."""
    steps = x.shape[1]
    heads = lambda a: a.reshape(*a.shape[:2], self.num_heads, -1)
    query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
    scores = layers.widened(jnp.einsum("bqhd,bkhd->bhqk", query, key))
    if self.relative == "vector":
      products = jnp.einsum("bqhd,rd->bhqr", query, self.vectors[...].astype(x.dtype))
      scores += _skewed(layers.widened(products))
    attention = jax.nn.softmax(scores * x.shape[2] ** -0.5, axis=-1)
    if self.relative == "erpe":
      difference = np.subtract.outer(np.arange(steps), np.arange(steps)) + steps - 1
      attention += self.bias[...][difference].transpose(2, 0, 1)[None]
    merged = jnp.einsum("bhqk,bkhd->bqhd", attention.astype(x.dtype), value)
    return self.norm(merged.reshape(x.shape))


def _skewed(products: jax.Array) -> jax.Array:
  """Products of queries and relative vectors `[B H T T]` as scores of pairs of steps (Huang et al. 2019).

  The last vector belongs to the query's own time step, the one before it to the step before, and so on. The
  trick was made for attention to the past; as in the authors' program nothing is masked here, and a later
  step gets what the trick leaves in its place: 0 for the next one, products of the next query beyond that.
  """
  batch, heads, steps, _ = products.shape
  padded = jnp.pad(products, ((0, 0), (0, 0), (0, 0), (1, 0)))
  return padded.reshape(batch, heads, steps + 1, steps)[:, :, 1:]
