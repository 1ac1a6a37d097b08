"""Configurations: presets and files, values that are set in them, checks before anything is built, and JSON.

`schema.py` says what the keys mean; `python -m colearn_jax.main --help` prints it.
"""

from __future__ import annotations

import difflib
import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from colearn_jax import schema
from colearn_jax.data import fixed_length
from colearn_jax.rules import Setting
from colearn_jax.types import InputError, join_views, resolve_views
from colearn_jax.values import assign, check, refuse, unknown


def load(spec: str, overrides: Mapping[str, object] | None = None) -> ConfigDict:
  """A configuration, locked and checked.

  Args:
    spec: as behind `--config=`, e.g. `lfmc:released` or `configs/lfmc.py`.
    overrides: values by dotted key, e.g. `{"train.max_epochs": 3, "model.encoders.S1": "gru"}`.

  Raises:
    InputError: anything is wrong, in one line.
  """
  config = read(spec)
  known = settings_of(config)
  for key, value in (overrides or {}).items():
    assign(config, known, key, value)
  validate(config)
  return config.lock()


def presets() -> dict[str, Path]:
  """The files of the configurations that are found by name."""
  from colearn_jax import configs

  files = sorted(path for folder in configs.__path__ for path in Path(folder).glob("*.py"))
  return {path.stem: path for path in files if path.stem != "__init__"}


def find(name: str) -> Path:
  """The file of a preset or of a path; InputError if there is none."""
  known, path = presets(), Path(name).expanduser()
  if name in known:
    return known[name]
  if path.is_file():
    return path
  near = difflib.get_close_matches(path.stem, known, 1)
  hint = f"did you mean {near[0]}? " if near else ""
  raise InputError(f"there is no file {name} in {Path.cwd()}, {hint}presets: {', '.join(known)}")


def read(spec: str) -> ConfigDict:
  """Executes a configuration file, once, and returns what its `get_config` does; nothing is checked.

  Args:
    spec: as behind `--config=`: a preset or a file, and behind a colon the words for `get_config`.

  Raises:
    InputError: there is no such file, or it fails.
  """
  name, *words = spec.split(":", 1)
  try:
    path = find(name)
  except InputError as error:
    raise InputError(f"--config={spec}: {error}") from None
  try:
    get_config = runpy.run_path(str(path)).get("get_config")
    config = get_config(*words) if get_config else None
  except InputError as error:
    raise InputError(f"--config={spec}: {error}") from None
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    raise InputError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error
  if not isinstance(config, ConfigDict):
    raise InputError(f"--config={spec}: {path} has no get_config() that returns a ConfigDict")
  return config


def settings_of(config: ConfigDict) -> dict[str, Setting]:
  """The keys that a configuration with this method and this encoder has, by dotted key."""
  values = dict(schema.flat(config))
  names = [values.get("method"), values.get("model.encoder.model_type")]
  for key, name in zip(("method", "model.encoder.model_type"), names):
    if not isinstance(name, str):
      raise InputError(f"{key} is missing; a configuration begins with colearn_jax.schema.defaults()")
  try:
    return schema.settings(*names)
  except InputError as error:
    raise InputError(f"method={names[0]}, model.encoder.model_type={names[1]}: {error}") from None


def validate(config: ConfigDict, *, begun: bool = False) -> None:
  """Checks every key of a configuration, also against the data set; builds and reads no data.

  Args:
    config: with every key.
    begun: whether the training was begun before. Then files of pretrained weights, which are read once, need
      not exist.

  Raises:
    InputError: one line with the key, its value and what is allowed.
  """
  values, known = dict(schema.flat(config)), settings_of(config)
  for key in values:
    if key not in known:
      raise InputError(unknown(key, known))
  for key, setting in known.items():
    if key not in values:
      raise InputError(f"{key} is missing; {setting.rule.allowed}")
    check(key, values[key], setting.rule)
  _check_together(config, known)
  _check_data(config, begun)


def _check_together(config: ConfigDict, known: Mapping[str, Setting]) -> None:
  """What depends on several keys."""
  from colearn_jax import methods

  terms = methods.find(config.method).terms
  for name, weights in config.loss.ablations.items():
    for term, weight in weights.items():
      if term not in terms:
        refuse(f"loss.ablations.{name}", term, f"a loss term of {config.method}: {', '.join(terms)}")
      check(f"loss.ablations.{name}.{term}", weight, known[f"loss.{term}"].rule)
  if config.data.fourier and "location" not in config.data.context:
    refuse("data.fourier", config.data.fourier, "0, or location among the names of data.context")
  for modality in config.model.encoders:
    if modality not in config.data.modalities:
      refuse("model.encoders", modality, f"a configured modality: {', '.join(config.data.modalities)}")


def _check_data(config: ConfigDict, begun: bool) -> None:
  """The part of `validate` that depends on the data set, which need not be built."""
  from colearn_jax.datasets import build

  name = config.data.name
  if name not in build.names():
    refuse("data.name", name, f"one of: {', '.join(build.names())}")
  try:
    described = build.describe(name, config.data.manual_dir)
  except InputError as error:
    raise InputError(f"data.manual_dir: {error}") from None
  group_by, groups = config.protocol.group_by, described.groups
  if group_by not in ("", *groups):
    refuse("protocol.group_by", group_by, f"nothing, or a group of {name}: {', '.join(groups)}")
  for given in config.data.context:
    if given not in described.context:
      refuse("data.context", given, f"what {name} has: {', '.join(described.context) or 'nothing'}")
  # The longest series is unknown before the build; any length stands for it.
  shapes, views = described.shapes, described.views
  fixed = fixed_length.fixed_lengths(series_settings(config), shapes, views, dict.fromkeys(shapes, 100))
  known = shapes | {view: ragged.shape for view, ragged in fixed.items()}
  for modality in config.data.modalities:
    try:
      joined = resolve_views(modality, known)
    except InputError as error:
      raise InputError(f"data.modalities: {error}") from None
    shape = join_views(modality, known, joined)
    if config.augment.quarter_turns and len(shape) > 2 and shape[-3] != shape[-2]:
      refuse("augment.quarter_turns", True, f"False, for {modality} is not square but {shape[-3:-1]}")
    if config.data.normalisation == "fixed":
      for view in joined:
        _check_fixed(config.data.fixed.to_dict(), view, views[view]["bands"])
    _check_encoder(config, modality, shape, begun)


def _check_fixed(fixed: Mapping[str, Mapping], view: str, bands: Sequence[str]) -> None:
  """Whether the view has constants, one number or as many as it has bands."""
  if view not in fixed:
    refuse("data.fixed", fixed, f"for data.normalisation=fixed it needs an offset and a scale of {view}")
  for name, values in fixed[view].items():
    if isinstance(values, list | tuple) and len(values) != len(bands):
      refuse(f"data.fixed.{view}.{name}", values, f"a number, or one for each of: {', '.join(bands)}")


def _check_encoder(config: ConfigDict, modality: str, shape: tuple[int, ...], begun: bool) -> None:
  """Checks a modality's own arguments, and builds its encoder without arrays, which may refuse the shape."""
  from flax import nnx

  from colearn_jax import encoders
  from colearn_jax.methods.configured import encoder_settings
  from colearn_jax.weights import imagenet

  own = config.model.encoders.to_dict().get(modality, {})
  key = "model.encoders" if own else "model.encoder"
  try:
    arguments = encoder_settings(config, modality, shape)
    known = encoders.settings(arguments["model_type"])
  except InputError as error:
    raise InputError(f"{key}, for modality {modality}: {error}") from None
  for name, value in own.items():
    if name != "model_type":
      if name not in known:
        refuse(
          f"{key}.{modality}", name, f"an argument of encoder {arguments['model_type']}: {', '.join(known)}"
        )
      check(f"{key}.{modality}.{name}", value, known[name].rule)
  try:
    nnx.eval_shape(lambda: encoders.make_encoder(arguments, shape, config.model.emb_dim, rngs=nnx.Rngs(0)))
    if not begun:
      imagenet.load(arguments, shape)
  except InputError as error:
    raise InputError(f"{key}, for modality {modality}: {error}") from None


def series_settings(config: ConfigDict) -> fixed_length.Settings:
  """How series of different lengths get one length, for `data.open_dataset`."""
  given = config.data
  return fixed_length.Settings(
    given.series, given.lengths.to_dict(), given.masked_above.to_dict(), tuple(given.modalities)
  )


def to_json(config: ConfigDict) -> dict:
  """The configuration in JSON's types, tuples as lists; `restore` makes an equal one of it."""
  return _mapped(config.to_dict(), lambda v: list(v) if isinstance(v, tuple) else v)


def restore(tree: Mapping) -> ConfigDict:
  """The configuration that `to_json` wrote, locked."""
  return schema.group(_mapped(tree, lambda v: tuple(v) if isinstance(v, list) else v)).lock()


def _mapped(tree: Mapping, leaf: Callable[[object], object]) -> dict:
  return {k: _mapped(v, leaf) if isinstance(v, Mapping) else leaf(v) for k, v in tree.items()}


_ELSEWHERE = ("data.data_dir", "data.manual_dir", "data.workers", "train.compilation_cache")


def differences(old: Mapping, new: Mapping) -> list[str]:
  """What differs between two configurations of `to_json`, without where the data and the devices are.

  One line a key, e.g. `train.batch_size: 32 there, 64 here`.
  """
  there, here = dict(schema.flat(old)), dict(schema.flat(new))
  shown = lambda values, key: "nothing" if values.get(key) is None else repr(values[key])
  return [
    f"{key}: {shown(there, key)} there, {shown(here, key)} here"
    for key in there | here
    if key not in _ELSEWHERE and not key.startswith("mesh.") and shown(there, key) != shown(here, key)
  ]
