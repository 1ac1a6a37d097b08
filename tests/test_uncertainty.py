"""Uncertainty: temperatures and intervals by hand, their coverage, and a training's exported model."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest

from colearn_jax import config, export, load_model
from colearn_jax.deploy import uncertainty
from colearn_jax.deploy.export import save_model
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.uncertainty import HeldBack
from colearn_jax.parallel import sharding
from colearn_jax.storage.files import read_json
from colearn_jax.training import held_back
from colearn_jax.training import run as train
from colearn_jax.types import InputError, Modality, Task

VALUES = Task("regression", ("a", "b"), "m")


def softmax(z):
  z = np.exp(z - z.max(-1, keepdims=True))
  return z / z.sum(-1, keepdims=True)


def test_half_widths_by_hand():
  """Of 19 errors 1 to 19, the interval of 90 % is as wide as the 18th, that of 99 % would need 99 errors."""
  errors = np.random.default_rng(0).permutation(np.arange(1.0, 20))
  target = np.stack([errors, -10 * errors], 1)
  fitted = uncertainty.fit(VALUES, HeldBack(np.zeros((1, 19, 2)), target))
  for coverage, want in ((0.9, [18, 180]), (0.95, [19, 190]), (0.5, [10, 100]), (0.05, [1, 10])):
    assert uncertainty.half_widths(VALUES, fitted, coverage).tolist() == want
  with pytest.raises(InputError, match=r"coverage=0.99 needs more .* than the 19 of this model; up to 0.95"):
    uncertainty.half_widths(VALUES, fitted, 0.99)
  with pytest.raises(InputError, match="coverage=0.905 is not allowed; 0.01, 0.02"):
    uncertainty.half_widths(VALUES, fitted, 0.905)


def test_samples_are_predicted_by_the_runs_that_held_them_back():
  """Two runs with 10 samples each, of which 5 are common: there their mean counts."""
  predictions = np.full((2, 16, 2), np.nan)
  predictions[0, :10], predictions[1, 5:15] = 1, 3
  fitted = uncertainty.fit(VALUES, HeldBack(predictions, np.zeros((16, 2))))
  assert fitted["samples"] == 15  # the last one has no prediction
  errors = [1] * 5 + [2] * 5 + [3] * 5
  assert fitted["half_width"]["a"][49] == sorted(errors)[8 - 1]
  with pytest.raises(InputError, match="9 labelled samples were held back .* 10 are needed .*--no-uncert"):
    uncertainty.fit(VALUES, HeldBack(predictions[:1, 1:10], np.zeros((9, 2))))


def drawn(rng, n, runs):
  """Values, and predictions of each run with errors that are common and errors of their own."""
  truth = rng.normal(size=(n, 2)) * [1, 20]
  common, own = rng.standard_t(4, (n, 2)), rng.standard_t(4, (runs, n, 2))
  return truth, truth + (common + own) * [0.3, 6]


@pytest.mark.parametrize("folds", [1, 5])
def test_intervals_hold_new_values(folds):
  rng = np.random.default_rng(1)
  truth, predictions = drawn(rng, 600, folds)
  fold = np.arange(600) % folds
  predictions[fold[None] != np.arange(folds)[:, None]] = np.nan
  fitted = uncertainty.fit(VALUES, HeldBack(predictions, truth))
  new, predicted = drawn(rng, 20_000, folds)
  for coverage in (0.5, 0.9, 0.95):
    held = np.abs(predicted.mean(0) - new) <= uncertainty.half_widths(VALUES, fitted, coverage)
    share = held.mean(0)
    assert (share > coverage - 0.03).all()
    assert folds > 1 or (share < coverage + 0.03).all()  # the mean of five runs errs less than each


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("true", [0.5, 2.5])
def test_the_temperature_is_found(kind, true):
  rng, labels = np.random.default_rng(2), 2 if kind == "binary" else 4
  z = 2 * rng.normal(size=(20_000, labels))
  if kind == "multilabel":
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    p, target = sigmoid(z), (rng.uniform(size=z.shape) < sigmoid(z / true)).astype(np.float32)
  else:
    p, target = softmax(z), (softmax(z / true).cumsum(1) > rng.uniform(size=(len(z), 1))).argmax(1)
  task = Task(kind, tuple("abcd"[:labels]))
  half = slice(0, 10_000)
  fitted = uncertainty.fit(task, HeldBack(p[None, half].astype(np.float32), target[half]))
  assert fitted["temperature"] == pytest.approx(true, rel=0.05)
  before, after = fitted["negative_log_likelihood"]
  assert after < before - 0.01 and fitted["calibration_error"][1] < 0.02 < fitted["calibration_error"][0]
  new = uncertainty.calibrate(task, fitted, p[None, 10_000:])[0]
  assert uncertainty._calibration_error(task, new, target[10_000:]) < 0.02
  want = 1 / (1 + (1 / p - 1) ** (1 / true)) if kind == "multilabel" else softmax(np.log(p) / true)
  np.testing.assert_allclose(uncertainty.calibrate(task, {"temperature": true}, p), want, atol=1e-6)


def test_a_certain_prediction_stays_finite():
  p = np.float32([[[1, 0, 0], [np.nan] * 3]])
  for kind in ("multiclass", "multilabel"):
    got = uncertainty.calibrate(Task(kind, tuple("abc")), {"temperature": 0.05}, p)
    np.testing.assert_allclose(got, p, atol=1e-6)


def model_of(task, fitted, runs=("seed10_fold0", "seed10_fold1")):
  weights = {run: {"w": np.float32([[1, 2], [k, 1]])} for k, run in enumerate(runs)}
  function = lambda w, x: jax.nn.softmax(x @ w["w"]) if task.one_class else x @ w["w"]
  return Model(
    function, weights, Modality("S2", ("S2",), (2,), ("u", "v")), task, (), {"uncertainty": fitted}
  )


def test_estimates_of_values(tmp_path):
  fitted = uncertainty.fit(
    VALUES, HeldBack(np.zeros((1, 19, 2)), np.repeat(np.arange(1.0, 20)[:, None], 2, 1))
  )
  model = load_model(save_model(model_of(VALUES, fitted), tmp_path / "m"))
  x = np.float32([[1, 2], [np.nan, 1]])
  got = model.estimate(x)
  np.testing.assert_allclose(got.value[0], [2, 4])
  np.testing.assert_allclose(got.spread[0], [2**0.5, 0], atol=1e-6)
  np.testing.assert_allclose([got.lower[0], got.upper[0]], [[-16, -14], [20, 22]])
  np.testing.assert_allclose(model.estimate(x, coverage=0.5).upper[0], [12, 14])
  with pytest.raises(InputError, match="coverage=2 is not allowed"):
    model.estimate(x, coverage=2)
  np.testing.assert_array_equal(model.estimate(x, coverage=0.9).upper, got.upper)


def test_estimates_of_classes():
  task, x = Task("binary", ("no", "yes")), np.float32([[1, 2], [0.1, 0]])
  plain, scaled = model_of(task, None), model_of(task, {"kind": "temperature", "temperature": 2.0})
  assert plain.estimate(x).lower is None
  np.testing.assert_array_equal(plain.estimate(x).value, plain.predict(x))
  np.testing.assert_array_equal(plain.estimate(x).spread, plain.spread(x))
  want = softmax(np.log(plain.predict_runs(x)) / 2)
  np.testing.assert_allclose(scaled.estimate(x).value, want.mean(0), atol=1e-6)
  np.testing.assert_allclose(scaled.estimate(x).spread, want.std(0, ddof=1), atol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A regression whose validation part is its test part; some samples lack the sensor, some the target."""
  root, rng = tmp_path_factory.mktemp("uncertainty"), np.random.default_rng(0)
  for view in ("S1", "S2"):
    (root / "fields" / view).mkdir(parents=True)
  rows = [["id", "split", "target"]]
  for i in range(32):
    x = rng.normal(size=(3, 2)).astype(np.float32)
    split = ("train", "test")[i % 2]
    rows.append([f"s{i}", split, f"{x.sum() + rng.normal():.4f}" if i not in (7, 9) else ""])
    np.save(root / f"fields/S1/s{i}.npy", x[0])
    if i not in (3, 5, 6):
      np.save(root / f"fields/S2/s{i}.npy", x)
  with open(root / "fields/samples.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  settings = {"data.manual_dir": root / "fields", "data.data_dir": root / "data", "data.modalities": "S2"}
  settings |= {"protocol.name": "paper", "protocol.split": "official", "model.emb_dim": 4}
  settings |= {"train.batch_size": 8, "train.max_epochs": 1, "model.encoder.layer_sizes": (4,)}
  with pytest.MonkeyPatch.context() as patch:  # one device: compiling for eight takes longer
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    train.run(config.load("configs/folder.py:individual,encoder=mlp", settings), root / "run")
  return root


def test_held_back_samples_of_a_training(trained):
  """They are those that the training tested, with the predictions that it wrote."""
  model = load_model(trained / "run", "S2")
  found = held_back.held_back(trained / "run", model)
  with open(trained / "run/predictions/S2.csv") as file:
    rows = [row for row in csv.DictReader(file) if row["target_target"] not in ("", "nan")]
  rows = [row for row in rows if row["prediction_target"] not in ("", "nan")]
  written = sorted((float(row["target_target"]), float(row["prediction_target"])) for row in rows)
  known = np.isfinite(found.predictions[0, :, 0])
  assert len(written) == known.sum() == 12 and found.target.shape == (14, 1)
  got = sorted(zip(found.target[known, 0].tolist(), found.predictions[0, known, 0].tolist()))
  np.testing.assert_allclose(got, written, atol=1e-4)


def test_the_export_command_fits_the_uncertainty(trained, tmp_path):
  command = [f"--workdir={trained / 'run'}", "--modality=S2"]
  export.main([*command, f"--out={tmp_path / 'plain'}", "--no-uncertainty"])
  export.main([*command, f"--out={tmp_path / 'fitted'}"])
  plain, fitted = load_model(tmp_path / "plain"), load_model(tmp_path / "fitted")
  assert "uncertainty" not in plain.about and fitted.about["uncertainty"]["samples"] == 12
  x = np.ones((2, 3, 2), np.float32)
  got = fitted.estimate(x)
  np.testing.assert_array_equal(got.value, plain.predict(x))
  assert (got.lower < got.value).all() and plain.estimate(x).lower is None


def test_what_cannot_be_calibrated(trained, tmp_path):
  shutil.copytree(trained / "run", tmp_path / "run")
  described = read_json(tmp_path / "run/dataset.json")
  for changed, message in (
    (
      {"samples": described["samples"] | {"values": "other"}},
      "their values, dates, labels or groups changed",
    ),
    ({"samples": None}, "imported models, whose held-back samples are not known"),
  ):
    (tmp_path / "run/dataset.json").write_text(json.dumps(described | changed))
    with pytest.raises(InputError, match=f"{message}.*; --no-uncertainty exports without"):
      export.main([f"--workdir={tmp_path / 'run'}", "--modality=S2", f"--out={tmp_path / 'm'}"])
    assert not (tmp_path / "m").exists()
