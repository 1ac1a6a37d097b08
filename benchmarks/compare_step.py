"""The train step of this checkout compared with that of another one, in turns on the same machine.

    python -m benchmarks.compare_step --before=DIR [--rounds=60] [--batch_sizes=32,128] [--json=FILE]

DIR is another checkout of the project, made for example by `git worktree add DIR COMMIT`. Each side is a
process of its own with the code of its checkout: the benchmark of `train_step`, LFMC's shapes as released.
The two processes take turns. A round is one epoch of each side, and the side that goes first changes from
round to round, so that other programs on the machine disturb both alike.

For each batch size the table has the time of an epoch here divided by the time there: 1.03 means that this
checkout is 3 % slower. The ratio is computed in each round, and its median and quartiles over the rounds are
printed: of the time on the clock, and of the processor time of all threads, which other programs disturb
less. The last column is the ratio of the best times on the clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import app, flags

BEFORE = flags.DEFINE_string("before", None, "The root of the other checkout.", required=True)
ROUNDS = flags.DEFINE_integer("rounds", 60, "Timed epochs of each side.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["32", "128"], "Batch sizes.")
JSON = flags.DEFINE_string("json", None, "A file for the figures.")

HERE = Path(__file__).resolve().parent.parent

# What each side runs. `epoch_seconds` of any checkout asks for the time before and after every epoch. The
# clock that it is given here waits for this side's turn before an epoch, and reports the epoch afterwards.
SIDE = """
import itertools, sys, time, types
from absl import flags
from benchmarks import measure, train_step
from colearn_jax import config

size, epochs = int(sys.argv[1]), int(sys.argv[2])
flags.FLAGS(["train_step"])
settings = config.load(train_step.CONFIG.value, {"train.batch_size": size})
task = train_step.Task("regression", ("y",))
recipe, state, table = measure.example(settings, task, train_step.MODALITIES, train_step.ROWS)
calls, began = itertools.count(), ()

def clock():
  global began
  if next(calls) % 2 == 0:
    sys.stdin.readline()
    began = time.perf_counter(), time.process_time()
  else:
    print("seconds", time.perf_counter() - began[0], time.process_time() - began[1], flush=True)
  return time.perf_counter()

measure.time = types.SimpleNamespace(perf_counter=clock)
measure.epoch_seconds(recipe, state, table, epochs)
"""


@contextlib.contextmanager
def side(checkout: Path, batch_size: int) -> Iterator[subprocess.Popen]:
  """A process with the code of a checkout that does one epoch for every line that it is given."""
  command = [sys.executable, "-c", SIDE, str(batch_size), str(ROUNDS.value)]
  environment = os.environ | {"PYTHONPATH": str(checkout)}
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  with subprocess.Popen(command, cwd=checkout, env=environment, **pipes) as process:
    try:
      yield process
    finally:
      process.kill()


def epoch(process: subprocess.Popen) -> tuple[float, ...]:
  """Lets a side do one epoch; returns its seconds on the clock and of processor time."""
  process.stdin.write("\n")
  process.stdin.flush()
  for line in process.stdout:
    if line.startswith("seconds "):
      return tuple(map(float, line.split()[1:]))
  sys.exit("one side ended early; its error is above")


def race(before: Path, after: Path, batch_size: int) -> np.ndarray:
  """Seconds of each epoch, `[rounds 2 2]`: there and here, on the clock and of processor time."""
  with side(before, batch_size) as there, side(after, batch_size) as here:
    epoch(there), epoch(here)  # with compilation
    out = []
    for number in range(ROUNDS.value):
      pair = (there, here) if number % 2 == 0 else (here, there)
      seconds = {process: epoch(process) for process in pair}
      out.append((seconds[there], seconds[here]))
  return np.array(out)


def main(_) -> None:
  """Prints the table, a line as soon as it is measured."""
  before, figures = Path(BEFORE.value).resolve(), {}
  print(f"an epoch here / an epoch there, {ROUNDS.value} rounds: median (quartiles)\n")
  print("| batch | best there, s | best here, s | on the clock | processor time | best on the clock |")
  print("|---|---|---|---|---|---|", flush=True)
  for size in map(int, BATCH_SIZES.value):
    seconds = race(before, HERE, size)
    best = seconds[:, :, 0].min(0)
    cells = [f"{size}", *(f"{time:.3f}" for time in best)]
    for quartiles in np.quantile(seconds[:, 1] / seconds[:, 0], [0.25, 0.5, 0.75], axis=0).T:
      cells.append("{1:.3f} ({0:.3f} to {2:.3f})".format(*quartiles))
    print("| " + " | ".join([*cells, f"{best[1] / best[0]:.3f}"]) + " |", flush=True)
    figures[size] = {name: seconds[:, at].tolist() for at, name in enumerate(("there", "here"))}
  if JSON.value:
    Path(JSON.value).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
