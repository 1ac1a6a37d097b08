"""The cost of every series encoder at CropHarvest's shapes, as a table in Markdown.

    python -m benchmarks.encoders [--encoders=gru,lstm] [--batch_size=128] [--rounds=9] [--json=FILE]

The table has: the number of parameters; FLOPs of the forward pass for one sample, by XLA's count; seconds to
compile the training program; and samples a second, of the forward pass in evaluation and of forward and
backward in training, with dropout. A program loops over several batches, as in epochs and predictions.

If PyTorch is installed, the same layers (`torch_encoders.py`) are timed with it in the same run, with one
thread and with all, of which the faster counts. The programs take turns within each round, so that other
programs on the machine disturb all alike. The table has the best round of each, and their ratio (above 1: JAX
is faster). The JSON file also has the medians.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from colearn_jax import encoders

try:
  from benchmarks import torch_encoders
except ModuleNotFoundError as error:
  if error.name != "torch":
    raise
  torch_encoders = None

NAMES = flags.DEFINE_list(
  "encoders",
  sorted(set(encoders.ENCODERS) - set(encoders.SPATIAL) - set(encoders.BY_BAND)),
  "Names of the encoders.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Samples in a batch.")
BATCHES = flags.DEFINE_integer("batches", 4, "Batches in one program.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each program.")
SECONDS = flags.DEFINE_float("seconds", 0.15, "Approximate length of a turn.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the computation in JAX.")
JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")

SHAPE, WIDTH = (12, 12), 128  # twelve months of S2_S2VI; the embedding
Call = Callable[[], object]


def ours(name: str, xs: np.ndarray) -> tuple[dict, dict[str, Call]]:
  """An encoder's parameters, FLOPs and compilation time, and its two programs over batches `[S B T C]`."""
  module = encoders.make_encoder(
    {"model_type": name}, SHAPE, WIDTH, rngs=nnx.Rngs(0), dtype=jnp.dtype(DTYPE.value)
  )
  graphdef, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
  keys, xs = jax.random.split(jax.random.key(1), len(xs)), jnp.asarray(xs)

  def forward(params, stats, x):
    return nnx.merge(graphdef, params, stats)(x)

  def loss(params, stats, x, key):
    module = nnx.merge(graphdef, params, stats)
    y = module(x, train=True, rngs=nnx.Rngs(dropout=key))
    return jnp.square(y).mean(), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

  def predict(params, stats, xs):
    return jax.lax.map(lambda x: forward(params, stats, x), xs)

  def train(params, stats, xs, keys):
    def step(carry, given):
      total, stats = carry
      grads, stats = jax.grad(loss, has_aux=True)(params, stats, *given)
      return (jax.tree.map(jnp.add, total, grads), stats), None  # gradients add up, as in PyTorch

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(step, (zeros, stats), (xs, keys))[0]

  evaluation = jax.jit(predict).lower(params, stats, xs).compile()
  began = time.perf_counter()
  training = jax.jit(train).lower(params, stats, xs, keys).compile()
  compile_seconds = time.perf_counter() - began
  once = jax.jit(forward).lower(params, stats, xs[0]).compile()
  figures = {
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "flops_per_sample": once.cost_analysis()["flops"] / xs.shape[1],
    "compile_seconds": compile_seconds,
  }
  calls = {
    "forward": lambda: jax.block_until_ready(evaluation(params, stats, xs)),
    "backward": lambda: jax.block_until_ready(training(params, stats, xs, keys)),
  }
  return figures, calls


def theirs(name: str, xs: np.ndarray, parameters: int) -> dict[str, dict[str, Call]]:
  """The two programs in PyTorch, by the number of threads; {} if it is not installed."""
  if torch_encoders is None:
    return {}
  module = torch_encoders.make(name, *SHAPE, WIDTH)
  assert sum(p.numel() for p in module.parameters()) == parameters, name
  threads = sorted({1, os.cpu_count()})
  calls = {f"torch_{n}": torch_encoders.calls(module, xs, n) for n in threads}
  return {who: dict(zip(("forward", "backward"), pair)) for who, pair in calls.items()}


def race(calls: dict[str, Call]) -> dict[str, list[float]]:
  """Seconds of one call of each program, in each round."""
  counts = {}
  for who, call in calls.items():
    call(), call()
    began = time.perf_counter()
    call()
    counts[who] = max(1, math.ceil(SECONDS.value / (time.perf_counter() - began)))
  seconds = {who: [] for who in calls}
  for _ in range(ROUNDS.value):
    for who, call in calls.items():
      began = time.perf_counter()
      for _ in range(counts[who]):
        call()
      seconds[who].append((time.perf_counter() - began) / counts[who])
  return seconds


def measure(name: str) -> dict:
  """All figures of one encoder."""
  shape = BATCHES.value, BATCH_SIZE.value, *SHAPE
  xs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  figures, mine = ours(name, xs)
  others = theirs(name, xs, figures["parameters"])
  for which in ("forward", "backward"):
    seconds = race({"jax": mine[which]} | {who: calls[which] for who, calls in others.items()})
    rates = {
      who: {"best": len(xs) * len(xs[0]) / min(s), "median": len(xs) * len(xs[0]) / float(np.median(s))}
      for who, s in seconds.items()
    }
    figures[which] = rates
    if others:
      best = lambda of, rates=rates: max(rates[who][of] for who in others)
      figures[f"{which}_ratio"] = {of: rates["jax"][of] / best(of) for of in ("best", "median")}
  return {"encoder": name, **figures}


HEADER = ["encoder", "parameters", "kFLOP a sample", "compile s", "forward/s", "training/s"]


def row(figures: dict) -> list[str]:
  """A line of the table."""
  cells = [figures["encoder"], f"{figures['parameters']:,}", f"{figures['flops_per_sample'] / 1e3:,.0f}"]
  cells += [f"{figures['compile_seconds']:.1f}"]
  cells += [f"{figures[which]['jax']['best']:,.0f}" for which in ("forward", "backward")]
  for which in ("forward", "backward"):
    if f"{which}_ratio" in figures:
      there = max(r["best"] for who, r in figures[which].items() if who != "jax")
      cells += [f"{there:,.0f}", f"{figures[f'{which}_ratio']['best']:.2f}"]
  return cells


def main(_) -> None:
  """Prints the table, a line as soon as it is measured."""
  header = HEADER + (["PyTorch forward/s", "ratio", "PyTorch training/s", "ratio"] if torch_encoders else [])
  print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, batch {BATCH_SIZE.value}, series {SHAPE}\n")
  line = lambda cells: print("| " + " | ".join(cells) + " |", flush=True)
  line(header)
  line(["---", *["---:"] * (len(header) - 1)])
  out = []
  for name in NAMES.value:
    out.append(measure(name))
    line(row(out[-1]))
  if JSON.value:
    with open(JSON.value, "w") as file:
      json.dump({"device": jax.devices()[0].device_kind, "encoders": out}, file, indent=2)


if __name__ == "__main__":
  app.run(main)
