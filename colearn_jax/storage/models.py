"""Saves and restores finished models: the arrays of a run that prediction needs.

A work directory has one model per run in `checkpoints/<run>/<epoch>/`, where the epoch is the one that was
kept. It holds `params`, `stats` (batch statistics) and `values` (normalisation and constants of the task),
and the progress of the run as JSON. A model can be restored in part, e.g. for one sensor. Before anything is
read from a checkpoint, its files are compared with its manifest.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from colearn_jax.storage import manifest
from colearn_jax.storage.files import warn
from colearn_jax.types import InputError

REMEDY = (
  "run the training's command again, which trains this run anew to the same bits, or restore it from a copy"
)

_TIMES = "_CHECKPOINT_METADATA"  # when a checkpoint was written; Orbax writes it again later


@contextlib.contextmanager
def open_manager(directory: Path, keep: int = 2) -> Iterator[ocp.CheckpointManager]:
  """An Orbax manager that keeps the latest checkpoints. At the end of the block it waits for the disk.

  Each checkpoint has a manifest, see `storage.manifest`. It is written before the checkpoint gets its name,
  so one is never there without the other. The older of two is kept in case that the newer one is damaged.

  Raises:
    InputError: a checkpoint cannot be written.
  """
  directory = Path(directory).absolute()
  handlers = {
    "model": ocp.PyTreeCheckpointHandler(),
    "rest": ocp.PyTreeCheckpointHandler(),
    "progress": ocp.JsonCheckpointHandler(),
  }
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep,
    cleanup_tmp_directories=True,
    async_options=ocp.AsyncOptions(post_finalization_callback=functools.partial(_seal, directory)),
  )
  for logger in ("absl", "asyncio"):
    logging.getLogger(logger).addFilter(_without_orbax)
  with saving(directory):
    manager = ocp.CheckpointManager(epath.Path(directory), options=options, item_handlers=handlers)
  try:
    yield manager
  except BaseException:
    with contextlib.suppress(Exception):  # the first error is the one to tell
      manager.close()
    raise
  with saving(directory):
    manager.close()


def _without_orbax(record: logging.LogRecord) -> bool:
  """Leaves out the tracebacks that threads of Orbax log, and that a slow disk made it wait.

  The errors are raised as well, see `saving`. How often to save is a setting here, `checkpoint.every_epochs`.
  """
  left = record.name == "asyncio" and "exception was never retrieved" in str(record.msg)
  waited = str(record.msg).startswith("Waiting for previous save")
  return not left and ("orbax" not in record.pathname or record.levelno < logging.ERROR and not waited)


def _seal(directory: Path) -> None:
  """Writes the manifest of a complete checkpoint. Orbax calls it before it renames the temporary folder."""
  if jax.process_index() == 0:
    for folder in directory.glob("*.orbax-checkpoint-tmp*"):
      manifest.write(folder, without=[_TIMES])


@contextlib.contextmanager
def saving(directory: os.PathLike) -> Iterator[None]:
  """Turns the errors of Orbax in writing into one line.

  Raises:
    InputError: something cannot be written.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:  # the type depends on the place where the disk is full
    raise InputError(
      f"cannot save {directory}: {_reason(error)}; what was saved before is intact, and the same command "
      "resumes from there"
    ) from error


def _reason(error: BaseException) -> str:
  """Why something cannot be read or written, in a few words."""
  text = " ".join(str(error).split())
  known = (os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES))
  told = next((words for words in known if words in text), None)
  return told or f"{type(error).__name__}: {text[:200]}"


@contextlib.contextmanager
def _reader(directory: Path) -> Iterator[tuple[ocp.CheckpointManager, int] | None]:
  """A manager for reading and the step of the latest checkpoint; None if there is no checkpoint.

  Other processes of the job do not take part: each one may read by itself.

  Raises:
    InputError: the checkpoint cannot be read.
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
  with reading(directory), ocp.CheckpointManager(path, options=options, item_handlers=handlers) as manager:
    step = manager.latest_step()
    yield None if step is None else (manager, step)


@contextlib.contextmanager
def reading(directory: os.PathLike) -> Iterator[None]:
  """Turns the errors of Orbax in reading into one line.

  Raises:
    InputError: something cannot be read.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:  # the type depends on what is damaged, and how
    raise InputError(f"{directory} cannot be read ({_reason(error)}); {REMEDY}") from error


def check(directory: Path, step: int) -> None:
  """Compares a checkpoint with its manifest, if it has one.

  Raises:
    InputError: a file is damaged.
  """
  try:
    manifest.check(directory / str(step))
  except manifest.Damaged as error:
    raise InputError(f"{error}; {REMEDY}") from None


def remove_damaged(directory: Path, instead: str) -> None:
  """Removes the damaged checkpoints of a directory, with a warning for each. One process has to call it.

  Args:
    directory: directory of a run or a stack of runs.
    instead: what is done if no checkpoint is left, for the warning.
  """
  steps = sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit() and path.is_dir())
  damaged = []
  while steps:
    try:
      progress(directory)
      break  # the newest good one; older ones are not read
    except InputError as error:
      shutil.rmtree(directory / str(steps.pop()))
      damaged.append(str(error).removesuffix(f"; {REMEDY}"))
  for line in damaged:
    warn(f"{line}; this checkpoint is removed and {'an older one is used' if steps else instead}")


def save(directory: Path, model: dict, progress: dict) -> None:
  """Saves a finished model and returns when it is on disk. An existing model is not overwritten.

  Args:
    directory: directory of the run, `checkpoints/<run>`.
    model: a dict with `params`, `stats` and `values`.
    progress: progress of the run as plain JSON, with the number of the last `epoch`.
  """
  if latest(directory) >= 0:  # an earlier call was stopped after it had saved some of the stacked runs
    return
  with open_manager(directory, keep=1) as manager, saving(directory):
    args = ocp.args.Composite(model=ocp.args.PyTreeSave(model), progress=ocp.args.JsonSave(progress))
    manager.save(progress["epoch"], args=args)


def progress(directory: Path) -> dict | None:
  """The progress that was saved with the latest checkpoint; None if there is no checkpoint.

  Raises:
    InputError: the checkpoint is damaged.
  """
  with _reader(directory) as found:
    if found is None:
      return None
    manager, step = found
    check(directory, step)
    return manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress


def latest(directory: Path) -> int:
  """The number of the latest checkpoint; -1 if there is no checkpoint."""
  with _reader(directory) as found:
    return -1 if found is None else found[1]


def restore(directory: Path, part: dict[str, Any] | None = None) -> dict:
  """Reads a finished model as NumPy arrays, whatever devices it was trained on.

  Args:
    directory: directory of the run, `checkpoints/<run>`.
    part: a nested dict with the names of the arrays to read; its leaves are ignored. An example is
      `{"params": ..., "stats": ...}` of the model of one sensor. By default everything is read.

  Raises:
    InputError: there is no checkpoint, it is damaged, or it lacks a name of `part`.
  """
  with _reader(directory) as found:
    if found is None:
      raise InputError(f"no checkpoint in {directory}")
    manager, step = found
    check(directory, step)
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
