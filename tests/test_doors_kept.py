"""Rows of public reports that were handled well from the beginning, and stay so: B32 to B53.

Others of these rows have their tests beside what they are about: B31 in `test_doors_values`, B37 in
`test_scale`, B38 to B40 and B53 in `test_doors_runs`, B41 in the tests of the builder `folder`, B42 and B43
in those of `cropharvest` and `lfmc`, B44 and B45 in `test_doors_tools`.
"""

import csv
import os
import pickle
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from colearn_jax.datasets.cropharvest import cropharvest_dataset_builder as cropharvest
from colearn_jax.datasets.folder.folder import read_folder, survey_folder

from colearn_jax import config
from colearn_jax.data import statistics
from colearn_jax.parallel import sharding
from colearn_jax.training import run as train
from colearn_jax.training import setup
from colearn_jax.types import InputError, Modality
from tests.cases.folders import examples, pixels, refused, table, used, view_of, write_tif

ONE = np.arange(6, dtype=np.float32).reshape(3, 2)


def wrong(there):
  """What is told of samples that cannot be read, by id."""
  return survey_folder(read_folder(there)).wrong


def files(there, *arrays, view="S2"):
  """A sample for each array, or for the bytes of its file."""
  table(there, "ab")
  (there / view).mkdir()
  for i, one in enumerate(arrays):
    path = there / view / f"s{i}.npy"
    path.write_bytes(one) if isinstance(one, bytes) else np.save(path, one, allow_pickle=True)
  return there


def test_ids_keep_their_zeros_B32(tmp_path):
  there = table(tmp_path, "abc")
  shutil.rmtree(there / "x")
  (there / "S2").mkdir()
  rows = (there / "samples.csv").read_text()
  for i in range(3):
    np.save(there / f"S2/{i:03d}.npy", np.full(2, i))
  (there / "samples.csv").write_text(rows.replace("s", "00").replace("00ample00", "samples"))
  assert [example["id"] for example in examples(there)] == ["000", "001", "002"]
  assert [v[0] for v in view_of(there)] == [0, 1, 2]
  (there / "samples.csv").write_text(rows.replace("s", ""))  # as a spreadsheet writes them
  refused(there, "S2 has no file of any sample, as would be 0.npy; its files are such as 000.npy")


@pytest.mark.parametrize("names", [("B4", "B3", "B2"), ("B2", "B3", None), None])
def test_bands_in_another_order_are_refused_B33(tmp_path, names):
  there = table(tmp_path, "ab")
  write_tif(there / "S2/s0.tif", pixels(), descriptions=("B2", "B3", "B4"))
  write_tif(there / "S2/s1.tif", pixels(), **({"descriptions": names} if names else {}))
  has = "B4, B3, B2" if names and all(names) else "none"
  (message,) = wrong(there).values()
  assert f"s1.tif names the bands {has}, not B2, B3, B4 as most do" in message and "\n" not in message


@pytest.mark.parametrize(
  "array, dtype",
  [
    (ONE.astype(">f4"), np.float32),
    (np.asfortranarray(ONE), np.float32),
    (ONE.astype(np.float16), np.float32),
    (ONE.astype(">i2"), np.float32),
    (ONE.astype(np.float64), np.float32),
  ],
)
def test_numbers_of_every_layout_B46(tmp_path, array, dtype):
  first, second = view_of(files(tmp_path, array, ONE))
  assert first.dtype == second.dtype == dtype
  np.testing.assert_array_equal(first, ONE)


def test_infinite_and_missing_values_and_series_without_steps_B46(tmp_path):
  half = ONE.astype(np.float16)
  half[0, 0] = np.inf
  first, second = used(files(tmp_path / "a", half, half * np.nan), "S2")
  np.testing.assert_array_equal(first, [[np.nan, 1], [2, 3], [4, 5]])
  assert np.isnan(second).all()
  empty, whole = used(files(tmp_path / "b", ONE[:0], ONE), "S2")
  assert np.isnan(empty).all() and np.array_equal(whole, ONE)


UNREADABLE = {
  "objects": (np.array([[{}]]), "Python objects"),
  "complex": (ONE * 1j, "s0.npy holds complex numbers; write their parts"),
  "structured": (np.zeros(3, "i4,f4"), "not numbers"),
  "empty": (b"", "cannot read .*s0.npy"),
  "cut off": (b"\x93NUMPY\x01", "cannot read .*s0.npy"),
  "pickled": (pickle.dumps(np.ma.masked_array(ONE, ONE > 2)), "cannot read .*s0.npy"),
}


@pytest.mark.parametrize("content, message", UNREADABLE.values(), ids=UNREADABLE)
def test_files_that_hold_no_numbers_B46(tmp_path, content, message):
  told = wrong(files(tmp_path, content, ONE))
  assert list(told) == ["s0"] and "\n" not in told["s0"] and re.search(message, told["s0"])


def test_what_systems_leave_in_folders_B49(tmp_path):
  there = files(tmp_path, ONE, ONE, view="S1")
  for name in (".ipynb_checkpoints", "__MACOSX", "S1/.ipynb_checkpoints"):
    (there / name).mkdir()
  for name in (
    ".DS_Store",
    "Thumbs.db",
    "S1/.DS_Store",
    "S1/Thumbs.db",
    "S1/._s1.npy",
    "__MACOSX/._samples.csv",
    ".ipynb_checkpoints/samples-checkpoint.csv",
    "S1/.ipynb_checkpoints/s0-checkpoint.npy",
  ):
    (there / name).write_bytes(b"litter")
  for example in examples(there):
    assert list(example["views"]) == ["S1", "x"] and np.array_equal(example["views"]["S1"], ONE)


def test_links_are_followed_and_loops_refused_B49(tmp_path):
  there = files(tmp_path / "one", ONE, ONE, view="S1")
  other = files(tmp_path / "two", ONE * 2, ONE * 3, view="S2")
  (there / "S2").symlink_to(other / "S2")
  (there / "S1/s1.npy").unlink()
  (there / "S1/s1.npy").symlink_to(other / "S2/s1.npy")
  assert [e["views"]["S1"][2, 1] for e in examples(there)] == [5, 15]
  assert [e["views"]["S2"][2, 1] for e in examples(there)] == [10, 15]
  for target, message in (
    (there / "S1/s1.npy", "cannot read .*S1/s1.npy: Too many levels of symbolic links"),
    (other / "gone.npy", "cannot read .*S1/s1.npy: No such file or directory"),
  ):
    (there / "S1/s1.npy").unlink()
    (there / "S1/s1.npy").symlink_to(target)
    refused(there, message)
  (there / "S1/s1.npy").unlink()
  (there / "S3").symlink_to(there)
  refused(there, "S3 is a link to a directory that holds it")


def test_names_of_directories_of_pastis_B50(tmp_path):
  there = files(tmp_path, ONE, ONE, view="DATA_S2")
  (there / "DATA_S1A").mkdir()
  for i in range(2):
    np.save(there / f"DATA_S1A/s{i}.npy", -ONE)
  np.testing.assert_array_equal(used(there, "DATA_S1A_DATA_S2")[0], np.hstack([-ONE, ONE]))


def test_an_index_of_zeros_is_missing_B51():
  array = np.zeros((12, 18), np.float32)
  array[1, [cropharvest.BANDS.index(band) for band in ("B4", "B8")]] = 1, 3
  index = cropharvest.to_views(array)["S2NDVI"][:, 0]
  assert index[1] == 0.5 and np.isnan(index[[0, *range(2, 12)]]).all()


@pytest.mark.parametrize("value", [0.1, 273.15, -1e6, 1e-20])
def test_a_constant_band_has_its_value_as_offset_and_a_scale_of_one_B52(value):
  found = statistics.moments(np.full((1000, 5, 1), value, np.float32))
  constants = statistics.Normalisation().constants(Modality("m", ("m",), (5, 1), ("a",)), found)
  assert constants["offset"] == np.float32(value) and constants["scale"] == 1


SPLIT = ["train"] * 12 + ["validation"] * 4 + ["test"] * 13
NAMES = ["Eiche, alt", "Kiefer"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A finished training: a class of the test part alone, one of a single sample, odd names, prepared data
  that cannot be written to, and a last batch of one sample (B34, B35, B36, B47, B48)."""
  root = tmp_path_factory.mktemp("Prüf läufe")
  folder, rng = root / "meine Felder", np.random.default_rng(0)
  (folder / "S2").mkdir(parents=True)
  rows = [["id", "target", "split"]]
  for i, split in enumerate(SPLIT):
    name = "nur im Test" if i == 28 else "einmal" if i == 0 else NAMES[i % 2]
    rows.append([f"Fläche {i}", name, split])
    np.save(folder / f"S2/Fläche {i}.npy", rng.normal(size=3).astype(np.float32))
  with open(folder / "samples.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
  settings = {"data.manual_dir": folder, "data.data_dir": root / "data", "data.modalities": "S2"}
  settings |= {"model.emb_dim": 4, "train.batch_size": 11, "train.max_epochs": 1}
  settings |= {"model.encoder.layer_sizes": (4,)}
  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    given = config.load("configs/folder.py:official,individual,encoder=mlp", settings)
    setup.prepare(given)
    before = listing(root / "data")
    for path in (root / "data").rglob("*"):
      path.chmod(0o555 if path.is_dir() else 0o444)
    results = train.run(given, root / "run")
  return root, results, before


def listing(folder):
  return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_all_rows_are_predicted_once_with_any_batch_B34_B35_B36_B47(run):
  root, results, _ = run
  with open(root / "run/predictions/S2.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert sorted(row["id"] for row in rows) == sorted(f"Fläche {i}" for i in range(16, 29))
  classes = ["Eiche, alt", "Kiefer", "einmal", "nur im Test"]
  p = np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows])
  assert np.isfinite(p).all()
  np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
  assert np.isfinite(results.scores.modalities["S2"]["f1_macro"]["mean"])


def test_prepared_data_are_only_read_B48(run):
  root, _, before = run
  after = listing(root / "data")
  assert {k: v for k, v in after.items() if k in before and not os.path.isdir(k)} == {
    k: v for k, v in before.items() if not os.path.isdir(k)
  }


def test_a_batch_of_one_sample_is_refused_B35():
  with pytest.raises(InputError, match="train.batch_size: 1 is not allowed; an integer >= 2"):
    config.load("folder", {"train.batch_size": 1})


@pytest.mark.slow
def test_a_build_in_the_plainest_environment_B47(tmp_path):
  there = files(tmp_path / "Fläche 1", ONE, ONE)
  (there / "samples.csv").write_text('id,target\ns0,"Bäume, alt"\ns1,ñ\n', encoding="utf-8")
  command = [sys.executable, "-m", "colearn_jax.datasets.build", "folder"]
  command += [f"--data_dir={tmp_path / 'data'}", f"--manual_dir={there}"]
  plain = {"LC_ALL": "C", "TZ": "Pacific/Kiritimati"}
  home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
  done = subprocess.run(command, env=plain | home, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
  assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
