"""Steps of views that belong together: joined views, masks, files of one date; and what a build looks at."""

import numpy as np
import pytest
from colearn_jax.datasets.build import build
from colearn_jax.datasets.folder import views
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder

from colearn_jax.types import InputError
from tests.cases.folders import DAY, NAN, describe, examples, parquet, pixels, refused, table, used, write_tif

LENGTHS = pytest.mark.parametrize("lengths", [(6, 6), (6, 5)], ids=["alike", "different"])
CLOUDS = {"mask": "hidden"}


def series(there, view, arrays, dates=None):
  """Writes a view of series, with the days of each where they are given."""
  (there / view).mkdir(exist_ok=True)
  for i, values in enumerate(arrays):
    more = {} if dates is None else {"dates": np.asarray(dates[i]) + DAY}
    np.savez(there / view / f"s{i}.npz", values=np.asarray(values, np.float32), **more)
  return there


@LENGTHS
def test_joined_steps_are_compared_whatever_the_lengths_B04(tmp_path, lengths):
  there = table(tmp_path, "ab")
  days = [np.arange(n) * 10 for n in lengths]
  series(there, "S1", [np.ones((n, 2)) for n in lengths], days)
  series(there, "S2", [np.ones((n, 3)) for n in lengths], [d + 100 for d in days])
  with pytest.raises(InputError, match="S1_S2 cannot join S1 and S2, whose dates differ in sample s0"):
    used(there, "S1_S2")
  series(there, "S2", [np.ones((n, 3)) for n in lengths], days)
  assert used(there, "S1_S2")[0].shape == (6, 5)
  series(there, "S2", [np.ones((n, 3)) for n in lengths])
  with pytest.raises(InputError, match="S1_S2 cannot join S1, which has dates, and S2, which has none"):
    used(there, "S1_S2")


@LENGTHS
def test_a_step_that_a_mask_removes_is_missed_by_the_other_view_B05(tmp_path, lengths):
  there = table(tmp_path, "ab")
  for view in ("S1", "S2"):
    series(there, view, [np.ones((n, 2)) for n in lengths])
  series(there, "hidden", [np.where(np.arange(n) == 1, 100, 0)[:, None] for n in lengths])
  describe(there, views={"S2": CLOUDS, "hidden": {"bands": ["cloud"]}})
  assert used(there, "S1_S2")[0].shape == (6, 4)
  assert np.isnan(used(there, "S2", masked_above={"cloud": 50})[0][0]).all()
  with pytest.raises(InputError, match="S1_S2 cannot join S1 and S2, whose dates differ in sample s0"):
    used(there, "S1_S2", masked_above={"cloud": 50})


@pytest.mark.parametrize("dated", ["S2", "hidden"])
def test_a_mask_and_its_view_are_sorted_alike(tmp_path, dated):
  there, days = table(tmp_path, "ab"), [[30, 10, 20], [1, 2, 3, 4]]
  values, clouds = [[[1], [2], [3]], [[1], [2], [3], [4]]], [[[0], [100], [0]], [[0]] * 4]
  series(there, "S2", values, days if dated == "S2" else None)
  series(there, "hidden", clouds, days if dated == "hidden" else None)
  describe(there, views={"S2": CLOUDS, "hidden": {"bands": ["cloud"]}})
  got = used(there, "S2", masked_above={"cloud": 50})
  np.testing.assert_array_equal(got[0][:, 0], [NAN, NAN, 3, 1])
  assert examples(there)[0]["dates"]["hidden"].tolist() == [DAY + 10, DAY + 20, DAY + 30]
  assert used(there, "S2_hidden")[0].shape == (4, 2) and used(there, "S2", method="month")[0].shape == (12, 1)


def test_masks_of_true_and_false(tmp_path):
  there = series(table(tmp_path, "ab"), "S2", [[[1], [2]]] * 2)
  (there / "hidden").mkdir()
  for i in range(2):
    np.save(there / f"hidden/s{i}.npy", np.array([[True], [False]]))
  describe(there, views={"S2": CLOUDS, "hidden": {"bands": ["cloud"]}})
  np.testing.assert_array_equal(used(there, "S2", masked_above={"cloud": 50})[0], [[NAN], [2]])
  assert examples(there)[0]["views"]["hidden"].dtype == np.uint8


def test_a_directory_for_each_date(tmp_path):
  there = table(tmp_path, "ab")
  for i in range(2):
    for k, day in enumerate(("2018-02-14", "2018-01-15")):
      write_tif(there / f"S2/s{i}/{day}/response.tiff", pixels() + np.uint8(k))
  example = examples(there)[0]
  assert example["dates"]["S2"].tolist() == [DAY, DAY + 30]
  np.testing.assert_array_equal(example["views"]["S2"][0] - 1, example["views"]["S2"][1])


def test_bands_of_one_date_are_no_steps(tmp_path):
  there = table(tmp_path, "ab")
  for i in range(2):
    for band in ("B02", "B03"):
      write_tif(there / f"S2/s{i}/20180115_{band}.tif", pixels(count=1))
  refused(there, "view S2, sample s0: s0/20180115_B02.tif and s0/20180115_B03.tif are of one date")


def test_the_table_and_the_tiles_are_of_one_place(tmp_path):
  there = table(tmp_path, "ab", lat=[51.3, ""], lon=[9.4, ""])
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels())
  assert examples(there)[0]["coordinates"].tolist() == [51.3, 9.4]
  table(there, "ab", lat=[9.4, ""], lon=[51.3, ""])
  refused(there, "sample s0: its latitude 9.4 and longitude 51.3 are far from view S2, at 51.45.* and 9.00")


def test_dates_in_a_column_with_gaps(tmp_path):
  there = table(tmp_path, "abcd", Date=["20180115.0", "NaT", "nan", "2018-01-15"])
  assert [e["date"] for e in examples(there)] == ["2018-01-15", "", "", "2018-01-15"]


DOUBTFUL = {
  "several labels in other words": (["oak|pine", "oak", "pine"], r"'oak\|pine' may be one class or several"),
  "a class or none": (["a", "NA", "b"], "sample s1: is 'NA' a class, or no label"),
  "a number or none": (["1.5", "None", "2.5"], "sample s1: is 'None' a class, or no label"),
  "percent": (["15%", "20%", "33%"], "targets such as '15%' are texts; write numbers without %"),
}


@pytest.mark.parametrize("targets, message", DOUBTFUL.values(), ids=DOUBTFUL)
def test_doubtful_texts(tmp_path, targets, message):
  refused(table(tmp_path, targets * 4), message)


def test_doubtful_texts_can_be_named(tmp_path):
  outputs = ["oak", "pine", "oak|pine"]
  there = describe(table(tmp_path / "a", ["oak|pine", "oak", "pine"] * 4), task={"outputs": outputs})
  assert [e["target"] for e in examples(there)][:3] == [2, 0, 1]
  there = describe(table(tmp_path / "b", ["a", "NA", "b"] * 4), task={"unlabelled": []})
  assert Builder.describe(there)["task"]["outputs"] == ["NA", "a", "b"]
  there = parquet(tmp_path / "c", [[3, 10], [3], [7]])
  assert Builder.describe(there)["task"]["outputs"] == ["3", "7", "10"]


def test_bounds_of_time_steps_are_no_bands(tmp_path):
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("h5netcdf")
  there = table(tmp_path, "ab")
  (there / "T").mkdir()
  time = ("time", [14, 15], {"bounds": "time_bnds", "units": "days since 2018-01-01"})
  variables = {"t": (("time",), [1.0, 2.0]), "time_bnds": (("time", "bnds"), np.zeros((2, 2)))}
  for i in range(2):
    xarray.Dataset(variables, {"time": time}).to_netcdf(there / f"T/s{i}.nc", engine="h5netcdf")
  example = examples(there)[0]
  np.testing.assert_array_equal(example["views"]["T"], [[1], [2]])
  assert example["dates"]["T"].tolist() == [DAY, DAY + 1]


def test_a_build_walks_the_folder_once(tmp_path, monkeypatch):
  there, walks, walk = table(tmp_path / "own", "ab"), [], views.walk
  monkeypatch.setattr(views, "walk", lambda folder: walks.append(folder) or walk(folder))
  build("folder", tmp_path / "data", manual_dir=there, workers=1)
  assert walks == [there]


@pytest.mark.parametrize("name", ["x/s1.npy", "S2/s1.tif", "S2/s1.tif.msk", "samples.csv", "dataset.json"])
def test_a_change_of_any_file_is_noticed(tmp_path, name):
  there = describe(table(tmp_path, "ab"), task={"unit": "crop"})
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels())
    (there / f"S2/s{i}.tif.msk").touch()
  before = read_folder(there)
  content = (there / name).read_bytes()
  (there / name).write_bytes(content + b"\n")
  assert read_folder(there).sources != before.sources


def test_no_home_directory_B23(tmp_path, monkeypatch):
  def no_entry(*_):
    raise KeyError("uid not found")

  there = table(tmp_path, "ab")
  monkeypatch.delenv("HOME", raising=False)
  monkeypatch.setattr("pwd.getpwuid", no_entry)
  with pytest.raises(InputError, match="^~/data: there is no home directory; give data.data_dir$"):
    build("folder", "~/data", manual_dir=there)


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_files_with_and_without_a_scale_factor_B09(tmp_path, suffix):
  there = table(tmp_path, "abc")
  (there / "S2").mkdir()
  for i in range(3):
    if suffix == "tif":
      write_tif(there / f"S2/s{i}.tif", pixels(), **({"scales": (0.5,) * 3} if i != 1 else {}))
    else:
      zarr = pytest.importorskip("zarr")
      array = zarr.create_array(str(there / f"S2/s{i}.zarr"), shape=(4, 3), dtype="i2")
      array[:] = 8
      array.attrs.update({"scale_factor": 0.5} if i != 1 else {})
  wrong = survey_folder(read_folder(there)).wrong
  assert list(wrong) == ["s1"]
  assert f"s1.{suffix} has no scale factor, others have one; scale in dataset.json" in wrong["s1"]
  describe(there, views={"S2": {"scale": 0.25}})
  assert examples(there)[1]["views"]["S2"].max() <= 50
