"""Saves and restores finished models: the arrays of a run that prediction needs.

A work directory has one model per run in `checkpoints/<run>/<epoch>/`, where the epoch is the one that was
kept. It holds `params`, `stats` (batch statistics) and `values` (normalisation and constants of the task),
and the progress of the run as JSON. A model can be restored in part, e.g. for one sensor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from colearn_jax.types import InputError


def open_manager(directory: Path) -> ocp.CheckpointManager:
  """An Orbax manager that keeps the latest checkpoint. As a context it waits for the disk at its end."""
  handlers = {
    "model": ocp.PyTreeCheckpointHandler(),
    "rest": ocp.PyTreeCheckpointHandler(),
    "progress": ocp.JsonCheckpointHandler(),
  }
  options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
  return ocp.CheckpointManager(epath.Path(directory).absolute(), options=options, item_handlers=handlers)


@contextlib.contextmanager
def _reader(directory: Path) -> Iterator[tuple[ocp.CheckpointManager, int] | None]:
  """A manager for reading and the step of the latest checkpoint; None if there is no checkpoint.

  Other processes of the job do not take part: each one may read by itself.
  """
  if not directory.is_dir():
    yield None
    return
  me = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
  )
  handlers = {
    "model": ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
    "progress": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
  }
  options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
  path = epath.Path(directory).absolute()
  with ocp.CheckpointManager(path, options=options, item_handlers=handlers) as manager:
    step = manager.latest_step()
    yield None if step is None else (manager, step)


def save(directory: Path, model: dict, progress: dict) -> None:
  """Saves a finished model and returns when it is on disk. An existing model is not overwritten.

  Args:
    directory: directory of the run, `checkpoints/<run>`.
    model: a dict with `params`, `stats` and `values`.
    progress: progress of the run as plain JSON, with the number of the last `epoch`.
  """
  if latest(directory) >= 0:  # an earlier call was stopped after it had saved some of the stacked runs
    return
  with open_manager(directory) as manager:
    args = ocp.args.Composite(model=ocp.args.PyTreeSave(model), progress=ocp.args.JsonSave(progress))
    manager.save(progress["epoch"], args=args)


def progress(directory: Path) -> dict | None:
  """The progress that was saved with the latest checkpoint; None if there is no checkpoint."""
  with _reader(directory) as found:
    if found is None:
      return None
    manager, step = found
    return manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress


def latest(directory: Path) -> int:
  """The epoch of the latest checkpoint; -1 if there is no checkpoint."""
  with _reader(directory) as found:
    return -1 if found is None else found[1]


def restore(directory: Path, part: dict[str, Any] | None = None) -> dict:
  """Reads a finished model as NumPy arrays, whatever devices it was trained on.

  Args:
    directory: directory of the run, `checkpoints/<run>`.
    part: a nested dict with the names of the arrays to read; its leaves are ignored. An example is
      `{"params": ..., "stats": ...}` of the model of one sensor. By default everything is read.

  Raises:
    InputError: there is no checkpoint, or it lacks a name of `part`.
  """
  with _reader(directory) as found:
    if found is None:
      raise InputError(f"no checkpoint in {directory}")
    manager, step = found
    like = manager.item_metadata(step)["model"].tree
    if part is not None:
      like = _select(like, part, directory)
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    model = ocp.args.PyTreeRestore(like, on_host, partial_restore=True)
    got = manager.restore(step, args=ocp.args.Composite(model=model))["model"]
    return {name: {} for name in part or ()} | got  # also what has no arrays


def _select(tree: dict, part: dict, directory: Path, path: str = "") -> dict:
  """The branches of `tree` that are named in `part`. Names are compared as text, as some are numbers.

  Branches without arrays are left out, because Orbax cannot read nothing of a branch with arrays.
  """
  out = {}
  for name, below in part.items():
    key = next((k for k in tree if str(k) == str(name)), None)
    if key is None:
      raise InputError(f"{directory} has no {path}{name}: it was trained by another method or encoder")
    both = isinstance(below, dict) and isinstance(tree[key], dict)
    found = _select(tree[key], below, directory, f"{path}{name}/") if both else tree[key]
    if found != {}:
      out[key] = found
  return out
