"""Batches of inputs on their way to a device, and predictions on their way back."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from colearn_jax.types import InputError


def as_numbers(x: np.ndarray, what: str) -> np.ndarray:
  """Checks that an array is numeric. Masked values become NaN; also those in a list of masked arrays."""
  if isinstance(x, list | tuple):
    try:
      # np.asarray would ignore the masks of arrays in a list.
      x = np.ma.stack(x) if any(isinstance(one, np.ma.MaskedArray) for one in x) else np.asarray(x)
    except ValueError:
      raise InputError(
        f"{what} has samples of different shapes, needed: one shape; bring series to one length first"
      ) from None
  mask = np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else None
  x = np.asarray(x)
  if x.dtype.kind not in "biuf" and x.dtype.name != "bfloat16":
    raise InputError(f"{what} has dtype {x.dtype}, needed: real numbers")
  if x.ndim == 0:
    raise InputError(f"{what} is a single number, needed: one row for each sample")
  if mask is not None:
    x = np.where(mask, np.nan, x.astype(np.result_type(x.dtype, np.float32)))
  return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))  # the device knows one byte order


def narrow(x: np.ndarray) -> np.ndarray:
  """Converts dtypes of 32 bits or more to float32. Narrower ones are converted on the device."""
  if x.dtype.itemsize < 4 or x.dtype == np.float32:
    return x
  with np.errstate(over="ignore"):  # float64 values that are too large become infinite
    return x.astype(np.float32)


def padded(x: np.ndarray, rows: int) -> np.ndarray:
  """Appends rows of zeros. Their predictions are dropped; they do not affect the other rows."""
  if len(x) == rows:
    return x
  out = np.zeros((rows, *x.shape[1:]), x.dtype)
  out[: len(x)] = x
  return out


def spread_of(each: np.ndarray) -> np.ndarray:
  """Standard deviation over runs `[R N C]`; NaN for a single one."""
  return each.std(0, ddof=1) if len(each) > 1 else np.full_like(each[0], np.nan)


def store(out: np.ndarray, rows: slice, predicted: Sequence[jax.Array]) -> None:
  """Writes the predictions of each run for these rows to `out` `[R N C]`, without what was padded."""
  for run, values in enumerate(jax.device_get(predicted)):
    out[run, rows] = values[: rows.stop - rows.start]


def power_of_two(n: int) -> int:
  """The smallest power of two that is at least `n`."""
  return 1 << max(n - 1, 0).bit_length()
