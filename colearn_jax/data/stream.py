"""Batches streamed from the disk: read by threads or processes, shuffled, padded, and put on the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding

from colearn_jax.data.dataset import THREADS, Reader

PIECE = 2**22  # bytes of samples that one thread reads at a time


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
  workers: int = 0,
) -> grain.IterDataset:
  """Endless shuffled global batches, each epoch a new order of all rows and of the padding to full batches.

  Every process reads its own share of each batch, with threads, or with so many more processes. The order
  depends on the seed alone, so that `start`, the number of batches that were seen before, is all that going
  on needs, on however many processes.
  """
  order = grain.MapDataset.source(_padded(rows, batch_size)).seed(seed).shuffle().repeat()
  return _globalise(order, _Example(reader, labels), batch_size, sharding, workers, start)


def eval_batches(
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  rows: np.ndarray,
  *,
  batch_size: int,
  sharding: NamedSharding,
  workers: int = 0,
) -> grain.IterDataset:
  """The rows in their order once, the last batch padded, so that every process has as many batches."""
  order = grain.MapDataset.source(_padded(rows, batch_size))
  return _globalise(order, _Example(reader, labels), batch_size, sharding, workers)


def _padded(rows: np.ndarray, batch_size: int) -> np.ndarray:
  return np.append(rows, np.full(-len(rows) % batch_size, -1))


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
  order: grain.MapDataset,
  example: _Example,
  batch_size: int,
  sharding: NamedSharding,
  workers: int,
  start: int = 0,
) -> grain.IterDataset:
  held = sharding.addressable_devices_indices_map((batch_size,)).values()
  places = np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))
  put = lambda batch: jax.make_array_from_process_local_data(sharding, batch)
  rows = grain.MapDataset.source(_Share(order, batch_size, places, start))
  # What threads hand over is a piece of a batch: single small samples cost more to hand over than to read,
  # whole batches of large ones keep few threads busy. One batch in pieces is read while one is put together.
  share, size = len(places), example.reader.nbytes
  piece = max(n for n in range(1, share + 1) if share % n == 0 and n * size <= max(PIECE, size))
  ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(2 * THREADS, share // piece))
  dataset = rows.map(example).batch(piece, drop_remainder=True).to_iter_dataset(ahead)
  if workers:
    if not flags.FLAGS.is_parsed():  # in a program without absl, whose flags grain asks all the same
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  dataset = dataset.batch(share // piece, drop_remainder=True, batch_fn=_concatenate).map(put)
  return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=2)


def _concatenate(pieces: Sequence[dict]) -> dict:
  return pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
