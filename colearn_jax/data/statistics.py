"""Statistics of the training part: band moments for normalisation, and constants of the task's loss.

The moments of each band (see `data.moments`) are computed in one pass with bounded memory, from a table in
memory or from the disk. `Normalisation` turns them into an offset and a scale for each band.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import grain
import numpy as np
import numpy.typing as npt

from colearn_jax.data import context
from colearn_jax.data.dataset import Dataset
from colearn_jax.data.moments import Moments, merged, moments
from colearn_jax.data.reader import READ, Table, make_reader
from colearn_jax.nn.quantiles import QUANTILES
from colearn_jax.storage import array_cache
from colearn_jax.types import CONTEXT, InputError, Modality, Task, context_layout

NORMALISATIONS = ("zscore", "robust", "quantile", "max", "minmax", "fixed")
SAMPLED_ROWS = 20_000  # samples that quantiles are computed from, at most


def of_table(table: Table, rows: np.ndarray) -> dict[str, Moments]:
  """The moments of each modality in these rows of a table, see `reader.read_table`."""
  size = _samples_per_piece(x.shape[1:] for x in table["inputs"].values())
  take = lambda rows: {part: {m: x[rows] for m, x in named.items()} for part, named in table.items()}
  return merged(_moments_of_piece(take(rows[at : at + size])) for at in range(0, len(rows), size))


def of_dataset(dataset: Dataset, modalities: Sequence[Modality], rows: np.ndarray) -> dict[str, Moments]:
  """The moments of each modality in these rows. The first call reads the samples; the result is cached.

  Args:
    dataset: the data set.
    modalities: the modalities to compute moments of.
    rows: the rows to use, e.g. the training part.
  """
  rows = np.sort(rows)
  query = lambda m: {
    "what": "statistics",
    "format": 3,
    "modality": dataclasses.replace(m, units=()).to_json(),
    "series": [dataclasses.asdict(dataset.ragged[view]) for view in m.views if view in dataset.ragged],
    "rows": array_cache.digest(rows),
  }
  found = {m.name: array_cache.read(dataset.path, dataset.stamp, query(m)) for m in modalities}
  out = {name: Moments(**arrays) for name, arrays in found.items() if arrays is not None}
  if unknown := [m for m in modalities if m.name not in out]:
    size = _samples_per_piece(m.shape for m in unknown)
    pieces = grain.MapDataset.source(rows).map(make_reader(dataset, unknown)).batch(size)
    new = merged(pieces.map(_moments_of_piece).to_iter_dataset(READ))
    for m in unknown:
      array_cache.write(dataset.path, dataset.stamp, query(m), new[m.name]._asdict())
    out |= new
  return {m.name: out[m.name] for m in modalities}


def _samples_per_piece(shapes: Iterable[tuple[int, ...]]) -> int:
  """Number of samples that are processed together: about 16 MB as float64."""
  return min(max(2**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)


def _moments_of_piece(piece: Table) -> dict[str, Moments]:
  """The moments of each modality, over the samples that have it."""
  present = piece["present"]  # without the context
  return {m: moments(x[present[m] > 0] if m in present else x) for m, x in piece["inputs"].items()}


@dataclasses.dataclass(frozen=True)
class Normalisation:
  """Normalisation of bands, (x - offset) / scale.

  The date and location columns of a context are not normalised: their offset is 0 and their scale is 1.

  Attributes:
    how: `zscore` (offset is the mean, scale the standard deviation), `robust` (offset is the median, scale
      the interquartile range, in units of that of a normal distribution), `quantile` (as robust, and with
      quantiles, see `nn.quantiles.normal_scores`), `max` (offset 0, scale the maximum),
      `minmax` (maps the minimum to 0 and the maximum to 1), or `fixed` (given constants).
    fixed: for `fixed`, the `offset` and `scale` of each modality.
    own: the `offset` and `scale` of modalities whose encoders have their own, whatever `how` is.
  """

  how: str = "zscore"
  fixed: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
  own: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)

  @property
  def sampled(self) -> bool:
    """Whether `constants` needs the values of samples."""
    return self.how in ("robust", "quantile")

  def constants(
    self, modality: Modality, found: Moments | None, values: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """The normalisation of a modality: `offset` and `scale`, `[C]` float32. Constant bands have scale 1.

    With `quantile` also `quantiles` `[Q C]` float32, NaN for columns that are not normalised.

    Args:
      modality: the modality.
      found: its moments in the training part; not needed for `fixed`.
      values: values of samples of the training part, `[n ... C]`, NaN = missing; if `sampled`.

    Raises:
      InputError: a band has no value in the training part; of those in `own`, if none has one.
    """
    if modality.name in self.own:
      if found is not None and not found.count.any():
        raise InputError(f"modality {modality.name} has no value in the training part")
      return dict(self.own[modality.name])
    if self.how == "fixed":
      return dict(self.fixed[modality.name])
    if found is None:
      raise ValueError(f"normalisation {self.how!r} needs the moments of {modality.name}")
    encoded = context_layout(modality.bands).scaled if modality.name == CONTEXT else 0
    known = (found.count > 0) | (np.arange(len(found.count)) < encoded)
    if not known.all():
      band = modality.bands[int(np.argmin(known))]
      raise InputError(f"band {band} of modality {modality.name} has no value in the training part")
    out = {}
    if values is not None and self.sampled:
      flat = np.asarray(values, np.float64).reshape(-1, len(found.count))
      flat = np.where(np.isfinite(flat), flat, np.nan)
      flat[:, np.isnan(flat).all(0)] = 0.0  # seen in other samples only, or never
      quantiles = np.nanquantile(flat, np.linspace(0.0, 1.0, QUANTILES), axis=0)
      low, offset, high = (quantiles[round(share * (QUANTILES - 1))] for share in (0.25, 0.5, 0.75))
      deviation = np.sqrt(found.spread / np.maximum(found.count, 1))
      scale = np.where(high > low, (high - low) / 1.349, deviation)
      if self.how == "quantile":
        quantiles[:, :encoded] = np.nan
        out["quantiles"] = quantiles.astype(np.float32)
    elif self.how == "zscore":
      offset, scale = found.mean, np.sqrt(found.spread / np.maximum(found.count, 1))
    elif self.how == "max":
      offset, scale = np.zeros_like(found.mean), found.greatest
    else:
      offset, scale = found.least, found.greatest - found.least
    scale = np.where(scale != 0, scale, 1.0)
    offset[:encoded], scale[:encoded] = 0.0, 1.0
    return {"offset": offset.astype(np.float32), "scale": scale.astype(np.float32)} | out


def make_normalisation(
  how: str,
  fixed: Mapping[str, Mapping[str, npt.ArrayLike]],
  dataset: Dataset,
  modalities: Sequence[Modality],
  own: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Normalisation:
  """Makes the normalisation of these modalities.

  Args:
    how: one of `NORMALISATIONS`.
    fixed: for `fixed`, `{view: {"offset": ..., "scale": ...}}`, each a number or one number per band.
    dataset: the data set that the views belong to.
    modalities: the modalities to normalise.
    own: see `Normalisation`. Constants in `fixed` are not needed for these.

  Raises:
    InputError: `how` is `fixed` and a view, e.g. a static view of the context, has no constants.
  """
  if how != "fixed":
    return Normalisation(how, own=own or {})

  def join(m: Modality, name: str) -> np.ndarray:
    """The constants of a modality, from those of its views."""
    encoded = context_layout(m.bands).scaled if m.name == CONTEXT else 0
    parts = [np.full(encoded, 0.0 if name == "offset" else 1.0, np.float32)]
    for view in m.views:
      if m.name != CONTEXT or view not in (context.DATE, context.LOCATION):
        if view not in fixed:
          raise InputError(f"data.fixed: it needs an offset and a scale of {view}, has: {', '.join(fixed)}")
        size = 1 if m.name == CONTEXT and view == context.TIME else len(dataset.bands[view])
        parts.append(np.broadcast_to(np.asarray(fixed[view][name], np.float32), size))
    return np.concatenate(parts)

  others = [m for m in modalities if m.name not in (own or {})]
  constants = {m.name: {n: join(m, n) for n in ("offset", "scale")} for m in others}
  return Normalisation(how, constants, own or {})


def sampled_rows(rows: np.ndarray) -> np.ndarray:
  """The rows that quantiles are computed from: all, or `SAMPLED_ROWS` of them at equal distances."""
  rows = np.sort(rows)
  return rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED_ROWS)).astype(int)]


def task_constants(task: Task, target: np.ndarray, class_weights: str) -> dict[str, np.ndarray]:
  """The constants that the task's loss needs from the training labels, see `objectives.task.task_loss`.

  Args:
    task: the task of the data set.
    target: targets of the labelled training samples, `[N K]` or `[N]` int.
    class_weights: `balanced`: n / (k n_c) for n samples, k classes that occur and n_c samples of class c;
      `none`: 1.

  Returns:
    `mean` and `std` `[K]` for regression, `class_weights` `[C]` for classes, nothing for multi-label tasks.

  Raises:
    InputError: no training sample has a label.
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
