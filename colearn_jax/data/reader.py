"""Reads the samples of a prepared data set.

- `read_index`: ids, targets, groups, dates and places of all samples, without their inputs.
- `make_reader`: a function from a row to the inputs of one sample, for streaming.
- `read_table`: the inputs of all samples in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from colearn_jax.data import context
from colearn_jax.data.dataset import Dataset, open_dataset
from colearn_jax.data.fixed_length import FixedLength
from colearn_jax.data.modality import Months, read, with_months
from colearn_jax.parallel.cores import usable_cores
from colearn_jax.storage import array_cache
from colearn_jax.types import CONTEXT, Description, InputError, Modality

THREADS = min(usable_cores(), 16)
READ = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
ROWS = 16  # rows in one work item of a thread

Table = dict[str, dict[str, np.ndarray]]  # {"inputs": {m: [N *shape]}, "present": {sensor: [N]}}


class Source:
  """Random access to the samples of all splits; decodes only the chosen features.

  Args:
    dataset: the data set.
    features: nested names of the features to decode, e.g. `{"id": None, "views": {"S1": None}}`.
  """

  def __init__(self, dataset: Dataset, features: Mapping[str, object]):
    self._path = dataset.path
    builder = tfds.builder_from_directory(dataset.path)
    self._features = _select(builder.info.features, features)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    self._splits = [builder.as_data_source(split=s, deserialize_method=raw) for s in dataset.sizes]
    self._ends = np.cumsum(list(dataset.sizes.values()))

  def __len__(self) -> int:
    """Number of samples in all splits."""
    return int(self._ends[-1])

  def __getitem__(self, row: int) -> dict:
    """The sample in this row."""
    return self.decode(self.record(row))

  def record(self, row: int) -> bytes:
    """The stored record of this row, with all its features.

    Raises:
      InputError: it cannot be read. Each record has a checksum.
    """
    split = int(np.searchsorted(self._ends, row, side="right"))
    try:
      record = self._splits[split][int(row) - (int(self._ends[split - 1]) if split else 0)]
      if not record:  # of a file that is cut
        raise EOFError("there is no such record")
      return record
    except Exception as error:  # the type depends on what is damaged
      raise InputError(
        f"row {row} of {self._path} cannot be read ({' '.join(str(error).split())[:150]}): a file is "
        "damaged; remove this directory to build it again, then run the same command"
      ) from error

  def decode(self, record: bytes) -> dict:
    """The chosen features of a record."""
    return self._features.deserialize_example_np(record)


def _select(features: tfds.features.FeaturesDict, wanted: Mapping[str, object]) -> tfds.features.FeaturesDict:
  """The chosen features. Like `tfds.decode.PartialDecoding`, which needs TensorFlow."""
  pick = lambda name, inner: _select(features[name], inner) if inner else features[name]
  return tfds.features.FeaturesDict({name: pick(name, inner) for name, inner in wanted.items()})


@dataclasses.dataclass(frozen=True)
class Index:
  """What is known of all samples without their inputs.

  Attributes:
    ids: `[N]` str.
    target: float32 `[N K]`, or int32 `[N]` for classes; NaN or -1 for samples without a label.
    groups: the group of each sample by feature, e.g. `site`, `[N]` str each.
    dates: `[N]` datetime64[D], NaT if unknown; None if the data set has no dates.
    places: `[N 2]` float64, latitude and longitude in degrees, NaN if unknown; None if the data set has none.
    digest: of all values of all samples in the order of their rows: inputs, dates, masks, targets, groups.
  """

  ids: np.ndarray
  target: np.ndarray
  groups: Mapping[str, np.ndarray]
  dates: np.ndarray | None = None
  places: np.ndarray | None = None
  digest: str = ""

  @property
  def labelled(self) -> np.ndarray:
    """Which samples have a target, `[N]` bool."""
    if self.target.ndim == 1:
      return self.target >= 0
    return np.isfinite(self.target).all(1)


def labels(index: Index) -> dict[str, np.ndarray]:
  """The labels in the form that batches have them.

  Returns:
    `target`, 0 for samples without a label, and `labelled`, `[N]` float32, 1 for samples with a label.
  """
  labelled = index.labelled
  target = np.where(labelled.reshape(-1, *[1] * (index.target.ndim - 1)), index.target, 0)
  return {"target": target.astype(index.target.dtype), "labelled": labelled.astype(np.float32)}


def read_index(dataset: Dataset) -> Index:
  """Reads ids, targets, groups, dates and places of all samples, and computes the digest of all their values.

  They are stored in the same records as the inputs, so the first call reads the whole data set. The result is
  cached.
  """
  query = {"what": "index", "format": 3}
  if (found := array_cache.read(dataset.path, dataset.stamp, query)) is None:
    found = _read_index(dataset)
    array_cache.write(dataset.path, dataset.stamp, query, found)
  groups = {g: found[f"groups/{g}"] for g in dataset.groups}
  more = {name: found.get(name) for name in ("dates", "places")}
  return Index(found["ids"], found["target"], groups, **more, digest=str(found["digest"]))


def _read_index(dataset: Dataset) -> dict[str, np.ndarray]:
  """The arrays of `read_index` by name, without the cache."""
  facts = ["date"] * dataset.dated + ["coordinates"] * dataset.located
  source = Source(dataset, dict.fromkeys(["id", "target", "groups", *facts]))
  dtype = np.int32 if dataset.task.one_class else np.float32

  def parts(rows):
    records = [source.record(row) for row in rows]
    samples = [source.decode(record) for record in records]
    out: dict[str, Any] = {
      f"groups/{g}": [sample["groups"][g].decode() for sample in samples] for g in dataset.groups
    }
    if dataset.dated:
      out["dates"] = np.array([sample["date"].decode()[:10] for sample in samples], "datetime64[D]")
    if dataset.located:
      out["places"] = np.array([sample["coordinates"] for sample in samples], np.float64)
    out["target"] = np.stack([np.asarray(sample["target"], dtype) for sample in samples])
    out["digest"] = np.stack([_digest(record) for record in records])
    return {"ids": [sample["id"].decode() for sample in samples], **out}

  every = list(_work_items(len(source)).map(parts).to_iter_dataset(READ))
  found = {name: np.concatenate([piece[name] for piece in every]) for name in every[0]}
  return found | {"digest": np.array(array_cache.digest(found["digest"]))}


def _digest(record: bytes) -> np.ndarray:
  """A digest of all values of a record, `[32]` uint8.

  The features are sorted first: records of equal samples may hold them in any order.
  """
  ordered = tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
  return np.frombuffer(hashlib.sha256(ordered).digest(), np.uint8)


def _work_items(size: int) -> grain.MapDataset:
  """The rows 0 to `size`, in groups of `ROWS` that are given to the threads."""
  return grain.MapDataset.source(np.array_split(np.arange(size), -(-size // ROWS)))


def fingerprint(dataset: Dataset, index: Index) -> dict:
  """What tells a data set from any other, whatever its files are called.

  Returns:
    `number` of samples; name and version of the `builder`; digests of the `metadata` (task, views, units,
    bands, splits) and of all `values`. Not where the samples come from.
  """
  return {
    "number": len(dataset),
    "builder": dataset.builder,
    "metadata": dataset.facts,
    "values": index.digest,
  }


def check_unchanged(dataset: Dataset, index: Index) -> None:
  """Checks that the files of a data set still hold the samples that they held when it was opened.

  If only the times of the files are others, all samples are read again. Nothing is checked if the directory
  is gone, because then nothing else can have been read from it.

  Raises:
    InputError: the samples are others.
  """
  try:
    if array_cache.stamp(dataset.path) == dataset.stamp:
      return
    now = open_dataset(dataset.path)
    same = fingerprint(now, read_index(now)) == fingerprint(dataset, index)
  except OSError:
    return
  if not same:
    raise InputError(
      f"{dataset.path} was changed while training read from it: restore it and resume, or use another workdir"
    )


def describe(dataset: Dataset, modalities: Sequence[Modality], index: Index) -> Description:
  """The description of a data set for `dataset.json`.

  Args:
    dataset: the data set.
    modalities: the modalities of the run, with the context if there is one.
    index: see `read_index`.
  """
  views = {name: view.to_json() for name, view in dataset.stored(modalities).items()}
  return Description(dataset.name, dataset.task, tuple(modalities), fingerprint(dataset, index), views)


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads one row as `{"inputs": {m: array}, "present": {sensor: float32 scalar}}`. Can be pickled.

  The input of a sensor is that of `modality.read`. A sample has a joined sensor if it has any of its views.
  The context is an input, float32 `[K]`, NaN if unknown, and has no entry in `present`.
  """

  source: Source
  modalities: tuple[Modality, ...]
  ragged: Mapping[str, FixedLength] = dataclasses.field(default_factory=dict)
  months: Mapping[str, Months] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def nbytes(self) -> int:
    """Bytes of one sample's inputs in memory."""
    return sum(x.nbytes for x in self(0)["inputs"].values())

  def __call__(self, row: int) -> dict[str, dict[str, Any]]:
    """The inputs of a row, and for each sensor whether the sample has it."""
    sample = self.source[row]
    flags = sample.get("present", {})
    sensors = [m for m in self.modalities if m.name != CONTEXT]
    inputs = {m.name: read(m, self.ragged, self.months.get(m.name), sample) for m in sensors}
    has_values = lambda x: x.dtype.kind != "f" or np.isfinite(x).any()
    # The parts that a sample lacks are NaN in joined views.
    flagged = lambda m: len(m.views) > 1 or flags.get(m.views[0], True)
    is_present = lambda m: has_values(inputs[m.name]) and flagged(m)
    present = {m.name: np.float32(is_present(m)) for m in sensors}
    contexts = {m.name: _context(m, sample) for m in self.modalities if m.name == CONTEXT}
    return {"inputs": inputs | contexts, "present": present}


def _context(modality: Modality, sample: dict) -> np.ndarray:
  """The context of a sample, `[K]`."""
  flags = sample.get("present", {})
  views = [view for view in modality.views if view not in context.ENCODED]
  # A view that the sample lacks may have values in its place: they become NaN.
  known = lambda view: np.float32(1 if flags.get(view, True) else np.nan)
  return context.encode(
    modality.bands,
    dates=[sample["date"].decode()] if "date" in sample else None,
    coordinates=sample["coordinates"][None] if "coordinates" in sample else None,
    static=np.concatenate([sample["views"][v] * known(v) for v in views])[None] if views else None,
  )[0]


def make_reader(dataset: Dataset, modalities: Sequence[Modality]) -> Reader:
  """A reader that decodes only the features which these modalities need."""
  features: dict[str, Mapping[str, None] | None] = {
    feature: None
    for m in modalities
    for name, feature in zip(context.ENCODED, ("date", "coordinates", "date"))
    if m.name == CONTEXT and name in m.views
  }
  is_view = lambda m, name: m.name != CONTEXT or name not in context.ENCODED
  views = {view: None for m in modalities for view in m.views if is_view(m, view)}
  ragged = {view: dataset.ragged[view] for view in views if view in dataset.ragged}
  wanted = {
    "views": views | {fixed.mask: None for fixed in ragged.values() if fixed.mask},
    "dates": {view: None for view, fixed in ragged.items() if fixed.dated},
    "present": {view: None for view in views if view in dataset.flags},
  }
  months = with_months(modalities, dataset.steps, dataset.ragged)
  features |= {"date": None} if any(own.needs_date for own in months.values()) else {}
  features |= {"id": None} | {group: names for group, names in wanted.items() if names}
  return Reader(Source(dataset, features), tuple(modalities), ragged, months)


def table_bytes(reader: Reader) -> int:
  """Bytes of the inputs of all samples in memory."""
  return len(reader.source) * reader.nbytes


def read_table(reader: Reader) -> Table:
  """Reads all rows with several threads. Returns the reader's outputs, stacked on the first axis."""
  size, first = len(reader.source), reader(0)
  empty = lambda named: {m: np.empty((size, *np.shape(x)), x.dtype) for m, x in named.items()}
  table = {part: empty(named) for part, named in first.items()}

  def fill(rows):
    for row in rows:
      for part, named in reader(row).items():
        for name, value in named.items():
          table[part][name][row] = value
    return len(rows)

  if sum(_work_items(size).map(fill).to_iter_dataset(READ)) != size:
    raise AssertionError("some rows of the table were not read")
  return table
