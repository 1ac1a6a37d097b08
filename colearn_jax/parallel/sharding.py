"""The device mesh and what is split over it: one mesh from a single CPU to a slice of accelerators.

Its axes are `replica` (trainings that know nothing of each other: folds, seeds, loss weights), `data` and
`fsdp`. A batch is split over the last two together, parameters and what the optimizer keeps of them over
`fsdp`, by `RULES`; everything else stands whole on every device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from colearn_jax.types import InputError

AXES = ("replica", "data", "fsdp")
BATCH = ("data", "fsdp")

# Which dimensions of a parameter may be split over `fsdp`, by the end of its path; the first rule that fits
# holds, and of its dimensions the largest one that divides. Vectors are small and stay whole.
RULES: tuple[tuple[str, tuple[int, ...]], ...] = (
  (r"/(bias|scale|mean|var|batches)$", ()),
  (r"/kernel$", (-1, -2)),
  (r"", (0, 1, 2, 3)),
)


def make_mesh(sizes: Mapping[str, int], batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of all devices.

  Args:
    sizes: of each of `AXES`; -1, for one of them, takes what is left.
    batch_size: of the global batch, or of the part that is computed at a time.
    devices: all by default.

  Raises:
    InputError: the sizes are not those of the devices, or the batch does not divide.
  """
  devices = jax.devices() if devices is None else devices
  count, sizes = len(devices), [sizes[axis] for axis in AXES]
  given = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
  fixed = math.prod(size for size in sizes if size > 0)
  if sizes.count(-1) > 1:
    raise InputError(f"mesh: {given} is not allowed; at most one size can be -1, which fills in")
  if -1 in sizes and count % fixed == 0:
    sizes[sizes.index(-1)] = count // fixed
  if math.prod(sizes) != count:
    near = " or ".join(map(str, _near(fixed, [n for n in range(1, count + 1) if count % n == 0])))
    devices = f"{count} device{'s' * (count > 1)}"
    raise InputError(
      f"mesh: {given} does not fit {devices}; the sizes multiply to {fixed}, {near} would divide them"
    )
  parts = sizes[1] * sizes[2]
  if batch_size % parts:
    below = batch_size - batch_size % parts
    near = " or ".join(str(size) for size in (below, below + parts) if size)
    raise InputError(
      f"train.batch_size: {batch_size} does not divide over {parts} devices of the mesh; {near} would"
    )
  return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _near(value: int, allowed: Sequence[int]) -> list[int]:
  """The nearest allowed values on both sides."""
  below, above = [n for n in allowed if n <= value], [n for n in allowed if n > value]
  return sorted({*below[-1:], *above[:1]})


def current(mesh: Mesh) -> Mesh | jax.sharding.AbstractMesh:
  """The mesh as it is seen from here: inside of a shard_map some of its axes are already dealt with."""
  inside = jax.sharding.get_abstract_mesh()
  return mesh if inside.empty else inside


def whole(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, jax.P())


def by_example(mesh: Mesh) -> NamedSharding:
  """The first axis split over the devices that share a batch."""
  return NamedSharding(mesh, jax.P(BATCH))


def by_replica(mesh: Mesh) -> NamedSharding:
  """The first axis split over the replicas."""
  return NamedSharding(mesh, jax.P("replica"))


def parameter(mesh: Mesh, path: str, shape: Sequence[int]) -> PartitionSpec:
  """How one array of a model (or of what the optimizer keeps of it) is split, by `RULES`.

  Args:
    mesh: of the devices.
    path: e.g. `unique/S1/out/kernel`.
    shape: of the array, without an axis of replicas.
  """
  size = mesh.shape["fsdp"]
  dimensions = next(dims for pattern, dims in RULES if re.search(pattern, path))
  fitting = [d for d in dimensions if -len(shape) <= d < len(shape) and shape[d] % size == 0]
  if size == 1 or len(shape) < 2 or not fitting:
    return jax.P()
  at = max(fitting, key=lambda d: shape[d]) % len(shape)
  return jax.P(*(None,) * at, "fsdp")


def of_stack(mesh: Mesh, state):
  """Where every array of a stack of trainings stands: its first axis over the replicas, the rest by `RULES`.

  Args:
    mesh: of the devices.
    state: a tree of arrays (or of their shapes) `[R ...]`.
  """

  def place(path, leaf):
    name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
    return NamedSharding(mesh, jax.P("replica", *parameter(mesh, f"/{name}", leaf.shape[1:])))

  return jax.tree_util.tree_map_with_path(place, state)
