"""Odd and damaged tables and files of values: each ends in a result or in one line, without much memory."""

import csv
import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder, Config
from hypothesis import strategies as st

from colearn_jax.types import InputError
from tests.cases.folders import table, write_tif
from tests.cases.odd_files import CHANGES, DTYPES, FILLED, SHAPES, array, change_file, in_one_line, repeat

FEW = pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.slow)])
IDS = ["s0", "s1", "s2", "s3"]

# Cells of a table: as people and programs write them, and as nobody should.
CELL = st.one_of(
  st.sampled_from(
    ["", "s0", "s1", "a", "0", "1", "1.5", "-9999", "nan", "inf", "1e999", "1,5", "train", "TRUE"]
  ),
  st.sampled_from(
    ["test", "2018-01-15", "15/01/2018", "2018-13-45", "90", "-181", "../x", "a/b", "=1+1", "\ufeff"]
  ),
  st.sampled_from(
    [
      '{"type":"Point","coordinates":[9,51]}',
      '{"type":"Point","coordinates":[]}',
      '{"type":"Polygon"}',
      "[1",
      "null",
    ]
  ),
  st.text(max_size=6),
  st.integers(-(10**20), 10**20).map(str),
  st.floats().map(str),
)
COLUMN = st.sampled_from(
  "id target target_a target_b split group group_site date lat lon latitude .geo system:index Id note".split()
  + ["", "target ", "ä"]
)
COLUMNS = st.dictionaries(COLUMN, st.lists(CELL, min_size=4, max_size=4), max_size=5)
# Columns of Parquet of any type.
TYPED = st.one_of(
  st.lists(st.one_of(st.none(), st.integers(-3, 300)), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.booleans()), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.binary(max_size=4)), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.dates()), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.datetimes()), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.times(), st.just(None)), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.decimals(-10, 10, places=2)), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.lists(st.integers(0, 1), max_size=3)), min_size=4, max_size=4),
  st.lists(st.one_of(st.none(), st.fixed_dictionaries({"a": st.integers(0, 2)})), min_size=4, max_size=4),
)


def read_all(there):
  """Reads all samples as the build does."""
  own = read_folder(there)
  surveyed, reader = survey_folder(own), Builder(config=Config(own), data_dir="/dev/null/none")._reader()
  if surveyed.wrong:
    sample, why = next(iter(surveyed.wrong.items()))
    raise InputError(f"sample {sample}: {why}")
  for sample, files in zip(own.table.samples, zip(*surveyed.files)):
    reader.features().serialize_example(reader.read(dataclasses.replace(sample, files=files)))


def folder(there):
  table(there, [0, 1, 0, 1])
  return there


def csv_of_any_cells(there, columns, whole, delimiter, changes):
  folder(there)
  columns = ({"id": IDS, "target": ["0", "1", "0", "1"]} if whole else {}) | columns
  with open(there / "samples.csv", "w", encoding="utf-8", newline="") as file:
    csv.writer(file, delimiter=delimiter).writerows([list(columns), *zip(*columns.values())])
  if changes:
    change_file(there / "samples.csv", 0, changes)
  return in_one_line(lambda: read_all(there))


def parquet_of_any_types(there, columns, whole, changes):
  folder(there)
  (there / "samples.csv").unlink()
  columns = ({"id": IDS, "target": [0, 1, 0, 1]} if whole else {}) | columns
  pyarrow.parquet.write_table(pyarrow.table(columns), there / "samples.parquet")
  if changes:
    change_file(there / "samples.parquet", 0, changes)
  return in_one_line(lambda: read_all(there))


SAID = st.recursive(
  st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=4), st.just("regression")
  ),
  lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)
  ),
  max_leaves=5,
)
KEY = st.sampled_from(
  "bands dates mask steps units nodata scale offset unusable kind outputs unit unlabelled".split()
)


def any_description(there, task, view, top):
  folder(there)
  tree = {"task": task, "views": {"x": view}} | top
  (there / "dataset.json").write_text(json.dumps(tree))
  return in_one_line(lambda: read_all(there))


@FEW
@pytest.mark.parametrize(
  ("check", "drawn"),
  [
    (
      csv_of_any_cells,
      {
        "columns": COLUMNS,
        "whole": st.booleans(),
        "delimiter": st.sampled_from(",,,;\t"),
        "changes": st.one_of(st.none(), CHANGES),
      },
    ),
    (
      parquet_of_any_types,
      {
        "columns": st.dictionaries(COLUMN, TYPED, max_size=4),
        "whole": st.booleans(),
        "changes": st.one_of(st.none(), st.none(), CHANGES),
      },
    ),
    (
      any_description,
      {
        "task": st.dictionaries(KEY, SAID, max_size=2),
        "view": st.dictionaries(KEY, SAID, max_size=2),
        "top": st.dictionaries(st.sampled_from(["task", "views", "x"]), SAID, max_size=1),
      },
    ),
  ],
)
def test_tables_and_descriptions(check, drawn, examples):
  repeat(drawn, check, examples)


# Files of values: whole ones of any type and shape, and damaged ones.


def write_npy(path, x):
  np.save(path.with_suffix(".npy"), x)


def write_npz(path, x):
  np.savez_compressed(path.with_suffix(".npz"), values=x, dates=np.arange(len(x) if x.ndim else 1) + 17_546)


def write_zarr(path, x):
  zarr = pytest.importorskip("zarr")
  zarr.save_array(str(path.with_suffix(".zarr")), x)


def write_netcdf(path, x, engine="h5netcdf"):
  xarray = pytest.importorskip("xarray")
  names = (["id"] if path.name == "stack" else ["time"]) + ["y", "x", "band", "more"]
  names = names[: x.ndim]
  data = xarray.Dataset({"values": (names, x, {"units": "1", "_FillValue": x.dtype.type(0)})})
  if "time" in names:
    data = data.assign_coords(time=np.arange(len(x)))
    data.time.attrs = {"units": "days since 2018-01-01"}
  data.to_netcdf(path.with_suffix(".nc"), engine=engine)


def write_geotiff(path, x):
  write_tif(path.with_suffix(".tif"), np.atleast_3d(x), nodata=0)


WRITE = {
  "npy": write_npy,
  "npz": write_npz,
  "zarr": write_zarr,
  "netcdf": write_netcdf,
  "classic": functools.partial(write_netcdf, engine="scipy"),
  "geotiff": write_geotiff,
}


@functools.cache
def whole_file(kind, name):
  """A whole file of this kind, written once."""
  place, seed = Path(tempfile.mkdtemp()), sum(name.encode())
  WRITE[kind](place / name, np.random.default_rng(seed).random((4, 3, 2)).astype(np.float32) + 1)
  (file,) = place.iterdir()
  return file


def damaged_values(there, kind, choice, changes, stacked):
  """Four samples of which one file is damaged; or one damaged file of all four."""
  folder(there)
  shutil.rmtree(there / "x")
  copy = lambda file, to: (shutil.copytree if file.is_dir() else shutil.copy)(file, to)
  if stacked and kind not in ("geotiff", "npz"):
    place = there / f"x{whole_file(kind, 'stack').suffix}"
    copy(whole_file(kind, "stack"), place)
  else:
    (there / "x").mkdir()
    for name in IDS:
      place = there / "x" / whole_file(kind, name).name
      copy(whole_file(kind, name), place)
  if changes:
    change_file(place, choice, changes)
  return in_one_line(lambda: read_all(there))


def values_of_any_type(there, kind, shape, dtype, filled):
  folder(there)
  shutil.rmtree(there / "x")
  (there / "x").mkdir()
  try:
    for name in IDS:
      WRITE[kind](there / "x" / name, array(shape, dtype, filled))
  except Exception:  # the library cannot write such an array
    return None
  return in_one_line(lambda: read_all(there))


@FEW
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of h5netcdf, as it closes
@pytest.mark.parametrize("kind", WRITE)
def test_damaged_files_of_values(kind, examples, tmp_path):
  drawn = {"choice": st.integers(0, 9), "changes": CHANGES, "stacked": st.booleans()}
  check = functools.wraps(damaged_values)(functools.partial(damaged_values, kind=kind))
  for stacked in (False, True):
    (own := tmp_path / str(stacked)).mkdir()
    assert check(own, choice=0, changes=[], stacked=stacked), "whole files are not read"
  repeat(drawn, check, examples)


@FEW
@pytest.mark.parametrize("kind", WRITE)
def test_files_of_values_of_any_type_and_shape(kind, examples):
  check = functools.wraps(values_of_any_type)(functools.partial(values_of_any_type, kind=kind))
  repeat({"shape": SHAPES, "dtype": DTYPES, "filled": FILLED}, check, examples)
