"""The door to the released PyTorch program: its settings and state dicts in, ours out; without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax import encoders, mdico
from colearn_jax.interop.tensors import UNREAD, fill, state_dict
from colearn_jax.spec import InputError

__all__ = ["encoder_settings", "fill", "load_encoder", "load_mdico", "make_mdico", "state_dict"]

STEPS, BANDS = "(T)", "(C)"  # arguments that are part of the sample's shape
NOTHING = ""  # arguments that change no number

# The classes of the released program: each argument's name there, and here.
ARGUMENTS = {
  "TempCNN": {
    "input_dim": BANDS,
    "sequence_length": STEPS,
    "hidden_dims": "layer_size",
    "n_layers": "n_layers",
    "kernel_size": "kernel_size",
    "dropout": "dropout",
  },
  "MLP": {
    "feature_size": BANDS,
    "layer_sizes": "layer_sizes",
    "dropout": "dropout",
    "batchnorm": "batchnorm",
  },
  "RNNet": {
    "feature_size": BANDS,
    "layer_size": "layer_size",
    "num_layers": "n_layers",
    "dropout": "dropout",
    "bidirectional": "bidirectional",
    "unit_type": "model_type",
    "output_state": "output",
  },
  "LTAE": {
    "in_channels": BANDS,
    "len_max_seq": STEPS,
    "n_head": "num_heads",
    "d_k": "d_k",
    "d_model": "d_model",
    "n_neurons": "n_neurons",
    "dropout": "dropout",
    "T": "max_period",
    "mask_nans": "mask_nans",
    "return_att": NOTHING,
  },
  "TransformerNet": {
    "feature_size": BANDS,
    "len_max_seq": STEPS,
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
    "feature_size": BANDS,
    "len_max_seq": STEPS,
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
}  # a RNNet has its type as an argument

# Arguments whose values are called otherwise here.
VALUES = {
  "output_state": {False: "last_output", True: "last_state"},
  "pos_encoding": {"tAPE": "tape", "Sin": "sinusoidal", "Learn": "learned", "None": "none", None: "none"},
  "rel_pos_encoding": {"eRPE": "erpe", "Vector": "vector", "None": "none", None: "none"},
  "fixed_pos_encoding": {True: "sinusoidal", False: "none"},
}


def encoder_settings(name: str, args: Mapping[str, object]) -> tuple[dict[str, object], dict[str, int]]:
  """The settings of our encoder that is that program's class `name` made with `args`, and its input's widths.

  Returns:
    The settings as `encoders.make_encoder` takes them, and `STEPS` and `BANDS` as far as `args` say them.

  Raises:
    InputError: an unknown class, argument or value.
  """
  if name not in ARGUMENTS:
    raise InputError(f"unknown class {name!r} of an encoder, have: {', '.join(ARGUMENTS)}")
  settings, widths = {}, {}
  if name in MODEL_TYPES:
    settings["model_type"] = MODEL_TYPES[name]
  for argument, value in args.items():
    if argument not in ARGUMENTS[name]:
      raise InputError(f"unknown argument {argument!r} of class {name}, have: {', '.join(ARGUMENTS[name])}")
    ours, values = ARGUMENTS[name][argument], VALUES.get(argument)
    if values is not None:
      if value not in values:
        raise InputError(f"{argument}={value!r} of class {name}: have {', '.join(map(repr, values))}")
      value = values[value]
    if ours in (STEPS, BANDS):
      widths[ours] = value
    elif ours != NOTHING:
      settings[ours] = tuple(value) if isinstance(value, list) else value
  if settings.get("embed") is False:
    settings["layer_size"] = widths[BANDS]  # what it says there has no effect
  if settings["model_type"] in ("ltae", "tae") and settings.get("dropout") == 0:
    settings["attention_dropout"] = 0.0  # fixed at 0.1 there, but 0 means a model without chance
  return settings, widths


def class_of(model_type: str) -> str | None:
  """That program's class of one of our encoders; None where it has none."""
  if model_type in ("rnn", "gru", "lstm"):
    return "RNNet"
  return next((name for name, ours in MODEL_TYPES.items() if ours == model_type), None)


def norm(wrap: Mapping[str, object]) -> str:
  """The norm behind an encoder, from `use_norm` and `use_bnorm`."""
  if wrap.get("use_norm"):
    return "layer"
  return "batch" if wrap.get("use_bnorm") else "none"


def load_encoder(
  spec: Mapping[str, object], params: Mapping[str, np.ndarray], *, dtype=jnp.float32
) -> nnx.Module:
  """An encoder with the weights of one of the released program.

  Args:
    spec: `class` and `args` as that program constructs the encoder; with `wrap`, `{"latent_dims": d,
      "use_norm": ...}`, it is the wrapped one, linear layer and norm included, else the backbone alone.
    params: its state dict.
    dtype: of the computation.

  Raises:
    InputError: the settings are not known, or the state dict does not fit them.
  """
  spec = spec.get("constructor", spec)
  settings, widths = encoder_settings(spec["class"], spec["args"])
  # A recurrent unit does not know how long its series are, nor a MLP how its values came about.
  shape = (widths[BANDS],) if settings["model_type"] == "mlp" else (widths.get(STEPS, 0), widths[BANDS])
  if spec.get("wrap"):
    settings["use_norm"] = norm(spec["wrap"])
    width = spec["wrap"]["latent_dims"]
    make = lambda: encoders.make_encoder(settings, shape, width, rngs=nnx.Rngs(0), dtype=dtype)
  else:
    backbone = encoders.ENCODERS[settings.pop("model_type")]
    make = lambda: backbone(shape, **settings, rngs=nnx.Rngs(0), dtype=dtype)
  module = nnx.eval_shape(make)
  fill(module, params)
  return module


def make_mdico(
  spec: Mapping[str, object], *, variant: str | None = None, rngs: nnx.Rngs, dtype=jnp.float32
) -> mdico.MDiCo:
  """The model of the released program's settings, see `load_mdico`, with initial values of its own."""
  variant = variant or spec.get("variant", "released")
  if variant not in mdico.VARIANTS:
    raise InputError(f"variant={variant!r}, have {', '.join(mdico.VARIANTS)}")
  spec = spec.get("constructor", spec)
  hidden = head_layers(spec.get("predictive_core", "linear"))
  shapes, settings = {}, {}
  for modality in spec["modalities"]:
    name, wrap = modality["name"], modality["wrap"]
    shapes[name] = (modality["T"], modality["bands"])
    settings[name] = encoder_settings(modality["class"], modality["args"])[0]
    settings[name]["use_norm"] = norm(wrap)
    if wrap["latent_dims"] != spec["emb_dim"]:
      raise InputError(f"modality {name}: latent_dims={wrap['latent_dims']} is not emb_dim={spec['emb_dim']}")
  width = spec["emb_dim"]
  model = mdico.MDiCo(
    shapes,
    settings,
    spec["n_labels"],
    emb_dim=width,
    head_layers=hidden,
    variant=variant,
    dtype=dtype,
    rngs=rngs,
  )
  setattr(model, UNREAD, mdico.Head(width // 2, len(shapes), hidden, rngs=rngs))
  return model


def head_layers(core: str | Mapping[str, object]) -> tuple[int, ...]:
  """The widths of the heads' hidden layers: `linear`, or the settings of a `mlp`, as the YAML has them."""
  core = {"model_type": core} if isinstance(core, str) else core
  if core.get("model_type") == "linear":
    return ()
  if core.get("model_type") != "mlp" or not core.get("batchnorm", False) or core.get("dropout", 0):
    raise InputError(f"predictive model {dict(core)}: have linear, and mlp with batchnorm and no dropout")
  return tuple(core.get("layer_sizes", [core.get("layer_size", 128)] * core.get("n_layers", 2)))


def load_mdico(
  spec: Mapping[str, object],
  params: Mapping[str, np.ndarray],
  *,
  variant: str | None = None,
  dtype=jnp.float32,
) -> mdico.MDiCo:
  """A whole model with the weights of the released program.

  Args:
    spec: `emb_dim`, `n_labels`, `predictive_core` and `modalities`, a list in the order of the modality
      labels of each one's `name`, `T`, `bands` and encoder (see `load_encoder`).
    params: its state dict.
    variant: what the second modality head is fed, see `mdico.MDiCo`; by default what `spec` says, else
      `released`, as that program does it.
    dtype: of the encoders' computation.

  Raises:
    InputError: the settings are not known, or the state dict does not fit them.
  """
  model = nnx.eval_shape(lambda: make_mdico(spec, variant=variant, rngs=nnx.Rngs(0), dtype=dtype))
  fill(model, params)
  return model
