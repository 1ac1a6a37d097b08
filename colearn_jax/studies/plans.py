"""Loads and checks plans, makes the configuration of each arm, and writes `study.json` and `plan.json`."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax import schema
from colearn_jax.datasets import build
from colearn_jax.effects import without_effect
from colearn_jax.evaluation.metrics import HEADLINE
from colearn_jax.plan import INPUTS, KINDS, SEARCHES, Arm, Cell, Study, Trees
from colearn_jax.storage import files
from colearn_jax.types import InputError
from colearn_jax.values import assign, from_text, unknown

WORDS = "words"  # among the keys of a choice: further words of the preset
# What the arms of a cell have in common. Folds differ if one of these differs.
COMMON = (
  "data.name",
  "data.modalities",
  "data.context",
  *(key for key in schema.SCHEMA if key.startswith("protocol.")),
)
FREE = ("protocol.name", "protocol.validation_fraction")  # these do not change test parts


def presets() -> dict[str, Path]:
  """The file of each study that is installed with the package, by name."""
  import colearn_jax.configs as package

  found = sorted(path for folder in package.__path__ for path in Path(folder).glob("studies/*.py"))
  return {path.stem: path for path in found if path.stem != "__init__"}


def load(spec: str) -> Study:
  """Executes a study file and checks the plan's names.

  Args:
    spec: a name in `configs/studies` or a file; then optionally a colon and words for its `get_study`.

  Raises:
    InputError: there is no such file, its code raises an exception, or the plan contradicts itself.
  """
  name, *words = spec.split(":", 1)
  known, path = presets(), Path(name).expanduser()
  if name not in known and not path.is_file():
    near = difflib.get_close_matches(path.stem, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"--config={spec}: there is no file {name}, {hint}studies: {', '.join(known)}")
  study = config_lib.call(spec, known.get(name, path), "get_study", words)
  if not isinstance(study, Study):
    raise InputError(f"--config={spec}: {path} has no get_study() that returns a Study")
  for problem in _problems(study):
    raise InputError(f"--config={spec}: {problem}")
  return study


def _problems(study: Study) -> Iterator[str]:
  """What is wrong with the names of a plan."""
  safe = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")
  folders = [f"{cell.name}/{arm.name}" for cell in study.cells for arm in cell.arms]
  for folder in folders:
    if not all(safe.fullmatch(part) for part in folder.split("/")):
      yield f"{folder!r} is not allowed; names of cells and arms have letters, digits and _ . + -"
    if folders.count(folder) > 1:
      yield f"{folder} is given twice"
    if any(other.startswith(f"{folder}/") for other in folders):
      yield f"{folder} is an arm and the beginning of another cell's name"
  if len({tuple(cell.axes) for cell in study.cells}) > 1 or any(len(cell.axes) > 2 for cell in study.cells):
    yield "all cells have the same axes, at most two"
  arms = {cell.name: {arm.name for arm in cell.arms} for cell in study.cells}
  for one in study.comparisons:
    for name in (one.arm, one.against):
      if name not in arms.get(one.cell, ()):
        yield f"comparisons: there is no arm {one.cell}/{name}"
  for cell in study.cells:
    for key in cell.values:
      if not key.startswith(("data.", "protocol.")):
        yield f"cell {cell.name}: {key} is not allowed; data.* and protocol.*, other keys belong to an arm"
    for arm in cell.arms:
      where = f"arm {cell.name}/{arm.name}"
      if arm.kind not in KINDS:
        yield f"{where}: kind {arm.kind!r} is not allowed; one of: {', '.join(KINDS)}"
      read = arm.trees.inputs
      if not read or not set(read) <= set(INPUTS) or (arm.kind != "trees" and read != Trees.inputs):
        yield f"{where}: trees read one or both of {', '.join(INPUTS)}, the context alone has neither"
      choice = arm.choose
      if choice is None:
        continue
      if arm.kind != "network":
        yield f"{where}: choose is for networks; the settings of trees are in `trees`"
      if choice.search not in SEARCHES or choice.per not in ("cell", "run"):
        yield f"{where}: search is one of {', '.join(SEARCHES)}, and per is cell or run"
      if not 0 <= choice.validation_fraction < 1:
        yield f"{where}: validation_fraction is a number >= 0 and < 1"
      if choice.search != "grid" and choice.draws < 1:
        yield f"{where}: search={choice.search} needs draws >= 1"
      if choice.per == "run" and choice.seeds:
        yield f"{where}: per=run uses all seeds of the cell; leave seeds out"
      if fixed := [key for key in choice.values if key in COMMON and key not in FREE]:
        yield f"{where}: {fixed[0]} cannot be chosen; it belongs to the cell"


def configuration(
  cell: Cell, arm: Arm, given: Mapping[str, str | bool], more: Mapping[str, object] | None = None
) -> ConfigDict:
  """The configuration of an arm, locked. It is checked key by key, not yet against the data.

  Args:
    cell: the cell.
    arm: the arm.
    given: values of the command line as text (switches as bool), by dotted key. They count most.
    more: further values by dotted key, e.g. those of a candidate; `words` are words of the preset.

  Raises:
    InputError: a key or value is not allowed. The message names the arm.
  """
  more = dict(more or {})
  name, colon, words = (arm.config or cell.config).partition(":")
  every = ",".join(filter(None, (words, arm.words, str(more.pop(WORDS, "")))))
  try:
    config = config_lib.read(f"{name}:{every}" if every else name + colon)
    known = config_lib.settings_of(config)
    for key, value in {**cell.values, **arm.values, **more, "baseline": False}.items():
      assign(config, known, key, value)
    for key, text in given.items():
      if key not in known:
        raise InputError(unknown(key, known))
      assign(config, known, key, from_text(text, known[key]) if isinstance(text, str) else text)
  except InputError as error:
    raise InputError(f"arm {cell.name}/{arm.name}: {error}") from None
  return config.lock()


def claim(study: Study, given: Mapping[str, str | bool], workdir: Path) -> dict:
  """Checks all configurations, and writes `study.json` and `plan.json`. Returns the content of `study.json`.

  Raises:
    InputError: a configuration is not allowed, a key has no effect, or the directory holds a study with
      another plan.
  """
  plan: dict = {"name": study.name, "cells": {}}
  idle: list[dict[str, str]] = []
  shown: dict = {"name": study.name, "digest": "", "cells": [], "comparisons": []}
  for cell in study.cells:
    configs = {arm.name: configuration(cell, arm, given) for arm in cell.arms}
    described, metric = _checked(cell, configs)
    task = described.task.kind
    if not (workdir / "plan.json").exists():  # an earlier version may have begun the study
      idle += _without_effect(cell, configs, given, described)
    plan["cells"][cell.name] = {"metric": metric} | {
      f"arm {arm.name}": _settings(arm, configs[arm.name]) for arm in cell.arms
    }
    sensors = list(next(iter(configs.values())).data.modalities)
    arms = [{"name": arm.name, "title": arm.title, "kind": arm.kind} for arm in cell.arms]
    facts = {"name": cell.name, "title": cell.title, "task": task, "metric": metric, "sensors": sensors}
    shown["cells"].append(facts | {"axes": dict(cell.axes), "arms": arms})
  for key in given:
    if idle and all(key in one for one in idle):
      raise InputError(f"{idle[0][key]}; so in every arm of the study")
  sensors_of = {cell["name"]: cell["sensors"] for cell in shown["cells"]}
  for one in study.comparisons:
    predictors = list(one.predictors) or sensors_of[one.cell]
    shown["comparisons"].append(dataclasses.asdict(one) | {"predictors": predictors})
  plan = files.jsonable(plan | {"comparisons": shown["comparisons"]})
  shown["digest"] = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
  if (workdir / "plan.json").exists():
    if different := _different(files.read_json(workdir / "plan.json"), plan):
      raise InputError(
        f"{workdir} holds a study with another plan ({different}): use another workdir, or that plan"
      )
  else:
    files.write_json(workdir / "plan.json", plan)
  files.write_json(workdir / "study.json", shown)
  return shown


def _checked(cell: Cell, configs: Mapping[str, ConfigDict]) -> tuple[build.Described, str]:
  """The data set and the metric of a cell, whose arms must have the same test parts."""
  first, *others = configs
  common = {
    name: {key: value for key, value in schema.flat(config) if key in COMMON and key not in FREE}
    for name, config in configs.items()
  }
  for name in others:
    if wrong := [key for key, value in common[name].items() if value != common[first].get(key)]:
      raise InputError(f"arms {first} and {name} of cell {cell.name} differ in {wrong[0]}; it is the cell's")
  for arm in cell.arms:
    config = configs[arm.name]
    if config.protocol.scored != "test":
      raise InputError(f"arm {cell.name}/{arm.name}: protocol.scored=validation is for candidates")
    selects = arm.choose is not None or arm.kind != "network"
    if selects and config.protocol.name != "clean":
      raise InputError(
        f"arm {cell.name}/{arm.name}: settings are chosen on a validation part; protocol.name=clean"
      )
    choice = arm.choose
    if choice and not (choice.validation_fraction or config.protocol.validation_fraction):
      raise InputError(
        f"arm {cell.name}/{arm.name}: settings are chosen on a validation part; "
        "protocol.validation_fraction > 0"
      )
  data = configs[first].data
  described = build.describe(data.name, data.manual_dir)
  task = described.task.kind
  if cell.metric and cell.metric not in HEADLINE[task]:
    raise InputError(f"cell {cell.name}: metric {cell.metric!r}, have: {', '.join(HEADLINE[task])}")
  return described, cell.metric or HEADLINE[task][0]


def _without_effect(
  cell: Cell,
  configs: Mapping[str, ConfigDict],
  given: Mapping[str, str | bool],
  described: build.Described,
) -> list[dict[str, str]]:
  """The keys of the command line that have no effect, with reasons, for each network of the cell.

  Raises:
    InputError: a key of an arm has no effect in it, or one of the cell has none in any of its networks.
  """
  out, of_cell = [], []
  for arm in cell.arms:
    if arm.kind == "network":
      # Values that are chosen may change what the others need.
      keys = () if arm.choose else (*given, *cell.values, *arm.values)
      idle = without_effect(configs[arm.name], keys, described)
      if wrong := [key for key in arm.values if key in idle]:
        raise InputError(f"arm {cell.name}/{arm.name}: {idle[wrong[0]]}")
      out.append({key: reason for key, reason in idle.items() if key in given})
      of_cell.append(idle)
  for key in cell.values:
    if of_cell and all(key in idle for idle in of_cell):
      raise InputError(f"cell {cell.name}: {of_cell[0][key]}")
  return out


def _settings(arm: Arm, config: ConfigDict) -> dict:
  """All that decides about the results of an arm."""
  keys = {k: v for k, v in schema.flat(config_lib.to_json(config)) if not config_lib.of_machine(k)}
  out = {"kind": arm.kind, "config": keys}
  if arm.choose is not None:
    out["choose"] = dataclasses.asdict(arm.choose)
  return out if arm.kind == "network" else out | {"trees": dataclasses.asdict(arm.trees)}


def _different(there: object, here: object, where: str = "") -> str:
  """The first difference between two trees in words; empty if they are equal."""
  if isinstance(there, Mapping) and isinstance(here, Mapping):
    for key in [*there, *here]:
      inner = f"{where}: {key}".removeprefix(": ")
      if key not in here or key not in there:
        return f"{inner} only {'there' if key in there else 'here'}"
      if text := _different(there[key], here[key], inner):
        return text
    return "" if list(there) == list(here) else f"{where}: another order".removeprefix(": ")
  return "" if there == here else f"{where}: {there!r} there, {here!r} here".removeprefix(": ")
