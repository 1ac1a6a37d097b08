"""Checkpoints: of trainings that go on, with all that they need for it, and of models that are finished.

`training/<stack>/` holds the latest state of a stack of trainings while they run, numbered by epoch, and is
gone when they are over. `checkpoints/<run>/` then holds each one's model, the best epoch's parameters and
batch statistics with the constants of its training part: serving needs nothing else. Arrays are saved and
read in parallel by all processes, whatever their number was and is.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from colearn_jax.methods import mdico
from colearn_jax.parallel import processes as distributed
from colearn_jax.training import steps
from colearn_jax.types import InputError

_args = ocp.args


def open_manager(directory: Path) -> ocp.CheckpointManager:
  """A manager that keeps the latest checkpoint; use it as a context, leaving it waits for the disk."""
  handlers = {"model": ocp.PyTreeCheckpointHandler(), "rest": ocp.PyTreeCheckpointHandler()}
  handlers["progress"] = ocp.JsonCheckpointHandler()
  options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
  return ocp.CheckpointManager(epath.Path(directory).absolute(), options=options, item_handlers=handlers)


@contextlib.contextmanager
def _reader(directory: Path) -> Iterator[tuple[ocp.CheckpointManager, int] | None]:
  """A manager that this process reads with alone, and the latest checkpoint's number; None without one."""
  if not directory.is_dir():
    yield None
    return
  me = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
  )
  handlers = {"model": ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)}
  handlers["progress"] = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
  options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
  path = epath.Path(directory).absolute()
  with ocp.CheckpointManager(path, options=options, item_handlers=handlers) as manager:
    step = manager.latest_step()
    yield None if step is None else (manager, step)


def best_model(state: steps.TrainState) -> dict:
  """What predicting needs of a training, or of a stack of them: the best epoch's model and the constants."""
  return {"params": state.best.params, "stats": state.best.stats, "constants": state.constants}


def _split(state: steps.TrainState) -> tuple[dict, dict]:
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
  return best_model(state), rest


def _join(model: dict, rest: dict) -> steps.TrainState:
  best = steps.Best(**rest["best"], params=model["params"], stats=model["stats"])
  whole = {**rest, "stop": steps.Stop(**rest["stop"]), "best": best, "constants": model["constants"]}
  return steps.TrainState(**whole)


def save(manager: ocp.CheckpointManager, epoch: int, state: steps.TrainState, progress: dict) -> None:
  """Saves trainings that go on; `progress` is plain JSON."""
  model, rest = _split(state)
  items = {"model": _args.PyTreeSave(model), "rest": _args.PyTreeSave(rest)}
  manager.save(epoch, args=_args.Composite(**items, progress=_args.JsonSave(progress)))


def restore(manager: ocp.CheckpointManager, like: steps.TrainState) -> steps.TrainState:
  """Restores trainings that go on.

  Args:
    manager: of their directory.
    like: their state as it is to stand on the devices; its arrays are not read.
  """
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
  model, rest = _split(abstract)
  placed = lambda tree: _args.PyTreeRestore(tree, ocp.checkpoint_utils.construct_restore_args(tree))
  items = _args.Composite(model=placed(model), rest=placed(rest))
  got = manager.restore(manager.latest_step(), args=items)
  return _join(got["model"], got["rest"])


def save_model(directory: Path, model: dict, progress: dict) -> None:
  """Saves the model of a training that is over, see `best_model`; on disk when it returns."""
  if latest(directory) >= 0:  # of a stack that was stopped while it left its models
    return
  with open_manager(directory) as manager:
    args = _args.Composite(model=_args.PyTreeSave(model), progress=_args.JsonSave(progress))
    manager.save(progress["epoch"], args=args)


def progress(directory: Path) -> dict | None:
  """The progress that was saved with the latest checkpoint of a directory; None where there is none."""
  with _reader(directory) as found:
    if found is None:
      return None
    manager, step = found
    return manager.restore(step, args=_args.Composite(progress=_args.JsonRestore())).progress


def latest(directory: Path) -> int:
  """The epoch of a directory's latest checkpoint; -1 where there is none."""
  with _reader(directory) as found:
    return -1 if found is None else found[1]


def remove(directory: Path) -> None:
  """Removes the checkpoints of trainings that are over."""
  distributed.wait("remove")
  if distributed.first():
    shutil.rmtree(directory)


def restore_model(directory: Path, modality: str | None = None) -> dict:
  """Restores `{"params", "stats", "constants"}` of a training as NumPy arrays, on whatever devices it ran.

  Args:
    directory: of the training.
    modality: reads only what this one needs to predict alone; else everything.

  Raises:
    InputError: there is no checkpoint.
  """
  with _reader(directory) as found:
    if found is None:
      raise InputError(f"no checkpoint in {directory}")
    manager, step = found
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
