"""Arrays that are computed once from a prepared data set and cached in the folder `derived` of its directory.

A cached file is named by a digest of the query, which is all that the result depends on, and of the sizes and
times of the data set's own files. After a rebuild the results of the old data set are not found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from colearn_jax.storage.files import replacing

FOLDER = "derived"


def read(path: Path, query: Mapping[str, object]) -> dict[str, np.ndarray] | None:
  """The cached result of a query, or None.

  Args:
    path: of the prepared directory.
    query: all that the result depends on but the data set itself, as plain JSON; `what` names it.
  """
  try:
    with open(_file(path, query), "rb") as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not cached, or a damaged file
    return None


def write(path: Path, query: Mapping[str, object], result: Mapping[str, np.ndarray]) -> None:
  """Caches the result of a query; where nothing can be written, nothing is cached."""
  with contextlib.suppress(OSError), replacing(_file(path, query), binary=True) as file:
    np.savez(file, **result)


def digest(array: np.ndarray) -> str:
  """A text that stands for an array in a query."""
  return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _file(path: Path, query: Mapping[str, object]) -> Path:
  with os.scandir(path) as entries:
    stats = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
  files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
  key = json.dumps({"query": query, "files": files}, sort_keys=True)
  return path / FOLDER / f"{query['what']}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
