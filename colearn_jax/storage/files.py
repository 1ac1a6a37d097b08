"""Atomic file writes, file locks, and reading and writing JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import filelock
import numpy as np

from colearn_jax.types import InputError

SEAL = "sha256"  # the key of the digest in sealed JSON


class CannotWrite(InputError, OSError):
  """A file cannot be written, e.g. because the disk is full. The message names the file and the reason."""


# Errors that say that the disk, not the program, is the reason.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def telling(path: str | os.PathLike) -> Iterator[None]:
  """Turns errors of the disk during the block into `CannotWrite`; `path` is named if they name no file."""
  try:
    yield
  except OSError as error:
    if isinstance(error, InputError) or error.errno not in _DISK:
      raise
    raise CannotWrite(
      f"cannot write {error.filename or path}: {error.strerror}; what was written before is intact, and the "
      "same command resumes from there"
    ) from error


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
    with contextlib.suppress(OSError):
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


def write_json(path: str | os.PathLike, tree: Mapping, *, sealed: bool = False) -> None:
  """Writes a nested dict as strict JSON (see `jsonable`), atomically.

  With `sealed` it gets a last key `sha256`, which `read_json` checks and removes.
  """
  content = jsonable(tree)
  if sealed:
    content[SEAL] = _seal(content)
  text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
  with replacing(path) as file:
    file.write(text + "\n")


def read_json(
  path: str | os.PathLike, remedy: str = "restore this file from a copy, or use another folder"
) -> dict:
  """Reads a JSON object. If it is sealed, it is checked, see `write_json`.

  Args:
    path: the file.
    remedy: what to do if the file is damaged, for the message.

  Raises:
    InputError: the file does not exist, is not a JSON object, or was altered.
  """
  try:
    tree = json.loads(Path(path).read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"there is no file {path}") from None
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"{path} is not JSON: {error}; {remedy}") from None
  if not isinstance(tree, dict):
    raise InputError(f"{path} is not a JSON object: {remedy}")
  if isinstance(seal := tree.get(SEAL), str):
    del tree[SEAL]
    if seal != _seal(tree):
      raise InputError(
        f"{path} was altered, its checksum differs: {remedy}; if it was altered on purpose, remove its key "
        f"{SEAL}"
      )
  return tree


def _seal(tree: Mapping) -> str:
  """A digest of a JSON object that does not depend on its layout in a file."""
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def warn(line: str) -> None:
  """Says on stderr, in one line, what was skipped and what is done instead."""
  print(f"warning: {line}", file=sys.stderr)
