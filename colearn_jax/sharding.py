"""The device mesh: batches are split over its axis `data`, everything else stands whole on every device."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from colearn_jax.spec import InputError


def make_mesh(batch_size: int) -> Mesh:
  """A mesh of all devices.

  Raises:
    InputError: the batch does not divide over them.
  """
  devices = jax.device_count()
  if batch_size % devices:
    below = batch_size - batch_size % devices
    near = [str(b) for b in (below, below + devices) if b]
    raise InputError(
      f"train.batch_size: {batch_size} does not divide over {devices} devices; {' or '.join(near)} would"
    )
  return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def whole(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, jax.P())


def by_example(mesh: Mesh) -> NamedSharding:
  """The first axis split over the devices."""
  return NamedSharding(mesh, jax.P("data"))
