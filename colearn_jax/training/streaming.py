"""Training on samples that do not fit in the device's memory: batches are read from disk during training."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from colearn_jax.data import statistics, stream
from colearn_jax.data.dataset import Dataset
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
from colearn_jax.training.samples import Epoch, SamplesOf
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

  def _moments(self, rows: np.ndarray) -> dict[str, statistics.Moments]:
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
  def epochs(self, runs: Sequence[Run], state: TrainState) -> Iterator[Epoch]:
    """Yields a function that trains this one run for one epoch, starting at the epoch of `state`."""
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
    words = np.asarray(jax.random.key_data(random.stream(random.run_key(run.seed, run.fold), "order")))
    order = stream.Order(words, rows, self.recipe.blocks)
    iterator = iter(stream.train_batches(order=order, start=start * len(rows), **self._batches))
    validation: Iterable = ()
    if len(run.validation):
      validation = stream.eval_batches(rows=run.validation, size=self.recipe.batch_size, **self._batches)

    def epoch(state):
      done, checked = self.status(state)["done"], False
      trained, seen = None, None
      begun: collections.deque[jax.Array] = collections.deque()
      for batch in itertools.islice(iterator, len(rows)):
        # If the run was finished before this epoch, its steps change nothing, and reading stops here.
        if not checked and done.is_ready():
          checked = True
          if jax.device_get(done).all():
            return state, None
        trained = self._zeros(train_step, state, batch) if trained is None else trained
        state, trained, token = programs["train"](state, trained, batch)
        _wait(begun, token)
      state = programs["average"](state)
      for batch in validation:
        seen = self._zeros(eval_step, state, batch) if seen is None else seen
        seen, token = self._validate(state, seen, batch)
        _wait(begun, token)
      return programs["end"](state, trained, seen)

    try:
      yield epoch
    finally:
      iterator.close()

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


def _wait(begun: collections.deque, token: jax.Array) -> None:
  """Waits until the device is at most two batches behind, because queued batches use its memory."""
  begun.append(token)
  if len(begun) > 2:
    jax.block_until_ready(begun.popleft())


def _add(totals: Tree, terms: dict, batch: Tree) -> Tree:
  count = present_rows(batch)
  sums = {name: totals["sums"][name] + value * count for name, value in terms.items()}
  if "learning_rate" in terms:  # that of the last step
    sums["learning_rate"] = terms["learning_rate"]
  return {"sums": sums, "count": totals["count"] + count}


def _train(recipe, state, totals, batch):
  old = only(state)
  new, terms = train_step(recipe, old, batch)
  new = keep_where(old.stop.done, old, new)
  return stacked(new), _add(totals, terms, batch), terms["objective"]


def _validate(recipe, state, totals, batch):
  terms = eval_step(recipe, only(state), batch)
  return _add(totals, terms, batch), terms["objective"]


def _average(recipe, state):
  old = only(state)
  return stacked(keep_where(old.stop.done, old, average_epoch(recipe, old)))


def _end(recipe, state, train, validation):
  mean = lambda totals: {
    name: value if name == "learning_rate" else value / totals["count"]
    for name, value in totals["sums"].items()
  }
  parts = {"train": train} | ({} if validation is None else {"validation": validation})
  terms, old = {part: mean(totals) for part, totals in parts.items()}, only(state)
  new = end_epoch(recipe, old, validation_objective(terms))
  return stacked(keep_where(old.stop.done, old, new)), stacked(terms)
