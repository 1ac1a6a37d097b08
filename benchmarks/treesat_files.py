"""Generated files like those of TreeSatAI-TS, of realistic sizes, and the data set built from them."""

from __future__ import annotations

import shutil
from pathlib import Path

from colearn_jax.datasets import build
from colearn_jax.datasets.treesat_ts.dummy import STEPS, published_names, random_names, write_dummy


def write(directory: str | Path, samples: int, names: str = "") -> Path:
  """Writes source files with `samples` training samples, and a tenth as many of each other part.

  Args:
    directory: where the files go; files of an earlier call are used again.
    samples: number of training samples.
    names: a directory with the published `labels` and `split`, to take names and labels from; without one
      they are random.

  Returns:
    The directory of the files.
  """
  there, part = Path(directory) / f"files{samples}", Path(directory) / f"files{samples}.part"
  if not there.is_dir():
    shutil.rmtree(part, ignore_errors=True)
    counts = {"train": samples, "val": max(samples // 10, 2), "test": max(samples // 10, 2)}
    splits, labels = published_names(names, counts) if names else random_names(counts)
    write_dummy(part, splits, labels, steps=STEPS)
    part.rename(there)
  return there


def prepare(directory: str | Path, samples: int, names: str = "") -> dict[str, str]:
  """Writes the files and builds the data set; returns the configuration keys that lead to it."""
  source, prepared = write(directory, samples, names), Path(directory) / f"prepared{samples}"
  build.build("treesat_ts", prepared, manual_dir=source)
  return {"data.manual_dir": str(source), "data.data_dir": str(prepared)}
