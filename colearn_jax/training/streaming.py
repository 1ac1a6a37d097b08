"""Training on samples that do not fit in the device's memory: batches are read from disk during training."""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from colearn_jax.data import statistics, stream
from colearn_jax.data.dataset import Dataset
from colearn_jax.data.moments import Moments
from colearn_jax.data.reader import READ, Index, check_unchanged, make_reader
from colearn_jax.data.splits import Run
from colearn_jax.nn import random
from colearn_jax.parallel import sharding
from colearn_jax.training.epoch import (
  average_epoch,
  batched,
  end_epoch,
  keep_where,
  only,
  stacked,
  validation_objective,
)
from colearn_jax.training.samples import Epoch, Pause, SamplesOf
from colearn_jax.training.state import Recipe, TrainState, Tree
from colearn_jax.training.step import eval_step, predict_step, present_rows, train_step
from colearn_jax.types import InputError, Modality


class Streamed(SamplesOf):
  """Samples that are read from disk when they are needed. Every process reads its part of each batch.

  Args:
    recipe: the recipe of the runs.
    modalities: the sensors, and the context if there is one.
    dataset: the data set to read.
    index: index of all samples.
    workers: number of reader processes; 0 for threads only.
    **options: see `SamplesOf`.
  """

  def __init__(
    self,
    recipe: Recipe,
    modalities: Sequence[Modality],
    dataset: Dataset,
    index: Index,
    *,
    workers: int = 0,
    **options: Any,
  ):
    super().__init__(recipe, modalities, index, **options)
    if recipe.mesh.shape["replica"] > 1:
      raise InputError("mesh.replica: a stream trains one run at a time; 1, or data.placement=device")
    self._dataset = dataset
    self._batches: dict[str, Any] = {
      "reader": make_reader(dataset, modalities),
      "labels": self._labels,
      "sharding": sharding.by_example(recipe.mesh),
      "workers": workers,
    }
    jit = functools.partial(jax.jit, out_shardings=self._whole)
    self._validate = jit(functools.partial(_validate, recipe), donate_argnums=1)
    self._predict = jit(functools.partial(predict_step, recipe))

  def _moments(self, rows: np.ndarray) -> dict[str, Moments]:
    return statistics.of_dataset(self._dataset, self.modalities, rows)

  def check_source(self) -> None:
    """See `SamplesOf`."""
    check_unchanged(self._dataset, self.index)

  def _inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    read = grain.MapDataset.source(rows).map(self._batches["reader"]).to_iter_dataset(READ)
    every = list(read)
    stack = lambda m: np.stack([sample["inputs"][m.name] for sample in every])
    present = lambda m: np.stack([sample["present"].get(m.name, 1.0) for sample in every])
    return {m.name: stack(m)[present(m) > 0] for m in self.modalities}

  @contextlib.contextmanager
  def epochs(
    self, runs: Sequence[Run], state: TrainState, partial: dict | None = None, pause: Pause | None = None
  ) -> Iterator[Epoch]:
    """Yields a function that trains this one run for one epoch, starting at the epoch of `state`.

    Args:
      runs: the run.
      state: its state.
      partial: plain JSON that `pause` got, if `state` is in the middle of an epoch: the number of its steps,
        and the sums of its terms.
      pause: called between two steps with the state and a function that returns `partial`.
    """
    (run,) = runs
    rows = batched(run.train, self.recipe.batch_size)
    if not self._programs:
      jit = lambda program, donated, *outputs: jax.jit(
        functools.partial(program, self.recipe),
        donate_argnums=donated,
        out_shardings=outputs if len(outputs) > 1 else outputs[0],
      )
      self._programs["train"] = jit(_train, (0, 1), self._placed, self._whole, self._whole)
      self._programs["average"] = jit(_average, 0, self._placed)
      self._programs["end"] = jit(_end, 0, self._placed, self._whole)
    programs, start = self._programs, int(jax.device_get(state.epoch)[0])
    order = self._order(run)
    begun = partial["steps"] if partial else 0
    first = start * len(rows) + begun
    iterator = iter(stream.train_batches(order=order, start=first, **self._batches))
    validation: Iterable = ()
    if len(run.validation):
      validation = stream.eval_batches(rows=run.validation, size=self.recipe.batch_size, **self._batches)

    def epoch(state):
      nonlocal begun
      done, checked = self.status(state)["done"], False
      trained, seen = (self._sums(partial) if partial and begun else None), None
      waiting: collections.deque[jax.Array] = collections.deque()
      steps, begun = range(begun, len(rows)), 0
      for number, batch in zip(steps, iterator):
        # If the run was finished before this epoch, its steps change nothing, and reading stops here: after
        # the same step in all processes, which take part in each other's steps.
        if not checked and (done.is_ready() or jax.process_count() > 1):
          checked = True
          if jax.device_get(done).all():
            return state, None
        trained = self._zeros(train_step, state, batch) if trained is None else trained
        state, trained, token = programs["train"](state, trained, batch)
        if _wait(waiting, token) and self.recipe.nonfinite == "stop":
          return state, {}  # nothing changes any more
        if pause is not None and number + 1 < len(rows):
          pause(state, functools.partial(_partial, number + 1, trained))
      state = programs["average"](state)
      for batch in validation:
        seen = self._zeros(eval_step, state, batch) if seen is None else seen
        seen, token = self._validate(state, seen, batch)
        _wait(waiting, token)
      return programs["end"](state, trained, seen)

    try:
      yield epoch
    finally:
      iterator.close()

  def batch(self, run: Run, state: TrainState) -> Tree:
    """See `SamplesOf`."""
    order = self._order(run)
    batches = stream.train_batches(order=order, start=int(state.step), **self._batches)
    return next(iter(batches))

  def _order(self, run: Run) -> stream.Order:
    words = np.asarray(jax.random.key_data(random.stream(random.run_key(run.seed, run.fold), "order")))
    return stream.Order(words, batched(run.train, self.recipe.batch_size), self.recipe.blocks)

  def number(self, runs: Sequence[Run], epoch: int, partial: Mapping | None) -> int:
    """See `SamplesOf`."""
    steps = len(batched(runs[0].train, self.recipe.batch_size))
    return epoch * steps + (partial["steps"] if partial else 0)

  def _sums(self, partial: Mapping) -> Tree:
    """The sums of terms of the steps that were made before a checkpoint, on the devices."""
    return jax.device_put(jax.tree.map(np.float32, partial["terms"]), self._whole)

  def _zeros(self, step, state: TrainState, batch: Tree) -> Tree:
    """Sums of terms over batches, at 0, on the devices."""
    shapes = jax.eval_shape(lambda state, batch: step(self.recipe, only(state), batch), state, batch)
    terms = shapes[1] if isinstance(shapes, tuple) else shapes
    sums = {name: np.zeros((), np.float32) for name in terms}
    return jax.device_put({"sums": sums, "count": np.zeros((), np.float32)}, self._whole)

  def predict(self, model: Tree, rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Predictions of every head for these rows, `{head: {predictor: [n C]}}`. `model` is on the host."""
    model = jax.device_put(model, self._whole)
    batches = stream.eval_batches(rows=rows, size=self.recipe.batch_size, **self._batches)
    got = [jax.device_get(self._predict(model, batch["inputs"], batch["present"])) for batch in batches]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(rows)], *got)


def _partial(steps: int, terms: Tree) -> dict:
  """What has to be saved in the middle of an epoch besides the state, as plain JSON."""
  return {"steps": steps, "terms": jax.tree.map(float, jax.device_get(terms))}


def _wait(begun: collections.deque, token: jax.Array) -> bool:
  """Waits until the device is at most two batches behind, because queued batches use its memory.

  Returns:
    Whether the token of a batch that is finished is a number of 0 or more.
  """
  begun.append(token)
  return len(begun) > 2 and bool(jax.device_get(begun.popleft()) >= 0)


def _add(totals: Tree, terms: dict, batch: Tree) -> Tree:
  count, skipped = present_rows(batch), terms.get("skipped", jnp.zeros(()))
  count = count * (1.0 - skipped)
  value = lambda name: jnp.where(skipped > 0, 0.0, terms[name] * count)
  sums = {name: totals["sums"][name] + value(name) for name in terms}
  if "learning_rate" in terms:  # that of the last step
    sums["learning_rate"] = terms["learning_rate"]
  if "skipped" in terms:
    sums["skipped"] = totals["sums"]["skipped"] + skipped
  return {"sums": sums, "count": totals["count"] + count}


def _train(recipe, state, totals, batch):
  old = only(state)
  new, terms = train_step(recipe, old, batch)
  new = keep_where(old.stop.done, old, new)
  return stacked(new), _add(totals, terms, batch), new.faults.step


def _validate(recipe, state, totals, batch):
  terms = eval_step(recipe, only(state), batch)
  return _add(totals, terms, batch), terms["objective"]


def _average(recipe, state):
  old = only(state)
  return stacked(keep_where(old.stop.done, old, average_epoch(recipe, old)))


def _end(recipe, state, train, validation):
  mean = lambda totals: {
    name: value if name in ("learning_rate", "skipped") else value / totals["count"]
    for name, value in totals["sums"].items()
  }
  parts = {"train": train} | ({} if validation is None else {"validation": validation})
  terms, old = {part: mean(totals) for part, totals in parts.items()}, only(state)
  new = end_epoch(recipe, old, validation_objective(terms))
  return stacked(keep_where(old.stop.done, old, new)), stacked(terms)
