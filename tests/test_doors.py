"""What people bring to the door of `folder`: each file is read as it is meant, or refused in one line."""

import csv
import dataclasses
import datetime
import decimal
import json
import unicodedata

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from colearn_jax.datasets.folder import dates
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder, Config

from colearn_jax.data import dataset as data
from colearn_jax.data import fixed_length
from colearn_jax.types import InputError, Modality

DAY = 17_546  # 2018-01-15
AERIAL = (0.0003, 0, 9.0, 0, -0.0003, 51.4514)  # a tile over the one of write_tif, in degrees
NAN = float("nan")


def table(there, targets, **more):
  """A table of samples s0, s1, ..., and a view `x` of them."""
  (there / "x").mkdir(parents=True, exist_ok=True)
  rows = [{"id": f"s{i}", "target": t} | {k: v[i] for k, v in more.items()} for i, t in enumerate(targets)]
  with open(there / "samples.csv", "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  for row in rows:
    np.save(there / "x" / f"{row['id']}.npy", np.zeros(3, np.float32))
  return there


def parquet(there, targets, **more):
  table(there, range(len(targets)))
  (there / "samples.csv").unlink()
  columns = {"id": [f"s{i}" for i in range(len(targets))], "target": targets} | more
  pyarrow.parquet.write_table(pyarrow.table(columns), there / "samples.parquet")
  return there


def describe(there, **tree):
  (there / "dataset.json").write_text(json.dumps(tree))
  return there


def examples(there):
  """All samples as they would be stored, without writing them."""
  folder = read_folder(there)
  surveyed, reader = (
    survey_folder(folder),
    Builder(config=Config(folder), data_dir="/dev/null/none")._reader(),
  )
  assert not surveyed.wrong, surveyed.wrong
  return [
    reader.read(dataclasses.replace(sample, files=files))
    for sample, files in zip(folder.table.samples, zip(*surveyed.files))
  ]


def used(there, modality, **settings):
  """What training sees of all samples: the input of one modality."""
  described = Builder.describe(there)["views"]
  shapes = {name: view["shape"] for name, view in described.items()}
  said = {n: {k: v for k, v in view.items() if k in ("bands", "mask")} for n, view in described.items()}
  for name, view in described.items():
    said[name] |= {"dated": not view["numbered"]} if view["dated"] else {}
  every = [{**example, "id": example["id"].encode()} for example in examples(there)]
  longest = {name: max(len(e["views"][name]) for e in every) for name in shapes}
  asked = fixed_length.Settings(modalities=(modality,), **settings)
  fixed = fixed_length.fixed_lengths(asked, shapes, said, longest)
  one = Modality(modality, data.resolve_views(modality, shapes), (), ())
  read = data.Reader(every, (one,), fixed)
  return [read(i)["inputs"][modality] for i in range(len(every))]


def refused(there, message):
  with pytest.raises(InputError, match=message) as error:
    examples(there)
  assert "\n" not in str(error.value)


# Dates


def moments(*days):
  return np.array(days, object)


DATES = {
  "ISO": ["2018-01-15"],
  "time": ["2018-01-15T10:30:00"],
  "blank": ["2018-01-15 10:30:00.123"],
  "UTC": ["2018-01-15T23:30:00Z"],
  "zone": ["2018-01-14T23:30:00-02:00"],
  "zone without colon": ["2018-01-16T01:30:00+0200"],
  "text of digits": ["20180115"],
  "Sentinel": ["20180115T103021"],
  "points": ["2018.01.15"],
  "slashes": ["2018/01/15"],
  "underscores": ["2018_01_15"],
  "one digit": ["2018-1-15"],
  "day of the year": ["2018-015"],
  "Landsat": ["2018015"],
  "PASTIS": [20180115],
  "int32": np.array([20180115], np.int32),
  "whole float": [20180115.0],
  "number of a day of the year": [2018015],
  "days": [DAY],
  "seconds": [DAY * 86400 + 5],
  "milliseconds of Earth Engine": [DAY * 86_400_000],
  "milliseconds as text": [str(DAY * 86_400_000)],
  "nanoseconds of pandas": [DAY * 86_400 * 10**9],
  "datetime64[D]": np.array(["2018-01-15"], "datetime64[D]"),
  "datetime64[ns]": np.array(["2018-01-15T10:00"], "datetime64[ns]"),
  "bytes": np.array([b"2018-01-15"]),
  "objects": moments(datetime.date(2018, 1, 15)),
  "objects with times": moments(datetime.datetime(2018, 1, 15, 23)),
  "objects with zones": moments(
    datetime.datetime(2018, 1, 15, 23, tzinfo=datetime.timezone(datetime.timedelta(hours=-1)))
    - datetime.timedelta(hours=2)
  ),
  "Python's texts": moments("2018-01-15"),
  "StringDType": np.array(["2018-01-15"], np.dtypes.StringDType()),
}


@pytest.mark.parametrize("given", DATES.values(), ids=DATES)
def test_dates_of_every_convention_are_the_same_day(given):
  np.testing.assert_array_equal(dates.to_days(given, "here"), np.array([DAY], np.int32), strict=True)


@pytest.mark.parametrize(
  "given, message",
  [
    (["15/01/2018"], "may mean two days"),
    (["01/15/2018"], "may mean two days"),
    (["15.01.18"], "may mean two days"),
    (["2018"], "no days such as"),
    (["2018-01"], "no days such as"),
    (["today"], "no days such as"),
    ([""], "no days such as"),
    (["2018-02-30"], "no days such as"),
    ([20180230], "no days such as"),
    (["2018-400"], "no days such as"),
    ([2016, 2017, 2018], "may be years"),
    ([15, 46, 74], "days of a year"),
    ([43115, 43146], "since 1970 or since 1900"),
    ([0.5], "no days such as"),
    ([NAN], "missing"),
    (np.array(["NaT"], "datetime64[D]"), "missing"),
    (["2150-01-01"], "outside of 1900 to 2100"),
    (np.array(["1850-01-01"], "datetime64[D]"), "outside of 1900 to 2100"),
    ([20180115, DAY], "outside of 1900 to 2100"),
    ([[DAY]], "shape"),
  ],
)
def test_dates_that_may_be_others_are_refused(given, message):
  with pytest.raises(InputError, match=f"^here: .*{message}"):
    dates.to_days(given, "here")


def test_units_and_calendars():
  pytest.importorskip("cftime")
  days = lambda values, units, calendar=None: dates.to_days(
    np.array(values), "here", units, calendar
  ).tolist()
  assert days([0, 31], "days since 2018-01-15") == [DAY, DAY + 31]
  assert days([36], "hours since 2018-01-14 00:00:00", "proleptic_gregorian") == [DAY]
  assert days([59], "days since 2020-01-01", "noleap") == days([60], "days since 2020-01-01")
  with pytest.raises(InputError, match="no days such as"):
    days([59], "days since 2018-01-01", "360_day")  # 30 February


@pytest.mark.parametrize("form", ["int", "text"])
def test_dates_of_pastis_and_their_months(tmp_path, form):  # B06
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  for i in range(2):
    steps = [f"2018{m:02d}15" for m in range(1, 13 - i)]
    given = np.array(steps if form == "text" else list(map(int, steps)))
    np.savez(there / f"S2/s{i}.npz", values=np.repeat(np.arange(1.0, 13 - i)[:, None], 2, 1), dates=given)
  one, two = used(there, "S2", method="month")
  np.testing.assert_array_equal(one[:, 0], np.arange(1.0, 13))
  np.testing.assert_array_equal(two[:, 0], [*range(1, 12), NAN])


@pytest.mark.parametrize("version", [2, 3])
def test_texts_in_zarr(tmp_path, version):  # B54
  zarr = pytest.importorskip("zarr")
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  for i in range(2):
    group = zarr.open_group(str(there / f"S2/s{i}.zarr"), mode="w", zarr_format=version)
    group.create_array("values", shape=(3 - i, 2), dtype="f4")[:] = 1
    group.create_array("dates", shape=(3 - i,), dtype=str)[:] = np.array(
      [f"2018-0{m}-15" for m in range(1, 4 - i)], dtype=object
    )
  assert examples(there)[0]["dates"]["S2"].tolist() == [DAY, DAY + 31, DAY + 59]


# Options do not depend on lengths


def test_views_of_other_dates_do_not_join(tmp_path):  # B04
  there = table(tmp_path, "ab")
  for view, shift in (("S1", 0), ("S2", 100)):
    (there / view).mkdir()
    for i in range(2):
      days = (np.arange(6) * 10 + 17_600 + shift).astype("datetime64[D]")
      np.savez(there / view / f"s{i}.npz", values=np.ones((6, 2), np.uint8), dates=days)
  with pytest.raises(InputError, match="S1_S2 cannot join S1 and S2, whose dates differ in sample s0"):
    used(there, "S1_S2")
  assert used(there, "S1_S2", method="month")[0].shape == (12, 4)
  assert used(there, "S1")[0].dtype == np.uint8  # nothing changes: it stays as it is stored
  np.testing.assert_array_equal(used(there, "S1", lengths={"S1": 8})[0][:2], np.full((2, 2), NAN))
  assert used(there, "S1", lengths={"S1": 4})[0].shape == (4, 2)


def masked(there, view="S2", shape=(6, 3)):
  (there / view).mkdir(parents=True)
  (there / "hidden").mkdir()
  table(there, "ab")
  for i in range(2):
    values, mask = (
      np.arange(np.prod(shape), dtype=np.float32).reshape(shape),
      np.zeros((*shape[:-1], 1), np.uint8),
    )
    mask[1] = 100
    np.save(there / view / f"s{i}.npy", values)
    np.save(there / "hidden" / f"s{i}.npy", mask)
  return describe(there, views={view: {"mask": "hidden"}, "hidden": {"bands": ["cloud"]}})


def test_masks_do_not_need_series_of_different_lengths(tmp_path):  # B05
  there = masked(tmp_path)
  got = used(there, "S2", masked_above={"cloud": 50})[0]
  values = np.arange(18.0).reshape(6, 3)
  np.testing.assert_array_equal(got, [[NAN] * 3, values[0], *values[2:]])
  np.testing.assert_array_equal(used(there, "S2")[0], values)
  with pytest.raises(InputError, match="'fog' is not allowed; .*: cloud"):
    used(there, "S2", masked_above={"fog": 50})
  with pytest.raises(InputError, match="'cloud' is not allowed; .*: there is none here"):
    used(there, "x", masked_above={"cloud": 50})


def test_masks_of_images(tmp_path):
  image = used(masked(tmp_path, "photo", (4, 5, 3)), "photo", masked_above={"cloud": 50})[0]
  assert image.shape == (4, 5, 3) and np.isnan(image[1]).all() and not np.isnan(image[[0, 2, 3]]).any()


def test_months_need_dates_whatever_the_lengths(tmp_path):
  there = table(tmp_path, "ab")
  np.save(there / "S2.npy", np.arange(12.0).reshape(2, 3, 2))
  with pytest.raises(InputError, match="'month' is not allowed; pad, for view S2 has no dates"):
    used(there, "S2", method="month")
  assert used(there, "x", method="month")[0].shape == (3,)
  describe(there, views={"S2": {"dates": ["20180115", "2018-03-01", "2018-01-31"]}})
  got = used(there, "S2", method="month")[1]
  np.testing.assert_array_equal(got[:3], [[8, 9], [NAN, NAN], [8, 9]])


def test_a_sample_without_one_of_two_joined_views(tmp_path):
  there = table(tmp_path, "ab")
  for view, count in (("S1", 2), ("S2", 1)):
    (there / view).mkdir()
    for i in range(count):
      np.savez(there / view / f"s{i}.npz", values=np.ones((2, 1)), dates=[DAY, DAY + 1])
  got = used(there, "S1_S2")[1]
  np.testing.assert_array_equal(got, [[1, NAN], [1, NAN]])


# Values behind metadata


def write_tif(path, bands, **more):
  rasterio = pytest.importorskip("rasterio")
  path.parent.mkdir(parents=True, exist_ok=True)
  mask, tags = (
    more.pop("mask", None),
    {k: more.pop(k) for k in ("scales", "offsets", "colorinterp", "descriptions") if k in more},
  )
  x, y = more.pop("at", (500_000, 5_700_000))
  more = {"crs": "EPSG:25832", "transform": (10, 0, x, 0, -10, y), "driver": "GTiff"} | more
  more["transform"] = rasterio.Affine(*more["transform"])
  count, height, width = bands.shape
  inside = more.pop("inside", True)
  size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
  with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "w", **size, **more) as file:
    for name, value in tags.items():
      setattr(file, name, value)
    file.write(bands)
    if mask is not None:
      file.write_mask(mask)


def pixels(seed=0, dtype="uint8", count=3):
  return np.random.default_rng(seed).integers(50, 200, (count, 4, 4)).astype(dtype)


def view_of(there, name="S2"):
  return [example["views"][name] for example in examples(there)]


@pytest.mark.parametrize("how", ["inside", "msk", "alpha"])
def test_masks_and_alpha_bands_hide_pixels(tmp_path, how):  # B10
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
  refused(there, "its last band is marked as alpha, but most of it is neither 0 nor 255; .*dataset.json")
  describe(there, views={"S2": {"bands": ["R", "G", "B", "NIR"]}})
  np.testing.assert_array_equal(view_of(there)[0], np.moveaxis(image, 0, -1))


def test_scales_and_offsets_of_each_file(tmp_path):  # B09
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


def test_nodata_that_no_file_names(tmp_path):  # B25
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
def test_nodata_of_every_type(tmp_path, dtype, nodata):
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
def test_packed_zarr(tmp_path, version, stack):  # B08
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
def test_ids_of_a_stack_are_used(tmp_path, labelled):  # B28
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


# Places


def test_tiles_keep_where_they_are(tmp_path):
  there = table(tmp_path, "ab")
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels())
    write_tif(there / f"aerial/s{i}.tif", pixels(), crs="EPSG:4326", transform=AERIAL)
  example = examples(there)[0]
  west, south, east, north = example["footprint"]["S2"]
  assert 9 <= west < east < 9.001 and 51.4 < south < north < 51.5
  np.testing.assert_allclose(example["coordinates"], [51.4511, 9.0003], atol=1e-3)
  assert Builder.describe(there)["coordinates"] and example["coordinates"].dtype == np.float64
  write_tif(there / "S2/s1.tif", pixels(), at=(510_000, 5_700_000))
  refused(there, "sample s1: views S2 and aerial have no ground in common: west, south")
  write_tif(there / "S2/s1.tif", pixels(), crs=None)
  assert np.isnan(examples(there)[1]["footprint"]["S2"]).all()


def test_another_resolution_or_projection_within_a_view_is_fine(tmp_path):
  there = table(tmp_path, "ab")
  write_tif(there / "S2/s0.tif", pixels())
  write_tif(there / "S2/s1.tif", pixels(), crs="EPSG:4326", transform=AERIAL)
  assert len(examples(there)) == 2


def test_dates_and_places_of_the_table(tmp_path):
  more = {"date": ["2018-01-15", ""], "Lat": ["51.3", ""], "longitude": [" 12.4", ""]}
  there = table(tmp_path, "ab", **more)
  one, two = examples(there)
  assert (one["date"], two["date"]) == ("2018-01-15", "")
  np.testing.assert_array_equal(one["coordinates"], [51.3, 12.4])
  assert np.isnan(two["coordinates"]).all()
  described = Builder.describe(there)
  assert described["date"] and described["coordinates"] and not described["split"]


@pytest.mark.parametrize(
  "more, message",
  [
    ({"lat": [95, 1], "lon": [1, 1]}, "sample s0: its lat 95 is outside of -90 to 90"),
    ({"lat": [1, 1], "lon": [1, 365]}, "sample s1: its lon 365 is outside of -180 to 180"),
    ({"lat": ["51,3", 1], "lon": [1, 1]}, "sample s0: its lat '51,3' is no number of degrees"),
    ({"lat": ["", 1], "lon": [1, 1]}, "sample s0: one of lat and lon is empty"),
    ({"lat": [1, 1]}, "one column lat .* and one lon"),
    ({"lat": [1, 1], "latitude": [1, 1], "lon": [1, 1]}, "one column lat"),
    ({"date": ["15/01/2018", ""]}, "sample s0: '15/01/2018' may mean two days"),
    ({"date": ["1", ""]}, "sample s0: its dates are no days"),
  ],
)
def test_context_that_cannot_be_is_refused(tmp_path, more, message):
  refused(table(tmp_path, "ab", **more), message)


def test_what_earth_engine_exports(tmp_path):
  geo = ['{"type":"Point","coordinates":[12.4,51.3]}', '{"type":"MultiPoint","coordinates":[]}']
  there = table(tmp_path, "ab", **{".geo": geo})
  text = (there / "samples.csv").read_text()
  (there / "samples.csv").write_text(text.replace("id,", "system:index,", 1))
  one, two = examples(there)
  assert one["id"] == "s0" and one["coordinates"].tolist() == [51.3, 12.4]
  assert np.isnan(two["coordinates"]).all()


# One file for each date


@pytest.mark.parametrize(
  "names",
  [
    ["field/2018-01-15", "field/2018-02-14"],
    ["field/S2A_MSIL2A_20180115T103421_N0206_R108_T32UPB_20180301T143000", "field/S2B_MSIL2A_20180214T1"],
    ["field/LC08_L2SP_193026_20180115_20200902_02_T1", "field/LC08_L2SP_193026_20180214_20200902_02_T1"],
    ["field/MOD13Q1.A2018015.h18v03", "field/MOD13Q1.A2018045.h18v03"],
    ["field_20180115", "field_2018-02-14"],
  ],
)
def test_a_file_for_each_date_becomes_a_series(tmp_path, names):
  there = table(tmp_path, "ab")
  early, late = pixels(1, "uint16"), pixels(2, "uint16")
  for sample in ("s0", "s1"):
    for name, image in zip(names, (early, late)):
      write_tif(there / f"S2/{name.replace('field', sample, 1)}.tif", image)
  write_tif(there / "S2" / f"{names[0].replace('field', 's0', 1)}.tif", early, scales=(2,) * 3)
  described = Builder.describe(there)["views"]["S2"]
  assert (described["shape"], described["dated"], described["numbered"]) == ((2, 4, 4, 3), True, False)
  one, two = examples(there)
  assert one["dates"]["S2"].tolist() == [DAY, DAY + 30]
  np.testing.assert_array_equal(one["views"]["S2"][0], 2.0 * np.moveaxis(early, 0, -1))
  np.testing.assert_array_equal(two["views"]["S2"][1], np.moveaxis(late, 0, -1))


def test_series_of_files_are_refused_where_they_differ(tmp_path):
  there = table(tmp_path, "ab")
  write_tif(there / "S2/s0/2018-01-15.tif", pixels())
  write_tif(there / "S2/s1.tif", pixels())
  refused(there, "view S2 has one file for sample s1 .* and a file for each date of sample s0")
  (there / "S2/s1.tif").unlink()
  write_tif(there / "S2/s0/2018-02-15.tif", pixels(count=2))
  with pytest.raises(InputError, match="2018-02-15.tif has other shape, bands or dates than 2018-01-15.tif"):
    survey_folder(read_folder(there))
  write_tif(there / "S2/s0/2018-02-15.tif", pixels(), at=(600_000, 5_700_000))
  refused(there, "sample s0: .*2018-02-15.tif does not cover the ground of 2018-01-15.tif")


# Codes and names


def task(there):
  found = read_folder(there).table
  return found.task["kind"], found.task["outputs"], [sample.target for sample in found.samples]


LISTS = {
  "several labels": (["oak;pine", "pine", "beech;oak"], "multilabel", ["beech", "oak", "pine"]),
  "codes with zeros": (["01", "02", "11", "1"], "multiclass", ["01", "02", "1", "11"]),
  "EuroCrops": (["0301010100", "3301010200", "0301010100"], "binary", ["0301010100", "3301010200"]),
  "codes with exponents": (["1E5", "2E5", "A1"], "multiclass", None),
  "texts that begin like numbers": (["3a", "3b", "3a"], "binary", ["3a", "3b"]),
  "numbers with gaps": (["10", "20", "95", "10"], "multiclass", ["10", "20", "95"]),
  "amounts": (["1.5", "2", "-3e2"], "regression", ["target"]),
  "sparse classes": (["0", "1", "254", "255"] * 3, "multiclass", ["0", "1", "254", "255"]),
}


@pytest.mark.parametrize("targets, kind, outputs", LISTS.values(), ids=LISTS)
def test_codes_and_names(tmp_path, targets, kind, outputs):
  there = table(tmp_path, targets)
  if outputs is None:
    refused(there, "its target .* is not (text|a number), as most targets are; or say which in dataset.json")
    describe(there, task={"kind": kind})
    outputs = sorted(set(targets))
  assert task(there)[:2] == (kind, outputs)


PARQUET = {
  "lists of labels": ([["oak", "pine"], ["pine"], [], None], "multilabel", ["oak", "pine"]),
  "lists of codes": ([[3, 7], [7], [3]], "multilabel", ["3", "7"]),
  "multi-hot": ([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]], "multilabel", list("01234")),
  "multi-hot booleans": ([[True, False, False], [False, True, True]], "multilabel", list("012")),
  "multi-hot floats": ([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], "multilabel", list("012")),
  "vectors": ([[0.5, 1.0], [2.5, -1.0], None], "regression", list("01")),
  "decimals": ([decimal.Decimal("61.37"), decimal.Decimal("60.00")], "regression", ["target"]),
  "whole decimals": ([decimal.Decimal("1"), decimal.Decimal("2")], "binary", ["1", "2"]),
  "booleans": ([True, None, False], "binary", ["0", "1"]),
}


@pytest.mark.parametrize("targets, kind, outputs", PARQUET.values(), ids=PARQUET)
def test_columns_of_parquet(tmp_path, targets, kind, outputs):  # B01, B02, B14
  there = parquet(tmp_path, targets)
  assert task(there)[:2] == (kind, outputs)
  assert len(examples(there)) == len(targets)


def test_multi_hot_lists_keep_their_values_and_take_names(tmp_path):
  there = parquet(tmp_path, [[0, 1, 1], [1, 0, 0]])
  describe(there, task={"outputs": ["oak", "pine", "beech"]})
  assert task(there) == ("multilabel", ["oak", "pine", "beech"], [(0, 1, 1), (1, 0, 0)])


@pytest.mark.parametrize("values", [(0, 1), (0.5, 1.5)])
def test_several_target_columns_reach_the_samples(tmp_path, values):  # B01
  there = table(tmp_path, ["a", "b"])
  rows = [f"s{i},{values[i]},{values[1 - i]}" for i in range(2)]
  (there / "samples.csv").write_text("\n".join(["id,target_a,target_b", *rows]))
  np.testing.assert_array_equal([e["target"] for e in examples(there)], [values, values[::-1]])


TWELVE = [str(i) for i in range(20, 32)]
UNSURE = {
  "decimal commas": (["61,37", "60,00", "58,1"], "such as '61,37' have decimal commas"),
  "decimal commas among whole numbers": (["61,37", "60", "58,1"], "such as '61,37' have decimal commas"),
  "all different": (
    [f"text {i}" for i in range(12)],
    "12 different texts of 12 samples, such as 'text 0'; .*kind",
  ),
  "amounts": (TWELVE, "12 different whole numbers of 12 samples, such as 20; .*kind"),
  "-1": (["-1", "0", "1", "2"], 'is the class -1 a class, or no label.*"unlabelled": \\[-1\\]'),
  "255": (["0", "1", "255", "2"], "is the class 255 a class, or no label"),
  "-9999 among classes": (["1", "-9999", "2"], "is the class -9999 a class"),
  "-9999 among amounts": (["1.5", "-9999", "2"], "is -9999 of target an amount, or a sign"),
  "-3.4e38": (["1.5", "-3.4e38", "2"], "is -3.4e\\+38 of target an amount"),
  "capitals": (["oak", "Oak", "pine"], "'Oak' and 'oak' are two classes that differ in capitals or blanks"),
  "a list as text": (["['oak', 'pine']", "['oak']"], "is a list written as text; write oak;pine"),
}


@pytest.mark.parametrize("targets, message", UNSURE.values(), ids=UNSURE)
def test_what_can_be_read_in_two_ways_stops_the_build(tmp_path, targets, message):  # B14, B15, B24
  refused(table(tmp_path, targets), message)


@pytest.mark.parametrize("targets", [[[0, 1], [1, 0]], [[3, 3, 7], [1, 2, 4]], [[0], [1]]])
def test_lists_that_can_be_read_in_two_ways_stop_the_build(tmp_path, targets):
  refused(
    parquet(tmp_path, targets), "may be codes of labels or one number for each output; give labels by name"
  )


def test_a_time_is_no_target(tmp_path):
  refused(
    parquet(tmp_path, [datetime.datetime(2018, 1, 15)] * 2),
    "sample s0: its target .* is no number, text or list",
  )


def test_unlabelled_codes(tmp_path):
  there = describe(table(tmp_path / "a", ["0", "1", "255", "-1"]), task={"unlabelled": [255, -1]})
  assert task(there) == ("binary", ["0", "1"], [0, 1, -1, -1])
  there = describe(table(tmp_path / "b", ["oak", "none", "pine"]), task={"unlabelled": "none"})
  assert task(there)[2] == [0, -1, 1]
  there = describe(table(tmp_path / "c", ["0.5", "-9999", "2"]), task={"unlabelled": -9999})
  np.testing.assert_array_equal(task(there)[2], [(0.5,), (NAN,), (2.0,)])
  there = describe(table(tmp_path / "d", ["0", "1", "255", "-1"]), task={"unlabelled": []})
  assert task(there)[1] == ["-1", "0", "1", "255"]


def test_numbers_of_named_classes(tmp_path):  # B13
  outputs = ["oak", "pine", "beech"]
  there = describe(table(tmp_path, ["1", "2", "1"]), task={"outputs": outputs, "kind": "multiclass"})
  refused(there, 'numbers 1 to 2, which may count the 3 outputs from 0 or from 1; .*"1": "oak"')
  describe(there, task={"kind": "multiclass", "outputs": dict(zip("123", outputs))})
  assert task(there) == ("multiclass", outputs, [0, 1, 0])
  there = describe(table(tmp_path / "b", ["1", "3", "2"]), task={"outputs": outputs})
  assert task(there)[2] == [0, 2, 1]  # only from 1 do they fit
  there = describe(table(tmp_path / "c", ["0", "2", "1"]), task={"outputs": outputs})
  assert task(there)[2] == [0, 2, 1]
  there = describe(
    table(tmp_path / "d", ["10", "30", "20"]), task={"outputs": {"10": "a", "20": "b", "30": "a"}}
  )
  assert task(there) == ("multiclass", ["a", "b"], [0, 0, 1])


# Small ones


def test_suffixes_of_any_case_and_unicode_forms(tmp_path):  # B11
  there = table(tmp_path, "abc")
  for name in ("s0.TIF", "s1.tif", "s2.Tiff"):
    write_tif(there / "L8" / name, pixels())
  (there / "S1").mkdir()
  np.save(there / "S1" / (unicodedata.normalize("NFD", "Fläche") + ".npy"), np.ones(2))
  text = (there / "samples.csv").read_text()
  (there / "samples.csv").write_text(text + unicodedata.normalize("NFC", "Fläche") + ",a\n", encoding="utf-8")
  every = examples(there)
  assert [e["present"]["L8"] for e in every] == [True] * 3 + [False]
  np.testing.assert_array_equal(every[3]["views"]["S1"], [1, 1])


def test_a_file_that_differs_by_case_from_a_sample(tmp_path):
  there = table(tmp_path, "ab")
  (there / "S1").mkdir()
  np.save(there / "S1/s0.npy", np.ones(2))
  np.save(there / "S1/S1.npy", np.ones(2))
  refused(there, "view S1: S1.npy is no file of sample s1, whose id is written otherwise")


def test_a_foreign_directory_names_the_rule(tmp_path):  # B26
  there = table(tmp_path, "ab")
  (there / "scripts").mkdir()
  refused(there, "view scripts: .* a directory that is no view has a name that begins with _")


def test_no_home_directory(tmp_path, monkeypatch):  # B23
  def expanduser(self):
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.setattr("pathlib.Path.expanduser", expanduser)
  with pytest.raises(InputError, match="there is no home directory; give the whole path"):
    read_folder("~/data")


@pytest.mark.parametrize(
  "shape, told",
  [
    ((3, 16, 16), "is it the first here"),
    ((16, 16), "an image of one band has shape"),
    ((16, 16, 3), None),
    ((16, 17, 4), None),
    ((12, 2), None),
  ],
)
def test_a_hint_where_bands_seem_to_be_first(tmp_path, shape, told):  # B29
  from colearn_jax.datasets.folder.survey import hint

  there = table(tmp_path, "ab")
  np.save(there / "S2.npy", np.zeros((2, *shape), np.uint8))
  view = survey_folder(read_folder(there)).views[0]
  assert (told in hint(view)) if told else hint(view) == ""


def test_a_folder_is_read_once_while_nothing_changes(tmp_path):
  there = table(tmp_path, "ab")
  first = read_folder(there)
  assert read_folder(there) is first
  np.save(there / "x/s1.npy", np.zeros((4, 3)))  # in place: its directory does not change
  assert read_folder(there) != first
