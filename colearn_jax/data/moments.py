"""Count, mean, variance, minimum and maximum of each band, in one pass over pieces of the samples."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
  """Statistics of each band of a modality, `[C]` float64. NaN and infinite values are ignored."""

  count: np.ndarray  # type: ignore[assignment]  # hides the method tuple.count, which nothing here calls
  mean: np.ndarray
  spread: np.ndarray  # sum of squared deviations from the mean
  least: np.ndarray  # inf for a band without values
  greatest: np.ndarray  # -inf for a band without values


def moments(x: np.ndarray) -> Moments:
  """The moments of the values in `x`, `[n ... C]`."""
  if x.dtype.kind in "iu" and x.dtype.itemsize <= 2:
    return _moments_of_small_integers(x)
  x = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T, np.float64)  # sums over contiguous memory are fast
  seen = np.isfinite(x)
  count = seen.sum(1, dtype=np.float64)
  mean = np.where(seen, x, 0.0).sum(1) / np.maximum(count, 1)
  return Moments(
    count=count,
    mean=mean,
    spread=np.square(np.where(seen, x - mean[:, None], 0.0)).sum(1),
    least=np.where(seen, x, np.inf).min(1, initial=np.inf),
    greatest=np.where(seen, x, -np.inf).max(1, initial=-np.inf),
  )


def _moments_of_small_integers(x: np.ndarray) -> Moments:
  """The same as `moments` for integers of 8 or 16 bits, from histograms, which is several times faster."""
  bits, unsigned = 8 * x.dtype.itemsize, np.dtype(f"u{x.dtype.itemsize}")
  bands = [band.ravel().view(unsigned) for band in np.moveaxis(x, -1, 0)]
  times = np.stack([np.bincount(band, minlength=2**bits) for band in bands])
  values = np.arange(2**bits, dtype=unsigned).view(x.dtype).astype(np.float64)  # the value of each bin
  count = times.sum(1, dtype=np.float64)
  mean = (times * values).sum(1) / np.maximum(count, 1)
  return Moments(
    count=count,
    mean=mean,
    spread=(times * np.square(values - mean[:, None])).sum(1),
    least=np.where(times > 0, values, np.inf).min(1),
    greatest=np.where(times > 0, values, -np.inf).max(1),
  )


def merge(a: Moments, b: Moments) -> Moments:
  """The moments of the union of two sets of values (Chan, Golub & LeVeque 1979)."""
  count = a.count + b.count
  share = b.count / np.maximum(count, 1)
  delta = b.mean - a.mean
  return Moments(
    count=count,
    mean=a.mean + delta * share,
    spread=a.spread + b.spread + np.square(delta) * a.count * share,
    least=np.minimum(a.least, b.least),
    greatest=np.maximum(a.greatest, b.greatest),
  )


def merged(pieces: Iterable[Mapping[str, Moments]]) -> dict[str, Moments]:
  """The moments of each modality over all pieces; holds one piece at a time."""
  join = lambda a, b: {m: merge(a[m], b[m]) for m in b}
  return dict(functools.reduce(join, pieces))
