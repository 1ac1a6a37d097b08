"""A directory of a user's own from its files to scores; the encoder of its images begins with weights."""

import csv

import jax
import numpy as np
import pytest
from colearn_jax.datasets.folder.dummy import write_dummy

from colearn_jax import config
from colearn_jax.deploy.load import load_model
from colearn_jax.encoders import resnet
from colearn_jax.evaluation.results import Results
from colearn_jax.parallel import sharding
from colearn_jax.training import log
from colearn_jax.training.run import run
from colearn_jax.types import InputError
from tests.helpers import resnet_state_dict, save_torch_file

TINY = (1,), 2  # one block of a ResNet


@pytest.fixture
def own(tmp_path, monkeypatch):
  one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", lambda *_: one)
  monkeypatch.setitem(resnet.STAGES, 6, TINY)
  written = write_dummy(tmp_path / "fields")
  weights = save_torch_file(tmp_path / "weights.pth", resnet_state_dict(TINY))
  image = {"model_type": "resnet", "depth": 6, "weights": str(weights)}
  settings = {
    "data.manual_dir": tmp_path / "fields",
    "data.data_dir": tmp_path / "data",
    "data.modalities": "photo,S1",
    "model.encoders": {"photo": image, "S1": {"model_type": "mlp", "layer_sizes": (4,)}},
    "model.emb_dim": 4,
    "train.batch_size": 8,
    "train.max_epochs": 2,
    "checkpoint.every_epochs": 1,
  }
  return config.load("configs/folder.py:official", settings), weights, written


@pytest.mark.long
def test_training_goes_on_and_predicts_without_the_weights_it_began_with(own, tmp_path, monkeypatch):
  settings, weights, written = own
  write, epochs = log.Log.write, []

  def stop(self, run, epoch, scalars):
    epochs.append(epoch)
    if len(epochs) == 2:
      raise RuntimeError("stopped")
    write(self, run, epoch, scalars)

  with monkeypatch.context() as patch:
    patch.setattr(log.Log, "write", stop)
    with pytest.raises(RuntimeError, match="stopped"):
      run(settings, tmp_path / "stopped")
  weights.unlink()
  with pytest.raises(InputError, match="weights=.* there is no such file"):
    run(settings, tmp_path / "other")
  run(settings, tmp_path / "stopped")
  rows = list(csv.DictReader((tmp_path / "stopped/predictions/photo.csv").read_text().splitlines()))
  here = [name for name in list(written)[8:] if written[name]["photo"] is not None]
  assert {row["id"] for row in rows} >= set(here)
  got = load_model(tmp_path / "stopped", "photo").predict(np.stack([written[name]["photo"] for name in here]))
  assert got.shape == (3, 2) and np.isfinite(got).all()
  summary = Results.read(tmp_path / "stopped/results.json")
  assert (summary.dataset, summary.task, summary.split) == ("folder", "binary", "official")


def test_a_missing_file_is_told_before_anything_is_built(own, tmp_path):
  settings, weights, _ = own
  weights.unlink()
  with pytest.raises(
    InputError, match="^model.encoders, for modality photo: weights=.*there is no such file$"
  ):
    run(settings, tmp_path / "run")
  assert not (tmp_path / "data").exists() and not (tmp_path / "run/config.json").exists()


TASKS = {
  "binary": ("target", ["a", "b"], "binary"),
  "multiclass": ("target", ["oak", "pine", "beech"], "multiclass"),
  "labels": ("target", ["oak;pine", "pine", "beech;oak", "oak"], "multilabel"),
  "two amounts": ("target_a,target_b", ["0.5,3", "1.5,2", "2.25,1"], "regression"),
}


@pytest.mark.long
@pytest.mark.parametrize("header, targets, kind", TASKS.values(), ids=TASKS)
def test_each_kind_of_task_is_built_trained_predicted_and_scored(
  tmp_path, monkeypatch, header, targets, kind
):
  one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", lambda *_: one)
  (tmp_path / "own").mkdir()
  rows = [f"s{i},{targets[i % len(targets)]}" for i in range(24)]
  (tmp_path / "own/samples.csv").write_text("\n".join([f"id,{header}", *rows]))
  rng = np.random.default_rng(0)
  for view in ("A", "B"):
    np.save(tmp_path / f"own/{view}.npy", rng.normal(size=(24, 3)).astype(np.float32))
  settings = {
    "data.manual_dir": tmp_path / "own",
    "data.data_dir": tmp_path / "data",
    "data.modalities": "A,B",
    "model.encoders": {view: {"model_type": "mlp", "layer_sizes": (4,)} for view in ("A", "B")},
    "model.emb_dim": 4,
    "protocol.folds": 2,
    "train.batch_size": 8,
    "train.max_epochs": 1,
  }
  run(config.load("configs/folder.py", settings), tmp_path / "run")
  assert Results.read(tmp_path / "run/results.json").task == kind
  outputs = 3 if kind in ("multiclass", "multilabel") else 2
  for view in ("A", "B"):
    rows = list(csv.DictReader((tmp_path / f"run/predictions/{view}.csv").read_text().splitlines()))
    assert {row["id"] for row in rows} == {f"s{i}" for i in range(24)}
    got = load_model(tmp_path / "run", view).predict(np.load(tmp_path / f"own/{view}.npy"))
    assert got.shape == (24, outputs) and np.isfinite(got).all()
