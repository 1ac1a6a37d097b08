"""What a user says of the stored numbers of a view: nodata, scale and offset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Decoding:
  """What `dataset.json` says of the stored numbers of a view: `value * scale + offset`, `nodata` missing.

  Attributes:
    nodata: of all bands or of each; None where only the files say it.
    scale: of all bands or of each; with an offset it replaces that of the files.
    offset: of all bands or of each.
    bands: how many bands are named, None if none.
  """

  nodata: float | tuple[float, ...] | None = None
  scale: float | tuple[float, ...] | None = None
  offset: float | tuple[float, ...] | None = None
  bands: int | None = None

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
    return np.result_type(stored, np.float32) if self.scaled or self.nodata is not None else stored

  def hide(self, values: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """The values, NaN where nodata is stored; bands are last in both."""
    if self.nodata is None:
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
