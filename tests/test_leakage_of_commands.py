"""Whole trainings on two files that differ in all held-out samples train the same, bit for bit."""

import csv
import json

import jax
import numpy as np
import pytest
from colearn_jax.datasets.lfmc import lfmc_dataset_builder as lfmc
from small_runs import sources

from colearn_jax.config import load, series_settings
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import read_index
from colearn_jax.plan import Arm, Cell, Choice
from colearn_jax.storage import models
from colearn_jax.studies import arms
from colearn_jax.training import run, setup

pytestmark = pytest.mark.usefixtures("alone")

CLOSED_FORM = {
  "protocol.folds": 2,
  "model.encoder.landmarks": 12,
  "model.emb_dim": 12,
  "train.batch_size": 32,
}
FIRST, SECOND = "seed10_fold0", "seed10_fold1"


def other_rows(file, ids):
  """Rewrites a file in LFMC's layout: all that is known of these samples is another, but for their site."""
  header, *rows = list(csv.reader(file.read_text().splitlines()))
  codes = list(lfmc.LANDCOVER)
  change = dict.fromkeys(lfmc.NUMBERS, lambda cell: str(float(cell) * -3 + 50))
  change |= {name: lambda cell: str(float(cell) / 2) for name in ("longitude", "latitude")}
  change[lfmc.TARGET] = lambda cell: str(1000 + 7 * float(cell))
  change[lfmc.COVER] = lambda cell: str(codes[codes.index(int(cell)) - 1])
  change["date"] = lambda cell: str(np.datetime64(cell) + np.timedelta64(100, "D"))
  for row in rows:
    if row[0] in ids:
      row[:] = [change.get(name, str)(cell) for name, cell in zip(header, row)]
  with open(file, "w", newline="") as to:
    csv.writer(to, lineterminator="\n").writerows([header, *rows])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """The keys of a file, and of another whose samples in the test part of the first fold are others."""
  places = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
  keys = [sources(place, rows=120) for place in places]
  config = load("configs/lfmc_best.py:individual", CLOSED_FORM | keys[0])
  dataset = open_dataset(setup.prepare(config), series_settings(config))
  index = read_index(dataset)
  first, *_ = setup.make_runs(config, dataset, index)
  assert first.name == FIRST and len(first.test) > 20
  other_rows(places[1] / "manual" / lfmc.FILE, set(index.ids[first.test]))
  return keys


def same(one, other, name):
  pair = [jax.tree.leaves(models.restore(workdir / "checkpoints" / name)) for workdir in (one, other)]
  return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*pair, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("words", ["individual", "everything"])
def test_heads_in_closed_form_and_a_learnt_distance_know_no_held_out_sample(files, tmp_path, words):
  """Landmarks, quantiles, the learnt distance, the heads; with `everything` the teacher's trees as well."""
  workdirs = [tmp_path / "one", tmp_path / "other"]
  for keys, workdir in zip(files, workdirs):
    teacher = {} if words == "individual" else {"loss.trees": 4}
    run.run(load(f"configs/lfmc_best.py:{words}", CLOSED_FORM | teacher | keys), workdir)
  assert same(*workdirs, FIRST)
  assert not same(*workdirs, SECOND)  # the second fold trains with them: the test would notice
  tables = [(workdir / "predictions/S1_S1Ind.csv").read_text() for workdir in workdirs]
  assert tables[0] != tables[1]


@pytest.mark.long
def test_a_choice_by_run_knows_no_held_out_sample(files, tmp_path):
  """Candidates, their scores, what is chosen, and the models that are trained again without validation."""
  choice = Choice({"train.ridge": (0.1, 5.0)}, per="run", validation_fraction=0.3)
  arm = Arm("chosen", "Chosen", words="individual", choose=choice)
  cell = Cell("site", "By site", "lfmc_best", (arm,))
  places = [tmp_path / name / "site/chosen" for name in ("one", "other")]
  for keys, place in zip(files, places):
    given = {key: str(value) for key, value in (CLOSED_FORM | keys).items()}
    arms.train(place.parents[1], cell, arm, "r2", given)
  found = [json.loads((place / "chosen.json").read_text()) for place in places]
  scores = lambda one, name: [candidate["runs"][name] for candidate in one["candidates"]]
  assert scores(found[0], FIRST) == scores(found[1], FIRST)
  assert found[0]["chosen"][FIRST] == found[1]["chosen"][FIRST]
  assert scores(found[0], SECOND) != scores(found[1], SECOND)
  every = [f"candidates/{number}" for number in range(2)]
  every += [f"again/{number}" for number in set(found[0]["chosen"][FIRST].values())]
  for name in every:
    assert same(*(place / name for place in places), FIRST), name
    if all((place / name).exists() for place in places):
      assert not same(*(place / name for place in places), SECOND), name
