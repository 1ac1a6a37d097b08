"""Training on samples that fit in the device's memory: all of them are copied there once, as a table."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colearn_jax.data import statistics
from colearn_jax.data.moments import Moments
from colearn_jax.data.reader import Index, Table
from colearn_jax.data.splits import Run
from colearn_jax.nn import random
from colearn_jax.parallel import sharding
from colearn_jax.training import closed_form
from colearn_jax.training.epoch import batched, predict_rows, take, train_stack
from colearn_jax.training.samples import Epoch, Pause, SamplesOf
from colearn_jax.training.state import Recipe, TrainState, Tree
from colearn_jax.types import Modality


class OnDevice(SamplesOf):
  """Samples that are kept on every device.

  Args:
    recipe: the recipe of the runs.
    modalities: the sensors, and the context if there is one.
    table: all samples on the host, see `data.reader.read_table`.
    index: index of all samples.
    device_table: the table with its labels on the devices; None to copy it there.
    **options: see `SamplesOf`.

  Attributes:
    table: see above.
    device_table: see above.
  """

  def __init__(
    self,
    recipe: Recipe,
    modalities: Sequence[Modality],
    table: Table,
    index: Index,
    *,
    device_table: Tree | None = None,
    **options: Any,
  ):
    super().__init__(recipe, modalities, index, **options)
    self.table = table
    self.device_table = device_table or jax.device_put({**table, **self._labels}, self._whole)
    self._predict = jax.jit(functools.partial(predict_rows, recipe), out_shardings=self._whole)

  def _moments(self, rows: np.ndarray) -> dict[str, Moments]:
    return statistics.of_table(self.table, rows)

  def _inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    inputs, present = self.table["inputs"], self.table["present"]
    return {m: x[rows[present[m][rows] > 0] if m in present else rows] for m, x in inputs.items()}

  @property
  def _multiple(self) -> int:
    """Numbers of batches are padded to multiples of it, an eighth of those of the data set.

    Parts of about the same size then share one program, since compiling takes longer than an epoch of a small
    data set. Batches of padding are not computed.
    """
    return -(-len(self.index.labelled) // (8 * self.recipe.batch_size))

  def begin(self, runs: Sequence[Run], state: TrainState) -> TrainState:
    """See `SamplesOf`. One run after another, because features of all samples take much memory."""
    rows = _padded([batched(run.train, self.recipe.batch_size) for run in runs])
    if "begin" not in self._programs:
      program = functools.partial(closed_form.begin, self.recipe)
      self._programs["begin"] = jax.jit(program, out_shardings=self._whole)
      self._programs["join"] = jax.jit(_with_models, donate_argnums=0, out_shardings=self._placed)
    of_run = lambda k: self._programs["begin"](
      self.pick(state, k), self.device_table, jax.device_put(rows[k], self._whole)
    )
    return self._programs["join"](state, [of_run(k) for k in range(len(runs))])

  @contextlib.contextmanager
  def epochs(
    self, runs: Sequence[Run], state: TrainState, partial: dict | None = None, pause: Pause | None = None
  ) -> Iterator[Epoch]:
    """Yields a function that trains these runs for one epoch, which is one program: it has no pauses.

    Parts of runs that are trained one after another are padded, see `_multiple`.
    """
    del state, partial, pause
    size, split = self.recipe.batch_size, sharding.by_replica(self.recipe.mesh)
    multiple = self._multiple if len(runs) == 1 else 1
    parts = [
      [batched(getattr(run, part), size, multiple) for run in runs] for part in ("train", "validation")
    ]
    uneven = len(runs) == 1 or len({len(batches) for batches in parts[0]}) > 1

    if uneven not in self._programs:
      program = functools.partial(train_stack, self.recipe, uneven=uneven)
      outputs = self._placed, self._whole
      self._programs[uneven] = jax.jit(program, donate_argnums=0, out_shardings=outputs)
    rows = [jax.device_put(_padded(batches), split) for batches in parts]
    yield lambda state: self._programs[uneven](state, self.device_table, *rows)

  def compile(self, runs: Sequence[Run], **begin: Any) -> None:
    """Compiles the programs that train these runs: they run once as if the runs were finished.

    Args:
      runs: see `init`.
      **begin: see `init`.
    """
    state = self.init(runs, **begin)
    done = jax.device_put(np.ones(len(runs), bool), state.stop.done.sharding)
    state = dataclasses.replace(state, stop=dataclasses.replace(state.stop, done=done))
    with self.epochs(runs, state) as epoch:
      jax.block_until_ready(self.status(epoch(state)[0]))

  def batch(self, run: Run, state: TrainState) -> Tree:
    """See `SamplesOf`."""
    words = np.asarray(jax.random.key_data(random.stream(random.run_key(run.seed, run.fold), "order")))
    batches = batched(run.train, self.recipe.batch_size)
    epoch, at = divmod(int(state.step), len(batches))
    rows = random.epoch_rows(words, epoch, batches, self.recipe.blocks, np)[at]
    paired = self.recipe.method.paired
    return take(self.device_table, jax.device_put(rows, self._whole), one_sensor_each=not paired)

  def predict(self, model: Tree, rows: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Predictions of every head for these rows, `{head: {predictor: [n C]}}`. `model` is on the host."""
    batches = batched(rows, self.recipe.batch_size, self._multiple)
    placed = jax.device_put((model, batches), self._whole)
    got = jax.device_get(self._predict(placed[0], self.device_table, placed[1]))
    return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1])[: len(rows)], got)


def _padded(batches: Sequence[np.ndarray]) -> np.ndarray:
  """Batches of several runs `[S B]` in one array `[R S B]`, with batches of padding (-1) at the ends."""
  out = np.full((len(batches), max(map(len, batches)), batches[0].shape[1]), -1, np.int32)
  for row, rows in zip(out, batches):
    row[: len(rows)] = rows
  return out


def _with_models(state: TrainState, models: Sequence[tuple[Tree, Tree]]) -> TrainState:
  """A stack of states with `params` and `stats` of each run."""
  params, stats = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
  model = {"params": params, "stats": stats}
  best = dataclasses.replace(state.best, **model)
  return dataclasses.replace(state, **model, average=state.average and model, best=best)
