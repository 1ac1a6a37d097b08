"""Trainings side by side on the cores of a CPU: processes of one core each, threads, or one after another.

    python -m benchmarks.side_by_side [--rounds=10] [--count=2] [--batch_size=32]

Every side trains as many models as there are cores for the same number of epochs, at LFMC's shapes:

- `after`: one process, one model after another, each with all cores;
- `processes`: a process for each model, pinned to a core, as `train.workers` makes them;
- `threads`: one process with a thread for each model, whose programs share XLA's threads;
- `threads of one core`: the same, but no program uses more than its own thread.

The sides take turns, and another one goes first in each round, so that other programs on the machine disturb
all alike. For each the table has the median of its seconds, and the ratio `after` / side in a round: median
and quartiles, on the clock and of processor time. Above 1, the side is faster.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measure, train_step
from colearn_jax import config as config_lib
from colearn_jax.parallel import workers
from colearn_jax.parallel.cores import cores
from colearn_jax.training.epoch import batched, take
from colearn_jax.training.step import train_step as step_of
from colearn_jax.types import Task

ROUNDS = flags.DEFINE_integer("rounds", 10, "Turns of each side.")
COUNT = flags.DEFINE_integer("count", 2, "Epochs of each model in a turn.")
SIZE = flags.DEFINE_integer("batch_size", 32, "Batch size.")
CACHE = flags.DEFINE_string("cache", None, "Directory of compiled programs.")
MODELS = flags.DEFINE_integer("models", 0, "For the program itself: the models of this process.")
TOGETHER = flags.DEFINE_bool("together", False, "For the program itself: whether each has a thread.")


def side() -> None:
  """Trains the models of this process for every line that it is given, and prints how long that took."""
  settings = config_lib.load("configs/lfmc.py", {"train.batch_size": SIZE.value})
  make = lambda: measure.example(settings, Task("regression", ("y",)), train_step.MODALITIES, train_step.ROWS)
  recipe, state, table = make()
  states = [state, *(make()[1] for _ in range(MODELS.value - 1))]
  rows = jnp.asarray(batched(np.random.default_rng(0).permutation(train_step.ROWS), SIZE.value))

  def epoch(state, table):
    step = lambda state, rows: step_of(recipe, state, take(table, rows))
    return jax.lax.scan(step, state, rows)

  compiled = jax.jit(epoch, donate_argnums=0).lower(state, table).compile()

  def train(k: int) -> None:
    for _ in range(COUNT.value):
      states[k] = jax.block_until_ready(compiled(states[k], table))[0]

  print("ready", flush=True)
  for _ in sys.stdin:
    began = time.perf_counter(), time.process_time()
    if TOGETHER.value:
      threads = [threading.Thread(target=train, args=(k,)) for k in range(len(states))]
      for thread in threads:
        thread.start()
      for thread in threads:
        thread.join()
    else:
      for k in range(len(states)):
        train(k)
    print(time.perf_counter() - began[0], time.process_time() - began[1], flush=True)


def start(models: int, together: bool = False, core: int | None = None, flag: str = "") -> subprocess.Popen:
  """Starts a process with so many models."""
  command = [sys.executable, "-m", "benchmarks.side_by_side", f"--models={models}", f"--together={together}"]
  command += [f"--{f.name}={f.value}" for f in (COUNT, SIZE, CACHE) if f.value is not None]
  own = dict(os.environ)
  if core is not None:
    own = workers.environment(own, core)
  elif flag:
    own["XLA_FLAGS"] = " ".join(filter(None, (own.get("XLA_FLAGS"), flag)))
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  return subprocess.Popen(command, env=own, **pipes)


def turn(processes: list[subprocess.Popen]) -> tuple[float, float]:
  """Lets the processes of a side train; returns seconds on the clock and of processor time."""
  for process in processes:
    process.stdin.write("\n")
    process.stdin.flush()
  pairs = [tuple(map(float, process.stdout.readline().split())) for process in processes]
  return max(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def main(_) -> None:
  """Prints the table."""
  if CACHE.value:
    jax.config.update("jax_compilation_cache_dir", CACHE.value)
  if MODELS.value:
    if core := os.environ.get(workers.CORE):
      os.sched_setaffinity(0, {int(core)})
    side()
    return
  count = len(cores())
  with contextlib.ExitStack() as stack:
    sides = {
      "after": [start(count)],
      "processes": [start(1, core=core) for core in cores()],
      "threads": [start(count, together=True)],
      "threads of one core": [start(count, together=True, flag=workers.XLA_FLAGS)],
    }
    for process in itertools.chain(*sides.values()):
      stack.callback(process.kill)
    for process in itertools.chain(*sides.values()):
      process.stdout.readline()
    seconds = {name: [] for name in sides}
    for number in range(ROUNDS.value + 1):
      for name in itertools.islice(itertools.cycle(sides), number, number + len(sides)):
        pair = turn(sides[name])
        if number:  # the first turn of each does not count
          seconds[name].append(pair)
  print(
    f"{count} cores, {count} models, batches of {SIZE.value}, {ROUNDS.value} turns of {COUNT.value} epochs\n"
  )
  print("| side | seconds | of the processor | after / side | of processor time |")
  print("|---|---|---|---|---|")
  first = np.array(seconds["after"])
  for name, pairs in seconds.items():
    own = np.array(pairs)
    cells = [name, *(f"{value:.2f}" for value in np.median(own, 0))]
    for low, middle, high in np.quantile(first / own, [0.25, 0.5, 0.75], axis=0).T:
      cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
  app.run(main)
