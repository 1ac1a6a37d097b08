"""Values behind metadata: masks, nodata, scales, fill values, names of dimensions."""

import numpy as np
import pytest
from colearn_jax.datasets.folder.folder_dataset_builder import Builder

from tests.cases.folders import DAY, NAN, describe, examples, pixels, refused, table, view_of, write_tif

# Values behind metadata


@pytest.mark.parametrize("how", ["inside", "msk", "alpha"])
def test_masks_and_alpha_bands_hide_pixels_B10(tmp_path, how):
  there, valid = table(tmp_path, "ab"), np.full((4, 4), 255, np.uint8)
  valid[:2] = 0
  image = pixels()
  for i in range(2):
    if how == "alpha":
      from rasterio.enums import ColorInterp as C

      color = (C.red, C.green, C.blue, C.alpha)
      write_tif(
        there / f"S2/s{i}.tif", np.concatenate([image, valid[None]]), colorinterp=color, photometric="RGB"
      )
    else:
      write_tif(there / f"S2/s{i}.tif", image, mask=valid, inside=how == "inside")
  expected = np.where(valid[..., None], np.moveaxis(image, 0, -1), NAN)
  np.testing.assert_array_equal(view_of(there)[1], expected.astype(np.float32), strict=True)
  assert Builder.describe(there)["views"]["S2"]["bands"] == ["b1", "b2", "b3"]


def test_a_fourth_band_that_is_measured_is_no_alpha_band(tmp_path):
  there, image = table(tmp_path, "ab"), pixels(count=4)
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", image)  # GDAL marks the fourth band as alpha
  refused(there, "its band 4 is marked as alpha, but most of it is neither 0 nor 255; .*dataset.json")
  describe(there, views={"S2": {"bands": ["R", "G", "B", "NIR"]}})
  np.testing.assert_array_equal(view_of(there)[0], np.moveaxis(image, 0, -1))


def test_scales_and_offsets_of_each_file_B09(tmp_path):
  there, physical = table(tmp_path, "abab"), np.random.default_rng(0).uniform(0.05, 0.4, (2, 4, 4))
  for i in range(4):
    new = i % 2
    stored = np.round(physical * 10_000 + 1000 * new).astype("uint16")
    write_tif(there / f"S2/s{i}.tif", stored, scales=(1e-4,) * 2, offsets=(-0.1 * new,) * 2)
  for got in view_of(there):
    np.testing.assert_allclose(got, np.moveaxis(physical, 0, -1), atol=6e-5)
    assert got.dtype == np.float32
  describe(there, views={"S2": {"scale": 2, "offset": [1, 0]}})  # what the user says replaces it
  assert view_of(there)[0][0, 0, 0] == np.round(physical[0, 0, 0] * 10_000) * 2 + 1


def test_nodata_that_no_file_names_B25(tmp_path):
  there, image = table(tmp_path, "ab"), pixels(dtype="int16")
  image[:, 1:] = 0
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", image)
    (there / "cube").mkdir(exist_ok=True)
    np.save(there / f"cube/s{i}.npy", np.array([[-9999, 2], [3, 4]], np.int16))
  np.save(there / "stack.npy", np.array([[[0, 2], [3, 0]]] * 2))
  said = {"S2": {"nodata": 0}, "cube": {"nodata": -9999, "scale": 0.5}, "stack": {"nodata": [0, 9]}}
  describe(there, views=said)
  example = examples(there)[0]["views"]
  np.testing.assert_array_equal(np.isnan(example["S2"]).all((1, 2)), [False, True, True, True])
  np.testing.assert_array_equal(example["cube"], [[NAN, 1], [1.5, 2]])
  np.testing.assert_array_equal(example["stack"], [[NAN, 2], [3, 0]])
  describe(there, views={"S2": {"nodata": [0, 1]}})
  refused(there, "view S2: nodata has 2 numbers for 3 bands")


@pytest.mark.parametrize(
  "dtype, nodata",
  [
    ("int16", -9999),
    ("float32", -3.4e38),
    ("int32", -(2**31)),
    ("float64", -999.9),
    ("uint8", 255),
    ("float32", NAN),
  ],
)
def test_nodata_of_every_type_B31(tmp_path, dtype, nodata):
  there, image = table(tmp_path, "ab"), pixels(dtype=dtype)
  image[0, 0, 0] = nodata
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", image, nodata=nodata)
  assert np.isnan(view_of(there)[0]).sum() == 1


PACKED = np.array([[2729, 643], [1000, 7], [-9999, -9999]], np.int16)
UNPACKED = np.array([[0.2729, 0.0643], [0.1, 0.0007], [NAN, NAN]], np.float32)
CF = {"scale_factor": 1e-4, "add_offset": 0.0, "_FillValue": -9999}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("stack", [False, True])
def test_packed_zarr_B08(tmp_path, version, stack):
  pytest.importorskip("xarray")
  zarr = pytest.importorskip("zarr")
  there = table(tmp_path, "ab")
  for i in range(1 if stack else 2):
    path = there / ("S2.zarr" if stack else f"S2/s{i}.zarr")
    values = np.stack([PACKED] * 2) if stack else PACKED
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    array = group.create_array("values", shape=values.shape, dtype="i2")
    array[:] = values
    array.attrs.update(CF)
  np.testing.assert_allclose(view_of(there)[1], UNPACKED, rtol=1e-6)


def test_chunks_that_were_never_written(tmp_path):
  zarr = pytest.importorskip("zarr")
  pytest.importorskip("xarray")
  there = table(tmp_path, "ab")
  stack = zarr.create_array(
    str(there / "S2.zarr"), shape=(2, 4, 2), chunks=(1, 2, 2), dtype="i2", fill_value=-9999
  )
  stack[0] = 5
  stack[1, :2] = 0
  one, two = view_of(there)
  assert (one == 5).all() and (two[:2] == 0).all() and np.isnan(two[2:]).all()


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("suffix", ["nc", "zarr2", "zarr3"])
def test_what_xarray_writes(tmp_path, suffix):
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("h5netcdf")
  there, values = table(tmp_path, "ab"), np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2) / 10
  values[1, 0, 0, 1] = NAN
  (there / "S2").mkdir()
  time = np.array(["2018-01-15", "2018-02-14", "2018-03-16"], "datetime64[ns]")
  for i in range(2):
    cube = xarray.Dataset(
      {"reflectance": (("time", "band", "y", "x"), np.moveaxis(values, -1, 1))},
      {"time": time, "band": ["B2", "B3"], "y": [1.0, 0.0], "x": [0.0, 1.0]},
    )
    encoding = {"reflectance": {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -32768}}
    if suffix == "nc":
      cube.to_netcdf(there / f"S2/s{i}.nc", encoding=encoding, engine="h5netcdf")
    else:
      cube.to_zarr(
        there / f"S2/s{i}.zarr", encoding=encoding, zarr_format=int(suffix[-1]), consolidated=False
      )
  example = examples(there)[0]
  np.testing.assert_allclose(example["views"]["S2"], values, rtol=1e-5)
  assert example["dates"]["S2"].tolist() == [DAY, DAY + 30, DAY + 60]
  assert Builder.describe(there)["views"]["S2"]["bands"] == ["B2", "B3"]


def test_variables_of_one_grid_are_bands(tmp_path):
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("h5netcdf")
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  for i in range(2):
    grid = {name: (("y", "x"), np.full((2, 3), value)) for name, value in (("red", 1.0), ("nir", 2.0))}
    xarray.Dataset(grid | {"spatial_ref": 0}).to_netcdf(there / f"S2/s{i}.nc", engine="h5netcdf")
  assert Builder.describe(there)["views"]["S2"]["bands"] == ["red", "nir"]
  np.testing.assert_array_equal(view_of(there)[0], np.tile([1.0, 2.0], (2, 3, 1)))


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("labelled", [False, True])
def test_ids_of_a_stack_are_used_B28(tmp_path, labelled):
  there, ids = table(tmp_path, "abab"), ["s3", "s1", "s0"]
  values = np.array([[3.0, 3], [1, 1], [0, 0]])
  if labelled:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    xarray.Dataset({"values": (("id", "band"), values)}, {"id": ids}).to_zarr(
      there / "S2.zarr", consolidated=False
    )
  else:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(there / "S2.zarr"), mode="w")
    group["values"] = values
    group.create_array("id", shape=(3,), dtype=str)[:] = np.array(ids, object)
  got = [view[0] for view in view_of(there)]
  np.testing.assert_array_equal(got, [0, 1, NAN, 3])
