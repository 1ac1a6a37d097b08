"""Plans of studies, and the processes that train their arms."""

import contextlib
import dataclasses

import pytest

from colearn_jax import schema
from colearn_jax.methods import METHODS
from colearn_jax.parallel.workers import Answer
from colearn_jax.plan import Arm, Cell, Choice, Comparison, Study
from colearn_jax.studies import arms, plans, schedule, worker
from colearn_jax.types import InputError

ONE = Arm("one", "One")


def plan(arm=ONE, cell="cell", values=None, comparisons=(), **options):
  return Study(
    "s", (Cell(cell, "", "lfmc:clean", (arm, Arm("two", "")), values or {}, **options),), comparisons
  )


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    (plan(cell="a/../b"), "names of cells and arms have letters"),
    (plan(dataclasses.replace(ONE, name="two")), "cell/two is given twice"),
    (plan(comparisons=(Comparison("cell", "one", "three"),)), "comparisons: there is no arm cell/three"),
    (plan(values={"train.max_epochs": 3}), r"train.max_epochs is not allowed; data.\* and protocol.\*"),
    (plan(Arm("one", "", "forest")), "kind 'forest' is not allowed"),
    (plan(Arm("one", "", "trees", choose=Choice({}))), "choose is for networks"),
    (plan(Arm("one", "", choose=Choice({}, "random"))), "search=random needs draws"),
    (plan(Arm("one", "", choose=Choice({"protocol.folds": (2, 3)}))), "protocol.folds cannot be chosen"),
    (plan(Arm("one", "", values={"protocol.folds": 3})), "one and two of cell cell differ in protocol.folds"),
    (
      plan(Arm("one", "", "trees"), values={"protocol.name": "paper"}),
      "validation part; protocol.name=clean",
    ),
    (plan(Arm("one", "", values={"train.epochs": 3})), "arm cell/one: unknown key 'train.epochs'"),
    (plan(metric="accuracy"), "metric 'accuracy', have: r2, rmse, mae"),
  ],
)
def test_a_wrong_plan_is_refused(wrong, message, tmp_path, monkeypatch):
  monkeypatch.setattr(plans.config_lib, "call", lambda spec, path, function, words: wrong)
  (tmp_path / "plan.py").touch()
  # Configurations are read by the real function.
  monkeypatch.setattr(plans, "load", lambda spec: checked(wrong))
  with pytest.raises(InputError, match=message):
    monkeypatch.undo()
    plans.claim(checked(wrong), {}, tmp_path)


def checked(wrong):
  for problem in plans._problems(wrong):
    raise InputError(problem)
  return wrong


def test_plans_of_the_package_are_allowed(tmp_path):
  assert {"ablations", "bloom", "lfmc", "methods", "sharedness", "synthetic"} <= set(plans.presets())
  others = ("ablations:lfmc", "methods:lfmc,1", "methods:bloom")
  for name in (*sorted(set(plans.presets()) - {"pretrained"}), *others):
    shown = plans.claim(plans.load(name), {}, tmp_path / name)
    assert shown["cells"] and shown["comparisons"]
  with pytest.raises(InputError, match="words are missing: pretrained:DATA,WEIGHTS"):
    plans.load("pretrained")
  with pytest.raises(InputError, match="'wheat' is not allowed; one of: synthetic, lfmc"):
    plans.load("ablations:wheat")
  with pytest.raises(InputError, match="'lfmc,9' is not allowed; one of synthetic, lfmc, bloom, then a"):
    plans.load("methods:lfmc,9")


def test_the_study_of_methods_has_every_method_and_alignment():
  """Each method stands in some arm, and no two arms are the same."""
  (cell,) = plans.load("methods").cells
  configs = [plans.configuration(cell, arm, {}) for arm in cell.arms if arm.kind == "network"]
  assert {config.method for config in configs} == set(METHODS)
  aligned = {(c.loss.alignment, c.loss.negatives) for c in configs if c.method == "mdico"}
  assert {one for one, _ in aligned} == {"ntxent", "mmd", "coral", "grl"}
  assert ("ntxent", "cross") in aligned
  assert len({str(dict(schema.flat(config))) for config in configs}) == len(configs)
  lfmc = plans.load("methods:lfmc").cells[0]
  assert {arm.name for arm in cell.arms} - {arm.name for arm in lfmc.arms} == {"dkd"}


def test_ablations_change_one_thing_each(tmp_path):
  """Every arm differs from MDiCo in the keys that it names, and no two arms are the same."""
  study_ = plans.load("ablations")
  (cell,) = study_.cells
  configs = {arm.name: dict(schema.flat(plans.configuration(cell, arm, {}))) for arm in cell.arms}
  plain = configs["mdico"]
  for arm in cell.arms[2:]:
    changed = {key: value for key, value in configs[arm.name].items() if value != plain[key]}
    assert changed == dict(arm.values) and changed, arm.name
  assert len({str(config) for config in configs.values()}) == len(cell.arms)
  assert {one.arm for one in study_.comparisons} == set(configs) - {"mdico"}
  terms = ("auxiliary", "contrastive", "discriminative")
  assert all(configs[f"no_{term}"][f"loss.{term}"] == 0.0 for term in terms)


def test_processes_that_end_are_seen(tmp_path, monkeypatch):
  """Two arms succeed, one has an error, and the process of one is killed."""
  answers = {"a": Answer(0, {"error": ""}), "b": Answer(1, {"error": "bad"}), "c": Answer(2, None, -6)}

  class Pool(contextlib.nullcontext):
    def __init__(self, module, number, reuse):
      assert (module, number, reuse) == ("colearn_jax.studies.worker", 3, False)
      self.enter_result = self

    def each(self, told, started):
      assert [job["arm"] for job in told] == ["a", "b", "c"] and told[0]["given"] == {"k": "v"}
      started(0), started(1), started(2)
      yield from (answers["b"], None, answers["c"], answers["a"])

  monkeypatch.setattr(schedule, "Workers", Pool)
  jobs = [schedule.Job(Cell("cell", "", "", ()), Arm(name, ""), "r2") for name in answers]
  lines = []
  progress = schedule.Progress(tmp_path, jobs, 3, lines.append)
  errors = schedule.in_processes(jobs, progress, {"k": "v"}, "spec", show_every=0.0)
  assert errors["cell/b"] == "bad" and "ended with status -6; see" in errors["cell/c"]
  assert "ended with status -6" in (tmp_path / "cell/c/error.txt").read_text()
  assert list(errors) == ["cell/b", "cell/c"] and any("running: cell/" in line for line in lines)


def test_the_process_of_an_arm_answers_and_prints_to_its_file(tmp_path, monkeypatch):
  moved = []
  monkeypatch.setattr("os.dup2", lambda file, stream: moved.append(stream))
  monkeypatch.setattr(plans, "load", lambda spec: plan())
  monkeypatch.setattr(arms, "attempt", lambda place, cell, arm, metric, given: given["error"])
  told = {"config": "s", "cell": "cell", "arm": "two", "workdir": "w", "metric": "r2"}
  told["log"] = str(tmp_path / "cell/two/output.txt")
  for error in ("", "bad"):
    assert worker.train(told | {"given": {"error": error}}) == {"error": error}
  assert moved == [1, 2, 1, 2] and (tmp_path / "cell/two/output.txt").exists()


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (61, "1 min 01 s"), (7500, "2 h 05 min")])
def test_durations(seconds, text):
  assert schedule.spell(seconds) == text
