"""TFDS builder of TreeSatAI-Time-Series, forest tiles with an aerial image and satellite series.

`files.py` finds the source files and lists the samples. `arrays.py` decodes images and series. `shards.py` of
the parent folder writes them in parallel. README.md in this folder describes the data.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets import shards
from colearn_jax.datasets.place import here
from colearn_jax.datasets.treesat_ts import arrays, files
from colearn_jax.datasets.treesat_ts.files import Folder, Sample
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from colearn_jax.types import InputError

SHARD = 128  # samples in a file, about 80 MB
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
SHAPES = {
  "aerial": arrays.AERIAL,
  **{v: (None, arrays.PIXELS, arrays.PIXELS, bands) for v, (_, _, bands) in arrays.SERIES.items()},
}
MASKS = {"S2": "S2mask", "S2mask": "S2mask"}


def make_features() -> tfds.features.FeaturesDict:
  """The features of a sample. The length of series differs between samples; `dates` has their dates."""
  # Uncompressed within the files, which are compressed as a whole, so that a sample is fast to read.
  plain = lambda shape, dtype: tfds.features.Tensor(
    shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES
  )
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "views": {v: plain(shape, np.float32 if None in shape else np.uint8) for v, shape in SHAPES.items()},
      "dates": {view: plain((None,), np.int32) for view in arrays.SERIES},
      "target": tfds.features.Tensor(shape=(len(files.GENERA),), dtype=np.float32),
      "groups": {"block": tfds.features.Text()},
      "coordinates": plain((2,), np.float64),
    }
  )


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads the files of a sample, see `data_builders.shards.Reader`."""

  images: Folder
  series: Folder

  def features(self) -> tfds.features.FeaturesDict:
    """See `make_features`."""
    return make_features()

  def read(self, sample: Sample) -> dict:
    """Reads the files of a sample; InputError if one is missing or malformed."""
    image = f"{sample.id}.tif"
    views, dates = arrays.read_series(self.series.read(sample.series), self.series.where(sample.series))
    target = np.zeros(len(files.GENERA), np.float32)
    target[list(sample.genera)] = 1
    place = np.array([sample.latitude, sample.longitude])
    # Folds can be made of blocks of about 10 km, so that neighbours are in the same fold.
    cell = place[::-1] // [0.15, 0.1]
    block = "_".join(f"{n:.0f}" for n in cell) if np.isfinite(place).all() else "unknown"
    return {
      "id": sample.id,
      "views": {"aerial": arrays.read_aerial(self.images.read(image), self.images.where(image)), **views},
      "dates": dates,
      "target": target,
      "groups": {"block": block},
      "coordinates": place,
    }

  def stamp(self, sample: Sample) -> object:
    """The stamps of the sample's two files, which change when the files change."""
    return [self.images.stamp(f"{sample.id}.tif"), self.series.stamp(sample.series)]


class Builder(FileReaderBuilder):
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
