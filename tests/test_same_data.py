"""A finished or stopped run goes on with the samples that it began with, and with no others."""

import csv
import json
import os
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets import build
from colearn_jax.datasets.folder.folder_dataset_builder import Builder

from colearn_jax import config
from colearn_jax.data import reader as readers
from colearn_jax.data.dataset import open_dataset
from colearn_jax.evaluation.results import Results
from colearn_jax.parallel import sharding
from colearn_jax.storage.files import read_json, write_json
from colearn_jax.training import log
from colearn_jax.training.run import run
from colearn_jax.types import InputError

N = 12
SAID = {
  "task": {"kind": "regression", "unit": "%"},
  "views": {
    "S1": {"bands": ["VV", "VH"], "dates": ["2020-01-10", "2020-03-10", "2020-05-10"]},
    "S2": {"bands": ["red", "nir"], "mask": "cloud", "description": "reflectance, 0 to 1"},
    "cloud": {"bands": ["cloud"]},
    "DEM": {"bands": ["altitude"]},
  },
}


def write(there):
  """A folder with two series, a mask and a static view."""
  there.mkdir(exist_ok=True)
  rng = np.random.default_rng(0)
  rows = [
    {"id": f"s{i}", "target": f"{rng.normal():.3f}", "group_site": f"g{i % 4}", "date": f"2020-05-{i + 10}"}
    | {"lat": f"{40 + i}.5", "lon": "8.5"}
    for i in range(N)
  ]
  write_table(there, rows)
  for view, shape in (("S1", (N, 3, 2)), ("S2", (N, 3, 2)), ("DEM", (N, 1))):
    np.save(there / f"{view}.npy", rng.normal(size=shape).astype(np.float32))
  np.save(there / "cloud.npy", np.tile(np.uint8([[0], [90], [5]]), (N, 1, 1)))
  (there / "dataset.json").write_text(json.dumps(SAID))
  return there


def write_table(there, rows):
  with open(there / "samples.csv", "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


def edit_table(there, column, value, row=5):
  rows = list(csv.DictReader((there / "samples.csv").read_text().splitlines()))
  rows[row][column] = value
  write_table(there, rows)


def edit_array(there, name, at, value):
  """Changes values of a file whose size and time stay the same."""
  path = there / name
  before = path.stat()
  array = np.load(path)
  array[at] = value
  np.save(path, array)
  os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
  assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def edit_description(there, change):
  said = json.loads(json.dumps(SAID))
  change(said)
  (there / "dataset.json").write_text(json.dumps(said))


def swap_rows(there):
  rows = list(csv.DictReader((there / "samples.csv").read_text().splitlines()))
  rows[3], rows[4] = rows[4], rows[3]
  write_table(there, rows)
  for name in ("S1", "S2", "cloud", "DEM"):
    array = np.load(there / f"{name}.npy")
    np.save(there / f"{name}.npy", array[[*range(3), 4, 3, *range(5, N)]])


VALUES, METADATA = "their values, dates, labels or groups changed", "their bands, classes, units or splits"
CHANGES = {
  "one value": (lambda there: edit_array(there, "S2.npy", (5, 1, 0), 0.5), VALUES),
  "a value becomes NaN": (lambda there: edit_array(there, "S1.npy", (5, 1, 0), np.nan), VALUES),
  "the mask": (lambda there: edit_array(there, "cloud.npy", (5, 1, 0), 91), VALUES),
  "a static value": (lambda there: edit_array(there, "DEM.npy", (5, 0), 9.0), VALUES),
  "a label": (lambda there: edit_table(there, "target", "0.125"), VALUES),
  "no label": (lambda there: edit_table(there, "target", ""), VALUES),
  "the group": (lambda there: edit_table(there, "group_site", "g0"), VALUES),
  "the day of a sample": (lambda there: edit_table(there, "date", "2020-05-11"), VALUES),
  "the place": (lambda there: edit_table(there, "lat", "45.6"), VALUES),
  "an id": (lambda there: edit_table(there, "id", "t5"), VALUES),
  "the order of samples": (swap_rows, VALUES),
  "the days of the steps": (
    lambda there: edit_description(there, lambda s: s["views"]["S1"]["dates"].__setitem__(1, "2020-03-11")),
    VALUES,
  ),
  "the order of bands": (
    lambda there: edit_description(there, lambda s: s["views"]["S1"]["bands"].reverse()),
    METADATA,
  ),
  "the unit": (lambda there: edit_description(there, lambda s: s["task"].update(unit="g")), METADATA),
  "the unit of a view": (
    lambda there: edit_description(there, lambda s: s["views"]["S2"].update(description="in percent")),
    METADATA,
  ),
  "no mask": (lambda there: edit_description(there, lambda s: s["views"]["S2"].pop("mask")), METADATA),
}


@pytest.fixture(scope="module", autouse=True)
def one_device():
  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    yield


def settings(root, method="individual", **changes):
  given = {
    "data.manual_dir": root / "own",
    "data.data_dir": root / "data",
    "data.modalities": "S1,S2",
    "data.context": "date,location,DEM",
    "model.encoders": {view: {"model_type": "mlp", "layer_sizes": (4,)} for view in ("S1", "S2")},
    "model.emb_dim": 4,
    "baseline": False,
    "protocol.folds": 2,
    "protocol.group_by": "site",
    "train.batch_size": 8,
    "train.max_epochs": 2,
    "checkpoint.every_epochs": 1,
  }
  given |= {key.replace("__", "."): value for key, value in changes.items()}
  return config.load(f"configs/folder.py:method={method}", given)


def stop(patch, after):
  """Stops the next training at this line of the log."""
  lines, real = [], log.Log.write

  def write(self, *args):
    lines.append(args)
    if len(lines) == after:
      raise KeyboardInterrupt
    real(self, *args)

  patch.setattr(log.Log, "write", write)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
  """A folder, a finished run of it, and one that was stopped after its first epoch."""
  root = tmp_path_factory.mktemp("begun")
  write(root / "own")
  run(settings(root), root / "finished")
  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    stop(patch, 2)
    run(settings(root), root / "stopped")
  assert list((root / "stopped/training").iterdir())
  shutil.copytree(root / "own", root / "as it was")
  return root


@pytest.fixture
def restored(begun):
  yield begun
  shutil.rmtree(begun / "own")
  shutil.copytree(begun / "as it was", begun / "own")


def left(workdir):
  """The content of all files of a work directory but its lock."""
  return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.long
@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_other_data_are_refused(restored, change, message):
  before = {name: left(restored / name) for name in ("finished", "stopped")}
  change(restored / "own")
  for name in before:
    with pytest.raises(InputError, match=f"{name} was started with other samples .*{message}") as error:
      run(settings(restored), restored / name)
    assert "\n" not in str(error.value)
    assert left(restored / name) == before[name]


@pytest.mark.long
def test_a_part_by_itself_is_part_of_the_data(restored):
  """A split column moves no value, but training reads other rows."""
  rows = list(csv.DictReader((restored / "own/samples.csv").read_text().splitlines()))
  write_table(restored / "own", [row | {"split": "train" if i < 9 else "test"} for i, row in enumerate(rows)])
  with pytest.raises(InputError, match=METADATA):
    run(settings(restored), restored / "finished")


@pytest.mark.long
def test_another_version_of_the_builder_is_refused(begun, monkeypatch):
  monkeypatch.setattr(Builder, "VERSION", tfds.core.Version("9.0.0"))
  monkeypatch.setattr(Builder, "RELEASE_NOTES", {"9.0.0": "Reads values otherwise."})
  with pytest.raises(InputError, match="their builder or its version changed; restore them"):
    run(settings(begun), begun / "finished")


@pytest.mark.long
def test_the_same_samples_elsewhere_are_the_same(begun, tmp_path):
  """A copy has other paths and times, and is built again; a table may have more columns.

  So both runs go on, as does one whose data were changed and are restored.
  """
  shutil.copytree(begun / "as it was", tmp_path / "own")
  rows = list(csv.DictReader((tmp_path / "own/samples.csv").read_text().splitlines()))
  write_table(tmp_path / "own", [row | {"note": "not read"} for row in rows])
  want = Results.read(begun / "finished/results.json").scores
  for name in ("finished", "stopped"):
    shutil.copytree(begun / name, tmp_path / name)
    assert run(settings(tmp_path), tmp_path / name).scores == want


@pytest.mark.long
def test_models_of_unknown_samples_or_settings_are_refused(begun, tmp_path):
  for place, name in ((".", "dataset.json"), ("individual", "dataset.json"), (".", "config.json")):
    workdir = tmp_path / "copy" / place
    shutil.copytree(begun / "finished", workdir)
    (workdir / name).unlink()
    with pytest.raises(InputError, match=f"holds trained models but no {name}"):
      run(settings(begun), tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")


@pytest.mark.long
def test_imported_models_are_of_the_same_bands(begun, tmp_path):
  shutil.copytree(begun / "finished", tmp_path / "copy")
  described = read_json(tmp_path / "copy/dataset.json")
  del described["samples"]
  write_json(tmp_path / "copy/dataset.json", described)
  run(settings(begun), tmp_path / "copy")
  assert read_json(tmp_path / "copy/dataset.json")["samples"]
  described["modalities"][0]["bands"].reverse()
  write_json(tmp_path / "copy/dataset.json", described)
  with pytest.raises(InputError, match="holds imported models of other bands or outputs"):
    run(settings(begun), tmp_path / "copy")


@pytest.mark.long
@pytest.mark.parametrize("place", ["individual", "teachers/fusion"])
def test_the_baseline_and_teachers_are_of_the_same_data(restored, tmp_path, monkeypatch, place):
  """Told before anything is trained."""
  shutil.copytree(restored / "finished", tmp_path / place)
  edit_table(restored / "own", "target", "0.125")
  monkeypatch.setattr("colearn_jax.training.run.fit", None)
  method = "kd" if "fusion" in place else "mdico"
  with pytest.raises(InputError, match=f"{place} was started with other samples"):
    run(settings(restored, method=method), tmp_path)


def test_records_may_hold_their_features_in_any_order():
  from tensorflow_datasets.proto import tf_example_pb2

  def record(names):
    example = tf_example_pb2.Example()
    for name in names:
      example.features.feature[name].float_list.value.append(ord(name))
    return b"".join(  # the order of a map's entries is that of its bytes
      tf_example_pb2.Example(
        features={"feature": {name: example.features.feature[name]}}
      ).features.SerializeToString()
      for name in names
    )

  message = lambda names: b"\x0a" + bytes([len(record(names))]) + record(names)
  one, other = message("abc"), message("cab")
  assert one != other
  np.testing.assert_array_equal(readers._digest(one), readers._digest(other))
  assert not np.array_equal(readers._digest(one), readers._digest(message("ab")))


@pytest.mark.long
def test_a_data_set_that_changes_while_it_is_streamed_ends_the_run(begun, tmp_path, monkeypatch):
  """Nothing of a mixed run is kept. Other times of the same files do not end it."""
  write(tmp_path / "own")
  chosen = settings(tmp_path, data__placement="stream", train__replicas=False)
  prepared = build.build("folder", tmp_path / "data", manual_dir=tmp_path / "own")
  lines, real = [], log.Log.write

  def change(self, *args):
    real(self, *args)
    lines.append(args)
    if len(lines) == 1:
      os.utime(prepared / "dataset_info.json")
    if len(lines) == 3:  # in the second fold
      edit_table(tmp_path / "own", "target", "0.125")
      build.build("folder", tmp_path / "data", manual_dir=tmp_path / "own")

  monkeypatch.setattr(log.Log, "write", change)
  with pytest.raises(InputError, match="was changed while training read from it"):
    run(chosen, tmp_path / "run")
  kept = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
  assert kept == ["seed10_fold0"] and not (tmp_path / "run/results.json").exists()


def test_a_rebuilt_data_set_is_read_again(tmp_path):
  """The index has the same shapes and the files may have the same sizes."""
  write(tmp_path / "own")
  make = lambda: open_dataset(build.build("folder", tmp_path / "data", manual_dir=tmp_path / "own"))
  old = make()
  before = readers.read_index(old)
  edit_array(tmp_path / "own", "S1.npy", (0, 0, 0), 3.0)
  new = make()
  after = readers.read_index(new)
  np.testing.assert_array_equal(before.target, after.target)
  assert before.digest != after.digest and (old.facts, old.builder) == (new.facts, new.builder)
  assert readers.read_index(old).digest == after.digest  # not what was kept before
