"""TFDS builder of the synthetic fields, which `simulator.py` simulates. README.md describes the data."""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets.common import ArrayRecords, here
from colearn_jax.datasets.synthetic import simulator

from colearn_jax.types import InputError

CROPS = tuple(simulator.CROPS)
VIEWS = {
  "S1": ((12, 2), simulator.S1_BANDS, "Sentinel-1 backscatter by month, dB, with speckle"),
  "S2": ((12, 10), simulator.S2_BANDS, "Sentinel-2 reflectance by month, 0 to 1, NaN where clouded"),
  "S2VI": ((12, 1), ("NDVI",), "normalised difference vegetation index of B8 and B4, NaN where clouded"),
  "weather": ((12, 2), simulator.WEATHER_BANDS, "monthly mean temperature, °C, and rain, mm"),
  "terrain": ((2,), simulator.TERRAIN_BANDS, "altitude, m, and slope, degrees"),
}
UNITS = {
  "S1": ["dB", "dB"],
  "S2": ["reflectance"] * 10,
  "S2VI": ["1"],
  "weather": ["°C", "mm"],
  "terrain": ["m", "degrees"],
}

# First and last + 1 of the regions in each split. A region has 100 fields.
SPLITS = {"train": (0, 30), "validation": (30, 36), "test": (36, 50)}


def _facts(view: str, shape: tuple[int, ...]) -> dict[str, object]:
  """What else is known of a view, see `colearn_jax.data.modality`."""
  return {"units": UNITS[view]} | ({"steps": "calendar"} if len(shape) == 2 else {})


class Builder(ArrayRecords, tfds.core.GeneratorBasedBuilder):
  """5000 simulated fields of 6 crops, observed by Sentinel-1, Sentinel-2 and a weather station."""

  generated = True  # from nothing, so it can always be built again
  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {"1.0.0": "Initial release.", "1.1.0": "Units of bands, and which months the steps are."}

  @staticmethod
  def sources(manual_dir):
    """Raises InputError: the data set is simulated and has no source files."""
    raise InputError(f"synthetic reads no files: leave manual_dir out, it was {manual_dir}")

  @staticmethod
  def describe(manual_dir=None) -> dict:
    """What the data set contains, see `build.describe`. Simulated fields have no date or coordinates."""
    del manual_dir
    return {
      "task": {"kind": "multiclass", "outputs": list(CROPS), "unit": "crop"},
      "views": {
        name: {"shape": shape, "bands": list(bands), **_facts(name, shape)}
        for name, (shape, bands, _) in VIEWS.items()
      },
      "groups": ["region"],
      "date": False,
      "coordinates": False,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    tensor = lambda shape: tfds.features.Tensor(shape=shape, dtype=np.float32)
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "views": {name: tensor(shape) for name, (shape, _, _) in VIEWS.items()},
          "target": tfds.features.ClassLabel(names=CROPS),
          "groups": {"region": tfds.features.Text()},
          "latent": {name: tensor(()) for name in simulator.LATENTS},
        }
      ),
      disable_shuffling=True,  # a fixed order keeps folds reproducible, and crops are in random order already
      metadata=tfds.core.MetadataDict(
        task=self.describe()["task"],
        views={
          name: {"bands": list(bands), "description": text, **_facts(name, shape)}
          for name, (shape, bands, text) in VIEWS.items()
        },
        sources={},
        latent={
          name: {"views": list(views), "from_target": from_target, "description": text}
          for name, (views, from_target, text) in simulator.LATENTS.items()
        },
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    fields = simulator.simulate()
    return {name: self.counted(self._generate_examples(fields, *regions)) for name, regions in SPLITS.items()}

  def _generate_examples(self, fields, first, last):
    for i in np.flatnonzero((fields["region"] >= first) & (fields["region"] < last)):
      example = {
        "id": f"field_{i:05d}",
        "views": {name: view[i] for name, view in fields["views"].items()},
        "target": int(fields["target"][i]),
        "groups": {"region": f"region_{fields['region'][i]:02d}"},
        "latent": {name: values[i] for name, values in fields["latent"].items()},
      }
      yield int(i), example
