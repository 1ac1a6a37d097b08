"""Scenes of STAC items on disk, one a date, whose assets are GeoTIFFs on disk."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from colearn_jax import dates
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.deploy import names as names_lib
from colearn_jax.deploy.stacks import Grid, Layers, Said, Stack, caught, check_same, header, with_facts
from colearn_jax.types import InputError


class Band(NamedTuple):
  """A band of an item: its file, its number there, and what the item says of its stored numbers."""

  path: Path
  number: int
  said: Said


def open_items(paths: Sequence[Path], wanted: Sequence[str], decoding: Decoding) -> Stack:
  """Opens STAC items on disk, one a date, whose assets are GeoTIFFs on disk.

  The bands of an asset are those that its `bands` or `eo:bands` name; an asset without them is a band of its
  key's name. Assets may have pixels that are twice, three times and so on as large as the smallest ones.
  Scale, offset and nodata of the item (`raster:bands`, `raster:scale`) hold where a file has none.

  Args:
    paths: files with an item, or with a collection of items.
    wanted: the bands to read.
    decoding: what the user says of the stored numbers.

  Raises:
    InputError: an item lacks a band, a date or a file, or files differ in their pixels.
  """
  found: dict[int, dict[str, Band]] = {}
  for path in paths:
    for item in _items(path):
      name = f"{path}, item {item.get('id', '?')}"
      when = (item.get("properties") or {}).get("datetime")
      if when is None:
        raise InputError(f"{name} has no datetime in its properties")
      day = int(dates.to_days([when], name)[0])
      bands = _assets(item, path.parent)
      names_lib.missing(list(bands), wanted, name)
      if day in found:
        raise InputError(f"{name}: another item has the same date, {dates.to_iso(day)}; mosaic them first")
      found[day] = bands
  files = {bands[band].path for bands in found.values() for band in wanted}
  grids = {file: caught(str(file), functools.partial(header, file, None))[0] for file in sorted(files)}
  if not grids:
    raise InputError(f"{paths[0]} has no items")
  finest = max(grids, key=lambda file: grids[file].height)
  factor = {file: _coarser(file, grid, finest, grids[finest]) for file, grid in grids.items()}

  def step(bands: Mapping[str, Band]) -> tuple[Layers, ...]:
    own = dict.fromkeys(bands[band].path for band in wanted)
    places = {file: [k for k, band in enumerate(wanted) if bands[band].path == file] for file in own}
    of = lambda file: tuple(bands[wanted[k]].number for k in places[file])
    said = lambda file: tuple(bands[wanted[k]].said for k in places[file])
    return tuple(Layers(str(f), of(f), tuple(at), factor[f], said(f)) for f, at in places.items())

  days = tuple(sorted(found))
  steps = tuple(step(found[day]) for day in days)
  return with_facts(Stack(grids[finest], tuple(wanted), steps, days, decoding))


def _items(path: Path) -> list[Mapping[str, Any]]:
  try:
    tree = json.loads(path.read_text(encoding="utf-8"))
    items = tree["features"] if tree.get("type") == "FeatureCollection" else [tree]
    for item in items:
      if item["type"] != "Feature" or "assets" not in item:
        raise KeyError("assets")
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f"{path} is no STAC item or collection of items: {error}") from None
  return items


def _assets(item: Mapping[str, Any], folder: Path) -> dict[str, Band]:
  """The bands of an item by name."""
  out: dict[str, Band] = {}
  for key, asset in item["assets"].items():
    link = urlparse(str(asset.get("href", "")))
    if link.scheme not in ("", "file") or not link.path.lower().endswith((".tif", ".tiff")):
      continue
    described = asset.get("bands") or asset.get("eo:bands") or [{}]
    bands = [own.get("name") for own in described]
    named = bands if len(bands) > 1 and all(bands) else [bands[0] or key]
    raster = asset.get("raster:bands") or []
    path = folder / unquote(link.path)
    for number, name in enumerate(named, 1):
      own = [*raster[number - 1 : number], *described[number - 1 : number], asset]
      out.setdefault(name, Band(path, number, _said(own)))
    if len(named) == 1:
      out.setdefault(key, Band(path, 1, _said([*raster[:1], *described[:1], asset])))
  return out


def _said(facts: Sequence[Mapping[str, Any]]) -> Said:
  """Nodata, scale and offset of a band, from what is said of it and of its asset; the first one counts."""

  def one(*keys: str) -> float | None:
    known = (own[key] for own in facts for key in keys if own.get(key) is not None)
    try:
      return float(next(known, "nan"))
    except (TypeError, ValueError):
      return math.nan

  known = lambda value: None if value is None or math.isnan(value) else value
  return Said(
    known(one("nodata")), known(one("scale", "raster:scale")), known(one("offset", "raster:offset"))
  )


def _coarser(path: Path, grid: Grid, first: Path, finest: Grid) -> int:
  """How many times larger the pixels of a file are; InputError if the files cover different ground."""
  n = max(1, round(finest.height / grid.height))
  a, b, c, d, e, f = grid.transform
  fine = (a / n, b / n, c, d / n, e / n, f)
  check_same(path, Grid(grid.height * n, grid.width * n, fine, grid.crs), first, finest)
  return n
