"""Streams a training for minutes and watches memory, open files and the time of a step.

    python -m benchmarks.soak [--minutes=60] [--samples=4096] [--dir=DIR]
    python -m benchmarks.soak --million [--samples=1000000] [--dir=DIR]

The first prints the resident memory, the file descriptors, the threads and the median time of a step of every
minute, and what they grow by in an hour (the slope of a line through all minutes but the first two, in which
programs are compiled and caches are filled). The second builds a data set of so many samples with small
bands, opens, indexes and splits it and trains one step, each with its time, that of all processors, and the
peak of memory until then.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets import shards
from colearn_jax.datasets.common import ArrayRecords
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from colearn_jax import config as config_lib
from colearn_jax.config import series_settings
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import read_index
from colearn_jax.parallel.cores import usable_cores
from colearn_jax.storage import manifest
from colearn_jax.training import setup
from colearn_jax.training.streaming import Streamed

SHARD = 10_000  # samples in a file
VIEWS = {"S1": ("VV", "VH"), "S2": ("red", "nir", "swir")}


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A sample that is drawn when it is read."""

  id: str
  number: int


@dataclasses.dataclass(frozen=True)
class Reader:
  """Draws samples, see `data_builders.shards`: two sensors that tell the target, with noise."""

  def features(self) -> tfds.features.FeaturesDict:
    """Of a sample."""
    tensor = lambda shape, dtype=np.float32: tfds.features.Tensor(shape=shape, dtype=dtype)
    return tfds.features.FeaturesDict(
      {
        "id": tfds.features.Text(),
        "views": {view: tensor((len(bands),)) for view, bands in VIEWS.items()},
        "target": tensor((1,)),
        "groups": {"site": tfds.features.Text()},
      }
    )

  def read(self, sample: Drawn) -> dict:
    """The values of a sample; those of one number are always the same."""
    rng = np.random.default_rng(sample.number)
    target = rng.normal(size=1).astype(np.float32)
    view = lambda bands: (target + rng.normal(size=len(bands))).astype(np.float32)
    return {
      "id": sample.id,
      "views": {name: view(bands) for name, bands in VIEWS.items()},
      "target": target,
      "groups": {"site": f"site_{sample.number % 1000}"},
    }

  def stamp(self, sample: Drawn) -> object:
    """Nothing changes."""
    return sample.number


def builder(root: Path) -> FileReaderBuilder:
  """A builder of drawn samples. Its number of samples is the attribute `samples`."""

  class Builder(ArrayRecords, FileReaderBuilder):
    VERSION = tfds.core.Version("1.0.0")
    name = "drawn"
    samples = 0

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self,
        features=Reader().features(),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(
          task={"kind": "regression", "outputs": ["y"], "unit": ""},
          views={view: {"bands": list(bands), "description": ""} for view, bands in VIEWS.items()},
          sources={},
          longest={},
          counts={},
        ),
      )

    def _download_and_prepare(self, dl_manager, download_config):
      drawn = [Drawn(f"s{number:07d}", number) for number in range(self.samples)]
      shards.write_splits(self, {"train": drawn}, Reader(), download_config, size=SHARD)

  return Builder(data_dir=root)


def build(root: Path, samples: int) -> Path:
  """Writes the data set, if it is not there, and returns its directory."""
  made = builder(root)
  if not Path(made.data_path).exists():
    type(made).samples = samples
    made.download_and_prepare(download_config=tfds.download.DownloadConfig())
    manifest.write(made.data_path)
  return Path(made.data_path)


def configured():
  """A small network of two sensors on streamed batches that never stops. The data are not the preset's."""
  keys = {
    "data.placement": "stream",
    "data.modalities": "S1,S2",
    "protocol.folds": 2,
    "protocol.name": "clean",
  }
  keys |= {"model.emb_dim": 8, "model.encoder.layer_sizes": (8,), "train.batch_size": 64}
  keys |= {"train.max_epochs": 10**9, "train.patience": 0, "train.keep": "last"}
  return config_lib.load("configs/lfmc.py:encoder=mlp", keys)


def samples_of(path: Path) -> tuple[Streamed, list]:
  """The streamed samples of the data set, and its runs."""
  config = configured()
  dataset = open_dataset(path, series_settings(config))
  modalities, index = setup.make_modalities(config, dataset), read_index(dataset)
  runs = setup.make_runs(config, dataset, index)
  recipe = setup.make_recipe(config, dataset.task, modalities)
  return setup.make_samples(config, recipe, dataset, modalities, index), runs


def now() -> dict[str, float]:
  """Resident memory in MiB, open file descriptors and threads of this process."""
  fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
  return {
    "MiB": int(fields["VmRSS"].split()[0]) / 1024,
    "files": len(os.listdir("/proc/self/fd")),
    "threads": int(fields["Threads"]),
  }


def soak(path: Path, minutes: float, every: float = 60.0) -> list[dict[str, float]]:
  """Trains for so many minutes; what was seen at the end of every `every` seconds."""
  samples, runs = samples_of(path)
  run, seen, took = runs[0], [], []
  began = mark = last = time.monotonic()

  def pause(state, partial) -> None:
    nonlocal mark, last
    del partial
    jax.block_until_ready(state.step)
    moment = time.monotonic()
    took.append(moment - last)
    last = moment
    if moment - mark >= every:
      seen.append({"minute": (moment - began) / 60, "step_ms": 1000 * float(np.median(took)), **now()})
      print("| " + " | ".join(f"{value:.1f}" for value in seen[-1].values()) + " |", flush=True)
      mark, took[:] = moment, []
    if moment - began >= 60 * minutes:
      raise TimeoutError

  print("| minute | step, ms | memory, MiB | files | threads |\n|---|---|---|---|---|", flush=True)
  state = samples.init([run])
  try:
    with samples.epochs([run], state, pause=pause) as epoch:
      while True:
        state, _ = epoch(state)
  except TimeoutError:
    return seen


def slopes(seen: list[dict[str, float]]) -> dict[str, float]:
  """What each figure grows by in an hour, in per cent of its mean; without the first two rows."""
  kept = seen[2:]
  minutes = np.array([row["minute"] for row in kept])
  out = {}
  for name in ("step_ms", "MiB", "files", "threads"):
    values = np.array([row[name] for row in kept])
    out[name] = 60 * np.polyfit(minutes, values, 1)[0] / values.mean() * 100
  return out


def used() -> tuple[float, float]:
  """Processor seconds so far, and the peak of memory in MiB; those of ended processes included."""
  own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
  seconds = sum(one.ru_utime + one.ru_stime for one in (own, ended))
  return seconds, max(own.ru_maxrss, ended.ru_maxrss) / 1024


def steps_of_a_million(root: Path, samples: int) -> Iterator[tuple[str, float, float, float]]:
  """What is done, its seconds, its processor seconds, and the peak of memory until then, see `used`."""

  def timed(name, call):
    began, before = time.monotonic(), used()[0]
    found = call()
    after, peak = used()
    return found, (name, time.monotonic() - began, after - before, peak)

  path, row = timed("build", lambda: build(root, samples))
  yield row
  config = configured()
  dataset, row = timed("open", lambda: open_dataset(path, series_settings(config)))
  yield row
  index, row = timed("index", lambda: read_index(dataset))
  yield row
  _, row = timed("index again", lambda: read_index(dataset))
  yield row
  runs, row = timed("split", lambda: setup.make_runs(config, dataset, index))
  yield row
  (made, runs), row = timed("statistics and state", lambda: _begun(path))
  yield row
  samples, state = made
  _, row = timed("first step", lambda: _first_step(samples, runs[0], state))
  yield row


def _begun(path: Path):
  samples, runs = samples_of(path)
  return (samples, samples.init(runs[:1])), runs


def _first_step(samples: Streamed, run, state) -> None:
  def stop(now, partial) -> None:
    del partial
    jax.block_until_ready(now.step)
    raise TimeoutError

  try:
    with samples.epochs([run], state, pause=stop) as epoch:
      epoch(state)
  except TimeoutError:
    pass


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
  parser.add_argument("--minutes", type=float, default=60.0)
  parser.add_argument("--samples", type=int)
  parser.add_argument("--million", action="store_true", help="builds, indexes, splits and begins")
  parser.add_argument("--dir", type=Path, help="where the data set is kept; default: it is deleted")
  given = parser.parse_args()
  if given.minutes < 5:
    parser.error("--minutes: 5 or more")
  with tempfile.TemporaryDirectory() as place:
    root = given.dir or Path(place)
    if given.million:
      print(
        f"{usable_cores()} cores\n| | seconds | of processors | peak, MiB |\n|---|---|---|---|", flush=True
      )
      for name, seconds, processors, mib in steps_of_a_million(root, given.samples or 1_000_000):
        print(f"| {name} | {seconds:.1f} | {processors:.1f} | {mib:.0f} |", flush=True)
      return
    found = slopes(soak(build(root, given.samples or 4096), given.minutes))
    print("growth in an hour: " + ", ".join(f"{name} {share:+.1f} %" for name, share in found.items()))


if __name__ == "__main__":
  main()
