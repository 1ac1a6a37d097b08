"""The cost of Presto by the bands that a modality has, beside PyTorch, as a table in Markdown.

    python -m benchmarks.pretrained [--sensors=S1,S2,all] [--batch_size=128] [--rounds=9] [--absent=0]

The table has the number of tokens, and samples a second of the forward pass and of training steps: forward,
backward and Adam. If PyTorch is installed, the same layers (`torch_presto.py`) are timed with it in the same
run, with one thread and with all, of which the faster counts. The programs take turns within each round, so
that other programs on the machine disturb all alike. The table has the best round of each, and their ratio
(above 1: JAX is faster).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import presto
from colearn_jax.types import MONTH, Modality

try:
  from benchmarks import torch_presto
except ModuleNotFoundError as error:
  if error.name != "torch":
    raise
  torch_presto = None

STEPS, WIDTH = 12, 128  # months; the embedding
SENSORS = {
  "S1": ("VV", "VH"),
  "S2": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "NDVI"),
  "weather": ("temperature_2m", "total_precipitation"),
  "all": tuple(name for name in presto.Presto.BANDS if name != presto.CLASSES),
}
NAMES = flags.DEFINE_list("sensors", list(SENSORS), f"Of {', '.join(SENSORS)}.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Samples in a batch.")
BATCHES = flags.DEFINE_integer("batches", 4, "Batches in one program.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each program.")
ABSENT = flags.DEFINE_float("absent", 0.0, "Share of the steps that are missing.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the computation in JAX.")
Call = Callable[[], object]


def data(bands: tuple[str, ...]) -> list[tuple[np.ndarray, ...]]:
  """Batches of normalised values, months and places."""
  rng, size = np.random.default_rng(0), BATCH_SIZE.value
  out = []
  for _ in range(BATCHES.value):
    x = rng.normal(size=(size, STEPS, len(bands))).astype(np.float32)
    x[rng.uniform(size=x.shape[:2]) < ABSENT.value] = np.nan
    months = np.broadcast_to(np.arange(STEPS), x.shape[:2]).astype(np.int64)
    place = rng.normal(size=(size, 3))
    out.append((x, months.copy(), (place / np.linalg.norm(place, axis=1)[:, None]).astype(np.float32)))
  return out


def ours(bands: tuple[str, ...], batches: list) -> tuple[int, int, dict[str, Call]]:
  """The numbers of parameters and tokens, and the two programs."""
  modality = Modality("S", ("S",), (STEPS, len(bands) + 1), (*bands, MONTH), (), True)
  build = lambda: encoders.make_encoder(
    {"model_type": "presto"},
    modality.shape,
    WIDTH,
    modality=modality,
    context=3,
    place=0,
    rngs=nnx.Rngs(0),
    dtype=jnp.dtype(DTYPE.value),
  )
  graphdef, params = nnx.split(jax.jit(build)())
  params = nnx.to_pure_dict(params)
  given = [
    (np.concatenate([x, months[..., None]], -1).astype(np.float32), place) for x, months, place in batches
  ]
  xs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *given)
  adam = optax.adam(1e-3)

  @jax.jit
  def forward(params, xs):
    return jax.lax.map(lambda x: nnx.merge(graphdef, params)(x), xs)

  @jax.jit
  def train(params, state, xs):
    def step(carry, x):
      params, state = carry
      loss = lambda params: jnp.square(nnx.merge(graphdef, params)(x, train=True, rngs=nnx.Rngs(0))).mean()
      updates, state = adam.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), xs)[0]

  state = adam.init(params)
  groups = nnx.merge(graphdef, params).backbone.groups
  return (
    sum(leaf.size for leaf in jax.tree.leaves(params)),
    1 + sum(1 if group in presto.STATIC else STEPS for group in groups),
    {
      "forward": lambda: jax.block_until_ready(forward(params, xs)),
      "step": lambda: jax.block_until_ready(train(params, state, xs)),
    },
  )


def theirs(bands: tuple[str, ...], batches: list, parameters: int) -> dict[str, dict[str, Call]]:
  """The two programs in PyTorch, by the number of threads; {} if it is not installed."""
  if torch_presto is None:
    return {}
  groups = {
    group: [bands.index(name) for name in names]
    for group, names in presto.GROUPS.items()
    if set(names) <= set(bands)
  }
  module = torch_presto.Presto(groups, STEPS, WIDTH)
  assert sum(p.numel() for p in module.parameters()) == parameters
  threads = sorted({1, os.cpu_count()})
  calls = {f"torch_{n}": torch_presto.calls(module, batches, n) for n in threads}
  return {who: dict(zip(("forward", "step"), pair)) for who, pair in calls.items()}


def race(calls: dict[str, Call]) -> dict[str, float]:
  """The shortest seconds of one call of each program."""
  for call in calls.values():
    call()
  seconds = dict.fromkeys(calls, np.inf)
  for _ in range(ROUNDS.value):
    for who, call in calls.items():
      began = time.perf_counter()
      call()
      seconds[who] = min(seconds[who], time.perf_counter() - began)
  return seconds


def main(_) -> None:
  """Prints the table, a line as soon as it is measured."""
  print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, batch {BATCH_SIZE.value}\n")
  line = lambda cells: print("| " + " | ".join(cells) + " |", flush=True)
  header = ["bands", "parameters", "tokens", "forward/s", "steps: samples/s"]
  header += ["PyTorch forward/s", "ratio", "PyTorch samples/s", "ratio"] if torch_presto else []
  line(header)
  line(["---", *["---:"] * (len(header) - 1)])
  for name in NAMES.value:
    batches = data(SENSORS[name])
    parameters, tokens, mine = ours(SENSORS[name], batches)
    others, cells = theirs(SENSORS[name], batches, parameters), []
    found = [race({"jax": mine[w]} | {who: c[w] for who, c in others.items()}) for w in ("forward", "step")]
    samples = BATCHES.value * BATCH_SIZE.value
    cells += [f"{samples / seconds['jax']:,.0f}" for seconds in found]
    for seconds in found if others else ():
      best = min(s for who, s in seconds.items() if who != "jax")
      cells += [f"{samples / best:,.0f}", f"{best / seconds['jax']:.2f}"]
    line([name, f"{parameters:,}", str(tokens), *cells])


if __name__ == "__main__":
  app.run(main)
