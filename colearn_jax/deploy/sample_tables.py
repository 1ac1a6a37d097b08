"""Samples in CSV and Parquet: a column for each band, and for each step of a series, see `names`.

In Parquet a column may also hold a list for each sample, one number for each step.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.deploy import names as names_lib
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.pixels import Pixels
from colearn_jax.deploy.samples import Chunk, Column, Samples, Wanted, chunk_of, wanted_of
from colearn_jax.types import InputError

NULL = ["", "NaN", "nan", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "none"]  # in CSV


def _open_table(
  path: Path, model: Model, need: Pixels, have: Sequence[str], lists: Sequence[str]
) -> tuple[Wanted, list[str], names_lib.Steps | None]:
  """What is read of a table: the columns beside the values, those of the values, and the steps they tell.

  Args:
    path: of the file.
    model: that reads it.
    need: what it needs.
    have: the names of its columns.
    lists: those of them that hold lists.
  """
  if twice := next((name for name in have if list(have).count(name) > 1), None):
    raise InputError(f"{path} has two columns named {twice}")
  dimensions = len(model.modality.shape)
  if dimensions > 2:
    raise InputError(f"{path} cannot hold images; they are read from .npz, .nc and .zarr")
  wanted = wanted_of(model, need, have, path)
  steps = None
  if dimensions == 2 and not set(need.bands) <= set(lists):
    steps = names_lib.steps(have, need.bands, str(path))
    if steps is None:
      first = need.bands[0]
      raise InputError(
        f"{path} lacks the bands {', '.join(need.bands)}, each with its step, as {first}_2023-05-01, "
        f"{first}_1 or {first}(t-1); it has: {names_lib.some(have)}"
      )
  elif dimensions == 1:
    names_lib.missing(have, need.bands, str(path))
  columns = list(need.bands) if steps is None else [name for step in steps.names for name in step]
  return wanted, columns, steps


def _of_columns(
  need: Pixels, steps: names_lib.Steps | None, column: Column, decoding: Decoding
) -> tuple[Any, dict | None, Any]:
  """Values, masks and dates of a chunk of a table."""
  floats = lambda name: np.asarray(column(name), np.float32)
  values: Any
  if steps is not None:
    values = np.stack([np.stack(list(map(floats, step)), -1) for step in steps.names], 1)
  else:
    every = [column(name) for name in need.bands]
    if any(isinstance(own, list) for own in every):  # of lists
      series = [_series(row) for row in zip(*every)]
      whole = [one for one in series if one is not None]
      values = (
        np.stack(whole) if len(whole) == len(series) and len({len(one) for one in whole}) == 1 else series
      )
    else:
      values = np.stack([np.asarray(own, np.float32) for own in every], -1)
  values = _decoded(values, decoding)
  cut = lambda at: (
    [None if v is None else v[..., at] for v in values] if isinstance(values, list) else values[..., at]
  )
  masks = {name: cut(need.bands.index(name)) for name in need.mask_bands} or None
  return cut(slice(0, need.sensors)), masks, None if steps is None else steps.dates


def _decoded(values: Any, decoding: Decoding) -> Any:
  """Values from stored numbers; all series are looked at together, for a short one says little."""
  decode = lambda stored: decoding.unpack(decoding.hide(stored, stored))
  if not isinstance(values, list):
    return decode(values)
  there = [one for one in values if one is not None]
  if not there:
    return values
  ends = np.cumsum([len(one) for one in there])[:-1]
  parts = iter(np.split(decode(np.concatenate(there)), ends))
  return [None if one is None else next(parts) for one in values]


def _series(row: Sequence[Any]) -> np.ndarray | None:
  """A series `[T C]` from a list for each band; None if the sample has none."""
  if all(own is None for own in row):
    return None
  if None in row or len({len(own) for own in row}) > 1:
    raise InputError("a sample has lists of different lengths")
  return np.stack([np.array([np.nan if v is None else v for v in own], np.float32) for own in row], -1)


def open_csv(path: Path, model: Model, need: Pixels, rows: int, decoding: Decoding) -> Samples:
  """See `predictions.open_samples`."""
  with open(path, encoding="utf-8-sig", newline="") as file:
    have = next(csv.reader(file), [])
  wanted, columns, steps = _open_table(path, model, need, have, ())
  texts = {name for name in (wanted.id, wanted.date) if name is not None}
  types = {name: pa.float64() for name in (*columns, *wanted.columns)} | dict.fromkeys(texts, pa.string())
  options = arrow_csv.ConvertOptions(
    column_types=types,
    include_columns=list(types),
    strings_can_be_null=False,
    null_values=NULL,
  )
  parsing = arrow_csv.ParseOptions(newlines_in_values=True)

  def batches():
    with arrow_csv.open_csv(path, convert_options=options, parse_options=parsing) as file:
      for batch in file:
        yield from (batch.slice(k, rows) for k in range(0, len(batch), rows))

  return Samples(None, _of_batches(batches(), wanted, need, steps, str(path), decoding))


def open_parquet(path: Path, model: Model, need: Pixels, rows: int, decoding: Decoding) -> Samples:
  """See `predictions.open_samples`."""
  file = parquet.ParquetFile(path)
  schema = file.schema_arrow
  lists = [field.name for field in schema if _is_list(field.type)]
  wanted, columns, steps = _open_table(path, model, need, schema.names, lists)
  for name in columns:
    _check_numbers(path, name, schema.field(name).type)
  dated = "dates" in lists and steps is None
  read = [*dict.fromkeys([*columns, *wanted.columns, *["dates"] * dated])]
  batches = file.iter_batches(rows, columns=read)
  return Samples(file.metadata.num_rows, _of_batches(batches, wanted, need, steps, str(path), decoding))


def _is_list(kind: pa.DataType) -> bool:
  kinds = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
  return any(getattr(pa.types, f"is_{name}")(kind) for name in kinds)


def _check_numbers(path: Path, name: str, kind: pa.DataType) -> None:
  """Raises InputError if a column holds neither numbers nor lists of them."""
  own = kind.value_type if _is_list(kind) or pa.types.is_dictionary(kind) else kind
  kinds = ("floating", "integer", "decimal", "boolean", "null")
  if not any(getattr(pa.types, f"is_{one}")(own) for one in kinds):
    raise InputError(f"{path}: column {name} holds {kind}, not numbers")


def _of_batches(
  batches, wanted: Wanted, need: Pixels, steps, where: str, decoding: Decoding
) -> Iterator[Chunk]:
  texts = (wanted.id, wanted.date)
  start = 0
  for batch in batches:

    def column(name: str, batch=batch) -> Any:
      own = batch[name]
      if name in texts or _is_list(own.type):  # numbers keep all their digits
        return own.to_pylist()
      if pa.types.is_dictionary(own.type):
        own = own.dictionary_decode()
      return own.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)

    x, masks, days = _of_columns(need, steps, column, decoding)
    if "dates" in batch.schema.names and steps is None:
      days = column("dates")
    yield chunk_of(wanted, column, len(batch), start, where, x, masks, days)
    start += len(batch)
