"""What files say beside their values: units, names, nodata, ids; and dates in names of files."""

import numpy as np
import pytest
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder

from colearn_jax.dates import to_iso
from tests.cases.folders import NAN, describe, examples, pixels, refused, table, view_of, write_tif


def wrong(there):
  return survey_folder(read_folder(there)).wrong


def bands(there):
  return Builder.describe(there)["views"]["S2"]["bands"]


@pytest.fixture
def cubes(tmp_path):
  """Writes a data set for each sample of the view S2."""
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("h5netcdf")

  def write(*every, zarr=None, **more):
    there = table(tmp_path, "ab")
    (there / "S2").mkdir(exist_ok=True)
    for i, (variables, coordinates) in enumerate(every):
      cube = xarray.Dataset(variables, coordinates)
      if zarr:
        cube.to_zarr(there / f"S2/s{i}.zarr", zarr_format=zarr, consolidated=False, **more)
      else:
        cube.to_netcdf(there / f"S2/s{i}.nc", engine="h5netcdf", **more)
    return there

  return write


ONE = np.array([[1.5, 2], [3, 4]], np.float32)
NAMES = {  # the two files: bands of the view, or what is told of the second one
  "one variable": ([({"ndvi": (("y", "x"), ONE)}, {})] * 2, ["ndvi"]),
  "xarray: no name": ([({"__xarray_dataarray_variable__": (("y", "x"), ONE)}, {})] * 2, ["b1"]),
  "two variables, one a file": (
    [({name: (("y", "x"), ONE)}, {}) for name in ("B3", "B2")],
    "names the bands B2, not B3",
  ),
  "wavelengths": ([({"v": (("time", "band"), ONE)}, {"band": [490.0, 560.5]})] * 2, ["490", "560.5"]),
  "rasterio: numbers from 1": ([({"v": (("time", "band"), ONE)}, {"band": [1, 2]})] * 2, ["b1", "b2"]),
  "numbers in another order": (
    [({"v": (("time", "band"), ONE)}, {"band": own}) for own in ([4, 3], [3, 4])],
    "names the bands 3, 4, not 4, 3",
  ),
  "units": (
    [({"v": (("y", "x"), ONE, {"units": unit})}, {}) for unit in ("K", "degC")],
    "has the units degC, others K; units in dataset.json",
  ),
}


@pytest.mark.parametrize("files, expected", NAMES.values(), ids=NAMES)
def test_names_and_units_of_cubes(cubes, files, expected):
  there = cubes(*files)
  if isinstance(expected, str):
    assert expected in wrong(there)["s1"]
  else:
    assert bands(there) == expected and not wrong(there)


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("zarr", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fill_values_of_floats_in_zarr(cubes, zarr, dtype):
  """xarray writes them as text of base64 in Zarr 3."""
  values = np.where(ONE == 2, NAN, ONE).astype(dtype)
  there = cubes(
    *[({"v": (("time", "band"), values)}, {})] * 2, zarr=zarr, encoding={"v": {"_FillValue": -9999.0}}
  )
  np.testing.assert_array_equal(view_of(there)[0], values.astype(np.float32))


@pytest.mark.parametrize("zarr", [2, 3])
@pytest.mark.parametrize("dtype", ["datetime64[D]", "datetime64[ns]", "U10", "S10"])
@pytest.mark.filterwarnings("ignore:The data type")
def test_dates_of_every_type_of_zarr(tmp_path, zarr, dtype):
  module, there = pytest.importorskip("zarr"), table(tmp_path, "ab")
  for i in range(2):
    group = module.open_group(str(there / f"S2/s{i}.zarr"), mode="w", zarr_format=zarr)
    group.create_array("values", data=ONE)
    group.create_array("dates", data=np.array(["2018-01-15", "2018-02-14"], "datetime64[D]").astype(dtype))
  assert [to_iso(day) for day in examples(there)[0]["dates"]["S2"]] == ["2018-01-15", "2018-02-14"]


def test_images_in_decibels_and_not(tmp_path):
  rasterio, there = pytest.importorskip("rasterio"), table(tmp_path, "ab")
  for i, unit in enumerate(("dB", "1")):
    write_tif(there / f"S2/s{i}.tif", pixels())
    with rasterio.open(there / f"S2/s{i}.tif", "r+") as file:
      file.units = [unit] * 3
  assert "has the units 1, 1, 1, others dB, dB, dB" in wrong(there)["s1"]
  describe(there, views={"S2": {"units": "dB"}})
  assert not wrong(there)


def test_images_of_one_sample_in_two_units(tmp_path):
  rasterio, there = pytest.importorskip("rasterio"), table(tmp_path, "ab")
  for i in range(2):
    for unit, day in (("dB", "2018-01-15"), ("1", "2018-02-14")):
      path = there / f"S2/s{i}/{day}.tif"
      write_tif(path, pixels())
      with rasterio.open(path, "r+") as file:
        file.units = [unit] * 3
  refused(there, "2018-02-14.tif and 2018-01-15.tif have bands of different units")


def test_bands_that_all_have_one_name_have_none(tmp_path):
  """rioxarray writes the name of the array to every band."""
  there = table(tmp_path, "ab")
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels(), descriptions=("reflectance",) * 3)
  assert bands(there) == ["b1", "b2", "b3"]


CODES = {  # code, dtype, the factor of the other numbers
  "-999": (-999, "float32", 1),
  "GPM IMERG": (-9999.9, "float32", 0.01),
  "9999 among reflectances": (9999, "float32", 0.001),
  "99999": (99999, "int32", 1),
  "MODIS MCD43": (32767, "int16", 1),
  "climate models": (1e20, "float32", 1),
  "greatest int32": (2**31 - 1, "int32", 1),
}


@pytest.mark.parametrize("code, dtype, factor", CODES.values(), ids=CODES)
def test_codes_that_no_file_names(tmp_path, code, dtype, factor):
  image, there = np.moveaxis(pixels() * factor, 0, -1).astype(dtype), table(tmp_path, "ab")
  image[0, 0, 0] = code
  np.save(there / "S2.npy", np.stack([image] * 2))
  refused(there, "holds .*: a value, or nodata")
  describe(there, views={"S2": {"nodata": code}})
  assert np.isnan(view_of(there)[0]).sum() == 1


def test_a_high_number_under_a_mask_is_no_code(tmp_path):
  image, there = np.moveaxis(pixels(), 0, -1).astype(np.float32), table(tmp_path, "ab")
  image[0, 0] = 9999
  for view, values in (("S2", image), ("hidden", (image[..., :1] == 9999) * np.uint8(100))):
    np.save(there / f"{view}.npy", np.stack([values] * 2))
  refused(there, "holds 9999: a value, or nodata")
  describe(there, views={"S2": {"mask": "hidden"}})
  assert view_of(there)[0].max() == 9999


def test_a_code_in_one_of_several_bands(tmp_path):
  """Depths of the sea beside temperatures."""
  image, there = np.moveaxis(pixels(dtype="float32"), 0, -1), table(tmp_path, "ab")
  image[..., 1], image[0, 0, 0] = -8000, -9999
  np.save(there / "S2.npy", np.stack([image] * 2))
  refused(there, "holds -9999: a value, or nodata")


ORDINARY = {
  "heights": ([9999, 8000, 7000, 5200], "int16"),
  "degrees below zero": ([-999, -998, -900, -800], "float32"),
  "bright": ([32767, 20000, 100, 200], "int16"),
  "a place in the sea": ([-9999, -9990, -9000, -9999], "int16"),
}


@pytest.mark.parametrize("numbers, dtype", ORDINARY.values(), ids=ORDINARY)
def test_numbers_that_are_no_codes(tmp_path, numbers, dtype):
  np.save(table(tmp_path, "ab") / "S2.npy", np.array([numbers] * 2, dtype))
  np.testing.assert_array_equal(view_of(tmp_path)[0], np.array(numbers, np.float32))


SHIFTED = {"xarray: positions": (range(4), range(1, 5)), "R: rows": (range(1, 5), range(4))}


@pytest.mark.parametrize("own, ids", SHIFTED.values(), ids=SHIFTED)
def test_a_stack_that_counts_from_another_number(tmp_path, own, ids):
  """By these ids three of four samples would get the values of their neighbour."""
  xarray, there = pytest.importorskip("xarray"), table(tmp_path, "abab")
  pytest.importorskip("h5netcdf")
  (there / "samples.csv").write_text("id,target\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in ids))
  for i in ids:
    np.save(there / f"x/{i}.npy", np.zeros(3))
  cube = xarray.Dataset({"v": (("id", "band"), np.ones((4, 2)))}, {"id": list(own)})
  cube.to_netcdf(there / "S2.nc", engine="h5netcdf")
  refused(there, f"numbers its samples from {own[0]}, the table from {ids[0]}: are they the same ones")


NAMED = {  # ids with dates or numbers like dates of their own
  "in one directory": (["20170101_f", "20170102_f"], "{}_{}.tif"),
  "numbers": (["20031204", "20031205"], "{}_{}.tif"),
  "directories": (["2017-01-01/f", "2017-01-02/f"], "{}/{}.tif"),
  "a directory a date": (["20170101", "20170102"], "{}/{}/response.tif"),
}


@pytest.mark.parametrize("ids, name", NAMED.values(), ids=NAMED)
def test_ids_that_look_like_dates(tmp_path, ids, name):
  there = table(tmp_path, "ab")
  (there / "samples.csv").write_text(f"id,target\n{ids[0]},a\n{ids[1]},b\n")
  for i in ids:
    (there / f"x/{i}.npy").parent.mkdir(exist_ok=True)
    np.save(there / f"x/{i}.npy", np.zeros(3))
    for k, day in enumerate(("2018-02-14", "2018-01-15")):
      write_tif(there / "S2" / name.format(i, day), pixels() + np.uint8(k))
  for example in examples(there):
    assert [to_iso(day) for day in example["dates"]["S2"]] == ["2018-01-15", "2018-02-14"]
    assert (example["views"]["S2"][0] == example["views"]["S2"][1] + 1).all()


NOTHING = {  # what dataset.json says of S2: the message
  "steps of dated series": ({"steps": "month"}, "steps says .* but its steps have dates"),
  "its own mask": ({"mask": "S2"}, "the mask of view S2 is the view itself"),
}


@pytest.mark.parametrize("said, message", NOTHING.values(), ids=NOTHING)
def test_what_would_do_nothing_is_refused(tmp_path, said, message):
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  for i in range(2):
    np.savez(there / f"S2/s{i}.npz", values=ONE, dates=[17_546, 17_577])
  refused(describe(there, views={"S2": said}), message)
  refused(describe(there, views={"x": {"steps": "month"}}), r"a sample has shape \(3,\), no series")


def test_dates_and_places_that_nobody_knows_are_no_context(tmp_path):
  there = table(tmp_path, "ab", date=["", "NA"], lat=["", ""], lon=["nan", ""])
  described = Builder.describe(there)
  assert not described["date"] and not described["coordinates"]
  assert set(examples(there)[0]) == {"id", "views", "target", "groups"}
