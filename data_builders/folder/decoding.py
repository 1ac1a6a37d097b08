"""What a user says of the stored numbers of a view: nodata, scale and offset; and what looks like nodata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

# What usually means that nothing is known, in numbers of any type.
CODES = (-999, -999.9, -9999, -9999.9, -99999, -999999)
HIGH_CODES = (9999, 99999, 999999)  # in numbers of any type where all others are much smaller
FEW = 4  # values of a band: with fewer, all bands are looked at together
HUGE = 1e19  # 1e20 in climate models, 3.4e38 as the greatest float32


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
    masked: whether a mask says what is hidden; high numbers under it need no explanation.
  """

  nodata: float | tuple[float, ...] | None = None
  scale: float | tuple[float, ...] | None = None
  offset: float | tuple[float, ...] | None = None
  bands: int | None = None
  elsewhere: tuple[float, ...] = ()
  masked: bool = False

  @classmethod
  def of(cls, described: Mapping[str, object]) -> Decoding:
    """From what is said of a view."""
    plain = lambda value: tuple(map(float, value)) if isinstance(value, list) else value
    given = {key: plain(described.get(key)) for key in ("nodata", "scale", "offset")}
    bands = len(described["bands"]) if described.get("bands") else None
    return cls(**given, bands=bands, masked="mask" in described)

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
      _check(values, stored, () if self.masked else HIGH_CODES)
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


def _check(values: np.ndarray, stored: np.ndarray, high: Sequence[float]) -> None:
  """Raises UnclearError for a code such as -9999 that is far from all other numbers of its band."""
  if stored.dtype.kind not in "iuf":
    return
  there = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
  several = stored.ndim > 1 and stored.size >= FEW * stored.shape[-1]
  bands = [stored[..., k][there[..., k]] for k in range(stored.shape[-1])] if several else []
  # A band of one number alone, say at a place without values, is looked at together with the others.
  for seen in (stored[there], *(band for band in bands if band.size and band.min() < band.max())):
    if seen.size and (code := _code(seen, high)) is not None:
      raise UnclearError(
        f"holds {code:.6g}: a value, or nodata? Say so in dataset.json, for the view: "
        f'{{"nodata": {code:.17g}}}, or {{"nodata": []}} if it is a value'
      )


def _code(seen: np.ndarray, high: Sequence[float]) -> float | None:
  """The number among these that looks like nodata, if there is one."""
  least, most, dtype = seen.min(), seen.max(), seen.dtype
  whole = dtype.kind in "iu" and dtype.itemsize > 1
  is_one = lambda number, codes: any(
    number == np.float64(code).astype(dtype, casting="unsafe") for code in codes
  )
  lowest = dtype.kind == "i" and whole and least == np.iinfo(dtype).min
  if least < 0 and (is_one(least, CODES) or lowest or least < -HUGE):
    others = seen[seen != least]
    return least.item() if not others.size or others.min() > least / 2 else None
  if most > HUGE:
    return most.item()
  highest = whole and most == np.iinfo(dtype).max
  if highest or is_one(most, high):
    others = seen[seen != most]
    far = others.max() < most / 2 if others.size else highest
    return most.item() if far else None
  return None
