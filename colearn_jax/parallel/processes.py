"""Many processes, on one host or many, as one program."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from colearn_jax.types import InputError

HEARTBEAT_SECONDS = 30  # a process that is silent for so long is taken for dead, and the others end


def initialize(
  coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
  """Joins the processes of a job; before anything asks for a device.

  Where nothing is given, the job is what the environment says: of SLURM or Open MPI with more than one task,
  or of a slice of several Cloud TPU hosts; else this process is alone and nothing happens.

  Args:
    coordinator: `host:port` of process 0, the same for all.
    processes: their number.
    process: the number of this one, from 0.

  Raises:
    InputError: some of the three are given and some are not; the processes did not come together.
  """
  given = (coordinator, processes, process)
  if any(value is not None for value in given) and None in given:
    raise InputError("--coordinator, --processes and --process belong together: host:port, how many, which")
  if coordinator is None and not _in_a_job():
    return
  if processes is not None and not 0 <= process < processes:
    raise InputError(f"--process={process} is not allowed; 0 to {processes - 1}")
  if jax.config.jax_platforms in (None, "cpu"):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(
      coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=120
    )
  except (RuntimeError, ValueError) as error:
    raise InputError(f"the processes did not come together: {' '.join(str(error).split())}") from None


def _in_a_job() -> bool:
  """Whether the environment is that of one of several processes."""
  tasks = [os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
  # A shell inside of an allocation has SLURM_NTASKS as well, but no task of its own.
  started = "SLURM_PROCID" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
  return (started and any(count.isdigit() and int(count) > 1 for count in tasks)) or "," in hosts


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends this process at once where an error ends its part of a job.

  An orderly end would wait for the other processes, and they for this one. They notice that it is gone by
  their next collective, or by its missing heartbeat.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    me = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, jax.errors.JaxRuntimeError):
      why = str(error).partition("\n")[0]
      print(
        f"{me}: another one may have died: {why}\nThe same command goes on from the last checkpoint.",
        file=sys.stderr,
      )
    elif isinstance(error, InputError):
      print(f"{me}: {error}", file=sys.stderr)
    else:
      traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def first() -> bool:
  """Whether this is the process that prints and writes what is written once."""
  return jax.process_index() == 0


def wait(where: str) -> None:
  """Waits until all processes have come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)
