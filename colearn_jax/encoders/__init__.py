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
import numbers
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.encoders.convtran import ConvTran
from colearn_jax.encoders.ltae import LTAE, TAE
from colearn_jax.encoders.mlp import MLP
from colearn_jax.encoders.pse_ltae import PSELTAE
from colearn_jax.encoders.recurrent import GRU, LSTM, RNN
from colearn_jax.encoders.resnet import ResNet
from colearn_jax.encoders.tempcnn import TempCNN
from colearn_jax.encoders.transformer import Transformer
from colearn_jax.nn import layers
from colearn_jax.types import InputError

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
SIZES = ("seq_len", "num_features")  # of the sample: arguments of every encoder that only say what has to be


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
      wide = jnp.promote_types(dtype, jnp.float32)
      self.norm = layers.BatchNorm(width, dtype=wide) if norm == "batch" else None

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
    y = layers.widened(self.linear(self.backbone(x, train=train, present=present, rngs=rngs)))
    if isinstance(self.norm, layers.BatchNorm):
      return self.norm(y, train=train, present=present)
    return y if self.norm is None else self.norm(y)


def arguments(model_type: str) -> dict[str, object]:
  """The arguments that an encoder takes in a configuration, each with its default.

  Behind its own stand `use_norm` and `SIZES`, whose default None is the data's size, whatever it is.

  Raises:
    InputError: there is no such encoder.
  """
  if model_type not in ENCODERS:
    raise InputError(f"unknown encoder {model_type!r}, have: {', '.join(sorted(ENCODERS))}")
  parameters = inspect.signature(ENCODERS[model_type].__init__).parameters.values()
  own = {
    p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("rngs", "dtype")
  }
  return own | {"use_norm": "none"} | dict.fromkeys(SIZES)


def make_encoder(
  settings: Mapping[str, object], shape: tuple[int, ...], width: int, *, rngs: nnx.Rngs, dtype=jnp.float32
) -> Encoder:
  """Builds an encoder to width d from its settings, e.g. `{"model_type": "tempcnn", "layer_size": 64}`.

  Arguments left out have their defaults. `use_norm` is the norm behind the linear layer, one of `NORMS`.

  Raises:
    InputError: see `make_backbone`; or there is no such norm.
  """
  settings = dict(settings)
  norm = settings.pop("use_norm", "none")
  if norm not in NORMS:
    raise InputError(f"use_norm={norm!r} of encoder {settings.get('model_type')}: have {', '.join(NORMS)}")
  flatten = len(shape) == 4 and settings.get("model_type") not in SPATIAL
  if flatten:
    shape = shape[0], math.prod(shape[1:])
  backbone = make_backbone(settings, shape, rngs=rngs, dtype=dtype)
  return Encoder(backbone, width, norm=norm, flatten=flatten, rngs=rngs, dtype=dtype)


def make_backbone(
  settings: Mapping[str, object], shape: tuple[int, ...], *, rngs: nnx.Rngs, dtype=jnp.float32
) -> nnx.Module:
  """Builds the part of an encoder in front of the linear layer, for samples of a shape.

  `seq_len` and `num_features` have to be a sample's time steps and its bands, for `mlp` all its values.

  Raises:
    InputError: no such encoder; an argument that it does not have, with a value that makes no sense, or that
      is not the sample's size.
  """
  settings = dict(settings)
  model_type = settings.pop("model_type", None)
  known = arguments(model_type)
  if unknown := sorted(set(settings) - (set(known) - {"use_norm"})):  # that is not the backbone's
    raise InputError(f"encoder {model_type} has no argument {unknown[0]!r}, has: {', '.join(known)}")
  features = math.prod(shape) if model_type == "mlp" else shape[-1]
  for name, size in zip(SIZES, (shape[0] if len(shape) in (2, 4) else None, features)):
    said = settings.pop(name, None)
    if said is not None and said != size:
      raise InputError(f"encoder {model_type}: {name}={said!r}, but data of shape {shape} have {size}")
  for name, value in settings.items():
    if "dropout" in name and not 0 <= value < 1:
      raise InputError(f"encoder {model_type}: {name}={value!r} is not allowed; a number >= 0 and < 1")
    if type(known[name]) is int and not (isinstance(value, numbers.Integral) and value >= 1):
      raise InputError(f"encoder {model_type}: {name}={value!r} is not allowed; an integer >= 1")
  return ENCODERS[model_type](shape, **settings, dtype=dtype, rngs=rngs)
