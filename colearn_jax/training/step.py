"""One train step, evaluation step or prediction step on a batch. Pure functions, to be jitted and vmapped.

A batch of samples is `{"inputs": {m: [B *shape] raw, NaN = missing}, "present": {m: [B]}, "target": [B K]
or [B], "labelled": [B], "row": [B]}`. `present` is 1.0 if the sample has the sensor, `labelled` is 1.0 if it
has a target. Padding has no sensors, and the row number -1.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.base import Batch, Predictions, Values
from colearn_jax.methods.predict import normalise, predict
from colearn_jax.nn import random
from colearn_jax.training.conflicts import projected_sum
from colearn_jax.training.mixup import mix, mixed_loss
from colearn_jax.training.state import Faults, Recipe, TrainState, Tree

Terms = dict[str, jax.Array]


def train_step(recipe: Recipe, state: TrainState, batch: Tree) -> tuple[TrainState, Terms]:
  """Makes one optimizer step on a global batch. Returns the new state and all terms of the objective.

  If the loss or a gradient is not finite, parameters, statistics and averages stay as they are: in this step
  with `nonfinite=skip` of the recipe, whose term `skipped` is then 1; from this step on with `stop`.
  """
  if recipe.augment is not None:
    key = random.stream(state.key, "augment", state.step)
    batch = batch | {"inputs": recipe.augment(key, batch["inputs"], state.values["inputs"])}
  given, values = _given(recipe, state, batch), _values(recipe, state)
  if recipe.mixup:
    given, theirs, share = mix(random.stream(state.key, "mixup", state.step), recipe.mixup, given)
  given = _taught(recipe, state, given)

  def totals_of(params):
    stats, outputs = _in_training(recipe, recipe.optimizer.trained(params), state, given)
    objective = lambda batch: recipe.method.loss(outputs, batch, values)
    if recipe.mixup:
      loss, terms = mixed_loss(objective, given, dataclasses.replace(theirs, teachers=given.teachers), share)
    else:
      loss, terms = objective(given)
    apart = {name: value for name, value in terms.items() if name.startswith("total/")}
    return apart if recipe.project_conflicts else loss, (terms, stats)

  totals, pull, (terms, stats) = jax.vjp(totals_of, state.params, has_aux=True)
  if recipe.project_conflicts:
    only = lambda name: {other: jnp.asarray(other == name, total.dtype) for other, total in totals.items()}
    each = [pull(only(name))[0] for name in totals]
    grads = projected_sum(random.stream(state.key, "conflicts", state.step), each)
  else:
    (grads,) = pull(jnp.ones_like(totals))
  rate = recipe.optimizer.schedule(state.step, state.values["steps_per_epoch"])
  params, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params, rate)
  stats, average = recipe.optimizer.moving(stats, state.stats), state.average
  if recipe.average is not None:
    average = recipe.average.after_step(average, {"params": params, "stats": stats}, state.step)
  new = {"params": params, "stats": stats, "opt_state": opt_state, "average": average}
  terms = terms | {"learning_rate": rate}
  if recipe.nonfinite == "epoch":
    return dataclasses.replace(state, step=state.step + 1, **new), terms
  finite, skip = _finite((totals, grads)), recipe.nonfinite == "skip"
  faults = _first_fault(state, finite)
  keep = finite if skip else faults.step < 0
  old = {"params": state.params, "stats": state.stats, "opt_state": state.opt_state, "average": state.average}
  changed = jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)
  made = 1 if skip else keep.astype(jnp.int32)
  state = dataclasses.replace(state, step=state.step + made, faults=faults, **changed)
  return state, terms | ({"skipped": 1.0 - finite} if skip else {})


def _finite(tree: Any) -> jax.Array:
  """Whether all numbers of a tree are finite, scalar bool."""
  every = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
  return functools.reduce(jnp.logical_and, every)


def _first_fault(state: TrainState, finite: jax.Array) -> Faults:
  first = ~finite & (state.faults.step < 0)
  at = lambda now, before: jnp.where(first, now, before)
  return Faults(at(state.step, state.faults.step), at(state.epoch, state.faults.epoch))


def mean_terms(terms: Terms, weights: jax.Array) -> Terms:
  """Means of terms `[S]` over steps, weighted by rows. Of `learning_rate` the last, of `skipped` the sum.

  Steps that were skipped do not count, and those without rows are none.
  """
  last = len(weights) - 1 - jnp.argmax(weights[::-1] > 0)
  skipped = terms.get("skipped", jnp.zeros_like(weights))
  weights = weights * (1.0 - skipped)
  mean = lambda values: jnp.where(skipped > 0, 0.0, values * weights).sum() / weights.sum()
  own = {"learning_rate": lambda values: values[last], "skipped": jnp.sum}
  return {name: own.get(name, mean)(values) for name, values in terms.items()}


def _in_training(recipe: Recipe, params: Tree, state: TrainState, given: Batch) -> tuple[Tree, Any]:
  """Runs the model on a batch in microbatches. Returns new running statistics, and the outputs of the batch.

  The loss is always computed on the whole batch: only the outputs of each microbatch are stored, and the
  activations are recomputed in the backward pass (Gao et al. 2021, arXiv 2101.06983). Microbatches therefore
  change only BatchNorm, which normalises each microbatch separately, and the random masks of dropout.
  """

  def forward(stats, part):
    inputs, present, number = part
    draw = lambda name: jax.random.fold_in(random.stream(state.key, name, state.step), number)
    model = recipe.network.model(params, stats)
    outputs = recipe.method.forward(
      model,
      inputs,
      present,
      train=True,
      progress=_progress(recipe, state),
      rngs=nnx.Rngs(**{name: draw(name) for name in ("dropout", "sensors", "method")}),
    )
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), outputs

  count = recipe.microbatches
  if count == 1:
    return forward(state.stats, (given.inputs, given.present, 0))
  # Each microbatch contains rows of every device.
  split = lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
  parts = jax.tree.map(split, (given.inputs, given.present))
  stats, outputs = jax.lax.scan(jax.checkpoint(forward), state.stats, (*parts, jnp.arange(count)))
  return stats, jax.tree.map(join, outputs)


def eval_step(recipe: Recipe, state: TrainState, batch: Tree) -> Terms:
  """Computes all terms of the objective on one batch, without dropout, with running statistics.

  With a weight average, the average is evaluated.
  """
  given, values = as_batch(recipe, state, batch)
  evaluated = state.average or {"params": state.params, "stats": state.stats}
  model = recipe.network.model(**evaluated)
  outputs = recipe.method.forward(model, given.inputs, given.present, progress=_progress(recipe, state))
  return recipe.method.loss(outputs, given, values)[1]


def predict_step(
  recipe: Recipe, model: Tree, inputs: dict[str, jax.Array], present: dict[str, jax.Array]
) -> Predictions:
  """Predicts with every head of a finished model, see `methods.predict.predict`.

  Args:
    recipe: the recipe of the training.
    model: see `state.finished_model`.
    inputs: raw `[B *shape]` by sensor.
    present: `[B]` by sensor.
  """
  network = recipe.network.model(model["params"], model["stats"])
  kind = recipe.network.architecture.task.kind
  return predict(recipe.method, network, kind, model["values"]["inputs"], inputs, present)


def as_batch(recipe: Recipe, state: TrainState, batch: Tree) -> tuple[Batch, Values]:
  """What the method's loss reads of a batch, without augmentation."""
  return _taught(recipe, state, _given(recipe, state, batch)), _values(recipe, state)


def _given(recipe: Recipe, state: TrainState, batch: Tree) -> Batch:
  """Converts a batch for the method: normalises it, and weights its rows."""
  weight = jnp.ones(len(batch["row"]))
  if "balance" in state.values:
    weight = state.values["balance"][batch["row"]]
  return Batch(
    inputs=normalise(batch["inputs"], state.values["inputs"]),
    present=batch["present"],
    target=batch["target"],
    labelled=batch["labelled"] * weight,
    row=batch["row"],
    weight=weight,
  )


def _taught(recipe: Recipe, state: TrainState, given: Batch) -> Batch:
  """The batch with the outputs of the teachers."""
  teachers = {}
  for name, network in recipe.teachers.items():
    model = network.model(**state.frozen[name])
    teachers[name] = jax.lax.stop_gradient(network.method.forward(model, given.inputs, given.present))
  return dataclasses.replace(given, teachers=teachers)


def _values(recipe: Recipe, state: TrainState) -> Values:
  return Values(
    constants=state.values["task"],
    weights=state.values["weights"],
    arrays=state.values["arrays"],
    progress=_progress(recipe, state),
    task=recipe.network.architecture.task,
    mesh=recipe.mesh,
    options=recipe.loss,
  )


def _progress(recipe: Recipe, state: TrainState) -> jax.Array:
  return state.epoch / max(recipe.max_epochs, 1)


def present_rows(batch: Tree) -> jax.Array:
  """Number of rows with at least one sensor: the weight of the batch in means over an epoch."""
  return functools.reduce(jnp.maximum, batch["present"].values()).sum()
