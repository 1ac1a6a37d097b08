"""Files in the layout of TreeSatAI-TS to measure with, of realistic lengths and sizes, and built."""

from __future__ import annotations

import shutil
from pathlib import Path

from colearn_jax.datasets import build
from colearn_jax.datasets.treesat_ts.dummy import STEPS, published_names, random_names, write_dummy


def write(directory: str | Path, samples: int, names: str = "") -> Path:
  """The source files of so many training samples, and a tenth as many of each other part.

  Args:
    directory: where; what is there from before is used again.
    samples: of the training part.
    names: a directory with the published `labels` and `split`, whose names and labels are taken; else names
      and labels are drawn.
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
  """The same files, built: what a configuration needs to find them."""
  source, prepared = write(directory, samples, names), Path(directory) / f"prepared{samples}"
  build.build("treesat_ts", prepared, manual_dir=source)
  return {"data.manual_dir": str(source), "data.data_dir": str(prepared)}
