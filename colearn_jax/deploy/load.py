"""Loads the model of one sensor, from an exported folder or from a work directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from colearn_jax.deploy.model import DESCRIPTION, Model, read_exported
from colearn_jax.types import InputError


def load_model(path: str | Path, sensor: str | None = None, *, runs: Sequence[str] | None = None) -> Model:
  """Loads the model of one sensor.

  Args:
    path: a folder that `export_sensor` wrote, or the work directory of a finished training. A work directory
      needs the dependencies of the whole package.
    sensor: the modality, e.g. `S2_S2VI`. Required for a work directory.
    runs: names of the runs whose predictions are averaged, e.g. `["seed10_fold3"]`. Default: all runs except
      ablations.

  Raises:
    InputError: there is no model, or it has no such sensor or run; or a file is missing, was altered, or has
      a newer format.
  """
  path = Path(path).expanduser()
  if not (path / DESCRIPTION).is_file():
    if sensor is None:
      raise InputError(f"{path} holds no exported model: there is no {DESCRIPTION}")
    from colearn_jax.deploy.predictor import load  # imported here: exported models do not need it

    return load(path, sensor, runs=runs)
  return read_exported(path, sensor, runs=runs)
