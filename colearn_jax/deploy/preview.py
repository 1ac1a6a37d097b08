"""Draws a map as a picture with a legend and a scale."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from colearn_jax.datasets.folder.optional import module, no_warnings
from colearn_jax.deploy.cog import Layout, colours
from colearn_jax.deploy.stacks import Grid

PIXELS = 900  # the longer side of the picture of the map


def write(path: Path, image: Path, grid: Grid, layout: Layout, title: str) -> None:
  """Writes a picture of the first band of a map.

  Args:
    path: the picture, PNG.
    image: the map, as `cog.write` wrote it.
    grid: its pixels.
    layout: what it holds.
    title: of the picture.
  """
  figure = module("matplotlib.figure", "map").Figure
  matplotlib = module("matplotlib", "map")
  shrink = max(1.0, max(grid.height, grid.width) / PIXELS)
  shape = max(1, round(grid.height / shrink)), max(1, round(grid.width / shrink))
  with no_warnings(), module("rasterio", "map").open(image) as file:
    shown = file.read(1, out_shape=shape, masked=True)
  wide = max(3.2, 6 * shape[1] / max(shape))
  page = figure(figsize=(wide + 2.4, max(3.2, 6 * shape[0] / max(shape)) + 1), dpi=130, layout="constrained")
  axes = page.subplots()
  axes.set_title(title, fontsize=9)
  axes.set_xticks([])
  axes.set_yticks([])
  axes.set_facecolor("0.93")
  extent = (0, grid.width, grid.height, 0)
  if layout.classes:
    table = np.array(colours(len(layout.classes)), np.uint8)
    filled = np.minimum(shown.filled(0), len(table) - 1).astype(int)
    rgba = np.dstack([table[filled], np.where(np.ma.getmaskarray(shown), 0, 255).astype(np.uint8)])
    axes.imshow(rgba, extent=extent, interpolation="nearest")
    there = set(np.unique(shown.compressed()).tolist())
    patch = module("matplotlib.patches", "map").Patch
    known = [k for k in range(len(layout.classes)) if k in there][:30]
    handles = [patch(color=table[k] / 255, label=layout.classes[k]) for k in known]
    page.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
  else:
    drawn = axes.imshow(shown, extent=extent, interpolation="nearest", cmap=matplotlib.colormaps["viridis"])
    label = layout.bands[0] + (f" ({layout.unit})" if layout.unit else "")
    page.colorbar(drawn, ax=axes, label=label, shrink=0.7)
  _scale(axes, grid)
  page.savefig(path, format="png")


def _scale(axes, grid: Grid) -> None:
  """Draws a bar of a round length at the lower left; of pixels, where the ground is not known."""
  metres = _metres(grid)
  length = grid.width * (metres or 1) / 4
  power = 10 ** math.floor(math.log10(length)) if length > 0 else 1
  round_length = max((k for k in (1, 2, 5) if k * power <= length), default=1) * power
  in_pixels = round_length / (metres or 1)
  y, x = grid.height * 0.96, grid.width * 0.03
  axes.plot([x, x + in_pixels], [y, y], color="black", linewidth=3, solid_capstyle="butt")
  name = f"{round_length:g} pixels" if metres is None else _length(round_length)
  axes.text(
    x, y - grid.height * 0.015, name, fontsize=8, va="bottom", bbox={"color": "white", "alpha": 0.7, "pad": 1}
  )


def _length(metres: float) -> str:
  return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


def _metres(grid: Grid) -> float | None:
  """The width of a pixel in metres, in the middle of the scene; None if it is not known."""
  if not grid.crs:
    return None
  crs = module("rasterio.crs", "map").CRS.from_wkt(grid.crs)
  a, b, _, d, e, f = grid.transform
  across = math.hypot(a, d)
  if crs.is_projected:
    return across * (crs.linear_units_factor[1] or 1)
  if crs.is_geographic:
    latitude = f + d * grid.width / 2 + e * grid.height / 2
    return across * 111_320 * max(math.cos(math.radians(latitude)), 0.01)
  return None
