"""The train step of this checkout beside that of another one, in turns on the same machine.

    python -m benchmarks.compare_step --before=DIR [--rounds=7] [--epochs=5] [--batch_sizes=32,128]
        [--json=FILE]

DIR is another checkout of the project, made for example by `git worktree add DIR COMMIT`. Each side runs its
own `benchmarks.train_step` in a process of its own. The sides take turns, and the one that goes first changes
from round to round, so that other programs on the machine disturb both alike.

For each batch size the table has the time of a step here divided by the time there: 1.03 means that this
checkout is 3 % slower. The ratio is computed in each round, from the median epochs and from the best ones,
and printed as the median over the rounds with its range. The last column is the ratio of the best epochs of
all rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags

BEFORE = flags.DEFINE_string("before", None, "The root of the other checkout.", required=True)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each side.")
EPOCHS = flags.DEFINE_integer("epochs", 5, "Timed epochs in a turn.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["32", "128"], "Batch sizes.")
JSON = flags.DEFINE_string("json", None, "A file for the figures.")

HERE = Path(__file__).resolve().parent.parent
SIDES = ("before", "after")
Turn = Mapping[int, Mapping[str, float]]  # the figures of `train_step` by batch size


def turn(checkout: Path, cache: str) -> Turn:
  """One turn of a checkout.

  Args:
    checkout: its root.
    cache: a directory for compiled programs, so that only the first turn compiles.
  """
  figures = Path(cache) / "figures.json"
  environment = os.environ | {
    "PYTHONPATH": str(checkout),
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  command = [sys.executable, "-m", "benchmarks.train_step", f"--json={figures}"]
  command += [f"--epochs={EPOCHS.value}", f"--batch_sizes={','.join(BATCH_SIZES.value)}"]
  done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
  if done.returncode:
    sys.exit(f"{checkout}:\n{done.stderr}")
  return {step["batch_size"]: step for step in json.loads(figures.read_text())["steps"]}


def ratios(turns: Mapping[str, Sequence[Turn]], batch_size: int, figure: str) -> list[float]:
  """The time here divided by the time there, by round; `figure` is `median_step_ms` or `best_step_ms`."""
  before, after = ([one[batch_size][figure] for one in turns[side]] for side in SIDES)
  return [a / b for a, b in zip(after, before, strict=True)]


def row(turns: Mapping[str, Sequence[Turn]], batch_size: int) -> str:
  """A line of the table."""
  spread = lambda values: f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
  best = [min(one[batch_size]["best_step_ms"] for one in turns[side]) for side in SIDES]
  cells = [str(batch_size), *(f"{ms:.2f}" for ms in best)]
  cells += [spread(ratios(turns, batch_size, figure)) for figure in ("median_step_ms", "best_step_ms")]
  return "| " + " | ".join([*cells, f"{best[1] / best[0]:.3f}"]) + " |"


def main(_) -> None:
  """Prints the table."""
  checkouts = {"before": Path(BEFORE.value).resolve(), "after": HERE}
  turns: dict[str, list[Turn]] = {side: [] for side in SIDES}
  with tempfile.TemporaryDirectory() as cache:
    for number in range(ROUNDS.value):
      for side in SIDES if number % 2 == 0 else SIDES[::-1]:
        turns[side].append(turn(checkouts[side], cache))
      ms = lambda side, size: f"{turns[side][-1][size]['best_step_ms']:.2f} ms"
      last = [f"batch {n}: there {ms('before', n)}, here {ms('after', n)}" for n in turns["after"][0]]
      print(f"round {number + 1} of {ROUNDS.value}: " + "; ".join(last), file=sys.stderr, flush=True)
  print(
    f"{ROUNDS.value} rounds of {EPOCHS.value} epochs; step here / step there, median (range) over rounds\n\n"
    "| batch | best there, ms | best here, ms | of median epochs | of best epochs | of the best of all |\n"
    "|---|---|---|---|---|---|"
  )
  for size in turns["after"][0]:
    print(row(turns, size))
  if JSON.value:
    Path(JSON.value).write_text(json.dumps(turns, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
