import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax import report, study
from colearn_jax.evaluation.results import Results
from colearn_jax.parallel import sharding
from colearn_jax.plan import Arm, Cell, Choice
from colearn_jax.reporting import drawing, embeddings, figures, tables
from colearn_jax.reporting import study as reported
from colearn_jax.storage.files import read_json, write_json
from colearn_jax.studies import arms, choice, folds, plans
from colearn_jax.training import run
from colearn_jax.types import InputError

PLAN = """
from colearn_jax.plan import Arm, Cell, Choice, Comparison, Study, Trees

CONFIG = "lfmc:clean,encoder=mlp"
TREES = Trees({"extra_trees": {"n_estimators": (4,), "min_samples_leaf": (2, 20)}})
ARMS = (Arm("trees", "Trees", "trees", trees=TREES), Arm("own", "Individual", words="individual"))
NESTED = Choice({"train.learning_rate": (1e-3, 1e-2)}, per="run")


def get_study(words=""):
  site = {"protocol.group_by": "site", "data.context": ("date",)}
  context = Arm("context", "Context", "context", trees=TREES)
  chosen = Arm("chosen", "Chosen", words="individual", choose=Choice({"train.learning_rate": (1e-9, 1e-2)}))
  nested = Arm("nested", "Nested", words="individual", choose=NESTED)
  cells = (
    Cell("plain/bands", "Plain", CONFIG, (*ARMS, chosen, nested), {"protocol.group_by": ""}),
    Cell("site", "By site", CONFIG, (context, *ARMS), site),
  )
  against = "own" if words == "other" else "trees"
  return Study("tiny", cells, (Comparison("plain/bands", "chosen", against),))
"""
SMALL = {
  "data.modalities": "S1,S2",
  "protocol.folds": "2",
  "model.emb_dim": "8",
  "model.encoder.layer_sizes": "4",
  "train.batch_size": "16",
  "train.max_epochs": "2",
}


@pytest.fixture(autouse=True, scope="module")
def one_device():
  """The results do not depend on the number of devices, and one is faster."""
  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    yield


def parse(*words):
  values = flags.FlagValues()
  study.define(values)
  return study.parse(["study", *words], values)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """A study file, the words of a command line for it, and a directory for studies."""
  place = tmp_path_factory.mktemp("study")
  (place / "data").mkdir()
  write_dummy(place / "data/training_features.csv", rows=64, sites=12)
  (place / "tiny.py").write_text(PLAN)
  given = SMALL | {"data.manual_dir": place / "data", "data.data_dir": place / "prepared"}
  return place, [f"--config={place / 'tiny.py'}", *(f"--config.{k}={v}" for k, v in given.items())]


def start(tiny, name, *words):
  study.main(parse(*tiny[1], f"--workdir={tiny[0] / name}", "--workers=1", *words))
  return tiny[0] / name


@pytest.fixture(scope="module")
def finished(tiny):
  return start(tiny, "finished")


def trained(monkeypatch):
  """The arms that are trained from now on. They are not really trained."""
  names = []
  monkeypatch.setattr(arms, "train", lambda place, cell, arm, *_: names.append(f"{cell.name}/{arm.name}"))
  return names


@pytest.mark.long
def test_every_arm_leaves_a_work_directory(finished, capsys):
  shown = read_json(finished / "study.json")
  assert [cell["name"] for cell in shown["cells"]] == ["plain/bands", "site"]
  first = shown["cells"][0]
  assert (first["task"], first["metric"], first["sensors"]) == ("regression", "r2", ["S1", "S2"])
  assert first["arms"][0] == {"name": "trees", "title": "Trees", "kind": "trees"}
  assert shown["comparisons"] == [
    {"cell": "plain/bands", "arm": "chosen", "against": "trees", "predictors": ["S1", "S2"]}
  ]
  for cell in shown["cells"]:
    for arm in cell["arms"]:
      place = finished / cell["name"] / arm["name"]
      results = Results.read(place / "results.json")
      names = ["context"] if arm["kind"] == "context" else ["S1", "S2"]
      assert list(results.scores.modalities) == names
      assert sorted(p.stem for p in (place / "predictions").glob("*.csv")) == names
      assert (results.protocol, results.folds, results.seeds) == ("clean", 2, (10,))
      assert results.timing["seconds"] > 0 and len(results.timing["runs"]) == 2
      assert (place / "config.json").is_file() and (place / "dataset.json").is_file()
      assert not (place / "error.txt").exists() and not list(place.glob("training/*"))
    folds.check(finished / cell["name"], [arm["name"] for arm in cell["arms"]])
  assert folds.scored_parts(finished / "site/own") != folds.scored_parts(finished / "plain/bands/own")


@pytest.mark.long
def test_other_test_parts_are_found(finished, tmp_path):
  for name, source in (("one", "site/own"), ("two", "plain/bands/own")):
    (tmp_path / name).mkdir()
    (tmp_path / name / "results.json").touch()
    (tmp_path / name / "predictions").symlink_to(finished / source / "predictions")
  folds.check(tmp_path, ["one", "not begun"])
  with pytest.raises(InputError, match=r"one and two have different test parts \(seed 10, fold 0\)"):
    folds.check(tmp_path, ["one", "two"])


@pytest.mark.long
def test_finished_arms_are_skipped(finished, tiny, monkeypatch, capsys):
  names = trained(monkeypatch)
  start(tiny, "finished")
  assert not names
  text = capsys.readouterr()
  assert "7 of 7 arms are finished already" in text.err
  assert "Plain: r2" in text.out and "Context" in text.out


@pytest.mark.long
def test_trees_continue_after_the_last_run(finished, tiny, monkeypatch, tmp_path):
  from colearn_jax.studies import trees

  fit, runs = trees.fit_run, []

  def stop(samples, inputs, tried, run, **options):
    runs.append(run.name)
    if len(runs) == 2:
      raise KeyboardInterrupt
    return fit(samples, inputs, tried, run, **options)

  monkeypatch.setattr(trees, "fit_run", stop)
  with pytest.raises(KeyboardInterrupt):
    start(tiny, "stopped", "--only=plain/bands/trees")
  start(tiny, "stopped", "--only=plain/bands/trees")
  assert runs == ["seed10_fold0", "seed10_fold1", "seed10_fold1"]
  own, whole = tiny[0] / "stopped/plain/bands/trees", finished / "plain/bands/trees"
  for sensor in ("S1", "S2"):  # the number of threads of gradient boosting decides about the last digits
    table = lambda place: np.loadtxt(place / f"predictions/{sensor}.csv", delimiter=",", skiprows=1)  # noqa: B023
    np.testing.assert_allclose(table(own), table(whole), rtol=1e-4)
  of_runs = lambda place: json.loads((place / "chosen.json").read_text())["runs"]
  picked = lambda runs: {run: {m: one["chosen"] for m, one in of.items()} for run, of in runs.items()}
  assert picked(of_runs(own)) == picked(of_runs(whole))


def test_only_some_arms_and_a_failure_among_them(tiny, monkeypatch, capsys):
  def train(place, cell, arm, *_):
    if arm.kind != "network":
      raise InputError("no trees") if arm.name == "trees" else ZeroDivisionError("a\nbug")
    write_json(place / cell.name / arm.name / "results.json", {"timing": {"seconds": 2}})

  monkeypatch.setattr(arms, "train", train)
  monkeypatch.setattr(folds, "check", lambda *_: None)
  monkeypatch.setattr("colearn_jax.studies.summary.table", lambda *_: "")
  with pytest.raises(SystemExit) as e:
    start(tiny, "failing", "--only=site")
  lines = str(e.value).splitlines()
  assert lines[:3] == [
    "2 of 3 arms failed:",
    "  site/context: ZeroDivisionError: a bug",
    "  site/trees: no trees",
  ]
  assert "--only=site/context,site/trees --config.data.modalities=S1,S2" in lines[3]
  assert "Traceback" in (tiny[0] / "failing/site/context/error.txt").read_text()
  assert (tiny[0] / "failing/site/trees/error.txt").read_text() == "no trees\n"
  assert "site/own: finished in 0 s; 1 of 3 arms, about 4 s left" in capsys.readouterr().err
  names = trained(monkeypatch)
  start(tiny, "failing", "--only=*/trees,site/con*")
  assert names == ["plain/bands/trees", "site/context", "site/trees"]
  assert not (tiny[0] / "failing/site/trees/error.txt").exists()


@pytest.mark.long
def test_another_plan_is_refused(finished, tiny, monkeypatch):
  names = trained(monkeypatch)
  place, (config, *given) = tiny
  again = [f"--workdir={finished}", "--workers=1"]
  with pytest.raises(InputError, match=r"another plan \(comparisons: .*: use another workdir, or that plan$"):
    study.main(parse(f"{config}:other", *given, *again))
  with pytest.raises(InputError, match=r"arm trees: config: train.max_epochs: 2 there, 3 here"):
    study.main(parse(config, *given, "--config.train.max_epochs=3", *again))
  digest = read_json(finished / "study.json")["digest"]
  study.main(parse(config, *given, "--config.data.workers=1", *again))  # of the machine
  assert not names and read_json(finished / "study.json")["digest"] == digest


@pytest.mark.long
def test_the_plan_is_listed(finished, tiny, capsys):
  study.main(parse(*tiny[1], f"--workdir={finished}", "--list", "--only=site/*"))
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[:3] for line in lines[1:]] == [
    ["site/context", "context", "finished"],
    ["site/trees", "trees", "finished"],
    ["site/own", "network", "finished"],
  ]


@pytest.mark.long
def test_a_setting_is_chosen_on_the_validation_part_of_candidates(finished):
  place = finished / "plain/bands/chosen"
  chosen = read_json(place / "chosen.json")
  assert [one["values"] for one in chosen["candidates"]] == [
    {"train.learning_rate": 1e-9},
    {"train.learning_rate": 0.01},
  ]
  scores = [one["score"] for one in chosen["candidates"]]
  assert chosen["chosen"] == int(np.argmax(scores)) == 1
  runs = [list(own.values()) for own in chosen["candidates"][0]["runs"].values()]
  assert scores[0] == pytest.approx(np.mean(runs))
  assert read_json(place / "config.json")["train"]["learning_rate"] == 0.01
  tests = folds.scored_parts(place)
  for number in (0, 1):
    candidate = place / "candidates" / str(number)
    assert read_json(candidate / "config.json")["protocol"]["scored"] == "validation"
    for part, ids in folds.scored_parts(candidate).items():
      assert ids and not set(ids) & set(tests[part])


@pytest.mark.long
def test_changed_test_targets_change_no_choice(finished, tiny, monkeypatch):
  """The test targets of fold 0 are changed. They are training targets of fold 1, whose scores differ."""
  tests = folds.scored_parts(finished / "plain/bands/own")[("10", "0")]

  def changed(read):
    def wrapped(dataset):
      index = read(dataset)
      wrong = np.where(np.isin(index.ids, tests)[:, None], 1000.0 - index.target, index.target)
      return dataclasses.replace(index, target=wrong.astype(np.float32))

    return wrapped

  from colearn_jax.studies import trees

  for module in (run, trees):
    monkeypatch.setattr(module, "read_index", changed(module.read_index))
  start(tiny, "changed", "--only=plain/bands/chosen,plain/bands/trees")
  one, two = (read_json(tiny[0] / w / "plain/bands/chosen/chosen.json") for w in ("finished", "changed"))
  for candidate, other in zip(one["candidates"], two["candidates"], strict=True):
    assert candidate["runs"]["seed10_fold0"] == other["runs"]["seed10_fold0"]
    assert candidate["runs"]["seed10_fold1"] != other["runs"]["seed10_fold1"]
  one, two = (read_json(tiny[0] / w / "plain/bands/trees/chosen.json") for w in ("finished", "changed"))
  assert one["runs"]["seed10_fold0"] == two["runs"]["seed10_fold0"]
  assert one["runs"]["seed10_fold1"] != two["runs"]["seed10_fold1"]


@pytest.mark.long
def test_nested_choice_predicts_with_the_model_of_each_run(finished, tiny):
  place = finished / "plain/bands/nested"
  chosen = read_json(place / "chosen.json")
  for name, predictor in itertools.product(("seed10_fold0", "seed10_fold1"), ("S1", "S2")):
    scores = [one["runs"][name][predictor] for one in chosen["candidates"]]
    assert chosen["chosen"][name][predictor] == int(np.argmax(scores))
  assert not (place / "checkpoints").exists()
  # The arm `own` has the learning rate of candidate 0, which therefore has the same models.
  rows = lambda w, fold: [
    line for line in (w / "predictions/S1.csv").read_text().splitlines()[1:] if line.split(",")[2] == fold
  ]
  for fold in "01":
    same = rows(place, fold) == rows(finished / "plain/bands/own", fold)
    assert same == (chosen["chosen"][f"seed10_fold{fold}"]["S1"] == 0)


@pytest.mark.long
def test_the_report_copes_with_models_that_were_chosen_for_each_run(finished, tmp_path):
  """A nested choice has no checkpoints and no log; trees have no network."""
  report.report(finished, tmp_path)
  text = (tmp_path / "report.md").read_text()
  row = next(line for line in text.splitlines() if line.startswith("| Nested |"))
  scores = Results.read(finished / "plain/bands/nested/results.json").scores.modalities
  assert all(tables.number(scores[m]["r2"]["mean"]) in row for m in ("S1", "S2"))
  chosen = read_json(finished / "plain/bands/nested/chosen.json")["chosen"]
  count = [own["S1"] for own in chosen.values()].count(0)
  assert f"({count} of 2 runs) |" in text and "### Chosen settings" in text
  assert "extra\\_trees n\\_estimators=4, min\\_samples\\_leaf=2" in text
  found = reported.read(finished).cells[0]
  (features,) = embeddings.sections(None, found.arms["nested"])
  assert features.title == "Nested: features" and features.text[0].startswith("Not measured")
  pytest.importorskip("matplotlib")
  alone = dataclasses.replace(found, arms={"nested": found.arms["nested"]})
  drawn = figures.sections(drawing.library(), alone, [], found.described.task, None)
  assert [section.title for section in drawn] == ["Nested: errors"]


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_the_same_command_gives_the_same_results(tiny):
  """Against a study that nobody disturbed, with processes of one core each."""
  place, words = tiny
  more = [
    "--config.checkpoint.every_epochs=1",
    "--config.train.max_epochs=6",
    "--only=plain/bands/own,site/own",
  ]

  def begin(name):
    command = [sys.executable, "-m", "colearn_jax.study", *words, *more]
    return subprocess.Popen(
      [*command, f"--workdir={place / name}", "--workers=2"], stderr=subprocess.PIPE, text=True
    )

  calm = begin("calm")
  assert calm.communicate()[1] and calm.returncode == 0
  disturbed = begin("killed")
  own = place / "killed/plain/bands/own"
  deadline = time.monotonic() + 300
  while not list(own.glob("training/*/*")) and time.monotonic() < deadline:  # a checkpoint
    time.sleep(0.02)
  printing = lambda proc: os.path.realpath(proc / "fd/1") == str(own / "output.txt")
  workers = [int(proc.name) for proc in Path("/proc").glob("[0-9]*") if printing(proc)]
  assert len(workers) == 1
  os.kill(workers[0], signal.SIGKILL)
  said = disturbed.communicate()[1]
  assert disturbed.returncode == 1 and "1 of 2 arms failed" in said and "ended with status -9" in said
  assert not (own / "results.json").exists() and (place / "killed/site/own/results.json").exists()
  again = begin("killed")
  assert "1 of 2 arms are finished already" in again.communicate()[1] and again.returncode == 0
  for arm in ("plain/bands/own", "site/own"):
    for part in ("predictions/S1.csv", "predictions/S2.csv"):
      assert (place / "killed" / arm / part).read_text() == (place / "calm" / arm / part).read_text()
    one, two = (Results.read(place / name / arm / "results.json").scores for name in ("calm", "killed"))
    assert one == two and not (place / "killed" / arm / "error.txt").exists()


def test_searches():
  def ran(choice_, score):
    search, out = choice.candidates(choice_), []
    value = next(search, None)
    while value is not None:
      out.append(tuple(value.values()))
      try:
        value = search.send(score(value))
      except StopIteration:
        value = None
    return out

  values = {"a": (1, 2, 3), "b": ("x", (4, 5))}
  every = [(a, b) for a in values["a"] for b in values["b"]]
  assert ran(Choice(values), lambda _: None) == every
  drawn = ran(Choice(values, "random", draws=4), lambda _: None)
  assert len(set(drawn)) == 4 and set(drawn) < set(every) and drawn != every[:4]
  assert drawn == ran(Choice(values, "random", draws=4), lambda _: 1.0)
  assert set(ran(Choice(values, "random", draws=99), lambda _: None)) == set(every)
  pytest.importorskip("optuna")
  score = lambda value: value["a"] if value["b"] == "x" else None
  few = ran(Choice(values, "optuna", draws=30), score)
  assert len(few) == 30 and few == ran(Choice(values, "optuna", draws=30), score)
  assert sum(b == "x" for _, b in few[10:]) > 12  # the first ten are random


NO_SCORES = Results.from_json({"dataset": "", "task": "", "method": "", "modalities": {}}).scores


def test_a_failed_candidate_is_not_chosen(tmp_path, monkeypatch):
  def train(config, workdir):
    if config["a"] != 2:
      raise InputError("diverged")
    stats = {"rmse": {"mean": 3.0, "std": None, "per_fold": [3.0, None]}}
    results = Results("d", "regression", "m", scores=dataclasses.replace(NO_SCORES, modalities={"S1": stats}))
    return dataclasses.replace(results, timing={"runs": {"seed0_fold0": {}, "seed0_fold1": {}}})

  monkeypatch.setattr(run, "train", train)
  found = choice.choose(Choice({"a": (1, 2, 3)}), "rmse", tmp_path, dict)
  assert found["chosen"] == 1 and found["candidates"][0]["error"] == "diverged"
  assert found["candidates"][1]["runs"] == {"seed0_fold0": {"S1": 3.0}, "seed0_fold1": {"S1": None}}
  with pytest.raises(InputError, match="no candidate has a score; diverged"):
    choice.choose(Choice({"a": (1, 3)}), "rmse", tmp_path, dict)


def test_a_wrong_command_line_is_refused(tiny):
  for words, message in (
    ([], "--config is missing"),
    (["--config=lfmc"], "--workdir is missing"),
    (["--config=lfmc", "--wrong=1"], "Unknown command line flag 'wrong'"),
  ):
    with pytest.raises(InputError, match=message):
      parse(*words)
  with pytest.raises(InputError, match="there is no file lfcm, did you mean lfmc"):
    plans.load("lfcm")
  with pytest.raises(
    InputError, match="--only=sites: there is no such cell or arm; cells: plain/bands, site"
  ):
    start(tiny, "finished", "--only=sites")


@pytest.mark.long
@pytest.mark.parametrize("per", ["cell", "run"])
def test_a_choice_on_a_validation_part_of_its_own_is_trained_again_without(tiny, tmp_path, per):
  values = {"protocol.validation_fraction": 0.0, "train.patience": 0, "train.keep": "last"}
  tried = Choice({"train.learning_rate": (1e-9, 1e-2)}, per=per, validation_fraction=0.3)
  chosen = Arm("chosen", "Chosen", words="individual", values=values, choose=tried)
  plain = Arm("plain", "Plain", words="individual", values=values | {"train.learning_rate": 1e-2})
  cell = Cell("site", "By site", "lfmc:clean,encoder=mlp", (chosen, plain))
  words = (word.removeprefix("--config.").partition("=") for word in tiny[1][1:])
  given = {key: value for key, _, value in words}
  for arm in cell.arms:
    arms.train(tmp_path, cell, arm, "r2", given)
  found = read_json(tmp_path / "site/chosen/chosen.json")["chosen"]
  assert found == (
    1 if per == "cell" else dict.fromkeys(("seed10_fold0", "seed10_fold1"), {"S1": 1, "S2": 1})
  )
  candidate = read_json(tmp_path / "site/chosen/candidates/1/config.json")["protocol"]
  assert (candidate["validation_fraction"], candidate["scored"]) == (0.3, "validation")
  table = "predictions/S1.csv"
  assert (tmp_path / "site/chosen" / table).read_bytes() == (tmp_path / "site/plain" / table).read_bytes()
  assert arms.runs_so_far(tmp_path / "site/chosen") == 6
