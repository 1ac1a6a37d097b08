"""Predicts the pixels of a block of a scene, with models of single pixels and of images."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np

from colearn_jax.data import context as context_lib
from colearn_jax.datasets.folder.optional import module
from colearn_jax.deploy import tiles
from colearn_jax.deploy.cog import Layout
from colearn_jax.deploy.load import load_model
from colearn_jax.deploy.model import Estimate, Model
from colearn_jax.deploy.pixels import Pixels
from colearn_jax.deploy.scenes import CubeScene
from colearn_jax.deploy.stacks import Stack, Window
from colearn_jax.types import context_layout

PIXELS = 65536  # pixels that are prepared at once
MAP, CONFIDENCE = "map", "confidence"

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
  """One map. It can be pickled.

  Attributes:
    model: folder of the exported model.
    scene: what is mapped, with the bands of `Pixels`.
    static: a scene of the same pixels with the static layers of the model's context; None without.
    date: the day that the map is for, empty if unknown.
    coverage: of the intervals; None for 0.9, and without intervals.
    block: rows and columns of a block.
    parts: folder of the finished blocks.
  """

  model: str
  scene: Stack | CubeScene
  static: Stack | CubeScene | None
  date: str
  coverage: float | None
  block: int
  parts: str

  def blocks(self) -> list[Window]:
    """The blocks, row by row."""
    grid, n = self.scene.grid, self.block
    return [
      Window(row, column, min(n, grid.height - row), min(n, grid.width - column))
      for row in range(0, grid.height, n)
      for column in range(0, grid.width, n)
    ]

  def path(self, number: int) -> Path:
    """The file of a block."""
    return Path(self.parts) / f"block{number:06d}.npz"


@functools.lru_cache(maxsize=2)
def opened(folder: str) -> Model:
  """The model, loaded once by a process."""
  return load_model(folder)


def layouts(model: Model, coverage: float | None) -> dict[str, Layout]:
  """What the files of a map hold; without `confidence` where nothing is known of it."""
  names, task, width = model.outputs, model.task, model.half_widths(coverage)
  if task.one_class:
    dtype = np.uint8 if len(names) <= 255 else np.uint16
    nodata = int(np.iinfo(dtype).max)
    classes = Layout((model.modality.name,), np.dtype(dtype).name, nodata, "", names)
    return {MAP: classes, CONFIDENCE: Layout(("confidence",), "uint8", 255, "%")}
  if task.kind == "multilabel":
    labels = Layout(names, "uint8", 255, "", ("absent", "present"))
    return {MAP: labels, CONFIDENCE: Layout(names, "uint8", 255, "%")}
  out = {MAP: Layout(names, "float32", math.nan, task.unit)}
  bounds = () if width is None else ("lower", "upper")
  spread = ("spread",) if len(model.runs) > 1 else ()
  bands = tuple(f"{what}_{name}" for what in (*bounds, *spread) for name in names)
  return out | ({CONFIDENCE: Layout(bands, "float32", math.nan, task.unit)} if bands else {})


def inputs(job: Job, block: Window) -> tuple[np.ndarray, Window, np.ndarray | None]:
  """The values of a block, the window that they are of, and the static layers of the block."""
  shape = opened(job.model).modality.shape
  window = block if len(shape) <= 2 else _around(job, block, shape[-3:-1])
  static = job.static.read(block)[0] if job.static else None
  return job.scene.read(window), window, static


def _around(job: Job, block: Window, tile: tuple[int, ...]) -> Window:
  """The window of all tiles that touch a block."""
  grid = job.scene.grid
  rows = tiles.touching(grid.height, tile[0], block.row, block.row + block.height)
  columns = tiles.touching(grid.width, tile[1], block.column, block.column + block.width)
  bottom, right = min(rows[-1] + tile[0], grid.height), min(columns[-1] + tile[1], grid.width)
  return Window(rows[0], columns[0], bottom - rows[0], right - columns[0])


def compute(job: Job, block: Window, values: np.ndarray, window: Window, static: np.ndarray | None) -> Arrays:
  """The map `[B h w]` and the confidence `[K h w]` of a block, as they are written.

  Args:
    job: the map.
    block: the block.
    values: `[T H W C]` of the window around it.
    window: that the values are of.
    static: `[h w S]`, the static layers of the context.
  """
  model = opened(job.model)
  pixels = Pixels(model)
  top, left = block.row - window.row, block.column - window.column
  own = values[:, top : top + block.height, left : left + block.width, : pixels.sensors]
  there = np.isfinite(own).any((0, 3))
  every = np.full((2, block.height, block.width, len(model.outputs)), np.nan, np.float32)
  if there.any() and len(model.modality.shape) <= 2:
    every[:, there] = _by_pixel(job, model, pixels, block, values, there, static)
  elif there.any():
    every = np.where(there[..., None], _by_tile(job, model, pixels, block, values, window, static), np.nan)
  value, spread = every
  return _written(model, value, spread, job.coverage)


def _by_pixel(job: Job, model: Model, pixels: Pixels, block: Window, values, there, static) -> np.ndarray:
  """Value and spread of those pixels of a block that have values, `[2 P C]`."""
  at = np.flatnonzero(there)
  flat = values.reshape(len(values), -1, values.shape[-1])
  days = None if job.scene.days is None else np.array(job.scene.days)
  found = []
  for start in range(0, len(at), PIXELS):
    some = at[start : start + PIXELS]
    whole = some[-1] - some[0] == len(some) - 1  # then nothing is copied
    own = flat[:, some[0] : some[-1] + 1] if whole else flat[:, some]
    x = pixels.prepare(own, days, job.date)
    rows, columns = np.divmod(some, block.width)
    middle = rows + block.row + 0.5, columns + block.column + 0.5
    context = _context(job, model, *middle, None if static is None else static[rows, columns])
    found.append(model.estimate(x, context, prepared=True))
  return _both(found)


def _by_tile(
  job: Job, model: Model, pixels: Pixels, block: Window, values, window: Window, static
) -> np.ndarray:
  """Value and spread of all pixels of a block, `[2 h w C]`, from tiles that overlap."""
  grid, tile = job.scene.grid, (model.modality.shape[-3], model.modality.shape[-2])
  rows = tiles.touching(grid.height, tile[0], block.row, block.row + block.height)
  columns = tiles.touching(grid.width, tile[1], block.column, block.column + block.width)
  one = tiles.cut(values, [r - window.row for r in rows], [c - window.column for c in columns], tile)
  number, found = len(rows) * len(columns), []
  chunk = max(1, 16 * PIXELS // (tile[0] * tile[1] * len(values)))
  for start in range(0, number, chunk):
    some = np.arange(start, min(start + chunk, number))
    i, k = np.divmod(some, len(columns))
    middle = np.array(rows)[i] + tile[0] / 2, np.array(columns)[k] + tile[1] / 2
    # Static layers are those of the pixel of the block that is next to the middle of the tile.
    r, c = (np.clip(m - b, 0, n - 1).astype(int) for m, b, n in zip(middle, block[:2], block[2:]))
    context = _context(job, model, *middle, None if static is None else static[r, c])
    found.append(_of_tiles(job, model, pixels, [one(k) for k in some], context))
  size = (block.height, block.width)
  whole = _both(found).reshape(2, len(rows), len(columns), -1)
  return np.stack([tiles.blend(rows, columns, own, tile, block[:2], size) for own in whole])


def _of_tiles(job: Job, model: Model, pixels: Pixels, own: list[np.ndarray], context) -> Estimate:
  """The estimates of tiles `[T h w K]`."""
  series = len(model.modality.shape) == 4
  pick = lambda tile, bands: tile[..., bands] if series else tile[0, ..., bands]
  x = [pick(tile, slice(0, pixels.sensors)) for tile in own]
  if not model.views:
    return model.estimate(np.stack(x), context, prepared=True)
  how: dict = {"bands": pixels.bands[: pixels.sensors]}
  if job.scene.days is not None and pixels.dated:
    how["dates"] = np.array(job.scene.days).astype("datetime64[D]")
  if pixels.needs_date:
    how["date"] = [job.date] * len(own)
  if pixels.mask_bands:
    place = {name: pixels.bands.index(name) for name in pixels.mask_bands}
    how["masks"] = {name: [pick(tile, k) for tile in own] for name, k in place.items()}
  return model.estimate(x, context, **how)


def _both(found: list[Estimate]) -> np.ndarray:
  """Value and spread of several estimates, `[2 N C]`."""
  return np.stack([np.concatenate([getattr(one, name) for one in found]) for name in ("value", "spread")])


def _context(job: Job, model: Model, rows: np.ndarray, columns: np.ndarray, static) -> np.ndarray | None:
  """The context of places `[P K]`: the date of the map, coordinates from the grid, static layers."""
  if not model.context:
    return None
  coordinates = None
  if context_layout(model.context).place:
    a, b, c, d, e, f = job.scene.grid.transform
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    known = job.scene.grid.crs, "EPSG:4326"
    longitude, latitude = module("rasterio.warp", "map").transform(*known, x, y)
    coordinates = np.stack([latitude, longitude], 1)
  dates = np.full(len(rows), np.datetime64(job.date or "NaT", "D"))
  return context_lib.encode(model.context, dates=dates, coordinates=coordinates, static=static)


def _written(model: Model, value: np.ndarray, spread: np.ndarray, coverage: float | None) -> Arrays:
  """The map and the confidence of a block as they are written, from value and spread `[h w C]`."""
  layout = layouts(model, coverage)[MAP]
  lacking = np.isnan(value).any(-1)[None]
  first = lambda array: np.moveaxis(array, -1, 0)
  if model.task.kind == "regression":
    width = model.half_widths(coverage)
    more = [] if width is None else [value - width, value + width]
    more += [spread] if len(model.runs) > 1 else []
    return {MAP: first(value), CONFIDENCE: first(np.concatenate([*more, value[..., :0]], -1))}
  p = np.nan_to_num(value)
  chosen, share = p.argmax(-1)[None], p.max(-1)[None]
  if model.task.kind == "multilabel":
    chosen, share = first(p >= 0.5), first(p)
  percent = np.where(lacking, 255, np.round(100 * share)).astype(np.uint8)
  return {MAP: np.where(lacking, layout.nodata, chosen).astype(layout.dtype), CONFIDENCE: percent}


def facts(model: Model, job: Job) -> dict[str, str]:
  """What is written into every file of a map."""
  dataset = model.about.get("dataset") or {}
  return {
    "SOFTWARE": "colearn_jax",
    "MODEL": f"{model.modality.name}, {dataset.get('name', '')}, sha256 {model.about.get('sha256', '')}",
    "INPUT": ", ".join(Path(path).name for path in job.scene.files),
  }
