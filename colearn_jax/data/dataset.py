"""Opens a prepared data set (a TFDS directory) and describes its views, task and splits.

Conventions that every builder follows:

- Rows are numbered across the splits in the order `train`, `validation`, `test`.
- A sample without a sensor has NaN in all values of that view. Views of integers, which have no NaN, have a
  feature `present/<view>` instead, which is false.
- A sample without a label has the target NaN, or -1 for classes.
- Optional features: `date`, an ISO date, empty if unknown; `coordinates`, float64 `[2]`, latitude and
  longitude in degrees (WGS84), NaN if unknown.

`data.reader` reads the samples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds

from colearn_jax.data import context
from colearn_jax.data.fixed_length import FixedLength, Settings, fixed_lengths
from colearn_jax.data.modality import DATES, View, describe_steps, make_modality
from colearn_jax.storage import array_cache
from colearn_jax.types import CONTEXT, InputError, Modality, Task

# Entries of the metadata that say where the samples come from, or that follow from their values.
ORIGIN = ("sources", "left_out", "absent", "counts")
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set.

  Attributes:
    path: its directory.
    name: e.g. `lfmc`.
    task: what is predicted.
    views: shape of one sample of each view, as the reader returns it.
    ragged: conversion to that shape, for views that are stored with dates, a mask or another length.
    described: the metadata of each view: its `bands`, and others, see `fixed_length` and `modality`.
    groups: names of the features whose equal values can be kept in one fold, e.g. `site`.
    flags: views with a feature `present/<view>`.
    sizes: number of samples of each split.
    dated: whether samples have a date.
    located: whether samples have coordinates.
    steps: how the months of a series are known, by view, see `modality.describe_steps`.
    shapes: of one sample of each view, as it is stored.
    builder: name and version of its builder.
    facts: a digest of its task, views, features and splits.
    stamp: of its files when it was opened, see `storage.array_cache.stamp`.
  """

  path: Path
  name: str
  task: Task
  views: Mapping[str, tuple[int, ...]]
  ragged: Mapping[str, FixedLength]
  described: Mapping[str, Mapping[str, Any]]
  groups: tuple[str, ...]
  flags: tuple[str, ...]
  sizes: Mapping[str, int]
  dated: bool = False
  located: bool = False
  steps: Mapping[str, str] = dataclasses.field(default_factory=dict)
  shapes: Mapping[str, tuple[int | None, ...]] = dataclasses.field(default_factory=dict)
  builder: str = ""
  facts: str = ""
  stamp: str = ""

  def __len__(self) -> int:
    """Number of samples in all splits."""
    return sum(self.sizes.values())

  @property
  def parts(self) -> dict[str, np.ndarray]:
    """The rows of each split."""
    ends = np.cumsum(list(self.sizes.values()))
    return {name: np.arange(end - n, end) for (name, n), end in zip(self.sizes.items(), ends)}

  @property
  def bands(self) -> dict[str, tuple[str, ...]]:
    """Band names of each view."""
    return {view: tuple(facts["bands"]) for view, facts in self.described.items()}

  def modality(self, name: str, *, months: bool = False) -> Modality:
    """The modality with this name, its views concatenated on the last axis; see `modality.make_modality`.

    With `months`, series have a last band with the month of each step.
    """
    return make_modality(name, self.views, self.described, steps=self.steps if months else None)

  def stored(self, modalities: Sequence[Modality]) -> dict[str, View]:
    """How the views of these sensors, and those that mask them, are stored and used.

    Series with days may have any length in prediction, also if those of the data set happen to have one.
    """
    views = [view for m in modalities if m.name != CONTEXT for view in m.views]
    fixed = {view: self.ragged.get(view) for view in views}
    for view, own in fixed.items():
      if own is not None and own.dated and not own.changes and self.steps.get(view) == DATES:
        fixed[view] = dataclasses.replace(own, changes=True)
    masks = [own.mask for own in fixed.values() if own is not None and own.mask is not None]
    dated = lambda view: self.steps.get(view) == DATES
    of = lambda v: View(self.bands[v], self.shapes[v], dated(v), self.steps.get(v, ""), fixed.get(v))
    return {view: of(view) for view in dict.fromkeys([*views, *masks])}

  @property
  def context(self) -> tuple[str, ...]:
    """The names that `data.context` may contain for this data set."""
    static = [view for view, shape in self.views.items() if len(shape) == 1]
    return context.available(self.dated, self.located, static)


def context_modality(dataset: Dataset, names: Sequence[str], fourier: int = 0) -> Modality:
  """The context as a pseudo modality named `context`, whose bands are the context's columns.

  Args:
    dataset: the data set.
    names: `date`, `location`, `time`, or static views.
    fourier: number of Fourier scales of the location, see module `data.context`.

  Raises:
    InputError: a name is not available in the data set, or is given twice.
  """
  for name in names:
    if name not in dataset.context or names.count(name) > 1:
      have = ", ".join(dataset.context) or "nothing"
      why = f"{dataset.name} has for a context, each once: {have}"
      raise InputError(f"data.context: {name!r} is not allowed; {why}")
  bands = context.columns(names, fourier, dataset.bands)
  return Modality(CONTEXT, context.ordered(names), (len(bands),), bands)


def open_dataset(path: str | Path, series: Settings = Settings()) -> Dataset:  # noqa: B008, it is frozen
  """Opens a prepared directory, e.g. one that `datasets.build.build` returned.

  Args:
    path: the prepared directory.
    series: how series of different lengths are brought to one length.

  Raises:
    InputError: the settings name a series that the data set does not have, or the format of its files gives
      no access to single samples.
  """
  stamp = array_cache.stamp(Path(path))  # before anything is read
  info = tfds.builder_from_directory(path).info
  if not info.available_file_formats() & tfds.core.FileFormat.with_random_access():
    raise InputError(
      f"{path} holds {info.file_format.value} files, training reads array_record: convert them with `tfds "
      f"convert_format --dataset_version_dir={path} --out_file_format=array_record` (with colearn_jax[tfds])"
    )
  metadata, features = info.metadata, info.features
  # In the order of the metadata, because TFDS does not keep the order of features.
  shapes = {name: tuple(features["views"][name].shape) for name in metadata["views"]}
  ragged = fixed_lengths(series, shapes, metadata["views"], metadata.get("longest", {}))
  return Dataset(
    path=Path(path),
    name=info.name,
    task=Task.from_json(metadata["task"]),
    views={name: ragged[name].shape if name in ragged else shape for name, shape in shapes.items()},
    ragged=ragged,
    described=metadata["views"],
    groups=tuple(features["groups"]),
    flags=tuple(features["present"]) if "present" in features else (),
    sizes={name: info.splits[name].num_examples for name in SPLITS if name in info.splits},
    dated="date" in features,
    located="coordinates" in features,
    steps=describe_steps(shapes, metadata["views"], "date" in features),
    shapes=shapes,
    builder=f"{info.name} {info.version}",
    facts=_facts(info),
    stamp=stamp,
  )


def _facts(info: tfds.core.DatasetInfo) -> str:
  """A digest of what the metadata say of all samples, without where they come from."""
  leaves = jax.tree_util.tree_leaves_with_path(info.features.get_tensor_info())
  types = {jax.tree_util.keystr(key): [list(x.shape), np.dtype(x.np_dtype).name] for key, x in leaves}
  described = {name: facts for name, facts in info.metadata.items() if name not in ORIGIN}
  sizes = {name: info.splits[name].num_examples for name in SPLITS if name in info.splits}
  tree = {"types": types, "metadata": described, "splits": sizes}
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
