"""What is in a directory of a user's own: its description, its table, and the files of its views."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from colearn_jax.datasets.folder import table, views
from colearn_jax.datasets.folder.views import Found, View

from colearn_jax.types import InputError

DESCRIPTION = "dataset.json"
HOW_TO_GIVE_IT = (
  "give the directory of your data (--manual_dir=DIR, in training --config.data.manual_dir=DIR)"
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """A directory before any file of values is opened; the same if nothing in it has changed."""

  folder: Path
  stamp: str
  sources: Mapping[str, str] = dataclasses.field(compare=False)
  described: Mapping[str, Mapping] = dataclasses.field(compare=False)
  table: table.Table = dataclasses.field(compare=False)
  found: tuple[Found, ...] = dataclasses.field(compare=False)

  @property
  def ids(self) -> list[str]:
    """Of all samples, in the table's order."""
    return [row.id for row in self.table.rows]


def read_plan(manual_dir: str | Path | None) -> Plan:
  """Reads the table of a directory and lists its files.

  Raises:
    InputError: something is missing or malformed, or a sample has no file at all.
  """
  if not manual_dir:
    raise InputError(f"folder is no data set of its own: {HOW_TO_GIVE_IT}")
  folder = Path(manual_dir).expanduser().absolute()
  described, path = read_description(folder), table.find_table(folder)
  samples = table.read_table(path, described["task"])
  ids = [row.id for row in samples.rows]
  found = views.find(folder, ids)
  names = {view.name for view in found}
  for name, view in described["views"].items():
    for wanted in (name, view.get("mask", name)):
      if wanted not in names:
        have = ", ".join(sorted(names))
        raise InputError(f"{folder / DESCRIPTION} names the view {wanted!r}, the folder has: {have}")
  if all(view.stack is None for view in found):
    for sample, suffixes in zip(ids, zip(*(view.suffixes for view in found))):
      if not any(suffixes):
        raise InputError(f"{path}, sample {sample}: it has no file in any view: {', '.join(sorted(names))}")
  digest = lambda content: hashlib.sha256(content).hexdigest()
  sources = {file.name: digest(file.read_bytes()) for file in (path, folder / DESCRIPTION) if file.is_file()}
  sources |= {view.name: digest(json.dumps(view.stamp).encode()) for view in found}
  return Plan(folder, digest(json.dumps(sources).encode()), sources, described, samples, tuple(found))


def read_description(folder: Path) -> dict[str, dict]:
  """What `dataset.json` says of the task and the views, {} of each if there is no such file.

  Raises:
    InputError: it is no such file, or says something that it cannot say.
  """
  path, out = folder / DESCRIPTION, {"task": {}, "views": {}}
  if not path.is_file():
    return out
  try:
    tree = json.loads(path.read_text(encoding="utf-8-sig"))
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"cannot read {path} as JSON: {' '.join(str(error).split())}") from error
  texts = lambda value: isinstance(value, list) and value and all(isinstance(v, str) for v in value)
  text, named = (lambda value: isinstance(value, str), "a text"), (texts, "a list of names")
  dates = (lambda value: texts(value) or isinstance(value, list) and value, "a list of dates")
  task = {"kind": text, "outputs": named, "unit": text}
  view = {"bands": named, "description": text, "dates": dates, "mask": text}

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
  check(out["task"], task, "the task")
  for name, described in out["views"].items():
    check(described, view, f"view {name}")
  return out


@functools.lru_cache(maxsize=2)  # a training asks for it some times, and there may be many files
def survey(plan: Plan) -> tuple[tuple[View, ...], dict[str, str]]:
  """The views of a directory, and what is wrong with which samples; see `views.survey`."""
  found, wrong = [], {}
  for view in plan.found:
    one, odd = views.survey(plan.folder, plan.ids, view, plan.described["views"].get(view.name, {}))
    found.append(one)
    wrong = odd | wrong
  return tuple(found), wrong
