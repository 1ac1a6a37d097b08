"""Odd and damaged files as published (GeoJSON, HDF5, archives, tables): read, or refused in one line."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from colearn_jax.datasets.cropharvest import cropharvest_dataset_builder as cropharvest
from colearn_jax.datasets.cropharvest import dummy
from colearn_jax.datasets.lfmc import dummy as lfmc_dummy
from colearn_jax.datasets.lfmc import lfmc_dataset_builder as lfmc
from hypothesis import strategies as st

from tests.cases.odd_files import CHANGES, change_file, in_one_line, repeat

FEW = pytest.mark.parametrize("examples", [10, pytest.param(300, marks=pytest.mark.slow)])
CHANGED = {"choice": st.integers(0, 99), "changes": CHANGES}
KEYS = st.sampled_from(
  "type features properties geometry coordinates index dataset is_crop is_test lat".split()
)
VALUE = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-(10**20), 10**20),
  st.floats(),
  st.text(max_size=4),
  st.sampled_from(["FeatureCollection", "2018-01-15T00:00:00", "2018-13-45", "cereals", "../x", "a/b"]),
)
JSON = st.recursive(
  VALUE,
  lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
  max_leaves=9,
)
PROPERTIES = st.sampled_from(
  "index dataset is_crop is_test lat lon label classification_label collection_date export_end_date".split()
)


@functools.cache
def published(archive):
  """Files of CropHarvest as they are published, made once."""
  place = Path(tempfile.mkdtemp())
  dummy.write_dummy(place, rows=8, archive=archive)
  return place


def read_cropharvest(there):
  rows, _ = cropharvest.read_labels(there / cropharvest.LABELS, "multi")
  cropharvest.read_arrays(there, [row.id for row in rows])


def damaged_cropharvest(there, choice, changes, archive):
  shutil.copytree(published(archive), there, dirs_exist_ok=True)
  if changes:
    change_file(there, choice, changes)
  return in_one_line(lambda: read_cropharvest(there))


def geojson_of_any_content(there, changed, whole):
  """Some properties of the features have other values, or are missing; or the whole file is another."""
  shutil.copytree(published(False), there, dirs_exist_ok=True)
  path = there / cropharvest.LABELS
  tree = json.loads(path.read_text())
  for number, name, value, dropped in changed:
    properties = tree["features"][number % len(tree["features"])]["properties"]
    properties[name] = value
    if dropped:
      del properties[name]
  path.write_text(json.dumps(tree if changed else whole))
  return in_one_line(lambda: read_cropharvest(there))


def damaged_lfmc(there, choice, changes):
  path = there / "table.csv"
  lfmc_dummy.write_dummy(path)
  if changes:
    change_file(path, choice, changes)
  return in_one_line(lambda: lfmc.read_samples(path))


@FEW
@pytest.mark.parametrize(
  ("check", "drawn"),
  [
    (damaged_cropharvest, CHANGED | {"archive": st.booleans()}),
    (
      geojson_of_any_content,
      {
        "changed": st.lists(st.tuples(st.integers(0, 7), PROPERTIES, JSON, st.booleans()), max_size=2),
        "whole": JSON,
      },
    ),
    (damaged_lfmc, CHANGED),
  ],
)
def test_published_files(check, drawn, examples, tmp_path):
  if check is damaged_cropharvest:
    assert all(check(tmp_path / str(one), 0, [], one) for one in (True, False)), "whole files are not read"
  elif check is damaged_lfmc:
    assert check(tmp_path, 0, []), "whole files are not read"
  repeat(drawn, check, examples)
