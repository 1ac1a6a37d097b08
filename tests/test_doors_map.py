"""Scenes as tools write them, for `colearn_jax.map`: metadata that differ, STAC items, cubes in any order."""

import json

import numpy as np
import pytest

from colearn_jax.deploy import maps
from colearn_jax.types import InputError
from tests.cases.exported import BANDS, DAYS, cube, expected, make_model, read, scene, write

rasterio = pytest.importorskip("rasterio")
X = scene(20, 24)
ROUNDED = (np.round(X * 1000) * 1e-3).astype(np.float32)
STORED = np.where(np.isnan(X), -9999, np.round(X * 1000)).astype(np.int16)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
  return make_model(tmp_path_factory.mktemp("model") / "m", (3, 2), runs=1)


def check(series, inputs, x, tmp_path, **settings):
  """The classes of a map are those of the values."""
  out = tmp_path / "map.tif"
  maps.make(series, [str(path) for path in inputs], out, maps.Settings(**settings))
  want = expected(series, x)
  lacking = np.isnan(want).any(-1)
  np.testing.assert_array_equal(read(out)[0][0], np.where(lacking, 255, np.nan_to_num(want).argmax(-1)))


def refused(series, inputs, message, tmp_path):
  with pytest.raises(InputError, match=message) as error:
    maps.make(series, [str(path) for path in inputs], tmp_path / "map.tif", maps.Settings())
  assert "\n" not in str(error.value)


def files(folder, images, tags=({}, {}, {}), **more):
  """A GeoTIFF for each date, with tags of its own."""
  paths = []
  for day, image, own in zip(DAYS, images, tags):
    paths.append(write(folder / f"S2_{day}.tif", image, **more))
    with rasterio.open(paths[-1], "r+") as file:
      for name, value in own.items():
        setattr(file, name, value)
  return paths


def test_a_date_without_the_scale_factor_of_the_others(series, tmp_path):
  scaled = {"scales": [1e-3] * 2}
  check(series, files(tmp_path, STORED, [scaled] * 3, nodata=-9999), ROUNDED, tmp_path)
  paths = files(tmp_path, STORED, [scaled, {}, scaled], nodata=-9999)
  refused(series, paths, "S2_2023-05-13.tif has no scale factor for red, S2_2023-05-01.tif has one", tmp_path)
  check(series, paths, ROUNDED, tmp_path, scale=1e-3)


def test_a_date_in_other_units(series, tmp_path):
  paths = files(tmp_path, X, [{}, {}, {"units": ["dB", "dB"]}])
  refused(series, paths, "S2_2023-06-02.tif has red in the units dB, others in none", tmp_path)


def test_a_date_that_does_not_name_nodata(series, tmp_path):
  filled = np.nan_to_num(X, nan=7.0)
  paths = files(tmp_path, filled, nodata=7)
  check(series, paths, X, tmp_path)
  write(paths[0], filled[0], nodata=None)
  refused(series, paths, "S2_2023-05-01.tif has no nodata value and holds 7, .*--nodata=NUMBER", tmp_path)
  check(series, paths, X, tmp_path, nodata="7")


def items(folder, images, **asset):
  """STAC items of one file for each date, with more in their assets."""
  features = []
  for day, image in zip(DAYS, images):
    write(folder / f"{day}.tif", image, nodata=None)
    data = {"href": f"{day}.tif", "eo:bands": [{"name": band} for band in BANDS]} | asset
    properties = {"datetime": f"{day}T10:20:31Z"}
    features.append({"type": "Feature", "id": day, "properties": properties, "assets": {"data": data}})
  (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
  return [folder / "items.json"]


ITEMS = {
  "raster extension": {"raster:bands": [{"scale": 1e-3, "offset": -5, "nodata": 0}] * 2},
  "STAC 1.1": {"bands": [{"name": b, "raster:scale": 1e-3, "raster:offset": -5, "nodata": 0} for b in BANDS]},
  "of the asset": {"raster:scale": 1e-3, "raster:offset": -5.0, "nodata": 0},
  "nodata as text": {"raster:bands": [{"scale": 1e-3, "offset": -5, "nodata": "0"}] * 2},
}


@pytest.mark.parametrize("asset", ITEMS.values(), ids=ITEMS)
def test_scale_offset_and_nodata_of_items(series, tmp_path, asset):
  stored = np.where(np.isnan(X), 0, np.round(X * 1000) + 5000).astype(np.uint16)
  check(series, items(tmp_path, stored, **asset), ROUNDED, tmp_path)


def test_what_the_file_says_goes_before_the_item(series, tmp_path):
  path = items(tmp_path, STORED, **{"raster:bands": [{"scale": 9.0, "nodata": 3}] * 2})
  for day in DAYS:
    with rasterio.open(tmp_path / f"{day}.tif", "r+") as file:
      file.scales, file.nodata = [1e-3] * 2, -9999
  check(series, path, ROUNDED, tmp_path)


def test_steps_of_a_cube_in_another_order(series, tmp_path):
  pytest.importorskip("h5netcdf")
  xarray = pytest.importorskip("xarray")
  path = cube(tmp_path, X, ".nc")
  with xarray.open_dataset(path, engine="h5netcdf") as opened:
    turned = opened.isel(time=[2, 0, 1]).load()
  turned.to_netcdf(tmp_path / "turned.nc", engine="h5netcdf")
  check(series, [tmp_path / "turned.nc"], X, tmp_path)


NAMES = {"Earth Engine: toBands": "{k}_{band}", "Earth Engine: dates": "{day}_{band}"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_layers_of_earth_engine(series, tmp_path, name):
  names = [
    name.format(k=k, day=day.replace("-", ""), band=band) for k, day in enumerate(DAYS) for band in BANDS
  ]
  image = np.moveaxis(X, 0, 2).reshape(*X.shape[1:3], -1)
  check(series, [write(tmp_path / "all.tif", image, names)], X, tmp_path)
