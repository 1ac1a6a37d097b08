"""Views of which some files hold whole numbers and others decimals: are they in one unit?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder import arrays
from colearn_jax.datasets.folder.decoding import Decoding

from colearn_jax.types import InputError

FACTOR = 5  # between what is usual in both; units of ten times another one are common
FEW = 8  # files of each kind that are read
NAMES = {"b": "true and false", "i": "whole numbers", "f": "decimals"}


def check(
  view: str, stored: Iterable[tuple[Path, str]], bands: Sequence[str], decoding: Decoding, masks: bool
) -> None:
  """Refuses files of different kinds whose numbers differ in size, of which some may be in another unit.

  Whole numbers of any width are one kind, and so are decimals. The middle of the values that are not 0 is
  compared, band by band, over a few files of each kind.

  Args:
    view: its name.
    stored: its files, and what `arrays.Header.kinds` says of each.
    bands: of the view.
    decoding: what the user says.
    masks: whether the view is a mask or has one. True is 100 % there, and 1 among numbers.

  Raises:
    InputError: the middle of one kind is more than `FACTOR` times that of another one.
  """
  files: dict[str, list[Path]] = {}
  for path, kind in stored:
    files.setdefault(kind, []).append(path)
  if len(files) < 2:
    return
  named = lambda kind: " and ".join(NAMES[one] for one in kind)
  shown = lambda kind: f"{files[kind][0]} holds {named(kind)}"
  if masks and "b" in files:
    other = next(kind for kind in files if kind != "b")
    raise InputError(f"view {view}: {shown('b')}, {shown(other)}; all have to hold the one or the other")
  middles = {kind: _middle(_spread(paths), decoding, len(bands)) for kind, paths in files.items()}
  for one, other in itertools.combinations(files, 2):
    a, b = middles[one], middles[other]
    far = np.maximum(a, b) / np.minimum(a, b)
    if (far > FACTOR).any():  # NaN where a band has no value
      k = int(np.nanargmax(far))
      raise InputError(
        f"view {view}: {shown(one)}, {shown(other)}, about {a[k]:.3g} and {b[k]:.3g} in band {bands[k]}; "
        "write all files in one unit, or give the view its units in dataset.json if they are in one"
      )


def _spread(paths: Sequence[Path]) -> list[Path]:
  """A few files, of the beginning, the middle and the end."""
  return [paths[i] for i in sorted(set(np.linspace(0, len(paths) - 1, FEW).round().astype(int).tolist()))]


def _middle(paths: Sequence[Path], decoding: Decoding, bands: int) -> np.ndarray:
  """The median of the absolute values that are not 0, `[C]`; NaN where there is none."""
  parts = []
  for path in paths:
    try:
      values, _, _ = arrays.read([path], decoding, dated=False)
    except InputError:  # it is told when the sample is read
      continue
    parts.append(np.abs(values.reshape(-1, bands).astype(np.float64)))
  every = np.concatenate(parts) if parts else np.zeros((0, bands))
  known = [band[np.isfinite(band) & (band > 0)] for band in every.T]
  return np.array([np.median(band) if band.size else np.nan for band in known])
