"""Trains independent runs at the same time on a CPU, in processes of one core each.

A step of a small model gains little from a second core, so two long trainings on a core each take less time
than one after another on both. Each process has to start and to compile, which short trainings do not make up
for. A worker writes what `run.fit` writes: log lines, checkpoints and the finished model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax

from colearn_jax import config as config_lib
from colearn_jax.data.splits import Run
from colearn_jax.parallel import workers
from colearn_jax.parallel.cores import usable_cores
from colearn_jax.training import log, phases, preemption, setup, work_directory
from colearn_jax.types import InputError

if TYPE_CHECKING:
  from colearn_jax.training.run import Training

MODULE = "colearn_jax.training.worker"


def fit(trainings: Sequence[Training]) -> None:
  """Trains the unfinished runs of these trainings if `number` is above 1; otherwise does nothing.

  Raises:
    InputError: a run failed, or its process was killed. The others are stopped at their next checkpoint.
  """
  todo = [(one, run) for one in trainings for run in work_directory.unfinished(one)]
  jobs: list[dict] = []
  errors: list[str] = []
  if (count := number(trainings, len(todo))) == 1:
    return
  for training in trainings:
    samples = setup.make_samples(
      training.config, training.recipe, training.dataset, training.modalities, training.index
    )
    own, positions = [run for one, run in todo if one is training], work_directory.positions(training)
    samples.check(own, arrays=False)  # each worker makes those of its runs
    log.Log(training.workdir, positions).close()  # drops what is later than the checkpoints
    jobs += [_job(training, run, positions[run.name]) for run in own]
  with preemption.deferred(), workers.Workers(MODULE, count) as pool:
    for answer in pool.each(jobs):
      if preemption.requested():
        pool.terminate()
      if answer is not None and answer.content is not None:
        _count(answer.content.get("phases", {}))
      if answer is not None and (error := _error(todo[answer.job][1], answer)):
        errors.append(error)
        pool.terminate()
  if preemption.requested():
    raise preemption.Preempted
  if errors:
    raise InputError(errors[0])
  for training in trainings:
    log.arrange(training.workdir, [run.name for run in training.runs])


def number(trainings: Sequence[Training], runs: int) -> int:
  """The number of processes for these unfinished runs; 1: this process trains them one after another.

  Raises:
    InputError: `train.workers` is above 1 where processes of one core cannot train.
  """
  config, cpu = trainings[0].config, jax.default_backend() == "cpu" and jax.process_count() == 1
  if wanted := config.train.workers:
    if wanted > 1 and config.train.replicas:
      raise InputError("train.workers: train.replicas=True trains all runs as one program; use 1, or 0")
    if wanted > 1 and not cpu:
      raise InputError(
        "train.workers: processes cannot share an accelerator, or a job of several; use 1, or 0"
      )
    return min(wanted, max(runs, 1))
  cores = usable_cores()
  small = all(setup.table_fits(one.config, one.dataset, one.modalities, cores) for one in trainings)
  alone = cpu and jax.device_count() == 1 and not config.train.replicas and config.data.placement != "stream"
  return cores if alone and small and runs >= cores else 1


def _job(training: Training, run: Run, after: float) -> dict:
  return {
    "config": config_lib.to_json(training.config),
    "workdir": str(training.workdir),
    "cache": jax.config.jax_compilation_cache_dir,  # type: ignore[attr-defined]
    "run": run.name,
    "after": after,  # the epoch of its last checkpoint
  }


def _count(seconds: Mapping[str, float]) -> None:
  """Adds the phases of a worker to those of this process."""
  own = phases.of_process()
  if "first_epoch" in seconds:
    own.first("first_epoch", seconds["first_epoch"])
  own.add({name: value for name, value in seconds.items() if name != "first_epoch"})


def _error(run: Run, answer: workers.Answer) -> str:
  """Why a run was not trained, in one line; empty if it was, or if it was stopped."""
  if answer.content is not None:
    return str(answer.content.get("error", ""))
  if preemption.requested():
    return ""
  how = (
    f"was killed by signal {-answer.status}" if answer.status < 0 else f"ended with status {answer.status}"
  )
  return f"{run.name}: the process that trained it {how}; the same command resumes from the last checkpoint"
