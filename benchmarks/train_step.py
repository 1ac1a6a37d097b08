"""Samples a second of the train step at LFMC's shapes, and the share of what this machine can do.

    python -m benchmarks.train_step [--config=configs/lfmc.py:released] [--batch_sizes=32,128]

A step is what training runs: gather, forward, backward, all four losses, Adam; an epoch of them is one
program over a table on the device. Times are of whole epochs after compilation; the median and the best are
given, since development machines are shared. Ceilings are measured in the same run: a large float32 matrix
product, and a scaled copy of 256 MB (bytes read and written). The floor of a step is its matrix FLOPs (XLA's
count) at the first, or its optimizer's traffic (parameters, gradients and both moments read; parameters and
moments written) at the second, whichever is longer.
"""

from __future__ import annotations

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from colearn_jax import config as config_lib
from colearn_jax import sharding, steps, train
from colearn_jax.spec import Modality, Task

CONFIG = flags.DEFINE_string("config", "configs/lfmc.py:released", "The configuration to build.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["32", "128"], "Batch sizes.")
EPOCHS = flags.DEFINE_integer("epochs", 10, "Timed epochs a batch size.")
JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")

ROWS = 2320  # of a training fold of LFMC
MODALITIES = [
  Modality("S1_S1Ind", ("S1", "S1Ind"), (4, 3), ("vv", "vh", "vh_vv")),
  Modality("S2_S2Ind", ("S2", "S2Ind"), (4, 8), tuple("red green blue swir nir ndvi ndwi nirv".split())),
]
# The authors' program, samples a second at a batch size, on a two-core machine of 337 GFLOP/s.
AUTHORS = {32: 955.0, 128: 127.0}


def seconds(run, *args, repeat: int) -> list[float]:
  """Wall-clock of each of several calls, the first left out."""
  jax.block_until_ready(run(*args))
  out = []
  for _ in range(repeat):
    began = time.perf_counter()
    jax.block_until_ready(run(*args))
    out.append(time.perf_counter() - began)
  return out


def ceilings() -> tuple[float, float]:
  """This device's float32 FLOP/s in a large matrix product, and bytes a second in a copy."""
  square = jax.random.normal(jax.random.key(0), (4096, 4096))
  product = min(seconds(jax.jit(jnp.matmul), square, square, repeat=3))
  scale = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, x: x * 1.0001, x))
  copy = min(seconds(scale, jnp.ones(2**26), repeat=3)) / 10  # in place, so that no page is new
  return 2 * 4096**3 / product, 2 * 4 * 2**26 / copy


def measure(batch_size: int) -> dict:
  """Times epochs of train steps; the figures by name."""
  config = config_lib.load(CONFIG.value, {"train.batch_size": batch_size})
  recipe = train.make_recipe(config, Task("regression", ("LFMC (%)",)), MODALITIES)
  rng = np.random.default_rng(0)
  whole = sharding.whole(recipe.mesh)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  table = {
    "inputs": {m.name: normal(ROWS, *m.shape) for m in MODALITIES},
    "target": 104 + 40 * normal(ROWS, 1),
    "labelled": np.ones(ROWS, np.float32),
    "present": {m.name: np.ones(ROWS, np.float32) for m in MODALITIES},
  }
  table = jax.device_put(table, whole)
  bands = lambda m: {"offset": jnp.zeros(m.shape[-1]), "scale": jnp.ones(m.shape[-1])}
  constants = {
    "inputs": {m.name: bands(m) for m in MODALITIES},
    "task": {"mean": jnp.full(1, 104.0), "std": jnp.full(1, 40.0)},
    "weights": train.weights(config),
  }
  state = jax.jit(functools.partial(steps.init, recipe), out_shardings=whole)(jax.random.key(0), constants)
  rows = steps.batched(rng.permutation(ROWS), batch_size)

  def epoch(state):
    step = lambda state, rows: steps.train_step(recipe, state, steps.take(table, rows))
    return jax.lax.scan(step, state, jnp.asarray(rows))

  step = jax.jit(functools.partial(steps.train_step, recipe))
  flops = step.lower(state, steps.take(table, rows[0])).compile().cost_analysis()["flops"]
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  run = jax.jit(epoch, donate_argnums=0)
  began = time.perf_counter()
  state, terms = jax.block_until_ready(run(state))
  compilation, times = time.perf_counter() - began, []
  for _ in range(EPOCHS.value):
    began = time.perf_counter()
    state, terms = jax.block_until_ready(run(state))
    times.append((time.perf_counter() - began) / len(rows))
  assert np.isfinite(terms["objective"]).all()
  return {
    "batch_size": batch_size,
    "parameters": parameters,
    "flops": flops,
    "optimizer_bytes": 7 * 4 * parameters,
    "first_epoch_seconds": compilation,
    "median_step_ms": 1e3 * float(np.median(times)),
    "best_step_ms": 1e3 * min(times),
    "samples_per_second": ROWS / len(rows) / float(np.median(times)),
    "best_samples_per_second": ROWS / len(rows) / min(times),
  }


def main(_) -> None:
  """Prints the figures, a line a batch size."""
  device = jax.devices()[0]
  compute, copy = ceilings()
  print(
    f"{device.device_kind}: {compute / 1e9:.0f} GFLOP/s in float32 products, {copy / 1e9:.0f} GB/s copying"
  )
  out = []
  for size in map(int, BATCH_SIZES.value):
    got = measure(size)
    floor = max(got["flops"] / compute, got["optimizer_bytes"] / copy)
    got |= {"floor_ms": 1e3 * floor, "share_of_ceiling": 1e3 * floor / got["best_step_ms"]}
    line = (
      f"batch {size}: {got['samples_per_second']:.0f} samples/s (best {got['best_samples_per_second']:.0f}), "
      f"{got['median_step_ms']:.2f} ms a step (best {got['best_step_ms']:.2f}), "
      f"{got['flops'] / 1e9:.2f} GFLOP, "
      f"{got['optimizer_bytes'] / 1e6:.0f} MB of optimizer traffic, floor {got['floor_ms']:.2f} ms, "
      f"best step at {got['share_of_ceiling']:.0%} of it, first epoch {got['first_epoch_seconds']:.1f} s"
    )
    if size in AUTHORS:
      got["times_authors"] = got["samples_per_second"] / AUTHORS[size]
      line += f"; {got['times_authors']:.1f} times the authors' program ({AUTHORS[size]:.0f} samples/s)"
    print(line, flush=True)
    out.append(got)
  if JSON.value:
    with open(JSON.value, "w") as file:
      json.dump({"device": device.device_kind, "flops": compute, "bytes": copy, "steps": out}, file, indent=2)


if __name__ == "__main__":
  app.run(main)
