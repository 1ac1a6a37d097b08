"""What a method is: how its model is built and run, its loss, and what it predicts with which sensors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from colearn_jax.methods.architecture import Architecture
from colearn_jax.objectives.task import task_loss
from colearn_jax.types import Task

Predictions = dict[str, dict[str, jax.Array]]  # {head: {predictor: [B C]}}


@flax.struct.dataclass
class Batch:
  """What a loss may look at beside the model's outputs.

  Attributes:
    inputs: by sensor, normalised `[B *shape]`, NaN where a value is missing; with a context the pair of that
      and the context `[B K]`.
    present: by sensor `[B]`, 1.0 where the sample has it.
    target: `[B K]` float, or `[B]` int for a task with one class a sample; 0 where there is no label.
    labelled: `[B]`, 1.0 where the sample has a label.
    row: `[B]` int, the sample's row in the data set, -1 for padding.
    teachers: by name the outputs of the methods in `Method.requires`, without gradient.
  """

  inputs: dict[str, Any]
  present: dict[str, jax.Array]
  target: jax.Array
  labelled: jax.Array
  row: jax.Array
  teachers: dict[str, Any] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Values:
  """What a loss depends on beside a batch: arrays that may differ between runs.

  Attributes:
    constants: of the task's loss, from the training part, see `objectives.task.task_loss`.
    weights: of each loss term that counts in any run.
    arrays: what `Method.arrays` returned, leaves `[N ...]` by row of the data set.
    progress: share of `train.max_epochs` that is over, 0 to 1, for schedules.
    task: what is predicted.
    mesh: of the devices that share a batch.
  """

  constants: dict[str, jax.Array]
  weights: dict[str, jax.Array]
  arrays: dict[str, jax.Array]
  progress: jax.Array
  task: Task = flax.struct.field(pytree_node=False)
  mesh: Mesh | None = flax.struct.field(pytree_node=False, default=None)

  def task_loss(self, output: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """ℓ of a head's output `[B C]` over the rows of `mask` `[B]`."""
    chex.assert_shape(output, (len(target), len(self.task.outputs)))
    return task_loss(self.task.kind, output, target, self.constants, mask)


@dataclasses.dataclass(frozen=True)
class Samples:
  """What `Method.arrays` may look at: all samples of the data set on the host.

  Attributes:
    inputs: by sensor `[N *shape]`, raw, NaN where a value is missing.
    present: by sensor `[N]`.
    target: `[N K]`, or `[N]` for a task with one class a sample.
    labelled: `[N]` bool.
    groups: `[N]` or None, the groups that folds keep together.
    task: of the data set.
  """

  inputs: Mapping[str, np.ndarray]
  present: Mapping[str, np.ndarray]
  target: np.ndarray
  labelled: np.ndarray
  groups: np.ndarray | None
  task: Task


@dataclasses.dataclass(frozen=True)
class Method:
  """A co-learning method: a frozen set of hyper-parameters, made with `rules.setting`.

  A subclass has a field for the weight of each of its loss terms, and overrides `build`, `forward`, `loss`
  and `predict`; the others where the defaults do not fit. `methods/individual.py` is the shortest example.
  """

  terms: ClassVar[tuple[str, ...]] = ("main",)  # loss terms, each the name of a weight among the fields
  requires: ClassVar[tuple[str, ...]] = ()  # methods that are trained first, on the same runs
  paired: ClassVar[bool] = True  # False: a batch has M·B rows, of other samples for each of the M sensors

  @property
  def uses_unlabelled(self) -> bool:
    """Whether samples without a label contribute to the loss."""
    return False

  def predictors(self, sensors: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What predicts, by name, with the sensors that it needs; by default each sensor alone."""
    return {sensor: (sensor,) for sensor in sensors}

  def build(self, architecture: Architecture, *, only: str | None = None, rngs: nnx.Rngs) -> nnx.Module:
    """The model.

    Args:
      architecture: of all sensors.
      only: the name of a predictor: builds what it needs to predict and nothing else. The variables of this
        smaller model have the paths that they have in the whole model.
      rngs: gives the stream `params`.
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
    """Everything that the loss and the predictions need, as a tree of arrays `[B ...]`.

    Args:
      model: that `build` returned, in the order of its sensors.
      inputs: see `Batch`, for any of the sensors; nothing is computed of the others.
      present: `[B]` for each of them; all by default.
      train: whether batch statistics and dropout are those of training.
      progress: see `Values`.
      rngs: gives the streams `dropout`, `sensors` and `method` in training.
    """
    raise NotImplementedError

  def loss(self, outputs: Any, batch: Batch, values: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The objective of a whole batch and its terms by name, scalars.

    Names are `<term>/<sensor>` unweighted, `total/<term>` weighted, and `objective`, which is the loss.
    """
    raise NotImplementedError

  def predict(self, outputs: Any) -> Predictions:
    """What each head returns for each predictor, `[B C]` before `methods.predict.activate`.

    The head `prediction` is always there. Only predictors whose sensors were all in the inputs appear.
    """
    raise NotImplementedError

  def arrays(self, train: np.ndarray, samples: Samples, seed: int) -> dict[str, np.ndarray]:
    """Arrays `[N ...]` by row that the loss takes from `Values.arrays`, made once before a run is trained.

    Such as predictions of a teacher that is no neural network. Nothing may come from rows outside of `train`.

    Args:
      train: the rows of the run's training part.
      samples: all samples; only called where they fit into memory.
      seed: of the run.
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
    """The model without its arrays."""
    return nnx.graphdef(nnx.eval_shape(lambda: self.method.build(self.architecture, rngs=nnx.Rngs(0))))

  def model(self, params: dict, stats: dict) -> nnx.Module:
    """The model with these arrays."""
    return nnx.merge(self.graphdef, params, stats)


def mean_over_sensors(parts: Mapping[str, jax.Array], rows: Mapping[str, jax.Array]) -> jax.Array:
  """The mean of one loss a sensor over the sensors that have any row `[B]` in the batch; 0 if none has."""
  seen = {m: (rows[m].sum() > 0).astype(jnp.float32) for m in parts}
  return sum(seen[m] * parts[m] for m in parts) / jnp.maximum(sum(seen.values()), 1.0)


def summed(
  parts: Mapping[str, Mapping[str, jax.Array]], totals: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """What `Method.loss` returns, of each term's parts (unweighted) and of the weighted terms."""
  loss = sum(totals.values())
  terms = {f"{term}/{name}": value for term, part in parts.items() for name, value in part.items()}
  terms |= {f"total/{term}": value for term, value in totals.items()}
  return loss, terms | {"objective": loss}
