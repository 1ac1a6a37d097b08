"""Checkpoints of one training: `model` (what predicts), `rest` (what going on needs) and `progress` (where).

A directory per training holds its latest checkpoint, numbered by epoch. While it trains that is all three and
the data iterator where batches are streamed; when it is over, `model` and `progress` alone are kept. `model`
is the best epoch's parameters and batch statistics with the constants of the training part: serving needs
nothing else.
"""

from __future__ import annotations

from pathlib import Path

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from colearn_jax import mdico, steps
from colearn_jax.spec import InputError

_args = ocp.args


def open_manager(directory: Path) -> ocp.CheckpointManager:
  """A manager that keeps the latest checkpoint; use it as a context, leaving it waits for the disk."""
  handlers = {
    "model": ocp.PyTreeCheckpointHandler(),
    "rest": ocp.PyTreeCheckpointHandler(),
    "data": grain.checkpoint.CheckpointHandler(),
    "progress": ocp.JsonCheckpointHandler(),
  }
  options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
  return ocp.CheckpointManager(epath.Path(directory).absolute(), options=options, item_handlers=handlers)


def _split(state: steps.TrainState) -> tuple[dict, dict]:
  model = {"params": state.best.params, "stats": state.best.stats, "constants": state.constants}
  rest = {
    "step": state.step,
    "epoch": state.epoch,
    "params": state.params,
    "stats": state.stats,
    "opt_state": state.opt_state,
    "key": state.key,
    "stop": {"reference": state.stop.reference, "wait": state.stop.wait, "done": state.stop.done},
    "best": {"objective": state.best.objective, "epoch": state.best.epoch},
  }
  return model, rest


def _join(model: dict, rest: dict) -> steps.TrainState:
  best = steps.Best(**rest["best"], params=model["params"], stats=model["stats"])
  whole = {**rest, "stop": steps.Stop(**rest["stop"]), "best": best, "constants": model["constants"]}
  return steps.TrainState(**whole)


def save(manager: ocp.CheckpointManager, state: steps.TrainState, progress: dict, iterator=None) -> None:
  """Saves a training that goes on; `progress` is plain JSON and names the `epoch`."""
  model, rest = _split(state)
  items = {"model": _args.PyTreeSave(model), "rest": _args.PyTreeSave(rest)}
  if iterator is not None:
    items["data"] = grain.checkpoint.CheckpointSave(iterator)
  manager.save(progress["epoch"], args=_args.Composite(**items, progress=_args.JsonSave(progress)))


def save_finished(manager: ocp.CheckpointManager, state: steps.TrainState, progress: dict) -> None:
  """Saves what is left of a training that is over, in place of what it needed to go on."""
  model, _ = _split(state)
  args = _args.Composite(model=_args.PyTreeSave(model), progress=_args.JsonSave(progress))
  # One past the last epoch: that epoch's own checkpoint must stand until this one does.
  manager.save(progress["epoch"] + 1, args=args)
  manager.wait_until_finished()


def progress(directory: Path) -> dict | None:
  """How far the training in a directory was when it was saved; None where there is nothing to go on from."""
  if not directory.is_dir():
    return None
  with open_manager(directory) as manager:
    step = manager.latest_step()
    if step is None:
      return None
    return manager.restore(step, args=_args.Composite(progress=_args.JsonRestore())).progress


def restore(manager: ocp.CheckpointManager, like: steps.TrainState, iterator=None) -> steps.TrainState:
  """Restores a training that goes on, and the iterator in place.

  Args:
    manager: of its directory.
    like: the state's shapes, dtypes and shardings.
    iterator: of the training batches, where they are streamed.
  """
  model, rest = _split(like)
  placed = lambda tree: _args.PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree))
  items = {"model": placed(model), "rest": placed(rest)}
  if iterator is not None:
    items["data"] = grain.checkpoint.CheckpointRestore(iterator)
  got = manager.restore(manager.latest_step(), args=_args.Composite(**items))
  return _join(got["model"], got["rest"])


def restore_model(directory: Path, modality: str | None = None) -> dict:
  """Restores `{"params", "stats", "constants"}` of a training as NumPy arrays, on whatever devices it ran.

  Args:
    directory: of the training.
    modality: reads only what this one needs to predict alone; else everything.

  Raises:
    InputError: there is no checkpoint.
  """
  with open_manager(directory) as manager:
    step = manager.latest_step()
    if step is None:
      raise InputError(f"no checkpoint in {directory}")
    like = manager.item_metadata(step)["model"].tree
    if modality is not None:
      like = _alone(like, modality)
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    model = _args.PyTreeRestore(like, on_host, partial_restore=True)
    return manager.restore(step, args=_args.Composite(model=model))["model"]


def _alone(model: dict, modality: str) -> dict:
  """The part of a model that one modality predicts with."""
  part = lambda tree: {k: {modality: tree[k][modality]} for k in mdico.ALONE if modality in tree.get(k, {})}
  inputs = {modality: model["constants"]["inputs"][modality]}
  return {
    "params": part(model["params"]),
    "stats": part(model["stats"]),
    "constants": {"inputs": inputs, "task": model["constants"]["task"]},
  }


def abstract(tree, sharding: jax.sharding.Sharding):
  """The shapes and dtypes of a tree, placed by a sharding."""
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return jax.tree.map(place, tree)
