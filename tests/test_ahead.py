import threading

import pytest
from small_runs import assert_same, settings

from colearn_jax.training import ahead, run, work_directory
from colearn_jax.training.on_device import OnDevice
from colearn_jax.types import InputError

pytestmark = pytest.mark.usefixtures("alone")
CO_LEARNED = "configs/lfmc.py:encoder=mlp"


@pytest.fixture
def compiled(monkeypatch):
  """The samples whose programs were compiled ahead, and by which thread."""
  found, compile_ = [], OnDevice.compile

  def record(samples, *args, **more):
    found.append((samples, threading.current_thread()))
    compile_(samples, *args, **more)

  monkeypatch.setattr(OnDevice, "compile", record)
  return found


def begin(where, tmp_path, **changes):
  """The trainings of a configuration and of its baseline, which may have other settings."""
  second = settings(where, **changes)
  return [
    run.begin(settings(where, CO_LEARNED), tmp_path / "both"),
    run.begin(second, tmp_path / "both/individual"),
  ]


@pytest.mark.long
def test_a_baseline_that_was_compiled_ahead_is_that_of_a_run_by_itself(where, tmp_path, compiled):
  run.run(settings(where, CO_LEARNED, baseline=True), tmp_path / "both")
  ((_, thread),) = compiled
  assert thread is not threading.main_thread()
  run.run(settings(where), tmp_path / "own")
  assert len(compiled) == 1  # one training has nothing to compile ahead
  assert_same(tmp_path / "both/individual", tmp_path / "own")


@pytest.mark.long
def test_the_next_training_has_the_same_table_and_its_programs(where, tmp_path, compiled):
  turns = ahead.turns(begin(where, tmp_path))
  _, first, begin_next = next(turns)
  assert not compiled
  begin_next(), begin_next()  # as in every epoch
  training, second, nothing = next(turns)
  assert [samples for samples, _ in compiled] == [second] and nothing() is None
  assert second.table is first.table and second.device_table is first.device_table
  epoch = second._programs[True]
  assert epoch._cache_size() == 1
  steps, status = [], second.status
  second.status = lambda state: steps.append(int(state.step[0])) or status(state)
  run.finish(training, second, nothing)
  assert epoch._cache_size() == 1 and second._init._cache_size() == 1
  assert next(turns, None) is None
  steps.clear()
  second.compile(training.stacks[0])
  assert steps == [0]  # it computes no epoch


def test_accelerators_and_jobs_of_several_processes_compile_in_turn(where, tmp_path, compiled, monkeypatch):
  turns = ahead.turns(begin(where, tmp_path))
  monkeypatch.setattr(ahead.jax, "process_count", lambda: 2)
  _, first, begin_next = next(turns)
  assert begin_next() is None
  _, second, _ = next(turns)
  assert not compiled and second.table is first.table


def test_what_was_begun_is_not_compiled_ahead(where, tmp_path, compiled, monkeypatch):
  trainings = begin(where, tmp_path)
  monkeypatch.setattr(work_directory, "unfinished", lambda training: training.runs[1:])
  first, second = ahead.turns(trainings)
  assert not compiled and second[1].table is first[1].table


def test_other_data_are_read_anew(where, tmp_path, compiled, monkeypatch):
  trainings = begin(where, tmp_path, data__modalities=("S2_S2Ind", "S1_S1Ind"))
  monkeypatch.setattr(work_directory, "unfinished", lambda training: ())
  first, second = ahead.turns(trainings)
  assert not compiled and second[1].table is not first[1].table


def test_an_error_of_the_next_training_comes_after_the_first(where, tmp_path, monkeypatch):
  def fail(*args, **more):
    raise InputError("no such sample")

  turns = ahead.turns(begin(where, tmp_path))
  _, _, begin_next = next(turns)
  monkeypatch.setattr(OnDevice, "compile", fail)
  begin_next()
  with pytest.raises(InputError, match="no such sample"):
    next(turns)
