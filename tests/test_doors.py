"""What people bring to `folder`, each read as it is meant or refused in one line: places, files, names."""

import unicodedata

import numpy as np
import pytest
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder

from colearn_jax.types import InputError
from tests.cases.folders import AERIAL, DAY, examples, pixels, refused, table, write_tif

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
    for name, image, scale in zip(names, (early, late), (2, 4)):
      write_tif(there / f"S2/{name.replace('field', sample, 1)}.tif", image, scales=(scale,) * 3)
  described = Builder.describe(there)["views"]["S2"]
  assert (described["shape"], described["dated"], described["numbered"]) == ((2, 4, 4, 3), True, False)
  one, two = examples(there)
  assert one["dates"]["S2"].tolist() == [DAY, DAY + 30]
  np.testing.assert_array_equal(one["views"]["S2"][0], 2.0 * np.moveaxis(early, 0, -1))
  np.testing.assert_array_equal(two["views"]["S2"][1], 4.0 * np.moveaxis(late, 0, -1))


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


# Small ones


def test_suffixes_of_any_case_and_unicode_forms_B11(tmp_path):
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


def test_a_foreign_directory_names_the_rule_B26(tmp_path):
  there = table(tmp_path, "ab")
  (there / "scripts").mkdir()
  refused(there, "view scripts: .* a directory that is no view has a name that begins with _")


def test_no_home_directory_B23(tmp_path, monkeypatch):
  def expanduser(self):
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.setattr("pathlib.Path.expanduser", expanduser)
  with pytest.raises(InputError, match="there is no home directory; give the whole path"):
    read_folder("~/data")


@pytest.mark.parametrize(
  "shape, told",
  [
    ((3, 16, 16), "is it the first here"),
    ((2, 10, 8, 8), "is it the first here"),  # PASTIS
    ((16, 16), "an image of one band has shape"),
    ((16, 16, 3), None),
    ((16, 17, 4), None),
    ((12, 2), None),
  ],
)
def test_a_hint_where_bands_seem_to_be_first_B29(tmp_path, shape, told):
  from colearn_jax.datasets.folder.report import hint

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
