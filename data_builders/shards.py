"""Writes large data sets in shards, in parallel and resumably.

A builder lists its samples and gives a `Reader` that reads one of them. Several processes write shards of
samples. If a build is interrupted, the next one keeps the shards that are complete and unchanged. Memory does
not grow with the size of the samples' files.
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
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from colearn_jax.datasets import bands, beam
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from colearn_jax.parallel.cores import usable_cores
from colearn_jax.storage.files import write_json
from colearn_jax.types import InputError


class Sample(Protocol):
  """What is known of a sample before its files are read. A small dataclass, as all are held in memory."""

  id: str


class Reader(Protocol):
  """Reads the samples of a data set. It is pickled and sent to worker processes."""

  def features(self) -> tfds.features.FeaturesDict:
    """The features of a sample. A view without a fixed length has the shape (None, ...)."""

  def read(self, sample: Sample) -> dict:
    """The values of a sample's features; InputError if a file is missing or malformed."""

  def stamp(self, sample: Sample) -> object:
    """Plain JSON that changes when the sample's files change, e.g. their sizes and times."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of the prepared data set, and what it is written from.

  Attributes:
    path: the file.
    samples: its samples, in order.
    reader: reads them.
    skip: whether a sample that cannot be read is left out; otherwise it is an error.
  """

  path: Path
  samples: Sequence[Sample]
  reader: Reader
  skip: bool

  @property
  def report(self) -> Path:
    """The JSON file in the same directory that is written when the shard is complete."""
    return self.path.with_suffix(".json")

  def fingerprint(self) -> str:
    """A digest of the samples and the stamps of their files."""
    made_from = [[dataclasses.astuple(sample), self.reader.stamp(sample)] for sample in self.samples]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

  def written(self) -> dict | None:
    """The report if the shard is complete and its source files have not changed; None otherwise."""
    try:
      report = json.loads(self.report.read_text(encoding="utf-8"))
      size = self.path.stat().st_size if report["examples"] else 0
    except (OSError, ValueError):
      return None
    same = report["fingerprint"] == self.fingerprint() and report["size"] == size and "bands" in report
    return report if same and (self.skip or not report["unreadable"]) else None

  def write(self) -> dict:
    """Writes the shard, then its report, each under a temporary name until it is complete."""
    features = self.reader.features()
    ragged = [view for view, feature in features["views"].items() if None in feature.shape]
    count, size, unreadable, longest = 0, 0, {}, dict.fromkeys(ragged, 0)
    counter = bands.Counter()
    # Not `storage.files.replacing`, as ArrayRecord needs a path. With Beam two machines may write one shard.
    half = self.path.with_suffix(f".{uuid.uuid4().hex}.half")
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
          counter.add(example)
          record = in_order(features.serialize_example(example))
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
        "bands": {view: found.to_json() for view, found in counter.found.items()},
      }
      write_json(self.report, report)
    finally:
      half.unlink(missing_ok=True)
    return report


def in_order(record: bytes) -> bytes:
  """A record with its features in the order of their names: a file is the same, whichever process wrote it.

  Protobuf writes them in an order that differs between processes.
  """
  return tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)


def write_shards(shards: Sequence[Shard], workers: int) -> list[dict]:
  """Writes the shards that are not complete yet, in several processes.

  After an error or an interruption the complete shards stay for the next call.

  Returns:
    The report of each shard, including those that were complete before.

  Raises:
    InputError: a sample cannot be read and its shard does not `skip` it.
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
    # Spawned, not forked: JAX runs threads, which make forking unsafe.
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
      raise InputError(
        "a process that reads samples died, perhaps because memory ran out; try fewer workers"
      ) from None
    finally:
      pool.shutdown(cancel_futures=True)
  return [reports[shard.path] for shard in shards]


def _start_worker():
  """Makes a worker finish its shard after Ctrl-C, and exit if the building process dies."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def exit_after_parent():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=exit_after_parent, daemon=True).start()


def write_splits(
  builder: FileReaderBuilder,
  splits: Mapping[str, Sequence[Sample]],
  reader: Reader,
  download_config: tfds.download.DownloadConfig,
  *,
  size: int,
) -> tuple[dict[str, int], dict[str, str]]:
  """Writes all splits of a data set; a builder calls it from `_download_and_prepare`. Keeps the order.

  Args:
    builder: the builder. Its splits are set, and in its metadata `longest`, the length of the longest series
      of each view without a fixed length, and `counts`, see `bands.facts`.
    splits: the samples of each split, at least one.
    reader: reads the samples.
    download_config: its attributes `workers` and `unreadable` are used, see `data_builders.build.build`.
      If it has `beam_options` or a `beam_runner`, as from `tfds build`, Apache Beam runs the processes.
    size: number of samples in a shard.

  Returns:
    The number of samples in each split; and for the samples that were left out the reason, by id.

  Raises:
    InputError: a sample cannot be read and `unreadable` is not `skip`, a split has no readable sample, a view
      is mostly unusable (see `bands.check`), or the builder was asked for another format than `array_record`.
  """
  if (wanted := builder.info.file_format) != tfds.core.FileFormat.ARRAY_RECORD:
    raise InputError(f"{builder.name} is written as array_record only, not as {wanted.value}")
  # Not in the directory that TFDS prepares: it is removed after an interruption.
  partial = Path(builder.data_path).parent / f"partial-{builder.version}"
  partial.mkdir(exist_ok=True)
  for half in partial.glob("*.half"):
    half.unlink()
  skip = getattr(download_config, "unreadable", "fail") == "skip"
  workers = getattr(download_config, "workers", None) or usable_cores()
  if sum(map(len, splits.values())) <= 2 * size:
    workers = 1  # starting processes would take longer
  shards = {
    split: [
      Shard(partial / f"{split}-{at:08d}.array_record", samples[at : at + size], reader, skip)
      for at in range(0, len(samples), size)
    ]
    for split, samples in splits.items()
  }
  try:
    every = [shard for some in shards.values() for shard in some]
    with_beam = [getattr(download_config, name, None) for name in ("beam_options", "beam_runner")]
    written = beam.write_shards(every, *with_beam) if any(with_beam) else write_shards(every, workers)
    reports = dict(zip((s.path for s in every), written, strict=True))
  except BaseException:
    with contextlib.suppress(OSError):  # the directory has complete shards, which stay
      partial.rmdir()
    raise

  unreadable = {name: why for report in reports.values() for name, why in report["unreadable"].items()}
  metadata = builder.info.metadata
  found = bands.joined(
    {view: bands.Found.from_json(own) for view, own in report["bands"].items()} for report in reports.values()
  )
  bands.check(found, metadata["views"])
  metadata["counts"] = bands.facts(found, metadata["views"])
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
  metadata["longest"] = {view: max(lengths[view] for lengths in longest) for view in longest[0]}
  for line in bands.lines(metadata["counts"]):
    print(f"{builder.name}: {line}", file=sys.stderr)
  for name, why in unreadable.items():
    print(f"{builder.name}: left out {name}: {why}", file=sys.stderr)
  return {info.name: sum(info.shard_lengths) for info in infos}, unreadable
