"""What a setting may be: a check that takes any value, with the same in words for the error message.

The schema, the methods and the encoders describe their settings with these. This module imports nothing
of the package and nothing that is slow to load.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Rule(NamedTuple):
  """A check and its description, e.g. `an integer >= 1`."""

  ok: Callable[[object], bool]
  allowed: str


def is_integer(value: object) -> bool:
  """Whether it is an int; a bool is not."""
  return isinstance(value, int) and not isinstance(value, bool)


def is_group(value: object) -> bool:
  """Whether it is a mapping."""
  return isinstance(value, Mapping | ConfigDict)


def integer(least: int, what: str = "an integer") -> Rule:
  """An integer with a lower bound."""
  return Rule(lambda v: is_integer(v) and v >= least, f"{what} >= {least}")


def number(ok: Callable[[float], bool], allowed: str) -> Rule:
  """A finite number for which `ok` holds."""
  finite = lambda v: isinstance(v, float) and math.isfinite(v) or is_integer(v)
  return Rule(lambda v: finite(v) and ok(v), f"a finite number {allowed}".rstrip())


def choice(*names: str) -> Rule:
  """One of several words."""
  return Rule(lambda v: isinstance(v, str) and v in names, f"one of: {', '.join(names)}")


def each(ok: Callable[[object], bool], allowed: str, *, distinct: bool = False) -> Rule:
  """A tuple whose items pass; with `distinct` not empty and without repetition."""
  good = lambda v: isinstance(v, tuple) and all(map(ok, v))
  return Rule(lambda v: good(v) and (not distinct or 0 < len(v) == len(set(v))), allowed)


def mapping(ok: Callable[[object], bool], allowed: str) -> Rule:
  """A mapping whose values pass."""
  return Rule(lambda v: is_group(v) and all(map(ok, v.values())), allowed)


TEXT = Rule(lambda v: isinstance(v, str), "text")
SWITCH = Rule(lambda v: isinstance(v, bool), "True or False")
POSITIVE = number(lambda v: v > 0, "> 0")
WEIGHT = number(lambda v: v >= 0, ">= 0; 0 switches the term off")
SHARE = number(lambda v: 0 <= v < 1, ">= 0 and < 1")
WIDTHS = each(lambda v: is_integer(v) and v >= 1, "integers >= 1, as in (64, 32), or () for none")


def setting(default: Any, rule: Rule, help: str) -> Any:
  """A field of a method's dataclass that a configuration may set.

  Args:
    default: of the paper that the method is from, where it has one.
    rule: what a value may be.
    help: one sentence for `--help` and the reference page.
  """
  return dataclasses.field(default=default, metadata={"rule": rule, "help": help})


class Setting(NamedTuple):
  """One setting: its default, what it may be, and what it means."""

  default: Any
  rule: Rule
  help: str


def settings_of(cls: type) -> dict[str, Setting]:
  """The settings that a dataclass declares with `setting`, by name."""
  described = [field for field in dataclasses.fields(cls) if "rule" in field.metadata]
  return {f.name: Setting(f.default, f.metadata["rule"], f.metadata["help"]) for f in described}
