"""Peak memory of building a data set and of training on it, and of one that is ten times as large.

    python -m benchmarks.memory [--samples=256] [--times=10] [--repeats=3] [--dir=DIR] [--names=DIR]

The data set is TreeSatAI-TS, from generated files of realistic sizes. `--names` is a directory with the
published labels and split, to take names from. Each figure is the largest resident set of a new process, as
the operating system counts it; for building also that of its largest worker. The median of several processes
is printed. Training streams one epoch with very small encoders, so that the memory is mostly that of the
data. A sample takes 0.6 MB. Memory that does not grow with the data set shows that nothing keeps all samples.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

from benchmarks import treesat_files

SAMPLES = flags.DEFINE_integer("samples", 256, "Training samples of the smaller data set.")
TIMES = flags.DEFINE_integer("times", 10, "How many times as large the other data set is.")
DIRECTORY = flags.DEFINE_string("dir", None, "Where files are kept; by default they are deleted.")
NAMES = flags.DEFINE_string("names", "", "A directory with the published labels and split.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that build.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Processes of which the median is taken.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Samples in a batch.")

BUILD = """
from colearn_jax.datasets import build
build.build("treesat_ts", {prepared!r}, manual_dir={source!r}, workers={workers})
"""
TRAIN = """
from colearn_jax import config
from colearn_jax.training import run
tiny = {{"model_type": "mlp", "layer_sizes": (4,)}}
settings = {{"data.placement": "stream", "data.data_dir": {prepared!r}, "data.manual_dir": {source!r}}}
settings |= {{"model.encoders": {{"S2_S2mask": tiny, "aerial": tiny}}, "model.emb_dim": 8}}
settings |= {{"train.batch_size": {batch_size}, "train.max_epochs": 1}}
run.run(config.load("configs/treesat_ts.py", settings), {workdir!r})
"""
REPORT = """
import json, resource
peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
print(json.dumps([peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)]))
"""


def peak(program: str) -> list[float]:
  """MiB of a program in a process of its own, and of its largest child."""
  command = [sys.executable, "-c", program + REPORT]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    sys.exit(done.stderr)
  return json.loads(done.stdout.splitlines()[-1])


def measure(source: str) -> list[float]:
  """MiB of building, of its largest worker, and of training."""
  with tempfile.TemporaryDirectory() as work:
    places = {"source": source, "prepared": f"{work}/prepared", "workdir": f"{work}/run"}
    building = peak(BUILD.format(**places, workers=WORKERS.value))
    return [*building, peak(TRAIN.format(**places, batch_size=BATCH_SIZE.value))[0]]


def main(_) -> None:
  """Prints the table."""
  rows = []
  with tempfile.TemporaryDirectory() as temporary:
    for samples in (SAMPLES.value, SAMPLES.value * TIMES.value):
      source = str(treesat_files.write(DIRECTORY.value or temporary, samples, NAMES.value))
      rows.append((samples, np.median([measure(source) for _ in range(REPEATS.value)], axis=0)))
  print(f"{WORKERS.value} processes building, batches of {BATCH_SIZE.value}, median of {REPEATS.value}\n")
  print("| training samples | building, MiB | its largest worker, MiB | training, MiB |\n|---|---|---|---|")
  for samples, figures in rows:
    print(f"| {samples} | " + " | ".join(f"{figure:.0f}" for figure in figures) + " |")
  print("| growth | " + " | ".join(f"{growth:+.1%}" for growth in rows[1][1] / rows[0][1] - 1) + " |")


if __name__ == "__main__":
  app.run(main)
