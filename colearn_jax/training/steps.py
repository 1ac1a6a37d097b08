"""The train step and what surrounds it: pure functions of a state and a batch, to be jitted (and vmapped).

A batch is `{"inputs": {m: [B *shape] raw, NaN = missing}, "target": [B K] or [B], "labelled": [B], "present":
{m: [B]}}`; the two masks are 1.0 where a sample has a target, or the sensor; rows of padding are present
nowhere. A table is the same with N samples; `rows` pick from it, -1 being padding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from colearn_jax.data.augment import Augment
from colearn_jax.methods import mdico
from colearn_jax.nn import layers
from colearn_jax.objectives import losses, ring
from colearn_jax.parallel import sharding
from colearn_jax.types import Task

Tree = dict


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Everything about a training that is fixed before it is compiled.

  Attributes:
    build: makes the model from random streams.
    task: what is predicted.
    temperature: τ of the contrastive term.
    negatives: of the contrastive term, see `losses.contrastive`.
    similarity: how the contrastive term is computed across devices, `dense` or by a `ring`.
    optimizer: the gradient transformation.
    batch_size: B, of the global batch.
    microbatches: how many parts a batch goes through the model in, one after another.
    patience: epochs without improvement by more than `min_delta` after which a training stops.
    min_delta: in the unit of the validation objective.
    mesh: of the devices, see `sharding`.
    augment: what is done to the inputs of a train step, if anything.
  """

  build: Callable[[nnx.Rngs], mdico.MDiCo]
  task: Task
  temperature: float
  negatives: str
  similarity: str
  optimizer: optax.GradientTransformation
  batch_size: int
  microbatches: int
  patience: int
  min_delta: float
  mesh: Mesh
  augment: Augment | None = None

  @functools.cached_property
  def graphdef(self) -> nnx.GraphDef:
    """The model without its arrays."""
    return nnx.graphdef(nnx.eval_shape(lambda: self.build(nnx.Rngs(0))))

  def model(self, params: Tree, stats: Tree) -> mdico.MDiCo:
    """The model with these arrays."""
    return nnx.merge(self.graphdef, params, stats)


@flax.struct.dataclass
class Stop:
  """Early stopping: `reference` is the objective to beat by min_delta, `wait` the epochs since it was."""

  reference: jax.Array
  wait: jax.Array
  done: jax.Array


@flax.struct.dataclass
class Best:
  """The epoch with the lowest validation objective, and the model it had."""

  objective: jax.Array
  epoch: jax.Array
  params: Tree
  stats: Tree


@flax.struct.dataclass
class TrainState:
  """All that a training is: checkpoint it, and it goes on as if nothing had happened.

  `constants` are what its run decides: `inputs`, each modality's `offset` and `scale`, and `task`, see
  `losses.task_loss`, of the training part; `weights` of the terms of the objective.
  """

  step: jax.Array
  epoch: jax.Array
  params: Tree
  stats: Tree
  opt_state: optax.OptState
  key: jax.Array
  constants: Tree
  stop: Stop
  best: Best


def init(recipe: Recipe, key: jax.Array, constants: Tree, pretrained: Tree | None = None) -> TrainState:
  """The state before the first step, every random value of it from the key.

  Args:
    recipe: of the training.
    key: of its random values.
    constants: see `TrainState`.
    pretrained: what parts of `params` and `stats` are instead of drawn, by the same nested names.
  """
  params_key, key = jax.random.split(key)
  _, params, stats = nnx.split(recipe.build(nnx.Rngs(params=params_key)), nnx.Param, nnx.BatchStat)
  drawn = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
  params, stats = _overlaid(drawn, pretrained or {}).values()
  # Typed as the steps return them: a weak type here would compile everything twice.
  zero, inf = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, jnp.float32)
  return TrainState(
    step=zero,
    epoch=zero,
    params=params,
    stats=stats,
    opt_state=recipe.optimizer.init(params),
    key=key,
    constants=constants,
    stop=Stop(reference=inf, wait=zero, done=jnp.zeros((), bool)),
    best=Best(objective=inf, epoch=zero, params=params, stats=stats),
  )


def _overlaid(tree: Tree | jax.Array, given: Tree | jax.Array) -> Tree | jax.Array:
  """The tree with the leaves that are given in place of its own."""
  if not isinstance(tree, dict):
    return jnp.asarray(given, tree.dtype)
  return tree | {name: _overlaid(tree[name], part) for name, part in given.items()}


def normalise(inputs: Mapping[str, jax.Array], constants: Tree) -> dict[str, jax.Array]:
  """Raw inputs, integers too, to (x - offset) / scale on the last axis; NaN stays NaN."""
  scaled = lambda x, c: (layers.widened(x) - c["offset"]) / c["scale"]
  return {m: scaled(x, constants["inputs"][m]) for m, x in inputs.items()}


def _objective(recipe: Recipe, outputs: mdico.Outputs, batch: Tree, constants: Tree):
  ringed = recipe.similarity == "ring"
  return mdico.objective(
    recipe.task.kind,
    outputs,
    batch["target"],
    batch["present"],
    constants["task"],
    constants["weights"],
    temperature=recipe.temperature,
    negatives=recipe.negatives,
    labelled=batch["labelled"],
    contrastive=functools.partial(ring.contrastive, recipe.mesh) if ringed else losses.contrastive,
  )


def train_step(recipe: Recipe, state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step of the optimizer on one global batch; returns the new state and every term of the objective."""
  if recipe.augment is not None:
    key = jax.random.fold_in(state.key, state.step)
    batch = batch | {"inputs": recipe.augment(key, batch["inputs"], state.constants["inputs"])}

  def loss_of(params):
    stats, outputs = _in_training(recipe, params, state, batch)
    loss, terms = _objective(recipe, outputs, batch, state.constants)
    return loss, (terms, stats)

  grads, (terms, stats) = jax.grad(loss_of, has_aux=True)(state.params)
  updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return state.replace(step=state.step + 1, params=params, stats=stats, opt_state=opt_state), terms


def _in_training(recipe: Recipe, params: Tree, state: TrainState, batch: Tree) -> tuple[Tree, mdico.Outputs]:
  """The new batch statistics and the outputs for a whole batch, which goes through the model in microbatches.

  The objective is that of the whole batch in any case: of each microbatch only the outputs are kept, and the
  rest is computed once more on the way back (Gao et al. 2021, arXiv 2101.06983). So they change what
  BatchNorm sees, one microbatch at a time, and which values dropout takes, and nothing else.
  """

  def forward(stats, part):
    inputs, present, key = part
    model = recipe.model(params, stats)
    inputs = normalise(inputs, state.constants)
    outputs = model(inputs, train=True, present=present, rngs=nnx.Rngs(dropout=key))
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), outputs

  key, count = jax.random.fold_in(state.key, state.step), recipe.microbatches
  if count == 1:
    return forward(state.stats, (batch["inputs"], batch["present"], key))
  # Every part takes a share of every device's rows.
  split = lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
  parts = jax.tree.map(split, (batch["inputs"], batch["present"]))
  stats, outputs = jax.lax.scan(jax.checkpoint(forward), state.stats, (*parts, jax.random.split(key, count)))
  return stats, jax.tree.map(join, outputs)


def eval_step(recipe: Recipe, state: TrainState, batch: Tree) -> dict[str, jax.Array]:
  """Every term of the objective on one batch, without dropout and with the running statistics."""
  model = recipe.model(state.params, state.stats)
  outputs = model(normalise(batch["inputs"], state.constants), present=batch["present"])
  return _objective(recipe, outputs, batch, state.constants)[1]


def end_epoch(recipe: Recipe, state: TrainState, objective: jax.Array) -> TrainState:
  """Counts the epoch, keeps its model if it is the best one, and decides whether the training is over.

  Args:
    recipe: of the training.
    state: after the epoch's last step.
    objective: the validation objective, scalar.
  """
  epoch = state.epoch + 1
  improved = objective < state.best.objective
  new = Best(objective=objective, epoch=epoch, params=state.params, stats=state.stats)
  best = keep_where(improved, new, state.best)
  enough = objective < state.stop.reference - recipe.min_delta
  wait = jnp.where(enough, 0, state.stop.wait + 1)
  reference = jnp.where(enough, objective, state.stop.reference)
  return state.replace(epoch=epoch, best=best, stop=Stop(reference, wait, wait >= recipe.patience))


def present_rows(batch: Tree) -> jax.Array:
  """How many rows of a batch hold any sensor: the weight of its terms in an epoch's mean."""
  return jnp.stack(list(batch["present"].values())).max(0).sum()


def _mean(terms: dict[str, jax.Array], weights: jax.Array) -> dict[str, jax.Array]:
  return {name: (values * weights).sum() / weights.sum() for name, values in terms.items()}


def take(table: Tree, rows: jax.Array) -> Tree:
  """The batch of these rows of a table; -1 gives a row that is present nowhere."""
  batch = jax.tree.map(lambda a: a[jnp.maximum(rows, 0)], table)
  there = (rows >= 0).astype(jnp.float32)
  return batch | {"present": {m: p * there for m, p in batch["present"].items()}}


def batched(rows: np.ndarray, batch_size: int) -> np.ndarray:
  """Row numbers `[N]` as batches `[S B]` in their order, the last one padded with -1."""
  padded = np.full(-(-len(rows) // batch_size) * batch_size, -1, np.int32)
  padded[: len(rows)] = rows
  return padded.reshape(-1, batch_size)


def train_epoch(
  recipe: Recipe,
  state: TrainState,
  table: Tree,
  train_rows: jax.Array,
  validation_rows: jax.Array,
  *,
  uneven: bool = False,
) -> tuple[TrainState, dict[str, dict[str, jax.Array]]]:
  """One epoch over a table on the device as one program: shuffled steps, validation, early stopping.

  A state that is done stays as it is and its epoch costs nothing.

  Args:
    recipe: of the training.
    state: before the epoch.
    table: leaves `[N ...]`.
    train_rows: `[S B]`, see `batched`; a new order is drawn from the state's key.
    validation_rows: `[V B]`, taken in their order.
    uneven: whether batches at the end may be padding throughout; they are no steps then.

  Returns:
    The state and the means over rows of every term, `{"train": ..., "validation": ...}`.
  """
  split = NamedSharding(sharding.current(recipe.mesh), jax.P(sharding.BATCH))
  over_devices = lambda rows: jax.lax.with_sharding_constraint(rows, split)

  @functools.partial(jax.jit, inline=True)  # traced once, though its shape is asked for as well
  def run(state):
    key = jax.random.fold_in(state.key, -1 - state.epoch)
    rows = train_rows.reshape(-1)
    order = jnp.argsort(jnp.where(rows < 0, 2.0, jax.random.uniform(key, rows.shape)))
    rows = rows[order].reshape(train_rows.shape)

    def step(state, rows):
      batch = take(table, over_devices(rows))
      new, terms = train_step(recipe, state, batch)
      if uneven:
        new = keep_where((rows >= 0).any(), new, state)
      return new, (terms, present_rows(batch))

    def validate(_, rows):
      batch = take(table, over_devices(rows))
      return None, (eval_step(recipe, state, batch), present_rows(batch))

    state, train = jax.lax.scan(step, state, rows)
    _, validation = jax.lax.scan(validate, None, validation_rows)
    train, validation = _mean(*train), _mean(*validation)
    state = end_epoch(recipe, state, validation["objective"])
    return state, {"train": train, "validation": validation}

  nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(run, state)[1])
  return jax.lax.cond(state.stop.done, lambda state: (state, nothing), run, state)


def keep_where(condition: jax.Array, new: Tree, old: Tree) -> Tree:
  """The one tree or the other, as a scalar condition says."""
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def train_stack(
  recipe: Recipe,
  states: TrainState,
  table: Tree,
  train_rows: jax.Array,
  validation_rows: jax.Array,
  *,
  uneven: bool = False,
) -> tuple[TrainState, dict[str, dict[str, jax.Array]]]:
  """`train_epoch` for a stack of trainings, each as if it were alone, split over the mesh's replicas.

  On a device that holds several they are one vectorised program, in which a training that is done is frozen
  by a mask until all of them are; then the device's work is given up. Devices do not wait for each other.

  Args:
    recipe: of the trainings.
    states: leaves `[R ...]`.
    table: leaves `[N ...]`, of all of them.
    train_rows: `[R S B]`.
    validation_rows: `[R V B]`.
    uneven: see `train_epoch`.
  """

  def stack(states, table, *rows):
    one = functools.partial(train_epoch, recipe, uneven=uneven)
    if len(rows[0]) == 1:
      only = lambda tree: jax.tree.map(lambda a: a[0], tree)
      return jax.tree.map(lambda a: a[None], one(only(states), table, *only(rows)))
    run = lambda states: jax.vmap(one, in_axes=(0, None, 0, 0))(states, table, *rows)
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(run, states)[1])
    return jax.lax.cond(states.stop.done.all(), lambda states: (states, nothing), run, states)

  if recipe.mesh.shape["replica"] == 1:
    return stack(states, table, train_rows, validation_rows)
  each = jax.P("replica")
  split = jax.shard_map(
    stack,
    mesh=recipe.mesh,
    in_specs=(each, jax.P(), each, each),
    out_specs=each,
    axis_names={"replica"},
    check_vma=False,
  )
  return split(states, table, train_rows, validation_rows)


def predict(
  recipe: Recipe,
  params: Tree,
  stats: Tree,
  constants: Tree,
  inputs: Mapping[str, jax.Array],
  present: Mapping[str, jax.Array] | None = None,
) -> dict[str, dict[str, jax.Array]]:
  """What each modality in `inputs` predicts alone, in the target's unit or as probabilities.

  Args:
    recipe: of the training.
    params: of the model.
    stats: batch statistics of the model.
    constants: of the training.
    inputs: raw, `[B *shape]`, any of the modalities.
    present: `[B]` for each of them; by default a sensor is there where any of its values is.

  Returns:
    `prediction`, `specific` and `shared` (the auxiliary head's, where there is one), each `{m: [B C]}`; NaN
    where the sensor is not there.
  """
  outputs = recipe.model(params, stats)(normalise(inputs, constants))
  heads = {
    "prediction": outputs.prediction,
    "specific": outputs.auxiliary_specific,
    "shared": outputs.auxiliary_shared,
  }
  present = present or {m: has_values(x) for m, x in inputs.items()}
  known = lambda m, output: jnp.where(present[m][:, None] > 0, activate(recipe.task.kind, output), jnp.nan)
  return {head: {m: known(m, output) for m, output in named.items()} for head, named in heads.items()}


def has_values(x: jax.Array) -> jax.Array:
  """Which samples of raw `[B *shape]` a sensor has seen, `[B]`: those with any value that is not NaN."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.ones(len(x), jnp.float32)
  return (~jnp.isnan(x)).reshape(len(x), -1).any(1).astype(jnp.float32)


def activate(kind: str, output: jax.Array) -> jax.Array:
  """A head's output `[B C]` as what a user reads: probabilities, or the target in its unit."""
  if kind == "regression":
    return output
  return jax.nn.sigmoid(output) if kind == "multilabel" else jax.nn.softmax(output)


def predict_rows(
  recipe: Recipe, params: Tree, stats: Tree, constants: Tree, table: Tree, rows: jax.Array
) -> dict[str, dict[str, jax.Array]]:
  """`predict` for rows `[S B]` of a table: leaves `[S B C]`, what stands at padding means nothing."""

  def of(rows):
    batch = take(table, rows)
    return predict(recipe, params, stats, constants, batch["inputs"], batch["present"])

  return jax.lax.map(of, rows)
