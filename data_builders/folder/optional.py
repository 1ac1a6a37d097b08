"""Libraries that not everybody needs, and their warnings."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator

from colearn_jax.types import InputError

NEEDED = {".zarr": ("zarr", "zarr"), ".nc": ("xarray", "zarr"), ".tif": ("rasterio", "raster")}
NEEDED[".tiff"] = NEEDED[".tif"]


def module(name: str, extra: str):
  """A library of an extra of colearn_jax; InputError with the command that installs it if it is missing."""
  try:
    return importlib.import_module(name)
  except ImportError:
    made = {"map": "maps are made", "dask": "clusters are used"}
    what = made.get(extra, f"{'files with CF metadata' if name == 'xarray' else f'{extra} files'} are read")
    raise InputError(f"{what} with {name}: pip install 'colearn_jax[{extra}]'") from None


def require(suffixes) -> None:
  """Raises InputError if files with these suffixes cannot be read for want of a library."""
  for suffix in suffixes:
    if suffix in NEEDED:
      module(*NEEDED[suffix])


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
  """Drops what these libraries warn of: images without a place, Zarr without consolidated metadata.

  Filters of warnings are those of the process: it is entered by the thread that starts others, not by these.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield
