"""Samples as a table of numbers, for the learners of scikit-learn."""

from __future__ import annotations

import numpy as np

from colearn_jax.methods.base import Samples


def tabulated(samples: Samples, rows: np.ndarray) -> np.ndarray:
  """The values of all sensors as columns `[n F]` float32, NaN where missing or where the sensor is absent.

  Of inputs with rows and columns of pixels the columns are mean and standard deviation over the pixels. The
  last columns are 1 where a sample has the sensor.
  """
  columns = []
  for m, values in sorted(samples.inputs.items()):
    x = np.asarray(values[rows], np.float32)
    if x.ndim >= 4:  # [n ... H W C]
      x = np.concatenate([_over_pixels("mean", x), _over_pixels("std", x)], axis=-1)
    x = x.reshape(len(rows), -1)
    there = np.asarray(samples.present[m][rows]) if m in samples.present else np.ones(len(rows))
    columns.append(np.where(there[:, None] > 0, x, np.nan))
  columns += [np.asarray(samples.present[m][rows])[:, None] for m in sorted(samples.present)]
  return np.concatenate(columns, axis=1).astype(np.float32)


def _over_pixels(statistic: str, x: np.ndarray) -> np.ndarray:
  """A statistic over the pixels that are not NaN, `[n ... H W C]` to `[n ... C]`; NaN where all are."""
  x = np.ma.masked_invalid(x)
  return np.ma.filled(getattr(x, statistic)(axis=(-3, -2)), np.nan)


def imputed(features: np.ndarray, fit: np.ndarray) -> np.ndarray:
  """Replaces missing values by the mean of the column over the rows `fit`; 0 where all of these are missing.

  Args:
    features: `[n F]` float32, NaN where missing.
    fit: the rows on which a learner is fitted, `[n]` bool or row numbers.
  """
  known = np.isfinite(features[fit])
  mean = np.where(known, features[fit], 0.0).sum(0) / np.maximum(known.sum(0), 1)
  return np.where(np.isfinite(features), features, mean).astype(np.float32)
