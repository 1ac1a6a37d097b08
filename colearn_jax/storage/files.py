"""Files that are written whole or not at all, locks, and JSON."""

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
  """Opens a file, UTF-8 text or binary, that replaces `path` when the block ends without an error.

  A reader, or a process that is killed, finds the old file or the new one, never a part. After an error the
  old file stays and nothing else is left. Several processes may write the same file at once.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Beside it, as a rename is atomic within one file system only.
  part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
  text = {} if binary else {"encoding": "utf-8", "newline": ""}
  try:
    with open(part, "wb" if binary else "w", **text) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except BaseException:
    part.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def lock(path: str | os.PathLike, busy: str | None = None) -> Iterator[None]:
  """Holds a lock, which is released at the latest when the process ends.

  Args:
    path: of the lock file; its directory has to exist. The file may stay.
    busy: the error if another process holds the lock; None waits for it.

  Raises:
    InputError: another process holds the lock, and `busy` says so.
  """
  held = filelock.FileLock(path, blocking=busy is None)
  try:
    held.acquire()
  except filelock.Timeout:
    raise InputError(str(busy)) from None
  except (NotImplementedError, OSError):  # a file system without locks: the caller's renames have to do
    yield
    return
  try:
    yield
  finally:
    held.release()


def jsonable(tree: Any) -> Any:
  """The tree in JSON's types: str keys, lists, Python numbers, and `None` for NaN and infinities."""
  if isinstance(tree, Mapping):
    return {str(k): jsonable(v) for k, v in tree.items()}
  if isinstance(tree, np.ndarray | np.generic):
    return jsonable(tree.tolist())
  if isinstance(tree, list | tuple):
    return [jsonable(v) for v in tree]
  return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write_json(path: str | os.PathLike, tree: Mapping) -> None:
  """Writes a nested dict as strict JSON, see `jsonable`, atomically."""
  text = json.dumps(jsonable(tree), indent=2, allow_nan=False, ensure_ascii=False)
  with replacing(path) as file:
    file.write(text + "\n")


def read_json(path: str | os.PathLike) -> dict:
  """Reads a JSON object.

  Raises:
    InputError: there is no such file, or it is not JSON.
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
