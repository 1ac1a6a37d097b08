"""Reads `dataset.json`: what a user says of the task and of the views."""

from __future__ import annotations

import json
import math
from pathlib import Path

from colearn_jax.types import STEPS, InputError, is_steps

DESCRIPTION = "dataset.json"


def _texts(value) -> bool:
  return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _number(value) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and not math.isinf(value)


def _numbers(value) -> bool:
  return _number(value) or isinstance(value, list) and bool(value) and all(map(_number, value))


def _numbers_or_none(value) -> bool:
  return value == [] or _numbers(value)


def _names(value) -> bool:
  return _texts(value) or isinstance(value, dict) and bool(value) and all(map(_text, value.values()))


def _text(value) -> bool:
  return isinstance(value, str)


def _codes(value) -> bool:
  values = value if isinstance(value, list) else [value]
  return all(_number(v) or isinstance(v, str) for v in values)


TASK = {
  "kind": (_text, "a text"),
  "outputs": (_names, "a list of names, or an object of codes and names"),
  "unit": (_text, "a text"),
  "unlabelled": (_codes, "a code or a list of codes"),
}
VIEW = {
  "bands": (_texts, "a list of names"),
  "description": (_text, "a text"),
  "dates": (lambda value: isinstance(value, list) and bool(value), "a list of dates"),
  "mask": (_text, "a text"),
  "steps": (is_steps, f"one of: {STEPS}"),
  "units": (lambda value: _text(value) or _texts(value), "a text, or a list of one for each band"),
  "nodata": (_numbers_or_none, "a number or a list of numbers"),
  "scale": (_numbers, "a number or a list of numbers"),
  "offset": (_numbers, "a number or a list of numbers"),
  "unusable": (lambda value: _number(value) and 0 <= value <= 1, "a share from 0 to 1"),
}


def read_description(folder: Path) -> dict[str, dict]:
  """What `dataset.json` says of the task and the views, {} of each if there is no such file.

  Raises:
    InputError: it is not JSON, or has an unknown key or a value that is not allowed.
  """
  path, out = folder / DESCRIPTION, {"task": {}, "views": {}}
  if not path.is_file():
    return out
  try:
    tree = json.loads(path.read_text(encoding="utf-8-sig"))
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"cannot read {path} as JSON: {' '.join(str(error).split())}") from error

  def check(node, allowed, where):
    if not isinstance(node, dict):
      raise InputError(f"{path}: {where} has to be an object")
    for key, value in node.items():
      if key not in allowed:
        raise InputError(f"{path}: unknown key {key!r} of {where}, have: {', '.join(allowed)}")
      ok, what = allowed[key]
      if not ok(value):
        raise InputError(f"{path}: {key} of {where} is {value!r}, not {what}")

  check(tree, {key: (lambda value: isinstance(value, dict), "an object") for key in out}, "the file")
  out |= tree
  check(out["task"], TASK, "the task")
  for name, described in out["views"].items():
    check(described, VIEW, f"view {name}")
    if described.get("mask") == name:
      raise InputError(f"{path}: the mask of view {name} is the view itself, not another one")
    for key in ("nodata", "scale", "offset", "units"):
      given, bands, what = (
        described.get(key),
        described.get("bands"),
        "units" if key == "units" else "numbers",
      )
      if isinstance(given, list) and given and bands and len(given) != len(bands):
        raise InputError(f"{path}: {key} of view {name} has {len(given)} {what} for {len(bands)} bands")
  return out
