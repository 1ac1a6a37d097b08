"""Predicts the samples that the runs of a finished training held back, to fit the uncertainty of a model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from colearn_jax import config as config_lib
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import THREADS, describe, make_reader, read_index
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.uncertainty import HeldBack
from colearn_jax.storage.files import read_json
from colearn_jax.training import setup, work_directory
from colearn_jax.types import CONTEXT, Description, InputError

CHUNK = 1024  # samples in memory at a time


def held_back(workdir: str | Path, model: Model) -> HeldBack:
  """Predicts the validation parts of a model's runs, each with the run that held it back.

  Args:
    workdir: the work directory that the model was loaded from. Its prepared data set is read again.
    model: the model of one sensor.

  Raises:
    InputError: the data set cannot be opened, has changed since the training, or is not known.
  """
  workdir = Path(workdir).expanduser().absolute()
  if Description.from_json(read_json(workdir / "dataset.json")).samples is None:
    raise InputError(f"{workdir} holds imported models, whose held-back samples are not known")
  config = config_lib.restore(read_json(workdir / "config.json"))
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  modalities, index = setup.make_modalities(config, dataset), read_index(dataset)
  work_directory.check_samples(workdir, describe(dataset, modalities, index))
  parts = {run.name: run.validation for run in setup.make_runs(config, dataset, index)}
  parts = {run: parts[run][index.labelled[parts[run]]] for run in model.runs}
  rows = np.unique(np.concatenate(list(parts.values())))
  needed = [m for m in modalities if m.name in (model.modality.name, CONTEXT)]
  reader = make_reader(dataset, needed)
  out = np.full((len(model.runs), len(rows), len(model.outputs)), np.nan, np.float32)
  with ThreadPoolExecutor(THREADS) as pool:
    for own, (run, part) in zip(out, parts.items()):
      for start in range(0, len(part), CHUNK):
        some = part[start : start + CHUNK]
        samples = list(pool.map(reader, some))
        present = np.array([sample["present"][model.modality.name] > 0 for sample in samples])
        stack = lambda name: np.stack([sample["inputs"][name] for sample in samples])  # noqa: B023, used at once
        context = stack(CONTEXT) if model.context else None
        x = stack(model.modality.name)
        predicted = model.predict_runs(x, context, runs=[run], prepared=True)[0]
        own[np.searchsorted(rows, some)] = np.where(present[:, None], predicted, np.nan)
  return HeldBack(out, index.target[rows])
