"""What normalises inputs and targets: computed from the training part, in one pass of bounded memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np

from colearn_jax.data import context
from colearn_jax.data.dataset import Dataset
from colearn_jax.data.reader import READ, Table, make_reader
from colearn_jax.storage import array_cache
from colearn_jax.types import CONTEXT, InputError, Modality, Task

NORMALISATIONS = ("zscore", "max", "minmax", "fixed")


class Moments(NamedTuple):
  """What is known of each band of a modality, `[C]` float64; NaN is left out."""

  count: np.ndarray
  mean: np.ndarray
  spread: np.ndarray  # the sum of squared deviations from the mean
  least: np.ndarray  # inf where there is no value
  greatest: np.ndarray  # -inf where there is no value


def moments(x: np.ndarray) -> Moments:
  """The moments of values `[n ... C]`."""
  if x.dtype.kind in "iu" and x.dtype.itemsize <= 2:
    return _of_histograms(x)
  x = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T, np.float64)  # bands apart, so that sums are fast
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


def _of_histograms(x: np.ndarray) -> Moments:
  """The same for small integers, several times as fast: it is enough to count how often each occurs."""
  bits, unsigned = 8 * x.dtype.itemsize, np.dtype(f"u{x.dtype.itemsize}")
  bands = [band.ravel().view(unsigned) for band in np.moveaxis(x, -1, 0)]
  times = np.stack([np.bincount(band, minlength=2**bits) for band in bands])
  values = np.arange(2**bits, dtype=unsigned).view(x.dtype).astype(np.float64)  # that each count stands for
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
  """The moments of both (Chan, Golub & LeVeque 1979)."""
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
  """The moments of each modality over all pieces, merged as they come."""
  return functools.reduce(lambda a, b: {m: merge(a[m], b[m]) for m in b}, pieces)


def of_table(table: Table, rows: np.ndarray) -> dict[str, Moments]:
  """The moments of each modality in these rows of a table, see `reader.read_table`."""
  size = _piece(x.shape[1:] for x in table["inputs"].values())
  take = lambda rows: {part: {m: x[rows] for m, x in named.items()} for part, named in table.items()}
  return merged(_moments(take(rows[at : at + size])) for at in range(0, len(rows), size))


def of_dataset(dataset: Dataset, modalities: Sequence[Modality], rows: np.ndarray) -> dict[str, Moments]:
  """The moments of each modality in these rows, read from the disk once and then kept beside the data set."""
  rows = np.sort(rows)
  query = lambda m: {
    "what": "statistics",
    "modality": dataclasses.asdict(m),
    "series": [dataclasses.asdict(dataset.ragged[view]) for view in m.views if view in dataset.ragged],
    "rows": array_cache.digest(rows),
  }
  found = {m.name: array_cache.read(dataset.path, query(m)) for m in modalities}
  if unknown := [m for m in modalities if found[m.name] is None]:
    size = _piece(m.shape for m in unknown)
    read = grain.MapDataset.source(rows).map(make_reader(dataset, unknown)).batch(size).map(_moments)
    new = merged(read.to_iter_dataset(READ))
    for m in unknown:
      found[m.name] = new[m.name]._asdict()
      array_cache.write(dataset.path, query(m), found[m.name])
  return {name: Moments(**values) for name, values in found.items()}


def _piece(shapes: Iterable[tuple[int, ...]]) -> int:
  """How many samples are looked at together, of some 16 MB as float64."""
  return min(max(2**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)


def _moments(piece: Table) -> dict[str, Moments]:
  present = piece["present"]  # a context is not in it
  return {m: moments(x[present[m] > 0] if m in present else x) for m, x in piece["inputs"].items()}


@dataclasses.dataclass(frozen=True)
class Normalisation:
  """How the bands are brought to one range, (x - offset) / scale.

  Attributes:
    how: `zscore`, by mean and deviation; `max`, by the greatest value; `minmax`, the least becoming 0 and the
      greatest 1; or `fixed`.
    fixed: the constants of each modality, where they are fixed.

  The columns of date and location in a context are never changed: their offset is 0 and their scale 1.
  """

  how: str = "zscore"
  fixed: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)

  def constants(self, modality: Modality, found: Moments | None) -> dict[str, np.ndarray]:
    """What normalises a modality: `offset` and `scale`, `[C]` float32; the scale of a constant band is 1.

    Args:
      modality: which.
      found: in the training part; None will do where the constants are fixed.

    Raises:
      InputError: a band has no value at all.
    """
    if self.how == "fixed":
      return dict(self.fixed[modality.name])
    encoded = sum(context.encoded(modality.bands)) if modality.name == CONTEXT else 0
    known = (found.count > 0) | (np.arange(len(found.count)) < encoded)
    if not known.all():
      band = modality.bands[int(np.argmin(known))]
      raise InputError(f"band {band} of modality {modality.name} has no value in the training part")
    if self.how == "zscore":
      offset, scale = found.mean, np.sqrt(found.spread / np.maximum(found.count, 1))
    elif self.how == "max":
      offset, scale = np.zeros_like(found.mean), found.greatest
    else:
      offset, scale = found.least, found.greatest - found.least
    scale = np.where(scale != 0, scale, 1.0)
    offset[:encoded], scale[:encoded] = 0.0, 1.0
    return {"offset": offset.astype(np.float32), "scale": scale.astype(np.float32)}


def make_normalisation(
  how: str,
  fixed: Mapping[str, Mapping[str, object]],
  dataset: Dataset,
  modalities: Sequence[Modality],
) -> Normalisation:
  """The normalisation of these modalities.

  Args:
    how: one of `NORMALISATIONS`.
    fixed: `{view: {"offset": of each band or of all, "scale": the same}}`, for `fixed`.
    dataset: whose views.
    modalities: which.

  Raises:
    InputError: a view has no fixed constants, also a static view of a context.
  """
  if how != "fixed":
    return Normalisation(how)

  def join(m: Modality, name: str) -> np.ndarray:
    encoded = sum(context.encoded(m.bands)) if m.name == CONTEXT else 0
    parts = [np.full(encoded, 0.0 if name == "offset" else 1.0, np.float32)]
    for view in m.views:
      if m.name != CONTEXT or view not in (context.DATE, context.LOCATION):
        if view not in fixed:
          raise InputError(f"data.fixed: it needs an offset and a scale of {view}, has: {', '.join(fixed)}")
        parts.append(np.broadcast_to(np.float32(fixed[view][name]), len(dataset.bands[view])))
    return np.concatenate(parts)

  return Normalisation(how, {m.name: {n: join(m, n) for n in ("offset", "scale")} for m in modalities})


def task_constants(task: Task, target: np.ndarray, class_weights: str) -> dict[str, np.ndarray]:
  """What the task's loss takes from the training part's labels, see `losses.task_loss`.

  Class weights are n / (k n_c) over the k classes that occur (`balanced`) or 1 (`none`).

  Args:
    task: of the data set.
    target: of the training part's labelled samples.
    class_weights: `balanced` or `none`.

  Raises:
    InputError: there is not one.
  """
  if not len(target):
    raise InputError("no sample of the training part has a label")
  if task.kind == "regression":
    mean, std = target.mean(0, dtype=np.float64), target.std(0, dtype=np.float64)
    return {"mean": mean.astype(np.float32), "std": np.where(std > 0, std, 1.0).astype(np.float32)}
  if task.kind == "multilabel":
    return {}
  counts = np.bincount(target, minlength=len(task.outputs))
  weights = np.ones(len(counts))
  if class_weights == "balanced":
    seen = counts > 0
    weights[seen] = len(target) / (seen.sum() * counts[seen])
  return {"class_weights": weights.astype(np.float32)}
