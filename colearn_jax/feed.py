"""Where a training's batches come from: a table on the device, or a stream from the disk.

Both give the same train step the same kind of batch. On the device a whole epoch is one program; a stream is
a loop over batches that a background thread reads ahead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np

from colearn_jax import data, sharding, steps
from colearn_jax.protocols import Run
from colearn_jax.spec import Modality

Epoch = Callable[[steps.TrainState], tuple[steps.TrainState, dict]]


class Epochs(NamedTuple):
  """A run's epochs: `run(state)` does one; `iterator` is what has to be saved with the state, if anything."""

  run: Epoch
  iterator: grain.DatasetIterator | None


class _Feed:
  """What both feeds share: how a state begins."""

  def __init__(self, recipe: steps.Recipe, modalities: Sequence[Modality], index: data.Index):
    self.recipe, self.modalities, self._index = recipe, tuple(modalities), index
    self._labels = data.labels(index)
    self._whole = sharding.whole(recipe.mesh)
    self.init = jax.jit(functools.partial(steps.init, recipe), out_shardings=self._whole)

  def _constants(self, rows: np.ndarray, pieces, class_weights: str) -> dict:
    target = self._index.target[rows][self._index.labelled[rows]]
    constants = {
      "inputs": data.input_constants(self.modalities, pieces),
      "task": data.task_constants(self.recipe.task, target, class_weights),
    }
    return jax.device_put(constants, self._whole)


class OnDevice(_Feed):
  """All samples stand on every device; batches are picked there."""

  def __init__(
    self,
    recipe: steps.Recipe,
    modalities: Sequence[Modality],
    table: dict[str, dict[str, np.ndarray]],
    index: data.Index,
  ):
    super().__init__(recipe, modalities, index)
    self._inputs = table["inputs"]
    self._table = jax.device_put({**table, **self._labels}, self._whole)
    epoch = functools.partial(steps.train_epoch, recipe)
    self._epoch = jax.jit(epoch, donate_argnums=0, out_shardings=self._whole)
    self._predict = jax.jit(functools.partial(steps.predict_rows, recipe), out_shardings=self._whole)

  def constants(self, rows: np.ndarray, class_weights: str) -> dict:
    """What the training part `rows` decides: see `steps.TrainState`."""
    return self._constants(rows, [{m: x[rows] for m, x in self._inputs.items()}], class_weights)

  def epochs(self, run: Run) -> Epochs:
    """The epochs of a run."""
    train, validation = self._rows(run.train), self._rows(run.validation)
    return Epochs(lambda state: self._epoch(state, self._table, train, validation), None)

  def predict(self, model: dict, rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What each sensor predicts for these rows, see `steps.predict`; `model` as checkpoints hold it."""
    got = self._predict(model["params"], model["stats"], model["constants"], self._table, self._rows(rows))
    return jax.tree.map(lambda a: np.asarray(a).reshape(-1, a.shape[-1])[: len(rows)], got)

  def _rows(self, rows: np.ndarray) -> jax.Array:
    return jax.device_put(steps.batched(rows, self.recipe.batch_size), self._whole)


class Streamed(_Feed):
  """Samples are read from the disk as they are needed, every process its share."""

  def __init__(
    self, recipe: steps.Recipe, modalities: Sequence[Modality], reader: data.Reader, index: data.Index
  ):
    super().__init__(recipe, modalities, index)
    self._reader = reader
    self._by_example = sharding.by_example(recipe.mesh)
    jit = functools.partial(jax.jit, out_shardings=self._whole)
    self._train = jit(functools.partial(_train, recipe), donate_argnums=(0, 1))
    self._validate = jit(functools.partial(_validate, recipe), donate_argnums=1)
    self._end = jit(functools.partial(_end, recipe), donate_argnums=0)
    self._predict = jit(functools.partial(steps.predict, recipe))

  def constants(self, rows: np.ndarray, class_weights: str) -> dict:
    """What the training part `rows` decides: see `steps.TrainState`."""
    return self._constants(rows, data.chunks(self._reader, rows), class_weights)

  def epochs(self, run: Run) -> Epochs:
    """The epochs of a run, whose order of batches goes on from the iterator's state."""
    size = self.recipe.batch_size
    common = {"batch_size": size, "sharding": self._by_example}
    seed = run.seed * 1009 + run.fold
    batches = data.train_batches(self._reader, self._labels, run.train, seed=seed, **common)
    iterator = iter(batches)
    validation = data.eval_batches(self._reader, self._labels, run.validation, **common)
    return Epochs(functools.partial(self._run, iterator, -(-len(run.train) // size), validation), iterator)

  def _run(self, iterator, count: int, validation: grain.IterDataset, state: steps.TrainState):
    if state.stop.done:
      return state, None
    train = None
    for _ in range(count):
      batch = next(iterator)
      train = self._zeros(state, batch) if train is None else train
      state, train = self._train(state, train, batch)
    seen = self._zeros(state, batch)
    for batch in validation:
      seen = self._validate(state, seen, batch)
    return self._end(state, train, seen)

  def _zeros(self, state: steps.TrainState, batch: dict) -> dict:
    terms = jax.eval_shape(functools.partial(steps.eval_step, self.recipe), state, batch)
    return jax.device_put({"sums": dict.fromkeys(terms, np.float32(0)), "count": np.float32(0)}, self._whole)

  def predict(self, model: dict, rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What each sensor predicts for these rows, see `steps.predict`; `model` as checkpoints hold it."""
    batches = data.eval_batches(
      self._reader, self._labels, rows, batch_size=self.recipe.batch_size, sharding=self._by_example
    )
    model = model["params"], model["stats"], model["constants"]
    got = [jax.device_get(self._predict(*model, batch["inputs"], batch["present"])) for batch in batches]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(rows)], *got)


def _add(totals: dict, terms: dict, batch: dict) -> dict:
  count = steps.present_rows(batch)
  sums = {name: totals["sums"][name] + value * count for name, value in terms.items()}
  return {"sums": sums, "count": totals["count"] + count}


def _train(recipe, state, totals, batch):
  state, terms = steps.train_step(recipe, state, batch)
  return state, _add(totals, terms, batch)


def _validate(recipe, state, totals, batch):
  return _add(totals, steps.eval_step(recipe, state, batch), batch)


def _end(recipe, state, train, validation):
  mean = lambda totals: {name: value / totals["count"] for name, value in totals["sums"].items()}
  terms = {"train": mean(train), "validation": mean(validation)}
  return steps.end_epoch(recipe, state, terms["validation"]["objective"]), terms
