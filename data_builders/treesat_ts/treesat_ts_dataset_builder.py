"""TFDS builder of TreeSatAI-Time-Series: see README.md beside it; `files.py` and `arrays.py` read it."""

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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tqdm import tqdm

from colearn_jax.spec import InputError
from data_builders.treesat_ts import arrays, files
from data_builders.treesat_ts.files import Folder, Sample

SHARD = 128  # samples in a file: some 80 MB
VIEWS = {
  "aerial": (("NIR", "G", "B", "R"), "aerial image, 0.2 m, 0 to 255"),
  "S1asc": (("VV", "VH"), "Sentinel-1 backscatter, ascending passes"),
  "S1des": (("VV", "VH"), "Sentinel-1 backscatter, descending passes"),
  "S2": (
    ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"),
    "Sentinel-2 surface reflectance x 10000",
  ),
  "S2mask": (("snow", "cloud"), "probability of snow and cloud in the Sentinel-2 images, %"),
}


def make_features() -> tfds.features.FeaturesDict:
  """The features of a sample; a series has its own length, and its dates beside it."""
  # Bytes as they are: the files are compressed as a whole, and reading a sample must not take long.
  plain = lambda shape, dtype: tfds.features.Tensor(
    shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES
  )
  side = arrays.PIXELS
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "views": {
        "aerial": plain(arrays.AERIAL, np.uint8),
        **{v: plain((None, side, side, bands), np.float32) for v, (_, _, bands) in arrays.SERIES.items()},
      },
      "dates": {view: plain((None,), np.int32) for view in arrays.SERIES},
      "target": tfds.features.Tensor(shape=(len(files.GENERA),), dtype=np.float32),
      "groups": {"block": tfds.features.Text()},
      "coordinates": plain((2,), np.float64),
    }
  )


def read_example(sample: Sample, images: Folder, series: Folder) -> dict:
  """Reads a sample's files; InputError if one is missing or not as published."""
  image = f"{sample.id}.tif"
  views, dates = arrays.read_series(series.read(sample.series), series.where(sample.series))
  target = np.zeros(len(files.GENERA), np.float32)
  target[list(sample.genera)] = 1
  place = np.array([sample.longitude, sample.latitude])
  # Blocks of about 10 km keep neighbours together where folds are made.
  block = "_".join(f"{n:.0f}" for n in place // [0.15, 0.1]) if np.isfinite(place).all() else "unknown"
  return {
    "id": sample.id,
    "views": {"aerial": arrays.read_aerial(images.read(image), images.where(image)), **views},
    "dates": dates,
    "target": target,
    "groups": {"block": block},
    "coordinates": place,
  }


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file to be written: where, of what, and whether a sample that cannot be read is left out."""

  path: Path
  samples: Sequence[Sample]
  images: Folder
  series: Folder
  skip: bool

  @property
  def report(self) -> Path:
    """A file beside it that is there once the shard is complete."""
    return self.path.with_suffix(".json")

  def fingerprint(self) -> str:
    """Changes with anything that the shard is made from."""
    stamps = [(self.images.stamp(f"{s.id}.tif"), self.series.stamp(s.series)) for s in self.samples]
    made_from = [str(Builder.VERSION), [dataclasses.astuple(sample) for sample in self.samples], stamps]
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
    """Writes the shard, then its report, each under another name until it is whole."""
    features = make_features()
    count, size, unreadable, longest = 0, 0, {}, dict.fromkeys(arrays.SERIES, 0)
    half = self.path.with_suffix(".half")
    try:
      writer = array_record_module.ArrayRecordWriter(str(half), "group_size:1")
      with contextlib.closing(writer):
        for sample in self.samples:
          try:
            example = read_example(sample, self.images, self.series)
          except InputError as error:
            if not self.skip:
              raise
            unreadable[sample.id] = str(error)
            continue
          record = features.serialize_example(example)
          writer.write(record)
          count, size = count + 1, size + len(record)
          longest = {view: max(n, len(example["dates"][view])) for view, n in longest.items()}
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
      half.write_text(json.dumps(report), encoding="utf-8")
      half.rename(self.report)
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


class Builder(FileReaderBuilder):
  """Forest tiles and their tree genera: an aerial image and a year of Sentinel-1 and Sentinel-2 of each."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"{files.HOW_TO_GET_IT}."

  @staticmethod
  def sources(manual_dir) -> dict[str, str]:
    """What the data set is made from, see `files.sources`; InputError if something is missing."""
    return files.sources(manual_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    views = {name: {"bands": list(bands), "description": text} for name, (bands, text) in VIEWS.items()}
    for view in ("S2", "S2mask"):
      views[view]["mask"] = "S2mask"
    return self.dataset_info_from_configs(
      features=make_features(),
      homepage="https://huggingface.co/datasets/IGNF/TreeSatAI-Time-Series",
      license="CC BY 4.0",
      disable_shuffling=True,  # the order of the published lists
      metadata=tfds.core.MetadataDict(
        task={"kind": "multilabel", "outputs": list(files.GENERA), "unit": "genus"},
        views=views,
        sources={},
        longest={},
        left_out={},
      ),
    )

  def _download_and_prepare(self, dl_manager, download_config):
    arrays.import_readers()
    try:
      manual_dir = Path(dl_manager.manual_dir)
    except AssertionError:  # TFDS says so where there is no such directory, or an empty one
      raise InputError(f"treesat_ts is not downloaded for you: {files.HOW_TO_GET_IT}") from None
    sources = self.sources(manual_dir)
    splits, without = files.read_plan(manual_dir)
    images, series = files.find_images(manual_dir), files.find_series(manual_dir)

    # Shards grow beside the prepared directory, so that an interrupted build goes on where it was.
    partial = Path(self.data_path).parent / f"partial-{self.version}"
    partial.mkdir(exist_ok=True)
    for half in partial.glob("*.half"):
      half.unlink()
    skip = getattr(download_config, "unreadable", "fail") == "skip"
    workers = getattr(download_config, "workers", None) or len(os.sched_getaffinity(0))
    shards = {
      split: [
        Shard(partial / f"{split}-{at:08d}.array_record", samples[at : at + SHARD], images, series, skip)
        for at in range(0, len(samples), SHARD)
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

    infos = []
    for split, some in shards.items():
      kept = [shard for shard in some if reports[shard.path]["examples"]]
      if not kept:
        why = next(iter(unreadable(reports).values()), "none has a genus")
        raise InputError(f"no sample of the {split} list is left: {why}")
      template = self._get_filename_template(split)
      for i, shard in enumerate(kept):
        shard.path.rename(template.sharded_filepath(shard_index=i, num_shards=len(kept)))
      lengths = [reports[shard.path]["examples"] for shard in kept]
      size = sum(reports[shard.path]["bytes"] for shard in kept)
      infos.append(tfds.core.SplitInfo(split, lengths, size, filename_template=template))
    self.info.set_splits(tfds.core.splits.SplitDict(infos))
    shutil.rmtree(partial)

    skipped = unreadable(reports)
    longest = [report["longest"] for report in reports.values()]
    metadata = self.info.metadata
    metadata["sources"] = sources
    metadata["longest"] = {view: max(lengths[view] for lengths in longest) for view in arrays.SERIES}
    metadata["left_out"] = {"without_genus": without, "unreadable": skipped}
    counts = ", ".join(f"{sum(info.shard_lengths)} {info.name}" for info in infos)
    for name, why in skipped.items():
      print(f"treesat_ts: left out {name}: {why}", file=sys.stderr)
    share = f"{files.THRESHOLD:.0%} of the area"
    left_out = f"{len(without)} without a genus on {share}, {len(skipped)} unreadable"
    print(f"treesat_ts: {counts} samples; left out: {left_out}", file=sys.stderr)


def unreadable(reports: dict) -> dict[str, str]:
  """The samples that were left out, and why."""
  return {name: why for report in reports.values() for name, why in report["unreadable"].items()}
