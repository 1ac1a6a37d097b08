"""Samples of a file in chunks: their values, and what stands beside them.

A column, array or variable has the name of a band, see `sample_tables` and `sample_arrays`. Besides there may
be `id`; `date`, `lat` and `lon`, and static layers, for the context; and `dates`, those of the steps.
Everything else is ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colearn_jax import dates
from colearn_jax.datasets.folder.table import ENGINE_ID, LATITUDE, LONGITUDE, check_places
from colearn_jax.deploy import names as names_lib
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.pixels import Pixels
from colearn_jax.types import InputError, context_layout

IDS = ("id", "ids", ENGINE_ID)
Column = Callable[[str], Any]  # the values of a column for the samples of a chunk


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Some samples.

  Attributes:
    ids: their names.
    x: `[n ...]`, bands last in the order of the model; or a list of series of different lengths.
    masks: by name of the band, as x without the last axis; None if the model needs none.
    dates: of the steps, of all samples or of each, in a form of `dates.to_days`; None if unknown.
    date: of each sample, datetime64[D]; None if the model needs none.
    coordinates: `[n 2]`, latitude and longitude; None if the model needs none.
    static: `[n S]`, the static layers of the context; None without.
  """

  ids: list[str]
  x: Any
  masks: Mapping[str, Any] | None
  dates: Any
  date: np.ndarray | None
  coordinates: np.ndarray | None
  static: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Samples:
  """An opened file: the number of its samples, None if unknown, and the samples in chunks."""

  total: int | None
  chunks: Iterator[Chunk]


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What is read beside the values: names of the columns, those that the file has.

  Attributes:
    id: of the samples, None if there is none.
    date: None if it is not needed.
    place: of latitude and longitude, () if they are not needed.
    static: of the layers of the context.
  """

  id: str | None
  date: str | None
  place: tuple[str, ...]
  static: tuple[str, ...]

  @property
  def columns(self) -> list[str]:
    """All of them."""
    return [name for name in (self.id, self.date, *self.place, *self.static) if name is not None]


def wanted_of(model: Model, need: Pixels, have: Sequence[str], path: Path) -> Wanted:
  """Where ids, dates, places and layers are; InputError if what the model needs is missing."""
  spelled: dict[str, str] = {}
  for name in have:  # a name as it is meant goes before one with other capitals
    spelled[name.lower()] = name if name.lower() == name else spelled.get(name.lower(), name)
  first = lambda names: next((spelled[name] for name in names if name in spelled), None)
  layout = context_layout(model.context)
  found = {"date": first(["date"]), "lat": first(LATITUDE), "lon": first(LONGITUDE)}
  asked = ["date"] * bool(layout.dated or need.needs_date) + ["lat", "lon"] * bool(layout.place)
  lacking = [name for name in asked if found[name] is None]
  lacking += [name for name in layout.static if name not in have]
  if lacking:
    raise InputError(
      f"{path} lacks {', '.join(lacking)}, which the model needs; it has: {names_lib.some(have)}"
    )
  of = lambda name: found[name] if name in asked else None
  places = tuple(name for name in (of("lat"), of("lon")) if name is not None)
  return Wanted(first(IDS), of("date"), places, layout.static)


def chunk_of(wanted: Wanted, column: Column, number: int, start: int, where: str, x, masks, steps) -> Chunk:
  """A chunk with what stands beside the values."""
  ids = [str(start + k) for k in range(number)] if wanted.id is None else list(map(_text, column(wanted.id)))
  date = coordinates = static = None
  if wanted.date is not None:
    given = [_text(value) for value in column(wanted.date)]
    known = [text.lower() not in dates.UNKNOWN for text in given]
    days = dates.to_days(
      [text for text, there in zip(given, known) if there], f"{where}, column {wanted.date}"
    )
    date = np.full(number, np.datetime64("NaT", "D"))
    date[known] = days.astype("datetime64[D]")
  as_floats = lambda names: np.stack([np.asarray(column(name), np.float64) for name in names], 1)
  if wanted.place:
    coordinates = as_floats(wanted.place)
    check_places(list(map(tuple, coordinates.tolist())), wanted.place, lambda i: f"{where}, sample {ids[i]}")
  if wanted.static:
    static = as_floats(wanted.static)
  return Chunk(ids, x, masks, steps, date, coordinates, static)


def _text(value: Any) -> str:
  if value is None:
    return ""
  return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def in_order(chunk: Chunk) -> Chunk:
  """A chunk whose steps are in the order of their dates, for a model that reads steps without dates."""
  if chunk.dates is None:
    return chunk
  read = lambda own: None if own is None else dates.to_days(own, "dates")
  first = next((own for own in chunk.dates if own is not None), 0)
  days = list(map(read, chunk.dates)) if np.ndim(first) else [read(chunk.dates)] * len(chunk.ids)
  if all(own is None or (np.diff(own) >= 0).all() for own in days):
    return chunk

  def turned(values):
    if values is None:
      return None
    one = lambda x, own: x if x is None or own is None else x[np.argsort(own, kind="stable")]
    out = [one(x, own) for x, own in zip(values, days)]
    return np.stack(out) if isinstance(values, np.ndarray) else out

  masks = None if chunk.masks is None else {name: turned(own) for name, own in chunk.masks.items()}
  return dataclasses.replace(chunk, x=turned(chunk.x), masks=masks)
