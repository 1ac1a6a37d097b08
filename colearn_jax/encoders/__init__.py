"""Encoders: one file a backbone, one line below for each; the wrapper that brings any of them to width d.

A backbone is a class `Backbone(shape, *, <its arguments with defaults>, dtype, rngs)` where `shape` is that
of one sample without the batch; it has the attribute `width`, the size of what it returns, and `mask_nans`,
whether it wants to see NaN (missing values) rather than zeros; and it is called as
`backbone(x, train=..., present=..., rngs=...)` for `[B *shape]` to `[B width]`.

Series of images (cubes, `[B T H W C]`) are flattened after time for all but those in `SPATIAL`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax import layers
from colearn_jax.encoders.convtran import ConvTran
from colearn_jax.encoders.ltae import LTAE, TAE
from colearn_jax.encoders.mlp import MLP
from colearn_jax.encoders.pse_ltae import PSELTAE
from colearn_jax.encoders.recurrent import GRU, LSTM, RNN
from colearn_jax.encoders.resnet import ResNet
from colearn_jax.encoders.tempcnn import TempCNN
from colearn_jax.encoders.transformer import Transformer
from colearn_jax.spec import InputError

ENCODERS = {
  "convtran": ConvTran,
  "gru": GRU,
  "lstm": LSTM,
  "ltae": LTAE,
  "mlp": MLP,
  "pse_ltae": PSELTAE,
  "resnet": ResNet,
  "rnn": RNN,
  "tae": TAE,
  "tempcnn": TempCNN,
  "transformer": Transformer,
}

SPATIAL = ("pse_ltae", "resnet")  # these see rows and columns; to the others a cube is a series of wide steps

NORMS = ("none", "layer", "batch")


class Encoder(nnx.Module):
  """A backbone, a linear layer to width d, and an optional norm: `[B *shape]` to `[B d]`.

  `flatten` gives the backbone cubes `[B T H W C]` as series `[B T (H W C)]`.
  """

  def __init__(
    self,
    backbone: nnx.Module,
    width: int,
    *,
    norm: str,
    flatten: bool = False,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
  ):
    self.backbone, self.flatten = backbone, flatten
    self.linear = layers.linear(backbone.width, width, rngs=rngs, dtype=dtype)
    if norm == "layer":
      self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
    else:
      self.norm = layers.BatchNorm(width) if norm == "batch" else None

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes normalised inputs, NaN where a value is missing."""
    if not self.backbone.mask_nans:
      x = jnp.where(jnp.isnan(x), 0.0, x)
    if self.flatten:
      x = x.reshape(*x.shape[:2], -1)
    y = self.linear(self.backbone(x, train=train, present=present, rngs=rngs)).astype(jnp.float32)
    if isinstance(self.norm, layers.BatchNorm):
      return self.norm(y, train=train, present=present)
    return y if self.norm is None else self.norm(y)


def arguments(model_type: str) -> dict[str, object]:
  """The arguments that an encoder takes in a configuration, each with its default.

  Raises:
    InputError: there is no such encoder.
  """
  if model_type not in ENCODERS:
    raise InputError(f"unknown encoder {model_type!r}, have: {', '.join(sorted(ENCODERS))}")
  parameters = inspect.signature(ENCODERS[model_type].__init__).parameters.values()
  own = {
    p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("rngs", "dtype")
  }
  return own | {"use_norm": "none"}


def make_encoder(
  settings: Mapping[str, object], shape: tuple[int, ...], width: int, *, rngs: nnx.Rngs, dtype=jnp.float32
) -> Encoder:
  """Builds an encoder to width d from its settings, e.g. `{"model_type": "tempcnn", "layer_size": 64}`.

  Arguments left out have their defaults; `use_norm` is the norm behind the linear layer, one of `NORMS`.

  Raises:
    InputError: no such encoder, or it has no such argument.
  """
  settings = dict(settings)
  model_type = settings.pop("model_type", None)
  known = arguments(model_type)
  if unknown := sorted(set(settings) - set(known)):
    raise InputError(f"encoder {model_type} has no argument {unknown[0]!r}, has: {', '.join(known)}")
  norm = settings.pop("use_norm", "none")
  if norm not in NORMS:
    raise InputError(f"use_norm={norm!r} of encoder {model_type}: have {', '.join(NORMS)}")
  flatten = len(shape) == 4 and model_type not in SPATIAL
  if flatten:
    shape = shape[0], math.prod(shape[1:])
  backbone = ENCODERS[model_type](shape, **settings, dtype=dtype, rngs=rngs)
  return Encoder(backbone, width, norm=norm, flatten=flatten, rngs=rngs, dtype=dtype)
