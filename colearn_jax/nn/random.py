"""Random numbers that are cheap on every device and do not depend on how an array is sharded."""

from __future__ import annotations

import jax
import jax.numpy as jnp


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
    position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    stride *= shape[axis]
  bits = (position * jnp.uint32(0x9E3779B9)) ^ words[0]
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x21F0AAAD)
  bits = ((bits ^ (bits >> 15)) + words[1]) * jnp.uint32(0x735A2D97)
  bits = (bits ^ (bits >> 15)) * jnp.uint32(0x9E3779B1)
  return bits ^ (bits >> 16)
