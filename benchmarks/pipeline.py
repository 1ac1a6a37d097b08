"""Samples a second of the input pipeline, of the train step, and of both together, at TreeSatAI-TS's shapes.

    python -m benchmarks.pipeline [--samples=256] [--batch_size=4] [--workers=0] [--encoders=...]
        [--rounds=3] [--seconds=20] [--dir=DIR] [--names=DIR] [--augment] [--elsewhere=MS]

The pipeline reads generated files of realistic sizes, decodes and pads the samples, makes batches and puts
them on the device. `--names` is a directory with the published labels and split, to take names and labels
from. The step is a whole train step: forward, backward and the optimizer. If reading and training overlap
fully, both together are as fast as the slower one of the two. The last column is the share of that rate which
is reached; it should be 90 % or more. The three measurements take turns within each round, and the median of
the rounds is printed.

On a CPU, reading and training share the cores. The share can only be near 100 % there if a step costs much
more than reading its samples. `--elsewhere=MS` replaces the step by a wait of MS milliseconds that uses no
core, as a step on an accelerator would.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable

import jax
import numpy as np
from absl import app, flags

from benchmarks import treesat_files
from colearn_jax import config as config_lib
from colearn_jax.data import stream
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import labels, make_reader, read_index
from colearn_jax.nn import random
from colearn_jax.parallel import sharding
from colearn_jax.training import setup
from colearn_jax.training.epoch import batched
from colearn_jax.training.step import train_step

SAMPLES = flags.DEFINE_integer("samples", 256, "Of the training part.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Samples in a batch.")
WORKERS = flags.DEFINE_integer("workers", 0, "Processes that read; 0 for threads alone.")
ENCODERS = flags.DEFINE_string(
  "encoders", "{'aerial': {'model_type': 'resnet', 'depth': 18}}", "As model.encoders."
)
AUGMENT = flags.DEFINE_bool("augment", False, "Whether inputs are augmented, in every way there is.")
ELSEWHERE = flags.DEFINE_float("elsewhere", 0.0, "Milliseconds of a wait in place of the step.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each of the three measurements.")
SECONDS = flags.DEFINE_float("seconds", 20.0, "Approximate length of a turn.")
DIRECTORY = flags.DEFINE_string("dir", None, "Where files are kept; by default they are deleted.")
NAMES = flags.DEFINE_string("names", "", "A directory with the published labels and split.")

ALL = {"flip": True, "quarter_turns": True, "crop": 0.8, "time_shift": 2, "time_dropout": 0.1, "noise": 0.1}


def rate(turns: Iterable, size: int) -> float:
  """Samples a second of an iterator whose items stand for `size` samples each, measured for `--seconds`.

  The first three items are not counted, because they were begun before the clock was started.
  """
  for count, done in enumerate(turns, -3):
    jax.block_until_ready(done)
    if count == 0:
      began = time.perf_counter()
    elif count > 0 and (took := time.perf_counter() - began) > SECONDS.value:
      return count * size / took


def measure(places: dict[str, str]) -> dict[str, list[float]]:
  """Samples a second of `pipeline`, `step` and `both` in each round; `places` says where the data is."""
  settings = {"data.placement": "stream", "data.workers": WORKERS.value, "train.batch_size": BATCH_SIZE.value}
  settings |= {"model.encoders": ast.literal_eval(ENCODERS.value)}
  settings |= {f"augment.{name}": value for name, value in ALL.items()} if AUGMENT.value else {}
  config = config_lib.load("configs/treesat_ts.py", settings | places)
  path = f"{places['data.data_dir']}/treesat_ts/2.0.0"
  dataset = open_dataset(path, config_lib.series_settings(config))
  modalities, index = setup.make_modalities(config, dataset), read_index(dataset)
  recipe = setup.make_recipe(config, dataset.task, modalities)
  samples = setup.make_samples(config, recipe, dataset, modalities, index)
  (run,) = setup.make_runs(config, dataset, index)
  state = samples.pick(samples.init([run]), 0)
  step = jax.jit(functools.partial(train_step, recipe), donate_argnums=0)
  words = np.asarray(jax.random.key_data(random.stream(random.run_key(run.seed, run.fold), "order")))
  source = make_reader(dataset, modalities), labels(index)
  order = stream.Order(words, batched(run.train, BATCH_SIZE.value), recipe.blocks)
  where = {"sharding": sharding.by_example(recipe.mesh), "workers": WORKERS.value}

  @contextlib.contextmanager
  def batches():
    iterator = iter(stream.train_batches(*source, order, **where))
    try:
      yield next(iterator), iterator  # started here, so that starting the readers is not measured
    finally:
      iterator.close()

  def trained(some):
    nonlocal state
    begun = collections.deque()  # at most two steps are begun ahead, as in training
    for batch in some:
      state, terms = step(state, batch)
      begun.append(terms["objective"])
      yield begun.popleft() if len(begun) > 2 else None

  def elsewhere(some):
    begun, free = collections.deque(), 0.0
    for batch in some:
      jax.block_until_ready(batch)
      free = max(free, time.perf_counter()) + ELSEWHERE.value / 1e3
      begun.append(free)
      if len(begun) > 2:
        time.sleep(max(begun.popleft() - time.perf_counter(), 0.0))
      yield None

  with batches() as (batch, _):
    if not ELSEWHERE.value:
      jax.block_until_ready(list(trained([batch] * 2)))  # compiled
  run_steps = elsewhere if ELSEWHERE.value else trained
  out = collections.defaultdict(list)
  for _ in range(ROUNDS.value):
    with batches() as (_, iterator):
      out["pipeline"].append(rate(iterator, BATCH_SIZE.value))
    out["step"].append(rate(run_steps(itertools.repeat(batch)), BATCH_SIZE.value))
    with batches() as (_, iterator):
      out["both"].append(rate(run_steps(iterator), BATCH_SIZE.value))
  return out


def main(_) -> None:
  """Prints the table."""
  with tempfile.TemporaryDirectory() as temporary:
    places = treesat_files.prepare(DIRECTORY.value or temporary, SAMPLES.value, NAMES.value)
    rates = measure(places)
  pipeline, step, both = (statistics.median(rates[name]) for name in ("pipeline", "step", "both"))
  shares = [b / min(p, s) for p, s, b in zip(*(rates[name] for name in ("pipeline", "step", "both")))]
  device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
  steps_of = f"waits of {ELSEWHERE.value:g} ms for steps" if ELSEWHERE.value else ENCODERS.value
  print(f"{device}, batches of {BATCH_SIZE.value}, {WORKERS.value} workers, {steps_of}\n")
  print("| pipeline alone, samples/s | step alone | both | share of the slower one |\n|---|---|---|---|")
  print(f"| {pipeline:.1f} | {step:.1f} | {both:.1f} | {statistics.median(shares):.0%} |")


if __name__ == "__main__":
  app.run(main)
