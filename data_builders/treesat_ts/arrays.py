"""Decodes the images and series of TreeSatAI-Time-Series."""

from __future__ import annotations

import datetime
import io
import re
import warnings

import numpy as np

from colearn_jax.types import InputError

AERIAL = (304, 304, 4)
PIXELS = 6  # on each side of a satellite's tile
SERIES = {  # view: the keys of its values and of its product names, and its number of bands
  "S1asc": ("sen-1-asc-data", "sen-1-asc-products", 2),
  "S1des": ("sen-1-des-data", "sen-1-des-products", 2),
  "S2": ("sen-2-data", "sen-2-products", 10),
  "S2mask": ("sen-2-masks", "sen-2-products", 2),
}


def import_readers():
  """The modules h5py and rasterio, or an InputError that says how to install them."""
  try:
    import h5py
    import rasterio
    import rasterio.warp
  except ImportError:
    raise InputError("treesat_ts is read with h5py and rasterio: pip install 'colearn_jax[raster]'") from None
  return h5py, rasterio


def read_aerial(content: bytes, where: str) -> np.ndarray:
  """Reads an aerial image.

  Args:
    content: of the GeoTIFF.
    where: what messages call it.

  Returns:
    (304, 304, 4) uint8.

  Raises:
    InputError: if it is no such GeoTIFF.
  """
  _, rasterio = import_readers()
  if not content:  # which rasterio would take for one to be written
    raise InputError(f"cannot read {where} as GeoTIFF: it is empty")
  try:
    with warnings.catch_warnings(), rasterio.MemoryFile(content) as memory:
      warnings.simplefilter(
        "ignore", rasterio.errors.NotGeoreferencedWarning
      )  # where it lies is known already
      with memory.open(driver="GTiff") as image:
        shape = (image.height, image.width, image.count)
        if shape != AERIAL or set(image.dtypes) != {"uint8"}:
          found = f"{'/'.join(sorted(set(image.dtypes)))} {shape}"
          raise InputError(f"{where}: the image is {found}, not uint8 {AERIAL} (rows, columns, bands)")
        pixels = image.read()
  except InputError:
    raise
  except Exception as error:  # of a damaged file, whatever the reader stumbles over
    raise InputError(f"cannot read {where} as GeoTIFF: {' '.join(str(error).split())}") from error
  return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def read_series(content: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Reads a tile's series.

  Args:
    content: of the HDF5 file.
    where: what messages call it.

  Returns:
    For each view in `SERIES` the values, (T, 6, 6, bands) float32, NaN where there is none; and the dates,
    (T,) int32 days since 1970-01-01, ascending. T is the view's own, and 0 for a satellite that never came.

  Raises:
    InputError: if it is no HDF5 file, lacks a key, or an array has another shape.
  """
  h5py, _ = import_readers()
  views, dates = {}, {}

  def get(file, key):
    if not isinstance(dataset := file.get(key), h5py.Dataset):
      raise InputError(f"{where} has no array under the key {key!r}, its keys are: {', '.join(file)}")
    return dataset

  try:
    with h5py.File(io.BytesIO(content), "r") as file:
      for view, (key, products, bands) in SERIES.items():
        values, names, shape = get(file, key), np.ravel(get(file, products)[()]), (bands, PIXELS, PIXELS)
        if (
          values.shape != (len(names), *shape)
          and (values.size or names.size)
          or values.dtype.kind not in "iuf"
        ):
          what = f"{values.dtype} {values.shape} for {len(names)} products"
          raise InputError(f"{where}: {key} is {what}, not numbers of shape {(len(names), *shape)}")
        days = np.array([read_date(name, f"{where}: {products}") for name in names], np.int32)
        order = np.argsort(days, kind="stable")
        series = np.moveaxis(values[()].astype(np.float32).reshape(-1, *shape), 1, -1)[order]
        views[view], dates[view] = np.where(np.isinf(series), np.float32(np.nan), series), days[order]
  except InputError:
    raise
  except Exception as error:  # of a damaged file, whatever the reader stumbles over
    raise InputError(f"cannot read {where} as HDF5: {' '.join(str(error).split())}") from error
  return views, dates


def read_date(product: bytes | str, where: str) -> int:
  """The day on which a product was taken, in days since 1970-01-01: the first date in its name."""
  name = product.decode("utf-8", "replace") if isinstance(product, bytes) else str(product)
  try:
    digits = re.search(r"(?:^|_)([0-9]{8})(?![0-9])", name)[1]
    return (datetime.datetime.strptime(digits, "%Y%m%d") - datetime.datetime(1970, 1, 1)).days
  except (TypeError, ValueError):
    raise InputError(f"{where}: no date in the product name {name!r}") from None
