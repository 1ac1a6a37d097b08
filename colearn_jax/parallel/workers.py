"""Processes of one core each, which take jobs one after another: trainings of a run, arms of a study.

`Workers` starts them and hands out the jobs, and `serve` is what such a process runs. Jobs go to the standard
input of a process and answers come back from its standard output, as lines of JSON. Whatever else a process
prints goes to the standard error output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, Self

from colearn_jax.parallel.cores import cores

Job = Mapping[str, Any]

# With these, numerical libraries use one thread. NPROC is that of XLA: so many threads has its CPU device.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NPROC": "1"}
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
CORE = "COLEARN_JAX_CORE"  # the environment variable with the number of a worker's core


def environment(old: Mapping[str, str], core: int) -> dict[str, str]:
  """The environment of a worker on this core."""
  flags = " ".join(filter(None, (old.get("XLA_FLAGS"), XLA_FLAGS)))
  return {**old, **ONE_THREAD, "XLA_FLAGS": flags, CORE: str(core)}


class Answer(NamedTuple):
  """What came of a job.

  Attributes:
    job: its number in the list of jobs.
    content: what the worker answered; None if its process ended instead.
    status: the exit status of a process that ended, negative if a signal ended it.
  """

  job: int
  content: Mapping[str, Any] | None
  status: int = 0


@dataclasses.dataclass
class _Worker:
  core: int
  process: subprocess.Popen
  job: int

  @property
  def answers(self) -> IO[bytes]:
    assert self.process.stdout is not None
    return self.process.stdout


class Workers:
  """Starts up to `number` processes `python -m MODULE`, each pinned to a core, see `serve`.

  At the end of the block they are ended. If this process dies, they end by themselves.

  Args:
    module: a module that calls `serve`.
    number: number of processes at the same time.
    reuse: whether a process takes one job after another. Otherwise each job has its own.
  """

  def __init__(self, module: str, number: int, *, reuse: bool = True):
    self._module, self._number, self._reuse = module, number, reuse
    self._running: dict[int, _Worker] = {}  # by slot
    self._waiting: list[int] = []  # numbers of jobs

  def each(
    self, jobs: Sequence[Job], started: Callable[[int], None] = lambda job: None, every: float = 0.2
  ) -> Iterator[Answer | None]:
    """Does all jobs; yields an answer for each as it comes, and None every `every` seconds meanwhile.

    Args:
      jobs: mappings of JSON types.
      started: called with the number of a job when it is given to a process.
      every: seconds.
    """
    self._waiting = list(range(len(jobs)))
    idle: dict[int, _Worker] = {}
    with selectors.DefaultSelector() as selector:
      while self._waiting or self._running:
        for slot in [s for s in range(self._number) if s not in self._running or s in idle]:
          if self._waiting:
            started(job := self._waiting.pop(0))
            worker = idle.pop(slot, None) or self._start(slot, selector)
            worker.job = job
            self._send(worker, jobs[job])
          elif slot in idle:
            del idle[slot]
            self._end(slot, selector)
        ready = selector.select(every)
        for key, _ in ready:
          slot, worker = key.data, self._running[key.data]
          if line := worker.answers.readline():
            yield Answer(worker.job, json.loads(line))
            if self._reuse:
              idle[slot] = worker
            else:
              self._end(slot, selector)
          else:
            self._end(slot, selector)
            yield Answer(worker.job, None, worker.process.returncode)
        if not ready and self._running:
          yield None

  def terminate(self) -> None:
    """Sends SIGTERM to all processes. Jobs that no process has are not begun."""
    self._waiting = []
    for worker in self._running.values():
      worker.process.terminate()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self.terminate()
    for worker in self._running.values():
      worker.process.kill()  # SIGTERM may be deferred there, and nobody waits for what is saved
      worker.process.communicate()
    self._running = {}

  def _start(self, slot: int, selector: selectors.BaseSelector) -> _Worker:
    core = cores()[slot % len(cores())]
    command = [sys.executable, "-m", self._module]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment(os.environ, core), **pipes)  # type: ignore[call-overload]
    self._running[slot] = worker = _Worker(core, process, -1)
    selector.register(worker.answers, selectors.EVENT_READ, slot)
    return worker

  def _send(self, worker: _Worker, job: Job) -> None:
    assert worker.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # a process that ended is told by its answers
      worker.process.stdin.write(json.dumps(job).encode() + b"\n")
      worker.process.stdin.flush()

  def _end(self, slot: int, selector: selectors.BaseSelector) -> None:
    worker = self._running.pop(slot)
    selector.unregister(worker.answers)
    worker.process.communicate()  # closes its standard input, whereupon it ends


def serve(do: Callable[[Job], Mapping[str, Any]]) -> None:
  """Does the jobs that the process gives which started this one, on the core that it chose, until the end.

  Args:
    do: does a job and returns the answer, both of JSON types.
  """
  # Before JAX is loaded, because its threads are as many as the cores. macOS has no such function.
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(os.environ[CORE])})
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one gets it as well
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)  # what libraries print is no answer
  jobs: queue.SimpleQueue[str] = queue.SimpleQueue()

  def read() -> None:
    for line in sys.stdin:
      jobs.put(line)
    os._exit(0)  # there are no further jobs, or the other process died: this one has nobody to answer

  threading.Thread(target=read, daemon=True).start()
  while True:
    print(json.dumps(do(json.loads(jobs.get()))), file=answers, flush=True)
