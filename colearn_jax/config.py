"""Reads, changes and checks configurations, and converts them to JSON and back.

A configuration is an `ml_collections.ConfigDict`. It comes from a preset (`lfmc`) or from a configuration
file. `load` returns one that is checked against the schema and the data set, before any data is read. The
keys are described in `schema.py`; `python -m colearn_jax.main --help` prints them.
"""

from __future__ import annotations

import dataclasses
import difflib
import runpy
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from colearn_jax import schema
from colearn_jax.constraints import check_together
from colearn_jax.data import context as context_lib
from colearn_jax.data import fixed_length, grouping
from colearn_jax.data import modality as modality_lib
from colearn_jax.effects import without_effect
from colearn_jax.rules import Setting
from colearn_jax.types import CONTEXT, InputError, Modality, Task
from colearn_jax.values import assign, check, refuse, unknown

if TYPE_CHECKING:
  from colearn_jax.datasets.build import Described


def load(spec: str, overrides: Mapping[str, object] | None = None) -> ConfigDict:
  """Loads a configuration, checks it and locks it.

  Args:
    spec: the value of `--config=`, e.g. `lfmc:released` or `configs/lfmc.py`.
    overrides: new values by dotted key, e.g. `{"train.max_epochs": 3, "model.encoders.S1": "gru"}`.

  Raises:
    InputError: there is no such configuration, or a key or value is not allowed, or a key of `overrides` has
      no effect.
  """
  config, overrides = read(spec), overrides or {}
  known = settings_of(config)
  for key, value in overrides.items():
    assign(config, known, key, value)
  validate(config, given=overrides)
  return config.lock()


def presets() -> dict[str, Path]:
  """The file of each preset, by name."""
  import colearn_jax.configs as package

  files = sorted(path for folder in package.__path__ for path in Path(folder).glob("*.py"))
  return {path.stem: path for path in files if path.stem != "__init__"}


def find(name: str) -> Path:
  """The configuration file for a preset's name or a path; InputError if there is none."""
  known, path = presets(), Path(name).expanduser()
  if name in known:
    return known[name]
  if path.is_file():
    return path
  near = difflib.get_close_matches(path.stem, known, 1)
  hint = f"did you mean {near[0]}? " if near else ""
  raise InputError(f"there is no file {name} in {Path.cwd()}, {hint}presets: {', '.join(known)}")


def read(spec: str) -> ConfigDict:
  """Executes a configuration file once and returns the result of its `get_config`, unchecked.

  Args:
    spec: the value of `--config=`: a preset or a file, then optionally a colon and the words for
      `get_config`.

  Raises:
    InputError: there is no such file, or its code raises an exception.
  """
  name, *words = spec.split(":", 1)
  try:
    path = find(name)
  except InputError as error:
    raise InputError(f"--config={spec}: {error}") from None
  config = call(spec, path, "get_config", words)
  if not isinstance(config, ConfigDict):
    raise InputError(f"--config={spec}: {path} has no get_config() that returns a ConfigDict")
  return config


def call(spec: str, path: Path, function: str, words: Sequence[str]) -> Any:
  """Executes a file and calls one of its functions with `words`. Returns None if it has no such function.

  Raises:
    InputError: the code raises an exception. The message begins with `spec`, or with file and line.
  """
  try:
    found = runpy.run_path(str(path)).get(function)
    return found(*words) if found else None
  except InputError as error:
    raise InputError(f"--config={spec}: {error}") from None
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    raise InputError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def settings_of(config: ConfigDict) -> dict[str, Setting]:
  """All settings of a configuration with its method and encoder, by dotted key."""
  values = dict(schema.flat(config))
  names: list[Any] = [values.get("method"), values.get("model.encoder.model_type")]
  for key, name in zip(("method", "model.encoder.model_type"), names):
    if not isinstance(name, str):
      raise InputError(f"{key} is missing; start the configuration from colearn_jax.schema.defaults()")
  try:
    return schema.settings(*names)
  except InputError as error:
    raise InputError(f"method={names[0]}, model.encoder.model_type={names[1]}: {error}") from None


def validate(config: ConfigDict, *, given: Iterable[str] = (), begun: bool = False) -> None:
  """Checks every key of a configuration, also against the data set. Builds and reads no data.

  Args:
    config: the configuration, with every key.
    given: keys that the user set; each has to have an effect.
    begun: whether the run is resumed. If so, files of pretrained weights need not exist, because they are
      read only at the start of a run.

  Raises:
    InputError: a key is missing or unknown, its value is not allowed, or a given key has no effect.
  """
  values, known = dict(schema.flat(config)), settings_of(config)
  for key in values:
    if key not in known:
      raise InputError(unknown(key, known))
  for key, setting in known.items():
    if key not in values:
      raise InputError(f"{key} is missing; {setting.rule.allowed}")
    check(key, values[key], setting.rule)
  check_together(config, known)
  described = _check_data(config, begun)
  for reason in without_effect(config, given, described).values():
    raise InputError(reason)


def _check_data(config: ConfigDict, begun: bool) -> Described:
  """Checks the keys that depend on the data set, and describes it. The data set need not be built."""
  from colearn_jax import encoders
  from colearn_jax.datasets import build

  name = config.data.name
  if not begun:
    config = with_sizes(config)
  if name not in build.names():
    refuse("data.name", name, f"one of: {', '.join(build.names())}")
  try:
    described = build.describe(name, config.data.manual_dir)
  except InputError as error:
    raise InputError(f"data.manual_dir: {error}") from None
  _check_protocol(config, described)
  regression = described.task.kind == "regression"
  if config.train.ridge and regression and not config.model.standardised:
    refuse("model.standardised", False, "True with train.ridge")
  if config.loss.huber and not regression:
    refuse("loss.huber", config.loss.huber, f"0, for {name} is no regression")
  if config.loss.label_smoothing and regression:
    refuse("loss.label_smoothing", config.loss.label_smoothing, f"0, for {name} is a regression")
  for given in config.data.context:
    if given not in described.context:
      refuse("data.context", given, f"names that {name} has: {', '.join(described.context) or 'none'}")
  for given in config.loss.get("teacher_context", ()):
    if given not in described.context:
      refuse(
        "loss.teacher_context", given, f"names that {name} has: {', '.join(described.context) or 'none'}"
      )
  steps = modality_lib.describe_steps(described.shapes, described.views, described.dated)
  bands = {view: facts["bands"] for view, facts in described.views.items()}
  context = context_lib.columns(config.data.context, config.data.fourier, bands)
  # The longest series is unknown before the build. 100 is a placeholder for its length.
  shapes, views = described.shapes, described.views
  fixed = fixed_length.fixed_lengths(series_settings(config), shapes, views, dict.fromkeys(shapes, 100))
  known = shapes | {view: ragged.shape for view, ragged in fixed.items()}
  for modality in config.loss.get("teacher_sensors", ()):
    try:
      modality_lib.make_modality(modality, known, views)
    except InputError as error:
      raise InputError(f"loss.teacher_sensors: {error}") from None
  for modality in config.data.modalities:
    try:
      plain = modality_lib.make_modality(modality, known, views)
    except InputError as error:
      raise InputError(f"data.modalities: {error}") from None
    shape = plain.shape
    if config.augment.quarter_turns and len(shape) > 2 and shape[-3] != shape[-2]:
      refuse("augment.quarter_turns", True, f"False, for images of {modality} are not square")
    settings = _check_encoder_settings(config, plain)
    kind = settings["model_type"]
    if kind in encoders.BY_BAND:
      if config.train.mixup:
        refuse("train.mixup", config.train.mixup, f"0 with encoder {kind}: months cannot be mixed")
      months = steps if encoders.reads_months(settings) else None
      try:
        plain = modality_lib.make_modality(modality, known, views, steps=months)
      except InputError as error:
        raise InputError(f"encoder {kind}: {error}; use_months=False reads no months") from None
      unknown_length = lambda view: shapes[view][0] is None and view not in config.data.lengths
      if config.data.series == "pad" and any(map(unknown_length, plain.views)):
        plain = dataclasses.replace(plain, shape=(1, *plain.shape[1:]))  # it may be short enough
    elif config.data.normalisation == "fixed":
      for view in plain.views:
        _check_fixed(config.data.fixed.to_dict(), view, views[view]["bands"])
    _check_encoder(config, plain, context, begun)
  return described


def _check_protocol(config: ConfigDict, described: Described) -> None:
  """Checks that the data set has what the protocol's rules need."""
  own, name = config.protocol, config.data.name
  features, groups = grouping.names(own.group_by), described.groups
  have = grouping.available(groups, dated=described.dated, located=described.located, block_km=own.block_km)
  for feature in features:
    if feature not in have or features.count(feature) > 1:
      more = " (block needs protocol.block_km)" if feature == grouping.BLOCK else ""
      allowed = f"nothing, or a group of {name}: {', '.join(have)}{more}; several different ones as in a,b"
      refuse("protocol.group_by", feature, allowed)
  if own.block_km and grouping.BLOCK not in features:
    refuse("protocol.block_km", own.block_km, "0, or block among the features of protocol.group_by")
  if own.split == "kfold":
    grouping.parts_of_features(own.folds, features)
  for key, needs, has in (
    ("block_km", "coordinates", described.located),
    ("buffer_km", "coordinates", described.located),
    ("purge", "a date", described.dated),
  ):
    if own[key] and not has:
      refuse(f"protocol.{key}", own[key], f"0, for samples of {name} do not have {needs}")


def _check_fixed(fixed: Mapping[str, Mapping], view: str, bands: Sequence[str]) -> None:
  """Checks that the view has constants: one number, or one per band."""
  if view not in fixed:
    refuse("data.fixed", fixed, f"with data.normalisation=fixed, an offset and a scale of {view} are needed")
  for name, values in fixed[view].items():
    if isinstance(values, list | tuple) and len(values) != len(bands):
      refuse(f"data.fixed.{view}.{name}", values, f"a number, or one for each of: {', '.join(bands)}")


def _encoder_key(config: ConfigDict, modality: str) -> str:
  """The key of a modality's encoder, for messages."""
  return "model.encoders" if config.model.encoders.to_dict().get(modality) else "model.encoder"


def _check_encoder_settings(config: ConfigDict, modality: Modality) -> dict[str, Any]:
  """Checks the arguments of a modality's encoder one by one. Returns the settings of the encoder."""
  from colearn_jax import encoders
  from colearn_jax.methods.configured import encoder_settings

  name, key = modality.name, _encoder_key(config, modality.name)
  try:
    settings = encoder_settings(config, name, modality.shape)
    kind = settings["model_type"]
    known = encoders.settings(kind)
  except InputError as error:
    raise InputError(f"{key}, for modality {name}: {error}") from None
  for argument, value in config.model.encoders.to_dict().get(name, {}).items():
    if argument != "model_type":
      if argument not in known:
        refuse(f"{key}.{name}", argument, f"an argument of encoder {kind}: {', '.join(known)}")
      check(f"{key}.{name}.{argument}", value, known[argument].rule)
  return settings


def _check_encoder(config: ConfigDict, modality: Modality, context: Sequence[str], begun: bool) -> None:
  """Builds a modality's encoder without arrays, to check that it fits the modality and its weights."""
  from flax import nnx

  from colearn_jax.methods.configured import make_architecture
  from colearn_jax.nn import random
  from colearn_jax.weights import pretrained

  others = [Modality(CONTEXT, (), (len(context),), tuple(context))] if context else []
  task = Task("regression", ("any",))  # the encoder does not depend on it
  try:
    architecture = make_architecture(config, task, [modality, *others])
    net = nnx.eval_shape(lambda: architecture.encoder(modality.name, rngs=random.keys())).backbone
    if not begun:
      pretrained.load(architecture.encoders[modality.name], net)
  except InputError as error:
    raise InputError(
      f"{_encoder_key(config, modality.name)}, for modality {modality.name}: {error}"
    ) from None


def with_sizes(config: ConfigDict, begun: Mapping | None = None) -> ConfigDict:
  """The same configuration with the sizes that files of pretrained weights tell, locked.

  They are set in `model.encoders`, for each modality whose encoder has a file and leaves them out.

  Args:
    config: the configuration.
    begun: `config.json` of the run that is resumed. Its sizes are taken, as the files need not exist.

  Raises:
    InputError: a file cannot be read, or does not tell a size.
  """
  from colearn_jax import encoders
  from colearn_jax.methods.configured import encoder_settings
  from colearn_jax.weights import pretrained

  common, every = config.model.encoder.to_dict(), config.model.encoders.to_dict()
  for modality in config.data.modalities:
    own = every.get(modality, {})
    if own.get("model_type", common["model_type"]) not in encoders.BY_BAND:
      continue
    settings = encoder_settings(config, modality)
    if begun is None:
      try:
        sized = pretrained.sized(settings)
      except InputError as error:
        raise InputError(f"{_encoder_key(config, modality)}, for modality {modality}: {error}") from None
    else:
      sized = begun["model"]["encoders"].get(modality, {})
    names = [name for name in encoders.SIZES_OF_FILE if settings.get(name) is None]
    if found := {name: sized[name] for name in names if sized.get(name) is not None}:
      every[modality] = own | found
  model = schema.group(dict(config.model.items()) | {"encoders": every})
  return schema.group(dict(config.items()) | {"model": model}).lock()


def series_settings(config: ConfigDict) -> fixed_length.Settings:
  """The settings that give series of different lengths one length, for `data.dataset.open_dataset`."""
  given = config.data
  return fixed_length.Settings(
    given.series, given.lengths.to_dict(), given.masked_above.to_dict(), tuple(given.modalities)
  )


def to_json(config: ConfigDict) -> dict:
  """Converts a configuration to JSON types. Tuples become lists. `restore` is the inverse."""
  return _mapped(config.to_dict(), lambda v: list(v) if isinstance(v, tuple) else v)


def restore(tree: Mapping) -> ConfigDict:
  """Converts the result of `to_json` back to a configuration, and locks it."""
  return schema.group(_mapped(tree, lambda v: tuple(v) if isinstance(v, list) else v)).lock()


def _mapped(tree: Mapping, leaf: Callable[[object], object]) -> dict:
  return {k: _mapped(v, leaf) if isinstance(v, Mapping) else leaf(v) for k, v in tree.items()}


_MACHINE_KEYS = (
  "data.data_dir",
  "data.manual_dir",
  "data.workers",
  "train.workers",
  "train.compilation_cache",
)


def of_machine(key: str) -> bool:
  """Whether a key is about paths or devices. Such a key may differ when a run is resumed."""
  return key in _MACHINE_KEYS or key.startswith("mesh.")


def differences(old: Mapping, new: Mapping) -> list[str]:
  """Lists the keys that differ between two configurations in the form of `to_json`.

  Keys about paths and devices are left out. Example of an entry: `train.batch_size: 32 there, 64 here`.
  """
  there, here = dict(schema.flat(old)), dict(schema.flat(new))
  shown = lambda values, key: "nothing" if values.get(key) is None else repr(values[key])
  return [
    f"{key}: {shown(there, key)} there, {shown(here, key)} here"
    for key in there | here
    if not of_machine(key) and shown(there, key) != shown(here, key)
  ]
