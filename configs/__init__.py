"""Presets: one configuration file per data set, selected by `--config=NAME:WORDS`.

A configuration file has a function `get_config(words)` that returns a ConfigDict. It is called with the text
after the colon, if there is one. The files in this folder all use `preset`, which parses the words.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from colearn_jax import schema
from colearn_jax.types import InputError
from colearn_jax.values import assign


def preset(
  words: str,
  values: Mapping[str, object],
  *,
  encoder: str = schema.ENCODER,
  method: str = schema.METHOD,
  loss: Mapping[str, object] | None = None,
  **choices: Mapping[str, object],
) -> ConfigDict:
  """Builds the configuration of a preset.

  Every preset has the words `encoder=NAME`, `method=NAME`, `individual` for `method=individual`, and
  `released` for the variant of MDiCo in the authors' program.

  Args:
    words: the text after the colon: words separated by commas.
    values: values of the preset by dotted key. Other keys have the defaults of `schema.py`.
    encoder: the encoder, unless a word selects another one.
    method: the method, unless a word selects another one.
    loss: values of the group `loss`, only for this method.
    choices: further words of this preset, each with the values that it sets.

  Raises:
    InputError: a word is unknown, repeated, or contradicts another one.
  """
  known = ("released", "individual", *choices)
  named: dict[str, str] = {}
  for word in filter(None, map(str.strip, words.split(","))):
    name, _, value = ("method", "=", word) if word == "individual" else word.partition("=")
    if word not in known and not (name in ("encoder", "method") and value):
      have = ", ".join([*known, "encoder=NAME", "method=NAME"])
      raise InputError(f"{word!r} is not allowed; separated by commas: {have}")
    if name in named:
      raise InputError(f"{name!r} is given twice")
    named[name] = value
  default, method = method, named.get("method", method)
  config = schema.defaults(named.get("encoder", encoder), method)
  change = dict(values)
  if method == default:
    change |= {f"loss.{name}": value for name, value in (loss or {}).items()}
  if method == "individual":
    change["baseline"] = False
  if "released" in named:
    if "variant" not in config.loss:
      raise InputError(f"'released' is a variant of mdico; method={method} has no variants")
    change["loss.variant"] = "released"
  chosen = [choices[name] for name in named if name in choices]
  if twice := [key for i, one in enumerate(chosen) for key in one if any(key in two for two in chosen[:i])]:
    both = [name for name in named if twice[0] in choices.get(name, {})]
    raise InputError(f"{' and '.join(both)} both set {twice[0]}; use one of them")
  for one in chosen:
    change |= one
  known_keys = schema.settings(method, config.model.encoder.model_type)
  for key, value in change.items():
    assign(config, known_keys, key, value)
  return config
