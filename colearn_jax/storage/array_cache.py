"""A cache on disk for arrays that are computed from a prepared data set, e.g. band statistics.

A query names a computation and all its settings. The file of a result is in the folder `derived` of the data
set's directory. Its name is a digest of the query, of the version of this package, and of the `stamp` of the
data set's files. The caller takes the stamp before it reads the data set. Nothing is read or written if the
files have changed since then, so a result never belongs to other files.
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

from colearn_jax import __version__
from colearn_jax.storage.files import replacing

FOLDER = "derived"


def stamp(path: Path) -> str:
  """A digest of the names, sizes and times of the files of a prepared directory, without those below it.

  Besides the time of the last change of content, which programs can set, it contains the time of the last
  change of any kind (ctime), which they cannot.
  """
  with os.scandir(path) as entries:
    stats = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
  files = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
  return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def read(path: Path, at: str, query: Mapping[str, object]) -> dict[str, np.ndarray] | None:
  """The cached result of a query, or None if there is none or the files have changed.

  Args:
    path: the prepared directory.
    at: its `stamp` before the data set was opened.
    query: everything that the result depends on except the data set, as plain JSON. The key `what` names
      the computation.
  """
  try:
    if stamp(path) != at:
      return None
    with open(_file(path, at, query), "rb") as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not cached, or the file is damaged
    return None


def write(path: Path, at: str, query: Mapping[str, object], result: Mapping[str, np.ndarray]) -> None:
  """Caches the result of a query; see `read`.

  Does nothing if the directory cannot be written, or if its files have changed.
  """
  arrays: dict[str, Any] = dict(result)  # Any, as the type stubs of savez take each name for `allow_pickle`
  with contextlib.suppress(OSError):
    if stamp(path) == at:
      with replacing(_file(path, at, query), binary=True) as file:
        np.savez(file, **arrays)


def digest(array: np.ndarray) -> str:
  """A digest of an array's type, shape and values, to put into a query."""
  return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _file(path: Path, at: str, query: Mapping[str, object]) -> Path:
  key = json.dumps({"query": query, "files": at, "version": __version__}, sort_keys=True)
  return path / FOLDER / f"{query['what']}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
