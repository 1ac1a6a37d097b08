"""Checksums of the files in a folder: written last, and compared before the folder is used.

A manifest is the file `manifest.json` of the folder. It holds the size and the SHA-256 of every other file in
it and below it, and a digest of itself. A folder without a manifest was written by an earlier version, or by
another program: it cannot be checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from colearn_jax.storage.files import read_json, write_json
from colearn_jax.types import InputError

NAME = "manifest.json"


class Damaged(InputError):
  """A file is not what was written. The message names it and says how it differs."""


def write(folder: str | os.PathLike, without: Iterable[str] = ()) -> None:
  """Writes the manifest of a folder, after its files are on the disk.

  Args:
    folder: the folder.
    without: files that are not listed, relative to the folder.
  """
  folder = Path(folder)
  facts: dict[str, dict] = {}
  for name in sorted({*_files(folder)} - {*without}):
    _flush(folder / name)
    facts[name] = {"size": (folder / name).stat().st_size, "sha256": _digest(folder / name)}
  write_json(folder / NAME, {"files": facts}, sealed=True)


def check(folder: str | os.PathLike, names: Iterable[str] | None = None) -> bool:
  """Compares the files of a folder with its manifest. Files that it does not list are ignored.

  Args:
    folder: the folder.
    names: the files to compare, relative to the folder. Default: all that are listed.

  Returns:
    Whether there is a manifest.

  Raises:
    Damaged: a file is missing, has another size or another content; or the manifest itself is damaged.
  """
  folder = Path(folder)
  if not (folder / NAME).exists():
    return False
  try:
    listed = read_json(folder / NAME)["files"]
    facts = {name: (own["size"], own["sha256"]) for name, own in listed.items()}
  except (InputError, KeyError, TypeError, AttributeError) as error:
    raise Damaged(f"{folder / NAME} is damaged ({type(error).__name__})") from None
  for name in facts if names is None else facts.keys() & set(names):
    file, (size, digest) = folder / name, facts[name]
    try:
      now = file.stat().st_size
      if now != size:
        raise Damaged(f"{file} is damaged: it has {now} bytes, not {size}")
      if _digest(file) != digest:
        raise Damaged(f"{file} is damaged: its checksum differs from the one in {NAME}")
    except OSError as error:
      raise Damaged(f"{file} is damaged: {error.strerror}") from None
  return True


def _files(folder: Path) -> list[str]:
  found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
  return [name for name in found if name != NAME]


def _flush(file: Path) -> None:
  with open(file, "rb") as opened, contextlib.suppress(OSError):  # some file systems cannot
    os.fsync(opened.fileno())


def _digest(file: Path) -> str:
  with open(file, "rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()
