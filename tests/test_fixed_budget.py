"""Training on all labelled samples outside of the test part, for a fixed number of epochs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax import config
from colearn_jax.data import splits
from colearn_jax.data.apart import Apart
from colearn_jax.evaluation.results import Results
from colearn_jax.inspection import report
from colearn_jax.parallel import sharding
from colearn_jax.plan import Arm, Cell, Choice, Study
from colearn_jax.reporting.figures import learning_curves
from colearn_jax.studies import plans
from colearn_jax.training import log, run
from colearn_jax.training.epoch import end_epoch
from colearn_jax.training.state import Best, Stop, TrainState
from colearn_jax.types import InputError
from tests.small_training import recipe

FIXED = {"protocol.validation_fraction": 0, "train.patience": 0, "train.keep": "last"}
ENCODER = {"model_type": "mlp", "layer_sizes": (4,), "batchnorm": False}


@pytest.fixture(scope="module")
def lfmc(tmp_path_factory):
  """A small file in LFMC's layout, and a training of two folds of three epochs."""
  manual, prepared = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("prepared")
  write_dummy(manual / "training_features.csv", rows=72, sites=12)
  names = ("S1_S1Ind", "S2_S2Ind")
  return {
    "data.manual_dir": str(manual),
    "data.data_dir": str(prepared),
    "protocol.folds": 2,
    "model.emb_dim": 4,
    "model.encoders": dict.fromkeys(names, ENCODER),
    "train.batch_size": 16,
    "train.max_epochs": 3,
    "checkpoint.every_epochs": 1,
  }


def test_all_labelled_samples_outside_of_the_test_part_train():
  groups, labelled = np.repeat(np.arange(20), 5).astype(str), np.arange(100) % 4 > 0
  make = lambda **more: splits.runs(
    "clean", (0, 1), {"train": np.arange(100)}, folds=5, validation_fraction=0, labelled=labelled, **more
  )
  for run_ in make(apart=Apart({"site": groups}), unsupervised=False):
    assert not len(run_.validation)
    assert sorted([*run_.train, *run_.test]) == np.flatnonzero(labelled).tolist()
  for run_ in make(apart=Apart({"site": groups})):
    assert set(run_.train) == set(np.flatnonzero(~np.isin(groups, groups[run_.test])))
  own = {"train": np.arange(60), "test": np.arange(60, 100)}
  (official,) = splits.runs("clean", (0,), own, folds=None, validation_fraction=0)
  assert official.train.tolist() == list(range(60)) and not len(official.validation)


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"data.placement": "stream"}, {"train.replicas": True}])
def test_without_a_validation_part_the_last_epoch_is_kept(lfmc, tmp_path, monkeypatch, capsys, changes):
  """Interrupted in the first fold (of replicas in both), it goes on, and no figure stands for what is not."""
  one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", lambda *_: one)
  settings = config.load("configs/lfmc.py:clean,individual", lfmc | FIXED | changes)
  write, calls = log.Log.write, []

  def stop(self, *args):
    calls.append(args)
    if len(calls) == 3:
      raise RuntimeError("stopped")
    return write(self, *args)

  with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
    patch.setattr(log.Log, "write", stop)
    run.run(settings, tmp_path)
  run.run(settings, tmp_path)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert sorted((line["run"], line["epoch"]) for line in lines) == [
    (f"seed10_fold{fold}", epoch) for fold in (0, 1) for epoch in (1, 2, 3)
  ]
  assert not any(name.startswith("validation") or line[name] is None for line in lines for name in line)
  kept = Results.read(tmp_path / "results.json").timing["runs"]
  assert all((r["epoch"], r["best_epoch"], r["best_objective"]) == (3, 3, None) for r in kept.values())
  said = capsys.readouterr()
  assert "epoch 3/3  training objective " in said.err and "best" not in said.err
  assert "nan" not in (said.out + said.err).lower()
  curves = learning_curves((tmp_path / "metrics.jsonl").read_text(), "")["objective"]["objective"]
  assert np.isfinite(curves[0]).all() and np.isnan(curves[1]).all()


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"train.patience": 5}, "train.patience=5"),
    ({"train.keep": "best"}, "train.keep=best"),
    ({"protocol.name": "paper"}, "protocol.name=paper"),
    ({"protocol.scored": "validation"}, "protocol.scored=validation"),
  ],
)
def test_what_needs_a_validation_part_is_refused(lfmc, changes, why):
  with pytest.raises(InputError, match=f"^protocol.validation_fraction: 0 .* as {why} needs a validation p"):
    config.load("configs/lfmc.py:clean", lfmc | FIXED | changes)


def test_no_settings_are_chosen_without_a_validation_part(lfmc, tmp_path):
  choice = Choice({"train.learning_rate": (0.1, 0.01)})
  values = {key: value for key, value in (lfmc | FIXED).items() if not key.startswith(("data", "protocol"))}
  own = {key: value for key, value in (lfmc | FIXED).items() if key not in values}
  cell = Cell("a", "a", "lfmc:clean", (Arm("own", "own", values=values, choose=choice),), own)
  with pytest.raises(InputError, match="^arm a/own: settings are chosen .* protocol.validation_fraction > 0"):
    plans.claim(Study("s", (cell,)), {}, tmp_path)


def test_an_epoch_without_validation_keeps_its_model():
  r = recipe(1, patience=0, keep_last=True, max_epochs=2)
  with pytest.raises(InputError, match="train.patience=0 and train.keep=last"):
    end_epoch(dataclasses.replace(r, keep_last=False), _state(0), None)
  with pytest.raises(InputError, match="train.patience=0 and train.keep=last"):
    end_epoch(dataclasses.replace(r, patience=1), _state(0), None)
  first = end_epoch(r, _state(0), None)
  assert not first.stop.done and int(first.best.epoch) == 1 and first.best.params["w"] == 7.0
  assert end_epoch(r, _state(1), None).stop.done


def _state(epoch):
  """A state after some epochs, whose only parameter is 7."""
  zero, inf, model = jnp.zeros((), jnp.int32), jnp.float32(jnp.inf), {"w": jnp.float32(7.0)}
  stop, best = Stop(inf, zero, jnp.zeros((), bool)), Best(inf, zero, {"w": jnp.float32(0.0)}, {})
  return TrainState(zero, jnp.int32(epoch), model, {}, {}, {}, (), zero, {}, stop, best)


def test_an_inspection_shows_no_targets_of_an_empty_part():
  part = lambda samples: {"samples": samples, "labelled": samples, "targets": {"y": {}}, "present": {}}
  runs = {"seed0_fold0": {"parts": {"train": part(3), "validation": part(0), "test": part(1)}}}
  runs["seed0_fold0"] |= {"test_stops_training": False, "left_out": 0}
  runs["seed0_fold0"] |= {"leakage": {"equal": 0, "near_duplicates": {}, "nearest": {}, "straddling": {}}}
  found = {
    "name": "own",
    "number": 4,
    "labelled": 4,
    "targets": {"y": {}},
    "dates": None,
    "coordinates": None,
  }
  found |= {"task": {"kind": "regression", "outputs": ["y"], "unit": ""}, "modalities": {}, "groups": {}}
  found |= {"runs": runs, "near_duplicates": {}, "nearest": {}, "samples": {}}
  text = report.text(found | {"equal_samples": {"number": 0, "listed": []}})
  assert "train 3, 3; validation 0, 0; test 1, 1" in text and "validation:" not in text
