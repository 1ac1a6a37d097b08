"""The fixed settings of a training (`Recipe`), and the state that changes at every step (`TrainState`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from colearn_jax.data.augment import Augment
from colearn_jax.methods.base import Method, Network
from colearn_jax.nn import random
from colearn_jax.objectives.task import PLAIN, LossOptions
from colearn_jax.training.optimizer import Average, Optimizer

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The settings of a training that are compiled into its programs.

  Attributes:
    network: the network to train.
    teachers: trained networks by name. The loss of the method reads their outputs.
    optimizer: see `optimizer.make_optimizer`.
    average: the weight average, if any. It is validated, kept and used for prediction.
    augment: augmentation of the inputs in train steps, if any.
    mixup: α of mixup in train steps, see `mixup.mix`; 0 for none.
    loss: options of the task's loss.
    batch_size: B, number of samples in the global batch.
    microbatches: number of parts of a batch that are computed one after another.
    max_epochs: largest number of epochs.
    patience: number of epochs without an improvement by `min_delta` after which training stops; 0 for never.
    min_delta: smallest improvement, in the unit of the validation objective.
    keep_last: whether to keep the model of the last epoch instead of the best epoch.
    mesh: the mesh of devices, see `parallel.sharding`.
    ridge: of heads that begin in closed form, see `closed_form.solve`; 0 for random heads.
    group_effect: variance of the random intercepts of `values["groups"]` there, in units of the noise.
    nonfinite: what a step does whose loss or gradients are not finite. `skip`: it is left out; `stop`:
      nothing is changed from that step on, and `faults` tells where it was; `epoch`: steps are not looked at.
    project_conflicts: whether gradients of loss terms are combined as in `conflicts.projected_sum`.
  """

  network: Network
  optimizer: Optimizer
  batch_size: int
  max_epochs: int
  mesh: Mesh
  teachers: Mapping[str, Network] = dataclasses.field(default_factory=dict)
  average: Average | None = None
  augment: Augment | None = None
  mixup: float = 0.0
  loss: LossOptions = PLAIN
  microbatches: int = 1
  patience: int = 5
  min_delta: float = 0.0
  keep_last: bool = False
  ridge: float = 0.0
  group_effect: float = 0.0
  nonfinite: str = "epoch"
  project_conflicts: bool = False

  @property
  def method(self) -> Method:
    """The method that is trained."""
    return self.network.method

  @property
  def blocks(self) -> int:
    """Number of equal blocks of a training batch: 1, or the number of sensors if the method is not paired."""
    return 1 if self.method.paired else len(self.network.architecture.shapes)


@flax.struct.dataclass
class Stop:
  """State of early stopping: the objective to improve by min_delta, and epochs since the last improvement."""

  reference: jax.Array
  wait: jax.Array
  done: jax.Array


@flax.struct.dataclass
class Best:
  """The kept model, from the epoch with the lowest validation objective (or from the last epoch)."""

  objective: jax.Array
  epoch: jax.Array
  params: Tree
  stats: Tree


def _none() -> jax.Array:
  return jnp.full((), -1, jnp.int32)


@flax.struct.dataclass
class Faults:
  """The first step, from 0, whose loss or gradients were not finite, and its epoch; -1 for none."""

  step: jax.Array = dataclasses.field(default_factory=_none)
  epoch: jax.Array = dataclasses.field(default_factory=_none)


@flax.struct.dataclass
class TrainState:
  """Complete state of one run. Saving and restoring it resumes the run bit for bit.

  Attributes:
    step: number of optimizer steps so far.
    epoch: number of finished epochs.
    params: trained parameters.
    stats: running batch statistics.
    average: averages of `params` and `stats` over steps or epochs; {} without a weight average.
    frozen: `params` and `stats` of each teacher, by name.
    opt_state: state of the optimizer.
    key: random key of the run, see `nn.random`.
    values: arrays that differ between runs but not between steps: `inputs`, each sensor's `offset` and
      `scale`; `task`, constants of the task's loss; `weights` of the loss terms; `arrays`, see
      `Method.arrays`; `steps_per_epoch`; with `loss.group_balance` also `balance`, weights `[N]` of samples;
      with `train.group_effect` also `groups`, see `grouping.codes`.
    stop: early stopping.
    best: the kept model.
    faults: the first step that was not finite.
  """

  step: jax.Array
  epoch: jax.Array
  params: Tree
  stats: Tree
  average: Tree
  frozen: Tree
  opt_state: optax.OptState
  key: jax.Array
  values: Tree
  stop: Stop
  best: Best
  faults: Faults = dataclasses.field(default_factory=Faults)


def init(
  recipe: Recipe, key: jax.Array, values: Tree, *, frozen: Tree | None = None, pretrained: Tree | None = None
) -> TrainState:
  """Makes the state before the first step.

  Args:
    recipe: the recipe of the training.
    key: random key of the run. All random values are derived from it.
    values: see `TrainState`.
    frozen: see `TrainState`.
    pretrained: nested dict of `params` and `stats` that replace the random initial values.
  """
  rngs = random.keys(random.stream(key, "init"))
  model = recipe.method.build(recipe.network.architecture, rngs=rngs)
  _, *arrays = nnx.split(model, nnx.Param, nnx.BatchStat)
  drawn = dict(zip(("params", "stats"), map(nnx.to_pure_dict, arrays)))
  replaced = _with_target(_replaced(drawn, pretrained or {}), values.get("task", {}))
  params, stats = replaced["params"], replaced["stats"]
  # These have the types that steps return. A weak type would cause a second compilation.
  zero, inf = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, jnp.float32)
  return TrainState(
    step=zero,
    epoch=zero,
    params=params,
    stats=stats,
    average={} if recipe.average is None else {"params": params, "stats": stats},
    frozen=frozen or {},
    opt_state=recipe.optimizer.transform.init(params),
    key=key,
    values=values,
    stop=Stop(reference=inf, wait=zero, done=jnp.zeros((), bool)),
    best=Best(objective=inf, epoch=zero, params=params, stats=stats),
  )


def _replaced(tree: Any, given: Any) -> Any:
  """Replaces leaves of a tree by those that are given."""
  if not isinstance(tree, dict):
    return jnp.asarray(given, tree.dtype)
  return tree | {name: _replaced(tree[name], part) for name, part in given.items()}


def _with_target(tree: Any, task: Mapping[str, jax.Array]) -> Any:
  """Sets the mean and the deviation of the target in every standardised head, see `architecture.Target`."""
  if not isinstance(tree, dict):
    return tree
  standardised = set(tree.get("target", {})) == {"mean", "std"}
  own = {"target": {name: task[name] for name in ("mean", "std")}} if standardised else {}
  return {name: _with_target(part, task) for name, part in tree.items()} | own


def finished_model(state: TrainState) -> Tree:
  """The part of a state that prediction needs, of one run or of a stack of runs."""
  values = {name: state.values[name] for name in ("inputs", "task")}
  return {"params": state.best.params, "stats": state.best.stats, "values": values}
