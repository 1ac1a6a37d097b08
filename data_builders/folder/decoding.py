"""What a user says of the stored numbers of a view: nodata, scale and offset; and what looks like nodata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

CODES = (-9999, -99999)  # what usually means that nothing is known, in numbers of any type


class UnclearError(Exception):
  """Stored numbers that can be read in two ways; the message follows the name of the file."""


@dataclasses.dataclass(frozen=True)
class Decoding:
  """What `dataset.json` says of the stored numbers of a view: `value * scale + offset`, `nodata` missing.

  Attributes:
    nodata: of all bands or of each, () for none; None where only the files say it.
    scale: of all bands or of each; with an offset it replaces that of the files.
    offset: of all bands or of each.
    bands: how many bands are named, None if none.
    elsewhere: the nodata values of other files of the view; a file that has one without saying so is unclear.
  """

  nodata: float | tuple[float, ...] | None = None
  scale: float | tuple[float, ...] | None = None
  offset: float | tuple[float, ...] | None = None
  bands: int | None = None
  elsewhere: tuple[float, ...] = ()

  @classmethod
  def of(cls, described: Mapping[str, object]) -> Decoding:
    """From what is said of a view."""
    plain = lambda value: tuple(map(float, value)) if isinstance(value, list) else value
    given = {key: plain(described.get(key)) for key in ("nodata", "scale", "offset")}
    return cls(**given, bands=len(described["bands"]) if described.get("bands") else None)

  @property
  def scaled(self) -> bool:
    """Whether scale or offset are given."""
    return self.scale is not None or self.offset is not None

  def dtype(self, stored: np.dtype) -> np.dtype:
    """The type of the values."""
    hides = self.nodata is not None and self.nodata != ()
    return np.result_type(stored, np.float32) if self.scaled or hides else stored

  def hide(self, values: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """The values, NaN where nodata is stored; bands are last in both.

    Raises:
      UnclearError: a number looks like nodata, and neither the file nor the user says what it is.
    """
    if self.nodata is None:
      _check(values, stored)
    if self.nodata is None or self.nodata == ():
      return values
    # in the file's own precision, for 3.4e38 is not the same number in float32 and float64
    nodata = np.asarray(self.nodata, stored.dtype if stored.dtype.kind == "f" else np.float64)
    return np.where(stored == nodata, np.nan, values.astype(self.dtype(values.dtype)))

  def unpack(self, values: np.ndarray) -> np.ndarray:
    """The values with the user's scale and offset applied."""
    if not self.scaled:
      return values
    scale, offset = (1 if self.scale is None else self.scale), (0 if self.offset is None else self.offset)
    return (values * np.asarray(scale, float) + np.asarray(offset, float)).astype(np.float32)


def _check(values: np.ndarray, stored: np.ndarray) -> None:
  """Raises UnclearError for a code such as -9999 that is far from all other numbers."""
  seen = stored[np.isfinite(values)] if values.dtype.kind == "f" else stored
  if not seen.size or seen.dtype.kind not in "iuf":
    return
  least, most = seen.min().item(), seen.max().item()
  highest = seen.dtype.kind == "u" and seen.dtype.itemsize > 1 and most == np.iinfo(seen.dtype).max
  lowest = seen.dtype.kind == "i" and seen.dtype.itemsize > 1 and least == np.iinfo(seen.dtype).min
  if least in CODES or lowest or least < -1e30:
    code, others = least, seen[seen != least]
    odd = not others.size or others.min() > least / 2
  else:
    code, others = most, seen[seen != most] if highest else seen[:0]
    odd = most > 1e30 or highest and (not others.size or others.max() < most / 2)
  if odd:
    raise UnclearError(
      f"holds {code:.6g}: a value, or nodata? Say so in dataset.json, for the view: "
      f'{{"nodata": {code:.17g}}}, or {{"nodata": []}} if it is a value'
    )
