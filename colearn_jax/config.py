"""Configurations: read from a file and a command line, checked before anything is built, kept as JSON.

`configs/common.py` says what the keys mean and how they are changed.
"""

from __future__ import annotations

import difflib
import math
import re
import runpy
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from colearn_jax.data import fixed_length as series
from colearn_jax.types import InputError, resolve_views


class Rule(NamedTuple):
  """What a value may be: a check that takes anything, and the same in words."""

  ok: Callable[[object], bool]
  allowed: str


def _is_integer(value: object) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _integer(least: int, what: str = "an integer") -> Rule:
  return Rule(lambda v: _is_integer(v) and v >= least, f"{what} >= {least}")


def _number(ok: Callable[[float], bool], allowed: str) -> Rule:
  finite = lambda v: isinstance(v, float) and math.isfinite(v) or _is_integer(v)
  return Rule(lambda v: finite(v) and ok(v), f"a finite number {allowed}")


def _choice(*names: str) -> Rule:
  return Rule(lambda v: isinstance(v, str) and v in names, f"one of: {', '.join(names)}")


def _tuple(each: Callable[[object], bool], allowed: str, *, distinct: bool = False) -> Rule:
  good = lambda v: isinstance(v, tuple) and all(map(each, v))
  return Rule(lambda v: good(v) and (not distinct or 0 < len(v) == len(set(v))), allowed)


def _mapping(each: Callable[[object], bool], allowed: str) -> Rule:
  return Rule(lambda v: _GROUP(v) and all(map(each, v.values())), allowed)


_WIDTHS = _tuple(_integer(1).ok, "integers >= 1, as in (64, 32), or () for none")
_TEXT = Rule(lambda v: isinstance(v, str), "text")
_SWITCH = Rule(lambda v: isinstance(v, bool), "True or False")
_WEIGHT = _number(lambda v: v >= 0, ">= 0; 0 switches the term off")
_POSITIVE = _number(lambda v: v > 0, "> 0")
_SIZE = Rule(lambda v: _is_integer(v) and (v >= 1 or v == -1), "an integer >= 1, or -1 to fill in")
_SEED = lambda v: _is_integer(v) and 0 <= v < 2**32
_GROUP = lambda v: isinstance(v, Mapping | ConfigDict)
_FINITE = _number(lambda v: True, "").ok
_PER_BAND = lambda v: all(map(_FINITE, v if isinstance(v, list | tuple) else [v]))
_NONZERO = lambda v: _PER_BAND(v) and 0 not in (v if isinstance(v, list | tuple) else [v])
_path = lambda v: Path(v).expanduser()


def ablation(text: str) -> dict[str, float] | None:
  """The weights that one of `loss.ablations` changes, by term; None where it is not one."""
  weights = {}
  for part in text.split(";"):
    term, _, weight = part.partition("=")
    try:
      weights[term.strip()] = float(weight)
    except ValueError:
      return None
  terms = {"main": _POSITIVE, "auxiliary": _WEIGHT, "contrastive": _WEIGHT, "discriminative": _WEIGHT}
  return weights if all(t in terms and terms[t].ok(w) for t, w in weights.items()) else None


RULES = {
  "method": _choice("mdico", "individual"),
  "baseline": _SWITCH,
  "data.name": _TEXT,
  "data.data_dir": Rule(lambda v: isinstance(v, str) and not _path(v).is_file(), "a directory, or nothing"),
  "data.manual_dir": Rule(
    lambda v: v == "" or isinstance(v, str) and _path(v).is_dir(), "a directory that exists, or nothing"
  ),
  "data.modalities": _tuple(_TEXT.ok, "one or more different names, as in S1,S2", distinct=True),
  "data.placement": _choice("auto", "device", "stream"),
  "data.device_bytes": _integer(0),
  "mesh.replica": _SIZE,
  "mesh.data": _SIZE,
  "mesh.fsdp": _SIZE,
  "data.workers": _integer(0, "a number of processes"),
  "data.series": _choice(*series.HOW),
  "data.lengths": _mapping(_integer(1).ok, "steps by view, as in \"{'S2': 146}\""),
  "data.masked_above": _mapping(_FINITE, "%, by band of a mask, as in \"{'cloud': 50}\""),
  "data.normalisation": _choice("zscore", "max", "minmax", "fixed"),
  "data.fixed": _mapping(
    lambda v: _GROUP(v) and set(v) == {"offset", "scale"} and _PER_BAND(v["offset"]) and _NONZERO(v["scale"]),
    "an offset and a scale other than 0 by view, numbers or one for each band, as in "
    "\"{'S1': {'offset': [-11, -18], 'scale': 5}}\"",
  ),
  "protocol.name": _choice("paper", "clean"),
  "protocol.split": _choice("kfold", "official"),
  "protocol.folds": _integer(2),
  "protocol.seeds": _tuple(
    _SEED, "one or more different integers >= 0 (and < 2**32), as in 0,1", distinct=True
  ),
  "protocol.group_by": _TEXT,
  "protocol.validation_fraction": _number(lambda v: 0 < v < 1, "between 0 and 1"),
  "model.emb_dim": Rule(lambda v: _is_integer(v) and v >= 2 and v % 2 == 0, "an even integer >= 2"),
  "model.head_layers": _WIDTHS,
  "model.dtype": _choice("float32", "bfloat16"),
  "model.remat": _SWITCH,
  "model.encoders": _mapping(
    lambda v: _GROUP(v), "arguments by modality, as in \"{'S1': {'dropout': 0.1}}\""
  ),
  "loss.class_weights": _choice("balanced", "none"),
  "loss.ablations": Rule(_GROUP, "names with weights of terms"),
  "augment.flip": _SWITCH,
  "augment.quarter_turns": _SWITCH,
  "augment.crop": _number(lambda v: 0 < v <= 1, "> 0 and <= 1, the least side of the window; 1 for none"),
  "augment.time_shift": _integer(0, "a number of steps"),
  "augment.time_dropout": _number(lambda v: 0 <= v < 1, ">= 0 and < 1"),
  "augment.noise": _number(lambda v: v >= 0, ">= 0, in units of the bands' scale"),
  "train.batch_size": _integer(2),
  "train.microbatches": _integer(1),
  "train.replicas": _SWITCH,
  "train.max_epochs": _integer(1),
  "train.learning_rate": _POSITIVE,
  "train.optimizer": _TEXT,
  "train.momentum": _WEIGHT,
  "train.weight_decay": _WEIGHT,
  "train.schedule": _TEXT,
  "train.warmup": _WEIGHT,
  "train.schedule_unit": _TEXT,
  "train.rates": Rule(_GROUP, "x"),
  "train.average": _TEXT,
  "train.average_decay": _WEIGHT,
  "train.average_start": _WEIGHT,
  "train.keep": _TEXT,
  "data.fourier": _integer(0),
  "data.context": _tuple(_TEXT.ok, "x"),
  "train.clip_norm": _number(lambda v: v >= 0, ">= 0; 0 does not clip"),
  "train.compilation_cache": Rule(
    lambda v: isinstance(v, str) and v != "" and not _path(v).is_file(), 'a directory, "auto" or "off"'
  ),
  "train.patience": _integer(1, "an integer number of epochs"),
  "train.min_delta": _number(lambda v: v >= 0, ">= 0"),
  "checkpoint.every_epochs": _integer(1),
}

WHOLE = ("loss.ablations", "train.rates", "data.lengths", "data.masked_above", "data.fixed", "model.encoders")


def _encoder_rules(model_type: object, key: str) -> dict[str, Rule]:
  """A rule for each argument of the encoder at a key, from the type of its default."""
  from colearn_jax import encoders  # here and below: what loads JAX or TFDS comes late, errors come fast

  def rule(name: str, default: object) -> Rule:
    if name == "use_norm":
      return _choice(*encoders.NORMS)
    if name in encoders.SIZES:
      return Rule(lambda v: v is None or _integer(1).ok(v), "an integer >= 1, or None for the data's own")
    if "dropout" in name:
      return _number(lambda v: 0 <= v < 1, ">= 0 and < 1")
    kinds = {bool: _SWITCH, int: _integer(1), float: _POSITIVE, tuple: _WIDTHS}
    return kinds.get(type(default), _TEXT)

  try:
    own = encoders.arguments(str(model_type))
  except InputError as error:
    raise InputError(f"{key}.model_type: {error}") from None
  return {"model_type": _TEXT, **{name: rule(name, default) for name, default in own.items()}}


def _rules(values: Mapping[str, object]) -> dict[str, Rule]:
  """The rule of every key that a configuration with this encoder has to have."""
  encoder = _encoder_rules(values.get("model.encoder.model_type"), "model.encoder")
  from colearn_jax import methods

  own = {f"loss.{k}": s.rule for k, s in methods.settings(str(values.get("method", "mdico"))).items()}
  return RULES | own | {f"model.encoder.{name}": rule for name, rule in encoder.items()}


def _flat(config: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
  """Dotted keys and values; what stands under one of `WHOLE` is one value."""
  for key, value in config.items():
    if _GROUP(value) and prefix + key not in WHOLE:
      yield from _flat(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


_NO_CONFIG = "--config is missing; a configuration file, e.g. --config=configs/synthetic.py"


def load(path: str, overrides: Mapping[str, object] | None = None) -> ConfigDict:
  """The configuration that a command line would give, locked and checked; for notebooks and scripts.

  Args:
    path: as behind `--config=`, e.g. `configs/lfmc.py:released`.
    overrides: values by dotted key, e.g. `{"train.max_epochs": 3}`.

  Raises:
    InputError: as on the command line.
  """
  given = [f"--config.{key}={value}" for key, value in (overrides or {}).items()]
  argv, values = ["load", f"--config={path}", *given], flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  parse(argv, values)
  validate(values.config)
  return values.config


def parse(argv: Sequence[str], values: flags.FlagValues) -> None:
  """Parses a command line into flags, of which `config` has to be one; `validate` checks its values.

  What can be wrong is found here before ml_collections meets it, which raises a different kind of exception
  for each case, and sees no error in a configuration file without `get_config` after another one with it.

  Args:
    argv: the program's name and its arguments.
    values: the flags, defined with `config_flags.DEFINE_config_file`.

  Raises:
    InputError: anything is wrong, in one line.
  """
  given: dict[str, str] = {}
  known: dict[str, Rule] = {}
  try:
    words = flags.FLAGS.read_flags_from_files(list(argv[1:]))
    for word, following in zip(words, [*words[1:], ""]):
      if match := re.fullmatch(r"--?(?:no)?config(?:\.([^=]*))?(?:=(.*))?", word, re.DOTALL):
        key, value = match[1], following if match[2] is None else match[2]
        if key is None:
          known = _known(value)
        else:
          given[key] = value
    if given and not known:
      raise InputError(_NO_CONFIG)
    for key in given:
      if key not in known:
        raise InputError(_unknown(key, known))
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", r"the load_module\(\) method is deprecated", DeprecationWarning)
      rest = values(argv)
  except flags.Error as error:
    for key, value in given.items():
      if isinstance(error, flags.IllegalFlagValueError) and str(error).startswith(f"flag --config.{key}="):
        _refuse(key, value, known[key].allowed)
    raise InputError(_line(error)) from None
  if rest[1:]:
    raise InputError(f"unexpected argument {rest[1]!r}; options begin with -- and lists have no spaces")
  if values.config is None:
    raise InputError(_NO_CONFIG)
  names = dict(_flat(values.config)).get("data.modalities", ())
  if isinstance(names, tuple) and any("," in str(name) for name in names):  # `S1,S2` comes as one name
    values.config.data.modalities = tuple(part.strip() for name in names for part in str(name).split(","))


def _known(spec: str) -> dict[str, Rule]:
  """The rule of each key in a configuration file, which is run for that; `spec` as behind `--config=`."""
  path, *arg = spec.split(":", 1)
  if not path:
    raise InputError(_NO_CONFIG)
  if not Path(path).is_file():
    raise InputError(f"--config={spec}: there is no file {path} in {Path.cwd()}")
  try:
    get_config = runpy.run_path(path).get("get_config")
    config = get_config(*arg) if get_config else None
  except InputError:
    raise
  except Exception as error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"{path}, line {lines[-1]}" if lines else path
    raise InputError(f"{where}: {type(error).__name__}: {_line(error)}") from error
  if not isinstance(config, ConfigDict):
    raise InputError(f"--config={spec}: {path} has no get_config() that returns a ConfigDict")
  values = dict(_flat(config))
  rules = _rules(values)
  return {key: rules.get(key, _TEXT) for key in values}


def _line(error: Exception) -> str:
  return " ".join(str(error).split())


def _unknown(key: str, known: Mapping[str, Rule]) -> str:
  """The line for a key that there is not: the nearest one, and those of its group."""
  if outer := next((k for k in known if key.startswith(f"{k}.")), None):
    return f"unknown key {key}: {outer} is one value; {known[outer].allowed}"
  within = lambda group: [k for k in known if k.startswith(f"{group}.")]
  if within(key):
    return f"{key} is a group of keys, change them one by one: {', '.join(within(key))}"
  last = lambda k: k.rpartition(".")[2]
  alike = difflib.get_close_matches(last(key), map(last, known), 1)
  near = [k for k in known if last(k) in alike] or difflib.get_close_matches(key, known, 1, cutoff=0.8)
  have = within(key.rpartition(".")[0]) or dict.fromkeys(k.partition(".")[0] for k in known)
  return f"unknown key {key!r}, {f'did you mean {near[0]}? ' if near else ''}have: {', '.join(have)}"


def validate(config: ConfigDict, *, begun: bool = False) -> None:
  """Checks every key of a configuration, also against what the data set has; builds and reads no data.

  Args:
    config: with every key.
    begun: whether the training was begun before: the weights that encoders began with, which are read once,
      need not be there any more.

  Raises:
    InputError: one line with the key, its value and what is allowed.
  """
  values = dict(_flat(config))
  rules = _rules(values)
  hint = "; --config=FILE:encoder=NAME brings an encoder with its arguments"
  for key in values:
    if key not in rules:
      raise InputError(_unknown(key, rules) + hint * key.startswith("model.encoder."))
  for key, rule in rules.items():
    if key not in values:
      raise InputError(f"{key} is missing; {rule.allowed}{hint * key.startswith('model.encoder.')}")
    _check(key, values[key], rule)
  for modality, arguments in config.model.encoders.items():
    if modality not in config.data.modalities:
      _refuse("model.encoders", modality, f"a configured modality: {', '.join(config.data.modalities)}")
    key, model_type = f"model.encoders.{modality}", encoder_settings(config, modality)["model_type"]
    rules = _encoder_rules(model_type, key)
    for name, value in arguments.items():
      if name not in rules:
        _refuse(key, name, f"an argument of encoder {model_type}: {', '.join(rules)}")
      _check(f"{key}.{name}", value, rules[name])
  _check_data(config, begun)


def _check(key: str, value: object, rule: Rule) -> None:
  if not rule.ok(value):
    _refuse(key, value, rule.allowed)


def _refuse(key: str, value: object, allowed: str) -> NoReturn:
  value = value.to_dict() if isinstance(value, ConfigDict) else value
  raise InputError(f"{key}: {value!r} is not allowed; {allowed}")


def _check_data(config: ConfigDict, begun: bool) -> None:
  """The part of `validate` that asks the data set's builder, which need not have built anything."""
  from colearn_jax.datasets import build

  name, modalities = config.data.name, config.data.modalities
  if name not in build.names():
    _refuse("data.name", name, f"one of: {', '.join(build.names())}")
  try:
    builder, form = build.find(name, config.data.manual_dir)
  except InputError as error:
    raise InputError(f"data.manual_dir: {error}") from None
  # A directory that cannot exist: what is prepared elsewhere is of no interest, and nothing is made.
  info = builder(data_dir="/dev/null/none", config=form).info
  features, described = info.features, info.metadata["views"]
  if config.protocol.group_by not in ("", *features["groups"]):
    groups = ", ".join(features["groups"])
    _refuse("protocol.group_by", config.protocol.group_by, f"nothing, or a group of {name}: {groups}")
  known = {view: tuple(feature.shape) for view, feature in features["views"].items()}
  # How long the longest series is is known once the data set is built; until then any length stands for it.
  fixed = series.plan(series_settings(config), known, described, dict.fromkeys(known, 100))
  known |= {view: ragged.shape for view, ragged in fixed.items()}
  for modality in modalities:
    try:
      views = resolve_views(modality, known)
    except InputError as error:
      raise InputError(f"data.modalities: {error}") from None
    shapes = [known[view] for view in views]
    if len({shape[:-1] for shape in shapes}) > 1:
      _refuse("data.modalities", modality, f"views of one shape but for the last axis, not {shapes}")
    shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    if config.augment.quarter_turns and len(shape) > 2 and shape[-3] != shape[-2]:
      _refuse("augment.quarter_turns", True, f"False, for {modality} is not square but {shape[-3:-1]}")
    if config.data.normalisation == "fixed":
      for view in views:
        _check_fixed(config.data.fixed.to_dict(), view, described[view]["bands"])
    _check_encoder(config, modality, shape, begun)


def _check_fixed(fixed: Mapping[str, Mapping], view: str, bands: Sequence[str]) -> None:
  """Whether there are constants for the view, and as many as it has bands."""
  if view not in fixed:
    _refuse("data.fixed", fixed, f"for data.normalisation=fixed it needs an offset and a scale of {view}")
  for name, values in fixed[view].items():
    if isinstance(values, list | tuple) and len(values) != len(bands):
      _refuse(f"data.fixed.{view}.{name}", values, f"a number, or one for each of: {', '.join(bands)}")


def _check_encoder(config: ConfigDict, modality: str, shape: tuple[int, ...], begun: bool) -> None:
  """Makes a modality's encoder without its arrays, for it may refuse its arguments or the shape."""
  from flax import nnx

  from colearn_jax.encoders import make_encoder
  from colearn_jax.weights import imagenet as images

  settings = encoder_settings(config, modality)
  try:
    nnx.eval_shape(lambda: make_encoder(settings, shape, config.model.emb_dim, rngs=nnx.Rngs(0)))
    if not begun:
      images.load(settings, shape)
  except InputError as error:
    where = "model.encoders" if modality in config.model.encoders else "model.encoder"
    raise InputError(f"{where}, for modality {modality}: {error}") from None


def series_settings(config: ConfigDict) -> series.Settings:
  """How series of different lengths come to one, for `data.open_dataset`."""
  given = config.data
  return series.Settings(given.series, given.lengths.to_dict(), given.masked_above.to_dict())


def encoder_settings(config: ConfigDict, modality: str, shape=None) -> dict[str, object]:
  """The settings of one modality's encoder, for `encoders.make_encoder`.

  Those of `model.encoder` with the modality's own in `model.encoders` on top; its own alone, the rest being
  defaults, where they name another `model_type`.
  """
  common, own = config.model.encoder.to_dict(), config.model.encoders.to_dict().get(modality, {})
  return own if own.get("model_type", common["model_type"]) != common["model_type"] else common | own


def to_json(config: ConfigDict) -> dict:
  """The configuration in what JSON has, tuples as lists; `restore` makes an equal one of it."""
  return _mapped(config.to_dict(), lambda v: list(v) if isinstance(v, tuple) else v)


def restore(tree: Mapping) -> ConfigDict:
  """The configuration that `to_json` wrote, locked."""
  return ConfigDict(_mapped(tree, lambda v: tuple(v) if isinstance(v, list) else v)).lock()


def _mapped(tree: Mapping, leaf: Callable[[object], object]) -> dict:
  return {k: _mapped(v, leaf) if isinstance(v, Mapping) else leaf(v) for k, v in tree.items()}


_ELSEWHERE = ("data.data_dir", "data.manual_dir", "data.workers", "train.compilation_cache")


def differences(old: Mapping, new: Mapping) -> list[str]:
  """What differs between two configurations as `to_json` gives them, but for where data and devices are.

  One line a key, e.g. `train.batch_size: 32 there, 64 here`.
  """
  there, here = dict(_flat(old)), dict(_flat(new))
  shown = lambda values, key: "nothing" if values.get(key) is None else repr(values[key])
  return [
    f"{key}: {shown(there, key)} there, {shown(here, key)} here"
    for key in there | here
    if key not in _ELSEWHERE and not key.startswith("mesh.") and shown(there, key) != shown(here, key)
  ]
