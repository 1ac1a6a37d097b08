"""The released program's YAML settings as a configuration of ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import yaml
from ml_collections import ConfigDict

from colearn_jax import encoders, schema
from colearn_jax.datasets import build
from colearn_jax.interop import names as torch
from colearn_jax.types import InputError

# Where a setting goes, by its name there, with the name of its group where that alone says what it is.
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
  # Not of our configurations, but a checkpoint needs them.
  "loss name": ("loss", "loss_name", "loss_function", "loss.name"),
  "loss mean": ("loss.mean",),
  "loss std": ("loss.std",),
  "outputs": ("n_labels", "num_classes", "n_classes"),
}
HERE = {name: key for key, names in KEYS.items() for name in names}
HEADS = ("predictive_core", "predictive_model", "prediction_head")
# Settings that there is but one value for here.
ONLY = {
  "optimizer": ("adam",),
  "optimizer.name": ("adam",),
  "weight_decay": (0, None),
  "unused_flag": (True,),
  "weighting": (None, "none"),
  "multi_loss": (True, None),
}
# Settings of the machine and of what is printed.
WITHOUT_EFFECT = set(
  "accelerator data_dir data_folder description devices gpu gpus log_dir mode monitor name num_workers "
  "output_dir output_folder path save_top_k use_cuda verbose".split()
)
SHAPE = {"T": "seq_len", "bands": "num_features"}  # of a sensor's samples, beside its encoder


@dataclasses.dataclass
class Released:
  """What a YAML file says, in our words.

  Attributes:
    values: by dotted key of our configuration, and the few of `KEYS` that those do not have.
    encoders: settings by modality, as `encoders.make_encoder` takes them.
    shapes: `seq_len` and `num_features` of the data by modality, as far as the file says them.
    notes: what was left out, for the user.
  """

  values: dict[str, object]
  encoders: dict[str, dict[str, object]]
  shapes: dict[str, dict[str, int]]
  notes: list[str]


def read_yaml(path: str | Path, ignore: Collection[str] = ()) -> Released:
  """Reads the released program's settings; nothing in the file is run.

  Args:
    path: of the YAML (or JSON) file.
    ignore: settings that are passed over, by dotted name.

  Raises:
    InputError: no such file, or settings that are not known, all of them named.
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
  """Goes through the groups of a file, whose nesting is free, and collects what it knows."""

  def __init__(self, path: str, ignore: set[str]):
    self.path, self.ignore = path, ignore
    self.values: dict[str, object] = {"loss.variant": "released"}
    self.blocks: dict[str, tuple[dict, dict]] = {}  # encoders' settings and shapes by whose they are
    self.unknown: list[str] = []
    self.notes: list[str] = []

  def walk(self, group: Mapping, where: tuple[str, ...]) -> None:
    """One group; its encoder's settings, where it has some, stand among the others."""
    for key in list(group):
      inside = (*where, str(key))
      if {".".join(inside), ".".join(inside[-2:])} & self.ignore:
        self.notes.append(f"{'.'.join(inside)} is ignored, as asked")
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
        self.values["model.head_layers"] = torch.head_layers(value)
      elif isinstance(value, Mapping):
        self.walk(value, inside)
      elif entries and all(isinstance(entry, Mapping) for entry in entries):
        for entry in entries:
          self.walk(entry, (*inside, str(entry.get("name", ""))))
      elif near in HERE or key in HERE:
        self.values[HERE.get(near) or HERE[key]] = value
      elif near in ONLY or key in ONLY:
        have = ONLY.get(near) or ONLY[key]
        if (value.lower() if isinstance(value, str) else value) not in have:
          self.notes.append(f"{dotted}: {value} is not there; it is {have[0]} here")
      elif key not in WITHOUT_EFFECT:
        self.unknown.append(dotted)

  def encoder(self, group: Mapping, block: tuple[dict, dict]) -> dict:
    """Takes an encoder's settings out of a group and returns the others."""
    settings, shape = block
    rest = {k: v for k, v in group.items() if k not in ("name", "class", "model_type", "args", "wrap")}
    given = dict(group.get("args") or {})
    wrap = dict(group.get("wrap") or {})
    kind = str(group.get("model_type", "")).lower()
    name = group.get("class") or torch.class_of(kind)
    if name not in torch.ARGUMENTS:
      have = ", ".join([*encoders.ENCODERS, *torch.ARGUMENTS])
      raise InputError(f"{self.path}: unknown encoder {name or kind!r}, have: {have}")
    if kind in ("rnn", "gru", "lstm"):
      given.setdefault("unit_type", kind)
    kind = kind if kind in encoders.ENCODERS else torch.encoder_settings(name, given)["model_type"]
    known = encoders.arguments(kind)
    for key in list(rest):
      if key in ("use_norm", "use_bnorm"):
        wrap[key] = rest.pop(key)
      elif key in SHAPE:
        shape[SHAPE[key]] = _typed(key, rest.pop(key), 1)
      elif key in torch.SIZE_ARGUMENTS or key in torch.ARGUMENTS[name]:
        given[key] = rest.pop(key)
      elif key in known:
        value = rest.pop(key)
        settings[key] = tuple(value) if isinstance(value, list) else value
    norm = wrap.get("use_norm")
    settings["use_norm"] = norm if norm in encoders.NORMS else torch.norm(wrap)
    settings |= torch.encoder_settings(name, given) | {"model_type": kind}
    if kind != "mlp":  # whose features are all of a sample's values
      for size in filter(settings.__contains__, encoders.SIZES):
        shape.setdefault(size, settings[size])
    if "latent_dims" in wrap:
      rest["emb_dim"] = wrap["latent_dims"]
    return rest

  def finished(self) -> Released:
    """Everything together, or an error that lists what is not known."""
    if self.unknown:
      unknown, known = ",".join(self.unknown), ", ".join(sorted({*HERE, *HEADS, *ONLY}))
      raise InputError(
        f"{self.path} has settings that are not known here, --ignore={unknown} passes over them; known are "
        f"{known}, and an encoder's arguments beside its model_type"
      )
    if not self.blocks:
      raise InputError(f"{self.path} names no encoder: no group has a model_type, or class and args")
    names = self.values.get("data.modalities") or list(self.blocks)
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    shared = [owner for owner in self.blocks if owner not in names]
    if len(shared) > 1 or not shared and set(names) - set(self.blocks):
      raise InputError(f"{self.path}: encoders of {', '.join(self.blocks)}, modalities {', '.join(names)}")
    of = lambda name: self.blocks[name if name in self.blocks else shared[0]]
    self.values["data.modalities"] = tuple(names)
    if "data.name" in self.values:
      self.values["data.name"] = _dataset(str(self.values["data.name"]))
    # A length or width that stands beside the encoder of all sensors is each one's only if there is one.
    shapes = {m: of(m)[1] if m in self.blocks or len(names) == 1 else {} for m in names}
    return Released(self.values, {m: of(m)[0] for m in names}, shapes, self.notes)


def _dataset(name: str) -> str:
  """The data set's name here: `cropharvest_multi` is `cropharvest/multi`; an unknown one stays as it is."""
  plain = lambda text: re.sub(r"_train$|[^a-z0-9]", "", text.lower())
  return next((n for n in build.names() if plain(n) == plain(name)), name)


def _values(released: Released) -> tuple[str, dict[str, object]]:
  """The encoder that a configuration of ours begins with, and its values by dotted key.

  Raises:
    InputError: a value of the wrong type.
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
  # What the first encoder sets would hold for another of its type, too.
  plain = lambda s: {k: own[k] for k in first if k in own} if s["model_type"] == first["model_type"] else {}
  different = {m: plain(s) | s for m, s in released.encoders.items() if s != first}
  if different:
    values["model.encoders"] = different
  return first["model_type"], values


def _typed(key: str, value: object, like: object) -> object:
  """A value with the type of the default; YAML takes 1e-3 for text."""
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
  raise InputError(f"{key}: {value!r} is not allowed; {kind}, as {like!r} is")


def make_config(released: Released) -> ConfigDict:
  """Our configuration of the released program's settings."""
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
  """The same as a configuration file for `--config=`."""
  model_type, values = _values(released)
  lines = [f"  config.{key} = {value!r}\n" for key, value in values.items()]
  return (
    f'"""Made from {source}, settings of the released program, by colearn_jax.interop.released."""\n\n'
    "from ml_collections import ConfigDict\n\n"
    "from colearn_jax import schema\n\n\n"
    "def get_config() -> ConfigDict:\n"
    '  """The configuration; no words are known behind the colon."""\n'
    f"  config = schema.defaults({model_type!r})\n" + "".join(lines) + "  return config\n"
  )
