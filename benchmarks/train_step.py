"""Samples a second of the train step at LFMC's shapes, compared with the limits of the machine.

    python -m benchmarks.train_step [--batch_sizes=32,128] [--epochs=20] [--json=FILE]

The whole step is timed on generated data: taking a batch from a table on the device, forward with all four
losses and dropout, backward, and Adam. The floor of a step is the longer of two times: its FLOPs, by XLA's
count, at the rate of a large float32 product; and the memory traffic of the optimizer at the rate of a copy
(it reads parameters, gradients and both moments, and writes parameters and moments). Both rates are measured
in the same run.

`benchmarks.against_torch` compares the step with one in PyTorch.
"""

from __future__ import annotations

import json

import jax
import numpy as np
from absl import app, flags

from benchmarks import measure
from colearn_jax import config as config_lib
from colearn_jax.types import Modality, Task

BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["32", "128"], "Batch sizes.")
EPOCHS = flags.DEFINE_integer("epochs", 20, "Timed epochs, of which the median and the best are printed.")
CONFIG = flags.DEFINE_string("config", "configs/lfmc.py:released", "A configuration of LFMC.")
JSON = flags.DEFINE_string("json", None, "A file for the figures.")

ROWS = 2320  # nine tenths of LFMC
MODALITIES = [
  Modality("S1_S1Ind", ("S1", "S1Ind"), (4, 3), ("VV", "VH", "VH-VV")),
  Modality("S2_S2Ind", ("S2", "S2Ind"), (4, 8), tuple("abcdefgh")),
]


def of_batch(batch_size: int) -> dict:
  """Times epochs of train steps; returns the figures by name."""
  config = config_lib.load(CONFIG.value, {"train.batch_size": batch_size})
  recipe, state, table = measure.example(config, Task("regression", ("LFMC (%)",)), MODALITIES, ROWS)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  flops = measure.step_costs(measure.compiled_step(recipe, state, table))["flops"]
  first, times = measure.epoch_seconds(recipe, state, table, EPOCHS.value)
  each = ROWS / -(-ROWS // batch_size)
  return {
    "batch_size": batch_size,
    "parameters": parameters,
    "flops": flops,
    "optimizer_bytes": 7 * 4 * parameters,
    "first_epoch_seconds": first,
    "median_step_ms": 1e3 * float(np.median(times)),
    "best_step_ms": 1e3 * min(times),
    "samples_per_second": each / float(np.median(times)),
    "best_samples_per_second": each / min(times),
  }


def main(_) -> None:
  """Prints the figures, one line for each batch size."""
  device = jax.devices()[0]
  compute, copy = measure.ceilings()
  print(
    f"{device.device_kind}: {compute / 1e9:.0f} GFLOP/s in float32 products, {copy / 1e9:.0f} GB/s copying"
  )
  out = []
  for size in map(int, BATCH_SIZES.value):
    got = of_batch(size)
    floor = max(got["flops"] / compute, got["optimizer_bytes"] / copy)
    got |= {"floor_ms": 1e3 * floor, "share_of_ceiling": 1e3 * floor / got["best_step_ms"]}
    line = (
      f"batch {size}: {got['samples_per_second']:.0f} samples/s (best {got['best_samples_per_second']:.0f}), "
      f"{got['median_step_ms']:.2f} ms a step (best {got['best_step_ms']:.2f}), "
      f"{got['flops'] / 1e9:.2f} GFLOP, "
      f"{got['optimizer_bytes'] / 1e6:.0f} MB of optimizer traffic, floor {got['floor_ms']:.2f} ms, "
      f"best step at {got['share_of_ceiling']:.0%} of it, first epoch {got['first_epoch_seconds']:.1f} s"
    )
    print(line, flush=True)
    out.append(got)
  if JSON.value:
    with open(JSON.value, "w") as file:
      json.dump({"device": device.device_kind, "flops": compute, "bytes": copy, "steps": out}, file, indent=2)


if __name__ == "__main__":
  app.run(main)
