"""Where a training's batches come from: a table on the device, or a stream from the disk.

Both train a stack of runs: states have leaves `[R ...]`. On the device a whole epoch of all of them is one
program; a stream, of one run, is a loop over batches that a background thread reads ahead.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from colearn_jax.data import dataset as data
from colearn_jax.data import statistics, stream
from colearn_jax.data.splits import Run
from colearn_jax.parallel import sharding
from colearn_jax.training import steps
from colearn_jax.types import InputError, Modality

Epoch = Callable[[steps.TrainState], tuple[steps.TrainState, dict]]
Weights = Callable[[Run], Mapping[str, float]]


class _Feed:
  """What both feeds share: how the states of a stack begin.

  Args:
    recipe: of the trainings.
    modalities: of the samples.
    index: of all samples.
    class_weights: see `statistics.task_constants`.
    weights: of each run's terms of the objective.
    normalisation: of the inputs.
  """

  def __init__(
    self,
    recipe: steps.Recipe,
    modalities: Sequence[Modality],
    index: data.Index,
    *,
    class_weights: str,
    weights: Weights,
    normalisation: statistics.Normalisation,
  ):
    self.recipe, self.modalities, self._index = recipe, tuple(modalities), index
    self._labels, self._class_weights, self._weights = data.labels(index), class_weights, weights
    self._normalisation = normalisation
    self._whole = sharding.whole(recipe.mesh)
    self._init, self._placed, self._programs = None, None, {}
    first = lambda stack, at: jax.tree.map(lambda leaf: leaf[at], stack)
    self.pick = jax.jit(first, out_shardings=self._whole)  # one of a stack, on every device
    watched = lambda state: {
      "done": state.stop.done,
      "epoch": state.epoch,
      "best_epoch": state.best.epoch,
      "best_objective": state.best.objective,
    }
    self.watch = jax.jit(watched, out_shardings=self._whole)  # copies, for an epoch takes the state's own

  def init(self, runs: Sequence[Run], pretrained: dict) -> steps.TrainState:
    """The states of these runs before their first step, each as if it were alone; see `steps.init`."""
    constants = [self._constants(run) for run in runs]
    seeds = np.array([run.seed for run in runs], np.uint32), np.array([run.fold for run in runs], np.uint32)

    def init(seed, fold, constants, pretrained):
      key = jax.random.fold_in(jax.random.key(seed), fold)
      return steps.init(self.recipe, key, constants, pretrained)

    stack = jax.vmap(init, in_axes=(0, 0, 0, None))
    arguments = *seeds, jax.tree.map(lambda *values: np.stack(values), *constants), pretrained
    if self._init is None:  # with all of this training's programs, made once for however many stacks
      shapes = jax.eval_shape(stack, *arguments)
      self._placed = sharding.of_stack(self.recipe.mesh, shapes)
      self._init = jax.jit(stack, out_shardings=self._placed)
    return self._init(*arguments)

  def _constants(self, run: Run) -> dict:
    """What a run decides, see `steps.TrainState`."""
    labelled = run.train[self._index.labelled[run.train]]
    found = {} if self._normalisation.how == "fixed" else self._moments(run.train)
    return {
      "inputs": {m.name: self._normalisation.constants(m, found.get(m.name)) for m in self.modalities},
      "task": statistics.task_constants(self.recipe.task, self._index.target[labelled], self._class_weights),
      "weights": {term: np.float32(weight) for term, weight in self._weights(run).items()},
    }

  def _moments(self, rows: np.ndarray) -> dict[str, statistics.Moments]:
    raise NotImplementedError


class OnDevice(_Feed):
  """All samples stand on every device; batches are picked there."""

  def __init__(
    self,
    recipe: steps.Recipe,
    modalities: Sequence[Modality],
    table: data.Table,
    index: data.Index,
    **options,
  ):
    super().__init__(recipe, modalities, index, **options)
    self._host = table
    self._table = jax.device_put({**table, **self._labels}, self._whole)
    self._predict = jax.jit(functools.partial(steps.predict_rows, recipe), out_shardings=self._whole)

  def _moments(self, rows: np.ndarray) -> dict[str, statistics.Moments]:
    return statistics.of_table(self._host, rows)

  @contextlib.contextmanager
  def epochs(self, runs: Sequence[Run], state: steps.TrainState) -> Iterator[Epoch]:
    """A function that does one epoch of these runs, whose state this is."""
    size, split = self.recipe.batch_size, sharding.by_replica(self.recipe.mesh)
    parts = [[steps.batched(getattr(run, part), size) for run in runs] for part in ("train", "validation")]
    counts = {len(batches) for batches in parts[0]}

    def stacked(batches):
      out = np.full((len(batches), max(map(len, batches)), size), -1, np.int32)
      for row, rows in zip(out, batches):
        row[: len(rows)] = rows
      return jax.device_put(out, split)

    uneven = len(counts) > 1
    if uneven not in self._programs:
      program = functools.partial(steps.train_stack, self.recipe, uneven=uneven)
      outputs = self._placed, self._whole
      self._programs[uneven] = jax.jit(program, donate_argnums=0, out_shardings=outputs)
    rows = [stacked(batches) for batches in parts]
    yield lambda state: self._programs[uneven](state, self._table, *rows)

  def predict(self, model: dict, rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What each sensor predicts for these rows, see `steps.predict`; `model` as checkpoints hold it."""
    placed = jax.device_put(steps.batched(rows, self.recipe.batch_size), self._whole)
    got = self._predict(model["params"], model["stats"], model["constants"], self._table, placed)
    return jax.tree.map(lambda a: np.asarray(a).reshape(-1, a.shape[-1])[: len(rows)], got)


class Streamed(_Feed):
  """Samples are read from the disk as they are needed, every process its share."""

  def __init__(
    self,
    recipe: steps.Recipe,
    modalities: Sequence[Modality],
    dataset: data.Dataset,
    index: data.Index,
    *,
    workers: int = 0,
    **options,
  ):
    super().__init__(recipe, modalities, index, **options)
    if recipe.mesh.shape["replica"] > 1:
      raise InputError("mesh.replica: a stream trains one run at a time; 1, or data.placement=device")
    self._dataset, self._terms = dataset, None
    self._batches = {
      "reader": data.make_reader(dataset, modalities),
      "labels": self._labels,
      "batch_size": recipe.batch_size,
      "sharding": sharding.by_example(recipe.mesh),
      "workers": workers,
    }
    jit = functools.partial(jax.jit, out_shardings=self._whole)
    self._validate = jit(functools.partial(_validate, recipe), donate_argnums=1)
    self._predict = jit(functools.partial(steps.predict, recipe))

  def _moments(self, rows: np.ndarray) -> dict[str, statistics.Moments]:
    return statistics.of_dataset(self._dataset, self.modalities, rows)

  @contextlib.contextmanager
  def epochs(self, runs: Sequence[Run], state: steps.TrainState) -> Iterator[Epoch]:
    """A function that does one epoch of this one run, whose batches go on where its state is."""
    (run,) = runs
    count = -(-len(run.train) // self.recipe.batch_size)
    if not self._programs:
      jit = lambda program, donated, *outputs: jax.jit(
        functools.partial(program, self.recipe), donate_argnums=donated, out_shardings=outputs
      )
      self._programs["train"] = jit(_train, (0, 1), self._placed, self._whole, self._whole)
      self._programs["end"] = jit(_end, 0, self._placed, self._whole)
    train, end = self._programs["train"], self._programs["end"]
    seed, start = run.seed * 1009 + run.fold, int(state.step[0])
    iterator = iter(stream.train_batches(rows=run.train, seed=seed, start=start, **self._batches))
    validation = stream.eval_batches(rows=run.validation, **self._batches)

    def epoch(state):
      if state.stop.done.all():
        return state, None
      trained, seen, begun = None, None, collections.deque()
      for batch in itertools.islice(iterator, count):
        trained = self._zeros(state, batch) if trained is None else trained
        state, trained, token = train(state, trained, batch)
        _wait(begun, token)
      for batch in validation:
        seen = self._zeros(state, batch) if seen is None else seen
        seen, token = self._validate(state, seen, batch)
        _wait(begun, token)
      return end(state, trained, seen)

    try:
      yield epoch
    finally:
      iterator.close()

  def _zeros(self, state: steps.TrainState, batch: dict) -> dict:
    if self._terms is None:  # told by the first batch
      terms = jax.eval_shape(lambda state: steps.eval_step(self.recipe, _only(state), batch), state)
      self._terms = tuple(terms)
    zeros = {"sums": dict.fromkeys(self._terms, np.float32(0)), "count": np.float32(0)}
    return jax.device_put(zeros, self._whole)

  def predict(self, model: dict, rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What each sensor predicts for these rows, see `steps.predict`; `model` as checkpoints hold it."""
    model = model["params"], model["stats"], model["constants"]
    batches = stream.eval_batches(rows=rows, **self._batches)
    got = [jax.device_get(self._predict(*model, batch["inputs"], batch["present"])) for batch in batches]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(rows)], *got)


def _wait(begun: collections.deque, token: jax.Array) -> None:
  """Lets the device be two batches behind and no more: those that wait for it take its memory."""
  begun.append(token)
  if len(begun) > 2:
    jax.block_until_ready(begun.popleft())


def _only(stack):
  """The one training of a stack of one."""
  return jax.tree.map(lambda leaf: leaf[0], stack)


def _stack(one):
  return jax.tree.map(lambda leaf: leaf[None], one)


def _add(totals: dict, terms: dict, batch: dict) -> dict:
  count = steps.present_rows(batch)
  sums = {name: totals["sums"][name] + value * count for name, value in terms.items()}
  return {"sums": sums, "count": totals["count"] + count}


def _train(recipe, state, totals, batch):
  state, terms = steps.train_step(recipe, _only(state), batch)
  return _stack(state), _add(totals, terms, batch), terms["objective"]


def _validate(recipe, state, totals, batch):
  terms = steps.eval_step(recipe, _only(state), batch)
  return _add(totals, terms, batch), terms["objective"]


def _end(recipe, state, train, validation):
  mean = lambda totals: {name: value / totals["count"] for name, value in totals["sums"].items()}
  terms = {"train": mean(train), "validation": mean(validation)}
  state = steps.end_epoch(recipe, _only(state), terms["validation"]["objective"])
  return _stack(state), _stack(terms)
