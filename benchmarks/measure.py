"""Shared by all benchmarks: the speed limits of the machine, and a train step on generated data."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from colearn_jax.data.reader import Index, labels
from colearn_jax.data.splits import Run
from colearn_jax.data.statistics import Normalisation
from colearn_jax.methods.configured import weights
from colearn_jax.parallel import sharding
from colearn_jax.training.epoch import batched, only, take
from colearn_jax.training.on_device import OnDevice
from colearn_jax.training.setup import make_recipe
from colearn_jax.training.state import Recipe, TrainState
from colearn_jax.training.step import train_step
from colearn_jax.types import Modality, Task

_COLLECTIVE = re.compile(
  r"= (.*?) (?:all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")


def seconds(run, *args, repeat: int) -> list[float]:
  """Seconds on the clock of each of `repeat` calls, after one call that does not count."""
  jax.block_until_ready(run(*args))
  out = []
  for _ in range(repeat):
    began = time.perf_counter()
    jax.block_until_ready(run(*args))
    out.append(time.perf_counter() - began)
  return out


@functools.cache
def ceilings(dtype: str = "float32") -> tuple[float, float]:
  """The device's FLOP/s in a large matrix product of a dtype, and its bytes a second in a copy."""
  size = 8192 if jax.default_backend() == "gpu" else 4096
  square = jax.random.normal(jax.random.key(0), (size, size), dtype)
  chained = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: x @ y, x))
  product = min(seconds(chained, square, repeat=3)) / 3
  scale = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, x: x * 1.0001, x))
  copy = min(seconds(scale, jnp.ones(2**26), repeat=3)) / 10  # in place: no new memory pages
  return 2 * size**3 / product, 2 * 4 * 2**26 / copy


def example(
  config: ConfigDict, task: Task, modalities: Sequence[Modality], rows: int
) -> tuple[Recipe, TrainState, dict]:
  """A recipe, the state before its first step, and a table of generated samples, all on the devices."""
  recipe = make_recipe(config, task, modalities)
  rng, whole = np.random.default_rng(0), sharding.whole(recipe.mesh)
  normal = lambda shape: rng.standard_normal((rows, *shape), np.float32)
  targets = {
    "regression": lambda: 104 + 40 * normal((len(task.outputs),)),
    "multilabel": lambda: (normal((len(task.outputs),)) > 0).astype(np.float32),
  }
  classes = lambda: rng.integers(0, len(task.outputs), rows).astype(np.int32)
  target = targets.get(task.kind, classes)()
  table = {
    "inputs": {m.name: normal(m.shape) for m in modalities},
    "present": {m.name: np.ones(rows, np.float32) for m in modalities},
  }
  index = Index(np.arange(rows).astype(str), target, {})
  samples = OnDevice(
    recipe,
    modalities,
    table,
    index,
    class_weights=config.loss.class_weights,
    weights=lambda run: {t: w for t, w in weights(config).items() if getattr(recipe.method, t) > 0},
    arrays=lambda run: {},
    normalisation=Normalisation(),
  )
  every = np.arange(rows)
  stack = samples.init([Run(0, 0, every, every, every)])
  placed = jax.tree.map(lambda a: jax.NamedSharding(recipe.mesh, jax.P(*a.sharding.spec[1:])), stack)
  state = jax.jit(only, out_shardings=placed)(stack)
  return recipe, state, jax.device_put({**table, **labels(index)}, whole)


def compiled_step(recipe: Recipe, state: TrainState, table: dict) -> jax.stages.Compiled:
  """One train step on the first rows of a table, compiled."""

  def step(state, table):
    rows = jax.lax.with_sharding_constraint(jnp.arange(recipe.batch_size), sharding.by_example(recipe.mesh))
    return train_step(recipe, state, take(table, rows))

  placed = jax.tree.map(lambda a: a.sharding, state)
  outputs = placed, sharding.whole(recipe.mesh)
  return jax.jit(step, donate_argnums=0, out_shardings=outputs).lower(state, table).compile()


def step_costs(step: jax.stages.Compiled) -> dict[str, float]:
  """XLA's count for one device's part of a compiled step: FLOPs, and bytes moved, held and communicated."""
  costs, memory = step.cost_analysis(), step.memory_analysis()
  return {
    "flops": float(costs.get("flops", 0.0)),
    "bytes": float(costs.get("bytes accessed", 0.0)),
    "peak_bytes": float(memory.temp_size_in_bytes + memory.argument_size_in_bytes),
    "temporary_bytes": float(memory.temp_size_in_bytes),
    "collective_bytes": float(collective_bytes(step.as_text())),
  }


def collective_bytes(program: str) -> int:
  """Bytes of the results of a program's collective operations; one inside a loop is counted once."""
  width = lambda dtype: 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8
  size = lambda dims: int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
  arrays = [a for result in _COLLECTIVE.findall(program) for a in _ARRAY.findall(result)]
  return sum(width(dtype) * size(dims) for dtype, dims in arrays)


def epoch_seconds(recipe: Recipe, state: TrainState, table: dict, epochs: int) -> tuple[float, list[float]]:
  """Seconds of the first epoch, compilation included, and seconds a step of each of `epochs` further ones."""
  rows = jnp.asarray(batched(np.random.default_rng(0).permutation(len(table["labelled"])), recipe.batch_size))
  split = sharding.by_example(recipe.mesh)

  @functools.partial(jax.jit, donate_argnums=0)
  def epoch(state, table):
    over_devices = lambda rows: jax.lax.with_sharding_constraint(rows, split)
    step = lambda state, rows: train_step(recipe, state, take(table, over_devices(rows)))
    return jax.lax.scan(step, state, rows)

  times = []
  for _ in range(epochs + 1):
    began = time.perf_counter()
    state, terms = jax.block_until_ready(epoch(state, table))
    times.append(time.perf_counter() - began)
  assert np.isfinite(terms["objective"]).all()
  return times[0], [t / len(rows) for t in times[1:]]
