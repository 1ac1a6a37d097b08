"""Reads GeoTIFFs: what nodata, masks and alpha bands hide is missing, scales and offsets are applied."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder.cubes import kind
from colearn_jax.datasets.folder.decoding import Decoding, UnclearError
from colearn_jax.datasets.folder.optional import module

from colearn_jax.types import InputError

NOWHERE = (math.nan,) * 4
VALID = "datamask"  # the name of the band in which Sentinel Hub says what is valid


@contextlib.contextmanager
def _open(path: Path):
  with module("rasterio", "raster").open(path, driver="GTiff") as image:
    yield image


def _bands(image, count: int | None) -> tuple[list[int], int | None]:
  """The numbers of the bands that are measured, and of the alpha band or dataMask, which say what is valid.

  GDAL marks the fourth band of many four-band images of bytes as alpha, whatever it is: where it has a name
  of its own, or the user names as many bands as there are (`count`), it is a band.
  """
  if count != image.count > 1 and (valid := _data_mask(image)):
    return [i for i in image.indexes if i != valid], valid
  alpha = [i for i, color in enumerate(image.colorinterp, 1) if color.name == "alpha"]
  named = [i for i in alpha if (image.descriptions[i - 1] or "alpha").lower() not in ("alpha", "a", "mask")]
  if len(alpha) != 1 or named or count == image.count or image.count == 1:
    return list(image.indexes), None
  return [i for i in image.indexes if i != alpha[0]], alpha[0]


def _data_mask(image) -> int | None:
  """The number of the band `dataMask`, if there is one: 0 where there are no data."""
  return next((i for i, name in enumerate(image.descriptions, 1) if (name or "").lower() == VALID), None)


def header(path: Path, decoding: Decoding) -> dict:
  """What `arrays.Header` says of an image.

  Raises:
    InputError: it has several images, or complex numbers.
  """
  with _open(path) as image:
    if len(image.subdatasets) > 1:
      number = len(image.subdatasets)
      raise InputError(f"{path} holds {number} images, and one can be read; write one with all bands")
    indexes, alpha = _bands(image, decoding.bands)
    _check_tags(path, image, indexes, decoding)
    dtype = np.result_type(*(image.dtypes[i - 1] for i in indexes))
    if _hides(image, indexes, alpha) or not decoding.scaled and _scaled(image, indexes):
      dtype = np.result_type(dtype, np.float32)
    return {
      "shape": (image.height, image.width, len(indexes)),
      "dtype": dtype,
      "bands": band_names(image, indexes),
      "located": image.crs is not None,
      "scaled": not decoding.scaled and any(image.scales[i - 1] != 1 for i in indexes),
      "nodata": frozenset(image.nodatavals[i - 1] for i in indexes),
      "units": band_units(image, indexes),
      "kinds": (kind(*(np.dtype(image.dtypes[i - 1]) for i in indexes)),),
    }


def _check_tags(path: Path, image, indexes: list[int], decoding: Decoding) -> None:
  """Raises InputError for a scale factor that is told in the metadata alone: GDAL has not applied it."""
  tags = {key: value for i in (0, *indexes[:1]) for key, value in image.tags(i).items()}
  said = next((tags[key] for key in ("scale_factor", "SCALE_FACTOR") if key in tags), "1")
  try:
    factor = float(said)
  except ValueError:
    return
  if factor != 1 and not decoding.scaled and not _scaled(image, indexes):
    raise InputError(
      f"{path} has the scale_factor {factor:g} in its metadata, and none that is applied; say in "
      f'dataset.json, for the view: {{"scale": {factor:.17g}}}, or {{"scale": 1}} if it is applied already'
    )


def band_names(image, indexes: list[int]) -> tuple[str, ...] | None:
  """The names of bands of an open image; None where they lack one, or have all the same (rioxarray)."""
  names = tuple(image.descriptions[i - 1] for i in indexes)
  return names if all(names) and (len(names) == 1 or len(set(names)) > 1) else None


def band_units(image, indexes: list[int]) -> tuple[str, ...]:
  """The units of bands of an open image; () if it has none."""
  units = tuple(image.units[i - 1] or "" for i in indexes)
  return units if any(units) else ()


def _hides(image, indexes: list[int], alpha: int | None) -> bool:
  """Whether pixels may be missing: from a mask, an alpha band, or a nodata value that is not NaN."""
  flags = {flag.name for i in indexes for flag in image.mask_flag_enums[i - 1]}
  values = [image.nodatavals[i - 1] for i in indexes]
  sentinel = any(value is not None and not math.isnan(value) for value in values)
  return alpha is not None or sentinel or "per_dataset" in flags and "alpha" not in flags


def _scaled(image, indexes: list[int]) -> bool:
  return any(image.scales[i - 1] != 1 or image.offsets[i - 1] != 0 for i in indexes)


def read(path: Path, decoding: Decoding) -> tuple[np.ndarray, tuple[float, ...]]:
  """The values `[H W C]`, and the bounds west, south, east and north in degrees, NaN if unknown.

  Args:
    path: of the file.
    decoding: what the user says; a scale or an offset there replaces those of the file.
  """
  with _open(path) as image:
    indexes, alpha = _bands(image, decoding.bands)
    if alpha is not None and alpha != _data_mask(image):
      _check_alpha(path, alpha, image.read(alpha))
    pixels = read_bands(image, indexes, decoding)
    return np.ascontiguousarray(_north_up(image, pixels)), _bounds(image)


def measured(image, count: int | None = None) -> list[int]:
  """The numbers of the bands of an open image that are measured: all but an alpha band.

  Args:
    image: the image.
    count: how many bands the user names, if any.
  """
  return _bands(image, count)[0]


def read_bands(image, indexes: list[int], decoding: Decoding, window=None) -> np.ndarray:
  """The values `[H W C]` of bands of an open image, or of a window of it; what is hidden is NaN.

  Args:
    image: the image.
    indexes: the numbers of the bands, from 1.
    decoding: what the user says; a scale or an offset there replaces those of the file.
    window: as rasterio has it.
  """
  if _hides(image, indexes, _bands(image, decoding.bands)[1]):
    masked = image.read(indexes, window=window, masked=True)
    dtype = np.result_type(masked.dtype, np.float32)
    stored, pixels = masked.data, np.ma.filled(masked.astype(dtype), np.nan)
    for k, i in enumerate(indexes):  # beside a mask GDAL leaves the nodata value unused
      if (nodata := image.nodatavals[i - 1]) is not None:
        pixels[k][stored[k] == nodata] = np.nan
    if (valid := _bands(image, decoding.bands)[1]) is not None and valid == _data_mask(image):
      pixels[:, image.read(valid, window=window) == 0] = np.nan
  else:
    stored = pixels = image.read(indexes, window=window)
  stored, pixels = (np.moveaxis(array, 0, -1) for array in (stored, pixels))
  _check_untagged(image, indexes, pixels, decoding)
  pixels = decoding.hide(pixels, stored)
  if not decoding.scaled and _scaled(image, indexes):
    of = lambda values: np.array([values[i - 1] for i in indexes])
    pixels = (pixels * of(image.scales) + of(image.offsets)).astype(np.float32)
  return pixels


def _north_up(image, pixels: np.ndarray) -> np.ndarray:
  """The pixels `[H W C]` with rows from north to south and columns from west to east, where that is known."""
  t = image.transform
  if t.is_identity or t.b or t.d:
    return pixels
  return pixels[:: -1 if t.e > 0 else 1, :: -1 if t.a < 0 else 1]


def _check_untagged(image, indexes: list[int], pixels: np.ndarray, decoding: Decoding) -> None:
  """Raises UnclearError if a file without a nodata value holds the one that other files of the view name."""
  if any(image.nodatavals[i - 1] is not None for i in indexes):
    return
  for value in decoding.elsewhere:
    if (pixels == value).any():
      raise UnclearError(
        f"has no nodata value and holds {value:g}, which is nodata in other files of the view; say in "
        f'dataset.json, for the view: {{"nodata": {value:.17g}}}, or {{"nodata": []}} if each file is right'
      )


def _check_alpha(path: Path, number: int, alpha: np.ndarray):
  full = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
  if ((alpha != 0) & (alpha != full) & (alpha != 255)).mean() > 0.5:
    raise InputError(
      f"{path}: its band {number} is marked as alpha, but most of it is neither 0 nor {full}; "
      "if it is measured, name all bands in dataset.json"
    )


def _bounds(image) -> tuple[float, ...]:
  """The bounds in EPSG:4326."""
  if image.crs is None:
    return NOWHERE
  rasterio = module("rasterio", "raster")
  warp = module("rasterio.warp", "raster")
  try:
    bounds = warp.transform_bounds(image.crs, "EPSG:4326", *image.bounds)
  except rasterio.errors.RasterioError:
    return NOWHERE
  return tuple(map(float, bounds)) if np.isfinite(bounds).all() else NOWHERE


def apart(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
  """Whether two known bounds have no ground in common; over the date line west is greater than east."""
  if math.isnan(one[0]) or math.isnan(two[0]):
    return False
  (w1, s1, e1, n1), (w2, s2, e2, n2) = one, two
  spans = lambda w, e: [(w, e)] if w <= e else [(w, 180.0), (-180.0, e)]
  meet = lambda a, b: max(a[0], b[0]) < min(a[1], b[1])
  return not (meet((s1, n1), (s2, n2)) and any(meet(a, b) for a in spans(w1, e1) for b in spans(w2, e2)))


def centre(bounds: tuple[float, ...]) -> tuple[float, float]:
  """Latitude and longitude of the middle of bounds."""
  west, south, east, north = bounds
  east = east + 360 if west > east else east
  return (south + north) / 2, (west + east) / 2 - (360 if (west + east) / 2 > 180 else 0)
