"""TFDS builder of a directory of a user's own: see README.md beside it for the layout."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import sys

import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets import shards
from colearn_jax.datasets.common import ArrayRecords, here
from colearn_jax.datasets.folder import rasters, table, views
from colearn_jax.datasets.folder.folder import (
  HOW_TO_GIVE_IT,
  Folder,
  Surveyed,
  read_folder,
  survey_folder,
)
from colearn_jax.datasets.folder.report import report
from colearn_jax.datasets.folder.survey import View
from colearn_jax.datasets.folder.table import Sample
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from colearn_jax.types import InputError

SHARD = 128  # samples in a file
HOW_TO_BUILD_IT = (
  "build it with `python -m colearn_jax.datasets.build folder --data_dir=DIR --manual_dir=YOUR_DIRECTORY`"
)


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads samples, see `data_builders.shards`.

  Attributes:
    views: as they are stored.
    groups: names of the groups.
    outputs: names of the classes, labels or target columns.
    classes: whether a sample has exactly one class.
    masks: by view the one that masks it.
    date: whether samples have a date.
    coordinates: whether samples have coordinates, from the table or from the tiles.
  """

  views: tuple[View, ...]
  groups: tuple[str, ...]
  outputs: tuple[str, ...]
  classes: bool
  masks: tuple[tuple[str, str], ...]
  date: bool
  coordinates: bool

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
      "footprint": {view.name: plain((4,), np.float64) for view in self.views if view.located},
      "target": target,
      "groups": {name: tfds.features.Text() for name in self.groups},
    }
    features |= {"date": tfds.features.Text()} if self.date else {}
    features |= {"coordinates": plain((2,), np.float64)} if self.coordinates else {}
    return tfds.features.FeaturesDict({k: v for k, v in features.items() if k == "groups" or _some(v)})

  def read(self, sample: Sample) -> dict:
    """Reads a sample's files; InputError, with its id, if one cannot be read."""
    values, days, bounds, ordered = {}, {}, {}, {}
    for view, files in zip(self.views, sample.files):
      values[view.name], days[view.name] = view.absent(), np.zeros(0, np.int32)
      bounds[view.name] = rasters.NOWHERE
      if files is not None:
        try:
          values[view.name], days[view.name], bounds[view.name] = view.read(files)
        except InputError as error:
          raise InputError(f"sample {sample.id}: {error}") from error
    there = {view.name: files is not None for view, files in zip(self.views, sample.files)}
    self._check_masks(sample, values, days, there)
    for view in self.views:
      if view.dated and there[view.name]:
        own = days[view.days_of if there.get(view.days_of) else view.name]
        order = np.argsort(own, kind="stable")
        ordered[view.name], values[view.name] = own[order], values[view.name][order]
    place = _place(sample, bounds)
    example = {
      "id": sample.id,
      "views": values,
      "dates": {v.name: ordered.get(v.name, days[v.name]) for v in self.views if v.dated},
      "present": {view.name: there[view.name] for view in self.views if view.flagged},
      "footprint": {view.name: np.array(bounds[view.name]) for view in self.views if view.located},
      "target": sample.target if self.classes else np.array(sample.target, np.float32),
      "groups": dict(zip(self.groups, sample.groups)),
    }
    example |= {"date": sample.date} if self.date else {}
    example |= {"coordinates": np.array(place)} if self.coordinates else {}
    return {k: v for k, v in example.items() if k == "groups" or _some(v)}

  def _check_masks(self, sample: Sample, values, days, there) -> None:
    """Raises InputError if a view and its mask do not fit."""
    for view, mask in self.masks:
      if there[view] and (not there[mask] or values[view].shape[:-1] != values[mask].shape[:-1]):
        other = values[mask].shape if there[mask] else "is missing"
        raise InputError(
          f"sample {sample.id}: view {view} has shape {values[view].shape}, its mask {mask} {other}"
        )
      unknown = {one.name for one in self.views if one.numbered or one.days_of}
      if there[view] and not {view, mask} & unknown and not np.array_equal(days[view], days[mask]):
        raise InputError(f"sample {sample.id}: view {view} has other dates than its mask {mask}")

  def stamp(self, sample: Sample) -> object:
    """What changes with the sample's files, and with what the others have in common."""
    paths = [
      views.paths(view, files) if not view.stack else () for view, files in zip(self.views, sample.files)
    ]
    return [repr(self), [[views.stamp(path) for path in files] for files in paths]]


def _some(value) -> bool:
  """Whether a feature is there: a group of features without any is not."""
  return not isinstance(value, dict) or bool(value)


def _place(sample: Sample, bounds: dict[str, tuple]) -> tuple[float, float]:
  """Latitude and longitude of a sample; InputError if its sensors, or the table, are of different places."""
  known = [(name, own) for name, own in bounds.items() if not math.isnan(own[0])]
  for number, (name, own) in enumerate(known):
    for other, its in known[:number]:
      if rasters.apart(own, its):
        shown = lambda b: ", ".join(f"{x:.5f}" for x in b)
        raise InputError(
          f"sample {sample.id}: views {other} and {name} have no ground in common: west, south, east and "
          f"north are {shown(its)} and {shown(own)}"
        )
  latitude, longitude = sample.coordinates
  if known and math.isnan(latitude):
    return rasters.centre(known[0][1])
  around = (longitude - 1, latitude - 1, longitude + 1, latitude + 1)  # the table may be a little wrong
  for name, own in known:
    if abs(longitude) < 179 and rasters.apart(around, own):
      raise InputError(
        f"sample {sample.id}: its latitude {latitude:g} and longitude {longitude:g} are far from view "
        f"{name}, at {rasters.centre(own)[0]:.4f} and {rasters.centre(own)[1]:.4f}"
      )
  return sample.coordinates


class Config(tfds.core.BuilderConfig):
  """A directory, by its name and a digest of where it is."""

  def __init__(self, folder: Folder):
    where = hashlib.sha256(os.fsencode(folder.path.resolve())).hexdigest()[:8]
    super().__init__(name=f"{re.sub('[^A-Za-z0-9-]+', '_', folder.path.name)}-{where}")
    self.folder = folder
    # The sha256 of the table and the description, and of the names, sizes and times of each view's files.
    self.sources = dict(folder.sources)


class Builder(ArrayRecords, FileReaderBuilder):
  """A directory of samples that are described by a table and seen by any number of sensors."""

  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("2.1.0")
  RELEASE_NOTES = {
    "1.0.0": "Initial release.",
    "2.0.0": "Scale factors, masks, dates and targets are read in more conventions.",
    "2.1.0": "More dates, codes, units and names are read or refused.",
  }
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"Your own data: {HOW_TO_GIVE_IT}."

  @staticmethod
  def configure(manual_dir) -> Config:
    """The configuration that stands for a directory; InputError if there is none, or something is wrong."""
    return Config(read_folder(manual_dir))

  @staticmethod
  def describe(manual_dir) -> dict[str, object]:
    """What a directory holds, from its table and the headers of its files; nothing is built.

    Returns:
      `task` (`kind`, `outputs`, `unit`), `views` (for each its `shape` with None for a length that differs,
      `bands`, `mask` if it has one, `dated`: whether its steps have days, `numbered`: whether these are only
      their numbers), `groups`, and whether there are `date` and `coordinates`, and a column `split`.

    Raises:
      InputError: something in the directory is missing or malformed.
    """
    folder = read_folder(manual_dir)
    surveyed = survey_folder(folder)
    return {
      "task": dict(folder.table.task),
      "views": {
        view.name: {"shape": view.shape, "dated": view.dated, "numbered": view.numbered}
        | _described(view, folder.described["views"].get(view.name, {}))
        for view in surveyed.views
      },
      "groups": list(folder.table.groups),
      "date": folder.table.date,
      "coordinates": _placed(folder, surveyed),
      "split": folder.table.split,
    }

  def _create_builder_config(self, builder_config, version):
    if not isinstance(builder_config, Config):
      raise InputError(f"TFDS cannot find a directory of your own by itself: {HOW_TO_BUILD_IT}")
    return builder_config  # TFDS would warn that it is not one of the class

  def _reader(self) -> Reader:
    folder = self.builder_config.folder
    surveyed, task = survey_folder(folder), folder.table.task
    return Reader(
      views=surveyed.views,
      groups=folder.table.groups,
      outputs=tuple(task["outputs"]),
      classes=task["kind"] in ("binary", "multiclass"),
      masks=tuple(folder.masks.items()),
      date=folder.table.date,
      coordinates=_placed(folder, surveyed),
    )

  def _info(self) -> tfds.core.DatasetInfo:
    folder, reader = self.builder_config.folder, self._reader()
    described = folder.described["views"]
    return self.dataset_info_from_configs(
      features=reader.features(),
      disable_shuffling=True,  # the table's order
      metadata=tfds.core.MetadataDict(
        task=dict(folder.table.task),
        views={
          view.name: _described(view, described.get(view.name, {}))
          | ({"dated": not view.numbered} if view.dated else {})
          for view in reader.views
        },
        split=folder.table.split,
        sources={},
        longest={},
        left_out={},
        absent={},
        counts={},
      ),
    )

  def _download_and_prepare(self, dl_manager, download_config):
    folder, reader = self.builder_config.folder, self._reader()
    surveyed = survey_folder(folder)
    wrong = surveyed.wrong
    if wrong and getattr(download_config, "unreadable", "fail") == "fail":
      sample, why = next(iter(wrong.items()))
      others = f" (and {len(wrong) - 1} more samples)" if len(wrong) > 1 else ""
      raise InputError(f"sample {sample}: {why}{others}")
    splits = {split: [] for split in table.SPLITS}
    for sample, files in zip(folder.table.samples, zip(*surveyed.files)):
      if sample.id not in wrong:
        splits[sample.split].append(dataclasses.replace(sample, files=files))
    splits = {split: samples for split, samples in splits.items() if samples}
    if not splits:
      raise InputError(f"{folder.path} has no sample that can be read: {next(iter(wrong.values()))}")
    counts, unreadable = shards.write_splits(self, splits, reader, download_config, size=SHARD)
    absent = {view.name: own.count(None) for view, own in zip(surveyed.views, surveyed.files)}
    self.info.metadata["sources"] = dict(folder.sources)
    self.info.metadata["left_out"] = {"unreadable": unreadable | wrong}
    self.info.metadata["absent"] = {
      view.name: absent[view.name] for view in surveyed.views if not view.stack or absent[view.name]
    }
    for line in report(folder, surveyed, counts, absent):
      print(f"{folder.path}: {line}", file=sys.stderr)


def _placed(folder: Folder, surveyed: Surveyed) -> bool:
  """Whether samples have coordinates, from the table or from the tiles."""
  return folder.table.coordinates or any(view.located for view in surveyed.views)


def _described(view: View, described: dict[str, object]) -> dict:
  """A view in the metadata."""
  out = {"bands": list(view.bands), "description": described.get("description", "")}
  if "units" in described:
    units = described["units"]
    out["units"] = [units] * len(view.bands) if isinstance(units, str) else units
  out |= {key: described[key] for key in ("steps", "unusable") if key in described}
  return out | ({"mask": described["mask"]} if "mask" in described else {})
