"""One pass over all samples, in pieces: what the report, the search for duplicates and the plots need."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from colearn_jax.data.dataset import Dataset
from colearn_jax.data.moments import Moments, merge, moments
from colearn_jax.data.reader import READ, Source, Table, make_reader
from colearn_jax.types import CONTEXT, Modality

PIECE_BYTES = 2**21  # of the samples that are looked at together
EXAMPLES, EXAMPLE_BYTES = 512, 2**25  # samples that are kept whole, for the plots
PROJECTIONS = 4  # numbers that stand for one step of a sample


@dataclasses.dataclass(frozen=True)
class Steps:
  """The steps of all samples of a modality in few numbers. An image or static values are one step.

  Attributes:
    sketch: `[N T K]` float32, random projections of the step, its bands in units of their deviation and
      missing values as 0; equal steps have equal projections.
    seen: `[N T]` uint32, a code of which values are missing; 0 where all are.
    values: the number of values of one step that are not constant.
  """

  sketch: np.ndarray
  seen: np.ndarray
  values: int


@dataclasses.dataclass(frozen=True)
class Scan:
  """What one pass over the samples finds.

  Attributes:
    moments: of each band of each modality, over the samples that have it.
    equal_bands: for each modality the bands whose values are the same in all samples.
    present: `[N]` float32 for each sensor.
    steps: of each sensor.
    zeros: for each sensor with several bands, the share of its known steps or pixels where all bands are 0.
    digests: `[N]` uint64 of the inputs of all sensors, 0 for a sample without any.
    days: for each view with dates the first and the last, ISO; None if no sample has one.
    dates: `[N]` ISO days of the samples, empty if unknown; None if the data set has none.
    coordinates: `[N 2]` latitude and longitude in degrees; None if the data set has none.
    rows: of the samples that were kept whole.
    examples: these samples, as the reader gives them.
  """

  moments: Mapping[str, Moments]
  equal_bands: Mapping[str, list[tuple[str, ...]]]
  present: Mapping[str, np.ndarray]
  steps: Mapping[str, Steps]
  zeros: Mapping[str, float]
  digests: np.ndarray
  days: Mapping[str, tuple[str, str] | None]
  dates: np.ndarray | None
  coordinates: np.ndarray | None
  rows: np.ndarray
  examples: Table


def scan(dataset: Dataset, modalities: Sequence[Modality], dated: Sequence[str]) -> Scan:
  """Reads all samples once.

  Args:
    dataset: whose samples.
    modalities: as `setup.make_modalities` gives them.
    dated: the views whose days are dates.
  """
  reader, size = make_reader(dataset, modalities), len(dataset)
  count = min(size, EXAMPLES, max(EXAMPLE_BYTES // max(reader.nbytes, 1), 8))
  rows = np.unique(np.linspace(0, size - 1, count).astype(int))
  examples = _stack([reader(row) for row in rows])
  sensors = [m for m in modalities if m.name != CONTEXT]
  views = [view for m in sensors for view in m.views if view in dataset.ragged and view in dated]
  facts: dict[str, Any] = {"date": None} if dataset.dated else {}
  facts |= {"coordinates": None} if dataset.located else {}
  facts |= {"dates": dict.fromkeys(views)} if views else {}
  source = Source(dataset, facts) if facts else None
  sketches = {m.name: _Sketch(m, examples["inputs"][m.name]) for m in sensors}

  def look(rows: np.ndarray) -> dict:
    piece = _stack([reader(row) for row in rows])
    inputs, present = piece["inputs"], piece["present"]
    digests = {name: _band_digests(x) for name, x in inputs.items()}
    return {
      "moments": {n: moments(x[present[n] > 0] if n in present else x) for n, x in inputs.items()},
      "bands": digests,
      "present": present,
      "zeros": {name: _zeros(inputs[name][present[name] > 0]) for name in present},
      "steps": {name: sketch(inputs[name]) for name, sketch in sketches.items()},
      "digests": _sample_digests(inputs, present),
      **_facts([source[row] for row in rows] if source else [], views),
    }

  per_piece = min(max(PIECE_BYTES // max(reader.nbytes, 1), 1), 256)
  pieces = np.array_split(np.arange(size), -(-size // per_piece))
  found = list(grain.MapDataset.source(pieces).map(look).to_iter_dataset(READ))  # without the values
  joined = lambda of: np.concatenate([of(piece) for piece in found])
  total = found[0]["moments"]
  for piece in found[1:]:
    total = {name: merge(total[name], piece["moments"][name]) for name in total}
  return Scan(
    moments=total,
    equal_bands={m.name: _equal(m.bands, [piece["bands"][m.name] for piece in found]) for m in modalities},
    present={m.name: joined(lambda piece, m=m: piece["present"][m.name]) for m in sensors},
    steps={
      name: Steps(
        joined(lambda piece, n=name: piece["steps"][n][0]),
        joined(lambda piece, n=name: piece["steps"][n][1]),
        sketch.values,
      )
      for name, sketch in sketches.items()
    },
    zeros={
      m.name: _share(np.sum([piece["zeros"][m.name] for piece in found], axis=0))
      for m in sensors
      if len(m.shape) > 1 and len(m.bands) > 1
    },
    digests=joined(lambda piece: piece["digests"]),
    days={view: _iso([end for piece in found for end in piece["days"][view]]) for view in views},
    dates=joined(lambda piece: piece["dates"]) if dataset.dated else None,
    coordinates=joined(lambda piece: piece["coordinates"]) if dataset.located else None,
    rows=rows,
    examples=examples,
  )


class _Sketch:
  """Random projections of the steps of a modality, see `Steps`."""

  def __init__(self, modality: Modality, examples: np.ndarray):
    x = examples.astype(np.float64).reshape(-1, len(modality.bands))
    count = np.maximum(np.isfinite(x).sum(0), 1)
    x = np.where(np.isfinite(x), x, 0.0)
    self._mean = x.sum(0) / count
    scale = np.sqrt(np.maximum(np.square(x).sum(0) / count - np.square(self._mean), 0.0))
    varies = scale > 1e-9 * np.abs(self._mean)
    self._scale = np.where(varies, scale, 1.0)
    self._series = len(modality.shape) in (2, 4)
    pixels = int(np.prod(modality.shape[self._series : -1]))
    self.values = int(varies.sum()) * pixels
    weights = np.random.default_rng(0).normal(size=(pixels * len(varies), PROJECTIONS))
    self._weights = weights / np.linalg.norm(weights, axis=0)

  def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`sketch` and `seen` of samples `[n *shape]`."""
    steps = x.shape[1] if self._series else 1
    seen = np.isfinite(x) if x.dtype.kind == "f" else np.ones(x.shape, bool)
    z = np.where(seen, (x - self._mean) / self._scale, 0.0).reshape(len(x), steps, -1)
    return (z @ self._weights).astype(np.float32), _codes(seen.reshape(len(x), steps, -1))


def _codes(seen: np.ndarray) -> np.ndarray:
  """A code of each pattern `[n T P]` of seen values; 0 where none is."""
  bits = np.packbits(seen, axis=-1)
  factors = np.random.default_rng(1).integers(1, 2**31, bits.shape[-1], dtype=np.uint32)
  codes = (bits.astype(np.uint32) * factors).sum(-1, dtype=np.uint32)
  return np.where(seen.any(-1), np.maximum(codes, 1), 0).astype(np.uint32)


def _stack(samples: Sequence[dict]) -> Table:
  """Samples of the reader as one table."""
  return {
    part: {name: np.stack([sample[part][name] for sample in samples]) for name in named}
    for part, named in samples[0].items()
  }


def _zeros(x: np.ndarray) -> tuple[int, int]:
  """How many places of `[n ... C]` are 0 in all bands, and how many have a value."""
  return int((x == 0).all(-1).sum()), int(np.isfinite(x).any(-1).sum())


def _share(counts: np.ndarray) -> float:
  zeros, known = counts
  return float(zeros / max(known, 1))


def _plain(x: np.ndarray) -> np.ndarray:
  """The values with one kind of NaN and one of zero, so that equal values have equal bytes."""
  return np.where(np.isnan(x), np.float32(np.nan), x + np.float32(0)) if x.dtype.kind == "f" else x


def _hash(x: np.ndarray) -> bytes:
  return hashlib.blake2b(np.ascontiguousarray(x).tobytes(), digest_size=8).digest()


def _band_digests(x: np.ndarray) -> list[bytes]:
  return [_hash(band) for band in np.moveaxis(_plain(x), -1, 0)]


def _sample_digests(inputs: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]) -> np.ndarray:
  """A digest of each sample's sensors that are there, `[n]` uint64; 0 for a sample without any."""
  plain = {name: _plain(inputs[name]) for name in present}
  size = len(next(iter(present.values())))
  out = np.zeros(size, np.uint64)
  for i in range(size):
    there = [name.encode() + _hash(x[i]) for name, x in plain.items() if present[name][i] > 0]
    if there:
      digest = hashlib.blake2b(b"".join(there), digest_size=8).digest()
      out[i] = max(int.from_bytes(digest, "little"), 1)
  return out


def _equal(bands: Sequence[str], pieces: Sequence[list[bytes]]) -> list[tuple[str, ...]]:
  """The bands whose digests are the same in every piece, several together."""
  same: dict[bytes, list[str]] = {}
  for band, digests in zip(bands, zip(*pieces)):
    same.setdefault(b"".join(digests), []).append(band)
  return [tuple(names) for names in same.values() if len(names) > 1]


def _facts(samples: Sequence[dict], views: Sequence[str]) -> dict:
  """Dates and coordinates of samples, and the first and last day of each view in each sample that has one."""
  days = {view: [np.asarray(sample["dates"][view]) for sample in samples] for view in views}
  return {
    "days": {view: [end for d in own if d.size for end in (d.min(), d.max())] for view, own in days.items()},
    "dates": np.array([sample["date"].decode() for sample in samples if "date" in sample]),
    "coordinates": np.array([sample["coordinates"] for sample in samples if "coordinates" in sample]),
  }


def _iso(days: Sequence[int]) -> tuple[str, str] | None:
  """The first and the last of these days since 1970-01-01."""
  iso = lambda day: str(np.datetime64(int(day), "D"))
  return (iso(min(days)), iso(max(days))) if days else None
