"""The groups by which folds are cut: features of the data set, calendar parts of dates, and blocks of land.

`protocol.group_by` names one or more of them:

- a group of the data set, e.g. `site`;
- `year` (2016), `month` (of the year, 01 to 12) or `season` (DJF, MAM, JJA, SON) of the sample's date;
- `block`: cells of a grid with sides of about `protocol.block_km`. Each seed shifts the grid.

If the data set has a group named like a calendar part, its own group is used. Its own `block` is used unless
`protocol.block_km` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from colearn_jax.data.apart import EARTH_KM
from colearn_jax.types import InputError

SEASONS = np.array(["DJF", "MAM", "JJA", "SON"])
_month = lambda dates: dates.astype("datetime64[M]").astype(np.int64) % 12 + 1
CALENDAR: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "year": lambda dates: dates.astype("datetime64[Y]").astype(str),
  "month": lambda dates: np.char.zfill(_month(dates).astype(str), 2),
  "season": lambda dates: SEASONS[_month(dates) % 12 // 3],
}
BLOCK = "block"
EACH = "each"  # as many folds as groups


def names(group_by: str) -> tuple[str, ...]:
  """The features in `protocol.group_by`, e.g. `("site", "year")` for `site,year`."""
  return tuple(name.strip() for name in group_by.split(",")) if group_by.strip() else ()


def parse_folds(folds: object) -> tuple[int | str, ...]:
  """The entries of `protocol.folds`: a number, `each`, or several of them as text with commas or a tuple.

  Raises:
    ValueError: an entry is neither.
  """
  given = folds.split(",") if isinstance(folds, str) else folds if isinstance(folds, tuple) else (folds,)
  words = [str(one).strip() for one in given]
  return tuple(word if word == EACH else int(word) for word in words)


def parts_of_features(folds: object, features: Sequence[str]) -> tuple[int | str, ...]:
  """The number of parts of each feature of `protocol.folds`, e.g. `(10, "each")` for `10,each`.

  Args:
    folds: a number, `each`, or one of them for each feature: text with commas, or a tuple.
    features: by whose groups folds are cut; none for folds of single samples.

  Raises:
    InputError: the number of entries is wrong, or `each` is used without groups.
  """
  out, wanted = parse_folds(folds), max(len(features), 1)
  if len(out) not in (1, wanted):
    raise InputError(
      f"protocol.folds: {len(out)} numbers for {len(features)} features in protocol.group_by; one number, or "
      "one for each of them"
    )
  if EACH in out and not features:
    raise InputError("protocol.folds: 'each' leaves one group out at a time and needs protocol.group_by")
  return out * (wanted if len(out) == 1 else 1)


def available(own: tuple[str, ...], *, dated: bool, located: bool, block_km: float) -> list[str]:
  """The features that a data set offers.

  Args:
    own: groups of the data set.
    dated: whether samples have a date.
    located: whether samples have coordinates.
    block_km: see `features`.
  """
  calendar, block = CALENDAR if dated else (), [BLOCK] if located and block_km else []
  return list(dict.fromkeys([*own, *calendar, *block]))


def features(
  group_by: str,
  own: Mapping[str, np.ndarray],
  *,
  dates: np.ndarray | None,
  places: np.ndarray | None,
  block_km: float,
  seed: int,
  key: str = "protocol.group_by",
) -> dict[str, np.ndarray]:
  """The groups of all samples by feature, `[N]` str each, in the order of `group_by`.

  Args:
    group_by: names, separated by commas.
    own: groups of the data set, `[N]` str each.
    dates: `[N]` datetime64[D]; None if the data set has none.
    places: `[N 2]`, latitude and longitude in degrees; None if the data set has none.
    block_km: side of the cells of `block`; 0: the data set's own group of that name.
    seed: shifts the grid of blocks.
    key: the configuration key of `group_by`, for messages.

  Raises:
    InputError: there is no such feature, or a sample lacks the date or the place that it needs.
  """
  out = {}
  for name in names(group_by):
    if name == BLOCK and block_km and places is not None:
      out[name] = blocks(known(places, "coordinates", f"{key}=block"), block_km, seed)
    elif name in own:
      out[name] = own[name]
    elif name in CALENDAR and dates is not None:
      out[name] = CALENDAR[name](known(dates, "date", f"{key}={name}"))
    else:
      have = available(tuple(own), dated=dates is not None, located=places is not None, block_km=block_km)
      raise InputError(f"{key}: there is no group {name!r}, have: {', '.join(have) or 'none'}")
  return out


def balance(groups: Mapping[str, np.ndarray], rows: np.ndarray, power: float) -> np.ndarray:
  """Weights with which groups count alike, whatever their size: those of a row are 1 / n^power.

  n is the number of `rows` in the group of the row. With several features a group is a combination of them.

  Args:
    groups: by feature, `[N]` each; at least one.
    rows: the labelled rows of a training part.
    power: 1: all groups have the same weight. 0: all rows have.

  Returns:
    `[N]` float32, with the mean 1 over `rows`. 1 for rows of other groups.
  """
  code = _combined(groups)
  count = np.bincount(code[rows], minlength=code.max() + 1)[code].astype(np.float64)
  weight = np.maximum(count, 1.0) ** -power
  return np.where(count > 0, weight / weight[rows].mean(), 1.0).astype(np.float32)


def codes(groups: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
  """The group of each row of a training part as a number from 0 on.

  Args:
    groups: see `balance`.
    rows: the rows that get a number.

  Returns:
    `[N]` int32, less than the number of `rows`; -1 for all other rows.
  """
  out = np.full(len(next(iter(groups.values()))), -1, np.int32)
  out[rows] = np.unique(_combined(groups)[rows], return_inverse=True)[1].reshape(-1)
  return out


def _combined(groups: Mapping[str, np.ndarray]) -> np.ndarray:
  """The combination of several features as a number."""
  each = np.stack([np.unique(of, return_inverse=True)[1].reshape(-1) for of in groups.values()], axis=1)
  return np.unique(each, axis=0, return_inverse=True)[1].reshape(-1)


def known(values: np.ndarray | None, what: str, key: str) -> np.ndarray:
  """The dates or places of all samples.

  Raises:
    InputError: the data set has none, or a sample lacks its own.
  """
  if values is None:
    raise InputError(f"{key}: the samples of this data set have no {what}")
  lacking = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values).any(1)
  if lacking.any():
    raise InputError(f"{key}: {lacking.sum()} of {len(values)} samples have no {what}, which it needs")
  return values


def blocks(places: np.ndarray, km: float, seed: int) -> np.ndarray:
  """The cell of each place in a grid, `[N]` str.

  The grid has rows of equal height. Each row is divided into equal cells, whose width is nearest to the
  height in the middle of the row, so that cells have nearly equal areas.

  Args:
    places: `[N 2]`, latitude and longitude in degrees.
    km: height of the cells.
    seed: shifts rows and cells by a random part of a cell.
  """
  shift = np.random.RandomState(seed).uniform(size=2)
  height = np.degrees(km / EARTH_KM)
  row = np.floor((places[:, 0] + 90) / height + shift[0])
  middle = np.clip((row + 0.5 - shift[0]) * height - 90, -90, 90)
  width = 2 * np.pi * EARTH_KM * np.cos(np.radians(middle)) / km  # of the whole circle, in cells
  cells = np.maximum(np.round(width), 1)
  column = np.floor((places[:, 1] + 180) / 360 * cells + shift[1]) % cells
  return np.array([f"{r:.0f}_{c:.0f}" for r, c in zip(row, column)])
