import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from colearn_jax.evaluation import results as r
from colearn_jax.evaluation.metrics import scores
from colearn_jax.evaluation.results import Results, Scores
from colearn_jax.storage.files import replacing, write_json
from colearn_jax.types import InputError, Task

ABC = Task("multiclass", ("a", 'b "x", y', "c\nd\re"))


def stats(mean, std=0.01):
  return {"mean": mean, "std": std, "per_fold": [mean]}


def read_csv(path):
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.reader(file))


def test_summarise_by_hand():
  got = r.summarise(
    [
      {"r2": 0.1, "per_class": {"a": {"f1": 1}}, "confusion_matrix": [[1, 2], [3, 4]]},
      {"r2": 0.4, "per_class": {"a": {"f1": math.nan}}, "confusion_matrix": [[1, 0], [0, 1]]},
    ]
  )
  assert got["r2"].pop("per_fold") == [0.1, 0.4]
  assert got["r2"] == pytest.approx({"mean": 0.25, "std": 0.3 / 2**0.5})
  assert got["per_class"]["a"]["f1"] == {"mean": 1.0, "std": None, "per_fold": [1.0, None]}
  assert got["confusion_matrix"] == [[2, 2], [3, 5]]


def test_summarise_of_one_training_and_of_nothing_known():
  assert r.summarise([{"r2": 0.5}])["r2"] == {"mean": 0.5, "std": None, "per_fold": [0.5]}
  nothing = {"mean": None, "std": None, "per_fold": [None, None]}
  assert r.summarise([{"r2": math.nan}, {"r2": None}])["r2"] == nothing
  with pytest.raises(InputError, match="no runs"):
    r.summarise([])
  with pytest.raises(InputError, match="different scores, not in all of them: mae"):
    r.summarise([{"r2": 1.0}, {"r2": 1.0, "mae": 1.0}])


def test_results_are_strict_json_and_come_back(tmp_path):
  path = tmp_path / "deep" / "results.json"
  folds = [scores(ABC, np.eye(3)[[0, 1]], np.array([0, k])) for k in (1, 2)]
  summary = r.summarise(folds)
  off = Scores({"S1": r.summarise(folds[:1])}, {"S1+S2": summary}, summary, {"S1": {"shared": summary}})
  results = dataclasses.replace(
    RESULTS,
    scores=Scores({"S1": summary, "S2": {}}, {"S1+S2": summary}, summary, {"S1": {"specific": summary}}),
    ablations={"contrastive_off": off},
    timing={"seconds": 1.5, "runs": {"seed10_fold0": {"epoch": 3}}},
  )
  results.write(path)
  read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"not JSON: {name}"))
  assert list(read) == [
    *("dataset", "task", "method", "variant", "protocol", "split", "group_by", "seeds", "folds"),
    *("modalities", "combinations", "ensemble", "auxiliary", "ablations", "timing", "sha256"),
  ]
  assert read["seeds"] == [10, 11] and read["modalities"] == {"S1": summary, "S2": {}}
  assert read["auxiliary"] == {"S1": {"specific": summary}}
  assert read["ablations"]["contrastive_off"]["auxiliary"] == {"S1": {"shared": summary}}
  assert Results.read(path) == results
  assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_results_of_imported_models_come_back():
  results = Results("lfmc", "regression", "mdico", Scores({}), imported={"seed10_fold0": "a.ckpt"})
  assert Results.from_json(results.to_json()) == results


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / "results.json"
  write_json(path, {"a": np.float32(0.5), "inf": -math.inf, 3: (1, 2)})
  with pytest.raises(TypeError):
    write_json(path, {"a": object()})
  with pytest.raises(KeyboardInterrupt), replacing(path) as file:
    file.write("half")
    raise KeyboardInterrupt
  assert json.loads(path.read_text()) == {"a": 0.5, "inf": None, "3": [1, 2]}
  assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "no results at .*results.json: train first"),
    ('{"a": ', "results.json is not JSON"),
    ('["a"]', "results.json is not a JSON object"),
    ('{"dataset": "lfmc", "task": "regression"}', "results.json: these are no results: method, modalities"),
  ],
)
def test_unreadable_results(tmp_path, content, message):
  if content:
    (tmp_path / "results.json").write_text(content)
  with pytest.raises(InputError, match=message) as e:
    Results.read(tmp_path / "results.json")
  assert "\n" not in str(e.value)


def test_regression_predictions_round_trip(tmp_path):
  rng = np.random.default_rng(0)
  values = rng.integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
  values = values[np.isfinite(values)][:3000].reshape(-1, 2)
  n, task = len(values), Task("regression", ("height, m", "biomass"))
  r.write_predictions(tmp_path / "p.csv", range(n), 10, np.arange(n) % 5, values[::-1], values, task)
  header, *rows = read_csv(tmp_path / "p.csv")
  assert header == ["id", "seed", "fold"] + [
    f"{p}_{n}" for p in ("target", "prediction") for n in task.outputs
  ]
  assert [row[:3] for row in rows[:6]] == [[str(k), "10", str(k % 5)] for k in range(6)]
  read = np.array([row[3:] for row in rows], np.float64).astype(np.float32)
  np.testing.assert_array_equal(read, np.concatenate([values[::-1], values], 1))
  assert "0.1,103.2" in _one_row(tmp_path, np.float32([[0.1]]), np.float32([[103.2]]))


def _one_row(folder, target, prediction):
  r.write_predictions(
    folder / "q.csv", [b"site_1"], [10], [0], target, prediction, Task("regression", ("y",))
  )
  text = (folder / "q.csv").read_text()
  assert (
    text == "id,seed,fold,target_y,prediction_y\nsite_1,10,0," + text.splitlines()[1].split(",", 3)[3] + "\n"
  )
  return text


def test_class_predictions(tmp_path):
  probability = np.array([[0.1, 0.7, 0.2], [0.25, 0.25, 0.5], [np.nan] * 3], np.float32)
  r.write_predictions(tmp_path / "p.csv", ["x", "y", "z"], 1, 2, np.array([1, 0, 2]), probability, ABC)
  a, b, c = "a", 'b "x", y', "c\nd e"
  assert read_csv(tmp_path / "p.csv") == [
    ["id", "seed", "fold", "target", "prediction", *(f"probability_{n}" for n in (a, b, c))],
    ["x", "1", "2", b, b, "0.1", "0.7", "0.2"],
    ["y", "1", "2", a, c, "0.25", "0.25", "0.5"],
    ["z", "1", "2", c, "", "nan", "nan", "nan"],
  ]


def test_multilabel_predictions_and_lengths(tmp_path):
  task = Task("multilabel", ("oak", "pine"))
  r.write_predictions(
    tmp_path / "p.csv", [7], 1, 0, np.array([[True, False]]), np.float32([[0.5, 0.1]]), task
  )
  assert read_csv(tmp_path / "p.csv") == [
    ["id", "seed", "fold", "target_oak", "target_pine", "probability_oak", "probability_pine"],
    ["7", "1", "0", "1", "0", "0.5", "0.1"],
  ]
  with pytest.raises(InputError, match="'folds': 1"):
    r.write_predictions(tmp_path / "no.csv", [1, 2], 1, [0], np.zeros((2, 2)), np.zeros((2, 2)), task)
  assert not (tmp_path / "no.csv").exists()


SCORES = Scores(
  modalities={
    "S1_S1Ind": {"r2": stats(0.244, 0.075), "rmse": stats(31.0), "mae": stats(23.5)},
    "S2_S2Ind": {"r2": stats(0.451), "rmse": stats(29.25), "mae": stats(None, None)},
  },
  ensemble={"r2": stats(0.5), "rmse": stats(28.0), "mae": stats(20.0)},
  auxiliary={"S1_S1Ind": {"specific": {"r2": stats(0.2)}, "shared": {"r2": stats(-0.1)}}},
)
RESULTS = Results(
  "lfmc", "regression", "mdico", SCORES, variant="paper", protocol="clean", split="kfold", seeds=(10, 11)
)


def test_table_alone():
  assert r.table(RESULTS).splitlines() == [
    "dataset lfmc, task regression, method mdico, variant paper, protocol clean; mean ± std",
    "",
    "                     r2            rmse             mae",
    "S1_S1Ind  0.244 ± 0.075  31.000 ± 0.010  23.500 ± 0.010",
    "S2_S2Ind  0.451 ± 0.010  29.250 ± 0.010               -",
    "ensemble  0.500 ± 0.010  28.000 ± 0.010  20.000 ± 0.010",
    "",
    "auxiliary head on              r2  rmse  mae",
    "S1_S1Ind specific   0.200 ± 0.010     -    -",
    "S1_S1Ind shared    -0.100 ± 0.010     -    -",
  ]


def test_table_of_one_run_has_no_deviation():
  one = Scores({"S1": r.summarise([{"r2": 0.5, "rmse": 1.0, "mae": math.nan}])})
  assert r.table(Results("lfmc", "regression", "individual", one, folds=1)).splitlines() == [
    "dataset lfmc, task regression, method individual, folds 1",
    "",
    "       r2   rmse  mae",
    "S1  0.500  1.000    -",
  ]


def test_table_of_combinations_and_ablations():
  fused = Scores({"S1": {"r2": stats(0.1)}, "S2": {}}, {"S1+S2": {"r2": stats(0.7)}}, {"r2": stats(0.3)})
  off = Scores({"S1": {"r2": stats(0.2)}, "S2": {"r2": stats(0.6)}})
  results = dataclasses.replace(RESULTS, scores=fused, ablations={"dropout_off": off})
  assert r.table(results).splitlines()[2:] == [
    "                     r2  rmse  mae",
    "S1        0.100 ± 0.010     -    -",
    "S2                    -     -    -",
    "S1+S2     0.700 ± 0.010     -    -",
    "ensemble  0.300 ± 0.010     -    -",
    "",
    "r2, ablations                 S1             S2          S1+S2",
    "all as configured  0.100 ± 0.010              -  0.700 ± 0.010",
    "dropout_off        0.200 ± 0.010  0.600 ± 0.010              -",
  ]


def test_table_beside_a_baseline():
  alone = Scores({"S1_S1Ind": {"r2": stats(0.223), "rmse": stats(31.5), "mae": stats(24.0)}})
  lines = r.table(RESULTS, dataclasses.replace(RESULTS, scores=alone)).splitlines()
  assert lines[2:6] == [
    "r2           co-learned      by itself  difference",
    "S1_S1Ind  0.244 ± 0.075  0.223 ± 0.010      +0.021",
    "S2_S2Ind  0.451 ± 0.010              -           -",
    "ensemble  0.500 ± 0.010              -           -",
  ]
  assert lines[7].startswith("rmse (lower is better)") and lines[8].endswith("-0.500")
  assert max(map(len, lines)) <= 100


def test_a_mean_just_below_zero_has_no_sign_B30():
  from colearn_jax.evaluation import results

  assert results.cell_text({"mean": -0.0004, "std": 0.0}) == "0.000 ± 0.000"
