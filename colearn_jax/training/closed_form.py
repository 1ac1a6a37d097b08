"""What is computed from all training samples before the first step: constants of encoders, and linear heads.

Pure functions, to be jitted.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.linalg import cho_factor, cho_solve

from colearn_jax.encoders import FITTED, Encoder
from colearn_jax.nn import random
from colearn_jax.nn.layers import along_last_axis
from colearn_jax.training.epoch import take
from colearn_jax.training.state import Recipe, TrainState, Tree
from colearn_jax.training.step import as_batch

EXACT = jax.lax.Precision.HIGHEST  # accelerators round the inputs of products by default


def needed(recipe: Recipe) -> bool:
  """Whether a training begins with `begin`."""
  every = recipe.network.architecture.encoders.values()
  return recipe.ridge > 0 or any(settings["model_type"] in FITTED for settings in every)


def begin(recipe: Recipe, state: TrainState, table: Tree, rows: jax.Array) -> tuple[Tree, Tree]:
  """`params` and `stats` of the first step: with fitted encoders, and with `recipe.ridge` with solved heads.

  Args:
    recipe: the recipe of the training.
    state: what `state.init` returned.
    table: all samples, leaves `[N ...]`.
    rows: `[S B]`, rows of the training part, see `epoch.batched`.
  """
  state = dataclasses.replace(state, stats=fit(recipe, state, table, rows.reshape(-1)))
  return solve(recipe, state, table, rows) if recipe.ridge else state.params, state.stats


def fit(recipe: Recipe, state: TrainState, table: Tree, rows: jax.Array) -> Tree:
  """The batch statistics after `Encoder.fit` of all encoders in `encoders.FITTED`.

  Each reads samples that have its sensor, drawn without replacement; if there are too few, some are repeated.

  Args:
    recipe: see `begin`.
    state: see `begin`.
    table: see `begin`.
    rows: `[n]`, -1 for padding.
  """
  model = recipe.network.model(state.params, state.stats)
  order = jax.random.permutation(random.stream(state.key, "landmarks"), len(rows))
  for path, module in nnx.iter_graph(model):
    if isinstance(module, Encoder) and hasattr(module.backbone, "fit"):
      sensor = str(path[-1])
      there = (rows >= 0) & (table["present"][sensor][jnp.maximum(rows, 0)] > 0)
      first = order[jnp.argsort(~there[order], stable=True)]  # rows with the sensor come first
      at = jnp.arange(module.backbone.samples) % jnp.maximum(there.sum(), 1)
      batch, _ = as_batch(recipe, state, take(table, rows[first[at]]))
      module.fit(batch.inputs[sensor])
  return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def solve(recipe: Recipe, state: TrainState, table: Tree, rows: jax.Array) -> Tree:
  """The parameters with the linear layer of every head at the minimum of the objective plus a ridge.

  The objective of a method with `Method.closed_form` is quadratic in a head's standardised output o_i of each
  row i: Σ_i r_i (o_i - u_i)² / 2 + constant. r_i and u_i follow from its first two derivatives; they contain
  targets, teachers and weights. With o_i = w·φ_i + b, the layer's kernel w and bias b minimise

      Σ_i r_i (w·φ_i + b - u_i)² / 2 + λ |w|² / 2,   λ = ridge · mean r · mean |φ|²,

  with means over the rows with r_i > 0. If all r_i are equal, this is the posterior mean of a Gaussian
  process with the kernel φ_i·φ_j / mean |φ|² and noise of variance `ridge` (Rasmussen & Williams 2006,
  equations 2.8 to 2.12), and a free constant.

  Args:
    recipe: see `begin`.
    state: see `begin`, with fitted encoders.
    table: see `begin`.
    rows: see `begin`.
  """
  task, method = state.values["task"], recipe.method

  def read(rows: jax.Array) -> dict[str, jax.Array]:
    batch, _ = as_batch(recipe, state, take(table, rows))
    model = recipe.network.model(state.params, state.stats)
    return method.head_inputs(model, batch.inputs, batch.present)

  inputs = {m: z.reshape(-1, z.shape[-1]) for m, z in jax.lax.map(read, rows).items()}
  batch, values = as_batch(recipe, state, take(table, rows.reshape(-1)))

  def objective(outputs: dict[str, jax.Array]) -> jax.Array:
    mean, std = (along_last_axis(task[name], next(iter(outputs.values()))) for name in ("mean", "std"))
    return method.loss({m: mean + std * o for m, o in outputs.items()}, batch, values)[0]

  zero, one = ({m: jnp.full((rows.size, *task["mean"].shape), v) for m in inputs} for v in (0.0, 1.0))
  slope, curvature = jax.jvp(jax.grad(objective), (zero,), (one,))
  heads = dict(state.params["heads"])
  for m, z in inputs.items():
    of_column = jax.vmap(_ridge, in_axes=(None, 1, 1, None), out_axes=-1)
    kernel, bias = of_column(z, slope[m], curvature[m], recipe.ridge)
    heads[m] = heads[m] | {"out": {"kernel": kernel, "bias": bias}}
  return state.params | {"heads": heads}


def _ridge(z: jax.Array, slope: jax.Array, curvature: jax.Array, ridge: float) -> tuple[jax.Array, jax.Array]:
  """W `[D]` and b, see `solve`, from φ `[N D]` and the derivatives `[N]` at o = 0."""
  known = curvature > 0
  total = jnp.maximum(curvature.sum(), jnp.finfo(z.dtype).tiny)
  share = curvature / total
  u = jnp.where(known, -slope / jnp.where(known, curvature, 1.0), 0.0)
  middle, level = share @ z, share @ u
  root = jnp.sqrt(share)
  x, y = root[:, None] * (z - middle[None]), root * (u - level)
  size = jnp.where(known[:, None], jnp.square(z), 0.0).sum()  # n mean |φ|², while λ / total has 1 / n² of it
  scale = ridge * size / jnp.square(jnp.maximum(known.sum(), 1))
  dual = len(x) < x.shape[1]
  gram = jnp.matmul(x, x.T, precision=EXACT) if dual else jnp.matmul(x.T, x, precision=EXACT)
  factor = cho_factor(gram + scale * jnp.eye(len(gram), dtype=z.dtype), lower=True)
  w = x.T @ cho_solve(factor, y) if dual else cho_solve(factor, x.T @ y)
  return w, level - middle @ w
