"""Random numbers that are cheap on every device and do not depend on how an array is sharded."""

from __future__ import annotations

import functools
import zlib
from types import ModuleType
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
  from flax import nnx

Array = jax.Array | np.ndarray

# Every random draw of a run comes from one of these: initial values, the order of samples, augmentation,
# mixup, dropout, sensors that a method hides, whatever else a method draws, and the order of conflicting
# gradients.
STREAMS = ("init", "landmarks", "order", "augment", "mixup", "dropout", "sensors", "method", "conflicts")


@functools.partial(jax.jit, static_argnums=1, inline=True)  # traced once for each shape
def hashed_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """32 random bits for each position of an array: a hash of the position's number and the key.

  Dropout masks and initial values must be independent of the data, of each other and between steps. They
  need no cryptographic stream. On a CPU, Threefry is a loop of its own that costs as much as the
  convolutions. These multiply and xor-shift rounds (the finaliser of Steele & Vigna 2021, here with three
  rounds and a key) fuse into the layer that uses them. The bits of a position depend only on its number
  and the key, so they are the same for every sharding of the array.

  Args:
    key: a key of `jax.random.key`; both of its 32-bit words are used.
    shape: shape of the result. The bits repeat after 2^32 positions.

  Returns:
    Random bits, uint32, of that shape.
  """
  words = jax.random.key_data(key).astype(jnp.uint32)
  position, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return _hash(position, words[0], words[1], jnp)


def stream(key: jax.Array, name: str, number: jax.Array | int | None = None) -> jax.Array:
  """The key of one named stream of a run, so that no key serves two purposes.

  Args:
    key: of the run.
    name: one of `STREAMS`.
    number: of the step or epoch, for a stream that is drawn from again and again.
  """
  if name not in STREAMS:
    raise ValueError(f"unknown random stream {name!r}, have: {', '.join(STREAMS)}")
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  return key if number is None else jax.random.fold_in(key, number)


def keys(key: jax.Array | None = None) -> nnx.Rngs:
  """Keys for the initial values of a model, the same as those of `nnx.Rngs(params=key)`.

  Args:
    key: of the stream; by default that of seed 0, for models whose values are replaced or not computed.
  """
  return cast("nnx.Rngs", _Params(jax.random.key(0) if key is None else key))


class _Params:
  """What a model needs of `nnx.Rngs`, whose counter is an array: that took most of the time of tracing."""

  def __init__(self, key: jax.Array):
    self._key, self._drawn = key, 0

  def params(self) -> jax.Array:
    """The next key."""
    self._drawn += 1
    return jax.random.fold_in(self._key, jnp.uint32(self._drawn - 1))


def run_key(seed: jax.Array | int, fold: jax.Array | int) -> jax.Array:
  """The key that every random value of a run comes from."""
  return jax.random.fold_in(jax.random.key(seed), fold)


def shuffled(words: Array, epoch: Array | int, rows: Array, xp: ModuleType = jnp) -> Array:
  """Rows in the random order of an epoch, with padding (-1) behind them.

  The same whether JAX computes it on a device or NumPy on the host, so that the order of samples does not
  depend on where they are kept.

  Args:
    words: `[2]` uint32, the data of the stream's key (`jax.random.key_data`).
    epoch: number of the epoch, scalar.
    rows: `[n]` int.
    xp: `jax.numpy` or `numpy`.
  """
  epoch = xp.asarray(epoch).astype(xp.uint32).reshape(1)
  first, second = (_hash(epoch + xp.uint32(half), words[0], words[1], xp) for half in (0, 2**31))
  bits = _hash(xp.arange(len(rows)).astype(xp.uint32), first, second, xp)
  return rows[xp.lexsort((bits, rows < 0))]


def epoch_rows(words: Array, epoch: Array | int, rows: Array, blocks: int = 1, xp: ModuleType = jnp) -> Array:
  """The rows of every step of an epoch, `[S blocks·B]`, of the rows `[S B]` with padding (-1) at their end.

  Every block of a batch has an order of its own; of a method whose sensors come from different samples
  there is one block for each sensor. See `shuffled` for the other arguments.
  """
  draw = lambda block: shuffled(words, epoch * blocks + block, rows.reshape(-1), xp)
  return xp.concatenate([draw(block).reshape(rows.shape) for block in range(blocks)], axis=1)


def _hash(position: Array, first: Array, second: Array, xp: ModuleType) -> Array:
  """Keyed bits `[...]` of positions `[...]`, all uint32."""
  bits = (position * xp.uint32(0x9E3779B9)) ^ first
  bits = (bits ^ (bits >> 16)) * xp.uint32(0x21F0AAAD)
  bits = ((bits ^ (bits >> 15)) + second) * xp.uint32(0x735A2D97)
  bits = (bits ^ (bits >> 15)) * xp.uint32(0x9E3779B1)
  return bits ^ (bits >> 16)
