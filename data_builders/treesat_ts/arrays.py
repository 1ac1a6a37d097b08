"""Decodes the aerial images (GeoTIFF) and satellite series (HDF5) of TreeSatAI-Time-Series."""

from __future__ import annotations

import datetime
import io
import re
import warnings

import numpy as np

from colearn_jax.types import InputError

AERIAL = (304, 304, 4)
PIXELS = 6  # side of a tile in the satellite images
SERIES = {  # view: key of its values, key of its product names, number of bands
  "S1asc": ("sen-1-asc-data", "sen-1-asc-products", 2),
  "S1des": ("sen-1-des-data", "sen-1-des-products", 2),
  "S2": ("sen-2-data", "sen-2-products", 10),
  "S2mask": ("sen-2-masks", "sen-2-products", 2),
}


def import_readers():
  """Returns the modules h5py and rasterio, or raises an InputError that says how to install them."""
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
    content: the bytes of the GeoTIFF.
    where: name of the file in error messages.

  Returns:
    (304, 304, 4) uint8.

  Raises:
    InputError: the content is not a GeoTIFF with this shape and type.
  """
  _, rasterio = import_readers()
  if not content:  # rasterio would open an empty file for writing
    raise InputError(f"cannot read {where} as GeoTIFF: it is empty")
  try:
    with warnings.catch_warnings(), rasterio.MemoryFile(content) as memory:
      # Coordinates are read from the GeoJSON file instead.
      warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
      with memory.open(driver="GTiff") as image:
        shape = (image.height, image.width, image.count)
        if shape != AERIAL or set(image.dtypes) != {"uint8"}:
          found = f"{'/'.join(sorted(set(image.dtypes)))} {shape}"
          raise InputError(f"{where}: the image is {found}, not uint8 {AERIAL} (rows, columns, bands)")
        pixels = image.read()
  except InputError:
    raise
  except Exception as error:  # rasterio raises many types for damaged files
    raise InputError(f"cannot read {where} as GeoTIFF: {' '.join(str(error).split())}") from error
  return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def read_series(content: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Reads the satellite series of a tile.

  Args:
    content: the bytes of the HDF5 file.
    where: name of the file in error messages.

  Returns:
    For each view in `SERIES` the values, (T, 6, 6, bands) float32, NaN for missing values; and the dates,
    (T,) int32 days since 1970-01-01, ascending. T differs between views. It is 0 for a view without images.

  Raises:
    InputError: the content is not HDF5, lacks a key, or has an array of a wrong shape.
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
  except Exception as error:  # h5py raises many types for damaged files
    raise InputError(f"cannot read {where} as HDF5: {' '.join(str(error).split())}") from error
  return views, dates


def read_date(product: bytes | str, where: str) -> int:
  """The acquisition date of a product, in days since 1970-01-01, which is the first date in its name."""
  name = product.decode("utf-8", "replace") if isinstance(product, bytes) else str(product)
  try:
    digits = re.search(r"(?:^|_)([0-9]{8})(?![0-9])", name)[1]
    return (datetime.datetime.strptime(digits, "%Y%m%d") - datetime.datetime(1970, 1, 1)).days
  except (TypeError, ValueError):
    raise InputError(f"{where}: no date in the product name {name!r}") from None
