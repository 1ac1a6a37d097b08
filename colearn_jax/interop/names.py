"""Builds encoders and MDiCo models from settings and state dicts of the released PyTorch program.

That program has other names for its classes and arguments. The tables below translate them. PyTorch is not
needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax import encoders
from colearn_jax.interop.state_dict import fill, state_dict
from colearn_jax.methods import disentangled
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.nn import random
from colearn_jax.types import InputError, Task

__all__ = [
  "encoder_settings",
  "fill",
  "load_encoder",
  "load_mdico",
  "make_architecture",
  "make_method",
  "state_dict",
]

IGNORED = ""  # marks arguments of the released program that have no effect here

# The released program's names for the sizes of a sample (`encoders.SIZES`). Every class accepts all of them.
SIZE_ARGUMENTS = {
  "seq_len": "seq_len",
  "len_max_seq": "seq_len",
  "sequence_length": "seq_len",
  "num_features": "num_features",
  "input_dim": "num_features",
  "in_channels": "num_features",
  "feature_size": "num_features",
}
# For each class of the released program: the other arguments, and the name of each here.
ARGUMENTS = {
  "TempCNN": {
    "hidden_dims": "layer_size",
    "n_layers": "n_layers",
    "kernel_size": "kernel_size",
    "dropout": "dropout",
  },
  "MLP": {
    "layer_sizes": "layer_sizes",
    "dropout": "dropout",
    "batchnorm": "batchnorm",
  },
  "RNNet": {
    "layer_size": "layer_size",
    "num_layers": "n_layers",
    "dropout": "dropout",
    "bidirectional": "bidirectional",
    "unit_type": "model_type",
    "output_state": "output",
  },
  "LTAE": {
    "n_head": "num_heads",
    "d_k": "d_k",
    "d_model": "d_model",
    "n_neurons": "n_neurons",
    "dropout": "dropout",
    "T": "max_period",
    "mask_nans": "mask_nans",
    "return_att": IGNORED,
  },
  "TransformerNet": {
    "len_max_seq": IGNORED,  # length of the position table; may be longer than the series
    "layer_size": "layer_size",
    "num_layers": "n_layers",
    "num_heads": "num_heads",
    "dim_feedforward": "feedforward_size",
    "activation": "activation",
    "dropout": "dropout",
    "fixed_pos_encoding": "position",
    "pre_embedding": "embed",
  },
  "ConvTran": {
    "layer_size": "layer_size",
    "num_layers": "n_layers",
    "num_heads": "num_heads",
    "dim_feedforward": "feedforward_size",
    "pos_encoding": "position",
    "rel_pos_encoding": "relative_position",
    "dropout": "dropout",
  },
}
ARGUMENTS["TemporalAttentionEncoder"] = ARGUMENTS["LTAE"]

MODEL_TYPES = {
  "TempCNN": "tempcnn",
  "MLP": "mlp",
  "LTAE": "ltae",
  "TemporalAttentionEncoder": "tae",
  "TransformerNet": "transformer",
  "ConvTran": "convtran",
}  # RNNet is missing: its argument unit_type gives the type

# Arguments whose values are named differently here.
VALUES: dict[str, dict[Any, str]] = {
  "output_state": {False: "last_output", True: "last_state"},
  "pos_encoding": {"tAPE": "tape", "Sin": "sinusoidal", "Learn": "learned", "None": "none", None: "none"},
  "rel_pos_encoding": {"eRPE": "erpe", "Vector": "vector", "None": "none", None: "none"},
  "fixed_pos_encoding": {True: "sinusoidal", False: "none"},
  "unit_type": {given: unit for unit in ("rnn", "gru", "lstm") for given in (unit, unit.upper())},
}


def encoder_settings(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
  """Translates the arguments of a class of the released program to settings for `encoders.make_encoder`.

  Args:
    name: name of the class.
    args: arguments of its constructor.

  Raises:
    InputError: a class, argument or value is unknown, or two arguments contradict each other.
  """
  if name not in ARGUMENTS:
    raise InputError(f"unknown class {name!r} of an encoder, have: {', '.join(ARGUMENTS)}")
  known = {**ARGUMENTS[name], **SIZE_ARGUMENTS, **ARGUMENTS[name]}
  settings: dict[str, Any] = {"model_type": MODEL_TYPES[name]} if name in MODEL_TYPES else {}
  for argument, value in args.items():
    if argument not in known:
      raise InputError(f"unknown argument {argument!r} of class {name}, have: {', '.join(known)}")
    ours, values = known[argument], VALUES.get(argument)
    if values is not None:
      if value not in values:
        raise InputError(f"{argument}={value!r} of class {name}: have {', '.join(map(repr, values))}")
      value = values[value]
    if ours == IGNORED:
      continue
    if settings.get(ours, value) != value:
      raise InputError(f"{argument}={value!r} of class {name}: its other arguments say {settings[ours]!r}")
    settings[ours] = tuple(value) if isinstance(value, list) else value
  if "model_type" not in settings:
    raise InputError(f"class {name} has no argument unit_type, which says what it is")
  if settings.get("embed") is False and "num_features" in settings:
    settings["layer_size"] = settings["num_features"]  # the released program ignores its layer_size here
  if settings["model_type"] in ("ltae", "tae") and settings.get("dropout") == 0:
    settings["attention_dropout"] = 0.0  # the released program always uses 0.1; dropout=0 means none here
  return settings


def class_of(model_type: str) -> str | None:
  """Returns the released program's class name for one of our encoders, or None if it has no such class."""
  if model_type in ("rnn", "gru", "lstm"):
    return "RNNet"
  return next((name for name, ours in MODEL_TYPES.items() if ours == model_type), None)


def norm(wrap: Mapping[str, Any]) -> str:
  """Converts the released arguments `use_norm` and `use_bnorm` to our `use_norm`."""
  if wrap.get("use_norm"):
    return "layer"
  return "batch" if wrap.get("use_bnorm") else "none"


def _get(group: Mapping[str, Any], key: str) -> Any:
  if key not in group:
    raise InputError(f"the settings have no {key!r}, only {', '.join(map(repr, group)) or 'nothing'}")
  return group[key]


def load_encoder(
  spec: Mapping[str, Any], params: Mapping[str, np.ndarray], *, dtype=jnp.float32
) -> nnx.Module:
  """Builds an encoder with weights from the released program.

  Args:
    spec: `class` and `args` of that program's encoder. If `wrap` is given, `{"latent_dims": d, "use_norm":
      ...}`, the encoder includes the final linear layer and norm. Otherwise only the backbone is built.
    params: state dict of the encoder.
    dtype: of the computation.

  Raises:
    InputError: settings are missing or unknown, or the state dict does not fit them.
  """
  spec = spec.get("constructor", spec)
  settings = encoder_settings(_get(spec, "class"), _get(spec, "args"))
  # The parameters of these encoders do not depend on the length of the series.
  of_any_length = settings["model_type"] in ("mlp", "rnn", "gru", "lstm", "transformer")
  needed = encoders.SIZES[1:] if of_any_length else encoders.SIZES
  if missing := [size for size in needed if size not in settings]:
    raise InputError(f"the settings of a {spec['class']} do not say its {' and '.join(missing)}")
  bands = settings["num_features"]
  shape = (bands,) if settings["model_type"] == "mlp" else (settings.get("seq_len", 0), bands)
  module: nnx.Module
  if spec.get("wrap"):
    settings["use_norm"] = norm(spec["wrap"])
    width = _get(spec["wrap"], "latent_dims")
    module = nnx.eval_shape(
      lambda: encoders.make_encoder(settings, shape, width, rngs=random.keys(), dtype=dtype)
    )
  else:
    module = nnx.eval_shape(lambda: encoders.make_backbone(settings, shape, rngs=random.keys(), dtype=dtype))
  fill(module, params)
  return module


def make_method(spec: Mapping[str, Any], *, variant: str | None = None) -> MDiCo:
  """The method MDiCo with the loss weights and the temperature of the released program's settings."""
  variant = variant or spec.get("variant", "released")
  if variant not in ("paper", "released"):
    raise InputError(f"variant={variant!r}, have paper, released")
  spec = spec.get("constructor", spec)
  weights: dict[str, Any] = {term: float(weight) for term, weight in spec.get("weights_loss", {}).items()}
  return MDiCo(variant=variant, similarity="dense", temperature=spec.get("contrastive_temp", 0.1), **weights)


def make_architecture(
  spec: Mapping[str, Any], *, kind: str = "regression", dropout: bool = True, dtype=jnp.float32
) -> Architecture:
  """The architecture that the released program's settings describe.

  Args:
    spec: the settings, see `load_mdico`.
    kind: kind of the task.
    dropout: False sets every dropout rate to 0.
    dtype: type in which the encoders compute.
  """
  spec = spec.get("constructor", spec)
  width, shapes, settings = _get(spec, "emb_dim"), {}, {}
  for modality in _get(spec, "modalities"):
    name, wrap = _get(modality, "name"), _get(modality, "wrap")
    shapes[name] = (_get(modality, "T"), _get(modality, "bands"))
    settings[name] = encoder_settings(_get(modality, "class"), _get(modality, "args"))
    settings[name]["use_norm"] = norm(wrap)
    if not dropout:
      known = encoders.arguments(settings[name]["model_type"])
      settings[name] |= {argument: 0.0 for argument in known if "dropout" in argument}
    if wrap.get("latent_dims", width) != width:
      raise InputError(f"modality {name}: latent_dims={wrap['latent_dims']} is not emb_dim={width}")
  return Architecture(
    shapes=shapes,
    encoders=settings,
    task=Task(kind, tuple(f"output {i + 1}" for i in range(_get(spec, "n_labels")))),
    emb_dim=width,
    head_layers=head_layers(spec.get("predictive_core", "linear")),
    dtype=dtype,
  )


def head_layers(core: str | Mapping[str, Any]) -> tuple[int, ...]:
  """Widths of the heads' hidden layers, from the released setting: `linear`, or the settings of a `mlp`."""
  core = {"model_type": core} if isinstance(core, str) else core
  if core.get("model_type") == "linear":
    return ()
  if core.get("model_type") != "mlp" or not core.get("batchnorm", False) or core.get("dropout", 0):
    raise InputError(f"predictive model {dict(core)}: have linear, and mlp with batchnorm and no dropout")
  return tuple(core.get("layer_sizes", [core.get("layer_size", 128)] * core.get("n_layers", 2)))


def load_mdico(
  spec: Mapping[str, Any],
  params: Mapping[str, np.ndarray],
  *,
  variant: str | None = None,
  dtype=jnp.float32,
) -> disentangled.Model:
  """Builds a whole model with the weights of the released program.

  Args:
    spec: `emb_dim`, `n_labels`, `predictive_core` and `modalities`. The latter is a list with `name`, `T`,
      `bands` and the encoder (see `load_encoder`) of each sensor, in the order of the modality labels.
    params: state dict of the model.
    variant: what the second modality head reads, see `mdico.MDiCo`. Default: the value in `spec`, else
      `released`.
    dtype: type in which the encoders compute.

  Raises:
    InputError: settings are unknown, or the state dict does not fit them.
  """
  method = dataclasses.replace(make_method(spec, variant=variant), auxiliary=1.0, discriminative=1.0)
  architecture = make_architecture(spec, dtype=dtype)
  model = nnx.eval_shape(lambda: method.build(architecture, rngs=random.keys()))
  fill(model, params)
  return model
