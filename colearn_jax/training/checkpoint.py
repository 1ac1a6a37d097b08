"""Saves and restores the complete training state of a stack of runs, so that they can be resumed.

A stack is one run, or several that are trained as one program. Its checkpoints are in `training/<stack>/` of
the work directory, numbered by epoch, and are removed when training ends. All processes save and read in
parallel; a run can be resumed with another number of processes. Finished models are handled by
`storage.models`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from colearn_jax.parallel import processes
from colearn_jax.storage import models
from colearn_jax.training.state import Best, Faults, Stop, TrainState, Tree, finished_model

_args = ocp.args


def _split(state: TrainState) -> tuple[Tree, Tree]:
  """Splits a state into the finished model and the rest, as nested dicts."""
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
    "faults": {"step": state.faults.step, "epoch": state.faults.epoch},
  }
  return finished_model(state), rest


def _join(model: Tree, rest: Tree) -> TrainState:
  best = Best(**rest["best"], params=model["params"], stats=model["stats"])
  values = {**model["values"], **rest["values"]}
  own = {"stop": Stop(**rest["stop"]), "best": best, "values": values, "faults": Faults(**rest["faults"])}
  return TrainState(**{**rest, **own})


def save(manager: ocp.CheckpointManager, epoch: int, state: TrainState, progress: dict) -> None:
  """Saves the state of a stack of runs. `progress` must have JSON types.

  Raises:
    InputError: it cannot be saved, or the checkpoint before could not.
  """
  model, rest = _split(state)
  items = {"model": _args.PyTreeSave(model), "rest": _args.PyTreeSave(rest)}
  with models.saving(manager.directory):
    manager.save(epoch, args=_args.Composite(**items, progress=_args.JsonSave(progress)))


def restore(manager: ocp.CheckpointManager, like: TrainState) -> TrainState:
  """Restores a stack of runs.

  Args:
    manager: the checkpoint manager of their directory.
    like: a state with the wanted shapes, dtypes and placement on devices. Its values are not used.

  Raises:
    InputError: the checkpoint cannot be read.
  """
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
  model, rest = _split(abstract)
  placed = lambda tree: _args.PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree))
  items = _args.Composite(model=placed(model), rest=placed(rest))
  with models.reading(manager.directory):
    got = manager.restore(manager.latest_step(), args=items)
  return _join(got["model"], got["rest"])


def remove(directory: Path) -> None:
  """Removes the checkpoints of finished runs."""
  processes.wait("remove")
  if processes.first():
    shutil.rmtree(directory)
