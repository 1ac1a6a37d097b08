"""Data sets of many files that are built on Apache Beam. All but the last tests need the extra `beam`."""

import importlib.util
import sys

import pytest
from colearn_jax.datasets import beam, build
from colearn_jax.datasets.folder.dummy import write_dummy as write_folder
from colearn_jax.datasets.treesat_ts.dummy import random_names
from colearn_jax.datasets.treesat_ts.dummy import write_dummy as write_treesat

from colearn_jax.types import InputError

# `DirectRunner` would first try to download another runner.
RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
LOCAL = f"runner={RUNNER},direct_num_workers=2,direct_running_mode=multi_processing"
needs_beam = [
  pytest.mark.slow,
  pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="needs the extra beam"),
  pytest.mark.filterwarnings("default"),  # of Beam
]


@pytest.fixture(scope="module", params=["treesat_ts", "folder"])
def source(request, tmp_path_factory):
  """A data set of several shards: its name, and the directory of its files."""
  there = tmp_path_factory.mktemp(request.param) / "own"
  if request.param == "folder":
    write_folder(there)
  else:
    pytest.importorskip("h5py")
    names = random_names({"train": 260, "val": 2, "test": 3})
    write_treesat(there, *names, steps=dict.fromkeys(("asc", "des", "S2"), (1, 3)))
  return request.param, there


def files(root):
  """The content of everything in a directory."""
  return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("", [pytest.param(marks=needs_beam)])
def test_workers_of_beam_write_what_one_process_writes(source, tmp_path):
  name, there = source
  one = build.build(name, tmp_path / "one", manual_dir=there, workers=1)
  many = build.build(name, tmp_path / "many", manual_dir=there, beam_pipeline_options=LOCAL)
  assert many.relative_to(tmp_path / "many") == one.relative_to(tmp_path / "one")
  assert files(one) == files(many)


@pytest.mark.parametrize("", [pytest.param(marks=needs_beam)])
def test_a_file_that_a_worker_cannot_read_is_one_line(source, tmp_path):
  name, there = source
  odd = next(path for path in sorted(there.rglob("*")) if path.suffix in (".h5", ".npz"))
  content = odd.read_bytes()
  odd.write_bytes(content[:-30])
  try:
    for engine in ({"beam_pipeline_options": LOCAL}, {"workers": 1}):
      with pytest.raises(InputError, match=odd.name) as error:
        build.build(name, tmp_path, manual_dir=there, **engine)
      assert "\n" not in str(error.value)
  finally:
    odd.write_bytes(content)


def test_beam_is_not_for_small_data_sets(tmp_path):
  with pytest.raises(InputError, match="beam_pipeline_options is not allowed: synthetic has few files"):
    build.build("synthetic", tmp_path, beam_pipeline_options=LOCAL)
  assert not list(tmp_path.iterdir())


def test_without_beam_the_error_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  write_folder(tmp_path / "own")
  with pytest.raises(InputError, match=r"pip install 'colearn_jax\[beam\]'$"):
    build.build("folder", tmp_path / "data", manual_dir=tmp_path / "own", beam_pipeline_options=LOCAL)
  with pytest.raises(InputError, match=r"pip install 'colearn_jax\[beam\]'$"):
    beam.write_shards([], None)
