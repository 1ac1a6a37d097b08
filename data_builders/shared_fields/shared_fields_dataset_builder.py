"""TFDS builder of the synthetic fields with settings: sharedness of the sensors, and number of labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets.common import here
from colearn_jax.datasets.synthetic import simulator, synthetic_dataset_builder

from colearn_jax.types import InputError

SHAREDNESS = (0.0, 0.25, 0.5, 0.75, 1.0)
LABELS = (100, 300, 1000, 3000)


@dataclasses.dataclass
class Settings(tfds.core.BuilderConfig):
  """The settings of one data set: `sharedness`, see `simulator.simulate`, and `labels` in the split train."""

  sharedness: float = 0.0
  labels: int = LABELS[-1]


def named(sharedness: float, labels: int) -> str:
  """The name of a configuration, e.g. `s050_n300`."""
  return f"s{round(100 * sharedness):03d}_n{labels}"


class Builder(synthetic_dataset_builder.Builder):
  """5000 simulated fields of 6 crops, observed by Sentinel-1, Sentinel-2 and a weather station."""

  generated = True  # from nothing, so it can always be built again
  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release."}
  BUILDER_CONFIGS = [
    Settings(name=named(s, n), description=f"Sharedness {s:g}, {n} labels in train.", sharedness=s, labels=n)
    for s in SHAREDNESS
    for n in LABELS
  ]

  @staticmethod
  def sources(manual_dir):
    """Raises InputError: the data set is simulated and has no source files."""
    raise InputError(f"shared_fields reads no files: leave manual_dir out, it was {manual_dir}")

  @staticmethod
  def describe(manual_dir=None, config: str = "") -> dict:
    """What the data set contains, see `build.describe`; the same for all configurations."""
    del config
    return synthetic_dataset_builder.Builder.describe(manual_dir)

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    fields = simulator.simulate(sharedness=self.builder_config.sharedness)
    splits = synthetic_dataset_builder.SPLITS
    train = np.flatnonzero(fields["region"] < splits["train"][1])
    unlabelled = np.random.RandomState(0).permutation(train)[self.builder_config.labels :]
    fields["target"][unlabelled] = -1
    return {name: self.counted(self._generate_examples(fields, *regions)) for name, regions in splits.items()}
