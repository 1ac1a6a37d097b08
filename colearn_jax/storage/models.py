"""Finished models: what predicting needs of a run, written once and read in whole or in part.

`checkpoints/<run>/<epoch>/` of a work directory holds `params`, `stats` and `values` (normalisation and
constants of the task) of the epoch that was kept, and the run's progress as JSON.
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
  """A manager that keeps the latest checkpoint; leaving it as a context waits for the disk."""
  handlers = {"model": ocp.PyTreeCheckpointHandler(), "rest": ocp.PyTreeCheckpointHandler()}
  handlers["progress"] = ocp.JsonCheckpointHandler()
  options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
  return ocp.CheckpointManager(epath.Path(directory).absolute(), options=options, item_handlers=handlers)


@contextlib.contextmanager
def _reader(directory: Path) -> Iterator[tuple[ocp.CheckpointManager, int] | None]:
  """A manager for reading by this process alone, with the latest checkpoint's number; None without one."""
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


def save(directory: Path, model: dict, progress: dict) -> None:
  """Saves a finished model; it is on the disk when this returns. What is there already stays.

  Args:
    directory: of the run, `checkpoints/<run>`.
    model: `{"params", "stats", "values"}`.
    progress: plain JSON, with the number of the last `epoch`.
  """
  if latest(directory) >= 0:  # of a stack that was stopped while it saved its models
    return
  with open_manager(directory) as manager:
    args = ocp.args.Composite(model=ocp.args.PyTreeSave(model), progress=ocp.args.JsonSave(progress))
    manager.save(progress["epoch"], args=args)


def progress(directory: Path) -> dict | None:
  """The progress saved with the latest checkpoint of a directory; None without a checkpoint."""
  with _reader(directory) as found:
    if found is None:
      return None
    manager, step = found
    return manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress


def latest(directory: Path) -> int:
  """The epoch of a directory's latest checkpoint; -1 without one."""
  with _reader(directory) as found:
    return -1 if found is None else found[1]


def restore(directory: Path, part: dict[str, Any] | None = None) -> dict:
  """Reads a finished model as NumPy arrays, on whatever devices it was trained.

  Args:
    directory: of the run, `checkpoints/<run>`.
    part: nested names (with any leaves) of what is to be read, e.g. the `params` and `stats` of one
      sensor's model and its `values`; everything by default.

  Raises:
    InputError: there is no checkpoint, or it lacks something of `part`.
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
    return manager.restore(step, args=ocp.args.Composite(model=model))["model"]


def _select(tree: dict, part: dict, directory: Path, path: str = "") -> dict:
  """The branches of a tree that have a name in `part`; names may be numbers there and text here."""
  out = {}
  for name, below in part.items():
    key = next((k for k in tree if str(k) == str(name)), None)
    if key is None:
      raise InputError(f"{directory} has no {path}{name}: it was trained by another method or encoder")
    both = isinstance(below, dict) and isinstance(tree[key], dict)
    out[key] = _select(tree[key], below, directory, f"{path}{name}/") if both else tree[key]
  return out
