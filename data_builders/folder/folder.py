"""What is in a directory of a user's own: its description, its table, and the files of its views."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from colearn_jax.datasets.folder import table, views
from colearn_jax.datasets.folder.description import DESCRIPTION, read_description
from colearn_jax.datasets.folder.survey import View, pattern, survey
from colearn_jax.datasets.folder.views import Files, ViewFiles

from colearn_jax.types import InputError

HOW_TO_GIVE_IT = (
  "give the directory of your data (--manual_dir=DIR, in training --config.data.manual_dir=DIR)"
)


@dataclasses.dataclass(frozen=True)
class Folder:
  """A directory before any file of values is opened; equal to another if nothing in it has changed."""

  path: Path
  stamp: str
  sources: Mapping[str, str] = dataclasses.field(compare=False)
  described: Mapping[str, Mapping] = dataclasses.field(compare=False)
  table: table.Table = dataclasses.field(compare=False)
  views: tuple[ViewFiles, ...] = dataclasses.field(compare=False)

  @property
  def ids(self) -> list[str]:
    """Of all samples, in the table's order."""
    return [sample.id for sample in self.table.samples]

  @property
  def masks(self) -> dict[str, str]:
    """By view the one that masks it."""
    return {name: view["mask"] for name, view in self.described["views"].items() if "mask" in view}


@dataclasses.dataclass(frozen=True)
class Surveyed:
  """The views of a directory as they are stored.

  Attributes:
    views: in the order of `Folder.views`.
    files: for each view those of each sample in the table's order.
    wrong: by sample why its files cannot be used.
  """

  views: tuple[View, ...]
  files: tuple[tuple[Files, ...], ...]
  wrong: Mapping[str, str]


def read_folder(manual_dir: str | Path | None) -> Folder:
  """Reads the table of a directory and lists its files; what was read is kept while no file changes.

  Raises:
    InputError: something is missing or malformed, or a sample has no file at all.
  """
  if not manual_dir:
    raise InputError(f"folder is no data set of its own: {HOW_TO_GIVE_IT}")
  try:
    path = Path(manual_dir).expanduser().absolute()
  except RuntimeError:  # a container without a home directory
    raise InputError(f"{manual_dir}: there is no home directory; give the whole path") from None
  if not path.is_dir():
    raise InputError(f"{path} is no directory: {HOW_TO_GIVE_IT}")
  return _read_folder(path, views.walk(path))


@functools.lru_cache(maxsize=4)
def _read_folder(path: Path, entries: views.Entries) -> Folder:
  described, file = read_description(path), table.find_table(path)
  samples = table.read_table(file, described["task"])
  ids = [sample.id for sample in samples.samples]
  found = views.find(path, ids, entries)
  names = {view.name for view in found}
  for name, view in described["views"].items():
    for wanted in (name, view.get("mask", name)):
      if wanted not in names:
        have = ", ".join(sorted(names))
        raise InputError(f"{path / DESCRIPTION} names the view {wanted!r}, the folder has: {have}")
  if not any(view.stack for view in found):
    for sample, files in zip(ids, zip(*(view.files for view in found))):
      if not any(files):
        raise InputError(f"{file}, sample {sample}: it has no file in any view: {', '.join(sorted(names))}")
  digest = lambda content: hashlib.sha256(content).hexdigest()
  sources = {one.name: digest(one.read_bytes()) for one in (file, path / DESCRIPTION) if one.is_file()}
  sources |= {view.name: digest(json.dumps(view.stamp).encode()) for view in found}
  return Folder(path, digest(json.dumps(sources).encode()), sources, described, samples, tuple(found))


@functools.lru_cache(maxsize=4)
def survey_folder(folder: Folder) -> Surveyed:
  """The views of a directory, from the headers of all files; see `survey.survey`."""
  every, files, wrong = [], [], {}
  masked = {*folder.masks, *folder.masks.values()}
  for found in folder.views:
    said = folder.described["views"].get(found.name, {})
    view, own, odd = survey(found, folder.ids, said, found.name in masked)
    every.append(view)
    files.append(own)
    wrong = odd | wrong
  known = {view.name: view for view in every}
  for name, mask in folder.masks.items():
    one, other = known[name], known[mask]
    if len(one.shape) != len(other.shape) or len(one.shape) < 2:
      raise InputError(f"view {name} has shape {pattern(one.shape)}, its mask {mask} {pattern(other.shape)}")
    if one.numbered != other.numbered:  # steps of a view and of its mask are the same ones
      dated, bare = (other, one) if one.numbered else (one, other)
      known[bare.name] = dataclasses.replace(bare, numbered=False, days_of=dated.name)
    known[mask] = dataclasses.replace(known[mask], percent=known[mask].boolean)
  return Surveyed(tuple(known.values()), tuple(files), wrong)
