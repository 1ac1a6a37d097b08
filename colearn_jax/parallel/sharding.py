"""The device mesh and the sharding rules, the same from a single CPU to a slice of accelerators.

The mesh has three axes:

- `replica`: independent runs (folds, seeds, ablations), trained side by side.
- `data`: data parallelism. A device holds a part of the batch and all parameters.
- `fsdp`: fully sharded data parallelism. A device holds a part of the batch and a part of the parameters.

Batches are sharded over `data` and `fsdp` together. Parameters and the optimizer state are sharded over
`fsdp` according to `RULES`. Everything else is replicated on every device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from colearn_jax.types import InputError

AXES = ("replica", "data", "fsdp")
BATCH = ("data", "fsdp")

# Dimensions of a parameter that may be sharded over `fsdp`, by a regular expression for its path. The first
# match applies. Of its dimensions, the largest one that is divisible by the size of `fsdp` is sharded.
# Vectors are small and stay replicated.
RULES: tuple[tuple[str, tuple[int, ...]], ...] = (
  (r"/(bias|scale|mean|var|batches)$", ()),
  (r"/kernel$", (-1, -2)),
  (r"", (0, 1, 2, 3)),
)


def make_mesh(sizes: Mapping[str, int], batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes the mesh over all devices.

  Args:
    sizes: size of each axis in `AXES`. One of them may be -1: it is computed from the number of devices.
    batch_size: rows that are computed at a time: the global batch, or a microbatch of it.
    devices: all devices by default.

  Raises:
    InputError: the sizes do not multiply to the number of devices, or the batch is not divisible.
  """
  devices = jax.devices() if devices is None else devices
  count, shape = len(devices), [sizes[axis] for axis in AXES]
  given = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape))
  fixed = math.prod(size for size in shape if size > 0)
  if shape.count(-1) > 1:
    raise InputError(f"mesh: {given} is not allowed; at most one size can be -1, which fills in")
  if -1 in shape and count % fixed == 0:
    shape[shape.index(-1)] = count // fixed
  if math.prod(shape) != count:
    near = " or ".join(map(str, _near(fixed, [n for n in range(1, count + 1) if count % n == 0])))
    raise InputError(
      f"mesh: {given} does not fit {count} device{'s' * (count > 1)}; the sizes multiply to {fixed}, "
      f"{near} would divide them"
    )
  parts = shape[1] * shape[2]
  if batch_size % parts:
    below = batch_size - batch_size % parts
    near = " or ".join(str(size) for size in (below, below + parts) if size)
    raise InputError(
      f"train.batch_size: {batch_size} does not divide over {parts} devices of the mesh; {near} would"
    )
  return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _near(value: int, allowed: Sequence[int]) -> list[int]:
  """The nearest allowed value at or below `value`, and the nearest one above."""
  below, above = [n for n in allowed if n <= value], [n for n in allowed if n > value]
  return sorted({*below[-1:], *above[:1]})


def current(mesh: Mesh) -> Mesh | jax.sharding.AbstractMesh:
  """The mesh to use at this point of a program: inside a `shard_map`, its mesh with the axes it has taken."""
  inside = jax.sharding.get_abstract_mesh()
  return mesh if inside.empty else inside


def whole(mesh: Mesh) -> NamedSharding:
  """Replicated: the whole array on every device."""
  return NamedSharding(mesh, jax.P())


def by_example(mesh: Mesh) -> NamedSharding:
  """The first axis is sharded over the devices that share a batch."""
  return NamedSharding(mesh, jax.P(BATCH))


def by_replica(mesh: Mesh) -> NamedSharding:
  """The first axis is sharded over the replicas."""
  return NamedSharding(mesh, jax.P("replica"))


def parameter(mesh: Mesh, path: str, shape: Sequence[int]) -> PartitionSpec:
  """The sharding of one parameter, or of the optimizer state of one, according to `RULES`.

  Args:
    mesh: the device mesh.
    path: path of the parameter in the model, e.g. `unique/S1/out/kernel`.
    shape: shape of the array, without the axis of replicas.
  """
  size = mesh.shape["fsdp"]
  dimensions = next(dims for pattern, dims in RULES if re.search(pattern, path))
  fitting = [d for d in dimensions if -len(shape) <= d < len(shape) and shape[d] % size == 0]
  if size == 1 or len(shape) < 2 or not fitting:
    return jax.P()
  at = max(fitting, key=lambda d: shape[d]) % len(shape)
  return jax.P(*(None,) * at, "fsdp")


def of_stack(mesh: Mesh, state: Any) -> Any:
  """The sharding of every array of R stacked runs: first axis over the replicas, the others by `RULES`.

  Args:
    mesh: the device mesh.
    state: a pytree of arrays, or of their shapes, each `[R ...]`.

  Returns:
    A pytree of the same structure with a `NamedSharding` for each array.
  """

  def place(path, leaf):
    name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
    return NamedSharding(mesh, jax.P("replica", *parameter(mesh, f"/{name}", leaf.shape[1:])))

  return jax.tree_util.tree_map_with_path(place, state)
