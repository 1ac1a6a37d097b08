"""TFDS builder of a directory of a user's own: see README.md beside it for the layout."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets import shards
from colearn_jax.datasets.folder import table, views
from colearn_jax.datasets.folder.plan import HOW_TO_GIVE_IT, Plan, read_plan, survey
from colearn_jax.datasets.folder.views import View
from colearn_jax.datasets.place import here
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from colearn_jax.types import InputError

SHARD = 128  # samples in a file


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
  """What is known of a sample before its files are read; see `table.Row`."""

  id: str
  row: int
  target: int | tuple[float, ...]
  groups: tuple[str, ...]
  suffixes: tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads samples, see `data_builders.shards`."""

  folder: Path
  views: tuple[View, ...]
  groups: tuple[str, ...]
  outputs: tuple[str, ...]
  classes: bool
  masks: tuple[tuple[str, str], ...]  # pairs of a view and what masks it

  def features(self) -> tfds.features.FeaturesDict:
    """Of a sample; whole numbers say in a feature of their own whether they are there."""
    plain = lambda shape, dtype: tfds.features.Tensor(
      shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES
    )
    if self.classes:
      target = tfds.features.ClassLabel(names=self.outputs)
    else:
      target = tfds.features.Tensor(shape=(len(self.outputs),), dtype=np.float32)
    features = {
      "id": tfds.features.Text(),
      "views": {view.name: plain(view.shape, np.dtype(view.dtype)) for view in self.views},
      "dates": {view.name: plain((None,), np.int32) for view in self.views if view.dated},
      "present": {view.name: tfds.features.Scalar(np.bool_) for view in self.views if view.flagged},
      "target": target,
      "groups": {name: tfds.features.Text() for name in self.groups},
    }
    return tfds.features.FeaturesDict({k: v for k, v in features.items() if v != {} or k == "groups"})

  def read(self, sample: Sample) -> dict:
    """Reads a sample's files; InputError, with its id, if one cannot be read."""
    values, days, there = {}, {}, {}
    for view, suffix in zip(self.views, sample.suffixes):
      path = self._path(view, sample, suffix)
      there[view.name] = path is not None
      values[view.name], days[view.name] = view.absent(), np.zeros(0, np.int32)
      if path is not None:
        try:
          values[view.name], days[view.name] = view.read(path, sample.row)
        except InputError as error:
          raise InputError(f"sample {sample.id}: {error}") from error
    for view, mask in self.masks:
      if there[view] and values[view].shape[:-1] != values[mask].shape[:-1]:
        shapes = (
          f"{values[view].shape}, its mask {mask} {values[mask].shape if there[mask] else 'is missing'}"
        )
        raise InputError(f"sample {sample.id}: view {view} has shape {shapes}")
    example = {
      "id": sample.id,
      "views": values,
      "dates": {view.name: days[view.name] for view in self.views if view.dated},
      "present": {view.name: there[view.name] for view in self.views if view.flagged},
      "target": sample.target if self.classes else np.array(sample.target, np.float32),
      "groups": dict(zip(self.groups, sample.groups)),
    }
    return {k: v for k, v in example.items() if v != {} or k == "groups"}

  def stamp(self, sample: Sample) -> object:
    """What changes with the sample's files, and with what the others have in common."""
    paths = [self._path(view, sample, suffix) for view, suffix in zip(self.views, sample.suffixes)]
    return [repr(self), [path and views.stamp(path) for path in paths]]

  def _path(self, view: View, sample: Sample, suffix: str | None) -> Path | None:
    if view.stack is not None:
      return Path(view.stack)
    return suffix and views.path_of(self.folder, view.name, sample.id, suffix)


class Config(tfds.core.BuilderConfig):
  """A directory, by its name and a digest of where it is."""

  def __init__(self, plan: Plan):
    where = hashlib.sha256(str(plan.folder.resolve()).encode()).hexdigest()[:8]
    super().__init__(name=f"{re.sub('[^A-Za-z0-9-]+', '_', plan.folder.name)}-{where}")
    self.plan = plan


class Builder(FileReaderBuilder):
  """A directory of samples that are described by a table and seen by any number of sensors."""

  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"Your own data: {HOW_TO_GIVE_IT}."

  @staticmethod
  def configure(manual_dir) -> Config:
    """The configuration that stands for a directory; InputError if there is none, or something is wrong."""
    return Config(read_plan(manual_dir))

  @staticmethod
  def sources(manual_dir) -> dict[str, str]:
    """The sha256 of the table and the description, and of the names, sizes and times of each view's files."""
    return dict(read_plan(manual_dir).sources)

  def _create_builder_config(self, builder_config, version):
    return builder_config  # TFDS would warn that it is not one of the class

  def _reader(self) -> Reader:
    plan = self.builder_config.plan
    task = plan.table.task
    return Reader(
      plan.folder,
      survey(plan)[0],
      plan.table.groups,
      tuple(task["outputs"]),
      task["kind"] in ("binary", "multiclass"),
      tuple((name, view["mask"]) for name, view in plan.described["views"].items() if "mask" in view),
    )

  def _info(self) -> tfds.core.DatasetInfo:
    plan, reader = self.builder_config.plan, self._reader()
    described = {view.name: plan.described["views"].get(view.name, {}) for view in reader.views}
    return self.dataset_info_from_configs(
      features=reader.features(),
      disable_shuffling=True,  # the table's order
      metadata=tfds.core.MetadataDict(
        task=dict(plan.table.task),
        views={view.name: _described(view, described[view.name]) for view in reader.views},
        sources={},
        longest={},
        left_out={},
        absent={},
      ),
    )

  def _download_and_prepare(self, dl_manager, download_config):
    plan, reader = self.builder_config.plan, self._reader()
    _, wrong = survey(plan)
    if wrong and getattr(download_config, "unreadable", "fail") == "fail":
      sample, why = next(iter(wrong.items()))
      others = f" (and {len(wrong) - 1} more samples)" if len(wrong) > 1 else ""
      raise InputError(f"sample {sample}: {why}{others}")
    suffixes = zip(*(view.suffixes or [None] * len(plan.table.rows) for view in plan.found))
    splits = {split: [] for split in table.SPLITS}
    for number, (row, own) in enumerate(zip(plan.table.rows, suffixes)):
      if row.id not in wrong:
        splits[row.split].append(Sample(row.id, number, row.target, row.groups, own))
    splits = {split: samples for split, samples in splits.items() if samples}
    if not splits:
      raise InputError(f"{plan.folder} has no sample that can be read: {next(iter(wrong.values()))}")
    counts, unreadable = shards.write_splits(self, splits, reader, download_config, size=SHARD)
    unreadable |= wrong
    absent = {
      view.name: sum(suffix is None for suffix in view.suffixes) for view in plan.found if not view.stack
    }
    self.info.metadata["sources"] = dict(plan.sources)
    self.info.metadata["left_out"] = {"unreadable": unreadable}
    self.info.metadata["absent"] = absent
    for line in report(plan, reader.views, counts, wrong, absent):
      print(f"{plan.folder}: {line}", file=sys.stderr)


def _described(view: View, described: Mapping[str, object]) -> dict:
  """A view in the metadata."""
  out = {"bands": list(view.bands), "description": described.get("description", "")}
  if "mask" in described:
    out["mask"] = described["mask"]
  if view.numbered:
    out["dated"] = False
  return out


def report(
  plan: Plan, found: tuple[View, ...], counts: Mapping[str, int], wrong: Mapping, absent: Mapping
) -> list[str]:
  """What was inferred and what was left out, for the user to check."""
  rows, task = plan.table.rows, plan.table.task
  unlabelled = sum(row.target == -1 or _unknown(row.target) for row in rows)
  lines = [
    f"{', '.join(f'{count} {split}' for split, count in counts.items())} samples; {task['kind']}: "
    + _outputs(plan)
    + f"; {unlabelled} without a target"
  ]
  for view, files in zip(found, plan.found):
    shape = views.pattern(view.shape)
    missing = absent.get(view.name, 0)
    line = f"view {view.name}: {shape} {view.dtype}, bands {', '.join(view.bands)}"
    lines.append(line + f"; {missing} samples lack it" * (missing > 0))
    if files.strangers:
      lines.append(f"view {view.name}: {len(files.strangers)} files of no sample, e.g. {files.strangers[0]}")
  lines += [f"left out {sample}: {why}" for sample, why in wrong.items()]
  if plan.table.unused:
    lines.append(f"columns that are not used: {', '.join(plan.table.unused)}")
  return lines


def _unknown(target) -> bool:
  return isinstance(target, tuple) and all(value != value for value in target)


def _outputs(plan: Plan) -> str:
  """The outputs, and how many samples have each class or label."""
  outputs, targets = plan.table.task["outputs"], [row.target for row in plan.table.rows]
  if plan.table.task["kind"] == "regression":
    return ", ".join(outputs)
  if isinstance(targets[0], tuple):
    counts = {i: sum(target[i] == 1 for target in targets) for i in range(len(outputs))}
  else:
    counts = collections.Counter(targets)
  return ", ".join(f"{name} {counts[i]}" for i, name in enumerate(outputs))
