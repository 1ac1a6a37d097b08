"""Batches streamed from the disk: read by threads or processes, padded, and put on the devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding

from colearn_jax.data.reader import THREADS, Reader
from colearn_jax.nn import random

PIECE = 2**22  # bytes of samples that one thread reads at a time


@dataclasses.dataclass(frozen=True)
class _Example:
  """Picklable (row, block) → sample of a batch. Row -1 is padding; a block >= 0 shows one sensor alone."""

  reader: Reader
  labels: Mapping[str, np.ndarray]

  def __call__(self, place: tuple[int, int]) -> dict:
    row, block = place
    sample = self.reader(max(row, 0))
    shown = lambda number: np.float32(row >= 0 and block in (-1, number))
    names = sorted(sample["present"])
    sample["present"] = {m: shown(number) * sample["present"][m] for number, m in enumerate(names)}
    labels = {name: values[max(row, 0)] for name, values in self.labels.items()}
    return sample | labels | {"row": np.int32(row)}


@dataclasses.dataclass(frozen=True)
class Order:
  """Endless rows of training batches; the order of an epoch is computed when it is reached. Picklable.

  Attributes:
    words: data of the key of the run's stream `order`, see `nn.random.epoch_rows`.
    rows: `[S B]` of an epoch, padding (-1) at the end.
    blocks: equal blocks of rows of a batch that show one sensor each; 1 if every row shows all sensors.
  """

  words: np.ndarray
  rows: np.ndarray
  blocks: int = 1

  @property
  def size(self) -> int:
    """Rows of a batch."""
    return self.rows.shape[1] * self.blocks

  def __len__(self) -> int:
    return 2**62 // self.size * self.size

  def __getitem__(self, position: int) -> int:
    epoch, at = divmod(position, self.rows.size * self.blocks)
    return int(self._epoch(epoch)[at])

  @functools.cached_property
  def _epoch(self) -> Callable[[int], np.ndarray]:
    # Two epochs are kept: the first batches of one are asked for while the last ones of another are read.
    draw = lambda epoch: random.epoch_rows(self.words, epoch, self.rows, self.blocks, np).reshape(-1)
    return functools.lru_cache(maxsize=2)(draw)

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
  """Endless global batches.

  Every process reads its own share of each batch, with threads, or with `workers` more processes. The order
  does not depend on the number of processes.

  Args:
    reader: of samples.
    labels: by name, `[N ...]`.
    order: of the rows.
    start: number of batches to leave out, which is all that resuming needs.
    sharding: of a batch.
    workers: processes that read.
  """
  return _globalise(order, reader, labels, order.size, order.blocks, sharding, workers, start)


def eval_batches(
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  rows: np.ndarray,
  *,
  size: int,
  sharding: NamedSharding,
  workers: int = 0,
) -> grain.IterDataset:
  """The rows in their order once, the last batch padded, so that every process has as many batches."""
  padded = np.append(rows, np.full(-len(rows) % size, -1))
  return _globalise(padded, reader, labels, size, 1, sharding, workers)


@dataclasses.dataclass(frozen=True)
class _Share:
  """The rows of this process's places in every global batch, one after another.

  With batches of 4 rows and the places (2, 3), position 0 is row 2 of the first batch, position 1 its row 3,
  position 2 is row 2 of the second batch. Each comes with the number of its block, -1 if there are none.
  """

  order: Sequence[int]
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


def _globalise(
  order: Sequence[int],
  reader: Reader,
  labels: Mapping[str, np.ndarray],
  size: int,
  blocks: int,
  sharding: NamedSharding,
  workers: int,
  start: int = 0,
) -> grain.IterDataset:
  held = sharding.addressable_devices_indices_map((size,)).values()
  places = np.unique(np.concatenate([np.arange(size)[index] for index in held]))
  put = lambda batch: jax.make_array_from_process_local_data(sharding, batch)
  rows = grain.MapDataset.source(_Share(order, size, blocks, places, start))
  # Threads hand over pieces of a batch: handing over single small samples costs more than reading them, and
  # whole batches of large ones keep few threads busy. One batch is read while another is put together.
  share = len(places)
  piece = max(
    n for n in range(1, share + 1) if share % n == 0 and n * reader.nbytes <= max(PIECE, reader.nbytes)
  )
  ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(2 * THREADS, share // piece))
  dataset = rows.map(_Example(reader, labels)).batch(piece, drop_remainder=True).to_iter_dataset(ahead)
  if workers:
    if not flags.FLAGS.is_parsed():  # in a program without absl, as grain asks for its flags
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  dataset = dataset.batch(share // piece, drop_remainder=True, batch_fn=_concatenate).map(put)
  return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=2)


def _concatenate(pieces: Sequence[dict]) -> dict:
  return pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
