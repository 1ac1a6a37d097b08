"""Trains the arms of a study: one after another in this process, or several in processes of one core each."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from colearn_jax.parallel.cores import usable_cores
from colearn_jax.plan import Arm, Cell
from colearn_jax.storage import files
from colearn_jax.studies import arms, worker

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
  cores = _cores()
  waiting, errors, shown = list(jobs), {}, time.monotonic()
  running: dict[int, tuple[Job, subprocess.Popen]] = {}
  # Workers must not outlive this process.
  old = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  try:
    while waiting or running:
      for slot in set(range(progress.workers)) - set(running):
        if waiting:
          job = waiting.pop(0)
          progress.start(job)
          running[slot] = job, _start(job, progress.workdir, given, spec, cores[slot % len(cores)])
      for slot, (job, process) in list(running.items()):
        if process.poll() is not None:
          del running[slot]
          if error := _error(progress.workdir / job.name, process.returncode):
            errors[job.name] = error
          progress.end(job, error)
      if running and time.monotonic() - shown >= show_every:
        progress.show()
        shown = time.monotonic()
      time.sleep(0.2)
  finally:
    signal.signal(signal.SIGTERM, old)
    for _, process in running.values():
      process.terminate()
    for _, process in running.values():
      process.wait()
  return errors


def default_workers() -> int:
  """The number of cores, or 1 with an accelerator, which several processes cannot share."""
  return usable_cores() if jax.default_backend() == "cpu" else 1


def _cores() -> list[int]:
  """The numbers of the cores that this process may use."""
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(usable_cores()))


def _start(
  job: Job, workdir: Path, given: Mapping[str, str | bool], spec: str, core: int
) -> subprocess.Popen:
  directory = workdir / job.name
  directory.mkdir(parents=True, exist_ok=True)
  told: dict[str, object] = {
    "config": spec,
    "workdir": str(workdir),
    "cell": job.cell.name,
    "arm": job.arm.name,
  }
  told |= {"metric": job.metric, "given": dict(given), "core": core}
  command = [sys.executable, "-m", "colearn_jax.studies.worker", json.dumps(told)]
  with open(directory / LOG, "a", encoding="utf-8") as log:
    return subprocess.Popen(command, stdout=log, stderr=log, env=worker.environment(os.environ))


def _error(directory: Path, status: int) -> str:
  """Why a process failed, in one line; empty if it did not."""
  if status == 0:
    return ""
  path = directory / "error.txt"
  if status == 1 and path.is_file():
    return path.read_text(encoding="utf-8").partition("\n")[0]
  text = f"its process ended with status {status}; see {directory / LOG}"
  with files.replacing(path) as file:
    file.write(text + "\n")
  return text
