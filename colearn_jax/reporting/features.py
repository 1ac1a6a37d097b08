"""Shared, specific and unused features of a kept model, for samples of its training and its test part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import grain
import jax
import numpy as np

from colearn_jax.data.reader import READ, make_reader
from colearn_jax.data.splits import Run
from colearn_jax.methods.configured import make_network
from colearn_jax.methods.predict import normalise
from colearn_jax.reporting.samples import Data
from colearn_jax.reporting.study import Arm
from colearn_jax.storage import models

KINDS = ("shared", "specific", "unused")
TRAIN, TEST = 4000, 2000  # samples of each part that are used at most
BATCH = 256
Features = Mapping[str, Mapping[str, np.ndarray]]  # {kind: {sensor: [n D]}}


@dataclasses.dataclass(frozen=True)
class Frozen:
  """Features of one run, of labelled samples that have all sensors.

  Attributes:
    run: the run.
    train: rows of the training part.
    test: rows of the test part.
    of_train: features of `train`.
    of_test: features of `test`.
  """

  run: Run
  train: np.ndarray
  test: np.ndarray
  of_train: Features
  of_test: Features


def read(arm: Arm, data: Data, run: Run) -> Frozen | None:
  """The features of a run's kept model; None if its method has none, or the model is not there."""
  directory = arm.directory / "checkpoints" / run.name
  if models.latest(directory) < 0:
    return None
  network = make_network(data.config, data.dataset.task, data.modalities)
  kept = models.restore(directory)
  reader = make_reader(data.dataset, data.modalities)

  @jax.jit
  def forward(inputs, present):
    model = network.model(kept["params"], kept["stats"])
    outputs = network.method.forward(model, normalise(inputs, kept["values"]["inputs"]), present)
    found = getattr(outputs, "features", outputs)
    named = {kind: getattr(found, kind, None) for kind in KINDS}
    return {kind: own for kind, own in named.items() if isinstance(own, dict) and own}

  def of(rows: np.ndarray, most: int) -> tuple[np.ndarray, Features]:
    rows = rows[data.index.labelled[rows]]
    if len(rows) > most:
      rows = np.sort(np.random.default_rng(run.seed).choice(rows, most, replace=False))
    samples = list(grain.MapDataset.source(rows).map(lambda row: reader(int(row))).to_iter_dataset(READ))
    inputs = {name: np.stack([one["inputs"][name] for one in samples]) for name in samples[0]["inputs"]}
    present = {name: np.stack([one["present"][name] for one in samples]) for name in samples[0]["present"]}
    parts = [forward(*_padded(inputs, present, at)) for at in range(0, len(rows), BATCH)]
    joined = jax.tree.map(lambda *pieces: np.concatenate(pieces)[: len(rows)], *jax.device_get(parts))
    every = np.min(list(present.values()), axis=0) > 0
    return rows[every], jax.tree.map(lambda x: x[every].astype(np.float64), joined)

  train, of_train = of(run.train, TRAIN)
  if not of_train:
    return None
  test, of_test = of(run.test, TEST)
  return Frozen(run, train, test, of_train, of_test)


def _padded(inputs: Mapping, present: Mapping, at: int) -> tuple[dict, dict]:
  """A batch from row `at` on, filled up with absent samples so that all batches have one shape."""

  def fill(x: np.ndarray) -> np.ndarray:
    part = x[at : at + BATCH]
    return np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), part.dtype)])

  return {name: fill(x) for name, x in inputs.items()}, {name: fill(x) for name, x in present.items()}
