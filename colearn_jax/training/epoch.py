"""Training for one epoch: of one run, or of a stack of runs as one program. Pure functions, to be jitted.

A table contains all samples on the device. It has the structure of a batch (see `step.py`) with leaves `[N
...]`. Batches are taken from it by row numbers; -1 stands for padding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from colearn_jax.methods.base import Predictions
from colearn_jax.nn import random
from colearn_jax.parallel import sharding
from colearn_jax.training.state import Best, Recipe, Stop, TrainState, Tree
from colearn_jax.training.step import (
  Terms,
  eval_step,
  mean_terms,
  predict_step,
  present_rows,
  train_step,
)
from colearn_jax.types import InputError

T = TypeVar("T")


def take(table: Tree, rows: jax.Array, *, one_sensor_each: bool = False) -> Tree:
  """Takes the batch of these rows from a table. For row number -1, all sensors are absent.

  Args:
    table: leaves `[N ...]`.
    rows: `[B]`.
    one_sensor_each: whether the rows are M blocks of equal size, where the m-th block contains only the m-th
      sensor (in the order of sorted names).
  """
  batch = jax.tree.map(lambda a: a[jnp.maximum(rows, 0)], table)
  there = (rows >= 0).astype(jnp.float32)
  names = sorted(batch["present"])
  shown = lambda m: show_one(names.index(m), len(names), len(rows)) if one_sensor_each else 1.0
  present = {m: batch["present"][m] * there * shown(m) for m in names}
  return batch | {"present": present, "row": rows}


def show_one(sensor: int, sensors: int, rows: int) -> np.ndarray:
  """Mask `[rows]` float32 of the block of a sensor, where `rows` rows consist of `sensors` equal blocks."""
  return (np.arange(rows) // (rows // sensors) == sensor).astype(np.float32)


def batched(rows: np.ndarray, batch_size: int, multiple: int = 1) -> np.ndarray:
  """Splits row numbers `[N]` into batches `[S B]`, in order. Their end is padded with -1.

  S is a multiple of `multiple`: the last batches may consist of padding only.
  """
  padded = np.full(-(-len(rows) // (batch_size * multiple)) * batch_size * multiple, -1, np.int32)
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
) -> tuple[TrainState, dict[str, Terms]]:
  """Trains one epoch on a table on the device: shuffled train steps, validation, early stopping.

  If the run is finished, its state is returned unchanged, without any computation.

  Args:
    recipe: the recipe of the training.
    state: the state before the epoch.
    table: leaves `[N ...]`.
    train_rows: `[S B]`, see `batched`. They are shuffled anew in every epoch.
    validation_rows: `[V B]`, used in this order. V = 0 without a validation part.
    uneven: whether the last batches may consist of padding only. No steps are made with these. (Under `vmap`
      they are made and have no effect.)

  Returns:
    The new state, and the mean of every term over rows, `{"train": ..., "validation": ...}`; without a
    validation part only those of `train`.
  """
  split = NamedSharding(sharding.current(recipe.mesh), jax.P(sharding.BATCH))
  over_devices = lambda rows: jax.lax.with_sharding_constraint(rows, split)

  @functools.partial(jax.jit, inline=True)  # so that it is traced only once, although eval_shape uses it too
  def run(state):
    words = jax.random.key_data(random.stream(state.key, "order"))

    def step(state, rows):
      batch = take(table, over_devices(rows), one_sensor_each=not recipe.method.paired)
      new, terms = train_step(recipe, state, batch)
      return new, (terms, present_rows(batch))

    def validate(_, rows):
      batch = take(table, over_devices(rows))
      return None, (eval_step(recipe, state, batch), present_rows(batch))

    if uneven:
      step, validate = _unless_padding(step), _unless_padding(validate)

    order = random.epoch_rows(words, state.epoch, train_rows, recipe.blocks)
    state, train = jax.lax.scan(step, state, order)
    state = average_epoch(recipe, state)
    means = {"train": mean_terms(*train)}
    if len(validation_rows):
      means["validation"] = mean_terms(*jax.lax.scan(validate, None, validation_rows)[1])
    return end_epoch(recipe, state, validation_objective(means)), means

  return _unless(state.stop.done, run, state)


def average_epoch(recipe: Recipe, state: TrainState) -> TrainState:
  """Updates the weight average at the end of an epoch, if it is an average over epochs."""
  if recipe.average is None:
    return state
  new = {"params": state.params, "stats": state.stats}
  average = recipe.average.after_epoch(state.average, new, state.epoch)
  return dataclasses.replace(state, average=average)


def validation_objective(means: Mapping[str, Terms]) -> jax.Array | None:
  """The objective of the validation part among the means of an epoch; None without a validation part."""
  return means["validation"]["objective"] if "validation" in means else None


def end_epoch(recipe: Recipe, state: TrainState, objective: jax.Array | None) -> TrainState:
  """Counts the epoch, keeps its model if it is the best so far, and decides whether the run is finished.

  Args:
    recipe: the recipe of the training.
    state: the state after the last step of the epoch.
    objective: validation objective, scalar. None without a validation part: the last epoch's model is kept,
      after `max_epochs`.

  Raises:
    InputError: there is no validation part, but the recipe has a patience or keeps the best epoch's model.
  """
  epoch = state.epoch + 1
  model = state.average or {"params": state.params, "stats": state.stats}
  if objective is None:
    if recipe.patience or not recipe.keep_last:
      raise InputError("without a validation part: train.patience=0 and train.keep=last")
    best = dataclasses.replace(state.best, epoch=epoch, **model)
    stop = dataclasses.replace(state.stop, done=epoch >= recipe.max_epochs)
    return dataclasses.replace(state, epoch=epoch, best=best, stop=stop)
  new = Best(objective=objective, epoch=epoch, **model)
  best = new if recipe.keep_last else keep_where(objective < state.best.objective, new, state.best)
  enough = objective < state.stop.reference - recipe.min_delta
  wait = jnp.where(enough, 0, state.stop.wait + 1)
  reference = jnp.where(enough, objective, state.stop.reference)
  done = epoch >= recipe.max_epochs
  if recipe.patience:
    done |= wait >= recipe.patience
  return dataclasses.replace(state, epoch=epoch, best=best, stop=Stop(reference, wait, done))


def train_stack(
  recipe: Recipe,
  states: TrainState,
  table: Tree,
  train_rows: jax.Array,
  validation_rows: jax.Array,
  *,
  uneven: bool = False,
) -> tuple[TrainState, dict[str, Terms]]:
  """Runs `train_epoch` for a stack of independent runs, split over the replicas of the mesh.

  Runs on one device are vmapped. A finished run is masked out. Once all runs of a device have finished, its
  epoch is skipped. Devices do not wait for each other.

  Args:
    recipe: the recipe of the runs.
    states: leaves `[R ...]`.
    table: leaves `[N ...]`, shared by all runs.
    train_rows: `[R S B]`.
    validation_rows: `[R V B]`, V = 0 without validation parts.
    uneven: see `train_epoch`.
  """

  def stack(states: TrainState, table: Tree, *rows: jax.Array) -> tuple[TrainState, dict[str, Terms]]:
    one = functools.partial(train_epoch, recipe, uneven=uneven)
    if len(rows[0]) == 1:
      return stacked(one(only(states), table, *only(rows)))
    run = lambda states: jax.vmap(one, in_axes=(0, None, 0, 0))(states, table, *rows)
    return _unless(states.stop.done.all(), run, states)

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


def predict_rows(recipe: Recipe, model: Tree, table: Tree, rows: jax.Array) -> Predictions:
  """Runs `predict_step` on rows `[S B]` of a table; leaves `[S B C]`. Ignore the rows of padding."""

  def of(_, rows):
    batch = take(table, rows)
    return None, predict_step(recipe, model, batch["inputs"], batch["present"])

  return jax.lax.scan(_unless_padding(of), None, rows)[1]


def keep_where(condition: jax.Array, new: T, old: T) -> T:
  """Selects the tree `new` if the scalar condition is true, else `old`."""
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def only(stack: T) -> T:
  """Removes the leading axis of a stack with one run."""
  return jax.tree.map(lambda leaf: leaf[0], stack)


def stacked(run: T) -> T:
  """Makes a stack of one run by adding a leading axis."""
  return jax.tree.map(lambda leaf: leaf[None], run)


def _unless_padding(step: Callable) -> Callable:
  """A step of a scan that is not made for rows of padding only; its outputs are then 0."""
  return lambda state, rows: _unless((rows < 0).all(), lambda state: step(state, rows), state)


def _unless(done: jax.Array, run: Callable, state: TrainState | None) -> Any:
  """Runs an epoch or a step unless `done`. Else the state is unchanged and all terms are 0."""
  nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(run, state)[1])
  return jax.lax.cond(done, lambda state: (state, nothing), run, state)
