"""What is computed from all training samples before the first step: constants of encoders, and linear heads.

Pure functions, to be jitted.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.linalg import cho_solve

from colearn_jax.encoders import FITTED, Encoder
from colearn_jax.nn import random
from colearn_jax.training.epoch import take
from colearn_jax.training.state import Recipe, TrainState, Tree
from colearn_jax.training.step import as_batch

SWEEPS = 100  # of `solve` for classes
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
  if not recipe.ridge:
    return state.params, state.stats
  state = dataclasses.replace(state, params=solve(recipe, state, table, rows))
  model = recipe.network.model(state.params, state.stats)
  for done in range(max((_rounds(encoder) for _, encoder in _fitted(model)), default=0)):
    state = dataclasses.replace(state, stats=learn(recipe, state, table, rows, done))
    state = dataclasses.replace(state, params=solve(recipe, state, table, rows))
  return state.params, state.stats


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
  for sensor, encoder in _fitted(model):
    there = (rows >= 0) & (table["present"][sensor][jnp.maximum(rows, 0)] > 0)
    first = order[jnp.argsort(~there[order], stable=True)]  # rows with the sensor come first
    at = jnp.arange(encoder.backbone.samples) % jnp.maximum(there.sum(), 1)
    batch, _ = as_batch(recipe, state, take(table, rows[first[at]]))
    encoder.fit(batch.inputs[sensor])
  return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def learn(recipe: Recipe, state: TrainState, table: Tree, rows: jax.Array, done: int = 0) -> Tree:
  """The batch statistics after `learn` of the encoders that have more than `done` rounds.

  Each encoder gets the sum of ∇f ∇fᵀ over the outputs f of its sensor's head (standardised values, or
  logits), as a mean over all training rows, in which those without the sensor count 0.

  Args:
    recipe: see `begin`.
    state: see `begin`, with fitted encoders and solved heads.
    table: see `begin`.
    rows: see `begin`.
    done: number of rounds that were done.
  """
  model = recipe.network.model(state.params, state.stats)
  learning = {sensor: encoder for sensor, encoder in _fitted(model) if _rounds(encoder) > done}

  def products(rows: jax.Array) -> dict[str, jax.Array]:
    batch, _ = as_batch(recipe, state, take(table, rows))

    def outputs(inputs: dict[str, Tree]) -> dict[str, jax.Array]:
      model = recipe.network.model(state.params, state.stats)
      read = recipe.method.head_inputs(model, batch.inputs | inputs, batch.present)
      return {m: read[m] @ state.params["heads"][m]["out"]["kernel"] for m in inputs}

    own, sums = {m: batch.inputs[m] for m in learning}, dict.fromkeys(learning, jnp.zeros(()))
    # An output of a row depends on this row alone, so the gradient of their sum has the gradients of all.
    for output in range(len(recipe.network.architecture.task.outputs)):
      total = lambda x, output=output: sum(y[:, output].sum() for y in outputs(x).values())
      for m, slope in jax.grad(total)(own).items():
        flat = [leaf.reshape(rows.size, -1) for leaf in jax.tree.leaves(slope)]  # the values, the context
        of_rows = jnp.concatenate(flat, axis=1) * batch.present[m][:, None]
        sums[m] += jnp.matmul(of_rows.T, of_rows, precision=EXACT)
    return sums

  for m, product in jax.lax.map(products, rows).items():
    learning[m].backbone.learn(product.sum(0) / rows.size)
  return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def _fitted(model: nnx.Module) -> list[tuple[str, Encoder]]:
  """The encoders of `encoders.FITTED`, each with its sensor."""
  found = [(str(path[-1]), m) for path, m in nnx.iter_graph(model) if isinstance(m, Encoder)]
  return [(sensor, m) for sensor, m in found if hasattr(m.backbone, "fit")]


def _rounds(encoder: Encoder) -> int:
  return getattr(encoder.backbone, "rounds", 0)


def solve(recipe: Recipe, state: TrainState, table: Tree, rows: jax.Array) -> Tree:
  """The parameters with the linear layer of every head at the minimum of the objective plus a ridge.

  The objective of a method with `Method.closed_form` is a sum of functions of a head's (standardised) output
  o_i of each row i. Each is at most Σ_c r_ic (o_ic - u_ic)² / 2 + constant, with equality at the current
  output. For a regression it is equal everywhere; for classes r is the bound of Böhning (1992, Annals of the
  Institute of Statistical Mathematics 44). r and u follow from two derivatives, which contain targets,
  teachers and weights. With o_ic = w_c·φ_i + b_c, the layer's kernel w and bias b minimise

      Σ_i r_ic (w_c·φ_i + b_c - u_ic)² / 2 + λ_c |w_c|² / 2,   λ_c = ridge · mean r_c · mean |φ|²,

  with means over the rows with r_ic > 0. For classes this is repeated with the new outputs, `SWEEPS` times,
  and comes to the minimum of the objective itself plus the ridge. If all r_i of a regression are equal, this
  is the posterior mean of a Gaussian process with the kernel φ_i·φ_j / mean |φ|² and noise of variance
  `ridge` (Rasmussen & Williams 2006, equations 2.8 to 2.12), and a free constant.

  With `recipe.group_effect` γ, the outputs of training rows have a random intercept a_gc for each group g
  beside them, with the penalty mean r_c · a_gc² / (2 γ). The intercepts are left out afterwards.

  Args:
    recipe: see `begin`.
    state: see `begin`, with fitted encoders.
    table: see `begin`.
    rows: see `begin`.
  """
  method, task = recipe.method, recipe.network.architecture.task
  classes = len(task.outputs)

  def read(rows: jax.Array) -> dict[str, jax.Array]:
    batch, _ = as_batch(recipe, state, take(table, rows))
    model = recipe.network.model(state.params, state.stats)
    return method.head_inputs(model, batch.inputs, batch.present)

  inputs = {m: z.reshape(-1, z.shape[-1]) for m, z in jax.lax.map(read, rows).items()}
  batch, values = as_batch(recipe, state, take(table, rows.reshape(-1)))

  def objective(outputs: dict[str, jax.Array]) -> jax.Array:
    if task.kind == "regression":
      mean, std = (state.values["task"][name][None] for name in ("mean", "std"))
      outputs = {m: mean + std * o for m, o in outputs.items()}
    return method.loss(outputs, batch, values)[0]

  slope = jax.grad(objective)
  zero = {m: jnp.zeros((rows.size, classes)) for m in inputs}
  # Classes that exclude each other share their bound, which the first one's curvature at 0 tells.
  along = jnp.zeros(classes).at[0].set(1.0) if task.one_class else jnp.ones(classes)
  curvature = jax.jvp(slope, (zero,), ({m: o + along[None] for m, o in zero.items()},))[1]
  if task.one_class:
    bound = 0.5 * classes**2 / (classes - 1)
    curvature = {m: bound * r[:, :1] for m, r in curvature.items()}
  groups = None
  if recipe.group_effect:
    flat = rows.reshape(-1)
    groups = jnp.where(flat < 0, rows.size, state.values["groups"][flat])
  system_of = functools.partial(_system, groups=groups, ridge=recipe.ridge, effect=recipe.group_effect)
  systems = {m: jax.vmap(functools.partial(system_of, z), in_axes=1)(curvature[m]) for m, z in inputs.items()}

  def sweep(_: int, heads: dict[str, Tree]) -> dict[str, Tree]:
    outputs = {m: jnp.matmul(z, heads[m]["kernel"], precision=EXACT) for m, z in inputs.items()}
    outputs = {m: o + heads[m]["bias"][None] for m, o in outputs.items()}
    new, slopes = {}, slope(outputs)
    for m, r in curvature.items():
      u = outputs[m] - jnp.where(r > 0, slopes[m] / jnp.where(r > 0, r, 1.0), 0.0)
      of_column = jax.vmap(_minimum, in_axes=(None if task.one_class else 0, 1), out_axes=-1)
      system = jax.tree.map(lambda leaf: leaf[0], systems[m]) if task.one_class else systems[m]
      kernel, bias = of_column(system, u)
      new[m] = {"kernel": kernel, "bias": bias}
    return new

  begin = {
    m: {"kernel": jnp.zeros((z.shape[1], classes)), "bias": jnp.zeros(classes)} for m, z in inputs.items()
  }
  solved = jax.lax.fori_loop(0, 1 if task.kind == "regression" else SWEEPS, sweep, begin)
  heads = {m: head | {"out": solved[m]} for m, head in state.params["heads"].items()}
  return state.params | {"heads": heads}


@flax.struct.dataclass
class System:
  """The least squares of one output in `solve`, factorised: for `_minimum`.

  Attributes:
    x: weighted features without group means and without their part along `ones`, `[N D]`.
    factor: Cholesky factor of their products plus the ridge: `[N N]` or `[D D]`, whichever is smaller.
    root: root of the weight of each row, `[N]`; the weights have the sum 1.
    ones: the same without group means, `[N]`.
    middle: coefficients of the features along `ones`, `[D]`.
    effects: what `_without_groups` needs.
  """

  x: jax.Array
  factor: jax.Array
  root: jax.Array
  ones: jax.Array
  middle: jax.Array
  effects: tuple[jax.Array, jax.Array] | None


def _system(
  z: jax.Array, curvature: jax.Array, *, groups: jax.Array | None, ridge: float, effect: float
) -> System:
  """The system of features φ `[N D]` and r `[N]`, see `solve`; `groups` `[N]`, N for padding."""
  known = curvature > 0
  share = curvature / jnp.maximum(curvature.sum(), jnp.finfo(z.dtype).tiny)
  number, root = jnp.maximum(known.sum(), 1), jnp.sqrt(share)
  effects = None
  if groups is not None:
    of_group = jax.ops.segment_sum(share, groups, len(groups) + 1)  # 0 for padding and absent samples
    part = 1.0 - 1.0 / jnp.sqrt(1.0 + number * effect * of_group)
    effects = groups, jnp.where(of_group > 0, part / jnp.where(of_group > 0, of_group, 1.0), 0.0)
  ones = _without_groups(root[:, None], root, effects)[:, 0]
  x = _without_groups(root[:, None] * z, root, effects)
  middle = ones @ x / jnp.maximum(ones @ ones, jnp.finfo(z.dtype).tiny)
  x -= ones[:, None] * middle[None]
  squares = jnp.where(known[:, None], jnp.square(z), 0.0).sum()
  penalty = ridge * squares / jnp.square(number)  # λ / Σ r
  gram = jnp.matmul(x, x.T, precision=EXACT) if _dual(x) else jnp.matmul(x.T, x, precision=EXACT)
  factor = jnp.linalg.cholesky(gram + penalty * jnp.eye(len(gram), dtype=z.dtype))
  return System(x, factor, root, ones, middle, effects)


def _without_groups(x: jax.Array, root: jax.Array, effects: tuple[jax.Array, jax.Array] | None) -> jax.Array:
  """Weighted values `[N D]` less a part of their group's mean: 1 - 1 / √(1 + γ n) for n rows alike.

  Their squares are the least of (x - root · a_g)² plus the penalty over the random intercepts a_g (Wooldridge
  2010, Econometric Analysis of Cross Section and Panel Data, section 10.4: quasi-demeaning).
  """
  if effects is None:
    return x
  groups, part = effects
  sums = jax.ops.segment_sum(root[:, None] * x, groups, len(groups) + 1)
  return x - root[:, None] * (part[:, None] * sums)[groups]


def _minimum(system: System, u: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The minimum in `solve` for u `[N]`: w `[D]` and b."""
  x, factor = system.x, (system.factor, True)
  y = _without_groups((system.root * u)[:, None], system.root, system.effects)[:, 0]
  level = system.ones @ y / jnp.maximum(system.ones @ system.ones, jnp.finfo(x.dtype).tiny)
  y -= level * system.ones
  w = x.T @ cho_solve(factor, y) if _dual(x) else cho_solve(factor, x.T @ y)
  return w, level - system.middle @ w


def _dual(x: jax.Array) -> bool:
  return x.shape[0] < x.shape[1]
