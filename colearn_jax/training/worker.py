"""A process that trains runs on one core, one after another: `python -m colearn_jax.training.worker`."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from colearn_jax.parallel import memory, workers


def train(job: workers.Job) -> dict[str, Any]:
  """Trains the run of a job, see `side_by_side`. Returns its phases, an error, or that it was stopped."""
  from colearn_jax.storage import files  # these load JAX, after the core was chosen
  from colearn_jax.training import phases, preemption, run
  from colearn_jax.training.log import Log
  from colearn_jax.types import InputError

  workdir, name = Path(job["workdir"]), job["run"]
  try:
    with preemption.watch(), files.telling(workdir), memory.telling():
      with phases.of_process().during("data"):
        training, samples = _opened(json.dumps(job["config"]), workdir, job["cache"])
      (own,) = (one for one in training.runs if one.name == name)
      samples.check([own])
      with Log(workdir, {name: job["after"]}, append=True) as log:
        run.fit(
          training.config, samples, [own], workdir, log, training.frozen, training.pretrained, bar=False
        )
  except preemption.Preempted:
    return {"stopped": True}
  except InputError as error:
    return {"error": str(error)}
  return {"phases": phases.of_process().take()}


@functools.cache  # a worker has the runs of a method and of its baseline, and compiles for each of them once
def _opened(config: str, workdir: Path, cache: str | None) -> tuple[Any, Any]:
  """The training of a work directory and its samples."""
  import jax

  from colearn_jax import config as config_lib
  from colearn_jax.training import run, setup

  if cache:
    jax.config.update("jax_compilation_cache_dir", cache)
  with contextlib.redirect_stderr(io.StringIO()):  # the process that started this one has said it
    training = run.open_training(config_lib.restore(json.loads(config)), workdir)
  parts = training.recipe, training.dataset, training.modalities, training.index
  return training, setup.make_samples(training.config, *parts)


if __name__ == "__main__":
  if not sys.warnoptions:
    warnings.simplefilter("ignore")
  workers.serve(train)
