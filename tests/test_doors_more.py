"""Further tables and files as people bring them: each read as it is meant, or refused in one line."""

import json

import numpy as np
import pytest
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder
from colearn_jax.datasets.folder.report import hint

from tests.cases.folders import describe, examples, parquet, pixels, refused, table, view_of, write_tif

TARGETS = {  # of `target` in CSV: the classes, or the message
  "Python: sets": (["{'oak', 'pine'}", "{'oak'}"], "is a list written as text; write oak;pine"),
  "Python: tuples": (["('oak', 'pine')", "('oak',)"], "is a list written as text"),
  "PostgreSQL: arrays": (["{oak,pine}", "{oak}"], "is a list written as text"),
  "JSON": (['["oak", "pine"]', '["oak"]'], "is a list written as text"),
  "R: uncertainty": (["12.1±0.3", "13.2±0.4"], "are numbers with an uncertainty"),
  "R: uncertainty in ASCII": (["12.1 +/- 0.3", "13.2 +/- 0.4"], "are numbers with an uncertainty"),
  "labels with blanks between": (["oak pine", "oak", "pine"], "'oak pine' may be one class or several"),
  "labels with & between": (["oak & pine", "oak", "pine"], "'oak & pine' may be one class or several"),
  "names of two words": (["red oak", "red pine", "oak", "pine"], ["oak", "pine", "red oak", "red pine"]),
  "winter wheat": (["winter wheat", "wheat", "rye"], ["rye", "wheat", "winter wheat"]),
  "full-width digits": (["１２", "１３"], ["12", "13"]),
  "letters and accents apart": (["Bu\u0308che", "Büche", "Eiche"], ["Büche", "Eiche"]),
  "QGIS: true and false": (["true", "false"], ["0", "1"]),
  "QGIS: NULL": (["NULL", "1.5"], "is 'NULL' a class, or no label"),
}


@pytest.mark.parametrize("targets, expected", TARGETS.values(), ids=TARGETS)
def test_targets(tmp_path, targets, expected):
  there = table(tmp_path, targets)
  if isinstance(expected, str):
    refused(there, expected)
  else:
    assert read_folder(there).table.task["outputs"] == expected


GROUPS = {  # the message, or none
  "capitals": (["North", "north"], "group_region has 'North' and 'north', which differ in capitals"),
  "blanks": (["south  east", "south east"], "which differ in capitals, blanks"),
  "pandas: numbers with a gap": (["1.0", "1"], "'1.0' and '1', which differ"),
  "zeros": (["01", "1"], "'01' and '1', which differ"),
  "R: NA": (["NA", "a"], "s0: is its group_region 'NA' a group, or unknown"),
  "pandas: nan": (["nan", "a"], "is its group_region 'nan' a group, or unknown"),
  "blanks around": (["north ", "north"], None),
  "numbers": (["10", "1"], None),
}


@pytest.mark.parametrize("groups, message", GROUPS.values(), ids=GROUPS)
def test_groups_that_may_be_one(tmp_path, groups, message):
  """Samples of one place would be in the training part and in the test part."""
  there = table(tmp_path, "ab", group_region=groups)
  if message:
    refused(there, message)
  else:
    assert [e["groups"] for e in examples(there)] == [{"region": g.strip()} for g in groups]


def test_names_of_columns_in_capitals(tmp_path):
  there = table(tmp_path, "ab")
  text = (
    "ID,Target,SPLIT,Group_Region,LAT,Lon,Date\ns0,a,train,n,51,9,2018-01-15\ns1,b,test,m,52,9,2018-01-16\n"
  )
  (there / "samples.csv").write_text(text)
  one, two = examples(there)
  assert (one["id"], two["target"], one["groups"], one["date"]) == ("s0", 1, {"Region": "n"}, "2018-01-15")
  np.testing.assert_array_equal(two["coordinates"], [52, 9])
  assert [s.split for s in read_folder(there).table.samples] == ["train", "test"]
  (there / "samples.csv").write_text("id,ID,target\ns0,7,a\ns1,8,b\n")  # QGIS adds one of its own
  assert read_folder(there).table.unused == ("ID",)
  (there / "samples.csv").write_text("id,Target,TARGET\ns0,7,a\ns1,8,b\n")
  refused(there, "has the column 'target' more than once")


def geo(kind):
  return json.dumps(
    {"type": kind, "coordinates": [9, 51] if kind == "Point" else [[[9, 51], [9, 52], [10, 52]]]}
  )


def test_polygons_of_earth_engine_say_no_place(tmp_path):
  there = table(tmp_path, "ab", **{".geo": [geo("Polygon")] * 2})
  assert "coordinates" not in examples(there)[0] and read_folder(there).table.unused == (".geo",)
  there = table(tmp_path, "ab", **{".geo": [geo("Polygon"), geo("Point")]})
  none, known = (e["coordinates"] for e in examples(there))
  assert np.isnan(none).all() and known.tolist() == [51, 9]


def test_a_place_in_the_sea(tmp_path):
  refused(table(tmp_path, "ab", lat=[0, 51], lon=[0, 9]), "s0: its lat and lon are 0, in the sea")
  assert len(examples(table(tmp_path, "ab", lat=[0, 0.5], lon=[0, 0.5]))) == 2


@pytest.mark.parametrize("text", [b"id,target\ns0,a\x00\ns1,b\n", "id,target\ns0,a\n".encode("utf-16-le")])
def test_letters_of_two_bytes(tmp_path, text):
  there = table(tmp_path, "ab")
  (there / "samples.csv").write_bytes(text)
  refused(there, "cannot read .*samples.csv as comma-separated UTF-8 text: it holds NUL, as UTF-16 does")


def test_columns_of_geoparquet_and_pandas_are_not_used(tmp_path):
  there = parquet(tmp_path, [3301010100, 3301060000], geometry=[b"\x01\x01"] * 2, __index_level_0__=[0, 1])
  assert read_folder(there).table.unused == ("geometry", "__index_level_0__")
  assert read_folder(there).table.task["outputs"] == ["3301010100", "3301060000"]


HIGH = {"uint16": (65535, True), "uint32": (2**32 - 1, True), "uint8": (255, False)}


@pytest.mark.parametrize("dtype, expected", HIGH.items(), ids=HIGH)
def test_the_greatest_whole_number(tmp_path, dtype, expected):
  """Sentinel-2's saturated pixels, and what GDAL writes for -1; images of bytes are saturated as a rule."""
  (code, told), there = expected, table(tmp_path, "ab")
  image = np.moveaxis(pixels(dtype=dtype), 0, -1)
  image[0, 0] = code
  np.save(there / "S2.npy", np.stack([image] * 2))
  if not told:
    assert view_of(there)[0].max() == code
    return
  refused(there, f"holds {code:.6g}: a value, or nodata".replace("+", r"\+"))
  describe(there, views={"S2": {"nodata": code}})
  assert np.isnan(view_of(there)[0]).sum() == 3


def test_bright_pixels_are_no_code(tmp_path):
  image = np.moveaxis(pixels(dtype="uint16"), 0, -1) * 300
  image[0, 0] = 65535
  np.save(table(tmp_path, "ab") / "S2.npy", np.stack([image] * 2))
  assert view_of(tmp_path)[0].max() == 65535


def hints(there):
  folder = read_folder(there)
  return {view.name: hint(view) for view in survey_folder(folder).views}


SHAPES = {
  (1, 6, 3): "is the first axis a batch",
  (10, 128, 100): "is it the first here",
  (5, 10, 32, 32): "is it the first here",  # PASTIS
  (4, 10, 128, 100): "is it the first here",
  (8, 9, 3): "",
  (32, 32, 64): "",
  (2, 9, 9, 3): "",
}


@pytest.mark.parametrize("shape, told", SHAPES.items())
def test_axes_in_another_order_are_mentioned(tmp_path, shape, told):
  np.save(table(tmp_path, "ab") / "S2.npy", np.zeros((2, *shape), np.float32))
  found = hints(tmp_path)["S2"]
  assert (told in found) if told else found == ""


BANDS = {
  "Earth Engine: toBands of dated images": (("20180115_B2", "20180115_B3", "20180215_B2"), True),
  "Earth Engine: toBands of a list": (("0_B2", "0_B3", "1_B2"), True),
  "Landsat": (("SR_B2", "SR_B3", "SR_B4"), False),
  "wavelengths": (("443_nm", "443_dev", "443_x"), False),
}


@pytest.mark.parametrize("names, told", BANDS.values(), ids=BANDS)
def test_a_series_in_the_bands_of_one_image_is_mentioned(tmp_path, names, told):
  there = table(tmp_path, "ab")
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels(), descriptions=names)
  assert ("bands of several steps in one image" in hints(there)["S2"]) == told


def test_bands_have_names_of_their_own(tmp_path):
  there = table(tmp_path, "ab")
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels(), descriptions=("B2", "B2", "B3"))
  refused(there, "view S2 has several bands named B2; name them in dataset.json: bands")
  describe(there, views={"S2": {"bands": ["B2", "B2n", "B3"]}})
  assert Builder.describe(there)["views"]["S2"]["bands"] == ["B2", "B2n", "B3"]


def test_columns_from_east_to_west(tmp_path):
  there, image = table(tmp_path, "ab"), pixels()
  write_tif(there / "S2/s0.tif", image)
  write_tif(there / "S2/s1.tif", image[:, :, ::-1], transform=(-10, 0, 500_040, 0, -10, 5_700_000))
  one, two = view_of(there)
  np.testing.assert_array_equal(one, two)


def test_files_named_by_products(tmp_path):
  there = table(tmp_path, "ab")
  for i in range(2):
    for day in ("20180215", "20180115"):
      name = f"S2A_MSIL2A_{day}T103621_N0509_R008_T32UNC_20230101T150000.tif"
      write_tif(there / f"S2/s{i}/{name}", pixels(int(day)))
  (one, _) = examples(there)
  assert one["dates"]["S2"].tolist() == [17_546, 17_577]
  np.testing.assert_array_equal(one["views"]["S2"][0], np.moveaxis(pixels(20180115), 0, -1))


LEFT = {  # files that are of no sample, as these tools write them
  "Earth Engine: large exports": "s0-0000000000-0000000000.tif",
  "eo-learn": "s0/data/BANDS.npy",
  "sentinelhub-py": "s0/2018-01-15/ab12cd/response.tiff",
  "months by name": "s0/img_15FEB2018.tif",
  "HDF5": "s0.h5",
  "MATLAB": "s0.mat",
}


@pytest.mark.parametrize("name", LEFT.values(), ids=LEFT)
def test_files_of_no_sample_are_named(tmp_path, name):
  there = table(tmp_path, "ab")
  (there / "S2" / name).parent.mkdir(parents=True)
  (there / "S2" / name).touch()
  refused(there, f"has no file of any sample, as would be s0.npy; its files are such as {name}")
