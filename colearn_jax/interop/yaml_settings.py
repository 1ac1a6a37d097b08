"""Converts the YAML settings of the released program to a configuration of ours.

`read_yaml` reads the file, `make_config` returns a ConfigDict, and `config_text` the text of a configuration
file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from ml_collections import ConfigDict

from colearn_jax import encoders, schema
from colearn_jax.datasets import build
from colearn_jax.interop import names
from colearn_jax.types import InputError

# For each key of our configuration, the names of that setting in YAML files. `group.name` is used where the
# name alone is ambiguous.
KEYS = {
  "data.name": ("dataset", "dataset_name", "data_name", "data.name", "dataset.name"),
  "data.modalities": ("modalities", "modality_names", "view_names", "views"),
  "protocol.folds": ("folds", "kfold", "k_folds", "n_folds"),
  "protocol.seeds": ("seed", "seeds"),
  "model.emb_dim": ("emb_dim", "latent_dims"),
  "loss.main": ("weights_loss.main",),
  "loss.auxiliary": ("weights_loss.auxiliary", "weights_loss.aux"),
  "loss.contrastive": ("weights_loss.contrastive",),
  "loss.discriminative": ("weights_loss.discriminative",),
  "loss.temperature": ("contrastive_temp", "temperature"),
  "train.batch_size": ("batch_size", "batch"),
  "train.max_epochs": ("max_epochs", "epochs"),
  "train.learning_rate": ("learning_rate", "lr"),
  "train.patience": ("patience",),
  "train.min_delta": ("min_delta",),
  # Not keys of our configuration; `released.import_checkpoint` needs them.
  "loss name": ("loss", "loss_name", "loss_function", "loss.name"),
  "loss mean": ("loss.mean",),
  "loss std": ("loss.std",),
  "outputs": ("n_labels", "num_classes", "n_classes"),
}
KEY_OF = {name: key for key, names in KEYS.items() for name in names}
HEADS = ("predictive_core", "predictive_model", "prediction_head")
# Settings for which only these values are supported here.
FIXED = {
  "optimizer": ("adam",),
  "optimizer.name": ("adam",),
  "weight_decay": (0, None),
  "unused_flag": (True,),
  "weighting": (None, "none"),
  "multi_loss": (True, None),
}
# Settings of the machine and of the output, which are ignored.
IGNORED = set(
  "accelerator data_dir data_folder description devices gpu gpus log_dir mode monitor name num_workers "
  "output_dir output_folder path save_top_k use_cuda verbose".split()
)
SAMPLE_SIZES = {
  "T": "seq_len",
  "bands": "num_features",
}  # in the group of a sensor's encoder


@dataclasses.dataclass
class Released:
  """The settings of a YAML file with our names.

  Attributes:
    values: values by dotted key of our configuration, and by the other keys in `KEYS`.
    encoders: encoder settings by modality, for `encoders.make_encoder`.
    shapes: `seq_len` and `num_features` of the data by modality, if the file has them.
    notes: messages to the user about settings that were dropped.
  """

  values: dict[str, Any]
  encoders: dict[str, dict[str, Any]]
  shapes: dict[str, dict[str, int]]
  notes: list[str]


def read_yaml(path: str | Path, ignore: Collection[str] = ()) -> Released:
  """Reads the released program's settings. No code in the file is executed.

  Args:
    path: the YAML (or JSON) file.
    ignore: dotted names of settings to skip.

  Raises:
    InputError: the file cannot be read, or has unknown settings. The message lists all of them.
  """
  try:
    tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
  except OSError as error:
    raise InputError(f"{path} cannot be read: {error.strerror}") from None
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
  if not isinstance(tree, Mapping):
    raise InputError(f"{path} holds no settings, but a {type(tree).__name__}")
  reader = _Reader(str(path), set(ignore))
  reader.walk(tree, ())
  return reader.finished()


class _Reader:
  """Collects known settings from the groups of a file, however they are nested."""

  def __init__(self, path: str, ignore: set[str]):
    self.path, self.ignore = path, ignore
    self.values: dict[str, Any] = {"loss.variant": "released"}
    self.blocks: dict[str, tuple[dict, dict]] = {}  # (encoder settings, sizes) by name of the group
    self.unknown: list[str] = []
    self.notes: list[str] = []

  def walk(self, group: Mapping, where: tuple[str, ...]) -> None:
    """Reads one group, which may contain the settings of an encoder among others."""
    for key in list(group):
      inside = (*where, str(key))
      if {".".join(inside), ".".join(inside[-2:])} & self.ignore:
        self.notes.append(f"{'.'.join(inside)} is skipped, because of --ignore")
        group = {k: v for k, v in group.items() if k != key}
    if "model_type" in group or "class" in group:
      owner = str(group.get("name", where[-1] if where else ""))
      block = self.blocks.setdefault(owner, ({}, {}))
      group = self.encoder(group, block)
    for key, value in group.items():
      key = str(key)
      inside = (*where, key)
      near = ".".join(inside[-2:])
      dotted = ".".join(inside)
      entries = value if isinstance(value, list) else []
      if key in HEADS:
        self.values["model.head_layers"] = names.head_layers(value)
      elif isinstance(value, Mapping):
        self.walk(value, inside)
      elif entries and all(isinstance(entry, Mapping) for entry in entries):
        for entry in entries:
          self.walk(entry, (*inside, str(entry.get("name", ""))))
      elif near in KEY_OF or key in KEY_OF:
        self.values[KEY_OF.get(near) or KEY_OF[key]] = value
      elif near in FIXED or key in FIXED:
        have = FIXED.get(near) or FIXED[key]
        if (value.lower() if isinstance(value, str) else value) not in have:
          self.notes.append(f"{dotted}: {value} is not supported; {have[0]} is used")
      elif key not in IGNORED:
        self.unknown.append(dotted)

  def encoder(self, group: Mapping, block: tuple[dict, dict]) -> dict:
    """Stores the encoder's settings of a group in `block`; returns the other settings of the group."""
    settings, shape = block
    rest = {k: v for k, v in group.items() if k not in ("name", "class", "model_type", "args", "wrap")}
    given = dict(group.get("args") or {})
    wrap = dict(group.get("wrap") or {})
    kind = str(group.get("model_type", "")).lower()
    name = group.get("class") or names.class_of(kind)
    if name not in names.ARGUMENTS:
      have = ", ".join([*encoders.ENCODERS, *names.ARGUMENTS])
      raise InputError(f"{self.path}: unknown encoder {name or kind!r}, have: {have}")
    if kind in ("rnn", "gru", "lstm"):
      given.setdefault("unit_type", kind)
    kind = kind if kind in encoders.ENCODERS else names.encoder_settings(name, given)["model_type"]
    known = encoders.arguments(kind)
    for key in list(rest):
      if key in ("use_norm", "use_bnorm"):
        wrap[key] = rest.pop(key)
      elif key in SAMPLE_SIZES:
        shape[SAMPLE_SIZES[key]] = _typed(key, rest.pop(key), 1)
      elif key in names.SIZE_ARGUMENTS or key in names.ARGUMENTS[name]:
        given[key] = rest.pop(key)
      elif key in known:
        value = rest.pop(key)
        settings[key] = tuple(value) if isinstance(value, list) else value
    norm = wrap.get("use_norm")
    settings["use_norm"] = norm if norm in encoders.NORMS else names.norm(wrap)
    settings |= names.encoder_settings(name, given) | {"model_type": kind}
    if kind != "mlp":  # num_features of an MLP is the number of all values of a sample
      for size in filter(settings.__contains__, encoders.SIZES):
        shape.setdefault(size, settings[size])
    if "latent_dims" in wrap:
      rest["emb_dim"] = wrap["latent_dims"]
    return rest

  def finished(self) -> Released:
    """Returns the settings; InputError if any are unknown, which lists all of them."""
    if self.unknown:
      unknown, known = ",".join(self.unknown), ", ".join(sorted({*KEY_OF, *HEADS, *FIXED}))
      raise InputError(
        f"{self.path} has unknown settings, --ignore={unknown} skips them; known: {known}, and the arguments "
        "of an encoder in the group of its model_type"
      )
    if not self.blocks:
      raise InputError(f"{self.path} names no encoder: no group has model_type, or class and args")
    given = self.values.get("data.modalities") or list(self.blocks)
    modalities = [given] if isinstance(given, str) else [str(name) for name in given]
    shared = [owner for owner in self.blocks if owner not in modalities]
    if len(shared) > 1 or not shared and set(modalities) - set(self.blocks):
      have, wanted = ", ".join(self.blocks), ", ".join(modalities)
      raise InputError(f"{self.path} has encoders for {have}, but the modalities are {wanted}")
    of = lambda name: self.blocks[name if name in self.blocks else shared[0]]
    self.values["data.modalities"] = tuple(modalities)
    if "data.name" in self.values:
      self.values["data.name"] = _dataset(str(self.values["data.name"]))
    # Sizes in the group of a shared encoder describe a sensor only if there is just one.
    shapes = {m: of(m)[1] if m in self.blocks or len(modalities) == 1 else {} for m in modalities}
    return Released(self.values, {m: of(m)[0] for m in modalities}, shapes, self.notes)


def _dataset(name: str) -> str:
  """Our name of a data set: `cropharvest_multi` becomes `cropharvest/multi`; unknown names are kept."""
  plain = lambda text: re.sub(r"_train$|[^a-z0-9]", "", text.lower())
  return next((n for n in build.names() if plain(n) == plain(name)), name)


def _values(released: Released) -> tuple[str, dict[str, Any]]:
  """The common encoder of our configuration, and all values by dotted key.

  Raises:
    InputError: a value has the wrong type.
  """
  first, *others = released.encoders.values()
  defaults = schema.defaults(first["model_type"])
  values = {}
  for key, value in released.values.items():
    if "." in key:
      group, name = key.split(".")
      values[key] = _typed(key, value, defaults[group][name])
  own = encoders.arguments(first["model_type"])
  for k, value in first.items():
    if k != "model_type":
      key = f"model.encoder.{k}"
      values[key] = _typed(key, value, 1 if k in encoders.SIZES else own[k])
  # Encoders of the same type would inherit the first one's arguments, so their defaults are written out.
  plain = lambda s: {k: own[k] for k in first if k in own} if s["model_type"] == first["model_type"] else {}
  different = {m: plain(s) | s for m, s in released.encoders.items() if s != first}
  if different:
    values["model.encoders"] = different
  return first["model_type"], values


def _typed(key: str, value: Any, like: Any) -> Any:
  """Converts a value to the type of the default `like`. YAML reads 1e-3 as text."""
  try:
    if isinstance(like, tuple):
      return tuple(value) if isinstance(value, list | tuple) else (value,)
    if isinstance(like, bool) or not isinstance(like, int | float):
      return value
    number = float(value)
    if isinstance(like, float):
      return number
    if number == int(number):
      return int(number)
  except (TypeError, ValueError):
    pass
  kind = "a number" if isinstance(like, float) else "an integer"
  raise InputError(f"{key}: {value!r} is not allowed; {kind}, such as {like!r}")


def make_config(released: Released) -> ConfigDict:
  """Returns our configuration for the released program's settings."""
  model_type, values = _values(released)
  config = schema.defaults(model_type)
  for key, value in values.items():
    *groups, name = key.split(".")
    group = config
    for inner in groups:
      group = group[inner]
    group[name] = schema.group(value) if isinstance(value, dict) else value
  return config


def config_text(released: Released, source: str) -> str:
  """Returns the text of a configuration file for `--config=`."""
  model_type, values = _values(released)
  lines = [f"  config.{key} = {value!r}\n" for key, value in values.items()]
  return (
    f'"""Made from {source}, settings of the released program, by colearn_jax.interop.released."""\n\n'
    "from ml_collections import ConfigDict\n\n"
    "from colearn_jax import schema\n\n\n"
    "def get_config() -> ConfigDict:\n"
    '  """The configuration. It has no words after the colon."""\n'
    f"  config = schema.defaults({model_type!r})\n" + "".join(lines) + "  return config\n"
  )
