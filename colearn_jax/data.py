"""From a prepared TFDS directory to a table on the device or a stream of batches, and what normalises them.

Rows are numbered through the splits of a data set in the order `train`, `validation`, `test`. A sample may
lack any sensor: its values are then NaN throughout, or, as integers have no NaN, its `present/<view>` is
false. A sample without a label has the target NaN, or -1 for classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from jax.sharding import NamedSharding

from colearn_jax.spec import InputError, Modality, Task, resolve_views

SPLITS = ("train", "validation", "test")
_READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)  # whole batches: the default holds 500


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set.

  Attributes:
    path: its directory.
    name: e.g. `lfmc`.
    task: what it is labelled for.
    views: the shape of one sample of each view.
    bands: the band names of each view.
    groups: the features by which samples can be kept together.
    flags: the views that say by a feature of their own whether a sample has them.
    sizes: the number of samples of each split.
  """

  path: Path
  name: str
  task: Task
  views: Mapping[str, tuple[int, ...]]
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
    shapes = [self.views[view] for view in views]
    if len({shape[:-1] for shape in shapes}) > 1:
      listed = ", ".join(f"{view} {shape}" for view, shape in zip(views, shapes))
      raise InputError(
        f"data.modalities: {name} cannot join views that differ before the last axis: {listed}"
      )
    shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    return Modality(name, views, shape, tuple(band for view in views for band in self.bands[view]))


def open_dataset(path: str | Path) -> Dataset:
  """Opens a prepared directory, e.g. one that `data_builders.build.build` returned."""
  info = tfds.builder_from_directory(path).info
  metadata, features = info.metadata, info.features
  return Dataset(
    path=Path(path),
    name=info.name,
    task=Task(metadata["task"]["kind"], tuple(metadata["task"]["outputs"])),
    views={name: tuple(feature.shape) for name, feature in features["views"].items()},
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
  """Reads ids, targets (float32 `[N K]`, or int32 `[N]` for classes) and groups of all samples."""
  source = Source(dataset, {"id": None, "target": None, "groups": None})
  samples = [source[row] for row in range(len(source))]
  dtype = np.int32 if dataset.task.classes else np.float32
  return Index(
    ids=np.array([sample["id"].decode() for sample in samples]),
    target=np.stack([np.asarray(sample["target"], dtype) for sample in samples]),
    groups={g: np.array([sample["groups"][g].decode() for sample in samples]) for g in dataset.groups},
  )


@dataclasses.dataclass(frozen=True)
class Reader:
  """Picklable row → `{"inputs": {m: float32}, "present": {m: float32 scalar}}`, views joined."""

  source: Source
  modalities: tuple[Modality, ...]

  def __call__(self, row: int) -> dict[str, dict[str, np.ndarray]]:
    """What the sensors saw in a row, and which of them saw anything."""
    sample = self.source[row]
    views, flags = sample["views"], sample.get("present", {})
    join = lambda names: np.concatenate([np.asarray(views[n], np.float32) for n in names], axis=-1)
    inputs = {m.name: join(m.views) for m in self.modalities}
    there = lambda m: not np.isnan(inputs[m.name]).all() and all(flags.get(view, True) for view in m.views)
    return {"inputs": inputs, "present": {m.name: np.float32(there(m)) for m in self.modalities}}


def make_reader(dataset: Dataset, modalities: Sequence[Modality]) -> Reader:
  """A reader that decodes the views of these modalities and nothing else."""
  views = {view: None for m in modalities for view in m.views}
  flags = {view: None for view in views if view in dataset.flags}
  wanted = {"views": views} | ({"present": flags} if flags else {})
  return Reader(Source(dataset, wanted), tuple(modalities))


def table_bytes(dataset: Dataset, modalities: Sequence[Modality]) -> int:
  """The size of all inputs in memory."""
  return 4 * len(dataset) * sum(int(np.prod(m.shape)) for m in modalities)


def read_table(reader: Reader) -> dict[str, dict[str, np.ndarray]]:
  """What the reader gives of all rows, `{"inputs": {m: [N *shape]}, "present": {m: [N]}}`."""
  size = len(reader.source)
  inputs = {m.name: np.empty((size, *m.shape), np.float32) for m in reader.modalities}
  table = {"inputs": inputs, "present": {m: np.empty(size, np.float32) for m in inputs}}
  for row in range(size):
    for part, named in reader(row).items():
      for name, value in named.items():
        table[part][name][row] = value
  return table


def chunks(reader: Reader, rows: np.ndarray, size: int = 256) -> Iterator[dict[str, np.ndarray]]:
  """The inputs of these rows in pieces of bounded memory, `{m: [n *shape]}`."""
  dataset = grain.MapDataset.source(rows.tolist()).map(lambda row: reader(row)["inputs"]).batch(size)
  yield from dataset.to_iter_dataset(_READ)


def input_constants(
  modalities: Sequence[Modality], pieces: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
  """Mean and deviation of each band over all samples and positions, NaN left out; float32 of float64 sums.

  Pieces are merged as they come (Chan, Golub & LeVeque 1979), so that memory does not grow with their number.

  Args:
    modalities: of the pieces.
    pieces: `{m: [n *shape]}`, together the training part.

  Returns:
    `{m: {"offset": [C], "scale": [C]}}`; the scale of a constant band is 1.

  Raises:
    InputError: a band has no value at all.
  """
  zeros = lambda m: [np.zeros(m.shape[-1]) for _ in range(3)]
  sums = {m.name: zeros(m) for m in modalities}
  for piece in pieces:
    for name, x in piece.items():
      x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
      n = np.isfinite(x).sum(0)
      mean = np.where(np.isfinite(x), x, 0.0).sum(0) / np.maximum(n, 1)
      squares = np.square(np.where(np.isfinite(x), x - mean, 0.0)).sum(0)
      count, old, spread = sums[name]
      total = np.maximum(count + n, 1)
      delta = mean - old
      sums[name] = [
        count + n,
        old + delta * n / total,
        spread + squares + np.square(delta) * count * n / total,
      ]
  out = {}
  for m in modalities:
    count, mean, spread = sums[m.name]
    if (count == 0).any():
      band = m.bands[int(np.argmax(count == 0))]
      raise InputError(f"band {band} of modality {m.name} has no value in the training part")
    std = np.sqrt(spread / count)
    scale = np.where(std > 0, std, 1.0)
    out[m.name] = {"offset": mean.astype(np.float32), "scale": scale.astype(np.float32)}
  return out


def task_constants(task: Task, target: np.ndarray, class_weights: str) -> dict[str, np.ndarray]:
  """What the task's loss takes from the training part's labels, see `losses.task_loss`.

  Class weights are n / (k n_c) over the k classes that occur (`balanced`) or 1 (`none`).

  Args:
    task: of the data set.
    target: of the training part's labelled samples.
    class_weights: `balanced` or `none`.

  Raises:
    InputError: there is not one.
  """
  if not len(target):
    raise InputError("no sample of the training part has a label")
  if task.kind == "regression":
    mean, std = target.mean(0, dtype=np.float64), target.std(0, dtype=np.float64)
    return {"mean": mean.astype(np.float32), "std": np.where(std > 0, std, 1.0).astype(np.float32)}
  if task.kind == "multilabel":
    return {}
  counts = np.bincount(target, minlength=len(task.outputs))
  weights = np.ones(len(counts))
  if class_weights == "balanced":
    seen = counts > 0
    weights[seen] = len(target) / (seen.sum() * counts[seen])
  return {"class_weights": weights.astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class _Example:
  """Picklable row → sample of a batch; -1 is padding."""

  reader: Reader
  labels: Mapping[str, np.ndarray]

  def __call__(self, row: int) -> dict:
    sample = self.reader(max(row, 0))
    sample["present"] = {m: np.float32(row >= 0) * there for m, there in sample["present"].items()}
    return sample | {name: values[max(row, 0)] for name, values in self.labels.items()}


def train_batches(
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  rows: np.ndarray,
  *,
  batch_size: int,
  seed: int,
  start: int = 0,
  sharding: NamedSharding,
) -> grain.IterDataset:
  """Endless shuffled global batches, each epoch a new order of all rows and of the padding to full batches.

  Every process reads its own share of each batch. The order depends on the seed alone, so that `start`, the
  number of batches that were seen before, is all that going on needs, on however many processes.
  """
  order = grain.MapDataset.source(_padded(rows, batch_size)).seed(seed).shuffle().repeat()
  return _globalise(order, _Example(reader, labels), batch_size, sharding, start)


def eval_batches(
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  rows: np.ndarray,
  *,
  batch_size: int,
  sharding: NamedSharding,
) -> grain.IterDataset:
  """The rows in their order once, the last batch padded, so that every process has as many batches."""
  order = grain.MapDataset.source(_padded(rows, batch_size))
  return _globalise(order, _Example(reader, labels), batch_size, sharding)


def _padded(rows: np.ndarray, batch_size: int) -> list[int]:
  return [*rows.tolist(), *[-1] * (-len(rows) % batch_size)]


@dataclasses.dataclass(frozen=True)
class _Share:
  """The rows of this process's places in every global batch, one after another."""

  order: grain.MapDataset
  batch_size: int
  places: np.ndarray
  start: int

  def __len__(self) -> int:
    return (len(self.order) // self.batch_size - self.start) * len(self.places)

  def __getitem__(self, position: int) -> int:
    batch, at = divmod(position, len(self.places))
    return self.order[(self.start + batch) * self.batch_size + int(self.places[at])]


def _globalise(
  order: grain.MapDataset, example, batch_size: int, sharding: NamedSharding, start: int = 0
) -> grain.IterDataset:
  held = sharding.addressable_devices_indices_map((batch_size,)).values()
  places = np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))
  put = lambda batch: jax.make_array_from_process_local_data(sharding, batch)
  rows = grain.MapDataset.source(_Share(order, batch_size, places, start))
  dataset = rows.map(example).batch(len(places), drop_remainder=True).to_iter_dataset(_READ).map(put)
  return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=2)
