"""What is computed once from a prepared data set and kept with it, in the folder `derived` of its directory.

A file is named by a digest of the question that it answers and of the sizes and times of the data set's own
files: it is never taken for the answer to another question, nor to the same one after a rebuild.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FOLDER = "derived"


def read(path: Path, question: Mapping[str, object]) -> dict[str, np.ndarray] | None:
  """The arrays that were kept as the answer to a question, or None.

  Args:
    path: of the prepared directory.
    question: all that the answer depends on but the data set itself, as plain JSON; `what` names it.
  """
  try:
    with open(_file(path, question), "rb") as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or damaged by somebody
    return None


def write(path: Path, question: Mapping[str, object], answer: Mapping[str, np.ndarray]) -> None:
  """Keeps the answer to a question, whole or not at all; nothing happens where nothing can be written."""
  with contextlib.suppress(OSError):
    file = _file(path, question)
    file.parent.mkdir(exist_ok=True)
    half = file.with_name(f"{uuid.uuid4().hex}.half")  # several processes may have the same to say
    try:
      with open(half, "wb") as out:
        np.savez(out, **answer)
      half.replace(file)
    finally:
      half.unlink(missing_ok=True)


def digest(array: np.ndarray) -> str:
  """Stands for an array in a question."""
  return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _file(path: Path, question: Mapping[str, object]) -> Path:
  with os.scandir(path) as entries:
    stats = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
  files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
  key = json.dumps({"question": question, "files": files}, sort_keys=True)
  return path / FOLDER / f"{question['what']}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
