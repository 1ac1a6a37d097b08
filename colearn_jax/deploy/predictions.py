"""Predicts the samples of a file in chunks; writes ids, predictions, probabilities or bounds, and spread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet
from tqdm import tqdm

from colearn_jax.data import context
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.deploy import ranges, sample_arrays, sample_tables
from colearn_jax.deploy.load import load_model
from colearn_jax.deploy.model import Estimate, Model
from colearn_jax.deploy.pixels import Pixels
from colearn_jax.deploy.samples import Chunk, Samples, in_order
from colearn_jax.deploy.stacks import caught
from colearn_jax.storage.files import replacing
from colearn_jax.types import InputError

WRITERS = {".csv": csv.CSVWriter, ".parquet": parquet.ParquetWriter}

AS_IN_FILE = Decoding()  # a user who says nothing


def write(
  model: str | Path,
  source: str | Path,
  out: str | Path,
  *,
  coverage: float | None = None,
  rows: int = 8192,
  any_values: bool = False,
  decoding: Decoding = AS_IN_FILE,
) -> int:
  """Predicts all samples of a file. The output appears complete or not at all.

  Args:
    model: folder of an exported model.
    source: the samples, see `open_samples`.
    out: `.csv` or `.parquet`, see `table`.
    coverage: of the intervals of values; None for 0.9, and without intervals.
    rows: samples that are in memory at a time.
    any_values: whether values that are far from those of the training are accepted.
    decoding: what the user says of the stored numbers, see `stored.decoding`.

  Returns:
    The number of samples.

  Raises:
    InputError: the model or the samples cannot be read or do not fit, or the output cannot be written.
  """
  out = Path(out).expanduser().absolute()
  if out.suffix.lower() not in WRITERS:
    raise InputError(f"--out={out}: the name has to end with {' or '.join(WRITERS)}")
  if rows < 1:
    raise InputError(f"--rows={rows} is not allowed; an integer >= 1")
  loaded = load_model(model)
  width = loaded.half_widths(coverage)
  if width is None and "uncertainty" not in loaded.about:
    print("the model was exported without uncertainty: nothing is calibrated", file=sys.stderr)
  need, number = Pixels(loaded), 0
  opened = open_samples(Path(source).expanduser().absolute(), loaded, need, rows, decoding)
  try:
    with (
      replacing(out, binary=True) as file,
      tqdm(total=opened.total, unit=" samples", unit_scale=True, disable=None) as bar,
    ):
      writer = None
      for chunk in opened.chunks:
        if number == 0 and not any_values:
          there = [one for one in chunk.x if one is not None]
          every = np.concatenate([np.reshape(one, (-1, need.sensors)) for one in there]) if there else None
          if every is not None:
            ranges.check(loaded, every, "; --scale and --offset convert them, --any-values accepts them")
        if chunk.date is not None and not any_values:
          ranges.check_time(loaded, chunk.date, "; --any-values accepts it")
        part = table(loaded, chunk.ids, estimate(loaded, need, chunk, coverage))
        writer = writer or WRITERS[out.suffix.lower()](file, part.schema)
        writer.write_table(part)
        number += len(chunk.ids)
        bar.update(len(chunk.ids))
      if writer is None:
        raise InputError(f"{source} has no samples")
      writer.close()
  except OSError as error:
    raise InputError(f"{out} cannot be written: {error.strerror or error}") from None
  return number


def open_samples(path: Path, model: Model, need: Pixels, rows: int, decoding: Decoding) -> Samples:
  """Opens a file of samples.

  Args:
    path: of the file.
    model: that reads them.
    need: what it needs.
    rows: in a chunk.
    decoding: what the user says of the stored numbers.

  Raises:
    InputError: the file cannot be read, or lacks bands; all of them are listed. Later, as it is read: a value
      is no number.
  """
  if not path.exists():
    raise InputError(f"--input={path}: there is no such file")
  readers = {
    ".csv": sample_tables.open_csv,
    ".parquet": sample_tables.open_parquet,
    ".npz": sample_arrays.open_npz,
    ".nc": sample_arrays.open_cube,
    ".zarr": sample_arrays.open_cube,
  }
  reader = readers.get(path.suffix.lower())
  if reader is None:
    raise InputError(f"--input={path}: the name has to end with one of {', '.join(readers)}")
  opened = caught(str(path), lambda: reader(path, model, need, rows, decoding))
  return Samples(opened.total, _caught(str(path), opened.chunks))


def _caught(path: str, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
  while (chunk := caught(path, lambda: next(chunks, None))) is not None:
    yield chunk


def estimate(model: Model, need: Pixels, chunk: Chunk, coverage: float | None) -> Estimate:
  """The estimate of a chunk of samples."""
  if not need.dated and len(model.modality.shape) in (2, 4):
    chunk = in_order(chunk)
  known = None
  if model.context:
    known = context.encode(
      model.context, dates=chunk.date, coordinates=chunk.coordinates, static=chunk.static
    )
  how: dict = {}
  if chunk.dates is not None and need.dated:
    how["dates"] = chunk.dates
  if need.needs_date:
    how["date"] = chunk.date
  if need.mask_bands:
    how["masks"] = chunk.masks
  return model.estimate(chunk.x, known, coverage=coverage, **how)


def table(model: Model, ids: list[str], found: Estimate) -> pa.Table:
  """The columns that are written; what is not known is empty.

  `id`; `prediction`, the class, or the labels that are more probable than not, joined by `;`. For each class
  or label `probability_NAME`. For each value `prediction_NAME` and, if the model has intervals, `lower_NAME`
  and `upper_NAME`. Of several runs also `spread_NAME`.
  """
  names, task, value = model.outputs, model.task, found.value
  known = np.isfinite(value).all(1)
  columns: dict[str, pa.Array] = {"id": pa.array(ids, pa.string())}
  if task.kind != "regression":
    likely = lambda row: ";".join(name for name, p in zip(names, row) if p >= 0.5)
    most = lambda row: names[int(row.argmax())]
    pick = likely if task.kind == "multilabel" else most
    named = [pick(row) if there else None for row, there in zip(value, known)]
    columns["prediction"] = pa.array(named, pa.string())
  parts = {"prediction" if task.kind == "regression" else "probability": value}
  if found.lower is not None and found.upper is not None:
    parts |= {"lower": found.lower, "upper": found.upper}
  if len(model.runs) > 1:
    parts["spread"] = found.spread
  for what, array in parts.items():
    columns |= {f"{what}_{name}": pa.array(array[:, k], from_pandas=True) for k, name in enumerate(names)}
  return pa.table(columns)
