"""Encoders: one backbone for each kind of network, and a wrapper that gives them the same output width.

A backbone is a class `Backbone(shape, *, <its settings with defaults>, dtype, rngs)`, where `shape` is the
shape of one sample. It is called as `backbone(x, train=..., present=..., rngs=...)` and maps `[B *shape]`
to `[B width]`. Its attributes:

- `width`: the size of its output.
- `mask_nans`: whether it wants missing values as NaN. Otherwise they are set to zero.
- `context_joins`: where the context (see `Encoder`) enters: `"inputs"`, beside the values of the sample, or
  `"features"`, after the backbone.

Series of images `[B T H W C]` are flattened after time for all backbones but those in `SPATIAL`.

Backbones in `FITTED` have a method `fit(x)`. It sets constants from samples of the training part before the
first step: x are the inputs `[n ...]` of a call, and n is the attribute `samples`. With heads in closed form
they may also have a method `learn(gradients)`, which is called after each of the first `rounds` solutions:
`[F F]` is a mean of ∇f ∇fᵀ over samples, with outputs f, by the F values that the backbone reads.

Backbones in `BY_BAND` know bands, dates and places. In addition they have:

- `BANDS`, a class attribute: `(offset, scale)` of each band by its name. They read (value - offset) / scale,
  with the value in the first unit that `bands.UNITS` lists for it. Names and units of a modality are matched
  by `bands.match`. The data's own normalisation is not used for the modality: `normalisation` returns the
  constants for its raw values.
- two more arguments of the constructor, `bands` (by name `bands.Band`, whose `position` is on the last axis
  of the input; the attribute `bands` keeps it) and `place` (whether a call gets one), and the setting
  `leave_out`. `shape` may have any number of axes, and does not count the month.
- two more arguments of a call: `months`, `[B T]` int32, 0 for January and -1 if unknown, or None for a shape
  without steps; and `place`, the unit vector of the location `[B 3]`, NaN if unknown, or None. Both are never
  missing or given against what the constructor was told. `mask_nans` is True: a missing value is NaN.

- `blocks`, a list of the layers to which `train.layer_decay` applies, and `norm`, the norm after them.
- the settings `SIZES_OF_FILE`. In a configuration their default is None, which stands for the sizes that the
  file of weights tells, and without a file for the defaults of the constructor.
- the setting `use_months`: without it, modalities have no band for the month.

The columns of the location are taken from the context; its other columns join the features. Months come from
the last band of a modality with `Modality.months`.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.encoders import bands as band_names
from colearn_jax.encoders.convtran import ConvTran
from colearn_jax.encoders.encoder import Encoder
from colearn_jax.encoders.galileo import Galileo
from colearn_jax.encoders.kernel import MATERN, Kernel
from colearn_jax.encoders.ltae import LTAE, TAE
from colearn_jax.encoders.mlp import MLP
from colearn_jax.encoders.presto import Presto
from colearn_jax.encoders.pse_ltae import PSELTAE
from colearn_jax.encoders.recurrent import GRU, LSTM, RNN
from colearn_jax.encoders.resnet import ResNet
from colearn_jax.encoders.table import EMBEDDINGS, Table
from colearn_jax.encoders.tempcnn import TempCNN
from colearn_jax.encoders.transformer import Transformer
from colearn_jax.rules import (
  ON,
  POSITIVE,
  SHARE,
  SWITCH,
  TEXT,
  WIDEST,
  WIDTHS,
  Rule,
  Setting,
  choice,
  each,
  integer,
)
from colearn_jax.types import InputError, Modality

ENCODERS = {
  "convtran": ConvTran,
  "galileo": Galileo,
  "gru": GRU,
  "kernel": Kernel,
  "lstm": LSTM,
  "ltae": LTAE,
  "mlp": MLP,
  "presto": Presto,
  "pse_ltae": PSELTAE,
  "resnet": ResNet,
  "rnn": RNN,
  "table": Table,
  "tae": TAE,
  "tempcnn": TempCNN,
  "transformer": Transformer,
}

SPATIAL = ("pse_ltae", "resnet")  # these read rows and columns; others get series of images as plain series
FITTED = tuple(name for name, backbone in ENCODERS.items() if hasattr(backbone, "fit"))
BY_BAND = tuple(name for name, backbone in ENCODERS.items() if hasattr(backbone, "BANDS"))
FLAT = ("kernel", "mlp", "table")  # these read all values of a sample as one vector
WITH_PARTS = ("kernel",)  # backbones that know the parts of the context
WITH_MEMBERS = ("table",)  # backbones that take `members=K` and then return `[B K width]`

NORMS = ("none", "layer", "batch")
SIZES_OF_FILE = ("layer_size", "n_layers", "num_heads", "feedforward_size")  # of encoders in BY_BAND
COUNTS = ("n_layers", "kernel_size", "metric_rounds")  # of what is built one by one
SIZES = ("seq_len", "num_features")  # settings of every encoder that are checked against the sample's shape
NO_SETTINGS = (
  "bands",
  "context_parts",
  "members",
  "place",
  "dtype",
  "rngs",
)  # other keyword arguments of backbones
AUTO = "auto"  # the encoder that `automatic` chooses by the shape of a sample
HELP = {
  "activation": "Activation of the feed-forward layers: relu or gelu; of encoder table also mish and selu.",
  "attention_dropout": "Dropout of the attention's weights.",
  "batchnorm": "Whether BatchNorm follows each dense layer.",
  "bins": "Bins of the piecewise-linear encoding, or frequencies of the periodic one.",
  "bidirectional": "Whether a second pass reads the series backwards.",
  "context_lengthscale": "Distance at which samples begin to differ in their context.",
  "context_share": "Share of a kernel of date, location and time alone beside that of all values.",
  "d_k": "Width of the queries and keys of a head.",
  "drop_path": "Probability that a block leaves out a sample in training.",
  "d_model": "Width of the embedding of a time step.",
  "depth": "Number of layers: 18, 34, 50, 101 or 152.",
  "dropout": "Dropout.",
  "embedding": f"Embedding of single numbers: {', '.join(EMBEDDINGS)}.",
  "embedding_width": "Size of the embedding of a number.",
  "embed": "Whether a linear layer maps the bands to layer_size first.",
  "feedforward_size": "Hidden width of the feed-forward layers.",
  "kernel_size": "Length of the convolutions, in time steps.",
  "layer_size": "Width of the layers.",
  "landmarks": "Number of training samples at which the kernel is evaluated.",
  "lengthscale": "Distance at which samples begin to differ in the sensor's values, after normalisation.",
  "leave_out": "Bands of the sensor that the encoder is not to read.",
  "layer_sizes": "Widths of the dense layers.",
  "mask_nans": "Whether time steps without any value get no attention.",
  "metric_rounds": "How often the kernel's distance is learnt from the heads in closed form (train.ridge).",
  "max_steps": "Largest number of time steps.",
  "max_period": "Longest period of the positional encoding, in time steps.",
  "n_layers": "Number of layers.",
  "n_neurons": "Width of the merged heads, then those of the dense layers after them.",
  "num_features": "Number of bands, checked against the data. None: that of the data.",
  "num_heads": "Number of attention heads.",
  "output": "What is returned of a series, such as the output of the last step.",
  "parametric": "Whether each neuron learns its share of the activation, as in RealMLP.",
  "patch_size": "Edge of the patches that an image is cut into, in pixels, 1 to 8.",
  "pixel_sizes": "Widths of the layers that are applied to each pixel.",
  "position": "Encoding of the positions in time.",
  "relative_position": "Encoding of the time differences in the attention.",
  "resolution": "Edge of a pixel, in metres.",
  "seq_len": "Number of time steps, checked against the data. None: that of the data.",
  "sigma": "Standard deviation of the initial frequencies of the periodic encoding.",
  "smoothness": f"Smoothness ν of the Matérn kernel: {', '.join(map(str, MATERN))}.",
  "step_sizes": "Widths of the layers that are applied to each time step.",
  "use_months": "Whether the months of the steps are read.",
  "use_norm": "Norm after the encoder's last linear layer.",
  "weights": "File of pretrained weights in PyTorch's or safetensors format. Empty: none.",
}  # of each encoder argument, for --help and the reference page
_EPOCHS = {"train.max_epochs": ON}
_EMBEDDED = {"model.encoder.embedding": choice("piecewise", "periodic")}
_IMAGES = {"images": ON}
_BETWEEN = _EPOCHS | {"model.encoder.n_layers": integer(2)}
NEEDS: Mapping[str, Mapping[str, Rule]] = {
  "attention_dropout": _EPOCHS,
  "bins": _EMBEDDED,
  "context_lengthscale": {"data.context": ON},
  "context_share": {
    "data.context": Rule(
      lambda v: not {"date", "location", "time"}.isdisjoint(v), "one of: date, location, time"
    )
  },
  "drop_path": _EPOCHS,
  "dropout": _EPOCHS,
  "embedding_width": _EMBEDDED,
  "sigma": {"model.encoder.embedding": choice("periodic")},
  **dict.fromkeys(("gru.dropout", "lstm.dropout", "rnn.dropout"), _BETWEEN),
  **dict.fromkeys(("patch_size", "resolution"), _IMAGES),
}  # of an argument of all encoders, or of one of them; see `rules.Setting`


def arguments(model_type: str) -> dict[str, object]:
  """The arguments that an encoder takes in a configuration, each with its default.

  Behind its own stand `use_norm` and `SIZES`, whose default None is the data's size, whatever it is. For
  `SIZES_OF_FILE` see the module's documentation.

  Raises:
    InputError: there is no such encoder.
  """
  own = _own_arguments(model_type)
  if model_type in BY_BAND:
    own |= dict.fromkeys(SIZES_OF_FILE)
  return own | {"use_norm": "none"} | dict.fromkeys(SIZES)


def published_sizes(model_type: str) -> dict[str, int]:
  """The sizes of the published model of an encoder in `BY_BAND`, by the names in `SIZES_OF_FILE`."""
  own = _own_arguments(model_type)
  return {name: int(own[name]) for name in SIZES_OF_FILE}  # type: ignore[call-overload]


def _own_arguments(model_type: str) -> dict[str, object]:
  """The arguments of a backbone's constructor with their defaults; InputError if there is no such encoder."""
  if model_type not in ENCODERS:
    raise InputError(f"unknown encoder {model_type!r}, have: {', '.join(sorted(ENCODERS))}")
  parameters = inspect.signature(ENCODERS[model_type].__init__).parameters.values()
  return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in NO_SETTINGS}


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
  return {
    name: Setting(
      default,
      _rule(name, default),
      HELP.get(name, ""),
      NEEDS.get(f"{model_type}.{name}", NEEDS.get(name, {})),
    )
    for name, default in own.items()
  }


def _rule(name: str, default: object) -> Rule:
  """What an argument may be, from its name and the type of its default."""
  if name == "use_norm":
    return choice(*NORMS)
  if name in SIZES:
    return Rule(lambda v: v is None or integer(1).ok(v), "an integer >= 1, or None for the data's own")
  if default is None:
    own = integer(1, most=_most(name))
    return Rule(lambda v: v is None or own.ok(v), f"{own.allowed}, or None for that of the weights")
  if name == "leave_out":
    return each(TEXT.ok, "names of bands, as in B1,B9, or () for none")
  if "drop" in name or name == "context_share":
    return SHARE
  if name == "embedding":
    return choice(*EMBEDDINGS)
  least = min(1, default) if type(default) is int else 1
  whole = integer(least, most=_most(name))
  return {bool: SWITCH, int: whole, float: POSITIVE, tuple: WIDTHS}.get(type(default), TEXT)


def _most(name: str) -> int:
  """The largest value of an argument that is an integer."""
  return 1000 if name in COUNTS else WIDEST


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


def normalisation(settings: Mapping[str, object], modality: Modality) -> dict[str, np.ndarray] | None:
  """The normalisation of a modality's raw values that an encoder in `BY_BAND` was trained with.

  Args:
    settings: see `make_encoder`.
    modality: the modality. A band for the month is not changed.

  Returns:
    `offset` and `scale` `[C]` float32, or None for other encoders.

  Raises:
    InputError: the encoder does not know a band or its unit.
  """
  if settings["model_type"] not in BY_BAND:
    return None
  own = ENCODERS[str(settings["model_type"])].BANDS
  return band_names.constants(_matched(settings, modality), own, len(modality.bands))


def _matched(settings: Mapping[str, object], modality: Modality) -> dict[str, band_names.Band]:
  """The bands of a modality by the names of its encoder."""
  name, count = str(settings["model_type"]), len(modality.bands) - modality.months
  leave_out = settings.get("leave_out", ())
  return band_names.match(name, list(ENCODERS[name].BANDS), modality.bands[:count], modality.units, leave_out)


def reads_months(settings: Mapping[str, object]) -> bool:
  """Whether an encoder reads the months of the steps, see `make_encoder` for its settings."""
  return settings["model_type"] in BY_BAND and bool(settings.get("use_months", True))


def make_encoder(
  settings: Mapping[str, object],
  shape: tuple[int, ...],
  width: int,
  *,
  context: int = 0,
  context_parts: tuple[int, ...] = (),
  members: int = 1,
  linear: bool = True,
  modality: Modality | None = None,
  place: int | None = None,
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
    context_parts: see `Architecture`; encoder `kernel` needs them if there is a context.
    members: number of members, see `Encoder`.
    linear: whether a linear layer follows the backbone. Without it `width` has to be the backbone's.
    modality: the modality that is read; encoders in `BY_BAND` need it.
    place: position of the location's unit vector in the context, if it has one.
    rngs: the stream `params` for the initial values.
    dtype: of the computation.

  Raises:
    InputError: see `make_backbone`; there is no such norm; or `width` is not the backbone's.
  """
  settings = dict(settings)
  norm = settings.pop("use_norm", "none")
  if norm not in NORMS:
    raise InputError(f"use_norm={norm!r} of encoder {settings.get('model_type')}: have {', '.join(NORMS)}")
  more: dict = {}
  by_band = settings.get("model_type") in BY_BAND
  if by_band:
    if modality is None:
      raise InputError(f"encoder {settings['model_type']} has to know the names of the bands it reads")
    more = {"bands": _matched(settings, modality), "place": place is not None}
    shape = (*shape[:-1], shape[-1] - modality.months)
  flatten = len(shape) == 4 and not by_band and settings.get("model_type") not in SPATIAL
  if flatten:
    shape = shape[0], math.prod(shape[1:])
  if settings.get("model_type") in WITH_MEMBERS:
    more["members"] = members
  if context and settings.get("model_type") in WITH_PARTS:
    if sum(context_parts) != context:
      raise ValueError(f"the parts {context_parts} of a context have other than {context} values")
    more["context_parts"] = context_parts
  backbone = make_backbone(settings, shape, context=context, more=more, rngs=rngs, dtype=dtype)
  if not linear and backbone.width != width:
    raise InputError(
      f"encoder {settings['model_type']} returns {backbone.width} features, so without a projection "
      f"model.emb_dim has to be {backbone.width}"
    )
  return Encoder(
    backbone,
    width,
    norm=norm,
    flatten=flatten,
    context=context,
    members=members,
    linear=linear,
    place=place if by_band else None,
    months=by_band and modality is not None and modality.months,
    rngs=rngs,
    dtype=dtype,
  )


def make_backbone(
  settings: Mapping[str, object],
  shape: tuple[int, ...],
  *,
  context: int = 0,
  more: Mapping[str, object] | None = None,
  rngs: nnx.Rngs,
  dtype=jnp.float32,
) -> nnx.Module:
  """Builds the part of an encoder before the linear layer, for samples of one shape.

  `seq_len` and `num_features`, if given, have to be the sample's numbers of time steps and of bands (for
  those in `FLAT` of all values). `context` is the number of context values, see `Encoder`. `more` are
  further arguments of the backbone: `bands` and `place` for encoders in `BY_BAND`, `members` for those that
  have members, `context_parts` for those in `WITH_PARTS`.

  Raises:
    InputError: no such encoder; an argument that it does not have, that is out of range, or that contradicts
      the sample's shape.
  """
  settings = dict(settings)
  model_type = settings.pop("model_type", None)
  known, own = arguments(model_type), _own_arguments(model_type)
  if unknown := sorted(set(settings) - (set(known) - {"use_norm"})):  # that is not the backbone's
    raise InputError(f"encoder {model_type} has no argument {unknown[0]!r}, has: {', '.join(known)}")
  features = math.prod(shape) if model_type in FLAT else shape[-1]
  for name, size in zip(SIZES, (shape[0] if len(shape) in (2, 4) else None, features)):
    said = settings.pop(name, None)
    if said is not None and said != size:
      raise InputError(f"encoder {model_type}: {name}={said!r}, but data of shape {shape} have {size}")
  settings = {name: value for name, value in settings.items() if not (value is None is known[name])}
  for name, value in settings.items():
    if "drop" in name and not 0 <= value < 1:
      raise InputError(f"encoder {model_type}: {name}={value!r} is not allowed; a number >= 0 and < 1")
    if type(own[name]) is int:
      least = min(1, own[name])  # type: ignore[type-var]  # an integer
      if not (isinstance(value, numbers.Integral) and value >= least):
        raise InputError(f"encoder {model_type}: {name}={value!r} is not allowed; an integer >= {least}")
  backbone = ENCODERS[model_type]
  if context and backbone.context_joins == "inputs":
    shape = (math.prod(shape) + context,)
  return backbone(shape, **settings, **(more or {}), dtype=dtype, rngs=rngs)
