"""Every fold, part and sensor is checked before the first training; unlabelled test samples are predicted."""

import csv

import jax
import numpy as np
import pytest

from colearn_jax import config
from colearn_jax.evaluation import results
from colearn_jax.evaluation.results import Results
from colearn_jax.parallel import sharding
from colearn_jax.training import run as train
from colearn_jax.training import setup
from colearn_jax.types import InputError, Task


@pytest.fixture
def fields(tmp_path, monkeypatch):
  """Writes 24 samples of two sensors; `B` is absent from the samples in `lacking`. Returns the settings."""
  one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", lambda *_: one)
  setup._mention_once.cache_clear()

  def write(targets, split=None, lacking=(), empty_band=(), regions=None, **changes):
    rng, folder = np.random.default_rng(0), tmp_path / "fields"
    more = {name: cells for name, cells in (("split", split), ("group_region", regions)) if cells}
    rows = [["id", "target", *more]]
    for view in ("A", "B"):
      (folder / view).mkdir(parents=True)
    for i, target in enumerate(targets):
      rows.append([f"s{i}", target, *(cells[i] for cells in more.values())])
      np.save(folder / f"A/s{i}.npy", rng.normal(size=3).astype(np.float32))
      x = rng.normal(size=2).astype(np.float32)
      x[1] = np.nan if i in empty_band else x[1]
      if i not in lacking:
        np.save(folder / f"B/s{i}.npy", x)
    with open(folder / "samples.csv", "w", newline="") as file:
      csv.writer(file).writerows(rows)
    settings = {"data.manual_dir": folder, "data.data_dir": tmp_path / "data", "data.modalities": "A,B"}
    settings |= {"model.encoders": {v: {"model_type": "mlp", "layer_sizes": (4,)} for v in "AB"}}
    settings |= {"model.emb_dim": 4, "train.batch_size": 8, "train.max_epochs": 1}
    return settings | ({} if split else {"protocol.folds": 2}) | changes

  return write


SPLIT = ["train"] * 12 + ["validation"] * 4 + ["test"] * 8
CLASSES = ["oak", "pine"] * 12
SECOND = set(np.array_split(np.random.RandomState(10).permutation(24), 2)[1].tolist())


@pytest.mark.long
def test_unlabelled_samples_of_the_official_test_part_are_predicted_and_not_scored_B18(fields, tmp_path):
  targets = [*CLASSES[:20], "", "", "", ""]
  got = train.run(config.load("configs/folder.py:official", fields(targets, SPLIT)), tmp_path / "run")
  assert got.scores.modalities["A"]["samples"]["mean"] == 4
  with open(tmp_path / "run/predictions/A.csv") as file:
    rows = {row["id"]: row for row in csv.DictReader(file)}
  assert set(rows) == {f"s{i}" for i in range(16, 24)}
  assert [rows[f"s{i}"]["target"] for i in range(16, 24)] == ["oak", "pine"] * 2 + [""] * 4
  assert all(row["prediction"] in ("oak", "pine") for row in rows.values())
  assert np.isfinite([float(row["probability_oak"]) for row in rows.values()]).all()


@pytest.mark.long
def test_a_test_part_without_any_label_is_predicted(fields, tmp_path, capsys):
  settings = fields([*CLASSES[:16], *[""] * 8], SPLIT)
  train.run(config.load("configs/folder.py:official", settings), tmp_path / "run")
  assert Results.read(tmp_path / "run/results.json").scores.modalities == {"A": {}, "B": {}}
  assert (tmp_path / "run/predictions/A.csv").read_text().count(",,") == 8  # empty targets
  assert " -" in capsys.readouterr().out


@pytest.mark.parametrize(
  "kind, target, prediction, written",
  [
    ("regression", [[1.5], [np.nan]], [[1.0], [2.0]], ["1.5", ""]),
    ("multilabel", [[1.0], [np.nan]], [[0.75], [0.5]], ["1", ""]),
  ],
)
def test_an_unknown_target_is_written_empty(tmp_path, kind, target, prediction, written):
  arrays = (np.array(x, np.float32) for x in (target, prediction))
  results.write_predictions(tmp_path / "x.csv", ["a", "b"], 0, 0, *arrays, Task(kind, ("y",)))
  with open(tmp_path / "x.csv") as file:
    assert [row["target_y"] for row in csv.DictReader(file)] == written


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"lacking": SECOND}, "^seed10_fold0: no sample of the training part has modality B; leave it out"),
    ({"lacking": set(range(24)) - SECOND}, "^seed10_fold1: no sample of the training part has modality B"),
    (
      {"empty_band": set(range(24)) - SECOND},
      "^seed10_fold1: band b2 of modality B has no value in the training part; ",
    ),
  ],
)
def test_a_sensor_without_a_value_is_told_before_the_first_training_B19(fields, tmp_path, changes, message):
  settings = config.load("configs/folder.py", fields(CLASSES, **changes))
  for placement in ("device", "stream"):
    settings.data.placement = placement
    with pytest.raises(InputError, match=message):
      train.run(settings, tmp_path / placement)
    assert (
      not list((tmp_path / placement).rglob("*.csv")) and not (tmp_path / placement / "checkpoints").exists()
    )


@pytest.mark.parametrize(
  "words, targets, changes, message",
  [
    pytest.param(
      "",
      CLASSES,
      {"regions": ["north", "south"] * 12, "protocol.group_by": "region"},
      "^seed10_fold0: protocol.name=clean cannot hold out a validation part .0.1. from 1 labelled groups",
      id="B16 two regions in two folds",
    ),
    pytest.param(
      ":official",
      [*CLASSES[:12], *[""] * 4, *CLASSES[16:]],
      {"split": SPLIT},
      "^protocol.split: no sample of the split 'validation' has a label",
      id="B17 a validation split without labels",
    ),
    pytest.param(
      "",
      CLASSES[:3],
      {},
      "^seed10_fold[01]: protocol.name=clean cannot hold out a validation part .* from 1 labelled samples",
      id="B17 three samples in two folds",
    ),
  ],
)
def test_parts_that_cannot_be_cut_are_told_before_the_first_training(
  fields, tmp_path, words, targets, changes, message
):
  settings = config.load(f"configs/folder.py{words}", fields(targets, **changes))
  with pytest.raises(InputError, match=message) as error:
    train.run(settings, tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run/checkpoints").exists() and not list((tmp_path / "run").rglob("*.csv"))


@pytest.mark.long
def test_splits_that_folds_do_not_use_are_mentioned_once_B27(fields, capsys, tmp_path):
  settings = fields(CLASSES, SPLIT)
  train.run(
    config.load("configs/folder.py", settings | {"baseline": True, "protocol.folds": 2}), tmp_path / "run"
  )
  line = "the splits of folder (train, validation, test) are not used: protocol.split=kfold"
  assert capsys.readouterr().err.count(line) == 1
  setup._mention_once.cache_clear()
  train.run(config.load("configs/folder.py:official", settings), tmp_path / "official")
  assert "are not used" not in capsys.readouterr().err
