"""Computes the blocks of a map on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from colearn_jax.datasets.folder.optional import module
from colearn_jax.deploy import blocks
from colearn_jax.deploy.mapping import Job


def run(job: Job, numbers: list[int], done: Callable[[int], None], address: str | None, workers: int) -> None:
  """Computes these blocks, one a task. All workers have to see the same files under the same paths.

  A task whose worker is lost is given to another one.

  Args:
    job: the map.
    numbers: of the blocks.
    done: called with the number of each block that is finished.
    address: of a Dask scheduler; None for a local cluster.
    workers: processes of the local cluster.
  """
  array, distributed = module("dask.array", "dask"), module("distributed", "dask")
  local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
  with distributed.Client(address, set_as_default=False, **({} if address else local)) as client:
    tasks = array.from_array(np.array(numbers), chunks=1).map_blocks(_block, job=job, dtype=np.int64)
    futures = client.compute(tasks.to_delayed().ravel().tolist())
    for future in distributed.as_completed(futures, loop=client.loop):
      done(int(future.result()[0]))


def _block(number: np.ndarray, job: Job) -> np.ndarray:
  """The task: the number of a block, as an array."""
  return np.array([blocks.run_one(job, int(number[0]))])
