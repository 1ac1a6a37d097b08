"""Atomic file writes, file locks, and reading and writing JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import filelock
import numpy as np

from colearn_jax.types import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, binary: bool = False) -> Iterator[IO]:
  """Opens a temporary file (UTF-8 text or binary) that replaces `path` when the block ends without an error.

  Readers see the old file or the new one, never a part, even if the process is killed. After an error the old
  file is unchanged and the temporary file is removed. Several processes may write the same file at once.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # In the same directory, because a rename is atomic within one file system only.
  part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
  try:
    with open(part, "wb") if binary else open(part, "w", encoding="utf-8", newline="") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except BaseException:
    part.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def lock(path: str | os.PathLike, busy: str | None = None) -> Iterator[None]:
  """Holds a file lock during the block. If the process is killed, the lock is released.

  Args:
    path: the lock file. Its directory has to exist. The file may remain afterwards.
    busy: message of the error if another process holds the lock. With None the call waits for the lock.

  Raises:
    InputError: another process holds the lock, and `busy` is not None.
  """
  held = filelock.FileLock(path, blocking=busy is None)
  try:
    held.acquire()
  except filelock.Timeout:
    raise InputError(str(busy)) from None
  except (NotImplementedError, OSError):  # a file system without locks: go on, as renames are atomic anyway
    yield
    return
  try:
    yield
  finally:
    held.release()


def jsonable(tree: Any) -> Any:
  """Converts a tree to the types of JSON: str keys, lists, Python numbers, `None` for NaN and infinity."""
  if isinstance(tree, Mapping):
    return {str(k): jsonable(v) for k, v in tree.items()}
  if isinstance(tree, np.ndarray | np.generic):
    return jsonable(tree.tolist())
  if isinstance(tree, list | tuple):
    return [jsonable(v) for v in tree]
  return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write_json(path: str | os.PathLike, tree: Mapping) -> None:
  """Writes a nested dict as strict JSON (see `jsonable`), atomically."""
  text = json.dumps(jsonable(tree), indent=2, allow_nan=False, ensure_ascii=False)
  with replacing(path) as file:
    file.write(text + "\n")


def read_json(path: str | os.PathLike) -> dict:
  """Reads a JSON object.

  Raises:
    InputError: the file does not exist, or is not a JSON object.
  """
  try:
    tree = json.loads(Path(path).read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"there is no file {path}") from None
  except (OSError, ValueError) as error:
    raise InputError(f"{path} is not JSON: {error}") from None
  if not isinstance(tree, dict):
    raise InputError(f"{path} is not a JSON object")
  return tree
