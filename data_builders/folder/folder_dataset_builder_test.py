import csv
import json
import shutil
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets import build as build_lib
from colearn_jax.datasets.build import build
from colearn_jax.datasets.folder import arrays
from colearn_jax.datasets.folder import folder as folder_lib
from colearn_jax.datasets.folder.dummy import SPLITS, write_dummy
from colearn_jax.datasets.folder.table import read_table

from colearn_jax import config as config_lib
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import read_index
from colearn_jax.types import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  there = tmp_path_factory.mktemp("own") / "fields"
  return there, write_dummy(there)


@pytest.fixture(scope="module")
def folder(written):
  return written[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, folder):
  return build("folder", tmp_path_factory.mktemp("data"), manual_dir=folder, workers=1)


@pytest.fixture
def copy(tmp_path, folder):
  """The dummy files, to be changed."""
  return shutil.copytree(folder, tmp_path / "fields")


def samples(path, split="train"):
  return list(tfds.builder_from_directory(path).as_data_source(split=split))


def table(there, edit):
  """Changes the cells of the table in place, `edit(rows)`; the first row is the header."""
  path = there / "samples.csv"
  with open(path, encoding="utf-8", newline="") as file:
    rows = list(csv.reader(file))
  edit(rows)
  with open(path, "w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows(rows)


def simple(there, targets, header=("target",), **files):
  """A directory with these targets and one view of three values."""
  (there / "x").mkdir(parents=True)
  with open(there / "samples.csv", "w", encoding="utf-8", newline="") as file:
    rows = [[i, *(target if isinstance(target, tuple) else [target])] for i, target in enumerate(targets)]
    csv.writer(file).writerows([["id", *header], *rows])
  for i in range(len(targets)):
    np.save(there / "x" / f"{i}.npy", np.arange(3.0) + i)
  for name, content in files.items():
    (there / name.replace("_", ".")).write_text(json.dumps(content))
  return there


def test_samples_hold_what_the_files_hold_in_the_order_of_the_table(prepared, written):
  _, expected = written
  every = [(split, s) for split in ("train", "validation", "test") for s in samples(prepared, split)]
  assert [s["id"].decode() for _, s in every] == list(expected)
  assert tuple(split for split, _ in every) == SPLITS
  assert [s["target"] for _, s in every] == [0, -1, *[0, 1] * 5]
  assert [s["groups"]["region"].decode() for _, s in every] == [f"region{i % 3}" for i in range(12)]
  for _, sample in every:
    own = expected[sample["id"].decode()]
    there = own["S1"] is not None
    order = np.argsort(own["days"])
    series = own["S1"][order] if there else np.zeros((0, 2), np.float32)
    np.testing.assert_array_equal(sample["views"]["S1"], series, strict=True)
    days = own["days"][order] if there else np.zeros(0)
    np.testing.assert_array_equal(sample["dates"]["S1"], days.astype(np.int32), strict=True)
    photo = np.zeros((6, 5, 3), np.uint8) if own["photo"] is None else own["photo"]
    np.testing.assert_array_equal(sample["views"]["photo"], photo, strict=True)
    assert sample["present"] == {"photo": own["photo"] is not None}
    np.testing.assert_array_equal(sample["views"]["soil"], own["soil"].astype(np.float32), strict=True)


def test_metadata(prepared):
  metadata = tfds.builder_from_directory(prepared).info.metadata
  assert metadata["task"] == {"kind": "binary", "outputs": ["maize", "wheat"], "unit": ""}
  assert metadata["views"]["S1"] == {"bands": ["b1", "b2"], "description": "", "dated": True}
  assert metadata["longest"] == {"S1": 6} and metadata["absent"] == {"S1": 1, "photo": 2}
  assert metadata["left_out"] == {"unreadable": {}}
  assert set(metadata["sources"]) == {"samples.csv", "S1", "photo", "soil"}


def test_training_can_open_it(prepared):
  dataset = open_dataset(prepared)
  assert dataset.name == "folder" and dict(dataset.sizes) == {"train": 6, "validation": 2, "test": 4}
  assert dataset.views["photo"] == (6, 5, 3) and dataset.flags == ("photo",)
  index = read_index(dataset)
  assert index.labelled.tolist() == [True, False] + [True] * 10
  assert set(index.groups["region"]) == {"region0", "region1", "region2"}


def test_what_was_inferred_is_told(folder, tmp_path, capfd):
  build("folder", tmp_path, manual_dir=folder, workers=1)
  told = capfd.readouterr().err.splitlines()
  assert [line.removeprefix(f"{folder}: ") for line in told] == [
    "6 train, 2 validation, 4 test samples; binary: maize 6, wheat 5; 1 without a target",
    "view S1: (T, 2) float32, bands b1, b2; 1 samples lack it",
    "view photo: (6, 5, 3) uint8, bands b1, b2, b3; 2 samples lack it",
    "view soil: (3,) float32, bands b1, b2, b3",
    "column split: protocol.split=official uses it (configs/folder.py:official); folds do not",
    "columns that are not used: note",
  ]


def write_tif(path, image, **more):
  rasterio = pytest.importorskip("rasterio")
  pixels = np.moveaxis(image, -1, 0)
  size = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
  transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_700_000)
  bands = more.pop("bands", None)
  with rasterio.open(
    path, "w", driver="GTiff", dtype=pixels.dtype, crs="EPSG:25832", transform=transform, **size, **more
  ) as file:
    file.write(pixels)
    if bands:
      file.descriptions = bands


def write_zarr(path, values, dates=None):
  zarr = pytest.importorskip("zarr")
  if dates is None:
    zarr.save_array(str(path), values)
  else:
    group = zarr.open_group(str(path), mode="w")
    group["values"], group["dates"] = values, dates


WRITERS = {
  "npy": np.save,
  "npz": lambda path, values: np.savez_compressed(path, anything=values),
  "zarr": write_zarr,
  "tif": write_tif,
}


@pytest.mark.parametrize("suffix, write", WRITERS.items(), ids=WRITERS)
def test_all_formats_hold_the_same(copy, prepared, tmp_path, suffix, write):
  for path in (copy / "photo").glob("*.npy"):
    image = np.load(path)
    path.unlink()
    write(path.with_suffix(f".{suffix}"), image)
  path = build("folder", tmp_path / "data", manual_dir=copy, workers=1)
  for one, two in zip(samples(path, "test"), samples(prepared, "test"), strict=True):
    np.testing.assert_array_equal(one["views"]["photo"], two["views"]["photo"], strict=True)
    assert one["present"] == two["present"]


def test_bands_and_missing_values_of_a_geotiff(tmp_path):
  there = simple(tmp_path / "own", [0.5, 1.5, 2.0])
  (there / "tile").mkdir()
  image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
  for i in range(3):
    write_tif(there / "tile" / f"{i}.tif", image, nodata=7, bands=("B", "G", "R", "NIR"))
  path = build("folder", tmp_path / "data", manual_dir=there, workers=1)
  assert tfds.builder_from_directory(path).info.metadata["views"]["tile"]["bands"] == ["B", "G", "R", "NIR"]
  expected = np.where(image == 7, np.nan, image).astype(np.float32)
  np.testing.assert_array_equal(samples(path)[0]["views"]["tile"], expected, strict=True)
  write_tif(there / "tile" / "1.tif", image, nodata=7, bands=("R", "G", "B", "NIR"))
  with pytest.raises(
    InputError, match=r"sample 1: .*1.tif names the bands R, G, B, NIR, not B, G, R, NIR as most"
  ):
    build("folder", tmp_path / "data", manual_dir=there, workers=1)


def test_series_in_zarr_groups_and_stacks(tmp_path):
  there = simple(tmp_path / "own", [0.5, 1.5])
  (there / "S2").mkdir()
  cubes = [np.random.default_rng(i).normal(size=(3 + i, 2, 2, 4)) for i in range(2)]
  for i, cube in enumerate(cubes):
    write_zarr(there / "S2" / f"{i}.zarr", cube, np.arange(3 + i)[::-1] + 18_000)
  stack = np.arange(16, dtype=np.float64).reshape(2, 4, 2)
  stack[1, 2, 1] = np.inf
  write_zarr(there / "S1.zarr", stack)
  (there / "dataset.json").write_text(
    json.dumps({"views": {"S1": {"dates": ["2024-04-01", "2024-01-01", "2024-02-01", "2024-03-01"]}}})
  )
  one, two = samples(build("folder", tmp_path / "data", manual_dir=there, workers=1))
  np.testing.assert_array_equal(two["views"]["S2"], cubes[1][::-1].astype(np.float32), strict=True)
  np.testing.assert_array_equal(two["dates"]["S2"], np.arange(18_000, 18_004))
  assert one["views"]["S2"].shape == (3, 2, 2, 4)
  np.testing.assert_array_equal(two["views"]["S1"], [[10, 11], [12, np.nan], [14, 15], [8, 9]])
  assert np.datetime64(int(one["dates"]["S1"][0]), "D") == np.datetime64("2024-01-01")


def test_series_without_dates_are_numbered_and_nested_ids_are_folders(tmp_path):
  there = simple(tmp_path / "own", [0.5, 1.5])
  table(there, lambda rows: rows[2].__setitem__(0, "north/1"))
  (there / "S1" / "north").mkdir(parents=True)
  np.save(there / "S1" / "0.npy", np.zeros((2, 1)))
  np.save(there / "S1" / "north" / "1.npy", np.zeros((4, 1), np.int8))
  path = build("folder", tmp_path / "data", manual_dir=there, workers=1)
  assert tfds.builder_from_directory(path).info.metadata["views"]["S1"]["dated"] is False
  one, two = samples(path)
  assert one["dates"]["S1"].tolist() == [0, 1] and two["dates"]["S1"].tolist() == [0, 1, 2, 3]
  assert two["id"] == b"north/1" and np.isnan(two["views"]["x"]).all()


def test_parquet_is_the_same_as_csv(copy, prepared, tmp_path):
  with open(copy / "samples.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  columns = {name: [row[name] or None for row in rows] for name in rows[0]}
  pyarrow.parquet.write_table(pyarrow.table(columns), copy / "samples.parquet")
  with pytest.raises(InputError, match="holds samples.csv and samples.parquet; keep one of them"):
    folder_lib.read_folder(copy)
  (copy / "samples.csv").unlink()
  path = build("folder", tmp_path / "data", manual_dir=copy, workers=1)
  for one, two in zip(samples(path), samples(prepared), strict=True):
    assert (one["id"], one["target"], one["groups"]) == (two["id"], two["target"], two["groups"])


NAN = float("nan")
TASKS = {
  "regression": (["0.5", "", "-2"], "regression", ["target"], [(0.5,), (NAN,), (-2.0,)]),
  "numbers": (["3", "10", "3"], "binary", ["3", "10"], [0, 1, 0]),
  "texts": (["oak", "", "ash", "fir"], "multiclass", ["ash", "fir", "oak"], [2, -1, 0, 1]),
  "truth": (["True", "false", "nan"], "binary", ["0", "1"], [1, 0, -1]),
  "labels": (
    ["oak; ash", "ash", ";", ""],
    "multilabel",
    ["ash", "oak"],
    [(1, 1), (1, 0), (0, 0), (NAN, NAN)],
  ),
}


def same(one, two):
  np.testing.assert_array_equal(np.array(one, float), np.array(two, float))


@pytest.mark.parametrize("targets, kind, outputs, stored", TASKS.values(), ids=TASKS)
def test_the_task_follows_from_the_targets(tmp_path, targets, kind, outputs, stored):
  found = read_table(simple(tmp_path / "own", targets) / "samples.csv", {})
  assert (found.task["kind"], found.task["outputs"]) == (kind, outputs)
  same([row.target for row in found.samples], stored)


def test_several_columns_are_labels_or_amounts(tmp_path):
  header = ("target_oak", "target_ash")
  found = read_table(simple(tmp_path / "a", [(1, 0), ("", ""), (1, 1)], header) / "samples.csv", {})
  assert (found.task["kind"], found.task["outputs"]) == ("multilabel", ["oak", "ash"])
  same([row.target for row in found.samples], [(1, 0), (NAN, NAN), (1, 1)])
  found = read_table(simple(tmp_path / "b", [(1, 0.5), (7, -3)], header) / "samples.csv", {})
  assert found.task["kind"] == "regression" and found.samples[1].target == (7.0, -3.0)


def test_the_description_orders_and_names_classes(tmp_path):
  path = simple(tmp_path / "own", ["0", "2", "", "1"]) / "samples.csv"
  named = read_table(path, {"kind": "multiclass", "outputs": ["oak", "ash", "fir"], "unit": "genus"})
  assert named.task == {"kind": "multiclass", "outputs": ["oak", "ash", "fir"], "unit": "genus"}
  assert [row.target for row in named.samples] == [0, 2, -1, 1]
  amounts = read_table(path, {"kind": "regression"})
  assert amounts.samples[1].target == (2.0,)
  ordered = read_table(path, {"outputs": ["2", "1", "0"]})
  assert [row.target for row in ordered.samples] == [2, 0, -1, 1]


def test_the_description_reaches_the_data_set(copy, tmp_path):
  described = {
    "task": {"outputs": ["wheat", "maize"], "unit": "crop"},
    "views": {"S1": {"bands": ["VV", "VH"], "description": "backscatter, dB", "mask": "S1mask"}},
  }
  (copy / "S1mask").mkdir()
  for path in (copy / "S1").glob("*.npz"):
    with np.load(path) as arrays:
      np.savez(copy / "S1mask" / path.name, values=np.zeros((len(arrays["dates"]), 1)), dates=arrays["dates"])
  (copy / "dataset.json").write_text(json.dumps(described))
  path = build("folder", tmp_path / "data", manual_dir=copy, workers=1)
  metadata = tfds.builder_from_directory(path).info.metadata
  assert metadata["task"] == {"kind": "binary", "outputs": ["wheat", "maize"], "unit": "crop"}
  assert metadata["views"]["S1"] == described["views"]["S1"] | {"dated": True}
  assert [s["target"] for s in samples(path, "validation")] == [1, 0]
  np.savez(copy / "S1mask" / "field5.npz", values=np.zeros((9, 1)), dates=np.arange(9) + 18_000)
  with pytest.raises(
    InputError, match=r"sample field5: view S1 has shape \(6, 2\), its mask S1mask \(9, 1\)"
  ):
    build("folder", tmp_path / "data", manual_dir=copy, workers=1)
  (copy / "S1mask" / "field5.npz").unlink()
  with pytest.raises(
    InputError, match=r"sample field5: view S1 has shape \(6, 2\), its mask S1mask is missing"
  ):
    build("folder", tmp_path / "data", manual_dir=copy, workers=1)


def cell(row, column, value):
  return lambda there: table(there, lambda rows: rows[row].__setitem__(rows[0].index(column), value))


def described(tree):
  return lambda there: (there / "dataset.json").write_text(
    tree if isinstance(tree, str) else json.dumps(tree)
  )


def put(name, values):
  return lambda there: np.save(there / name, values)


def content(name, content):
  return lambda there: (there / name).write_bytes(content)


MISTAKES = {
  "no table": (
    lambda there: (there / "samples.csv").unlink(),
    "holds no table of samples, one of: samples.csv",
  ),
  "no samples": (
    lambda there: table(there, lambda rows: rows.__delitem__(slice(1, None))),
    "csv has no samples",
  ),
  "not text": (content("samples.csv", b"\xff\xfe"), "cannot read .*samples.csv as comma-separated UTF-8"),
  "cells": (content("samples.csv", b"id,target\na\n"), "samples.csv, line 2: 1 cells where the header has 2"),
  "no id": (cell(0, "id", "name"), "samples.csv has no column 'id', its columns are: 'name', 'split'"),
  "no target": (cell(0, "target", "label"), "has to have one column 'target', or several 'target_...'"),
  "two columns": (cell(0, "note", "split"), "has the column 'split' more than once"),
  "twice": (cell(5, "id", "field1"), "id 'field1' is there twice, as samples 2 and 5; one row"),
  "empty id": (cell(3, "id", ""), "samples.csv, sample 3: '' is no id"),
  "escape": (cell(3, "id", "../field2"), "sample ../field2: that id is a path that leads out of the folder"),
  "absolute": (cell(3, "id", "/etc/passwd"), "sample /etc/passwd: that id is a path that leads out"),
  "split": (cell(4, "split", "val"), "samples.csv, sample field3: unknown split 'val', have: train, valid"),
  "group": (cell(4, "group_region", ""), "samples.csv, sample field3: its group_region is empty"),
  "one class": (
    lambda there: table(there, lambda rows: [r.__setitem__(2, "wheat") for r in rows[1:]]),
    "a multiclass task has 2 or more classes, not 1",
  ),
  "no labels": (
    lambda there: table(there, lambda rows: [r.__setitem__(2, "") for r in rows[1:]]),
    "samples.csv: no sample has a target",
  ),
  "mixed": (cell(4, "target", "3.5"), "sample field3: its target 3.5 is not text, as most targets are"),
  "no view": (
    lambda there: [
      shutil.rmtree(there / "S1"),
      shutil.rmtree(there / "photo"),
      (there / "soil.npy").unlink(),
    ],
    "holds no views: a directory for each",
  ),
  "empty view": (
    lambda there: [path.unlink() for path in there.glob("S1/*")],
    "view S1: .*S1 has no file of any sample, as would be field0.npy; .npy, .npz, .zarr, .nc, .tif",
  ),
  "two files": (
    put("S1/field4.npy", np.zeros((3, 2))),
    "view S1, sample field4: it has two files, field4.np",
  ),
  "no file": (
    lambda there: [
      (there / "soil.npy").unlink(),
      (there / "S1/field5.npz").unlink(),
      (there / "photo/field5.npy").unlink(),
    ],
    "samples.csv, sample field5: it has no file in any view: S1, photo",
  ),
  "two views": (
    lambda there: (there / "soil").mkdir(),
    "has two of view soil: soil.npy, soil|soil, soil.npy",
  ),
  "packed": (
    lambda there: np.savez(there / "rain.npz", np.zeros(12)),
    "rain.npz: one file for all samples has",
  ),
  "stack": (put("soil.npy", np.zeros((11, 3))), "soil.npy holds 11 samples, the table 12"),
  "flat stack": (put("soil.npy", np.zeros(12)), r"soil.npy has shape \(12,\); samples and the shape of each"),
  "shape": (
    put("photo/field7.npy", np.zeros((6, 5, 4))),
    r"sample field7: .*photo/field7.npy has shape \(6, 5, 4\), not \(6, 5, 3\) as most have$",
  ),
  "length of an image": (
    put("photo/field7.npy", np.zeros((7, 5, 3))),
    r"sample field7: .*field7.npy has shape \(7, 5, 3\), not \(6, 5, 3\)",
  ),
  "bands of a series": (
    lambda there: np.savez(there / "S1/field7.npz", values=np.zeros((4, 3)), dates=np.arange(4)),
    r"sample field7: .*S1/field7.npz has shape \(4, 3\), not \(T, 2\) as most have",
  ),
  "truncated": (content("photo/field4.npy", b"\x93NUMPY"), "sample field4: cannot read .*photo/field4.npy: "),
  "cut off": (
    lambda there: (there / "photo/field4.npy").write_bytes((there / "photo/field4.npy").read_bytes()[:-9]),
    "sample field4: cannot read .*photo/field4.npy: ",
  ),
  "no zip": (content("S1/field4.npz", b"zip?"), "sample field4: cannot read .*S1/field4.npz: "),
  "texts": (
    put("photo/field4.npy", np.array([["a"]])),
    "sample field4: .*photo/field4.npy holds <U1, not numbers",
  ),
  "objects": (
    lambda there: np.save(there / "photo/field4.npy", np.array([{}]), allow_pickle=True),
    "sample field4: .*photo/field4.npy",
  ),
  "names": (
    lambda there: np.savez(there / "S1/field4.npz", a=np.zeros(2), b=np.zeros(2)),
    "sample field4: .*field4.npz has to hold one array, or values and dates; it has: a, b",
  ),
  "no dates": (
    lambda there: np.savez(there / "S1/field4.npz", np.zeros((3, 2))),
    "sample field4: .*field4.npz has no dates, others have",
  ),
  "dates": (
    lambda there: np.savez(there / "S1/field4.npz", values=np.zeros((3, 2)), dates=np.array(["a", "b", "c"])),
    "sample field4: .*field4.npz: its dates are no days such as 2018-01-15: 'a'",
  ),
  "number of dates": (
    lambda there: np.savez(there / "S1/field4.npz", values=np.zeros((3, 2)), dates=np.arange(4)),
    r"sample field4: .*field4.npz has 4 dates for values of shape \(3, 2\)",
  ),
  "json": (described("{"), "cannot read .*dataset.json as JSON"),
  "key": (described({"tasks": {}}), "dataset.json: unknown key 'tasks' of the file, have: task, views"),
  "kind": (described({"task": {"kind": "classes"}}), "unknown task kind 'classes' for .*, have: binary"),
  "view": (
    described({"views": {"S3": {}}}),
    "dataset.json names the view 'S3', the folder has: S1, photo, soil",
  ),
  "mask": (
    described({"views": {"S1": {"mask": "cloud"}}}),
    "dataset.json names the view 'cloud', the folder",
  ),
  "bands": (
    described({"views": {"S1": {"bands": ["VV"]}}}),
    "dataset.json names 1 bands of view S1, its files have 2",
  ),
  "days": (
    described({"views": {"soil": {"dates": ["2024-01-01"]}}}),
    r"dataset.json has 1 dates of view soil, its files have shape \(3,\)",
  ),
  "class": (
    described({"task": {"outputs": ["maize", "rye"]}}),
    "samples.csv, sample field3: unknown class 'wheat', have: maize, rye",
  ),
  "list": (described({"task": {"outputs": "maize"}}), "outputs of the task is 'maize', not a list of names"),
}


@pytest.mark.parametrize("change, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_with_the_sample_and_the_file_B41(copy, tmp_path, change, message):
  change(copy)
  with pytest.raises(InputError, match=message) as error:
    build("folder", tmp_path / "data", manual_dir=copy, workers=1)
  assert "\n" not in str(error.value)
  left = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
  assert all(path.name == ".lock" or "partial-" in str(path) for path in left)


@pytest.mark.parametrize(
  "targets, message",
  [
    (
      ["1.0", "2.0", ""],
      "targets are 2 different whole numbers, such as 1.0, so classes or amounts; say which",
    ),
    ([str(i) for i in range(101)], "targets are 101 different whole numbers, such as 0"),
    (["0.5", "abc", "2.5"], "sample 1: its target 'abc' is not a number, as most targets are"),
    (["0.5", "inf", "2.5"], "sample 1: its target inf is not a finite number"),
  ],
)
def test_targets_that_do_not_say_what_they_are(tmp_path, targets, message):
  with pytest.raises(InputError, match=message):
    folder_lib.read_folder(simple(tmp_path / "own", targets))


def test_targets_of_several_columns_are_all_there_or_none(tmp_path):
  with pytest.raises(InputError, match="sample 1: its target b is empty, others are not"):
    folder_lib.read_folder(simple(tmp_path / "own", [(0.5, 1), (2, "")], ("target_a", "target_b")))


def test_unreadable_files_can_be_left_out_B41(copy, tmp_path, capfd):
  (copy / "photo/field4.npy").write_bytes(b"")
  image = np.load(copy / "photo/field7.npy")
  np.save(copy / "photo/field7.npy", image[:-1])
  np.savez(copy / "S1/field8.npz", values=np.zeros((3, 2)), dates=np.arange(4))
  path = build("folder", tmp_path / "data", manual_dir=copy, workers=1, unreadable="skip")
  ids = [s["id"].decode() for split in ("train", "validation", "test") for s in samples(path, split)]
  assert ids == [f"field{i}" for i in range(12) if i not in (4, 7, 8)]
  left_out = tfds.builder_from_directory(path).info.metadata["left_out"]["unreadable"]
  assert set(left_out) == {"field4", "field7", "field8"} and "field8.npz has 4 dates" in left_out["field8"]
  assert "left out field4: cannot read" in capfd.readouterr().err
  # What is prepared can be used, whichever way it was asked for.
  assert build("folder", tmp_path / "data", manual_dir=copy) == path


def test_a_changed_folder_is_built_anew_and_another_one_beside_it(copy, folder, tmp_path):
  data = tmp_path / "data"
  path, other = (build("folder", data, manual_dir=there, workers=1) for there in (copy, folder))
  assert path != other and path.parents[1] == other.parents[1] == data / "folder"
  before = path.stat().st_ino
  assert build("folder", data, manual_dir=copy) == path and path.stat().st_ino == before
  np.save(copy / "soil.npy", np.load(copy / "soil.npy") + 1)
  assert build("folder", data, manual_dir=copy, workers=1) == path
  one, two = samples(path)[0]["views"]["soil"], samples(other)[0]["views"]["soil"]
  np.testing.assert_allclose(one, two + 1, rtol=1e-6)
  table(copy, lambda rows: rows.pop())
  with pytest.raises(InputError, match="soil.npy holds 12 samples, the table 11"):
    build("folder", data, manual_dir=copy, workers=1)


def test_a_library_that_is_missing_is_named(copy, tmp_path, monkeypatch):
  (copy / "photo/field4.npy").unlink()
  (copy / "photo/field4.zarr").mkdir()
  monkeypatch.setitem(sys.modules, "zarr", None)
  with pytest.raises(InputError, match=r"zarr files are read with zarr: pip install 'colearn_jax\[zarr\]'"):
    build("folder", tmp_path / "data", manual_dir=copy)


def test_it_needs_a_directory(tmp_path):
  assert "folder" in build_lib.names()
  with pytest.raises(InputError, match="folder is no data set of its own: give the directory of your data"):
    build("folder", tmp_path)


def test_configurations_are_checked_against_the_folder(folder):
  load = lambda **more: config_lib.load(
    "configs/folder.py:encoder=tempcnn",
    {"data.manual_dir": folder, "data.modalities": "photo,soil"}
    | {"model.encoders": {"photo": {"model_type": "resnet", "depth": 18}, "soil": {"model_type": "mlp"}}}
    | {key.replace("__", "."): value for key, value in more.items()},
  )
  config = load(protocol__group_by="region")
  assert config.data.name == "folder" and config.protocol.split == "kfold"
  with pytest.raises(
    InputError, match="'S9' is not allowed; a view, or several joined with _: S1, photo, soil"
  ):
    load(data__modalities="S9", model__encoders={})
  with pytest.raises(
    InputError, match="protocol.group_by: 'site' is not allowed; nothing, or a group of folder"
  ):
    load(protocol__group_by="site")
  with pytest.raises(InputError, match="for modality soil: encoder tempcnn reads series"):
    load(model__encoders={"photo": {"model_type": "resnet"}})
  with pytest.raises(InputError, match="^data.manual_dir: folder is no data set of its own"):
    load(data__manual_dir="")


def test_headers_are_read_once_while_nothing_changes(copy, monkeypatch):
  first = folder_lib.survey_folder(folder_lib.read_folder(copy))
  monkeypatch.setattr(arrays, "read_header", None)
  assert folder_lib.survey_folder(folder_lib.read_folder(copy)) == first
