"""Writes large data sets as shards, from several processes, so that a stopped build goes on where it was.

A builder says what a sample is made of with a `Reader`; memory does not grow with the number of samples.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tqdm import tqdm

from colearn_jax.parallel.cores import usable_cores
from colearn_jax.storage.files import write_json
from colearn_jax.types import InputError


class Sample(Protocol):
  """What is known of a sample before its files are read: a small dataclass, for all of them are in memory."""

  id: str


class Reader(Protocol):
  """How a data set's samples are read; it is sent to other processes."""

  def features(self) -> tfds.features.FeaturesDict:
    """Of a sample; a view without a fixed length has the shape (None, ...)."""

  def read(self, sample: Sample) -> dict:
    """The example of a sample; InputError if a file is missing or not as it should be."""

  def stamp(self, sample: Sample) -> object:
    """Plain JSON that changes with the sample's files."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file to be written: where, of what, and whether a sample that cannot be read is left out."""

  path: Path
  samples: Sequence[Sample]
  reader: Reader
  skip: bool

  @property
  def report(self) -> Path:
    """A file beside it that is there once the shard is complete."""
    return self.path.with_suffix(".json")

  def fingerprint(self) -> str:
    """Changes with anything that the shard is made from."""
    made_from = [[dataclasses.astuple(sample), self.reader.stamp(sample)] for sample in self.samples]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

  def written(self) -> dict | None:
    """The report of a shard that was completed before, from the same files."""
    try:
      report = json.loads(self.report.read_text(encoding="utf-8"))
      size = self.path.stat().st_size if report["examples"] else 0
    except (OSError, ValueError):
      return None
    same = report["fingerprint"] == self.fingerprint() and report["size"] == size
    return report if same and (self.skip or not report["unreadable"]) else None

  def write(self) -> dict:
    """Writes the shard, then its report; each has another name until it is complete."""
    features = self.reader.features()
    ragged = [view for view, feature in features["views"].items() if None in feature.shape]
    count, size, unreadable, longest = 0, 0, {}, dict.fromkeys(ragged, 0)
    half = self.path.with_suffix(".half")  # ArrayRecord writes to a name, not into an open file
    try:
      writer = array_record_module.ArrayRecordWriter(str(half), "group_size:1")
      with contextlib.closing(writer):
        for sample in self.samples:
          try:
            example = self.reader.read(sample)
          except InputError as error:
            if not self.skip:
              raise
            unreadable[sample.id] = str(error)
            continue
          record = features.serialize_example(example)
          writer.write(record)
          count, size = count + 1, size + len(record)
          longest = {view: max(n, len(example["views"][view])) for view, n in longest.items()}
      if count:
        half.rename(self.path)
      report = {
        "fingerprint": self.fingerprint(),
        "examples": count,
        "bytes": size,
        "size": self.path.stat().st_size if count else 0,
        "unreadable": unreadable,
        "longest": longest,
      }
      write_json(self.report, report)
    finally:
      half.unlink(missing_ok=True)
    return report


def write_shards(shards: Sequence[Shard], workers: int) -> list[dict]:
  """Writes those shards that are not complete yet, in several processes, and returns the reports of all.

  What is complete when an error or an interruption ends it is kept for the next time.

  Raises:
    InputError: if a sample cannot be read and is not to be left out.
  """
  reports = {shard.path: report for shard in shards if (report := shard.written())}
  todo = [shard for shard in shards if shard.path not in reports]
  with tqdm(total=sum(len(s.samples) for s in shards), desc="Reading", unit=" samples", disable=None) as bar:
    bar.update(sum(len(shard.samples) for shard in shards if shard.path in reports))
    if min(workers, len(todo)) < 2:
      for shard in todo:
        reports[shard.path] = shard.write()
        bar.update(len(shard.samples))
      return [reports[shard.path] for shard in shards]
    # Not forked: a process that runs JAX has threads.
    pool = concurrent.futures.ProcessPoolExecutor(
      min(workers, len(todo)), multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
      futures = {pool.submit(Shard.write, shard): shard for shard in todo}
      for future in concurrent.futures.as_completed(futures):
        shard = futures.pop(future)
        reports[shard.path] = future.result()
        bar.update(len(shard.samples))
    except concurrent.futures.process.BrokenProcessPool:
      raise InputError("a process that reads samples died, for want of memory? Try fewer workers") from None
    finally:
      pool.shutdown(cancel_futures=True)
  return [reports[shard.path] for shard in shards]


def _start_worker():
  """A worker finishes its shard when the build is interrupted, and ends with the process that builds."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def follow():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=follow, daemon=True).start()


def write_splits(
  builder: FileReaderBuilder,
  splits: Mapping[str, Sequence[Sample]],
  reader: Reader,
  download_config: tfds.download.DownloadConfig,
  *,
  size: int,
) -> tuple[dict[str, int], dict[str, str]]:
  """Does what TFDS asks of `_download_and_prepare`; samples keep their order.

  Args:
    builder: whose splits and metadata (`longest`, of each view without a fixed length) are set.
    splits: the samples of each, at least one.
    reader: of them.
    download_config: says how many `workers` there are and whether what is `unreadable` is left out, see
      `data_builders.build.build`.
    size: samples in a shard.

  Returns:
    The number of samples in each split, and why some were left out, by their ids.

  Raises:
    InputError: if a sample cannot be read and is not to be left out, or none of a split is left.
  """
  # Shards grow beside the prepared directory, so that an interrupted build goes on where it was.
  partial = Path(builder.data_path).parent / f"partial-{builder.version}"
  partial.mkdir(exist_ok=True)
  for half in partial.glob("*.half"):
    half.unlink()
  skip = getattr(download_config, "unreadable", "fail") == "skip"
  workers = getattr(download_config, "workers", None) or usable_cores()
  if sum(map(len, splits.values())) <= 2 * size:
    workers = 1  # others would take longer to start
  shards = {
    split: [
      Shard(partial / f"{split}-{at:08d}.array_record", samples[at : at + size], reader, skip)
      for at in range(0, len(samples), size)
    ]
    for split, samples in splits.items()
  }
  try:
    every = [shard for some in shards.values() for shard in some]
    reports = dict(zip((s.path for s in every), write_shards(every, workers), strict=True))
  except BaseException:
    with contextlib.suppress(OSError):  # there are complete shards in it
      partial.rmdir()
    raise

  unreadable = {name: why for report in reports.values() for name, why in report["unreadable"].items()}
  infos = []
  for split, some in shards.items():
    kept = [shard for shard in some if reports[shard.path]["examples"]]
    if not kept:
      raise InputError(f"no sample of the {split} part is left: {next(iter(unreadable.values()))}")
    template = builder._get_filename_template(split)
    for i, shard in enumerate(kept):
      shard.path.rename(template.sharded_filepath(shard_index=i, num_shards=len(kept)))
    lengths = [reports[shard.path]["examples"] for shard in kept]
    total = sum(reports[shard.path]["bytes"] for shard in kept)
    infos.append(tfds.core.SplitInfo(split, lengths, total, filename_template=template))
  builder.info.set_splits(tfds.core.splits.SplitDict(infos))
  shutil.rmtree(partial)

  longest = [report["longest"] for report in reports.values()]
  builder.info.metadata["longest"] = {view: max(lengths[view] for lengths in longest) for view in longest[0]}
  for name, why in unreadable.items():
    print(f"{builder.name}: left out {name}: {why}", file=sys.stderr)
  return {info.name: sum(info.shard_lengths) for info in infos}, unreadable
