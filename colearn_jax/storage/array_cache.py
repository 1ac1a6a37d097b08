"""A cache on disk for arrays that are computed from a prepared data set, e.g. band statistics.

A query names a computation and all its settings. The file of a result is in the folder `derived` of the data
set's directory. Its name is a digest of the query and of the sizes and times of the data set's files, so
results from before a rebuild are never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colearn_jax.storage.files import replacing

FOLDER = "derived"


def read(path: Path, query: Mapping[str, object]) -> dict[str, np.ndarray] | None:
  """The cached result of a query, or None if there is none.

  Args:
    path: the prepared directory.
    query: everything that the result depends on except the data set, as plain JSON. The key `what` names
      the computation.
  """
  try:
    with open(_file(path, query), "rb") as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not cached, or the file is damaged
    return None


def write(path: Path, query: Mapping[str, object], result: Mapping[str, np.ndarray]) -> None:
  """Caches the result of a query. Does nothing if the directory cannot be written."""
  arrays: dict[str, Any] = dict(result)  # Any, as the type stubs of savez take each name for `allow_pickle`
  with contextlib.suppress(OSError), replacing(_file(path, query), binary=True) as file:
    np.savez(file, **arrays)


def digest(array: np.ndarray) -> str:
  """A digest of an array's type, shape and values, to put into a query."""
  return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _file(path: Path, query: Mapping[str, object]) -> Path:
  with os.scandir(path) as entries:
    stats = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
  files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
  key = json.dumps({"query": query, "files": files}, sort_keys=True)
  return path / FOLDER / f"{query['what']}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
