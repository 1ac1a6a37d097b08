import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets.build import build, find, names
from colearn_jax.datasets.cropharvest import cropharvest_dataset_builder as cropharvest
from colearn_jax.datasets.cropharvest.dummy import write_archive, write_dummy

from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import make_reader, read_index, read_table
from colearn_jax.types import InputError

h5py = pytest.importorskip("h5py")

ROWS = 24
OF_TEST, CLASSLESS, WITHOUT_ARRAY = {5, 11, 17, 23}, {7, 15, 23}, {8, 17}
LABELLED = {
  "binary": [i for i in range(ROWS) if i not in OF_TEST | WITHOUT_ARRAY],
  "multi": [i for i in range(ROWS) if i not in OF_TEST | WITHOUT_ARRAY | CLASSLESS],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  there = tmp_path_factory.mktemp("folder")
  write_dummy(there, rows=ROWS)
  return there


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
  there = tmp_path_factory.mktemp("archive")
  write_dummy(there, rows=ROWS, archive=True)
  return there


@pytest.fixture(scope="module", params=["binary", "multi"])
def prepared(request, tmp_path_factory, folder):
  return build(f"cropharvest/{request.param}", tmp_path_factory.mktemp("data"), manual_dir=folder)


def properties(there):
  return [f["properties"] for f in json.loads((there / "labels.geojson").read_text())["features"]]


def edited(directory, edit=None, **options):
  """A directory with dummy files whose rows `edit` has changed in place, or replaced by text."""
  write_dummy(directory, rows=ROWS, **options)
  path = directory / "labels.geojson"
  tree = json.loads(path.read_text())
  text = edit([f["properties"] for f in tree["features"]]) if edit else None
  path.write_text(text if isinstance(text, str) else json.dumps(tree))
  return directory


def test_samples_hold_the_columns_of_their_files_in_the_order_of_the_labels(prepared, folder):
  task, rows = prepared.parent.name, properties(folder)
  source = tfds.builder_from_directory(prepared).as_data_source(split="train")
  assert [s["id"].decode() for s in source] == [f"{i}_set-{i % 3}" for i in LABELLED[task]]
  for sample, i in zip(source, LABELLED[task], strict=True):
    row = rows[i]
    with h5py.File(folder / f"features/arrays/{i}_set-{i % 3}.h5") as file:
      array = file["array"][:]
    expected = {
      "S1": array[:, 0:2],
      "S1Ind": array[:, 1:2] - array[:, 0:1],
      "S2": array[:, 2:13],
      "S2VI": array[:, 17:18],
      "S2NDVI": ((array[:, 8] - array[:, 4]) / (array[:, 8] + array[:, 4]))[:, None],
      "weather": array[:, 13:15],
      "DEM": array[0, 15:17],
    }
    assert set(sample["views"]) == set(expected)
    for name, view in expected.items():
      np.testing.assert_array_equal(sample["views"][name], view.astype(np.float32), strict=True)
    if task == "binary":
      assert sample["target"] == row["is_crop"]
    else:
      assert cropharvest.CROPS[sample["target"]] == row["classification_label"]
    assert sample["groups"]["dataset"].decode() == f"set-{i % 3}"
    assert sample["coordinates"].tolist() == [row["lat"], row["lon"]]
    assert sample["year"] == 2016 + i % 5
    assert sample["date"].decode() == f"{2017 + i % 5}-02-01"


def test_metadata_describes_task_views_sources_and_what_was_left_out(prepared, folder):
  task, info = prepared.parent.name, tfds.builder_from_directory(prepared).info
  metadata, outputs = info.metadata, info.metadata["task"]["outputs"]
  left_out = {"test": 4, "unlabelled": 0, "repeated": 0, "without_array": 1}
  if task == "binary":
    assert metadata["task"] == {"kind": "binary", "outputs": ["non_crop", "crop"], "unit": "crop"}
  else:
    assert metadata["task"]["kind"] == "multiclass"
    assert outputs[:3] == ["non_crop", "cereals", "vegetables_melons"] and outputs[-1] == "other"
    assert len(outputs) == 10
    left_out["unlabelled"] = 2  # the third is of the test part
  assert info.features["target"].names == outputs
  assert metadata["left_out"] == left_out
  labels = (folder / "labels.geojson").read_bytes()
  assert metadata["sources"]["labels.geojson"] == hashlib.sha256(labels).hexdigest()
  assert set(metadata["sources"]) == {"labels.geojson", "features/arrays"}
  for name, feature in info.features["views"].items():
    assert len(metadata["views"][name]["bands"]) == feature.shape[-1]
    assert metadata["views"][name]["description"]
  assert "Tseng" in info.citation


def test_training_reads_it(prepared):
  dataset = open_dataset(prepared)
  modalities = [dataset.modality(name) for name in ("S1_S1Ind", "S2_S2VI", "S2_S2NDVI", "weather", "DEM")]
  assert [m.shape for m in modalities] == [(12, 3), (12, 12), (12, 12), (12, 2), (2,)]
  assert modalities[2].bands[-2:] == ("B12", "NDVI")
  index, table = read_index(dataset), read_table(make_reader(dataset, modalities))
  assert index.target.dtype == np.int32 and len(index.ids) == len(LABELLED[prepared.parent.name])
  assert set(index.groups["dataset"]) == {"set-0", "set-1", "set-2"}
  assert all(np.isfinite(x).any((0, 1) if x.ndim > 2 else 0).all() for x in table["inputs"].values())


@pytest.mark.parametrize("task", ["binary", "multi"])
def test_archive_and_folder_give_the_same_samples(task, folder, archive, tmp_path):
  read = lambda path: list(tfds.builder_from_directory(path).as_data_source(split="train"))
  one = read(build(f"cropharvest/{task}", tmp_path / "one", manual_dir=folder))
  two = read(build(f"cropharvest/{task}", tmp_path / "two", manual_dir=archive))
  assert len(one) == len(two) == len(LABELLED[task])
  for a, b in zip(one, two, strict=True):
    assert a["id"] == b["id"] and a["target"] == b["target"]
    for name, view in a["views"].items():
      np.testing.assert_array_equal(view, b["views"][name])
  metadata = json.loads((tmp_path / f"two/cropharvest/{task}/2.1.0/metadata.json").read_text())
  digest = hashlib.sha256((archive / "features.tar.gz").read_bytes()).hexdigest()
  assert metadata["sources"]["features.tar.gz"] == digest


def test_what_is_left_out_is_told_in_one_line(folder, tmp_path):
  command = [sys.executable, "-m", "data_builders.build", "cropharvest/multi", f"--data_dir={tmp_path}"]
  ran = subprocess.run(
    [*command, f"--manual_dir={folder}"], cwd=Path(__file__).parents[2], capture_output=True, text=True
  )
  assert ran.stdout == f"{tmp_path}/cropharvest/multi/2.1.0\n"
  left_out = "4 test, 2 unlabelled, 0 repeated, 1 without_array"
  assert ran.stderr == f"cropharvest/multi: 17 samples; left out: {left_out}\n"


def test_other_labels_are_sorted_and_told(tmp_path, capfd):
  there = edited(tmp_path / "manual", classes=["severity_2", "severity_1", "severity_3"])
  info = tfds.builder_from_directory(build("cropharvest/multi", tmp_path / "data", manual_dir=there)).info
  assert info.features["target"].names == ["severity_1", "severity_2", "severity_3"]
  assert info.metadata["task"]["outputs"] == ["severity_1", "severity_2", "severity_3"]
  assert "these are not CropHarvest's classes: severity_1, severity_2" in capfd.readouterr().err
  rows = {f"{p['index']}_{p['dataset']}": p["classification_label"] for p in properties(there)}
  for sample in tfds.builder_from_directory(info.data_dir).as_data_source(split="train"):
    assert info.features["target"].names[sample["target"]] == rows[sample["id"].decode()]


def test_classes_do_not_depend_on_which_occur():
  assert cropharvest.choose_classes(["sugar", "cereals", "sugar"], "labels.geojson") == cropharvest.CROPS


def test_integers_no_attributes_and_missing_values_are_read_B42(tmp_path):
  with h5py.File(tmp_path / "a.h5", "w") as file:
    file["array"] = np.arange(12 * 18).reshape(12, 18)
  array = cropharvest.read_array(tmp_path / "a.h5", "a.h5")
  assert array.dtype == np.float64 and array[11, 17] == 215
  array[3, 4] = array[3, 8] = 0
  array[5, 8] = np.nan
  views = cropharvest.to_views(array)
  assert np.isnan(views["S2NDVI"][[3, 5], 0]).all() and np.isfinite(views["S2NDVI"]).sum() == 10
  assert np.isnan(views["S2"][5, 6]) and np.isfinite(views["S2VI"]).all()


def put(row, **values):
  return lambda rows: rows[row].update(values)


def repeat(rows, **values):
  rows[3].clear()
  rows[3].update(rows[2] | values)


def test_a_repeated_row_counts_once_B42(tmp_path):
  there = edited(tmp_path / "manual", repeat)
  info = tfds.builder_from_directory(build("cropharvest/binary", tmp_path / "data", manual_dir=there)).info
  assert info.metadata["left_out"]["repeated"] == 1
  assert info.splits["train"].num_examples == len(LABELLED["binary"]) - 1


LABEL_ERRORS = {
  "no features": (lambda _: "[]", "is not a GeoJSON FeatureCollection, or it is empty; get labels.geojson"),
  "no properties": (lambda _: '{"features": [{}]}', "feature 0 has no properties"),
  "missing": (lambda rows: rows[2].pop("lat"), "feature 2 lacks the property 'lat', it has: index, dataset"),
  "is_test": (put(5, is_test=None), "feature 5: is_test is None, not true or false"),
  "index": (put(1, index=1.5), "feature 1: index is 1.5, not a whole number"),
  "climbing": (put(1, dataset="../../x"), "feature 1: dataset is '../../x', not a name without / and"),
  "place": (put(4, lat=90.5), "feature 4: lat is 90.5, not degrees from -90 to 90"),
  "latitude and longitude swapped": (put(4, lat=105.8, lon=21.0), "feature 4: lat is 105.8, not degrees"),
  "date": (put(4, collection_date=None), "feature 4: collection_date is None, not a date YYYY-MM-DD"),
  "contradiction": (
    lambda rows: repeat(rows, classification_label="unlike"),
    "feature 3: 2_set-2 is there twice, with different properties",
  ),
  "mixed labels": (
    put(0, classification_label="wheat"),
    "classification_label 'wheat' is none of CropHarvest's: non_crop, cereals",
  ),
  "one label": (
    lambda rows: [row.update(classification_label="wheat") for row in rows],
    "has only one classification_label: wheat",
  ),
  "all test": (
    lambda rows: [row.update(is_test=True) for row in rows],
    "has no labelled row outside of the test part",
  ),
  "no array at all": (
    lambda rows: [row.update(dataset="elsewhere") for row in rows],
    "has no array for any of 18 rows; get labels.geojson and features.tar.gz",
  ),
}


def fails(there, data_dir, message):
  with pytest.raises(InputError, match=message) as error:
    build("cropharvest/multi", data_dir, manual_dir=there)
  assert "\n" not in str(error.value)
  assert not (data_dir / "cropharvest").exists() or (
    {path.name for path in (data_dir / "cropharvest/multi").iterdir()} == {".lock"}
  )


@pytest.mark.parametrize("edit, message", LABEL_ERRORS.values(), ids=LABEL_ERRORS)
def test_malformed_labels_are_an_error_of_one_line_B42(tmp_path, edit, message):
  fails(edited(tmp_path / "manual", edit), tmp_path / "data", message)


def test_is_crop_must_be_yes_or_no(tmp_path):
  there = edited(tmp_path / "manual", put(0, is_crop=2))
  with pytest.raises(InputError, match="feature 0: is_crop is 2, not true or false"):
    build("cropharvest/binary", tmp_path / "data", manual_dir=there)


def hdf5(**arrays):
  content = io.BytesIO()
  with h5py.File(content, "w") as file:
    for name, array in arrays.items():
      file[name] = array
  return content.getvalue()


GOOD = hdf5(array=np.ones((12, 18)))
ARRAY_ERRORS = {
  "truncated": (GOOD[:-900], "cannot read .*4_set-1.h5.* as HDF5: .*truncated"),
  "key": (hdf5(values=np.ones((12, 18)), x=1), "4_set-1.h5.* no array under the key 'array', .* values, x"),
  "steps": (hdf5(array=np.ones((11, 18))), r"4_set-1.h5.*: the array is float64 \(11, 18\), not numbers"),
  "bands": (hdf5(array=np.ones((12, 20))), r"4_set-1.h5.*: the array is float64 \(12, 20\), not numbers"),
  "type": (hdf5(array=np.full((12, 18), b"1")), r"4_set-1.h5.*: the array is \|S1 \(12, 18\), not numbers"),
  "infinite": (hdf5(array=np.full((12, 18), np.inf)), "4_set-1.h5.*: the array holds infinite values"),
}


@pytest.mark.parametrize("archived", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("content, message", ARRAY_ERRORS.values(), ids=ARRAY_ERRORS)
def test_an_unreadable_array_is_an_error_of_one_line_B42(tmp_path, content, message, archived):
  there = edited(tmp_path / "manual")
  (there / "features/arrays/4_set-1.h5").write_bytes(content)
  if archived:
    files = {f"features/arrays/{path.name}": path.read_bytes() for path in there.glob("features/arrays/*")}
    write_archive(there / "features.tar.gz", files)
  fails(there, tmp_path / "data", message)


@pytest.mark.parametrize("name", ["/tmp/0_set-0.h5", "features/arrays/../../../0_set-0.h5"])
def test_a_path_that_leads_out_of_the_archive_is_an_error(tmp_path, name):
  there = edited(tmp_path / "manual", archive=True)
  write_archive(there / "features.tar.gz", {"features/arrays/1_set-1.h5": GOOD, name: GOOD})
  fails(there, tmp_path / "data", "features.tar.gz has a member with an unsafe path: .*0_set-0.h5")


def test_a_member_that_is_far_too_large_is_not_read(tmp_path, monkeypatch):
  there = edited(tmp_path / "manual", archive=True)
  write_archive(there / "features.tar.gz", {"features/arrays/1_set-1.h5": GOOD})
  monkeypatch.setattr(cropharvest, "LARGEST_MEMBER", len(GOOD) - 1)
  fails(there, tmp_path / "data", f"1_set-1.h5 in .* has {len(GOOD)} bytes, at most {len(GOOD) - 1} are read")


def test_a_file_twice_in_the_archive_is_an_error(tmp_path):
  there = edited(tmp_path / "manual", archive=True)
  files = {"features/arrays/1_set-1.h5": GOOD, "./features/arrays/1_set-1.h5": GOOD}
  write_archive(there / "features.tar.gz", files)
  fails(there, tmp_path / "data", "features/arrays/1_set-1.h5 in .*features.tar.gz is there more than once")


@pytest.mark.parametrize("content", [lambda b: b[: len(b) // 2], lambda b: b"no archive"])
def test_a_broken_archive_is_an_error(tmp_path, content):
  there = edited(tmp_path / "manual", archive=True)
  path = there / "features.tar.gz"
  path.write_bytes(content(path.read_bytes()))
  fails(there, tmp_path / "data", "cannot read .*features.tar.gz as a tar archive")


def test_missing_files_are_errors_that_say_where_to_get_them(tmp_path, folder):
  (tmp_path / "manual").mkdir()
  fails(
    tmp_path / "manual", tmp_path / "data", "no file labels.geojson in manual_dir .*; get .*https://zenodo"
  )
  (tmp_path / "manual/labels.geojson").write_bytes((folder / "labels.geojson").read_bytes())
  fails(tmp_path / "manual", tmp_path / "data", "neither features.tar.gz nor features/arrays in manual_dir")
  with pytest.raises(InputError, match="has to be downloaded by hand: get .* from https://zenodo.org"):
    build("cropharvest/binary", tmp_path / "data")


def test_other_arrays_than_the_prepared_ones_are_an_error(tmp_path):
  there = edited(tmp_path / "manual")
  path = build("cropharvest/binary", tmp_path / "data", manual_dir=there)
  assert build("cropharvest/binary", tmp_path / "data", manual_dir=there) == path
  next(there.glob("features/arrays/*")).unlink()
  with pytest.raises(InputError, match="was made from another labels.geojson, features/arrays"):
    build("cropharvest/binary", tmp_path / "data", manual_dir=there)


def test_without_h5py_the_error_says_what_to_install(tmp_path, folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "h5py", None)
  fails(folder, tmp_path / "data", r"pip install 'colearn_jax\[raster\]'")


def test_both_configurations_have_names_and_the_bare_name_is_none(tmp_path):
  assert {"cropharvest/binary", "cropharvest/multi", "lfmc", "synthetic"} <= set(names())
  builder, config = find("cropharvest/multi")
  assert builder is cropharvest.Builder and config == "multi"
  assert find("lfmc")[1] is None
  for name in ("cropharvest", "cropharvest/all", "lfmc/multi", "", "/", "../x"):
    with pytest.raises(InputError, match="unknown data set .*, have: cropharvest/binary, cropharvest/multi"):
      build(name, tmp_path)
