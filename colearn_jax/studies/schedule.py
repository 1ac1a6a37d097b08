"""Trains the arms of a study: one after another in this process, or several in processes of one core each."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from colearn_jax.parallel.cores import usable_cores
from colearn_jax.parallel.workers import Answer, Workers
from colearn_jax.plan import Arm, Cell
from colearn_jax.storage import files
from colearn_jax.studies import arms

LOG = "output.txt"  # in the directory of an arm: what its process printed


@dataclasses.dataclass(frozen=True)
class Job:
  """An arm to be trained."""

  cell: Cell
  arm: Arm
  metric: str

  @property
  def name(self) -> str:
    """Name of its directory in the work directory of the study."""
    return f"{self.cell.name}/{self.arm.name}"


@dataclasses.dataclass
class Progress:
  """Prints which arms are trained, and the time left.

  Attributes:
    workdir: the work directory of the study.
    every: all arms of the plan that are wanted.
    workers: number of arms that are trained at the same time.
    say: prints a line.
  """

  workdir: Path
  every: Sequence[Job]
  workers: int
  say: Callable[[str], None]
  began: dict[str, float] = dataclasses.field(default_factory=dict)  # of running arms

  def start(self, job: Job) -> None:
    """Says that an arm is started."""
    self.began[job.name] = time.monotonic()
    self.say(f"{job.name}: started")

  def end(self, job: Job, error: str) -> None:
    """Says that an arm ended."""
    took = time.monotonic() - self.began.pop(job.name)
    ended = f"failed: {error}" if error else f"finished in {spell(took)}"
    self.say(f"{job.name}: {ended}; {self._summary()}")

  def show(self) -> None:
    """Says what is running."""
    count = lambda name: arms.runs_so_far(self.workdir / name)
    running = ", ".join(f"{name} ({count(name)} runs done)" for name in self.began)
    self.say(f"running: {running}; {self._summary()}")

  def _summary(self) -> str:
    finished = sum(arms.is_finished(self.workdir / job.name) for job in self.every)
    left = self.left()
    return f"{finished} of {len(self.every)} arms" + ("" if left is None else f", about {spell(left)} left")

  def left(self) -> float | None:
    """Seconds left, from the mean time of finished arms of the same kind, else of all; None if unknown."""
    took = {job.name: arms.seconds(self.workdir / job.name) for job in self.every}
    known = [(job.arm.kind, s) for job in self.every if (s := took[job.name]) is not None]
    if not known:
      return None
    total, now = 0.0, time.monotonic()
    for job in self.every:
      if took[job.name] is None:
        alike = [s for kind, s in known if kind == job.arm.kind] or [s for _, s in known]
        passed = now - self.began[job.name] if job.name in self.began else 0.0
        mean = sum(alike) / len(alike)
        total += max(mean - passed, mean / 10)
    return total / self.workers


def spell(seconds: float) -> str:
  """A duration in words, e.g. `2 h 05 min`."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours} h {minutes:02d} min"
  return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def here(jobs: Sequence[Job], progress: Progress, given: Mapping[str, str | bool]) -> dict[str, str]:
  """Trains the arms one after another in this process. Returns the errors by name of the arm."""
  errors = {}
  for job in jobs:
    progress.start(job)
    if error := arms.attempt(progress.workdir, job.cell, job.arm, job.metric, given):
      errors[job.name] = error
    progress.end(job, error)
  return errors


def in_processes(
  jobs: Sequence[Job],
  progress: Progress,
  given: Mapping[str, str | bool],
  spec: str,
  *,
  show_every: float = 60.0,
) -> dict[str, str]:
  """Trains `progress.workers` arms at the same time, each in a process with one core.

  Args:
    jobs: the arms.
    progress: the display.
    given: values of the command line, see `plans.configuration`.
    spec: the value of `--config`.
    show_every: seconds between two lines about running arms.

  Returns:
    The errors by name of the arm. An arm whose process is killed is one of them.
  """
  told = [
    {"config": spec, "workdir": str(progress.workdir), "cell": job.cell.name, "arm": job.arm.name}
    | {"metric": job.metric, "given": dict(given), "log": str(progress.workdir / job.name / LOG)}
    for job in jobs
  ]
  errors, shown = {}, time.monotonic()
  old = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  try:
    with Workers("colearn_jax.studies.worker", progress.workers, reuse=False) as pool:
      for answer in pool.each(told, started=lambda at: progress.start(jobs[at])):
        if answer is not None:
          job = jobs[answer.job]
          if error := _error(progress.workdir / job.name, answer):
            errors[job.name] = error
          progress.end(job, error)
        elif time.monotonic() - shown >= show_every:
          progress.show()
          shown = time.monotonic()
  finally:
    signal.signal(signal.SIGTERM, old)
  return errors


def default_workers() -> int:
  """The number of cores, or 1 with an accelerator, which several processes cannot share."""
  return usable_cores() if jax.default_backend() == "cpu" else 1


def _error(directory: Path, answer: Answer) -> str:
  """Why an arm failed, in one line; empty if it did not."""
  if answer.content is not None:
    return answer.content["error"]
  text = f"its process ended with status {answer.status}; see {directory / LOG}"
  with files.replacing(directory / "error.txt") as file:
    file.write(text + "\n")
  return text
