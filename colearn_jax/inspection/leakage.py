"""What the parts of a run have in common: equal samples, groups, and windows of series that match.

Two samples of neighbouring dates at one place may hold the same steps, shifted by one or more. A model that
trained on one of them recognises the other, so that its score says how well it recognises places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.neighbors import KDTree

from colearn_jax.data.apart import nearest_days, nearest_km
from colearn_jax.data.splits import Run
from colearn_jax.inspection.scan import Steps

SHIFTS = 12  # steps by which windows may be shifted: a year of months
TOLERANCE = 1e-4  # of the bands' deviation, within which values count as equal
PLACE = 0.01  # degrees, about 1 km: samples in one such cell count as at the same place
DIMENSIONS = 8  # projections by which whole windows are compared


def near_duplicates(
  steps: Steps, train: np.ndarray, held_out: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
  """Which held-out samples share a window with a training sample, exactly or nearly.

  The window is all steps, or all but the first ones of one sample and as many last ones of the other: with T
  steps, up to T - 1 of them, and at most `SHIFTS`. Both samples lack the same values in it. It holds so many
  values that a match by chance is unlikely: with n training samples, at least (log10 n + 2) / 4. Windows are
  compared by random projections, which differ by less than `TOLERANCE` where the values do.

  Args:
    steps: of all samples of a sensor.
    train: rows of the training part.
    held_out: other rows.
    groups: `[N]`; if given, only training samples of the same group count.

  Returns:
    `[len(held_out)]` bool.
  """
  found, length = np.zeros(len(held_out), bool), steps.sketch.shape[1]
  codes = None if groups is None else np.unique(groups, return_inverse=True)[1]
  least = (np.log10(max(len(train), 1)) + 2) / -np.log10(TOLERANCE)
  for shift in range(-SHIFTS, SHIFTS + 1):
    window = length - abs(shift)
    if window < 1 or window * steps.values < least:
      continue
    early, late = slice(0, window), slice(length - window, length)
    ours, theirs = (late, early) if shift > 0 else (early, late)
    rows = np.flatnonzero(~found & steps.seen[held_out, ours].any(1))
    others = train[steps.seen[train, theirs].any(1)]
    if len(rows) and len(others):
      at = held_out[rows]
      found[rows] = _matches(steps, (at, ours), (others, theirs), codes)
  return found


def _matches(steps: Steps, query: tuple, stored: tuple, codes: np.ndarray | None) -> np.ndarray:
  """Which windows `(rows, slice)` of a query have a near one among those that are stored."""
  seen = np.concatenate([steps.seen[rows, part] for rows, part in (query, stored)])
  patterns = np.unique(seen, axis=0, return_inverse=True)[1].reshape(-1)
  windows = [steps.sketch[rows, part].reshape(len(rows), -1) for rows, part in (query, stored)]
  if (width := windows[0].shape[1]) > DIMENSIONS:
    weights = np.random.default_rng(2).normal(size=(width, DIMENSIONS))
    windows = [x @ (weights / np.linalg.norm(weights, axis=0)) for x in windows]
  # Whole numbers apart from each other keep windows of other patterns and groups out of reach.
  keys = [patterns[: len(query[0])], patterns[len(query[0]) :]]
  columns = [[x, key[:, None]] for x, key in zip(windows, keys)]
  if codes is not None:
    for column, (rows, _) in zip(columns, (query, stored)):
      column.append(codes[rows][:, None])
  points = [np.concatenate(column, axis=1).astype(np.float64) for column in columns]
  return KDTree(points[1], metric="chebyshev").query_radius(points[0], TOLERANCE, count_only=True) > 0


def equal_samples(digests: np.ndarray, runs: Sequence[Run]) -> list[np.ndarray]:
  """The rows of samples with the same inputs in all sensors, where they stand in different parts of a run.

  Args:
    digests: see `Scan`.
    runs: whose parts are compared.

  Returns:
    One array of rows for each such set of samples.
  """
  order = np.argsort(digests, kind="stable")
  sets = np.split(order, np.flatnonzero(np.diff(digests[order])) + 1)
  sets = [rows for rows in sets if len(rows) > 1 and digests[rows[0]]]
  apart = set()
  for run in runs if sets else ():
    part = parts(run, len(digests))
    apart |= {i for i, rows in enumerate(sets) if len(set(part[rows]) - {0}) > 1}
  return [rows for i, rows in enumerate(sets) if i in apart]


def parts(run: Run, size: int) -> np.ndarray:
  """For each of `size` rows its part in a run: 1 training, 2 validation, 3 test (and validation), 0 none."""
  out = np.zeros(size, int)
  out[run.train], out[run.validation], out[run.test] = 1, 2, 3
  return out


def straddling(groups: np.ndarray, run: Run) -> list[str]:
  """The groups of which samples stand in the training part of a run and in its validation or test part."""
  held = np.union1d(run.validation, run.test)
  return np.intersect1d(groups[run.train], groups[held]).tolist()


def leakage(
  steps: Mapping[str, Steps],
  present: Mapping[str, np.ndarray],
  digests: np.ndarray,
  groups: Mapping[str, np.ndarray],
  run: Run,
) -> dict:
  """What the test part of a run shares with its training part.

  Args:
    steps: of each sensor, see `Scan`.
    present: `[N]` for each sensor.
    digests: `[N]`, see `Scan`.
    groups: by feature the group of each sample, `[N]`.
    run: whose parts are compared.

  Returns:
    `equal`: the number of test samples whose inputs are equal to those of a training sample; `straddling`:
    the groups in both, by feature; `near_duplicates`: for each sensor the number of test samples that have
    it (`samples`), of those with a near-duplicate (`found`), and of those with one of the same group.
  """
  equal = (digests[run.test] > 0) & np.isin(digests[run.test], digests[run.train])
  near = {}
  for name, own in steps.items():
    train, test = (rows[present[name][rows] > 0] for rows in (run.train, run.test))
    count = lambda of=None, own=own, train=train, test=test: int(near_duplicates(own, train, test, of).sum())
    same = {group: count(of) for group, of in groups.items()}
    near[name] = {"samples": len(test), "found": count(), "same_group": same}
  return {
    "equal": int(equal.sum()),
    "straddling": {group: straddling(of, run) for group, of in groups.items()},
    "near_duplicates": near,
  }


def of_runs(
  steps: Mapping[str, Steps],
  present: Mapping[str, np.ndarray],
  digests: np.ndarray,
  groups: Mapping[str, np.ndarray],
  runs: Sequence[Run],
  *,
  dates: np.ndarray | None = None,
  places: np.ndarray | None = None,
) -> dict:
  """What the test parts of runs share with their training parts, and how near they are in time and space.

  Args:
    steps: of each sensor, see `Scan`.
    present: `[N]` for each sensor.
    digests: `[N]`, see `Scan`.
    groups: by feature the group of each sample, `[N]`.
    runs: of one seed.
    dates: `[N]` datetime64[D], NaT if unknown; None if the data set has none.
    places: `[N 2]`, latitude and longitude in degrees, NaN if unknown; None if the data set has none.

  Returns:
    `runs`: for each run by name the result of `leakage`, and `nearest` of this run; `near_duplicates`: those
    of all runs together; `nearest`: of all runs together.
  """
  each, gaps = {}, []
  for run in runs:
    gaps.append(_gaps(run, dates, places))
    each[run.name] = leakage(steps, present, digests, groups, run) | {"nearest": _summary(gaps[-1])}
  together = {name: np.concatenate([gap[name] for gap in gaps]) for name in (gaps[0] if gaps else ())}
  near = [one["near_duplicates"] for one in each.values()]
  return {
    "runs": each,
    "near_duplicates": {sensor: _total([one[sensor] for one in near]) for sensor in steps},
    "nearest": _summary(together),
  }


def _total(runs: Sequence[Mapping]) -> dict:
  """The near-duplicates of a sensor in all runs together."""
  add = lambda counts: {name: sum(one[name] for one in counts) for name in counts[0]}
  numbers = add([{name: one[name] for name in ("samples", "found")} for one in runs])
  return numbers | {"same_group": add([one["same_group"] for one in runs])}


def _gaps(run: Run, dates: np.ndarray | None, places: np.ndarray | None) -> dict[str, np.ndarray]:
  """The distances of each test sample to the nearest training sample, `[len(run.test)]`; inf without one.

  They are `km`, `days`, and `days at the same place`, which counts only training samples there.
  """
  out = {}
  if places is not None:
    out["km"] = nearest_km(places, run.test, run.train)
  if dates is not None:
    out["days"] = nearest_days(dates, run.test, run.train)
  if dates is not None and places is not None:
    cells = np.round(np.nan_to_num(places, nan=999.0) / PLACE)
    known = lambda rows: rows[~np.isnan(places[rows]).any(1)]
    codes = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    out["days at the same place"] = nearest_days(dates, run.test, known(run.train), codes)
  return out


def _summary(gaps: Mapping[str, np.ndarray]) -> dict[str, dict]:
  """Of each distance: how many samples have one, the least one and the median of those."""
  out = {}
  for name, values in gaps.items():
    has = values[np.isfinite(values)]
    least, median = (float(np.min(has)), float(np.median(has))) if len(has) else (None, None)
    out[name] = {"samples": len(values), "found": len(has), "least": least, "median": median}
  return out
