"""A process that trains one arm on one core: `python -m colearn_jax.studies.worker`."""

from __future__ import annotations

import os
from pathlib import Path

from colearn_jax.parallel import workers


def train(job: workers.Job) -> dict[str, str]:
  """Trains the arm of a job, see `schedule.in_processes`. Returns its error, empty if there is none."""
  path = Path(job["log"])
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "ab", buffering=0) as log:
    for stream in (1, 2):
      os.dup2(log.fileno(), stream)
  from colearn_jax.studies import arms, plans  # these load JAX, after the core was chosen

  study = plans.load(job["config"])
  cell = next(cell for cell in study.cells if cell.name == job["cell"])
  arm = next(arm for arm in cell.arms if arm.name == job["arm"])
  error = arms.attempt(Path(job["workdir"]), cell, arm, job["metric"], job["given"])
  if error:
    print(error, flush=True)
  return {"error": error}


if __name__ == "__main__":
  workers.serve(train)
