"""Samples a second of the pipeline alone, of the train step alone, and of both, at TreeSatAI-TS's shapes.

    python -m benchmarks.pipeline [--samples=256] [--batch_size=4] [--workers=0] [--encoders=...]
        [--rounds=3] [--seconds=20] [--dir=DIR] [--names=DIR] [--augment] [--elsewhere=MS]

The pipeline reads generated files of realistic sizes (`--names` takes names and labels from a directory with
the published ones), decodes, pads, batches, and puts on the device; the step goes forward and backward
through all encoders and losses and updates. Nobody waits where both together are as fast as the slower one of
the two: the last column is their share of it, and is to be 90 % or more. They take turns within each round,
and the median counts.

On a CPU the two share the cores, so that a step has to cost much more than the reading of its samples to be
slowed down by less than 10 %. `--elsewhere` puts a step in its place that takes so many milliseconds and none
of the cores, as an accelerator's does.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable

import jax
from absl import app, flags

from benchmarks import treesat_files
from colearn_jax import config as config_lib
from colearn_jax.data import dataset as data
from colearn_jax.data import reader as readers
from colearn_jax.data import stream
from colearn_jax.parallel import sharding
from colearn_jax.training import setup as plan
from colearn_jax.training import steps

SAMPLES = flags.DEFINE_integer("samples", 256, "Of the training part.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Samples at once.")
WORKERS = flags.DEFINE_integer("workers", 0, "Processes that read; 0 for threads alone.")
ENCODERS = flags.DEFINE_string(
  "encoders", "{'aerial': {'model_type': 'resnet', 'depth': 18}}", "As model.encoders."
)
AUGMENT = flags.DEFINE_bool("augment", False, "Whether inputs are changed at random, by all there is.")
ELSEWHERE = flags.DEFINE_float("elsewhere", 0.0, "Milliseconds of a step that another device would take.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns that each of the three has.")
SECONDS = flags.DEFINE_float("seconds", 20.0, "How long a turn is, about.")
DIRECTORY = flags.DEFINE_string("dir", None, "Where files are written and left; else a directory that goes.")
NAMES = flags.DEFINE_string("names", "", "A directory with the published labels and split.")

ALL = {"flip": True, "quarter_turns": True, "crop": 0.8, "time_shift": 2, "time_dropout": 0.1, "noise": 0.1}


def rate(turns: Iterable, size: int) -> float:
  """Samples a second of turns of so many samples each, for as long as a turn is to last.

  The first ones do not count: what is begun ahead of the one that is waited for comes without its time.
  """
  for count, done in enumerate(turns, -3):
    jax.block_until_ready(done)
    if count == 0:
      began = time.perf_counter()
    elif count > 0 and (took := time.perf_counter() - began) > SECONDS.value:
      return count * size / took


def measure(places: dict[str, str]) -> dict[str, list[float]]:
  """Samples a second of `pipeline`, `step` and `both` in each round."""
  settings = {"data.placement": "stream", "data.workers": WORKERS.value, "train.batch_size": BATCH_SIZE.value}
  settings |= {"model.encoders": ENCODERS.value}
  settings |= {f"augment.{name}": value for name, value in ALL.items()} if AUGMENT.value else {}
  config = config_lib.load("configs/treesat_ts.py", settings | places)
  path = f"{places['data.data_dir']}/treesat_ts/2.0.0"
  dataset = data.open_dataset(path, config_lib.series_settings(config))
  modalities, index = [dataset.modality(m) for m in config.data.modalities], readers.read_index(dataset)
  recipe = plan.make_recipe(config, dataset.task, modalities)
  feed = plan.make_feed(config, recipe, dataset, modalities, index)
  (run,) = plan.make_runs(config, dataset, index)
  state = feed.pick(feed.init([run], {}), 0)
  step = jax.jit(functools.partial(steps.train_step, recipe), donate_argnums=0)
  where = {"sharding": sharding.by_example(recipe.mesh), "workers": WORKERS.value}
  source = readers.make_reader(dataset, modalities), readers.labels(index), run.train

  @contextlib.contextmanager
  def batches():
    iterator = iter(stream.train_batches(*source, batch_size=BATCH_SIZE.value, seed=0, **where))
    try:
      yield next(iterator), iterator  # so that the first turn begins with nothing read ahead but a part of it
    finally:
      iterator.close()

  def trained(some):
    nonlocal state
    begun = collections.deque()  # two steps ahead, as in training
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
  steps_of = f"steps of {ELSEWHERE.value:g} ms elsewhere" if ELSEWHERE.value else ENCODERS.value
  print(f"{device}, batches of {BATCH_SIZE.value}, {WORKERS.value} workers, {steps_of}\n")
  print("| pipeline alone, samples/s | step alone | both | share of the slower one |\n|---|---|---|---|")
  print(f"| {pipeline:.1f} | {step:.1f} | {both:.1f} | {statistics.median(shares):.0%} |")


if __name__ == "__main__":
  app.run(main)
