"""An encoder for small tables and short series: an MLP on embeddings of single numbers.

Sources: Gorishniy et al. 2022, NeurIPS (embeddings of numbers); Gorishniy et al. 2025, ICLR (TabM, its
members); Holzmüller et al. 2024, NeurIPS (RealMLP, scaling layer and activations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.stats import norm

from colearn_jax.nn import layers
from colearn_jax.nn.members import linear as member_linear
from colearn_jax.types import InputError

EMBEDDINGS = ("none", "periodic", "piecewise")
ACTIVATIONS = {
  "gelu": nnx.gelu,
  "mish": lambda x: x * jnp.tanh(nnx.softplus(x)),
  "relu": nnx.relu,
  "selu": nnx.selu,
}


class Piecewise(nnx.Module):
  """Piecewise-linear encoding of F numbers, then a linear layer for each number (Gorishniy et al. 2022, 3.2).

  The bins are those of a standard normal variable with equal probabilities. After the normalisation
  `quantile` they therefore hold equal numbers of training samples. Bin t of a number x is
  clip(n Φ(x) - t, 0, 1) for n bins.
  """

  def __init__(self, features: int, width: int, *, bins: int, rngs: nnx.Rngs, dtype):
    init = layers.uniform_fan_in(bins)
    self.vectors = nnx.Param(init(rngs.params(), (features, bins, width)))
    self.bias = nnx.Param(init(rngs.params(), (features, width)))
    self.bins, self.dtype = bins, dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """Embeds `[B F]` as `[B F width]`."""
    share = norm.cdf(layers.widened(x))[..., None] * self.bins
    encoded = jnp.clip(share - jnp.arange(self.bins)[None, None], 0.0, 1.0).astype(self.dtype)
    return jnp.einsum("bfn,fne->bfe", encoded, self.vectors[...].astype(self.dtype)) + self.bias[...][None]


class Periodic(nnx.Module):
  """Sines and cosines of learned frequencies, then a linear layer and ReLU (Gorishniy et al. 2022, 3.3).

  The frequencies of each number start from a normal distribution with deviation `sigma`. The linear layer is
  the same for all numbers, the variant called "lite".
  """

  def __init__(self, features: int, width: int, *, frequencies: int, sigma: float, rngs: nnx.Rngs, dtype):
    unit = layers.he_normal(2)(rngs.params(), (features, frequencies))
    self.vectors = nnx.Param(sigma * unit)
    self.linear = layers.linear(2 * frequencies, width, rngs=rngs, dtype=dtype)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Embeds `[B F]` as `[B F width]`."""
    angle = 2 * jnp.pi * self.vectors[...][None] * layers.widened(x)[..., None]
    return nnx.relu(self.linear(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)))


class Table(nnx.Module):
  """An MLP over all values of a sample, each embedded by itself: `[B ...]` to `[B layer_sizes[-1]]`.

  A missing value has a learned vector in place of its embedding. With `members` = K > 1 the layers are those
  of K members that share their matrices, and the output is `[B K layer_sizes[-1]]`.

  Args:
    shape: shape of one sample.
    members: K, see `Architecture.members`.
    layer_sizes: widths of the layers.
    embedding: one of `EMBEDDINGS`. Without embedding, every number is multiplied by a learned scale.
    embedding_width: size of a number's embedding.
    bins: bins of `piecewise`, or frequencies of `periodic`.
    sigma: deviation of the first frequencies of `periodic`.
    activation: one of `ACTIVATIONS`, σ.
    parametric: whether each neuron learns a share s of its activation, x + s (σ(x) - x), from s = 1 on
      (RealMLP).
    dropout: after each layer.
    dtype: of the computation.
    rngs: the stream `params` for the initial values.
  """

  mask_nans = True
  context_joins = "inputs"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    members: int = 1,
    layer_sizes: Sequence[int] = (128, 128),
    embedding: str = "piecewise",
    embedding_width: int = 8,
    bins: int = 16,
    sigma: float = 0.1,
    activation: str = "relu",
    parametric: bool = False,
    dropout: float = 0.1,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if not layer_sizes:
      raise InputError("layer_sizes of encoder table is empty, it names the width of one or more layers")
    if embedding not in EMBEDDINGS:
      raise InputError(f"embedding={embedding!r} of encoder table: have {', '.join(EMBEDDINGS)}")
    if activation not in ACTIVATIONS:
      raise InputError(f"activation={activation!r} of encoder table: have {', '.join(ACTIVATIONS)}")
    features = math.prod(shape)
    width = 1 if embedding == "none" else embedding_width
    if embedding == "piecewise":
      self.embed = Piecewise(features, width, bins=bins, rngs=rngs, dtype=dtype)
    elif embedding == "periodic":
      self.embed = Periodic(features, width, frequencies=bins, sigma=sigma, rngs=rngs, dtype=dtype)
    else:
      self.embed = None
    self.scale = nnx.Param(jnp.ones(features)) if embedding == "none" else None
    self.missing = nnx.Param(jnp.zeros((features, width)))
    widths = [features * width, *layer_sizes]
    self.linears = nnx.List(
      [
        member_linear(i, o, members, signs=at == 0, rngs=rngs, dtype=dtype)
        for at, (i, o) in enumerate(zip(widths, widths[1:]))
      ]
    )
    self.shares = nnx.List([nnx.Param(jnp.ones(o)) for o in layer_sizes]) if parametric else None
    self.drop = layers.Dropout(dropout)
    self.members, self.activation, self.width = members, activation, layer_sizes[-1]

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B ...]`; NaN stands for a missing value."""
    del present  # no statistics of the batch
    x = x.reshape(x.shape[0], -1)
    missing = jnp.isnan(x)
    x = jnp.where(missing, 0.0, x)
    embedded = (x * self.scale[...][None])[..., None] if self.embed is None else self.embed(x)
    embedded = jnp.where(missing[..., None], self.missing[...].astype(embedded.dtype)[None], embedded)
    x = embedded.reshape(x.shape[0], -1)
    if self.members > 1:
      x = x[:, None]
    for at, linear in enumerate(self.linears):
      x = linear(x)
      active = ACTIVATIONS[self.activation](x)
      if self.shares is not None:
        active = x + layers.along_last_axis(self.shares[at][...].astype(x.dtype), x) * (active - x)
      x = self.drop(active, train=train, rngs=rngs)
    return x
