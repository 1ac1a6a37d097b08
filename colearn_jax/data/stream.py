"""Streams batches from the disk to the devices, for data sets that do not fit into memory.

Threads or worker processes read samples. The samples are collected into batches, padded, and sharded over the
devices. In a job of several processes, each process reads only the rows that its own devices need. The order
of rows is a function of the run's random key and the epoch, so a resumed run continues with the same batches.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding

from colearn_jax.data.reader import THREADS, Reader
from colearn_jax.nn import random

PIECE = 2**22  # bytes of samples in one work item of a thread


@dataclasses.dataclass(frozen=True)
class _Example:
  """Reads a (row, block) as one sample of a batch. Row -1 is padding. Can be pickled.

  With a block >= 0, only the sensor with that index (in the order of names) is present in the sample. With -1
  all sensors are.
  """

  reader: Reader
  labels: Mapping[str, np.ndarray]

  def __call__(self, row_and_block: tuple[int, int]) -> dict:
    row, block = row_and_block
    sample = self.reader(max(row, 0))
    factor = lambda number: np.float32(row >= 0 and block in (-1, number))
    names = sorted(sample["present"])
    sample["present"] = {m: factor(number) * sample["present"][m] for number, m in enumerate(names)}
    labels = {name: values[max(row, 0)] for name, values in self.labels.items()}
    return sample | labels | {"row": np.int32(row)}


@dataclasses.dataclass(frozen=True)
class Order:
  """An endless sequence of rows for training batches, shuffled anew for every epoch. Can be pickled.

  The order of an epoch is computed when its first row is read.

  Attributes:
    words: key data of the run's random stream `order`, see `nn.random.epoch_rows`.
    rows: the rows of an epoch, `[S B]` for S steps, with padding (-1) at the end.
    blocks: number of equal blocks of a batch. Each block has the rows of one sensor, which is for methods
      whose sensors come from different samples. 1 if every row has all sensors.
  """

  words: np.ndarray
  rows: np.ndarray
  blocks: int = 1

  @property
  def size(self) -> int:
    """Number of rows in a batch."""
    return self.rows.shape[1] * self.blocks

  def __len__(self) -> int:
    return 2**62 // self.size * self.size

  def __getitem__(self, position: int) -> int:
    epoch, at = divmod(position, self.rows.size * self.blocks)
    return int(self._epoch(epoch)[at])

  @functools.cached_property
  def _epoch(self) -> Callable[[int], np.ndarray]:
    """The shuffled rows of an epoch. Caches two epochs, as reading ahead crosses from one to the next."""

    @functools.lru_cache(maxsize=2)
    def shuffled_rows(epoch: int) -> np.ndarray:
      return np.asarray(random.epoch_rows(self.words, epoch, self.rows, self.blocks, np)).reshape(-1)

    return shuffled_rows

  def __getstate__(self) -> dict:
    return {"words": self.words, "rows": self.rows, "blocks": self.blocks}


def train_batches(
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  order: Order,
  *,
  start: int = 0,
  sharding: NamedSharding,
  workers: int = 0,
) -> grain.IterDataset:
  """An endless iterator over global batches.

  Every process of a job reads its own part of each batch. The order of rows does not depend on the number of
  processes.

  Args:
    reader: reads the samples.
    labels: arrays by name, `[N ...]`, that are added to the samples; see `reader.labels`.
    order: the order of the rows.
    start: number of batches to skip; a resumed run passes the number of its steps.
    sharding: sharding of a batch.
    workers: number of worker processes that read; 0 reads with threads of this process.
  """
  return _sharded_batches(order, reader, labels, order.size, order.blocks, sharding, workers, start)


def eval_batches(
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  rows: np.ndarray,
  *,
  size: int,
  sharding: NamedSharding,
  workers: int = 0,
) -> grain.IterDataset:
  """An iterator over the given rows, once and in order. The last batch is padded to `size` rows.

  Args:
    reader: reads the samples.
    labels: arrays by name, `[N ...]`, that are added to the samples.
    rows: the rows to read.
    size: number of rows in a global batch.
    sharding: sharding of a batch.
    workers: number of worker processes that read; 0 reads with threads of this process.
  """
  padded = np.append(rows, np.full(-len(rows) % size, -1))
  return _sharded_batches(padded, reader, labels, size, 1, sharding, workers)


class _Rows(Protocol):
  """A sequence of rows: an array or an `Order`."""

  def __len__(self) -> int: ...
  def __getitem__(self, position: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class _RowsOfProcess:
  """The rows that this process reads of every global batch, as (row, block), one batch after another.

  With batches of 4 rows and the places (2, 3), position 0 is row 2 of the first batch, position 1 is row 3 of
  the first batch, and position 2 is row 2 of the second batch. The block is -1 if batches have no blocks.
  """

  order: _Rows
  size: int
  blocks: int
  places: np.ndarray
  start: int

  def __len__(self) -> int:
    return (len(self.order) // self.size - self.start) * len(self.places)

  def __getitem__(self, position: int) -> tuple[int, int]:
    batch, at = divmod(position, len(self.places))
    place = int(self.places[at])
    block = place * self.blocks // self.size if self.blocks > 1 else -1
    return int(self.order[(self.start + batch) * self.size + place]), block


def _sharded_batches(
  order: _Rows,
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  size: int,
  blocks: int,
  sharding: NamedSharding,
  workers: int,
  start: int = 0,
) -> grain.IterDataset:
  """Batches of `size` rows in this order, as arrays that are sharded over the devices of all processes."""
  held = sharding.addressable_devices_indices_map((size,)).values()
  places = np.unique(np.concatenate([np.arange(size)[index] for index in held]))
  put = lambda batch: jax.make_array_from_process_local_data(sharding, batch)
  rows = grain.MapDataset.source(_RowsOfProcess(order, size, blocks, places, start))
  # A work item of a thread is a piece of a batch. Single small samples would cost more to pass on than to
  # read. Whole batches of large samples would keep only a few threads busy. One batch is read while another
  # is concatenated.
  share = len(places)
  piece = max(
    n for n in range(1, share + 1) if share % n == 0 and n * reader.nbytes <= max(PIECE, reader.nbytes)
  )
  ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(2 * THREADS, share // piece))
  dataset = rows.map(_Example(reader, labels)).batch(piece, drop_remainder=True).to_iter_dataset(ahead)
  if workers:
    if not flags.FLAGS.is_parsed():  # grain reads absl flags, which only programs with absl parse
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  dataset = dataset.batch(share // piece, drop_remainder=True, batch_fn=_concatenate).map(put)
  return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=2)


def _concatenate(pieces: Sequence[dict]) -> dict:
  return pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
