"""Rows of public reports about runs that were handled well, and stay so: B38, B39, B40 and B53."""

import csv
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from colearn_jax import config, load_model
from colearn_jax.parallel import sharding
from colearn_jax.training import run as train
from colearn_jax.types import InputError

pytestmark = pytest.mark.long
NUMBER = 20
SPLIT = ["train"] * 10 + ["validation"] * 4 + ["test"] * 6
ABSENT = {"S2": (3, 15), "A": (5, 15, 18)}  # samples without a sensor
SMALL = {
  "data.modalities": "S2,A",
  "model.emb_dim": 4,
  "model.encoders": {
    "S2": {"model_type": "gru", "layer_size": 4},
    "A": {"model_type": "mlp", "layer_sizes": (4,)},
  },
  "train.batch_size": 6,
  "train.max_epochs": 2,
}


def values():
  """Series of int16 of different lengths, and static values of which some are missing; None is absent."""
  rng = np.random.default_rng(0)
  x = {"S2": [rng.integers(-300, 3000, (3 + i % 3, 2)).astype(np.int16) for i in range(NUMBER)]}
  x["A"] = [rng.normal(size=3).astype(np.float32) for _ in range(NUMBER)]
  for i in (2, 14, 16):
    x["A"][i][i % 3] = np.nan
  return {view: [None if i in ABSENT[view] else own for i, own in enumerate(x[view])] for view in x}


def write_folder(root):
  rows = [["id", "target", "split"]]
  for i, split in enumerate(SPLIT):
    rows.append([f"s{i}", ("oak", "pine")[i % 2], split])
  for view, every in values().items():
    (root / view).mkdir(parents=True)
    for i, own in enumerate(every):
      if own is not None:
        np.save(root / view / f"s{i}.npy", own)
  np.save(root / "A/s15.npy", np.full(3, np.nan, np.float32))  # a sample has a file of some sensor
  with open(root / "samples.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp("own") / "fields")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", lambda *_: one)


def settings(folder, preset="official,individual", **more):
  places = {"data.manual_dir": folder, "data.data_dir": folder.parent / "data"}
  return config.load(f"configs/folder.py:{preset}", SMALL | places | more)


def predictions(workdir, sensor):
  with open(workdir / f"predictions/{sensor}.csv") as file:
    rows = list(csv.DictReader(file))
  cells = {row["id"]: [float(row[f"probability_{c}"] or "nan") for c in ("oak", "pine")] for row in rows}
  assert len(cells) == len(rows)
  return cells


def test_files_of_predictions_are_what_the_models_predict_B38_and_a_second_run_is_refused_B39(
  folder, tmp_path
):
  workdir = tmp_path / "run"
  train.run(settings(folder), workdir)
  test = range(14, NUMBER)
  for sensor in ("S2", "A"):
    written = predictions(workdir, sensor)
    assert sorted(written) == sorted(f"s{i}" for i in test)
    want = np.array([written[f"s{i}"] for i in test])
    model, given = load_model(workdir, sensor), [values()[sensor][i] for i in test]
    given = given if sensor == "S2" else [np.full(3, np.nan, np.float32) if x is None else x for x in given]
    for size in (1, 20):
      got = model.predict(given, batch_size=size)
      np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    absent = [i in ABSENT[sensor] for i in test]
    np.testing.assert_array_equal(np.isnan(want).any(1), absent)
  with pytest.raises(InputError, match="train.max_epochs: 2 there, 3 here") as error:
    train.run(settings(folder, **{"train.max_epochs": 3}), workdir)
  assert "\n" not in str(error.value)
  table = (folder / "samples.csv").read_text()
  (folder / "samples.csv").write_text(table.replace("s0,oak", "s0,pine"))
  try:
    with pytest.raises(InputError, match="other samples than data set folder has now: .* labels") as error:
      train.run(settings(folder), workdir)
    assert "\n" not in str(error.value)
  finally:
    (folder / "samples.csv").write_text(table)


def test_runs_beside_each_other_are_those_one_after_another_B53(folder, tmp_path):
  more = {"protocol.folds": 2, "train.max_epochs": 4}
  for name, replicas in (("loop", False), ("beside", True)):
    train.run(settings(folder, "individual", **more, **{"train.replicas": replicas}), tmp_path / name)
  for sensor in ("S2", "A"):
    loop, beside = (predictions(tmp_path / name, sensor) for name in ("loop", "beside"))
    assert list(loop) == list(beside) and len(loop) == NUMBER
    np.testing.assert_allclose(list(beside.values()), list(loop.values()), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_run_that_is_killed_in_its_second_fold_ends_the_same_B40(folder, tmp_path):
  given = {"data.manual_dir": folder, "data.data_dir": folder.parent / "data", "protocol.folds": 2}
  given |= {k: v for k, v in SMALL.items() if k != "model.encoders"} | {"train.max_epochs": 12}
  command = [sys.executable, "-m", "colearn_jax.main", "--config=configs/folder.py:individual"]
  command += [f"--config.{key}={value}" for key, value in given.items()]
  env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
  start = lambda name: subprocess.Popen(
    [*command, f"--workdir={tmp_path / name}"],
    env=env,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  assert start("whole").wait(900) == 0
  log, process = tmp_path / "killed/metrics.jsonl", start("killed")
  while process.poll() is None and not (log.exists() and log.read_text().count("seed10_fold1") >= 2):
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  assert process.wait(60) == -signal.SIGKILL
  assert start("killed").wait(900) == 0
  for sensor in ("S2", "A"):
    one, two = (tmp_path / name / f"predictions/{sensor}.csv" for name in ("whole", "killed"))
    assert one.read_bytes() == two.read_bytes()
