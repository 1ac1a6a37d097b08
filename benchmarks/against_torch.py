"""The train step beside the same step in PyTorch, eager and compiled: the whole of MDiCo at LFMC's shapes.

    python -m benchmarks.against_torch [--batch_sizes=32,128] [--rounds=12] [--json=FILE]

Both programs take their batches from a table in memory, run encoders and heads with dropout, all four
losses, the backward pass and Adam. Before anything is timed, both make the same steps from the same
parameters without dropout, and their losses are compared.

The programs take turns. A round is one epoch of each, and another one goes first in each round, so that other
programs on the machine disturb all alike. PyTorch runs with one thread or with all, whichever is faster. The
table has samples a second (the median over rounds) and the ratios ours / PyTorch's in a round: the median and
the range, on the clock and of processor time. The last column is the share of the machine's limit, see
`benchmarks.train_step`.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags

from benchmarks import measure, torch_mdico, train_step
from colearn_jax import config as config_lib
from colearn_jax.training.epoch import batched, take
from colearn_jax.training.step import train_step as step_of
from colearn_jax.types import Task

ROUNDS = flags.DEFINE_integer("rounds", 12, "Timed epochs of each program.")

CONFIG = "configs/lfmc.py:released"
MEAN, STD = 104.0, 40.0
CHECKED = 3  # steps whose losses are compared


def example(batch_size: int, **changes) -> tuple:
  """Recipe, state, table and batches of the package; the table is already normalised."""
  values = {"train.batch_size": batch_size, **changes}
  task = Task("regression", ("y",))
  recipe, state, table = measure.example(
    config_lib.load(CONFIG, values), task, train_step.MODALITIES, train_step.ROWS
  )
  plain = lambda c: {"offset": jnp.zeros_like(c["offset"]), "scale": jnp.ones_like(c["scale"])}
  state.values["inputs"] = {m: plain(c) for m, c in state.values["inputs"].items()}
  state.values["task"] = {"mean": jnp.full(1, MEAN), "std": jnp.full(1, STD)}
  rows = np.random.default_rng(0).permutation(train_step.ROWS)
  return recipe, state, table, batched(rows[: len(rows) // batch_size * batch_size], batch_size)


def theirs(state, table, batches: np.ndarray, *, compiled: bool, dropout: bool = True) -> Callable:
  """The epoch in PyTorch, from the same parameters."""
  shapes = {m.name: m.shape for m in train_step.MODALITIES}
  model = torch_mdico.MDiCo(shapes, 128, STD)
  torch_mdico.copy(jax.device_get(state.params), model)
  for layer in model.modules():
    if isinstance(layer, torch.nn.Dropout) and not dropout:
      layer.p = 0.0
  inputs, target = jax.device_get((table["inputs"], table["target"]))
  own = {m: np.array(inputs[m]) for m in shapes}
  return torch_mdico.epoch_of(model, own, np.array(target), batches, compiled=compiled)


def ours(recipe, state, table, batches: np.ndarray) -> Callable:
  """The epoch of the package: one program, as in a training."""
  rows = jnp.asarray(batches)

  @functools.partial(jax.jit, donate_argnums=0)
  def program(state, table):
    step = lambda state, rows: step_of(recipe, state, take(table, rows))
    return jax.lax.scan(step, state, rows)

  kept = [state]

  def epoch() -> np.ndarray:
    kept[0], terms = jax.block_until_ready(program(kept[0], table))
    return np.asarray(terms["objective"])

  return epoch


def differences(batch_size: int) -> np.ndarray:
  """Relative differences of the losses of the first steps, each of which sees those before it."""
  recipe, state, table, batches = example(batch_size, **{"model.encoder.dropout": 0.0})
  there = theirs(state, table, batches[:CHECKED], compiled=False, dropout=False)()
  here = ours(recipe, state, table, batches[:CHECKED])()
  return np.abs(there / here - 1.0)


def faster(make: Callable[[int], Callable]) -> tuple[Callable, int]:
  """The faster of one thread and all threads, in two calls after the first."""
  best = None
  for threads in sorted({1, os.cpu_count()}):
    call = make(threads)
    took = min(measure.seconds(call, repeat=2))
    if best is None or took < best[0]:
      best = took, call, threads
  return best[1:]


def race(calls: dict[str, Callable]) -> dict[str, np.ndarray]:
  """Seconds of each program in each round, `[rounds 2]`: on the clock, and of processor time."""
  seconds = {name: [] for name in calls}
  for number in range(ROUNDS.value):
    for name in itertools.islice(itertools.cycle(calls), number, number + len(calls)):
      began = time.perf_counter(), time.process_time()
      calls[name]()
      seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
  return {name: np.array(pairs) for name, pairs in seconds.items()}


def of_batch(batch_size: int) -> dict:
  """All figures of a batch size."""
  recipe, state, table, batches = example(batch_size)
  costs = measure.step_costs(measure.compiled_step(recipe, state, table))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  compute, copy = measure.ceilings()
  floor = max(costs["flops"] / compute, 7 * 4 * parameters / copy)

  def with_threads(compiled: bool, threads: int) -> Callable:
    epoch = theirs(state, table, batches, compiled=compiled)

    def call() -> np.ndarray:
      torch.set_num_threads(threads)
      return epoch()

    return call

  calls, threads = {}, {}
  for name, compiled in (("eager", False), ("compiled", True)):
    calls[name], threads[name] = faster(functools.partial(with_threads, compiled))
  calls = {"ours": ours(recipe, state, table, batches), **calls}
  for _ in range(2):  # the second call compiles again, for the state that the first one returned
    calls["ours"]()
  seconds = race(calls)
  rate = {name: batches.size / float(np.median(s[:, 0])) for name, s in seconds.items()}
  figures = {
    "batch_size": batch_size,
    "samples_per_second": rate,
    "threads": threads,
    "floor_ms": 1e3 * floor,
  }
  figures["share_of_floor"] = {
    which: float(floor * len(batches) / of(seconds["ours"][:, 0]))
    for which, of in (("median", np.median), ("best", np.min))
  }
  for name in ("eager", "compiled"):
    ratios = seconds[name] / seconds["ours"]
    figures[name] = {
      which: [float(f(ratios[:, k])) for f in (np.median, np.min, np.max)]
      for k, which in enumerate(("clock", "processor"))
    }
  return figures


def main(_) -> None:
  """Prints the table, a line as soon as it is measured."""
  compute, copy = measure.ceilings()
  print(
    f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {compute / 1e9:.0f} GFLOP/s, "
    f"{copy / 1e9:.0f} GB/s; jax {jax.__version__}, torch {torch.__version__}; {ROUNDS.value} rounds"
  )
  different = differences(32)
  spelled = ", ".join(f"{value:.0e}" for value in different)
  print(f"relative differences of the losses of {CHECKED} steps from the same parameters: {spelled}\n")
  # Adam makes whole steps of the rounding noise in gradients that are zero, such as those before BatchNorm.
  assert different[0] < 1e-5 and different.max() < 1e-2, "the two programs do not compute the same"
  columns = ["batch", "ours, samples/s", "eager", "compiled", "ours / eager", "of processor time"]
  columns += ["ours / compiled", "of processor time", "of the limit"]
  print("| " + " | ".join(columns) + " |")
  print("|" + "---|" * len(columns), flush=True)
  out = []
  for size in map(int, train_step.BATCH_SIZES.value):
    out.append(got := of_batch(size))
    rate, spelled = got["samples_per_second"], lambda r: f"{r[0]:.2f} ({r[1]:.2f} to {r[2]:.2f})"
    cells = [f"{size}", *(f"{rate[name]:,.0f}" for name in ("ours", "eager", "compiled"))]
    cells += [spelled(got[n][w]) for n in ("eager", "compiled") for w in ("clock", "processor")]
    share = got["share_of_floor"]
    print("| " + " | ".join([*cells, f"{share['median']:.0%}, best {share['best']:.0%}"]) + " |", flush=True)
  if train_step.JSON.value:
    Path(train_step.JSON.value).write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
