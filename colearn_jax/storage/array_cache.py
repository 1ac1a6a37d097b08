"""A cache on disk for arrays that are computed from a prepared data set, e.g. band statistics.

A query names a computation and all its settings. The file of a result is in the folder `derived` of the data
set's directory. Its name is a digest of the query, of the version of this package, and of the `stamp` of the
data set's files. The caller takes the stamp before it reads the data set. Nothing is read or written if the
files have changed since then, so a result never belongs to other files. A file begins with a digest of
the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colearn_jax import __version__
from colearn_jax.storage.files import replacing, warn

FOLDER = "derived"
_SEAL = hashlib.sha256().digest_size


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
    stored = (file := _file(path, at, query)).read_bytes()
  except OSError:  # not cached
    return None
  seal, content = stored[:_SEAL], stored[_SEAL:]
  if seal != hashlib.sha256(content).digest():
    warn(f"{file} is damaged: it is computed anew")
    return None
  with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
    return dict(arrays)


def write(path: Path, at: str, query: Mapping[str, object], result: Mapping[str, np.ndarray]) -> None:
  """Caches the result of a query; see `read`.

  Does nothing if the directory cannot be written, or if its files have changed.
  """
  arrays: dict[str, Any] = dict(result)  # Any, as the type stubs of savez take each name for `allow_pickle`
  with contextlib.suppress(OSError):
    if stamp(path) == at:
      np.savez(content := io.BytesIO(), **arrays)
      with replacing(_file(path, at, query), binary=True) as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def digest(array: np.ndarray) -> str:
  """A digest of an array's type, shape and values, to put into a query."""
  return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _file(path: Path, at: str, query: Mapping[str, object]) -> Path:
  key = json.dumps({"query": query, "files": at, "version": __version__}, sort_keys=True)
  return path / FOLDER / f"{query['what']}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrays"
