"""A prepared TFDS directory: what it holds, its samples one by one or as a table, and their index.

Rows are numbered through the splits of a data set in the order `train`, `validation`, `test`. A sample may
lack any sensor: its values are then NaN throughout, or, as integers have no NaN, its `present/<view>` is
false. A sample without a label has the target NaN, or -1 for classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import grain
import numpy as np
import tensorflow_datasets as tfds

from colearn_jax.data.fixed_length import Ragged, Settings, plan
from colearn_jax.parallel.cores import usable_cores
from colearn_jax.storage import array_cache as derived
from colearn_jax.types import InputError, Modality, Task, join_views, resolve_views

SPLITS = ("train", "validation", "test")
THREADS = min(usable_cores(), 16)
READ = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)

Table = dict[str, dict[str, np.ndarray]]  # {"inputs": {m: [N *shape]}, "present": {m: [N]}}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set.

  Attributes:
    path: its directory.
    name: e.g. `lfmc`.
    task: what it is labelled for.
    views: the shape of one sample of each view, as it is read.
    ragged: how those views get it whose samples have shapes of their own.
    bands: the band names of each view.
    groups: the features by which samples can be kept together.
    flags: the views that say by a feature of their own whether a sample has them.
    sizes: the number of samples of each split.
  """

  path: Path
  name: str
  task: Task
  views: Mapping[str, tuple[int, ...]]
  ragged: Mapping[str, Ragged]
  bands: Mapping[str, tuple[str, ...]]
  groups: tuple[str, ...]
  flags: tuple[str, ...]
  sizes: Mapping[str, int]

  def __len__(self) -> int:
    """The number of samples of all splits."""
    return sum(self.sizes.values())

  @property
  def parts(self) -> dict[str, np.ndarray]:
    """The rows of each split."""
    ends = np.cumsum(list(self.sizes.values()))
    return {name: np.arange(end - n, end) for (name, n), end in zip(self.sizes.items(), ends)}

  def modality(self, name: str) -> Modality:
    """The modality of this name, its views joined on the last axis.

    Raises:
      InputError: there are no such views, or their shapes do not join.
    """
    views = resolve_views(name, self.views)
    shape = join_views(name, self.views, views)
    return Modality(name, views, shape, tuple(band for view in views for band in self.bands[view]))


def open_dataset(path: str | Path, series: Settings = Settings()) -> Dataset:  # noqa: B008, it is frozen
  """Opens a prepared directory, e.g. one that `data_builders.build.build` returned.

  Args:
    path: of the directory.
    series: how series of different lengths come to one.

  Raises:
    InputError: the data set has no such series.
  """
  info = tfds.builder_from_directory(path).info
  metadata, features = info.metadata, info.features
  shapes = {name: tuple(feature.shape) for name, feature in features["views"].items()}
  ragged = plan(series, shapes, metadata["views"], metadata.get("longest", {}))
  return Dataset(
    path=Path(path),
    name=info.name,
    task=Task(metadata["task"]["kind"], tuple(metadata["task"]["outputs"])),
    views={name: ragged[name].shape if name in ragged else shape for name, shape in shapes.items()},
    ragged=ragged,
    bands={name: tuple(view["bands"]) for name, view in metadata["views"].items()},
    groups=tuple(features["groups"]),
    flags=tuple(features["present"]) if "present" in features else (),
    sizes={name: info.splits[name].num_examples for name in SPLITS if name in info.splits},
  )


def describe(dataset: Dataset, modalities: Sequence[Modality]) -> dict:
  """What predicting needs to know of a data set, as plain JSON: the task and the modalities."""
  return {
    "name": dataset.name,
    "task": dataclasses.asdict(dataset.task),
    "modalities": [dataclasses.asdict(m) for m in modalities],
  }


def fingerprint(dataset: Dataset, index: Index) -> dict:
  """What tells a data set from one with other samples, as plain JSON."""
  files = [file.stat().st_size for file in sorted(dataset.path.iterdir()) if file.is_file()]
  digests = [derived.digest(np.asarray(array)) for array in (index.ids, index.target, files)]
  return {"number": len(dataset), "digest": derived.digest(np.asarray(digests))}


class Source:
  """Random access to the samples of all splits; decodes only the features it was made for.

  Args:
    dataset: whose samples.
    features: nested names, e.g. `{"id": None, "views": {"S1": None}}`.
  """

  def __init__(self, dataset: Dataset, features: Mapping[str, object]):
    builder = tfds.builder_from_directory(dataset.path)
    self._features = _select(builder.info.features, features)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    self._splits = [builder.as_data_source(split=s, deserialize_method=raw) for s in dataset.sizes]
    self._ends = np.cumsum(list(dataset.sizes.values()))

  def __len__(self) -> int:
    """The number of samples of all splits."""
    return int(self._ends[-1])

  def __getitem__(self, row: int) -> dict:
    """The sample of a row."""
    split = int(np.searchsorted(self._ends, row, side="right"))
    record = self._splits[split][int(row) - (int(self._ends[split - 1]) if split else 0)]
    return self._features.deserialize_example_np(record)


def _select(features: tfds.features.FeaturesDict, wanted: Mapping[str, object]) -> tfds.features.FeaturesDict:
  """The features that are wanted (what tfds.decode.PartialDecoding does, which needs TensorFlow)."""
  pick = lambda name, inner: _select(features[name], inner) if inner else features[name]
  return tfds.features.FeaturesDict({name: pick(name, inner) for name, inner in wanted.items()})


@dataclasses.dataclass(frozen=True)
class Index:
  """What is known of every sample without its inputs; `[N]` or `[N K]` arrays."""

  ids: np.ndarray
  target: np.ndarray
  groups: Mapping[str, np.ndarray]

  @property
  def labelled(self) -> np.ndarray:
    """Which samples have a target, `[N]` bool."""
    if self.target.ndim == 1:
      return self.target >= 0
    return np.isfinite(self.target).all(1)


def labels(index: Index) -> dict[str, np.ndarray]:
  """The targets and which of them are known, as batches have them: `target` is 0 where it is not."""
  labelled = index.labelled
  target = np.where(labelled.reshape(-1, *[1] * (index.target.ndim - 1)), index.target, 0)
  return {"target": target.astype(index.target.dtype), "labelled": labelled.astype(np.float32)}


def read_index(dataset: Dataset) -> Index:
  """Ids, targets (float32 `[N K]`, or int32 `[N]` for classes) and groups of all samples.

  They stand among the inputs: the first reading of a large data set takes a while. What it found is kept.
  """
  question = {"what": "index"}
  if (found := derived.read(dataset.path, question)) is None:
    found = _read_index(dataset)
    derived.write(dataset.path, question, found)
  return Index(found["ids"], found["target"], {g: found[f"groups/{g}"] for g in dataset.groups})


def _read_index(dataset: Dataset) -> dict[str, np.ndarray]:
  source = Source(dataset, {"id": None, "target": None, "groups": None})
  dtype = np.int32 if dataset.task.classes else np.float32

  def parts(rows):
    samples = [source[row] for row in rows]
    groups = {f"groups/{g}": [sample["groups"][g].decode() for sample in samples] for g in dataset.groups}
    target = np.stack([np.asarray(sample["target"], dtype) for sample in samples])
    return {"ids": [sample["id"].decode() for sample in samples], "target": target, **groups}

  pieces = grain.MapDataset.source(np.array_split(np.arange(len(source)), -(-len(source) // 64))).map(parts)
  every = list(pieces.to_iter_dataset(READ))
  return {name: np.concatenate([piece[name] for piece in every]) for name in every[0]}


@dataclasses.dataclass(frozen=True)
class Reader:
  """Picklable row → `{"inputs": {m: array}, "present": {m: float32 scalar}}`, views joined.

  Inputs are as small integers as they are stored as, or else float32.
  """

  source: Source
  modalities: tuple[Modality, ...]
  ragged: Mapping[str, Ragged] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def nbytes(self) -> int:
    """The size of one sample's inputs in memory."""
    return sum(x.nbytes for x in self(0)["inputs"].values())

  def __call__(self, row: int) -> dict[str, dict[str, np.ndarray]]:
    """What the sensors saw in a row, and which of them saw anything."""
    sample = self.source[row]
    flags = sample.get("present", {})
    inputs = {m.name: self._join(m, sample) for m in self.modalities}
    seen = lambda x: x.dtype.kind != "f" or not np.isnan(x).all()
    there = lambda m: seen(inputs[m.name]) and all(flags.get(view, True) for view in m.views)
    return {"inputs": inputs, "present": {m.name: np.float32(there(m)) for m in self.modalities}}

  def _join(self, modality: Modality, sample: dict) -> np.ndarray:
    parts, days = [], []
    for view in modality.views:
      if view in self.ragged:
        values, kept = self.ragged[view].fix(sample["views"], sample["dates"])
        days.append((view, kept))
      else:
        values = sample["views"][view]
      parts.append(values)
    for view, others in days[1:]:
      # Of a month there is a mean, of whichever days; steps have to be the same ones.
      if self.ragged[view].how == "pad" and not np.array_equal(days[0][1], others):
        raise InputError(
          f"data.modalities: {modality.name} cannot join {days[0][0]} and {view}, whose dates differ in "
          f"sample {sample['id'].decode()}; data.series=month joins means of months"
        )
    dtype = np.result_type(*parts)
    dtype = dtype if dtype.kind in "iu" and dtype.itemsize <= 2 else np.float32
    if len(parts) == 1:
      return np.asarray(parts[0], dtype)
    return np.concatenate(parts, axis=-1, dtype=dtype, casting="same_kind")


def make_reader(dataset: Dataset, modalities: Sequence[Modality]) -> Reader:
  """A reader that decodes the views of these modalities and nothing else."""
  views = {view: None for m in modalities for view in m.views}
  ragged = {view: dataset.ragged[view] for view in views if view in dataset.ragged}
  wanted = {
    "views": views | {fixed.mask: None for fixed in ragged.values() if fixed.mask},
    "dates": dict.fromkeys(ragged),
    "present": {view: None for view in views if view in dataset.flags},
  }
  wanted = {"id": None} | {group: names for group, names in wanted.items() if names}
  return Reader(Source(dataset, wanted), tuple(modalities), ragged)


def table_bytes(reader: Reader) -> int:
  """The size of all inputs in memory."""
  return len(reader.source) * reader.nbytes


def read_table(reader: Reader) -> Table:
  """What the reader gives of all rows."""
  size, first = len(reader.source), reader(0)["inputs"]
  inputs = {m: np.empty((size, *x.shape), x.dtype) for m, x in first.items()}
  table = {"inputs": inputs, "present": {m: np.empty(size, np.float32) for m in inputs}}
  for row in range(size):
    for part, named in reader(row).items():
      for name, value in named.items():
        table[part][name][row] = value
  return table
