"""The blocks of a map: each is written to a file of its own, and not computed again.

What a block holds depends on nothing but the model, the scene and the size of blocks: several processes, an
interruption or a worker that was lost change no bit of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from colearn_jax.datasets.folder.optional import no_warnings
from colearn_jax.deploy import mapping
from colearn_jax.deploy.mapping import Job, opened
from colearn_jax.deploy.stacks import Window
from colearn_jax.storage.files import replacing
from colearn_jax.types import InputError

BLOCK_BYTES = 128 * 2**20  # of the values of one block


def size(steps: int, bands: int) -> int:
  """Rows and columns of a block, so that its values take `BLOCK_BYTES` at most."""
  pixels = BLOCK_BYTES / (4 * steps * bands)
  return next((n for n in (512, 256, 128) if n * n <= pixels), 64)


def missing(job: Job) -> list[int]:
  """The numbers of the blocks that are not finished."""
  return [number for number in range(len(job.blocks())) if not job.path(number).exists()]


def run(job: Job, numbers: list[int], done: Callable[[int], None]) -> None:
  """Computes these blocks in this process, one after another; the next one is read in the meantime."""
  blocks = job.blocks()
  with no_warnings(), ThreadPoolExecutor(1) as reading:
    read = lambda at: reading.submit(mapping.inputs, job, blocks[numbers[at]]) if at < len(numbers) else None
    pending = read(0)
    for at, number in enumerate(numbers):
      assert pending is not None
      found = pending.result()
      pending = read(at + 1)
      _write(job, number, mapping.compute(job, blocks[number], *found))
      done(number)


def run_one(job: Job, number: int) -> int:
  """Computes a block, unless it is there; returns its number."""
  if not job.path(number).exists():
    run(job, [number], lambda _: None)
  return number


def _write(job: Job, number: int, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes the file of a block; it appears complete or not at all."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
  try:
    with replacing(job.path(number), binary=True) as file:
      file.write(buffer.getvalue())
  except OSError as error:
    raise InputError(f"{job.path(number)} cannot be written: {error.strerror}") from None


def finished(job: Job, name: str) -> Iterator[tuple[Window, np.ndarray]]:
  """The blocks of the map or of the confidence."""
  for number, block in enumerate(job.blocks()):
    with np.load(job.path(number), allow_pickle=False) as arrays:
      yield block, arrays[name]


def begin(job: Job) -> bool:
  """Makes the folder of the blocks; removes those of another map. Returns whether there were any.

  Raises:
    InputError: the folder cannot be written.
  """
  folder, own = Path(job.parts), _digest(job)
  mark, others = folder / "job", False
  if folder.exists() and not (mark.exists() and mark.read_text(encoding="utf-8") == own):
    others = any(folder.glob("block*.npz"))
    discard(job)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(mark) as file:
      file.write(own)
  except OSError as error:
    raise InputError(f"{folder} cannot be written: {error.strerror}") from None
  return others


def discard(job: Job) -> None:
  """Removes the blocks."""
  folder = Path(job.parts)
  if folder.is_dir():
    for path in folder.iterdir():
      path.unlink()
    folder.rmdir()


def _digest(job: Job) -> str:
  """What tells this map from any other: the model, the files with their times, and the settings."""
  stamps = []
  for scene in (job.scene, job.static):
    for path in map(Path, scene.files if scene else ()):
      every = sorted(path.rglob("*")) if path.is_dir() else [path]
      stats = [(p, p.stat()) for p in every if p.is_file()]
      stamps += [[str(p), stat.st_size, stat.st_mtime_ns] for p, stat in stats]
  about = dataclasses.asdict(job) | {"parts": "", "model": opened(job.model).about.get("sha256")}
  return hashlib.sha256(json.dumps([about, stamps], default=str).encode()).hexdigest()
