import csv

import numpy as np
import pytest

from colearn_jax.data.reader import Index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, metrics
from colearn_jax.storage import manifest
from colearn_jax.types import InputError, Task

TASK = Task("multiclass", ("a", "b", "c"))
TARGET = np.array([0, 1, 2, 0, 1, 2], np.int32)
NONE = np.empty(0, int)


def runs(ablation=""):
  return [Run(0, k, NONE, NONE, rows, ablation) for k, rows in enumerate((np.arange(3), np.arange(3, 6)))]


def probabilities(rows, seed, absent=()):
  p = np.random.default_rng(seed).dirichlet(np.ones(3), len(rows)).astype(np.float32)
  p[list(absent)] = np.nan
  return p


def test_a_sensor_is_scored_on_the_samples_that_have_it():
  index = Index(np.arange(6).astype(str), TARGET, {})
  predictions = []
  for k, run in enumerate(runs()):
    absent = {
      "always": (),
      "some": (1,) if k == 0 else (),
      "once": range(3) if k == 0 else (),
      "never": range(3),
    }
    one = {m: probabilities(run.test, i + 10 * k, gone) for i, (m, gone) in enumerate(absent.items())}
    predictions.append({"prediction": one})
  got = evaluate.evaluate(TASK, index, runs(), predictions, {m: (m,) for m in predictions[0]["prediction"]})
  assert got.modalities["never"] == {} and got.auxiliary == {} == got.combinations
  some, once = got.modalities["some"], got.modalities["once"]
  assert some["samples"]["per_fold"] == [2, 3] and got.ensemble["samples"]["per_fold"] == [3, 3]
  want = metrics.scores(TASK, predictions[0]["prediction"]["some"][[0, 2]], TARGET[[0, 2]])
  assert some["accuracy"]["per_fold"][0] == want["accuracy"]
  assert once["accuracy"]["per_fold"][0] is None and once["samples"]["per_fold"] == [0, 3]
  second = metrics.scores(TASK, predictions[1]["prediction"]["once"], TARGET[3:])
  assert once["f1_macro"]["mean"] == second["f1_macro"] and once["f1_macro"]["std"] is None
  assert once["confusion_matrix"] == second["confusion_matrix"]


HEIGHT = Task("regression", ("height",))
VALUES = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]], np.float32)
PREDICTORS = {"S2": ("S2",), "S1": ("S1",), "S1+S2": ("S1", "S2")}


def off_by(**heads):
  """For both runs predictions that are the target plus a number; a list has one for each run."""
  number = lambda error, k: error[k] if isinstance(error, list) else error
  return [
    {head: {m: VALUES[run.test] + number(e, k) for m, e in errors.items()} for head, errors in heads.items()}
    for k, run in enumerate(runs())
  ]


def test_every_head_and_predictor_has_its_own_scores():
  """Each head and predictor has another error, so that none can stand in for another."""
  predictions = off_by(
    prediction={"S1": [2.0, 4.0], "S2": 10.0, "S1+S2": 100.0},
    auxiliary_specific={"S1": 20.0, "S2": 30.0},
    auxiliary_shared={"S1": 40.0, "S2": 50.0},
    teacher={"S1": 60.0},
  )
  index = Index(np.arange(6).astype(str), VALUES, {})
  got = evaluate.evaluate(HEIGHT, index, runs(), predictions, PREDICTORS)
  assert list(got.modalities) == ["S2", "S1"] == list(got.auxiliary)  # as the method lists them
  bias = lambda scores: {name: one["bias"]["mean"] for name, one in scores.items()}
  assert bias(got.modalities) == {"S1": 3.0, "S2": 10.0}
  assert got.modalities["S1"]["bias"]["per_fold"] == [2.0, 4.0]
  assert got.modalities["S1"]["bias"]["std"] == pytest.approx(2**0.5)
  assert bias(got.combinations) == {"S1+S2": 100.0}
  assert got.ensemble["bias"]["per_fold"] == [6.0, 7.0]  # of S1 and S2, without the combination
  assert {m: bias(heads) for m, heads in got.auxiliary.items()} == {
    "S1": {"specific": 20.0, "shared": 40.0, "teacher": 60.0},
    "S2": {"specific": 30.0, "shared": 50.0},
  }


def test_ensemble_of_absent_sensors():
  """Where a sensor is absent the ensemble is the mean of the others."""
  predictions = off_by(prediction={"S1": 2.0, "S2": 10.0})
  predictions[0]["prediction"]["S1"][:2] = np.nan
  index = Index(np.arange(6).astype(str), VALUES, {})
  got = evaluate.evaluate(HEIGHT, index, runs(), predictions, PREDICTORS)
  assert got.ensemble["bias"]["per_fold"] == pytest.approx([(10 + 10 + 6) / 3, 6])
  assert got.modalities["S1"]["samples"]["per_fold"] == [1, 3]


def test_without_a_predictor_of_one_sensor_there_is_no_ensemble():
  index = Index(np.arange(6).astype(str), VALUES, {})
  got = evaluate.evaluate(HEIGHT, index, runs(), off_by(prediction={"S1+S2": 1.0}), PREDICTORS)
  assert got.ensemble == {} == got.modalities and list(got.combinations) == ["S1+S2"]


def test_rows_without_one_of_the_targets_are_not_scored(tmp_path):
  """Of one run, whose predictions are written for all rows."""
  both, run = Task("regression", ("height", "mass")), Run(0, 0, NONE, NONE, np.arange(6))
  target = np.repeat(VALUES, 2, axis=1)
  target[2, 1] = np.nan
  index = Index(np.arange(6).astype(str), target, {})
  predictions = [{"prediction": {"S1": np.repeat(VALUES, 2, axis=1) + 1}}]
  scores, _ = evaluate.write(tmp_path, both, index, [run], predictions, {"S1": ("S1",)})
  assert scores.modalities["S1"]["samples"]["per_fold"] == [5]
  assert scores.modalities["S1"]["rmse"]["mean"] == pytest.approx(1.0)
  assert len((tmp_path / "S1.csv").read_text().splitlines()) == 7


def test_a_single_run_has_scores_of_all_heads():
  index = Index(np.arange(6).astype(str), VALUES, {})
  one = off_by(prediction={"S1": 2.0}, auxiliary_shared={"S1": 40.0})[:1]
  got = evaluate.evaluate(HEIGHT, index, runs()[:1], one, PREDICTORS)
  assert got.auxiliary["S1"]["shared"]["bias"]["per_fold"] == [40.0]


def test_a_prediction_that_is_partly_there_is_a_fault():
  """A sensor that a sample lacks has no values at all."""
  predictions = [{"prediction": {"S1": probabilities(run.test, 0)}} for run in runs()]
  predictions[1]["prediction"]["S1"][0, 2] = np.nan
  index = Index(np.arange(6).astype(str), TARGET, {})
  with pytest.raises(InputError, match="prediction is not finite in 1 of 3 rows, first in row 0"):
    evaluate.evaluate(TASK, index, runs(), predictions, {"S1": ("S1",)})


def test_what_is_half_written_has_no_checksums(tmp_path, monkeypatch):
  """Those of earlier files are gone before the first of the new ones is written."""
  index = Index(np.arange(6).astype(str), VALUES, {})
  given = tmp_path, HEIGHT, index, runs(), off_by(prediction={"S1": 1.0}), PREDICTORS
  evaluate.write(*given)
  assert (tmp_path / manifest.NAME).exists()

  def full(*_):
    raise OSError("No space left on device")

  monkeypatch.setattr(evaluate, "write_predictions", full)
  with pytest.raises(OSError):
    evaluate.write(*given)
  assert not (tmp_path / manifest.NAME).exists()


def test_ablations_are_scored_and_written_by_their_names(tmp_path):
  index = Index(np.array([f"site{k}" for k in range(6)]), VALUES, {})
  both = runs() + runs("contrastive_off")
  predictions = off_by(prediction={"S1": 1.0}) + off_by(prediction={"S1": 3.0})
  scores, of_ablations = evaluate.write(tmp_path, HEIGHT, index, both, predictions, PREDICTORS)
  assert scores.modalities["S1"]["bias"]["mean"] == 1
  assert of_ablations["contrastive_off"].modalities["S1"]["bias"]["mean"] == 3
  for folder, error in ((tmp_path, 1), (tmp_path / "contrastive_off", 3)):
    with open(folder / "S1.csv", newline="") as file:
      rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(index.ids) and [row["fold"] for row in rows] == list("000111")
    assert [float(row["target_height"]) for row in rows] == list(VALUES[:, 0])
    assert [float(row["prediction_height"]) for row in rows] == list(VALUES[:, 0] + error)
