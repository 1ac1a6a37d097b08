"""The cost of Presto and Galileo by the bands that a modality has, beside PyTorch, as a table in Markdown.

    python -m benchmarks.pretrained [--encoders=presto,galileo] [--sensors=S1,S2,all] [--batch_size=128]

The table has the number of tokens, and samples a second of the forward pass and of training steps: forward,
backward and Adam. If PyTorch is installed, the same layers (`torch_pretrained.py`) are timed with it in the
same run, with one thread and with all, of which the faster counts. The programs take turns within each round,
so that other programs on the machine disturb all alike. The table has the best round of each, and their ratio
(above 1: JAX is faster). Beside it, in brackets, is the ratio that JAX would have if all its FLOPs, by XLA's
count, were done at the rate of a large matrix product.

A program of JAX asks for its memory anew in each call, and the first batch pays for the new pages. So a call
has many batches, as an epoch has.

With `--clock=processor`, seconds are those of the processor, of all threads together, and PyTorch has one
thread. On a busy machine they tell more than the clock on the wall. `--absent=0.2` makes a fifth of the steps
missing.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

from benchmarks import measure
from colearn_jax import encoders
from colearn_jax.encoders import galileo, presto
from colearn_jax.types import MONTH, Modality

try:
  from benchmarks import torch_pretrained
except ModuleNotFoundError as error:
  if error.name != "torch":
    raise
  torch_pretrained = None

STEPS, WIDTH = 12, 128  # months; the embedding
SENSORS = {
  "S1": ("VV", "VH"),
  "S2": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "NDVI"),
  "weather": ("temperature_2m", "total_precipitation"),
  "all": tuple(name for name in presto.Presto.BANDS if name != presto.CLASSES),
}
ENCODERS = flags.DEFINE_list("encoders", ["presto", "galileo"], "Of presto, galileo.")
NAMES = flags.DEFINE_list("sensors", list(SENSORS), f"Of {', '.join(SENSORS)}.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Samples in a batch.")
BATCHES = flags.DEFINE_integer("batches", 16, "Batches in one program.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each program.")
ABSENT = flags.DEFINE_float("absent", 0.0, "Share of the steps that are missing.")
CLOCK = flags.DEFINE_enum("clock", "wall", ["wall", "processor"], "Which seconds are counted.")
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Type of the computation in both programs."
)
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


def token_groups(encoder: str, bands: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
  """The groups of bands of which the modality has all, with the names of their bands."""
  every = (galileo if encoder == "galileo" else presto).GROUPS
  return {group: names for group, names in every.items() if set(names) <= set(bands)}


def count_tokens(encoder: str, bands: tuple[str, ...]) -> int:
  """The number of tokens of a series, with that of the place."""
  timed = lambda group: "time" in galileo.KIND[group] if encoder == "galileo" else group not in presto.STATIC
  return 1 + sum(STEPS if timed(group) else 1 for group in token_groups(encoder, bands))


def ours(
  encoder: str, bands: tuple[str, ...], batches: list
) -> tuple[int, dict[str, Call], dict[str, float]]:
  """The number of parameters, the two programs, and their FLOPs for one batch."""
  modality = Modality("S", ("S",), (STEPS, len(bands) + 1), (*bands, MONTH), (), True)
  build = lambda: encoders.make_encoder(
    {"model_type": encoder},
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

  def encode(params, x):
    return params, nnx.merge(graphdef, params)(x)

  def step(carry, x):
    params, state = carry
    loss = lambda params: jnp.square(nnx.merge(graphdef, params)(x, train=True, rngs=nnx.Rngs(0))).mean()
    updates, state = adam.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  both = {"forward": (encode, params), "step": (step, (params, adam.init(params)))}
  one = jax.tree.map(lambda leaf: leaf[0], xs)
  flops = {
    which: measure.step_costs(jax.jit(body).lower(carry, one).compile())["flops"]
    for which, (body, carry) in both.items()
  }
  programs = {which: jax.jit(functools.partial(jax.lax.scan, body)) for which, (body, _) in both.items()}
  call = lambda which: lambda: jax.block_until_ready(programs[which](both[which][1], xs))
  return sum(leaf.size for leaf in jax.tree.leaves(params)), {which: call(which) for which in both}, flops


def theirs(
  encoder: str, bands: tuple[str, ...], batches: list, parameters: int
) -> dict[str, dict[str, Call]]:
  """The two programs in PyTorch, by the number of threads; {} if it is not installed."""
  if torch_pretrained is None:
    return {}
  groups = {g: [bands.index(name) for name in names] for g, names in token_groups(encoder, bands).items()}
  module = torch_pretrained.MODULES[encoder](groups, STEPS, WIDTH)
  assert sum(p.numel() for p in module.parameters()) == parameters
  threads = [1] if CLOCK.value == "processor" else sorted({1, os.cpu_count()})
  half = DTYPE.value == "bfloat16"
  calls = {f"torch_{n}": torch_pretrained.calls(module, batches, n, half) for n in threads}
  return {who: dict(zip(("forward", "step"), pair)) for who, pair in calls.items()}


def race(calls: dict[str, Call]) -> dict[str, float]:
  """The shortest seconds of one call of each program."""
  clock = time.process_time if CLOCK.value == "processor" else time.perf_counter
  for call in calls.values():
    call()
  seconds = dict.fromkeys(calls, np.inf)
  for _ in range(ROUNDS.value):
    for who, call in calls.items():
      began = clock()
      call()
      seconds[who] = min(seconds[who], clock() - began)
  return seconds


def main(_) -> None:
  """Prints the table, a line as soon as it is measured."""
  rate, _ = measure.ceilings(DTYPE.value)
  machine = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {rate / 1e9:.0f} GFLOP/s"
  print(f"{machine}, batch {BATCH_SIZE.value}\n")
  line = lambda cells: print("| " + " | ".join(cells) + " |", flush=True)
  header = ["encoder", "bands", "parameters", "tokens", "forward/s", "steps: samples/s"]
  header += ["PyTorch forward/s", "ratio", "PyTorch samples/s", "ratio"] if torch_pretrained else []
  line(header)
  line(["---", "---", *["---:"] * (len(header) - 2)])
  for encoder, name in itertools.product(ENCODERS.value, NAMES.value):
    bands, batches = SENSORS[name], data(SENSORS[name])
    parameters, mine, flops = ours(encoder, bands, batches)
    others, cells = theirs(encoder, bands, batches, parameters), []
    found = [race({"jax": mine[w]} | {who: c[w] for who, c in others.items()}) for w in ("forward", "step")]
    samples = BATCHES.value * BATCH_SIZE.value
    cells += [f"{samples / seconds['jax']:,.0f}" for seconds in found]
    for which, seconds in zip(mine, found) if others else ():
      best, floor = min(s for who, s in seconds.items() if who != "jax"), BATCHES.value * flops[which] / rate
      cells += [f"{samples / best:,.0f}", f"{best / seconds['jax']:.2f} ({best / floor:.2f})"]
    line([encoder, name, f"{parameters:,}", str(count_tokens(encoder, bands)), *cells])


if __name__ == "__main__":
  app.run(main)
