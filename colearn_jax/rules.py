"""Rules for the values of settings: a check, and its description for error messages.

The schema, the methods and the encoders declare their settings with these rules. This module imports nothing
else of the package and nothing that is slow to load.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

from ml_collections import ConfigDict


class Rule(NamedTuple):
  """A check of any value, and the allowed values in words, e.g. `an integer >= 1`."""

  ok: Callable[[Any], bool]
  allowed: str


def is_integer(value: object) -> TypeGuard[int]:
  """Whether the value is an int and not a bool."""
  return isinstance(value, int) and not isinstance(value, bool)


def is_group(value: object) -> TypeGuard[Mapping[str, Any]]:
  """Whether the value is a mapping, e.g. a group of configuration keys."""
  return isinstance(value, Mapping | ConfigDict)


def integer(least: int, what: str = "an integer", most: int | None = None) -> Rule:
  """An integer with a lower bound, and perhaps an upper one.

  What is built one by one (layers, processes, trees) has an upper bound far above use. A slip of the keyboard
  would build for hours otherwise.
  """
  if most is None:
    return Rule(lambda v: is_integer(v) and v >= least, f"{what} >= {least}")
  return Rule(lambda v: is_integer(v) and least <= v <= most, f"{what} from {least} to {most}")


def number(ok: Callable[[float], bool], allowed: str) -> Rule:
  """A finite number for which `ok` returns True; `allowed` says which."""
  finite = lambda v: isinstance(v, float) and math.isfinite(v) or is_integer(v)
  return Rule(lambda v: finite(v) and ok(v), f"a finite number {allowed}".rstrip())


def choice(*names: str) -> Rule:
  """One of several words."""
  return Rule(lambda v: isinstance(v, str) and v in names, f"one of: {', '.join(names)}")


def each(ok: Callable[[Any], bool], allowed: str, *, distinct: bool = False) -> Rule:
  """A tuple whose items all pass `ok`. With `distinct` it must not be empty or repeat an item."""
  good = lambda v: isinstance(v, tuple) and all(map(ok, v))
  return Rule(lambda v: good(v) and (not distinct or 0 < len(v) == len(set(v))), allowed)


def mapping(ok: Callable[[Any], bool], allowed: str) -> Rule:
  """A mapping whose values all pass `ok`."""
  return Rule(lambda v: is_group(v) and all(map(ok, v.values())), allowed)


ON = Rule(bool, "another value")  # than 0, False and nothing
TEXT = Rule(lambda v: isinstance(v, str), "text")
SWITCH = Rule(lambda v: isinstance(v, bool), "True or False")
POSITIVE = number(lambda v: v > 0, "> 0")
WEIGHT = number(lambda v: v >= 0, ">= 0; 0 switches the term off")
SHARE = number(lambda v: 0 <= v < 1, ">= 0 and < 1")
WIDEST = 1_000_000  # of layers, by far
WIDTHS = each(integer(1, most=WIDEST).ok, f"integers from 1 to {WIDEST}, as in (64, 32), or () for none")


class Setting(NamedTuple):
  """One setting.

  Attributes:
    default: its default.
    rule: the allowed values.
    help: a sentence for `--help` and the reference page.
    needs: what it needs to have an effect, see `effects`: the rule of another key by its dotted name, or
      `ON` by one of the names in `effects.facts`.
  """

  default: Any
  rule: Rule
  help: str
  needs: Mapping[str, Rule] = {}


def setting(default: Any, rule: Rule, help: str, needs: Mapping[str, Rule] | None = None) -> Any:
  """A field of a dataclass (a method or an encoder) that the configuration can set.

  Args:
    default: the default, from the paper of the method where it states one.
    rule: see `Setting`.
    help: see `Setting`.
    needs: see `Setting`.
  """
  return dataclasses.field(default=default, metadata={"setting": Setting(default, rule, help, needs or {})})


def settings_of(cls: type) -> dict[str, Setting]:
  """The settings that a dataclass declares with `setting`, by name."""
  return {f.name: f.metadata["setting"] for f in dataclasses.fields(cls) if "setting" in f.metadata}
