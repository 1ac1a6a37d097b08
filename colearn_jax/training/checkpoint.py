"""Checkpoints for resuming: the complete state of a stack of runs while it is trained.

`training/<stack>/` of a work directory holds the latest state, numbered by epoch, and is removed when the
runs are over. All processes save and read arrays in parallel, whatever their number was and is. Finished
models are in `storage.models`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from colearn_jax.parallel import processes
from colearn_jax.training.state import Best, Stop, TrainState, Tree, finished_model

_args = ocp.args


def _split(state: TrainState) -> tuple[Tree, Tree]:
  """The finished model, and everything else, as plain trees."""
  rest = {
    "step": state.step,
    "epoch": state.epoch,
    "params": state.params,
    "stats": state.stats,
    "average": state.average,
    "frozen": state.frozen,
    "opt_state": state.opt_state,
    "key": state.key,
    "values": {name: v for name, v in state.values.items() if name not in ("inputs", "task")},
    "stop": {"reference": state.stop.reference, "wait": state.stop.wait, "done": state.stop.done},
    "best": {"objective": state.best.objective, "epoch": state.best.epoch},
  }
  return finished_model(state), rest


def _join(model: Tree, rest: Tree) -> TrainState:
  best = Best(**rest["best"], params=model["params"], stats=model["stats"])
  values = {**model["values"], **rest["values"]}
  return TrainState(**{**rest, "stop": Stop(**rest["stop"]), "best": best, "values": values})


def save(manager: ocp.CheckpointManager, epoch: int, state: TrainState, progress: dict) -> None:
  """Saves a stack of runs; `progress` is plain JSON."""
  model, rest = _split(state)
  items = {"model": _args.PyTreeSave(model), "rest": _args.PyTreeSave(rest)}
  manager.save(epoch, args=_args.Composite(**items, progress=_args.JsonSave(progress)))


def restore(manager: ocp.CheckpointManager, like: TrainState) -> TrainState:
  """Restores a stack of runs.

  Args:
    manager: of their directory.
    like: their state as it is to be placed on the devices; its arrays are not read.
  """
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
  model, rest = _split(abstract)
  placed = lambda tree: _args.PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree))
  items = _args.Composite(model=placed(model), rest=placed(rest))
  got = manager.restore(manager.latest_step(), args=items)
  return _join(got["model"], got["rest"])


def remove(directory: Path) -> None:
  """Removes the checkpoints of runs that are over."""
  processes.wait("remove")
  if processes.first():
    shutil.rmtree(directory)
