"""One sensor's model, out of a work directory: what a practitioner takes home."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from colearn_jax import config as config_lib
from colearn_jax.evaluation import results
from colearn_jax.training import checkpoint, steps
from colearn_jax.training import setup as plan
from colearn_jax.types import InputError, Modality, Task


class Predictor:
  """Predicts from one modality alone; nothing of another modality is in it.

  Attributes:
    modality: what it reads: name, shape and bands of one sample.
    task: what it predicts: kind and names of the outputs.
    runs: the trainings whose models it averages, e.g. `["seed10_fold0"]`.
  """

  def __init__(self, modality: Modality, task: Task, models: dict[str, tuple[steps.Recipe, dict]]):
    self.modality, self.task, self.runs = modality, task, list(models)
    recipe = next(iter(models.values()))[0]
    self._models = [model for _, model in models.values()]
    self._predict = jax.jit(
      lambda model, x: steps.predict(
        recipe, model["params"], model["stats"], model["constants"], {modality.name: x}
      )["prediction"][modality.name]
    )

  def __call__(self, x: np.ndarray, *, batch_size: int = 1024) -> np.ndarray:
    """Predicts from raw values, the mean over the models.

    Args:
      x: `[N *shape]` in the data set's units and band order, NaN where a value is missing.
      batch_size: samples at a time; every batch has this size, so that there is one compilation.

    Returns:
      `[N C]` float32: the target in its unit, or probabilities.

    Raises:
      InputError: another shape.
    """
    x = np.asarray(x, np.float32)
    if x.shape[1:] != self.modality.shape:
      raise InputError(
        f"modality {self.modality.name} reads samples of shape {self.modality.shape}, got {x.shape[1:]}"
      )
    out = np.empty((len(x), len(self.task.outputs)), np.float32)
    for start in range(0, len(x), batch_size):
      part = x[start : start + batch_size]
      padded = np.full((batch_size, *x.shape[1:]), np.nan, np.float32)
      padded[: len(part)] = part
      out[start : start + len(part)] = np.mean(
        [self._predict(m, padded)[: len(part)] for m in self._models], 0
      )
    return out


def load(workdir: str | Path, modality: str, *, run: str | None = None) -> Predictor:
  """Loads one modality's predictor from a work directory.

  Args:
    workdir: of a finished training.
    modality: as configured there, e.g. `S2_S2Ind`.
    run: the training to take, e.g. `seed10_fold3`; by default all that are no ablations, their predictions
      averaged.

  Raises:
    InputError: no such work directory, modality or run, or it is not finished.
  """
  workdir = Path(workdir).expanduser().absolute()
  if not (workdir / "results.json").is_file():
    raise InputError(f"{workdir} holds no finished training: there is no results.json")
  config = config_lib.restore(results.read_results(workdir / "config.json"))
  described = results.read_results(workdir / "dataset.json")
  task = Task(described["task"]["kind"], tuple(described["task"]["outputs"]))
  modalities = {
    m["name"]: Modality(m["name"], tuple(m["views"]), tuple(m["shape"]), tuple(m["bands"]))
    for m in described["modalities"]
  }
  if modality not in modalities:
    raise InputError(f"{workdir} has no modality {modality!r}, have: {', '.join(modalities)}")
  have = sorted(path.name for path in (workdir / "checkpoints").iterdir())
  whole = [name for name in have if "=" not in name]  # without the ablations
  if run is not None and run not in have:
    raise InputError(f"{workdir} has no run {run!r}, have: {', '.join(have)}")
  recipe = plan.make_recipe(config, task, [modalities[modality]], main_only=True)
  models = {
    name: (recipe, checkpoint.restore_model(workdir / "checkpoints" / name, modality=modality))
    for name in ([run] if run else whole)
  }
  return Predictor(modalities[modality], task, models)
