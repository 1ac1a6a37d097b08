"""Opens the data that a run was trained on: for leakage, the map of errors, and the features of the model."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.data.dataset import Dataset, open_dataset
from colearn_jax.data.reader import READ, Index, Source, read_index
from colearn_jax.data.splits import Run
from colearn_jax.inspection.leakage import near_duplicates
from colearn_jax.inspection.scan import scan
from colearn_jax.reporting.study import Arm, Cell
from colearn_jax.storage.files import read_json
from colearn_jax.training import setup
from colearn_jax.types import CONTEXT, InputError, Modality


@dataclasses.dataclass(frozen=True)
class Data:
  """The samples of a cell, and the runs of one arm, without ablations."""

  config: ConfigDict
  dataset: Dataset
  modalities: tuple[Modality, ...]
  index: Index
  runs: tuple[Run, ...]

  @functools.cached_property
  def row_of(self) -> dict[str, int]:
    """The row of each sample by its id."""
    return {name: row for row, name in enumerate(self.index.ids.tolist())}

  @functools.cached_property
  def coordinates(self) -> np.ndarray | None:
    """Latitude and longitude `[N 2]` in degrees; None if the data set has none."""
    if not self.dataset.located:
      return None
    return self._read({"coordinates": None}, lambda sample: sample["coordinates"])

  @functools.cached_property
  def latents(self) -> dict[str, np.ndarray]:
    """The factors that a simulated data set was drawn from, `[N]` by name; empty for real data."""
    names = self.described_latents
    if not names:
      return {}
    features = {"latent": dict.fromkeys(names)}
    values = self._read(features, lambda sample: np.array([sample["latent"][name] for name in names]))
    return dict(zip(names, values.T))

  @functools.cached_property
  def described_latents(self) -> dict[str, tuple[str, ...]]:
    """For each factor of a simulated data set, the views that depend on it."""
    metadata = tfds.builder_from_directory(self.dataset.path).info.metadata or {}
    return {name: tuple(facts["views"]) for name, facts in metadata.get("latent", {}).items()}

  def _read(self, features: dict, pick: Callable[[Any], np.ndarray]) -> np.ndarray:
    source = Source(self.dataset, features)
    rows = grain.MapDataset.source(range(len(source))).map(lambda row: pick(source[row]))
    return np.stack(list(rows.to_iter_dataset(READ)))


def open_data(arm: Arm) -> Data:
  """Opens the data of an arm. Nothing is built or downloaded.

  Raises:
    InputError: the arm has no configuration, or its data are not there or were changed.
  """
  if not (arm.directory / "config.json").is_file():
    raise InputError(f"{arm.directory} has no config.json")
  config = config_lib.restore(read_json(arm.directory / "config.json"))
  root = Path(config.data.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
  if not (root.expanduser() / config.data.name.partition("/")[0]).is_dir():
    raise InputError(f"{config.data.name} is not in {root}")
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  known = (read_json(arm.directory / "dataset.json").get("samples") or {}).get("number")
  if known not in (None, len(dataset)):
    raise InputError(f"{config.data.name} has {len(dataset)} samples now, the run had {known}")
  index = read_index(dataset)
  modalities = setup.make_modalities(config, dataset)
  try:
    runs = [run for run in setup.make_runs(config, dataset, index) if not run.ablation]
  except AttributeError as error:  # a key that did not exist when the run was trained
    key = str(error).strip("\"'")
    raise InputError(f"{arm.directory} was trained by another version, without the key {key}") from None
  return Data(config, dataset, tuple(modalities), index, tuple(runs))


def data_of(cell: Cell) -> tuple[Data | None, str]:
  """The data of the first arm whose data can be opened; if there is none, why."""
  why = "no arm has a configuration"
  for arm in cell.arms.values():
    try:
      return open_data(arm), ""
    except (InputError, OSError, KeyError) as error:
      why = str(error)
  return None, why


def leakage_line(data: Data) -> str:
  """Says how many held-out samples share a window of steps with a training sample, in the first seed."""
  runs = [run for run in data.runs if run.seed == data.runs[0].seed]
  sensors = [m for m in data.modalities if m.name != CONTEXT]
  found = scan(data.dataset, data.modalities, ())
  shares = {m.name: _share(found, m.name, runs) for m in sensors}
  listed = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items())
  line = f"Held-out samples that share a window of steps with a training sample: {listed}"
  if max(shares.values()) > 0.1:
    return f"{line}. The scores then also measure how well a model recognises places that it has seen."
  return f"{line}."


def _share(found: Any, sensor: str, runs: Sequence[Run]) -> float:
  near = samples = 0
  for run in runs:
    train, test = (rows[found.present[sensor][rows] > 0] for rows in (run.train, run.test))
    near += int(near_duplicates(found.steps[sensor], train, test).sum())
    samples += len(test)
  return near / max(samples, 1)
