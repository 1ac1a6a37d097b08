"""Whether the files of a prepared directory are what the build wrote."""

from __future__ import annotations

from pathlib import Path

from colearn_jax.storage import array_cache, manifest
from colearn_jax.types import InputError

_CHECKED = {"what": "checked"}  # the query of the mark that the files were compared with their manifest


def damage(path: Path, *, rebuild: bool) -> str:
  """Says which file of a prepared directory is damaged; empty if none is, or if there is no manifest.

  All files are read when a directory is opened for the first time, and when their sizes or times changed.

  Args:
    path: the prepared directory.
    rebuild: whether it can be built again.

  Raises:
    InputError: a file is damaged and `rebuild` is false.
  """
  try:
    at = array_cache.stamp(path)
  except OSError:  # no directory, or none that can be read
    return ""
  if array_cache.read(path, at, _CHECKED) is not None:
    return ""
  try:
    if manifest.check(path):
      array_cache.write(path, at, _CHECKED, {})
  except manifest.Damaged as error:
    if not rebuild:
      raise InputError(f"{error}: remove {path} to build it again, or give its source files") from None
    return str(error)
  return ""
