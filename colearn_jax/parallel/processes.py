"""Jobs of several processes, on one host or many: start-up, barriers, and what happens after an error.

JAX runs one process per host on clusters and TPU slices. Every process executes the same program, and each
one holds a part of the devices and of every batch. A job of one process needs nothing of this.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from colearn_jax.types import InputError

HEARTBEAT_SECONDS = 30  # the others end if a process sends no heartbeat for this long


def initialize(
  coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
  """Connects the processes of a job. Call it before anything asks JAX for a device.

  Without arguments the environment decides: SLURM or Open MPI with more than one task, or a Cloud TPU slice
  with several hosts. In any other environment this is a job of one process, and nothing happens.

  Args:
    coordinator: `host:port` of process 0, the same in all processes.
    processes: number of processes in the job.
    process: index of this process, from 0.

  Raises:
    InputError: only some of the three arguments are given, or the processes could not connect.
  """
  given = (coordinator, processes, process)
  if any(value is not None for value in given) and None in given:
    raise InputError(
      "--coordinator, --processes and --process belong together: host:port, number of processes, index"
    )
  if coordinator is None and not _in_a_job():
    return
  if processes is not None and process is not None and not 0 <= process < processes:
    raise InputError(f"--process={process} is not allowed; 0 to {processes - 1}")
  if jax.config.jax_platforms in (None, "cpu"):  # type: ignore[attr-defined]  # defined at run time by JAX
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(
      coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=120
    )
  except (RuntimeError, ValueError) as error:
    raise InputError(f"the processes could not connect: {' '.join(str(error).split())}") from None


def _in_a_job() -> bool:
  """Whether the environment variables describe a job of several processes."""
  tasks = [os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
  # A shell in a SLURM allocation also has SLURM_NTASKS, but it is not a task and has no SLURM_PROCID.
  started = "SLURM_PROCID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
  return (started and any(count.isdigit() and int(count) > 1 for count in tasks)) or "," in hosts


@contextlib.contextmanager
def abort_all_on_error(but: type[BaseException] | tuple[()] = ()) -> Iterator[None]:
  """Ends this process at once after an error, so that the other processes of the job end too.

  Not after `but`, which is raised in all of them.

  A normal exit would deadlock: it waits for the other processes, and they wait for this one. The others
  detect the loss at their next collective operation or by the missing heartbeat.
  """
  try:
    yield
  except but:
    raise
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    me = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, jax.errors.JaxRuntimeError):
      why = str(error).partition("\n")[0]
      print(
        f"{me}: another process may have died: {why}\nThe same command resumes from the last checkpoint.",
        file=sys.stderr,
      )
    elif isinstance(error, InputError):
      print(f"{me}: {error}", file=sys.stderr)
    else:
      traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def first() -> bool:
  """Whether this is process 0, which prints and writes files for the whole job."""
  return jax.process_index() == 0


def fetch(tree: Any) -> Any:
  """Arrays that are sharded over the devices of all processes, whole and on the host of each process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


def wait(where: str) -> None:
  """Waits until all processes have reached this call. `where` names the barrier."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)
