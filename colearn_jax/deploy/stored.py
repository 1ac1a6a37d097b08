"""What a user says on the command line of stored numbers: nodata, scale and offset."""

from __future__ import annotations

from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.types import InputError


def decoding(
  nodata: str | None, scale: float | None, offset: float | None, bands: int | None = None
) -> Decoding:
  """The flags `--nodata`, `--scale` and `--offset`.

  Args:
    nodata: a number; `none` if all are values; None if it is not said.
    scale: of all bands; None if it is not said.
    offset: of all bands; None if it is not said.
    bands: how many bands are named; None if they are not.

  Raises:
    InputError: nodata is no number.
  """
  known: float | tuple | None = None
  if nodata is not None:
    try:
      known = () if nodata == "none" else float(nodata)
    except ValueError:
      raise InputError(f"--nodata={nodata} is not allowed; a number, or none") from None
  return Decoding(known, scale, offset, bands)
