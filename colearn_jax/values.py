"""Sets single values of a configuration: parses text, converts types, checks the rule.

`assign` is used for flags (`--config.KEY=VALUE`), for presets, and for overrides from Python.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
from ml_collections import ConfigDict

from colearn_jax import schema
from colearn_jax.rules import Rule, Setting, is_group, is_integer
from colearn_jax.types import InputError

METHOD_HINT = "; set the method and its keys by a word, as in --config=NAME:method=individual"
ENCODER_HINT = "; set the encoder and its arguments by a word, as in --config=NAME:encoder=gru"


def assign(config: ConfigDict, known: Mapping[str, Setting], key: str, value: object) -> None:
  """Sets one key. Lists are converted to tuples, integers to floats, and paths to text, as the key requires.

  Args:
    config: the configuration to change.
    known: all its settings, see `config.settings_of`.
    key: dotted key. `model.encoders.<modality>` is allowed too; its value is a mapping of arguments, or the
      name of an encoder. So is `model.encoders.<modality>.<argument>`.
    value: the new value.

  Raises:
    InputError: there is no such key, or the value is not allowed.
  """
  with config.unlocked(), config.ignore_type():  # the rule checks types: protocol.folds has two
    if modality := key.removeprefix("model.encoders.") if key.startswith("model.encoders.") else "":
      modality, value = _encoder_argument(config, modality, value)
      whole = dict(config.model.encoders.items()) | {modality: value}
      key, value = "model.encoders", whole
    if key not in known:
      raise InputError(unknown(key, known))
    setting = known[key]
    value = _converted(key, value, setting)
    if key == "method" and setting.rule.ok(value) and value != config.method:
      raise InputError(f"method: {value!r} has other keys than {config.method!r}{METHOD_HINT}")
    if key == "model.encoder.model_type" and value != config.model.encoder.model_type:
      raise InputError(f"{key}: {value!r} has other arguments than the current encoder{ENCODER_HINT}")
    check(key, value, setting.rule)
    *groups, name = key.split(".")
    inner = config
    for part in groups:
      inner = inner[part]
    inner[name] = schema.group(value) if is_group(value) else value


def _encoder_argument(config: ConfigDict, name: str, value: object) -> tuple[str, object]:
  """The modality and all arguments of its encoder, if the name is `<modality>.<argument>`."""
  modality, _, argument = name.rpartition(".")
  own = config.model.encoders.to_dict().get(modality, {})
  kind = own.get("model_type", config.model.encoder.model_type)
  setting = schema.settings(config.method, kind).get(f"model.encoder.{argument}") if modality else None
  if setting is None:
    return name, value
  if isinstance(value, str):
    value = from_text(value, setting)
  return modality, own | {argument: _converted(name, value, setting)}


def _converted(key: str, value: object, setting: Setting) -> object:
  """Converts a value to the type of the default, if possible. Otherwise returns it unchanged."""
  default = setting.default
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(default, str) and isinstance(value, Path):
    return str(value)
  if isinstance(default, float) and is_integer(value):
    return float(value)
  if isinstance(default, tuple):
    if isinstance(value, str):
      return from_text(value, setting)
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)
  if key == "model.encoders" and is_group(value):
    return {m: {"model_type": own} if isinstance(own, str) else own for m, own in value.items()}
  return value


def from_text(text: str, setting: Setting) -> object:
  """Parses a value from the command line with the type of the default. Returns the text if that fails."""
  default = setting.default
  if isinstance(default, bool):
    switches = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    return switches.get(text.lower(), text)
  if isinstance(default, str):
    return text
  if isinstance(default, tuple):
    if text.strip()[:1] in ("(", "["):
      value = _literal(text)
      return tuple(value) if isinstance(value, tuple | list) else value
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    values = tuple(map(_literal, words))
    return words if setting.rule.ok(words) else values  # names may look like numbers
  if isinstance(default, float):
    try:
      return float(text)
    except ValueError:
      return text
  return _literal(text)


def _literal(text: str) -> object:
  try:
    return ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def unknown(key: str, known: Mapping[str, object]) -> str:
  """The error text for an unknown key. It suggests the nearest key, and lists those of its group."""
  if outer := next((k for k in known if key.startswith(f"{k}.")), None):
    return f"unknown key {key}: {outer} is a single value"
  within = lambda group: [k for k in known if k.startswith(f"{group}.")]
  if within(key):
    return f"{key} is a group of keys, set them one by one: {', '.join(within(key))}"
  last = lambda k: k.rpartition(".")[2]
  alike = difflib.get_close_matches(last(key), map(last, known), 1)
  near = [k for k in known if last(k) in alike] or difflib.get_close_matches(key, known, 1, cutoff=0.8)
  have = within(key.rpartition(".")[0]) or dict.fromkeys(k.partition(".")[0] for k in known)
  hint = METHOD_HINT if key.startswith("loss.") else ""
  hint = ENCODER_HINT if key.startswith("model.encoder.") else hint
  return f"unknown key {key!r}, {f'did you mean {near[0]}? ' if near else ''}have: {', '.join(have)}{hint}"


def check(key: str, value: object, rule: Rule) -> None:
  """Raises InputError if the value does not pass the rule."""
  if not rule.ok(value):
    refuse(key, value, rule.allowed)


def refuse(key: str, value: object, allowed: str) -> NoReturn:
  """Raises the error for a value that is not allowed."""
  value = value.to_dict() if isinstance(value, ConfigDict) else value
  raise InputError(f"{key}: {value!r} is not allowed; {allowed}")
