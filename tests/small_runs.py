"""A run of a few seconds on a small generated data set, for tests of what happens to its files."""

import csv
import dataclasses
import functools
import importlib
import itertools
import json
import os
import signal
import sys

import jax
import numpy as np
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax import config
from colearn_jax.evaluation.results import Results
from colearn_jax.parallel import sharding
from colearn_jax.storage import models
from colearn_jax.training import preemption, run

SETTINGS = {
  "protocol.folds": 2,
  "model.emb_dim": 4,
  "model.encoder.layer_sizes": (6,),
  "train.batch_size": 16,
  "train.max_epochs": 3,
  "checkpoint.every_epochs": 1,
}


def one_device(patch):
  """Uses one device, which is faster than the eight simulated ones."""
  one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
  patch.setattr(sharding, "make_mesh", lambda *_: one)


def sources(folder, rows=72):
  """The keys of a small file in LFMC's layout, and of the place where it is prepared."""
  (folder / "manual").mkdir()
  write_dummy(folder / "manual/training_features.csv", rows=rows, sites=12)
  return {"data.manual_dir": str(folder / "manual"), "data.data_dir": str(folder / "prepared")}


def settings(where, preset="configs/lfmc.py:individual,encoder=mlp", **changes):
  """The configuration of a small run; keys of `changes` have `__` for dots."""
  more = {key.replace("__", "."): value for key, value in changes.items()}
  return config.load(preset, {**SETTINGS, **where, **more})


def comparable(workdir):
  """All that a run leaves and that must not depend on when it was stopped."""
  summary = dataclasses.replace(Results.read(workdir / "results.json"), timing={})
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  for line in lines:
    del line["samples_per_second"]
  restored = {p.name: models.restore(p) for p in sorted((workdir / "checkpoints").iterdir())}
  tables = {
    p.name: list(csv.reader(p.read_text().splitlines()))
    for p in sorted((workdir / "predictions").glob("*.csv"))
  }
  return {"results": summary, "metrics": lines, "models": restored, "predictions": tables}


def assert_same(one, other):
  """Compares two work directories, bit for bit."""
  one, other = comparable(one), comparable(other)
  jax.tree.map(np.testing.assert_array_equal, one.pop("models"), other.pop("models"))
  assert one == other


def die(place, number, ending=""):
  """Ends this process by SIGKILL at the `number`th call of a function, counting calls with such an argument.

  Args:
    place: `module:name`, or `module:Class.name`.
    number: from 1.
    ending: how one of the positional arguments, as text, has to end.
  """
  module, names = place.split(":")
  *owners, name = names.split(".")
  owner = functools.reduce(getattr, owners, importlib.import_module(module))
  call, counted = getattr(owner, name), itertools.count(1)

  def wrapper(*args, **kwargs):
    if any(str(arg).endswith(ending) for arg in args) and next(counted) == number:
      os.kill(os.getpid(), signal.SIGKILL)
    return call(*args, **kwargs)

  setattr(owner, name, wrapper)


def train_in_process(keys, workdir, cache, at=None):
  """Trains in a process of its own, as the command does; a signal ends it, or `die(*at)`."""
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_compilation_cache_dir", cache)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  if at is not None:
    die(*at)
  try:
    with preemption.watch():
      run.run(settings(keys), workdir)
  except preemption.Preempted:
    sys.exit(preemption.EXIT_STATUS)
