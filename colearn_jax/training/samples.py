"""The common part of `OnDevice` and `Streamed`: the initial state of a stack of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from colearn_jax.data import statistics
from colearn_jax.data.labels import check as check_labels
from colearn_jax.data.moments import Moments
from colearn_jax.data.reader import Index, labels
from colearn_jax.data.splits import Run
from colearn_jax.nn import random
from colearn_jax.parallel import sharding
from colearn_jax.training.state import Recipe, TrainState, Tree, init
from colearn_jax.types import InputError, Modality

Epoch = Callable[[TrainState], tuple[TrainState, dict]]
Pause = Callable[[TrainState, Callable[[], dict]], None]
Weights = Callable[[Run], Mapping[str, float]]
Arrays = Callable[[Run], Mapping[str, np.ndarray]]


class SamplesOf:
  """The samples of a data set for the runs of one recipe.

  Args:
    recipe: the recipe of the runs.
    modalities: the sensors, and the context if there is one.
    index: index of all samples.
    class_weights: see `statistics.task_constants`.
    weights: returns the loss weights of a run.
    arrays: returns the arrays of a run, see `Method.arrays`.
    balance: returns the weight of each sample in a run, `[N]`; None for no weights.
    groups: returns the group of each sample in a run, see `grouping.codes`; None if no group has an effect.
    normalisation: normalisation of the inputs.
  """

  def __init__(
    self,
    recipe: Recipe,
    modalities: Sequence[Modality],
    index: Index,
    *,
    class_weights: str,
    weights: Weights,
    arrays: Arrays,
    balance: Callable[[Run], np.ndarray] | None = None,
    groups: Callable[[Run], np.ndarray] | None = None,
    normalisation: statistics.Normalisation,
  ):
    self.recipe, self.modalities, self.index = recipe, tuple(modalities), index
    self._labels, self._class_weights = labels(index), class_weights
    self._weights, self._arrays, self._normalisation = weights, arrays, normalisation
    self._balance, self._groups = balance, groups
    self._whole = sharding.whole(recipe.mesh)
    self._init: Callable | None = None
    self._placed: Any = None  # placement of a stack of states on the devices
    self._programs: dict[Any, Callable] = {}
    self._known: dict[tuple[int, int], dict[str, Moments]] = {}
    pick = lambda stack, at: jax.tree.map(lambda leaf: leaf[at], stack)
    self.pick = jax.jit(pick, out_shardings=self._whole)  # takes one run out of a stack
    status = lambda state: {
      "done": state.stop.done,
      "fault": state.faults.step,
      "epoch": state.epoch,
      "best_epoch": state.best.epoch,
      "best_objective": state.best.objective,
    }
    self.status = jax.jit(status, out_shardings=self._whole)  # copied, because an epoch donates the state

  def init(
    self, runs: Sequence[Run], *, frozen: Sequence[Tree] | None = None, pretrained: Tree | None = None
  ) -> TrainState:
    """Makes the states of these runs before their first step. They do not depend on each other.

    Args:
      runs: the runs of the stack.
      frozen: for each run the arrays of its teachers, see `TrainState`.
      pretrained: see `state.init`. The same for all runs.
    """

    def begin(seed, fold, values, frozen, pretrained):
      key = random.run_key(seed, fold)
      return init(self.recipe, key, values, frozen=frozen, pretrained=pretrained)

    one = jax.jit(jax.vmap(begin, in_axes=(0, 0, 0, 0, None)))  # so that it is traced once
    stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    arguments = (
      np.array([run.seed for run in runs], np.uint32),
      np.array([run.fold for run in runs], np.uint32),
      stack([self._values(run) for run in runs]),
      stack(frozen) if frozen else {},
      pretrained or {},
    )
    if self._init is None:  # compiled once and reused for all stacks
      self._placed = sharding.of_stack(self.recipe.mesh, jax.eval_shape(one, *arguments))
      self._init = jax.jit(one, out_shardings=self._placed)
    return self._init(*jax.device_put(arguments, self._whole))

  def begin(self, runs: Sequence[Run], state: TrainState) -> TrainState:
    """Computes before the first step of these runs what needs all training samples, see `closed_form`."""
    raise NotImplementedError

  def batch(self, run: Run, state: TrainState) -> Tree:
    """The batch of a run's next step, on the devices. `state` is that of the run alone."""
    raise NotImplementedError

  def number(self, runs: Sequence[Run], epoch: int, partial: Mapping | None) -> int:
    """The number of a checkpoint of these runs, which grows with their steps; see `epochs`."""
    del runs, partial
    return epoch

  def check_source(self) -> None:
    """Checks that no other samples were read than those of `index`.

    Raises:
      InputError: the prepared data set was changed while it was read.
    """

  def check(self, runs: Sequence[Run], arrays: bool = True) -> None:
    """Checks that each sensor and band has a value in the training parts, and makes the arrays of all runs.

    Fixed constants of normalisation need no values, so no values are read and checked. The labels are checked
    too, see `data.labels`.

    Raises:
      InputError: one has none, a label is wrong, or there are no arrays, see `Method.arrays`; the message
        names the run.
    """
    for run in runs:
      check_labels(self.recipe.network.architecture.task, self.index, run)
    for run in runs if self._normalisation.how != "fixed" else ():
      found = self._found(run)
      for m in self.modalities:
        try:
          self._normalisation.constants(m, found[m.name])
        except InputError as error:
          absent = not found[m.name].count.any()
          line = f"no sample of the training part has modality {m.name}" if absent else str(error)
          raise InputError(
            f"{run.name}: {line}; leave it out, or cut other parts: protocol.folds, protocol.group_by, "
            "protocol.seeds, or the data set's own splits"
          ) from None
    for run in runs if arrays else ():
      self._arrays(run)

  def _found(self, run: Run) -> dict[str, Moments]:
    """The moments of a run's training part, which its ablations share."""
    if (key := (run.seed, run.fold)) not in self._known:
      self._known[key] = self._moments(run.train)
    return self._known[key]

  def _values(self, run: Run) -> Tree:
    """The arrays of a run, see `TrainState.values`."""
    labelled = run.train[self.index.labelled[run.train]]
    task = self.recipe.network.architecture.task
    normalisation = self._normalisation
    found = {} if normalisation.how == "fixed" else self._found(run)
    values = self._inputs(statistics.sampled_rows(run.train)) if normalisation.sampled else {}
    return {
      "inputs": {
        m.name: normalisation.constants(m, found.get(m.name), values.get(m.name)) for m in self.modalities
      },
      "task": statistics.task_constants(task, self.index.target[labelled], self._class_weights),
      "weights": {term: np.float32(weight) for term, weight in self._weights(run).items()},
      "arrays": dict(self._arrays(run)),
      **({} if self._balance is None else {"balance": self._balance(run)}),
      **({} if self._groups is None else {"groups": self._groups(run)}),
      "steps_per_epoch": np.float32(-(-len(run.train) // self.recipe.batch_size)),
    }

  def _moments(self, rows: np.ndarray) -> dict[str, Moments]:
    raise NotImplementedError

  def _inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The raw inputs of those of these rows that have the modality, `[n ... C]` by modality."""
    raise NotImplementedError
