"""Writes cloud-optimised GeoTIFFs from blocks: tiled, compressed, with overviews, colours and names."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from colearn_jax.datasets.folder.optional import module, no_warnings
from colearn_jax.deploy.stacks import Grid, Window

TILE = 512
# Okabe and Ito's colours, which people of all kinds of colour vision can tell apart.
_COLOURS = ("E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7", "999999")


@dataclasses.dataclass(frozen=True)
class Layout:
  """What one file of a map holds.

  Attributes:
    bands: names of its bands.
    dtype: of its values.
    nodata: what stands where nothing is known.
    unit: of its values, may be empty.
    classes: names of the values 0, 1, 2, ... of a map of classes; () for others.
  """

  bands: tuple[str, ...]
  dtype: str
  nodata: float
  unit: str = ""
  classes: tuple[str, ...] = ()


def colours(number: int) -> list[tuple[int, int, int]]:
  """Colours for so many classes, red, green and blue from 0 to 255."""
  out = [tuple(bytes.fromhex(code)) for code in _COLOURS[:number]]
  for k in range(len(out), number):  # hues in golden steps, each round darker
    hue = colorsys.hsv_to_rgb(k * 0.618034 % 1, 0.65, (0.95, 0.7, 0.45)[k % 3])
    out.append(tuple(round(255 * part) for part in hue))
  return [(int(r), int(g), int(b)) for r, g, b in out]


def write(
  path: Path, grid: Grid, layout: Layout, blocks: Iterable[tuple[Window, np.ndarray]], tags: dict[str, str]
) -> None:
  """Writes a file. If the path has other files of GDAL's beside it, they are replaced too.

  Args:
    path: of the file, which is not complete until this returns.
    grid: the pixels.
    layout: what it holds.
    blocks: windows and their values `[bands h w]`, which cover the grid.
    tags: further facts, written as they are.
  """
  rasterio, shutil = module("rasterio", "map"), module("rasterio.shutil", "map")
  plain = path.with_name(f"{path.name}.plain")
  common = {"compress": "deflate", "bigtiff": "if_safer"}
  profile = {
    "driver": "GTiff",
    "height": grid.height,
    "width": grid.width,
    "count": len(layout.bands),
    "dtype": layout.dtype,
    "nodata": layout.nodata,
    "transform": rasterio.Affine(*grid.transform),
    "crs": grid.crs or None,
    "interleave": "band",
  }
  tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE} if min(grid[:2]) >= TILE else {}
  numbers = list(range(1, len(layout.bands) + 1))
  part = module("rasterio.windows", "map").Window
  try:
    with no_warnings(), rasterio.open(plain, "w", **profile, **tiles, **common) as file:
      for window, values in blocks:
        file.write(values, numbers, window=part(window.column, window.row, window.width, window.height))
      for number, name in zip(numbers, layout.bands):
        file.set_band_description(number, name)
        file.set_band_unit(number, layout.unit)
      if layout.classes and len(layout.classes) <= 255 and len(numbers) == 1:
        file.write_colormap(1, {k: (*rgb, 255) for k, rgb in enumerate(colours(len(layout.classes)))})
      file.update_tags(**tags, **{f"CLASS_{k}": name for k, name in enumerate(layout.classes)})
    how = "mode" if layout.classes else "average"
    predictor = {} if layout.classes else {"predictor": "yes"}
    with no_warnings():
      options = {"overview_resampling": how, "blocksize": TILE, **predictor, **common}
      shutil.copy(plain, path, driver="COG", **options)
  finally:
    plain.unlink(missing_ok=True)
  if layout.classes:
    beside(path).write_text(_names(len(numbers), layout.classes), encoding="utf-8")


def beside(path: Path) -> Path:
  """The file with the names of the classes, as GDAL and QGIS find it."""
  return path.with_name(f"{path.name}.aux.xml")


def _names(bands: int, classes: Sequence[str]) -> str:
  """The names of the classes in the form of GDAL's `.aux.xml`."""
  every = "".join(f"<Category>{escape(name)}</Category>" for name in classes)
  band = '<PAMRasterBand band="{}"><CategoryNames>{}</CategoryNames></PAMRasterBand>'
  return f"<PAMDataset>{''.join(band.format(k + 1, every) for k in range(bands))}</PAMDataset>\n"
