"""Trainings in processes of one core each, compared with trainings one after another, bit for bit."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_runs import SETTINGS, assert_same, settings

from colearn_jax.parallel.workers import Answer
from colearn_jax.training import preemption, run, setup, side_by_side
from colearn_jax.types import InputError

pytestmark = pytest.mark.usefixtures("alone")

METHOD = "configs/lfmc.py:method=kd,encoder=mlp"  # with a teacher
MORE = {"baseline": True, "train__workers": 2}


@pytest.fixture(scope="module")
def opened(where, tmp_path_factory):
  """A training of two folds that is only opened."""
  return run.open_training(settings(where), tmp_path_factory.mktemp("opened"))


def chosen(training, monkeypatch, runs=2, cores=2, devices=1, **changes):
  """The number of processes for these settings."""
  monkeypatch.setattr(side_by_side, "usable_cores", lambda: cores)
  monkeypatch.setattr("jax.device_count", lambda: devices)
  config = training.config.copy_and_resolve_references()
  with config.unlocked():
    for key, value in ({"train__workers": 0} | changes).items():
      group, name = key.split("__")
      config[group][name] = value
  return side_by_side.number([dataclasses.replace(training, config=config)], runs)


def test_the_number_of_processes_on_cpus(opened, monkeypatch):
  of = lambda **changes: chosen(opened, monkeypatch, **changes)
  assert of() == 2 and of(runs=10, cores=4) == 4
  assert of(runs=1) == of(cores=1) == of(devices=8) == of(runs=3, cores=4) == 1
  assert of(train__replicas=True) == of(data__placement="stream") == 1
  small = setup.table_fits
  monkeypatch.setattr(setup, "table_fits", lambda *args: not args[3:] and small(*args))
  assert of() == 1 and of(train__workers=2) == of(train__workers=5) == 2 and of(train__workers=1) == 1
  with pytest.raises(InputError, match=r"^train.workers: train.replicas=True trains all runs as one"):
    of(train__workers=2, train__replicas=True)
  monkeypatch.setattr("jax.default_backend", lambda: "gpu")
  assert of() == 1
  with pytest.raises(InputError, match=r"^train.workers: processes cannot share an accelerator"):
    of(train__workers=2)


@pytest.mark.parametrize(
  ("answer", "line"),
  [
    (Answer(0, {"error": "bad"}), "bad"),
    (Answer(0, None, -9), "seed10_fold0: the process that trained it was killed by signal 9; the same comm"),
    (Answer(0, None, 1), "seed10_fold0: the process that trained it ended with status 1; the same command"),
  ],
)
def test_a_run_that_failed_is_one_line_and_the_others_are_stopped(
  opened, monkeypatch, tmp_path, answer, line
):
  stopped = []

  class Pool:
    def __init__(self, module, number):
      pass

    def __enter__(self):
      return self

    def __exit__(self, *error):
      pass

    def each(self, jobs):
      assert [job["run"] for job in jobs] == ["seed10_fold0", "seed10_fold1"]
      yield from (answer, None, Answer(1, {"stopped": True}))

    def terminate(self):
      stopped.append(1)

  monkeypatch.setattr(side_by_side.workers, "Workers", Pool)
  monkeypatch.setattr(side_by_side, "number", lambda *_: 2)
  with pytest.raises(InputError, match=f"^{line}") as error:
    side_by_side.fit([dataclasses.replace(opened, workdir=tmp_path)])
  assert "\n" not in str(error.value) and stopped == [1]


@pytest.mark.long
def test_side_by_side_gives_the_same_bits_as_one_after_another(where, tmp_path):
  """Teachers, a baseline and ablations; the log has the same lines in the same order."""
  for number in (1, 2):
    config = settings(where, METHOD, **MORE | {"train__workers": number})
    run.run(config, tmp_path / str(number))
  for part in ("", "individual", *(f"teachers/{p.name}" for p in (tmp_path / "1/teachers").iterdir())):
    assert_same(tmp_path / "1" / part, tmp_path / "2" / part)


@pytest.mark.slow
def test_sigterm_and_sigkill_of_processes_end_with_the_same_bits(where, tmp_path):
  """SIGTERM to the first process saves all trainings; a killed worker is one line; both are resumed."""
  settings_ = {**SETTINGS, **where, "protocol.folds": 3, "train.max_epochs": 60, "train.patience": 0}
  command = [sys.executable, "-m", "colearn_jax.main", "--config=configs/lfmc.py:individual,encoder=mlp"]
  command += [f"--config.{key}={value}" for key, value in settings_.items()]
  begin = lambda name, *more: subprocess.Popen(
    [*command, f"--workdir={tmp_path / name}", *more], stderr=subprocess.PIPE, text=True
  )

  def until_it_trains(process, lines):
    log = tmp_path / "disturbed/metrics.jsonl"
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < lines):
      time.sleep(0.02)

  calm = begin("calm", "--config.train.workers=1")
  first = begin("disturbed", "--config.train.workers=2")
  until_it_trains(first, 6)
  first.send_signal(signal.SIGTERM)
  said = first.communicate()[1]
  assert first.returncode == preemption.EXIT_STATUS, said
  assert said.splitlines()[-1] == "stopped by SIGTERM; the same command resumes from the last checkpoint"
  assert len(list((tmp_path / "disturbed/training").iterdir())) == 2  # both have a checkpoint
  second = begin("disturbed", "--config.train.workers=2")
  until_it_trains(second, 60)
  below = subprocess.run(["ps", "-o", "pid=", "--ppid", str(second.pid)], capture_output=True, text=True)
  os.kill(int(below.stdout.split()[0]), signal.SIGKILL)
  said = second.communicate()[1]
  assert second.returncode == 1 and "was killed by signal 9; the same command" in said.splitlines()[-1]
  third = begin("disturbed", "--config.train.workers=2")
  said = third.communicate()[1]
  assert third.returncode == calm.wait() == 0, said
  calm.communicate()
  assert_same(tmp_path / "calm", tmp_path / "disturbed")
  names = [json.loads(line)["run"] for line in open(tmp_path / "disturbed/metrics.jsonl")]
  assert names == sorted(names)
