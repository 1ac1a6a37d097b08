"""What is fixed before a training is compiled (`Recipe`), and what changes while it runs (`TrainState`)."""

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
from colearn_jax.training.optimizer import Average, Optimizer

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Everything about a training that is fixed before it is compiled.

  Attributes:
    network: that is trained.
    teachers: trained networks by name, whose outputs the method's loss reads.
    optimizer: see `optimizer.make_optimizer`.
    average: of the weights, if any; it is validated, kept and predicted with.
    augment: what happens to the inputs of a train step, if anything.
    batch_size: B, samples in the global batch.
    microbatches: parts in which a batch goes through the model, one after another.
    max_epochs: after which the training ends.
    patience: epochs without an improvement by `min_delta` after which it ends; 0 for never.
    min_delta: in the unit of the validation objective.
    keep_last: whether the last epoch's model is kept instead of the best one's.
    mesh: of the devices, see `parallel.sharding`.
  """

  network: Network
  optimizer: Optimizer
  batch_size: int
  max_epochs: int
  mesh: Mesh
  teachers: Mapping[str, Network] = dataclasses.field(default_factory=dict)
  average: Average | None = None
  augment: Augment | None = None
  microbatches: int = 1
  patience: int = 5
  min_delta: float = 0.0
  keep_last: bool = False

  @property
  def method(self) -> Method:
    """The method that is trained."""
    return self.network.method

  @property
  def blocks(self) -> int:
    """Equal blocks of rows of a training batch: 1, or one for each sensor of a method that is not paired."""
    return 1 if self.method.paired else len(self.network.architecture.shapes)


@flax.struct.dataclass
class Stop:
  """Early stopping: the objective to improve on by min_delta, and for how many epochs it has not been."""

  reference: jax.Array
  wait: jax.Array
  done: jax.Array


@flax.struct.dataclass
class Best:
  """The model that is kept: that of the epoch with the lowest validation objective (or of the last epoch)."""

  objective: jax.Array
  epoch: jax.Array
  params: Tree
  stats: Tree


@flax.struct.dataclass
class TrainState:
  """Complete state of one run. Saving and restoring it resumes the run bit for bit.

  Attributes:
    step: optimizer steps so far.
    epoch: finished epochs.
    params: trained parameters.
    stats: running batch statistics.
    average: `params` and `stats` averaged over steps or epochs, {} without an average.
    frozen: by name the `params` and `stats` of each teacher.
    opt_state: of the optimizer.
    key: of the run, see `nn.random`.
    values: arrays that differ between runs but not between steps: `inputs`, each sensor's `offset` and
      `scale`; `task`, constants of the task's loss; `weights` of the loss terms; `arrays`, see
      `Method.arrays`; `steps_per_epoch`.
    stop: early stopping.
    best: the model that is kept.
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


def init(
  recipe: Recipe, key: jax.Array, values: Tree, *, frozen: Tree | None = None, pretrained: Tree | None = None
) -> TrainState:
  """The state before the first step.

  Args:
    recipe: of the training.
    key: of the run; every random value comes from it.
    values: see `TrainState`.
    frozen: see `TrainState`.
    pretrained: `params` and `stats` that replace drawn ones, by the same nested names.
  """
  rngs = nnx.Rngs(params=random.stream(key, "init"))
  model = recipe.method.build(recipe.network.architecture, rngs=rngs)
  _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  drawn = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
  params, stats = _replaced(drawn, pretrained or {}).values()
  # Typed as the steps return them: a weak type here would compile everything twice.
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


def _replaced(tree: Tree | jax.Array, given: Tree | jax.Array) -> Tree | jax.Array:
  """The tree with the leaves that are given in place of its own."""
  if not isinstance(tree, dict):
    return jnp.asarray(given, tree.dtype)
  return tree | {name: _replaced(tree[name], part) for name, part in given.items()}


def finished_model(state: TrainState) -> Tree:
  """What predicting needs of a run, or of a stack of runs."""
  values = {name: state.values[name] for name in ("inputs", "task")}
  return {"params": state.best.params, "stats": state.best.stats, "values": values}
