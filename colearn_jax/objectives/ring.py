"""The contrastive loss for a batch that is sharded over devices, without the full similarity matrix.

It gives the value of `objectives.contrastive.contrastive`. Each device holds a block of rows. The blocks are
passed around a ring of devices, so that every device compares its rows with all others, one block at a time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from colearn_jax.parallel import sharding


def devices(mesh: Mesh) -> int:
  """Number of devices that share a batch."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def contrastive(
  mesh: Mesh,
  za: jax.Array,
  zb: jax.Array,
  temperature: float,
  mask: jax.Array,
  *,
  negatives: str = "both",
) -> jax.Array:
  """`objectives.contrastive.contrastive` for sharded rows; equal within floating-point tolerance.

  Each of n devices compares its own 2B/n rows with one block of 2B/n rows at a time and accumulates the log
  of the sum of exponentials. After each comparison it sends the block to the next device, as in ring
  attention (Liu et al. 2023, arXiv 2310.01889). A device holds one block of similarities, [2B/n 2B/n], at a
  time. The backward pass computes the blocks again.

  Args:
    mesh: the device mesh; rows are sharded over its axes `sharding.BATCH`.
    za: features of one modality, `[B D]`.
    zb: features of the other modality, `[B D]`.
    temperature: τ.
    mask: `[B]`, 1 for samples that both modalities have.
    negatives: `both` or `cross`, see `objectives.contrastive.contrastive`.
  """
  size = devices(mesh)
  to_next = [(i, (i + 1) % size) for i in range(size)]

  def local(za, zb, mask):
    rows = len(za)
    unit = lambda z: z * jax.lax.rsqrt(jnp.maximum(jnp.square(z).sum(-1, keepdims=True), 1e-24))
    z = unit(jnp.concatenate([za, zb]).astype(jnp.float32))
    mask = jnp.concatenate([mask, mask]).astype(jnp.float32)
    positive = (z[:rows] * z[rows:]).sum(-1) / temperature
    side = jnp.arange(2 * rows) < rows

    @jax.checkpoint
    def compare(z, block, counts, own):
      similarity = (z @ block.T) / temperature
      counted = (counts > 0)[None, :] & ~(own & jnp.eye(2 * rows, dtype=bool))
      if negatives == "cross":
        counted &= side[:, None] != side[None, :]
      similarity = jnp.where(counted, similarity, -jnp.inf)
      # The bound keeps a row without any counted pair finite: its sum is 0, and its gradients are 0.
      top = jax.lax.stop_gradient(jnp.maximum(similarity.max(-1), -1.0 / temperature))
      return top, jnp.exp(similarity - top[:, None]).sum(-1)

    def turn(carry, step):
      top, total, block, counts = carry
      above, more = compare(z, block, counts, step == 0)
      new = jnp.maximum(top, above)
      total = total * jnp.exp(top - new) + more * jnp.exp(above - new)
      block, counts = jax.lax.ppermute((block, counts), sharding.BATCH, to_next)
      return (new, total, block, counts), None

    begin = jnp.full(2 * rows, -1.0 / temperature), jnp.zeros(2 * rows), z, mask
    (top, total, *_), _ = jax.lax.scan(turn, begin, jnp.arange(size))
    logsum = top + jnp.log(jnp.where(mask > 0, total, 1.0))
    losses = jnp.where(mask > 0, (logsum - jnp.tile(positive, 2)) * mask, 0.0)
    total, count = jax.lax.psum((losses.sum(), mask.sum()), sharding.BATCH)
    return total / jnp.maximum(count, 1e-12)

  split = jax.P(sharding.BATCH)
  return jax.shard_map(
    local,
    mesh=sharding.current(mesh),
    in_specs=(split, split, split),
    out_specs=jax.P(),
    axis_names=set(sharding.BATCH),
    check_vma=False,
  )(za, zb, mask)
