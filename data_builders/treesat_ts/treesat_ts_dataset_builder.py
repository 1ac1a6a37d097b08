"""TFDS builder of TreeSatAI-Time-Series, forest tiles with an aerial image and satellite series.

`files.py` finds the source files and lists the samples. `reader.py` reads a sample, `arrays.py` decodes its
image and series. `shards.py` of the parent folder writes samples in parallel. README.md in this folder
describes the data.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow_datasets as tfds
from colearn_jax.datasets import shards
from colearn_jax.datasets.common import ArrayRecords, here
from colearn_jax.datasets.treesat_ts import arrays, files
from colearn_jax.datasets.treesat_ts.reader import MASKS, SHAPES, VIEWS, Reader, make_features
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from colearn_jax.types import InputError

SHARD = 128  # samples in a file, about 80 MB


class Builder(ArrayRecords, FileReaderBuilder):
  """Forest tiles and their tree genera, each with an aerial image and a year of Sentinel-1 and Sentinel-2."""

  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release.", "2.0.0": "Coordinates are latitude, then longitude."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"{files.HOW_TO_GET_IT}."

  @staticmethod
  def sources(manual_dir) -> dict[str, str]:
    """The digests of the source files, see `files.sources`; InputError if one is missing."""
    return files.sources(manual_dir)

  @staticmethod
  def describe(manual_dir=None) -> dict:
    """What the data set contains, see `build.describe`. Series have dates, but samples have none."""
    del manual_dir
    mask = lambda view: {"mask": MASKS[view]} if view in MASKS else {}
    return {
      "task": {"kind": "multilabel", "outputs": list(files.GENERA), "unit": "genus"},
      "views": {
        name: {"shape": shape, "bands": list(VIEWS[name][0]), **mask(name)} for name, shape in SHAPES.items()
      },
      "groups": ["block"],
      "date": False,
      "coordinates": True,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    views = {name: {"bands": list(bands), "description": text} for name, (bands, text) in VIEWS.items()}
    for view, mask in MASKS.items():
      views[view]["mask"] = mask
    return self.dataset_info_from_configs(
      features=make_features(),
      homepage="https://huggingface.co/datasets/IGNF/TreeSatAI-Time-Series",
      license="CC BY 4.0",
      disable_shuffling=True,  # the order of the published lists
      metadata=tfds.core.MetadataDict(
        task=self.describe()["task"],
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
    except AssertionError:  # TFDS raises it if the directory does not exist or is empty
      raise InputError(f"treesat_ts has to be downloaded by hand: {files.HOW_TO_GET_IT}") from None
    sources = self.sources(manual_dir)
    splits, without = files.read_plan(manual_dir)
    for split, samples in splits.items():
      if not samples:
        raise InputError(f"no sample of the {split} part is left: none has a genus")
    reader = Reader(files.find_images(manual_dir), files.find_series(manual_dir))
    counts, unreadable = shards.write_splits(self, splits, reader, download_config, size=SHARD)
    self.info.metadata["sources"] = sources
    self.info.metadata["left_out"] = {"without_genus": without, "unreadable": unreadable}
    left_out = (
      f"{len(without)} without a genus on {files.THRESHOLD:.0%} of the area, {len(unreadable)} unreadable"
    )
    counts = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"treesat_ts: {counts} samples; left out: {left_out}", file=sys.stderr)
