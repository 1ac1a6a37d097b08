"""A process that trains one arm on one core: `python -m colearn_jax.studies.worker JOB`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# With these, numerical libraries use one thread.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NPROC": "1"}
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"


def environment(old: Mapping[str, str]) -> dict[str, str]:
  """The environment of a worker."""
  flags = " ".join(filter(None, (old.get("XLA_FLAGS"), XLA_FLAGS)))
  return {**old, **ONE_THREAD, "XLA_FLAGS": flags}


def main(job: str) -> int:
  """Trains the arm that a JSON text describes, see `schedule`. Returns the exit status."""
  told = json.loads(job)
  # Before JAX is loaded, because its threads are as many as the cores. macOS has no such function.
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {told["core"]})
  from colearn_jax.studies import arms, plans

  study = plans.load(told["config"])
  cell = next(cell for cell in study.cells if cell.name == told["cell"])
  arm = next(arm for arm in cell.arms if arm.name == told["arm"])
  error = arms.attempt(Path(told["workdir"]), cell, arm, told["metric"], told["given"])
  if error:
    print(error, file=sys.stderr)
  return int(bool(error))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1]))
