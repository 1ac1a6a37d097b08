"""Finds keys that a user set, and that have no effect beside the values of the other keys.

A setting says in `needs` which values of other keys, or which kind of data, it needs. Presets may hold values
without an effect. What a user sets is honoured or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from colearn_jax import schema, schema_pages
from colearn_jax.rules import Rule, Setting
from colearn_jax.types import resolve_views

if TYPE_CHECKING:
  from colearn_jax.datasets.build import Described

ENCODER, ENCODERS = "model.encoder.", "model.encoders"
OFF = (0, False, "", "none", ())
Values = Mapping[str, list]  # of keys; a weight has several if there are ablations


def without_effect(config: ConfigDict, keys: Iterable[str], described: Described) -> dict[str, str]:
  """Finds which of some keys have no effect.

  Args:
    config: the configuration, which is allowed.
    keys: dotted keys that a user set, as for `values.assign`. What is switched off by its value (0, False,
      `none`, nothing) needs nothing.
    described: the data set of the configuration.

  Returns:
    For each key without an effect a sentence that says why.
  """
  known = schema.settings(config.method, config.model.encoder.model_type)
  values, true = _values(config), facts(config, described)
  out: dict[str, str] = {}
  for key in keys:
    for name in _names(config, key):
      if name.startswith((ENCODER, f"{ENCODERS}.")):
        uses = list(_of_encoders(config, name, known))
      else:
        uses = [(known[name], values[name][0], {})]
      reasons = [
        "" if value in OFF else _reason(name, setting.needs, {**values, **beside}, true)
        for setting, value, beside in uses
      ]
      if all(reasons):
        other = f"{name} has no effect: {ENCODERS} sets it, or another encoder, for every sensor"
        out.setdefault(key, reasons[0] if reasons else other)
  return out


def facts(config: ConfigDict, described: Described) -> dict[str, bool]:
  """What `Setting.needs` may name beside keys, and whether it is so. The data set need not be built."""
  from colearn_jax.methods.configured import make_method

  views = [resolve_views(modality, described.shapes)[0] for modality in config.data.modalities]
  axes = {len(described.shapes[view]) for view in views}
  regression, method = described.task.kind == "regression", make_method(config)
  return {
    "a regression": regression,
    "classes or labels": not regression,
    "images": not axes.isdisjoint((3, 4)),
    "series": not axes.isdisjoint((2, 4)),
    "several sensors": len(config.data.modalities) > 1,
    "several terms": sum(getattr(method, term) > 0 for term in method.terms) > 1,
    "terms without labels": method.uses_unlabelled,
  }


def _values(config: ConfigDict) -> dict[str, list]:
  values = {key: [value] for key, value in schema.flat(config)}
  for weights in config.loss.ablations.values():
    for term, weight in weights.items():
      values[f"loss.{term}"].append(weight)
  return values


def _names(config: ConfigDict, key: str) -> list[str]:
  """The key itself; or `model.encoders.<sensor>.<argument>` for all that it sets of single sensors."""
  every = {f"{ENCODERS}.{modality}": own for modality, own in config.model.encoders.items()}
  if key != ENCODERS and key not in every:
    return [key]
  sets = every if key == ENCODERS else {key: every[key]}
  return [f"{sensor}.{name}" for sensor, own in sets.items() for name in own if name != "model_type"]


def _of_encoders(
  config: ConfigDict, key: str, known: Mapping[str, Setting]
) -> Iterator[tuple[Setting, object, dict[str, list]]]:
  """For each sensor whose encoder has this argument from this key: setting, value, and values beside it."""
  from colearn_jax import encoders

  common = config.model.encoder.to_dict()
  for modality in config.data.modalities:
    own = config.model.encoders.to_dict().get(modality, {})
    kind = own.get("model_type", common["model_type"])
    settings, same = encoders.settings(kind), common["model_type"] in (encoders.AUTO, kind)
    every = {name: setting.default for name, setting in settings.items()} | (common if same else {}) | own
    beside = {ENCODER + name: [value] for name, value in every.items()}
    if key.startswith(ENCODER):
      name = key.removeprefix(ENCODER)
      if same and name not in own:
        yield known[key], every[name], beside
    elif key.startswith(f"{ENCODERS}.{modality}."):
      name = key.removeprefix(f"{ENCODERS}.{modality}.")
      yield settings[name], every[name], beside


def _reason(key: str, needs: Mapping[str, Rule], values: Values, true: Mapping[str, bool]) -> str:
  """Why a key has no effect; empty if it has one."""
  for need, rule in needs.items():
    if need in true:
      if not true[need]:
        return f"{key} has no effect without {need}"
    elif not any(map(rule.ok, values[need])):
      shown = schema_pages.shown(values[need][0])
      return f"{key} has no effect with {need}={shown}; it has one with {schema_pages.allowed(rule)}"
  return ""
