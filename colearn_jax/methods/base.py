"""The interface of a co-learning method: `Method`, and the types that its functions take and return.

A method builds a model, runs it on a batch, computes the loss, and predicts with one or several sensors.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from colearn_jax.methods.architecture import Architecture
from colearn_jax.nn import random
from colearn_jax.objectives.task import PLAIN, LossOptions, task_loss
from colearn_jax.types import Task

Predictions = dict[str, dict[str, jax.Array]]  # {head: {predictor: [B C]}}


@flax.struct.dataclass
class Batch:
  """A batch as the loss reads it, in addition to the outputs of the model.

  Attributes:
    inputs: by sensor, normalised `[B *shape]`, NaN = missing; with a context, pairs of these values and the
      context `[B K]`.
    present: by sensor `[B]`, 1.0 if the sample has the sensor, else 0.
    target: `[B K]` float, or `[B]` int for a task with one class per sample; 0 if there is no label.
    labelled: `[B]`, the weight of the sample's label: 1.0 without `loss.group_balance`; 0 if it has none.
    row: `[B]` int, the sample's row in the data set, -1 for padding.
    teachers: outputs of the methods in `Method.requires`, by name, without gradient.
    weight: `[B]`, the weight of the sample where it learns from a teacher.
  """

  inputs: dict[str, Any]
  present: dict[str, jax.Array]
  target: jax.Array
  labelled: jax.Array
  row: jax.Array
  teachers: dict[str, Any] = flax.struct.field(default_factory=dict)
  weight: jax.Array | float = 1.0


@flax.struct.dataclass
class Values:
  """Further inputs of the loss. They may differ between runs, but do not depend on the batch.

  Attributes:
    constants: constants of the task's loss, from the training part, see `objectives.task.task_loss`.
    weights: weight of each loss term that is nonzero in any run.
    arrays: the result of `Method.arrays`, leaves `[N ...]` by row of the data set.
    progress: fraction of `train.max_epochs` that is completed, 0 to 1, for schedules.
    task: the task to predict.
    mesh: the mesh of devices that share a batch.
    options: of the task's loss.
  """

  constants: dict[str, jax.Array]
  weights: dict[str, jax.Array]
  arrays: dict[str, jax.Array]
  progress: jax.Array
  task: Task = flax.struct.field(pytree_node=False)
  mesh: Mesh | None = flax.struct.field(pytree_node=False, default=None)
  options: LossOptions = flax.struct.field(pytree_node=False, default=PLAIN)

  def task_loss(self, output: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """The task's loss ℓ of a head's output, averaged over the rows with `mask` `[B]` = 1.

    Args:
      output: `[B C]`, or `[B K C]` for K members, of which each has its own loss (Gorishniy et al. 2025).
      target: see `Batch`.
      mask: `[B]`.
    """
    chex.assert_shape(output, (len(target), ..., len(self.task.outputs)))
    loss = lambda output: task_loss(self.task.kind, output, target, self.constants, mask, self.options)
    return over_members(loss, output)


@dataclasses.dataclass(frozen=True)
class Samples:
  """All samples of the data set on the host, for `Method.arrays`.

  Attributes:
    inputs: by sensor `[N *shape]`, raw, NaN = missing.
    present: by sensor `[N]`.
    target: `[N K]`, or `[N]` for a task with one class per sample.
    labelled: `[N]` bool.
    task: task of the data set.
    folds: cuts rows into folds: of rows, their number and a seed it makes for each fold the rows that a
      learner may be fitted on, and the rows that are held out. It keeps the rules that keep the parts of runs
      apart.
    balanced: whether classes are weighted inversely to their frequency.
  """

  inputs: Mapping[str, np.ndarray]
  present: Mapping[str, np.ndarray]
  target: np.ndarray
  labelled: np.ndarray
  task: Task
  folds: Callable[[np.ndarray, int, int], Sequence[tuple[np.ndarray, np.ndarray]]] | None = None
  balanced: bool = False


@dataclasses.dataclass(frozen=True)
class Reads:
  """What `Method.arrays` reads of all samples, in addition to their targets.

  Attributes:
    sensors: modalities of the data set; () for the sensors of the model.
    context: names as in `data.context`, in addition to those of the model's context.
  """

  sensors: tuple[str, ...] = ()
  context: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Method:
  """A co-learning method, as a frozen dataclass of hyper-parameters, which are made with `rules.setting`.

  A subclass has a field for the weight of each loss term. It overrides `build`, `forward`, `loss` and
  `predict`, and other parts if their defaults do not fit. `methods/individual.py` is the shortest example.
  """

  terms: ClassVar[tuple[str, ...]] = ("main",)  # loss terms: names of the fields with their weights
  requires: ClassVar[tuple[str, ...]] = ()  # methods that are trained first, in the same runs
  # For `train.ridge`: whether outputs are those of `model.heads` by sensor, and the loss is a sum over rows
  # of the task's loss and distances from teachers, which `closed_form.solve` bounds.
  closed_form: ClassVar[bool] = False
  allows_members: ClassVar[bool] = False  # whether `Architecture.members` may be above 1

  @property
  def paired(self) -> bool:
    """Whether the sensors of a training batch have the same samples.

    If not, a batch has M·B rows: B samples for each of the M sensors.
    """
    return True

  @property
  def uses_unlabelled(self) -> bool:
    """Whether samples without a label contribute to the loss."""
    return False

  @property
  def reads(self) -> Reads | None:
    """What `arrays` reads of all samples; None if the method has no arrays."""
    return None

  def head_inputs(
    self, model: nnx.Module, inputs: Mapping[str, jax.Array], present: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """What the head of each sensor reads, `[B D]`, as in prediction. Needed with `closed_form`."""
    raise NotImplementedError

  def predictors(self, sensors: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The predictors by name, each with the sensors that it needs. Default: one per sensor."""
    return {sensor: (sensor,) for sensor in sensors}

  def build(self, architecture: Architecture, *, only: str | None = None, rngs: nnx.Rngs) -> nnx.Module:
    """Builds the model.

    Args:
      architecture: the architecture, with all sensors.
      only: name of a predictor. If given, only the modules that it needs are built. Their variables have the
        same paths as in the whole model.
      rngs: random numbers, with the stream `params`.
    """
    raise NotImplementedError

  def forward(
    self,
    model: nnx.Module,
    inputs: Mapping[str, Any],
    present: Mapping[str, jax.Array] | None = None,
    *,
    train: bool = False,
    progress: jax.Array | float = 0.0,
    rngs: nnx.Rngs | None = None,
  ) -> Any:
    """Runs the model. Returns all that the loss and the predictions need, as a tree of arrays `[B ...]`.

    With K members, features and outputs are `[B K ...]`.

    Args:
      model: the model that `build` returned.
      inputs: see `Batch`. Sensors that are not in it are left out of the computation.
      present: `[B]` for each sensor in `inputs`. Default: all samples are present.
      train: whether to use training mode for BatchNorm and dropout.
      progress: see `Values`.
      rngs: random numbers for training, with the streams `dropout`, `sensors` and `method`.
    """
    raise NotImplementedError

  def loss(self, outputs: Any, batch: Batch, values: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the objective of a whole batch. Returns it, and scalar terms by name for the log.

    Names are `<term>/<sensor>` (unweighted), `total/<term>` (weighted) and `objective` (the loss).
    """
    raise NotImplementedError

  def predict(self, outputs: Any) -> Predictions:
    """The output of each head for each predictor, before `methods.predict.activate`.

    It is `[B C]`, or `[B K C]` with K members. There is always a head named `prediction`.
    Predictors with a sensor that was not in the inputs are left
    out.
    """
    raise NotImplementedError

  def arrays(self, train: np.ndarray, samples: Samples, seed: int) -> dict[str, np.ndarray]:
    """Computes arrays `[N ...]` by row for the loss (`Values.arrays`), once before a run is trained.

    An example are the predictions of a tree ensemble as a teacher. Only rows in `train` may be used to fit
    it. It is called if `reads` is not None.

    Args:
      train: rows of the run's training part.
      samples: all samples, with the inputs that `reads` names. They must fit in memory.
      seed: random seed of the run's seed and fold.
    """
    del train, samples, seed
    return {}


@dataclasses.dataclass(frozen=True)
class Network:
  """A method with the architecture of its model."""

  method: Method
  architecture: Architecture

  @functools.cached_property
  def graphdef(self) -> nnx.GraphDef:
    """The structure of the model, without arrays."""
    return nnx.graphdef(nnx.eval_shape(lambda: self.method.build(self.architecture, rngs=random.keys())))

  def model(self, params: dict, stats: dict) -> nnx.Module:
    """The model with these parameters and batch statistics."""
    return nnx.merge(self.graphdef, params, stats)


def over_members(loss: Callable[..., jax.Array], *features: jax.Array) -> jax.Array:
  """A loss of features or outputs `[B D]`; of those of K members, `[B K D]`, the mean of their losses."""
  if features[0].ndim == 2:
    return loss(*features)
  return jax.vmap(loss, in_axes=1)(*features).mean()


def mean_over_sensors(parts: Mapping[str, jax.Array], rows: Mapping[str, jax.Array]) -> jax.Array:
  """Averages a loss over the sensors that have at least one of `rows` `[B]` in the batch; 0 if none has."""
  seen = {m: (rows[m].sum() > 0).astype(jnp.float32) for m in parts}
  return sum(seen[m] * parts[m] for m in parts) / jnp.maximum(sum(seen.values()), 1.0)


def summed(
  parts: Mapping[str, Mapping[str, jax.Array]], totals: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The result of `Method.loss`, from the unweighted parts of each term and the weighted terms."""
  loss = functools.reduce(operator.add, totals.values())
  terms = {f"{term}/{name}": value for term, part in parts.items() for name, value in part.items()}
  terms |= {f"total/{term}": value for term, value in totals.items()}
  return loss, terms | {"objective": loss}
