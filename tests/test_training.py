"""A training that is stopped: by SIGTERM and SIGKILL at any moment, and by a disk that is full."""

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from small_runs import SETTINGS, assert_same, settings, train_in_process

from colearn_jax.storage import models
from colearn_jax.training import preemption, run, streaming
from colearn_jax.training.log import Log
from colearn_jax.types import InputError

pytestmark = pytest.mark.usefixtures("alone")

STREAM = {"data__placement": "stream", "checkpoint__every_minutes": 0.0}


@pytest.fixture(scope="module")
def streamed(where, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("streamed")
  run.run(settings(where, **STREAM), workdir)
  return workdir


def counted(call, hook):
  """A function that first calls `hook` with the number of the call, from 1."""
  count = []

  def wrapper(*args, **kwargs):
    count.append(1)
    hook(len(count))
    return call(*args, **kwargs)

  return wrapper


@pytest.mark.long
def test_sigterm_in_the_middle_of_a_streamed_epoch_loses_no_step(where, streamed, tmp_path, monkeypatch):
  """Four signals at seeded steps, the last during validation or between two folds."""
  rng, stops = random.Random(4), 0
  config, made, wait = settings(where, **STREAM), [], streaming._wait
  while not (tmp_path / "results.json").exists():
    at = rng.randint(2, 9) if stops < 4 else -1
    stop = lambda number, at=at: number == at and signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(streaming, "_wait", counted(wait, stop))
    try:
      with preemption.watch():
        run.run(config, tmp_path)
    except preemption.Preempted:
      stops += 1
      made += [models.progress(path)["partial"] for path in (tmp_path / "training").iterdir()]
  assert stops == 4 and any(partial for partial in made)
  assert_same(streamed, tmp_path)


@pytest.mark.long
def test_checkpoints_by_the_clock_resume_in_the_middle_of_an_epoch(where, streamed, tmp_path, monkeypatch):
  """An error takes the place of SIGKILL, which also leaves what was saved before."""
  config = settings(where, **STREAM | {"checkpoint__every_minutes": 1e-9})
  wait = streaming._wait

  def fail(number):
    if number == 3:
      raise RuntimeError("stopped")

  monkeypatch.setattr(streaming, "_wait", counted(wait, fail))
  with pytest.raises(RuntimeError, match="stopped"):
    run.run(config, tmp_path)
  (saved,) = (models.progress(path) for path in (tmp_path / "training").iterdir())
  assert saved["epoch"] == 0 and saved["partial"]["steps"] == 2
  monkeypatch.setattr(streaming, "_wait", wait)
  run.run(config, tmp_path)
  assert_same(streamed, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("replicas", [False, True])
def test_sigterm_of_a_training_on_the_device_ends_the_epoch(where, tmp_path, monkeypatch, replicas):
  config = settings(where, train__replicas=replicas, checkpoint__every_epochs=100)
  run.run(config, tmp_path / "whole")
  write, stops = Log.write, []
  stop = lambda number: number == 2 and signal.raise_signal(signal.SIGTERM)
  monkeypatch.setattr(Log, "write", counted(write, stop))
  with preemption.watch(), pytest.raises(preemption.Preempted):
    run.run(config, tmp_path / "stopped")
  stops += [models.progress(path) for path in (tmp_path / "stopped/training").iterdir()]
  assert [stop["partial"] for stop in stops] == [None] and 1 <= stops[0]["epoch"] <= 3
  run.run(config, tmp_path / "stopped")
  assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_sigterm_outside_of_training_ends_at_once_and_twice_always(monkeypatch):
  with preemption.watch(), pytest.raises(preemption.Preempted):
    signal.raise_signal(signal.SIGTERM)
  with preemption.watch(), preemption.deferred():
    signal.raise_signal(signal.SIGTERM)
    assert preemption.requested()
    with pytest.raises(preemption.Preempted):
      signal.raise_signal(signal.SIGTERM)
  assert not preemption.requested() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.long
def test_a_full_disk_while_saving_is_one_line_and_loses_nothing(where, streamed, tmp_path, monkeypatch):
  """The second checkpoint finds no space, then results.json does; each time the same command goes on."""
  config = settings(where, **STREAM)
  save, replace = models.ocp.CheckpointManager.save, os.replace

  def full(number):
    if number == 2:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(models.ocp.CheckpointManager, "save", counted(save, full))
  with pytest.raises(InputError, match="cannot save .*training/seed10_fold0: No space left on device; ") as e:
    run.run(config, tmp_path)
  assert "\n" not in str(e.value) and models.progress(tmp_path / "training/seed10_fold0")["epoch"] == 1
  monkeypatch.setattr(models.ocp.CheckpointManager, "save", save)

  def no_results(part, path):
    if str(path).endswith("results.json"):
      raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    replace(part, path)

  monkeypatch.setattr(os, "replace", no_results)
  with pytest.raises(InputError, match="cannot write .*results.json: Read-only file system; "):
    run.run(config, tmp_path)
  monkeypatch.setattr(os, "replace", replace)
  assert not list(tmp_path.glob(".*.part"))
  run.run(config, tmp_path)
  assert_same(streamed, tmp_path)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open files
def test_a_full_file_system_is_one_line_and_loses_nothing(where, streamed, tmp_path):
  """A real one of 3 MB, filled so that a checkpoint fails; after space is made the same command goes on."""
  small = tmp_path / "small"
  small.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("file systems cannot be mounted here")
  try:
    for free in (200_000, 60_000, 10_000):
      with open(small / "filler", "wb") as filler:
        space = os.statvfs(small)
        filler.write(bytes(max(space.f_bavail * space.f_frsize - free, 0)))
      with pytest.raises(InputError, match="cannot (save|write) .*No space left on device") as error:
        run.run(settings(where, **STREAM), small / "run")
      assert "\n" not in str(error.value)
      (small / "filler").unlink()
    run.run(settings(where, **STREAM), small / "run")
    assert_same(streamed, small / "run")
  finally:
    subprocess.run(["umount", str(small)], check=True)


def start(keys, workdir, cache, at=None):
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["small_runs"])
  process = context.Process(target=train_in_process, args=(keys, str(workdir), str(cache), at))
  process.start()
  return process


@pytest.mark.slow
@pytest.mark.parametrize("path", ["stream", "device", "replicas"])
def test_processes_killed_at_random_moments_end_with_the_same_bits(where, tmp_path, path):
  """Nine real processes for each data path, SIGTERM and SIGKILL in turn, at moments of a seed.

  Every third one is stopped after a random time, perhaps while it starts or builds the data set; the others
  after a random number of epochs, and a random part of a second.
  """
  keys = {
    "stream": {"data.placement": "stream", "checkpoint.every_minutes": 0.01},
    "device": {"data.placement": "device"},
    "replicas": {"data.placement": "device", "train.replicas": True},
  }[path]
  keys = {**where, **keys, "data.data_dir": str(tmp_path / "prepared"), "train.max_epochs": 12}
  whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
  log, rng, codes, began = killed / "metrics.jsonl", random.Random(path), [], time.monotonic()
  lines = lambda: log.read_text().count("\n") if log.exists() else 0
  process = start(keys, whole, cache)
  process.join()
  assert process.exitcode == 0
  took = time.monotonic() - began
  for number in range(9):
    process = start(keys, killed, cache)
    wanted = lines() + rng.randint(0, 3)
    if number % 3 == 0:
      time.sleep(took * rng.uniform(0, 0.5))
    while number % 3 and lines() < wanted and process.is_alive():
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))
    sent = signal.SIGTERM if number % 2 else signal.SIGKILL
    if process.is_alive():
      os.kill(process.pid, sent)
    process.join()
    codes.append(process.exitcode)
  print(f"{path}, seed {path!r}: exit statuses {codes}")
  assert set(codes) <= {-signal.SIGKILL, -signal.SIGTERM, preemption.EXIT_STATUS, 0}
  assert codes.count(-signal.SIGKILL) >= 3
  process = start(keys, killed, cache)
  process.join()
  assert process.exitcode == 0
  assert_same(whole, killed)


# Where a process is killed: a function, which of its calls, and how an argument ends. In this order.
PLACES = {
  "the data set is built": [
    ("os:replace", 1, "config.json"),
    ("colearn_jax.datasets.bands:Counter.add", 31),  # in the middle of its samples
    ("colearn_jax.storage.manifest:write", 1),  # built and renamed, without its checksums
    ("os:replace", 1, "dataset.json"),
  ],
  "a checkpoint is saved": [
    ("orbax.checkpoint:CheckpointManager.save", 2),
    ("colearn_jax.storage.manifest:write", 3),  # complete under a temporary name
    ("colearn_jax.storage.manifest:_flush", 9),
  ],
  "between folds": [
    ("colearn_jax.storage.models:save", 1),  # trained, the model not saved
    ("colearn_jax.training.checkpoint:remove", 1),  # saved, its checkpoints still there
    ("colearn_jax.training.checkpoint:remove", 1),  # of the second fold
  ],
  "results are written": [
    ("os:replace", 2, ".csv"),
    ("os:replace", 1, "results.json"),
  ],
}


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["stream", "device"])
def test_processes_killed_where_something_is_written_end_with_the_same_bits(where, tmp_path, placement):
  """Twelve real processes, each killed at a named place, then one that ends."""
  keys = {**where, "data.data_dir": str(tmp_path / "prepared"), "data.placement": placement}
  whole, killed, cache, codes = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache", []
  for what, places in PLACES.items():
    for at in places:
      process = start(keys, killed, cache, at)
      process.join()
      codes.append(process.exitcode)
      assert process.exitcode == -signal.SIGKILL, f"{what}, {at}: the process was not there"
  print(f"{placement}: {len(codes)} processes killed while {', '.join(PLACES)}")
  for workdir in (killed, whole):
    process = start(keys, workdir, cache)
    process.join()
    assert process.exitcode == 0
  assert_same(whole, killed)


@pytest.mark.slow
def test_the_command_ends_with_status_75(where, tmp_path):
  command = [sys.executable, "-m", "colearn_jax.main", "--config=configs/lfmc.py:individual,encoder=mlp"]
  keys = {**SETTINGS, **where, "train.max_epochs": 2000, "train.patience": 0, "train.keep": "last"}
  command += [f"--config.{key}={value}" for key, value in keys.items()]
  process = subprocess.Popen([*command, f"--workdir={tmp_path}"], stderr=subprocess.PIPE, text=True)
  while not (tmp_path / "metrics.jsonl").exists() and process.poll() is None:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=120)
  assert process.returncode == 75, said
  assert said.splitlines()[-1] == "stopped by SIGTERM; the same command resumes from the last checkpoint"
  assert models.progress(tmp_path / "training/seed10_fold0")["epoch"] >= 1
