import csv
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax import config, methods
from colearn_jax.data import reader as readers
from colearn_jax.data.dataset import open_dataset
from colearn_jax.deploy.load import load_model
from colearn_jax.evaluation.results import Results
from colearn_jax.methods.base import Reads
from colearn_jax.methods.individual import Individual
from colearn_jax.parallel import sharding
from colearn_jax.storage import models
from colearn_jax.storage.files import read_json
from colearn_jax.training import log, run, work_directory
from colearn_jax.types import InputError

MAKE_MESH = sharding.make_mesh
SMALL = {
  "protocol.folds": 2,
  "model.emb_dim": 8,
  "model.encoder.layer_size": 4,
  "train.batch_size": 16,
  "train.max_epochs": 4,
  "checkpoint.every_epochs": 1,
}


@pytest.fixture(autouse=True, scope="module")
def one_device():
  """Most of these tests do not depend on the number of devices, and one is faster."""
  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    yield


@pytest.fixture(scope="module")
def lfmc(tmp_path_factory):
  """A small file in LFMC's layout, and where it gets prepared."""
  manual, prepared = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("prepared")
  write_dummy(manual / "training_features.csv", rows=72, sites=12)
  return {"data.manual_dir": str(manual), "data.data_dir": str(prepared)}


def load(lfmc, name="configs/lfmc.py", **changes):
  return config.load(name, {**SMALL, **lfmc, **{key.replace("__", "."): v for key, v in changes.items()}})


@pytest.fixture(scope="module")
def finished(lfmc, tmp_path_factory):
  """A work directory of a whole run, with its baseline."""
  workdir = tmp_path_factory.mktemp("run")
  run.run(load(lfmc, baseline=True), workdir)
  return workdir


def read_lines(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_rows(workdir, modality):
  return list(csv.DictReader((workdir / "predictions" / f"{modality}.csv").read_text().splitlines()))


def comparable(workdir):
  """All that a run leaves and that must not depend on when it was stopped."""
  summary = dataclasses.replace(Results.read(workdir / "results.json"), timing={})
  lines = read_lines(workdir)
  for line in lines:
    del line["samples_per_second"]
  restored = {p.name: models.restore(p) for p in sorted((workdir / "checkpoints").iterdir())}
  predictions = {p.name: p.read_text() for p in sorted((workdir / "predictions").iterdir())}
  return {"results": summary, "metrics": lines, "models": restored, "predictions": predictions}


def assert_same(one, other):
  one, other = comparable(one), comparable(other)
  jax.tree.map(np.testing.assert_array_equal, one.pop("models"), other.pop("models"))
  assert one == other


def test_a_run_leaves_everything(finished):
  summary = Results.read(finished / "results.json")
  assert (summary.dataset, summary.task, summary.method) == ("lfmc", "regression", "mdico")
  assert (summary.variant, summary.protocol) == ("paper", "paper")
  assert (summary.seeds, summary.folds) == ((10,), 2)
  assert set(summary.scores.modalities) == set(summary.scores.auxiliary) == {"S1_S1Ind", "S2_S2Ind"}
  for scores in (
    *summary.scores.modalities.values(),
    summary.scores.ensemble,
    *summary.scores.auxiliary["S1_S1Ind"].values(),
  ):
    for metric in ("r2", "rmse", "rrmse", "mae", "median_ae", "mape", "bias", "pearson_r"):
      assert len(scores[metric]["per_fold"]) == 2
      np.testing.assert_allclose(scores[metric]["mean"], np.mean(scores[metric]["per_fold"]), rtol=1e-6)
  assert set(summary.timing["runs"]) == {"seed10_fold0", "seed10_fold1"}
  assert config.restore(read_json(finished / "config.json")).protocol.folds == 2
  lines = read_lines(finished)
  assert [(line["run"], line["epoch"]) for line in lines] == [
    (f"seed10_fold{fold}", epoch) for fold in (0, 1) for epoch in (1, 2, 3, 4)
  ]
  for name in (
    "train/main/S1_S1Ind",
    "validation/contrastive/S1_S1Ind__S2_S2Ind",
    "learning_rate",
    "samples_per_second",
  ):
    assert all(np.isfinite(line[name]) for line in lines)
  assert list((finished / "tensorboard").glob("*/events.*"))
  rows = read_rows(finished, "S2_S2Ind")
  assert len(rows) == len({row["id"] for row in rows}) == 72
  for name in ("seed10_fold0", "seed10_fold1"):  # what resuming needed is gone, what predicts is there
    assert {p.name for p in next((finished / "checkpoints" / name).iterdir()).iterdir()} >= {
      "model",
      "progress",
    }
    assert not list((finished / "checkpoints" / name).glob("*/rest"))


def test_the_baseline_is_the_main_loss_alone(finished):
  summary = Results.read(finished / "individual" / "results.json")
  assert summary.method == "individual" and summary.scores.auxiliary == {}
  lines = read_lines(finished / "individual")
  assert not any("contrastive" in name or "auxiliary" in name for name in lines[0])


def test_running_again_changes_nothing_and_trains_nothing(finished, lfmc, tmp_path, monkeypatch):
  before = comparable(finished)
  monkeypatch.setattr(run, "fit", None)
  run.run(load(lfmc, baseline=True), finished)
  after = comparable(finished)
  jax.tree.map(np.testing.assert_array_equal, before.pop("models"), after.pop("models"))
  assert before == after


def test_one_sensor_predicts_from_the_work_directory(finished, lfmc):
  """Its model holds nothing of the other, and gives what the evaluation gave."""
  dataset = open_dataset(f"{lfmc['data.data_dir']}/lfmc/2.1.0")
  table = readers.read_table(readers.make_reader(dataset, [dataset.modality("S2_S2Ind")]))
  inputs = table["inputs"]["S2_S2Ind"]
  model = load_model(finished, "S2_S2Ind", runs=["seed10_fold1"])
  assert model.bands == ("red", "green", "blue", "swir", "nir", "ndvi", "ndwi", "nirv")
  assert not any("S1" in name for name in model.weights["seed10_fold1"])
  got = dict(zip(readers.read_index(dataset).ids, model.predict(inputs, batch_size=50)))
  for row in read_rows(finished, "S2_S2Ind"):
    if row["fold"] == "1":
      value = next(float(v) for k, v in row.items() if k.startswith("prediction"))
      np.testing.assert_allclose(got[row["id"]][0], value, rtol=1e-4)
  both = load_model(finished, "S2_S2Ind")
  assert both.runs == ["seed10_fold0", "seed10_fold1"]
  parts = [load_model(finished, "S2_S2Ind", runs=[run]).predict(inputs) for run in both.runs]
  np.testing.assert_allclose(both.predict(inputs), np.mean(parts, 0), rtol=1e-5)
  with pytest.raises(InputError, match=r"reads samples of shape \(4, 8\), got \(4, 3\)"):
    model.predict(inputs[..., :3])
  with pytest.raises(InputError, match="no modality 'S3', have: S1_S1Ind, S2_S2Ind"):
    load_model(finished, "S3")
  with pytest.raises(InputError, match="no run 'seed1_fold0'"):
    load_model(finished, "S2_S2Ind", runs=["seed1_fold0"])


@pytest.mark.long
@pytest.mark.parametrize(
  ("changes", "stops"),
  [
    # After a checkpoint of the first fold, and in the second.
    pytest.param({"data__placement": "device"}, (4, 8), marks=pytest.mark.slow),
    pytest.param({"data__placement": "stream"}, (4, 8), marks=pytest.mark.slow),
    ({"train__replicas": True}, (6, 9)),  # after a checkpoint of both, and between their lines of an epoch
  ],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(lfmc, tmp_path, monkeypatch, changes, stops):
  """Stopped by an exception in two places; inputs are changed at random and lie on the device, or stream."""
  augment = {"augment__time_shift": 1, "augment__time_dropout": 0.2, "augment__noise": 0.1}
  settings = load(lfmc, checkpoint__every_epochs=2, **changes, **augment)
  run.run(settings, tmp_path / "whole")
  write, calls = log.Log.write, []

  def stop(self, *args):
    calls.append(args)
    if len(calls) in stops:
      raise RuntimeError("stopped")
    return write(self, *args)

  monkeypatch.setattr(log.Log, "write", stop)
  for _ in range(2):
    with pytest.raises(RuntimeError, match="stopped"):
      run.run(settings, tmp_path / "stopped")
  run.run(settings, tmp_path / "stopped")
  assert_same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same(lfmc, tmp_path):
  """SIGKILL, twice, at moments that are nobody's choice, against a run that nobody disturbed."""
  overrides = {**SMALL, **lfmc, "train.max_epochs": 12}
  command = [sys.executable, "-m", "colearn_jax.main", "--config=configs/lfmc.py"]
  command += [f"--config.{key}={value}" for key, value in overrides.items()]
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  start = functools.partial(subprocess.Popen, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  with open(tmp_path / "told", "w") as told:
    process = start([*command, f"--workdir={whole}"], stderr=told)
  assert process.wait(300) == 0
  said = (tmp_path / "told").read_text().splitlines()
  assert said and all(line.startswith("seed10_fold") for line in said), "logs of libraries are shown"
  log_file = killed / "metrics.jsonl"
  lines = lambda: log_file.read_text().count("\n") if log_file.exists() else 0
  kills = 0
  for at_least, delay in ((3, 0.0), (17, 0.017)):
    process = start([*command, f"--workdir={killed}"])
    while lines() < at_least and process.poll() is None:
      time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    kills += process.wait(60) == -signal.SIGKILL
  assert kills == 2
  process = start([*command, f"--workdir={killed}"])
  assert process.wait(300) == 0
  assert_same(whole, killed)


@pytest.mark.long
def test_replicas_are_the_runs_of_the_loop_and_ablations_stand_beside_them(finished, lfmc, tmp_path, capsys):
  ablations = {"contrastive_off": {"contrastive": 0}, "other": {"auxiliary": 0, "discriminative": 2}}
  settings = load(
    lfmc,
    train__replicas=True,
    loss__ablations=ablations,
  )
  summary = run.run(settings, tmp_path)
  loop = Results.read(finished / "results.json")
  assert list(summary.ablations) == ["contrastive_off", "other"]
  assert len(summary.timing["runs"]) == 6 and not (tmp_path / "training" / "stack").exists()
  lines = {(line["run"], line["epoch"]): line for line in read_lines(tmp_path)}
  for want in read_lines(finished):
    got = lines[want["run"], want["epoch"]]
    for name in want.keys() - {"run", "samples_per_second"}:
      np.testing.assert_allclose(got[name], want[name], rtol=1e-4 if name.startswith("train/") else 5e-2)
  for m, scores in loop.scores.modalities.items():
    got = summary.scores.modalities[m]["rmse"]["mean"]
    np.testing.assert_allclose(got, scores["rmse"]["mean"], rtol=1e-2)
  without = lines["seed10_fold0_contrastive_off", 4]
  assert without["train/total/contrastive"] == 0.0 < lines["seed10_fold0", 4]["train/total/contrastive"]
  assert (tmp_path / "predictions" / "contrastive_off" / "S1_S1Ind.csv").is_file()
  assert "r2, ablations" in capsys.readouterr().out
  assert load_model(tmp_path, "S1_S1Ind").runs == ["seed10_fold0", "seed10_fold1"]


@pytest.mark.long
def test_nothing_is_compiled_after_the_first_epoch(lfmc, tmp_path, monkeypatch):
  """Two folds one after another, with checkpoints: what the first epoch did not compile, nothing does."""
  compiled, write, after = [], log.Log.write, []
  count = lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
  jax.monitoring.register_event_duration_secs_listener(count)
  monkeypatch.setattr(log.Log, "write", lambda self, *args: (after.append(len(compiled)), write(self, *args)))
  run.run(load(lfmc), tmp_path)
  jax.monitoring.unregister_event_duration_listener(count)
  assert len(after) == 8 and after[0] > 0
  assert after[3] == after[0], "the first fold compiled something after its first epoch"
  assert after[7] == after[4], "the second fold compiled something after its first epoch"


def test_what_replicas_cannot_do_is_said(lfmc, tmp_path):
  with pytest.raises(InputError, match="train.replicas: .* need their samples on the device"):
    run.run(load(lfmc, train__replicas=True, data__placement="stream"), tmp_path / "stream")
  with pytest.raises(
    InputError, match="train.microbatches: 3 parts of train.batch_size=16 would not be equal"
  ):
    run.run(load(lfmc, train__microbatches=3), tmp_path / "parts")


def test_other_samples_are_refused(finished, lfmc, tmp_path):
  write_dummy(tmp_path / "training_features.csv", rows=72, sites=12, seed=1)
  before = (finished / "dataset.json").read_text()
  config = load(
    lfmc, data__manual_dir=str(tmp_path), data__data_dir=str(tmp_path / "prepared"), baseline=True
  )
  with pytest.raises(InputError, match="started with other samples than data set lfmc has now"):
    run.run(config, finished)
  assert (finished / "dataset.json").read_text() == before


def test_another_configuration_is_refused(finished, lfmc):
  with pytest.raises(InputError, match=r"train.learning_rate: 0.001 there, 0.01 here"):
    run.run(load(lfmc, baseline=True, train__learning_rate=0.01), finished)


def test_two_runs_at_once_are_refused(finished, lfmc):
  with work_directory.locked(finished), pytest.raises(InputError, match="another process is training in"):
    run.run(load(lfmc, baseline=True), finished)


@pytest.mark.long
def test_divergence_is_said_in_one_line(lfmc, tmp_path):
  with pytest.raises(InputError, match=r"seed10_fold0 diverged: its \w+ objective is \w+ in epoch \d"):
    run.run(load(lfmc, train__learning_rate=1e30), tmp_path)


@pytest.mark.long
def test_clean_protocol_by_site_and_official_splits(lfmc, tmp_path):
  settings = load(lfmc, "configs/lfmc.py:clean", train__max_epochs=1)
  summary = run.run(settings, tmp_path / "clean")
  assert (summary.protocol, summary.group_by) == ("clean", "site")
  with pytest.raises(InputError, match=r"protocol.split: 'official' needs .* no 'test', only train"):
    own = {key: value for key, value in SMALL.items() if key != "protocol.folds"}
    run.run(config.load("lfmc", own | lfmc | {"protocol.split": "official"}), tmp_path / "official")


# Devices.


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["device", "stream"])
def test_eight_devices_with_sharded_parameters_interrupted_are_one_device(
  lfmc, tmp_path, monkeypatch, placement
):
  """A real run with data=4, fsdp=2: sharded state through Orbax, resumed bit for bit, near one device."""
  changes = {"data__placement": placement, "train__optimizer": "sgd", "train__momentum": 0.0}
  settings = load(lfmc, train__max_epochs=2, train__learning_rate=0.01, **changes)
  run.run(settings, tmp_path / "one")
  monkeypatch.undo()
  monkeypatch.setattr(sharding, "make_mesh", MAKE_MESH)
  sharded = load(lfmc, mesh__fsdp=2, train__max_epochs=2, train__learning_rate=0.01, **changes)
  run.run(sharded, tmp_path / "whole")
  write, calls, seen = log.Log.write, [], []

  def stop(self, *args):
    calls.append(args)
    if len(calls) == 2:
      raise RuntimeError("stopped")
    return write(self, *args)

  save = run.checkpoint.save

  def look(manager, epoch, state, progress):
    kernel = state.params["shared"]["S1_S1Ind"]["linear"]["kernel"]
    seen.append((len(kernel.sharding.device_set), kernel.size // kernel.addressable_shards[0].data.size))
    return save(manager, epoch, state, progress)

  with monkeypatch.context() as patch:
    patch.setattr(log.Log, "write", stop)
    patch.setattr(run.checkpoint, "save", look)
    with pytest.raises(RuntimeError, match="stopped"):
      run.run(sharded, tmp_path / "stopped")
  assert seen == [(8, 2)], "the state that was saved is not split over fsdp"
  run.run(sharded, tmp_path / "stopped")
  assert_same(tmp_path / "whole", tmp_path / "stopped")
  for one, eight in zip(read_lines(tmp_path / "one"), read_lines(tmp_path / "whole")):
    for name in one.keys() - {"run", "samples_per_second"}:
      np.testing.assert_allclose(eight[name], one[name], rtol=2e-3, atol=1e-5, err_msg=name)


# Methods that need more of the training.


@dataclasses.dataclass(frozen=True)
class Student(Individual):
  """Learns from a teacher that was trained on the same folds, and from an array by row."""

  requires = ("individual",)
  reads = Reads()

  def arrays(self, train, samples, seed):
    out = np.full((len(samples.target), 1), np.nan, np.float32)
    out[train] = samples.target[train]
    return {"known": out}

  def loss(self, outputs, batch, values):
    teacher = batch.teachers["individual"]
    known = values.arrays["known"][batch.row]
    main = {m: jax.numpy.square(y - teacher[m]).mean() for m, y in outputs.items()}
    loss = sum(main.values()) + 0.0 * jax.numpy.nan_to_num(known).sum()
    terms = {f"main/{m}": value for m, value in main.items()}
    return loss, terms | {"total/main": loss, "objective": loss, "known": jax.numpy.nansum(known)}


@pytest.mark.long
@pytest.mark.parametrize("replicas", [False, True])
def test_a_teacher_is_trained_first_on_the_same_folds_and_frozen(lfmc, tmp_path, monkeypatch, replicas):
  monkeypatch.setitem(methods.METHODS, "student", Student)
  settings = load(lfmc, "configs/lfmc.py:method=student", train__max_epochs=3, train__replicas=replicas)
  run.run(settings, tmp_path)
  runs = [f"seed10_fold{fold}" for fold in (0, 1)]
  assert sorted(p.name for p in (tmp_path / "teachers/individual/checkpoints").iterdir()) == runs
  lines = read_lines(tmp_path)
  assert [line["train/main/S1_S1Ind"] for line in lines if line["run"] == runs[0]][-1] < 2e3
  first = [line for line in lines if line["run"] == runs[0]]
  assert first[-1]["train/main/S2_S2Ind"] < first[0]["train/main/S2_S2Ind"]
  assert first[0]["validation/known"] == 0.0 and first[0]["train/known"] > 0.0, "held-out rows are known"
  before = models.restore(tmp_path / "teachers/individual/checkpoints" / runs[0])
  run.run(settings, tmp_path)
  after = models.restore(tmp_path / "teachers/individual/checkpoints" / runs[0])
  jax.tree.map(np.testing.assert_array_equal, before, after)


def test_individual_is_built_without_what_it_does_not_train(finished):
  model = models.restore(finished / "individual/checkpoints/seed10_fold0")
  assert set(model["params"]) == {"encoders", "heads"}
