"""ConvTran: Foumani, Tan, Webb & Salehi 2024, Data Mining and Knowledge Discovery 38:22-48."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.nn import convolution, layers
from colearn_jax.types import InputError

POSITIONS = ("tape", "sinusoidal", "learned", "none")
RELATIVE_POSITIONS = ("erpe", "vector", "none")


class ConvTran(nnx.Module):
  """Convolutions, one block of attention, the mean over time: series `[B T C]` to `[B layer_size]`.

  The first convolution over time maps each band to 4 * layer_size channels, and one over bands and channels
  maps these to layer_size. `n_layers` counts the two and those between them, which are over time and each
  narrower by layer_size.

  `position` is what is added to the input of the attention: `tape`, sines whose frequencies depend on the
  series' length (equation 13 of the paper), `sinusoidal`, `learned` or `none`. `relative_position` depends
  on pairs of time steps: `erpe`, a learned scalar for each time difference and head, added after the
  softmax (equation 17); `vector`, a learned vector for each difference, multiplied with the query before
  the softmax (Huang et al. 2019); or `none`.
  """

  mask_nans = False
  context_joins = "features"

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
      [
        convolution.TemporalConv(i, o, kernel_size, rngs=rngs, dtype=dtype)
        for i, o in zip(widths, widths[1:])
      ]
    )
    self.norms = nnx.List([layers.BatchNorm(width, dtype=dtype) for width in widths[1:]])
    self.collapse = layers.linear(bands * widths[-1], layer_size, rngs=rngs, dtype=dtype)
    self.collapse_norm = layers.BatchNorm(layer_size, dtype=dtype)
    if position == "learned":
      self.table = nnx.Param(nnx.initializers.uniform(0.04)(rngs.params(), (steps, layer_size)) - 0.02)
    elif position != "none":
      # A fixed table belongs in a constant. It is part of the state, because models of the released program
      # keep the digits of the table they were trained with. It is a BatchStat, because a variable type of
      # its own would change the checkpoints, whose parts are parameters and batch statistics.
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
    # Two forms of one product. In training, bands and channels stay two axes, because merging them would
    # copy x for the kernel's gradient. In evaluation the product is taken band by band, because XLA would
    # otherwise not vectorise the loop that computes x on CPUs.
    kernel = self.collapse.kernel[...].astype(self.dtype).reshape(*x.shape[2:], -1)
    if train:
      x = jnp.einsum("btcf,cfd->btd", x, kernel)
    else:
      x = jnp.einsum("btcf,cfd->cbtd", x, kernel).sum(0)
    x = x + self.collapse.bias[...].astype(self.dtype)[None, None]
    x = _gelu(self.collapse_norm(x, train=train, present=present))
    positioned = x if self.position == "none" else drop(x + self.table[...].astype(self.dtype)[None])
    x = self.norm(x + self.attention(positioned))
    x = self.dense_norm(x + drop(self.dense_out(drop(nnx.relu(self.dense(x))))))
    return x.mean(1)


def _gelu(x: jax.Array) -> jax.Array:
  """The exact GELU by erf, as in PyTorch. JAX's, by erfc, is several times slower on CPUs."""
  return 0.5 * x * (1.0 + jax.lax.erf(x * 2**-0.5))


def _over_time(conv: convolution.TemporalConv, x: jax.Array) -> jax.Array:
  """Convolves every band of `[B T C D]` over time and keeps the length.

  An even kernel gets one more zero behind the series than before it. Bands stay behind time, in the order
  that the next layer needs.
  """
  kernel = conv.kernel[...].astype(conv.dtype)
  padding = [((len(kernel) - 1) // 2, len(kernel) // 2), (0, 0)]
  x = convolution.convolve(x.astype(conv.dtype), kernel[:, None], padding)
  return x + conv.bias[...].astype(conv.dtype)[None, None, None]


class Attention(nnx.Module):
  """Self-attention over time with relative positions and a LayerNorm on the merged heads; keeps `[B T D]`."""

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
    """Attends to all steps of `[B T D]`."""
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
  """Turns products of queries and relative vectors `[B H T T]` into scores of pairs of steps `[B H T T]`.

  The last vector belongs to the query's own time step, the one before it to the step before, and so on. The
  method (Huang et al. 2019) is meant for masked attention to the past. As in the released program nothing
  is masked here, so that later steps get the values that the method leaves there: 0 for the next step, and
  products of the next query for those after it.
  """
  batch, heads, steps, _ = products.shape
  padded = jnp.pad(products, ((0, 0), (0, 0), (0, 0), (1, 0)))
  return padded.reshape(batch, heads, steps + 1, steps)[:, :, 1:]
