"""Encoders: one backbone for each kind of network, and a wrapper that gives them the same output width.

A backbone is a class `Backbone(shape, *, <its settings with defaults>, dtype, rngs)`, where `shape` is the
shape of one sample. It is called as `backbone(x, train=..., present=..., rngs=...)` and maps `[B *shape]`
to `[B width]`. Its attributes:

- `width`: the size of its output.
- `mask_nans`: whether it wants missing values as NaN. Otherwise they are set to zero.
- `context_joins`: where the context (see `Encoder`) enters: `"inputs"`, beside the values of the sample, or
  `"features"`, after the backbone.
- `has_members`, optional: true if the backbone takes `members=K` and then returns `[B K width]`.

Series of images `[B T H W C]` are flattened after time for all backbones but those in `SPATIAL`.
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
from colearn_jax.encoders.table import ACTIVATIONS, EMBEDDINGS, Table
from colearn_jax.encoders.tempcnn import TempCNN
from colearn_jax.encoders.transformer import Transformer
from colearn_jax.nn import layers
from colearn_jax.nn import members as members_lib
from colearn_jax.rules import POSITIVE, SHARE, SWITCH, TEXT, WIDTHS, Rule, Setting, choice, integer
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
  "table": Table,
  "tae": TAE,
  "tempcnn": TempCNN,
  "transformer": Transformer,
}

SPATIAL = ("pse_ltae", "resnet")  # these read rows and columns; others get series of images as plain series

NORMS = ("none", "layer", "batch")
SIZES = ("seq_len", "num_features")  # settings of every encoder that are checked against the sample's shape
AUTO = "auto"  # the encoder that `automatic` chooses by the shape of a sample
HELP = {
  "activation": "Activation of the feed-forward layers: relu or gelu; of encoder table also mish.",
  "attention_dropout": "Dropout of the attention's weights.",
  "batchnorm": "Whether BatchNorm follows each dense layer.",
  "bins": "Bins of the piecewise-linear encoding, or frequencies of the periodic one.",
  "bidirectional": "Whether a second pass reads the series backwards.",
  "d_k": "Width of the queries and keys of a head.",
  "d_model": "Width of the embedding of a time step.",
  "depth": "Number of layers: 18, 34, 50, 101 or 152.",
  "dropout": "Dropout.",
  "embedding": f"Embedding of single numbers: {', '.join(EMBEDDINGS)}.",
  "embedding_width": "Size of the embedding of a number.",
  "embed": "Whether a linear layer maps the bands to layer_size first.",
  "feedforward_size": "Hidden width of the feed-forward layers.",
  "kernel_size": "Length of the convolutions, in time steps.",
  "layer_size": "Width of the layers.",
  "layer_sizes": "Widths of the dense layers.",
  "mask_nans": "Whether time steps without any value get no attention.",
  "max_period": "Longest period of the positional encoding, in time steps.",
  "n_layers": "Number of layers.",
  "n_neurons": "Width of the merged heads, then those of the dense layers after them.",
  "num_features": "Number of bands, checked against the data. None: that of the data.",
  "num_heads": "Number of attention heads.",
  "output": "What is returned of a series, such as the output of the last step.",
  "pixel_sizes": "Widths of the layers that are applied to each pixel.",
  "position": "Encoding of the positions in time.",
  "relative_position": "Encoding of the time differences in the attention.",
  "seq_len": "Number of time steps, checked against the data. None: that of the data.",
  "sigma": "Standard deviation of the initial frequencies of the periodic encoding.",
  "step_sizes": "Widths of the layers that are applied to each time step.",
  "use_norm": "Norm after the encoder's last linear layer.",
  "weights": "File of pretrained weights in PyTorch's or safetensors format. Empty: none.",
}  # of each encoder argument, for --help and the reference page
CONTEXT_WIDTH = 64  # of the hidden layer of a context that joins the features


class Encoder(nnx.Module):
  """A backbone, a linear layer to width d and an optional norm: `[B *shape]` to `[B d]`.

  With `context=K`, the encoder is called with a pair: the sample and its context `[B K]`, which is what is
  known without a sensor, such as the date and the location. Where the context joins the inputs, the
  backbone reads it beside the sample's values. Where it joins the features, one layer reads it, and another
  reads the result together with the backbone's output, so that the features can depend on both at once.

  Args:
    backbone: see the module's documentation.
    width: d, the width of the output.
    norm: one of `NORMS`.
    members: K, see `Architecture.members`. With K > 1 the output is `[B K d]`.
    flatten: whether to flatten series of images `[B T H W C]` to series `[B T H*W*C]`.
    context: K, the number of values of the context. Without context the parameters are the same as ever.
    rngs: the stream `params` for the initial values.
    dtype: of the computation. The linear layer's output and the norm are at least float32.
  """

  def __init__(
    self,
    backbone: nnx.Module,
    width: int,
    *,
    norm: str,
    flatten: bool = False,
    context: int = 0,
    members: int = 1,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
  ):
    self.backbone, self.flatten, self.context, self.members = backbone, flatten, context, members
    # Members differ from the first of their layers on. This is the first one if the backbone has none.
    first = not getattr(backbone, "has_members", False)
    self.linear = members_lib.linear(backbone.width, width, members, signs=first, rngs=rngs, dtype=dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    if norm == "layer":
      self.norm = layers.layer_norm(width, rngs=rngs, dtype=wide)
    else:
      self.norm = layers.BatchNorm(width, dtype=wide) if norm == "batch" else None
    joins_features = context > 0 and backbone.context_joins == "features"
    self.join = Join(backbone.width, context, rngs=rngs, dtype=dtype) if joins_features else None

  def __call__(
    self,
    x: jax.Array | tuple[jax.Array, jax.Array],
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes normalised inputs; NaN stands for a missing value.

    Args:
      x: `[B *shape]`, or with context the pair of it and the context `[B K]`, normalised. NaN in the context
        stands for an unknown value and is set to zero.
      train: whether to use dropout and the batch's statistics.
      present: mask `[B]` of the samples that have data.
      rngs: the stream `dropout`, in training.

    Returns:
      Features `[B d]`, or `[B K d]` with members, at least float32.

    Raises:
      ValueError: there is a context and the encoder was built without, or the other way round.
    """
    x, context = x if isinstance(x, tuple) else (x, None)
    if (0 if context is None else context.shape[-1]) != self.context:
      given = "none" if context is None else f"an array of shape {context.shape}"
      raise ValueError(f"the encoder was built for a context of {self.context} values and is given {given}")
    if not self.backbone.mask_nans:
      x = _without_nans(x)
    if self.flatten:
      x = x.reshape(*x.shape[:2], -1)
    if context is not None:
      context = _without_nans(context)
      if self.join is None:
        x = jnp.concatenate([x.reshape(x.shape[0], -1), context.astype(x.dtype)], axis=-1)
    y = self.backbone(x, train=train, present=present, rngs=rngs)
    if self.join is not None:
      y = self.join(y, context)
    if self.members > 1 and y.ndim == 2:
      y = y[:, None]
    y = layers.widened(self.linear(y))
    if isinstance(self.norm, layers.BatchNorm):
      return self.norm(y, train=train, present=present)
    return y if self.norm is None else self.norm(y)


class Join(nnx.Module):
  """Joins features `[B D]` and a context `[B K]` by two layers, so that the two can interact: `[B D]`."""

  def __init__(self, width: int, context: int, *, rngs: nnx.Rngs, dtype):
    self.context = layers.linear(context, CONTEXT_WIDTH, rngs=rngs, dtype=dtype)
    self.both = layers.linear(width + CONTEXT_WIDTH, width, rngs=rngs, dtype=dtype)

  def __call__(self, features: jax.Array, context: jax.Array) -> jax.Array:
    """Joins the two."""
    return nnx.relu(self.both(jnp.concatenate([features, nnx.relu(self.context(context))], axis=-1)))


def _without_nans(x: jax.Array) -> jax.Array:
  return jnp.where(jnp.isnan(x), 0.0, x)


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
    p.name: p.default
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and p.name not in ("members", "rngs", "dtype")
  }
  return own | {"use_norm": "none"} | dict.fromkeys(SIZES)


def settings(model_type: str) -> dict[str, Setting]:
  """The arguments of `arguments` with what they may be and what they mean; of `auto` those of all encoders.

  Raises:
    InputError: there is no such encoder.
  """
  if model_type == AUTO:
    own: dict[str, object] = {"use_norm": "none"}
  elif model_type not in ENCODERS:
    raise InputError(f"unknown encoder {model_type!r}, have: {', '.join([AUTO, *sorted(ENCODERS)])}")
  else:
    own = arguments(model_type)
  return {name: Setting(default, _rule(name, default), HELP.get(name, "")) for name, default in own.items()}


def _rule(name: str, default: object) -> Rule:
  """What an argument may be, from its name and the type of its default."""
  if name == "use_norm":
    return choice(*NORMS)
  if name in SIZES:
    return Rule(lambda v: v is None or integer(1).ok(v), "an integer >= 1, or None for the data's own")
  if "dropout" in name:
    return SHARE
  if name == "embedding":
    return choice(*EMBEDDINGS)
  return {bool: SWITCH, int: integer(1), float: POSITIVE, tuple: WIDTHS}.get(type(default), TEXT)


def automatic(shape: tuple[int, ...]) -> str:
  """The encoder that `auto` stands for, by the shape of one sample.

  `(C,)` gives mlp, `(T, C)` tempcnn, `(H, W, C)` resnet and `(T, H, W, C)` pse_ltae.

  Raises:
    InputError: a sample of another number of axes.
  """
  names = {1: "mlp", 2: "tempcnn", 3: "resnet", 4: "pse_ltae"}
  if len(shape) not in names:
    raise InputError(f"encoder auto: samples of shape {tuple(shape)} have no encoder; 1 to 4 axes")
  return names[len(shape)]


def make_encoder(
  settings: Mapping[str, object],
  shape: tuple[int, ...],
  width: int,
  *,
  context: int = 0,
  members: int = 1,
  rngs: nnx.Rngs,
  dtype=jnp.float32,
) -> Encoder:
  """Builds an encoder from its settings, e.g. `{"model_type": "tempcnn", "layer_size": 64}`.

  Args:
    settings: `model_type`, arguments of its backbone, and `use_norm`, the norm after the linear layer, one of
      `NORMS`. Arguments that are left out have their defaults.
    shape: of one sample.
    width: d, the width of the output.
    context: number of context values, see `Encoder`.
    members: number of members, see `Encoder`.
    rngs: the stream `params` for the initial values.
    dtype: of the computation.

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
  backbone = make_backbone(settings, shape, context=context, members=members, rngs=rngs, dtype=dtype)
  options = {"norm": norm, "flatten": flatten, "context": context, "members": members}
  return Encoder(backbone, width, **options, rngs=rngs, dtype=dtype)


def make_backbone(
  settings: Mapping[str, object],
  shape: tuple[int, ...],
  *,
  context: int = 0,
  members: int = 1,
  rngs: nnx.Rngs,
  dtype=jnp.float32,
) -> nnx.Module:
  """Builds the part of an encoder before the linear layer, for samples of one shape.

  `seq_len` and `num_features`, if given, have to be the sample's numbers of time steps and of bands (for
  `mlp` and `table` of all values). `context` is the number of context values, `members` that of the members,
  see `Encoder`.

  Raises:
    InputError: no such encoder; an argument that it does not have, that is out of range, or that
    contradicts the
      sample's shape.
  """
  settings = dict(settings)
  model_type = settings.pop("model_type", None)
  known = arguments(model_type)
  if unknown := sorted(set(settings) - (set(known) - {"use_norm"})):  # that is not the backbone's
    raise InputError(f"encoder {model_type} has no argument {unknown[0]!r}, has: {', '.join(known)}")
  features = math.prod(shape) if model_type in ("mlp", "table") else shape[-1]
  for name, size in zip(SIZES, (shape[0] if len(shape) in (2, 4) else None, features)):
    said = settings.pop(name, None)
    if said is not None and said != size:
      raise InputError(f"encoder {model_type}: {name}={said!r}, but data of shape {shape} have {size}")
  for name, value in settings.items():
    if "dropout" in name and not 0 <= value < 1:
      raise InputError(f"encoder {model_type}: {name}={value!r} is not allowed; a number >= 0 and < 1")
    if type(known[name]) is int and not (isinstance(value, numbers.Integral) and value >= 1):
      raise InputError(f"encoder {model_type}: {name}={value!r} is not allowed; an integer >= 1")
  backbone = ENCODERS[model_type]
  if context and backbone.context_joins == "inputs":
    shape = (math.prod(shape) + context,)
  if getattr(backbone, "has_members", False):
    settings["members"] = members
  return backbone(shape, **settings, dtype=dtype, rngs=rngs)
