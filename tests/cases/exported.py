"""Small exported models, and the files and scenes that they read."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyarrow import parquet

from colearn_jax import load_model
from colearn_jax.deploy.export import save_model
from colearn_jax.deploy.model import Model
from colearn_jax.types import Modality, Task

BANDS, DAYS = ("red", "nir"), ("2023-05-01", "2023-05-13", "2023-06-02")
CLASSES = Task("multiclass", ("crop", "tree, old", "water"))
COLUMNS = ("date_sin", "date_cos", "place_x", "place_y", "place_z", "elevation")
ORIGIN = (10, 0, 600000, 0, -10, 5300000)  # of the pixels of scenes, in UTM 32


def function(weights, x, *given):
  there = ~jnp.isnan(x).all(tuple(range(1, x.ndim)))
  y = jnp.where(jnp.isnan(x), 0.0, x).reshape(x.shape[0], -1) @ weights["kernel"]
  y = sum((jnp.where(jnp.isnan(c), 0.0, c) @ weights["context"] for c in given), y)
  y = jax.nn.softmax(y) if y.shape[-1] == 3 else y
  return jnp.where(there[:, None], y, jnp.nan)


def make_model(path, shape, task=CLASSES, names=(), runs=2, **about):
  rng = np.random.default_rng(3)
  draw = lambda n: rng.normal(size=(n, len(task.outputs))).astype(np.float32)
  one = lambda: {"kernel": draw(int(np.prod(shape))), "context": draw(len(names))}
  weights = {f"seed10_fold{k}": one() for k in range(runs)}
  return save_model(Model(function, weights, Modality("S2", ("S2",), shape, BANDS), task, names, about), path)


def write_csv(path, columns):
  with open(path, "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([list(columns), *zip(*columns.values())])
  return path


def rows(path):
  if path.suffix == ".parquet":
    return parquet.read_table(path).to_pylist()
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def scene(height=37, width=53, steps=3):
  """Values `[T H W 2]`, some missing; a corner of the scene has none."""
  x = np.random.default_rng(0).normal(size=(steps, height, width, 2)).astype(np.float32)
  x[0, :5, :5, 0] = x[-1, 4] = np.nan
  x[:, -6:, -10:] = np.nan
  return x


def write(path, image, bands=BANDS, **more):
  """Writes an image `[H W C]`."""
  rasterio = pytest.importorskip("rasterio")
  path.parent.mkdir(parents=True, exist_ok=True)
  place = {"driver": "GTiff", "crs": "EPSG:32632", "transform": rasterio.Affine(*ORIGIN)}
  profile = place | {"height": image.shape[0], "width": image.shape[1], "count": image.shape[2]}
  with rasterio.open(path, "w", **profile | {"dtype": image.dtype.name, "nodata": np.nan} | more) as file:
    file.write(np.moveaxis(image, -1, 0))
    for number, name in enumerate(bands, 1):
      file.set_band_description(number, name)
  return path


def read(path):
  with pytest.importorskip("rasterio").open(path) as file:
    return file.read(), file.profile | {"tags": file.tags(), "names": file.descriptions, "units": file.units}


def expected(folder, x, block=512):
  """Value `[H W C]` of every pixel, by `Model.estimate`."""
  model = load_model(folder)
  flat = np.moveaxis(x, 0, 2).reshape(-1, *model.modality.shape)
  return model.estimate(flat).value.reshape(*x.shape[1:3], -1)


def cube(folder, x, suffix, **more):
  """A cube with a variable for each band, rows from south to north."""
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("rioxarray")
  height, width = x.shape[1:3]
  made = xarray.Dataset(
    {band: (("time", "y", "x"), x[:, ::-1, :, k]) for k, band in enumerate(BANDS)} | more,
    {
      "time": np.array(DAYS, "datetime64[ns]"),
      "y": 5300000 - 5 - 10.0 * np.arange(height)[::-1],
      "x": 600000 + 5 + 10.0 * np.arange(width),
    },
  )
  made = made.rio.write_crs("EPSG:32632")
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"cube{suffix}"
  made.to_zarr(path, consolidated=False) if suffix == ".zarr" else made.to_netcdf(path, engine="h5netcdf")
  return path
