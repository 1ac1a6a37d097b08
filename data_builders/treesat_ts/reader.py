"""Reads the samples of TreeSatAI-Time-Series, and says what is in one."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets.treesat_ts import arrays, files
from colearn_jax.datasets.treesat_ts.files import Folder, Sample

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
  """Reads the files of a sample, see `data_builders.shards.Reader`.

  It has a module of its own, because worker processes import it by name. `tfds build` gives the builder's
  module a name that only its own process knows.
  """

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
