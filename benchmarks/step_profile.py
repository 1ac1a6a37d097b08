"""Where the time of a train step goes at LFMC's shapes, by XLA's own profile, as a Markdown table.

    python -m benchmarks.step_profile [--batch_size=32] [--out=FILE]

One epoch is run under JAX's profiler, on one core, because operations of several threads overlap. Each
operation of the compiled program belongs to one row of the table, by the place in the code that XLA notes for
it. The floor below the table is the time of the FLOPs at the rate of a large product, and of the optimizer's
memory traffic at the rate of a copy. One core cannot do both at once, so their sum is the floor there.
"""

from __future__ import annotations

import collections
import os
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import measure
from benchmarks.train_step import MODALITIES, ROWS
from colearn_jax import config as config_lib
from colearn_jax.training.epoch import batched, take
from colearn_jax.training.step import train_step
from colearn_jax.types import Task

BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Samples in a batch.")
OUT = flags.DEFINE_string("out", None, "A file for the table.")

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = \S+ ([\w-]+)\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
CONTROL = ("while", "call", "conditional")  # their time is that of the operations inside
DRAWS = ("threefry", "shift_right_logical", "shift_left", "xor", "random")


def kinds(program: str) -> dict[str, str]:
  """The row of each operation of a compiled program, by its name."""
  products, inside = set(), ""
  for line in program.splitlines():
    if found := _COMPUTATION.match(line):
      inside = found[1]
    elif (found := _INSTRUCTION.match(line)) and found[2] == "dot":
      products.add(inside)
  out = {}
  for line in program.splitlines():
    found = _INSTRUCTION.match(line)
    if found and found[2] not in CONTROL:
      name, operation = found.groups()
      called = re.search(r"calls=%?([\w.-]+)", line)
      place = re.search(r'op_name="([^"]*)"', line)
      out[name] = _kind(operation, bool(called) and called[1] in products, place[1] if place else "")
  return out


def _kind(operation: str, has_product: bool, place: str) -> str:
  if operation == "dot" or has_product:
    return "matrix products"
  if operation == "copy":
    return "copies, mostly transposed kernels and gradients"
  if any(word in place for word in DRAWS):
    return "random bits of dropout and of the order"
  if "transpose(" in place:
    return "backward: normalisation, activation, dropout, losses"
  if "jvp(" in place:
    return "forward: normalisation, activation, dropout, losses"
  return "optimizer, check of finite values, batches"


def profile(program: jax.stages.Compiled, *args) -> dict[str, tuple[float, int]]:
  """Nanoseconds and number of each operation in one call of a program, by the name of the operation."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(program(*args))
    (path,) = Path(folder).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
  took: dict[str, float] = collections.defaultdict(float)
  number: dict[str, int] = collections.Counter()
  for plane in data.planes:
    for line in plane.lines:
      for event in line.events if "XLAEigen" in line.name or "PjRtCpu" in line.name else ():
        took[event.name] += event.duration_ns
        number[event.name] += 1
  return {name: (took[name], number[name]) for name in took}


def table(batch_size: int) -> str:
  """The table of one batch size."""
  config = config_lib.load("configs/lfmc.py", {"train.batch_size": batch_size})
  recipe, state, data = measure.example(config, Task("regression", ("LFMC (%)",)), MODALITIES, ROWS)
  flops = measure.step_costs(measure.compiled_step(recipe, state, data))["flops"]
  moved = 7 * 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
  compute, copy = measure.ceilings()

  rows = jnp.asarray(batched(np.random.default_rng(0).permutation(ROWS), batch_size))
  step = lambda state, rows: train_step(recipe, state, take(data, rows))
  epoch = jax.jit(lambda state: jax.lax.scan(step, state, rows)[0], donate_argnums=0).lower(state).compile()
  row_of, steps = kinds(epoch.as_text()), len(rows)
  state = jax.block_until_ready(epoch(state))  # the first run also touches new memory
  total: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(2))
  for name, found in profile(epoch, state).items():
    if name in row_of:
      total[row_of[name]] += found
  everything = sum(took for took, _ in total.values())
  lines = ["| part of the step | ms | share | operations |", "|---|---:|---:|---:|"]
  for kind, (took, number) in sorted(total.items(), key=lambda item: -item[1][0]):
    lines.append(f"| {kind} | {took / 1e6 / steps:.2f} | {took / everything:.0%} | {number / steps:.0f} |")
  return "\n".join(
    [
      *lines,
      f"| all | {everything / 1e6 / steps:.2f} | | |",
      "",
      f"Floor: {1e3 * flops / compute:.2f} ms for {flops / 1e9:.2f} GFLOP at {compute / 1e9:.0f} GFLOP/s, "
      f"and {1e3 * moved / copy:.2f} ms for {moved / 1e6:.0f} MB of optimizer traffic at "
      f"{copy / 1e9:.0f} GB/s.",
    ]
  )


def main(_) -> None:
  """Prints the table, and writes it if `--out` is given."""
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts the cores
  text = table(BATCH_SIZE.value)
  print(text)
  if OUT.value:
    Path(OUT.value).write_text(text + "\n")


if __name__ == "__main__":
  app.run(main)
