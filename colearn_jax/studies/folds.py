"""Checks that all arms of a cell were scored on the same samples."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from colearn_jax.types import InputError

Part = tuple[str, str]  # seed and fold


def scored_parts(workdir: Path) -> dict[Part, list[str]]:
  """The sorted ids of the test part of each seed and fold of a finished run directory.

  Raises:
    InputError: the directory has no predictions.
  """
  path = next(iter(sorted((workdir / "predictions").glob("*.csv"))), None)
  if path is None:
    raise InputError(f"there are no predictions in {workdir}")
  out: dict[Part, list[str]] = {}
  with open(path, newline="", encoding="utf-8") as file:
    rows = csv.reader(file)
    next(rows)
    for name, seed, fold, *_ in rows:
      out.setdefault((seed, fold), []).append(name)
  return {part: sorted(ids) for part, ids in out.items()}


def check(cell_dir: Path, arms: Sequence[str]) -> None:
  """Checks that finished arms of a cell have the same seeds, folds and test parts.

  Args:
    cell_dir: directory of the cell.
    arms: names of the arms.

  Raises:
    InputError: two arms differ.
  """
  first: dict[Part, list[str]] | None = None
  for name in arms:
    if not (cell_dir / name / "results.json").is_file():
      continue
    parts = scored_parts(cell_dir / name)
    if first is None:
      first, reference = parts, name
    for part in first | parts:
      if first.get(part) != parts.get(part):
        where = f"seed {part[0]}, fold {part[1]}"
        raise InputError(f"{cell_dir}: arms {reference} and {name} have different test parts ({where})")
