"""Gives encoders the values of files of pretrained weights, the argument `weights` of an encoder.

A loader is called as `fill(path, net)`. It gives the variables of the backbone `net` the values of the file
at `path`, and leaves those alone that are to keep their random values. It raises InputError, in one line, if
the file does not fit. PyTorch is not needed, and no code in a file is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from colearn_jax.weights import galileo, imagenet, presto, tensors

LOADERS: dict[str, Callable[[Path, Any], None]] = {
  "galileo": galileo.fill,
  "presto": presto.fill,
  "resnet": imagenet.fill,
}


def load(settings: Mapping[str, Any], net: nnx.Module) -> dict[str, dict]:
  """Reads the pretrained values of an encoder's backbone, if its settings name a file.

  Args:
    settings: settings of the encoder, see `encoders.make_encoder`.
    net: the backbone with these settings, without values (`nnx.eval_shape`).

  Returns:
    `params` and `stats` of the backbone as nested dicts of NumPy arrays. Variables that keep their random
    values are left out. {} if the settings name no file.

  Raises:
    InputError: the file cannot be read or does not fit.
  """
  path = file_of(settings)
  if path is None:
    return {}
  LOADERS[settings["model_type"]](path, net)
  return tensors.variables(net)


def file_of(settings: Mapping[str, Any]) -> Path | None:
  """The file that the settings of an encoder name."""
  return Path(str(settings["weights"])).expanduser() if settings.get("weights") else None


def describe(encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
  """The files that the settings of encoders name and that exist.

  Args:
    encoders: settings by sensor.

  Returns:
    `file` and `sha256` by sensor. Sensors without a file are left out.
  """
  files = {sensor: file_of(settings) for sensor, settings in encoders.items()}
  return {
    sensor: {"file": str(path), "sha256": tensors.digest(path)}
    for sensor, path in files.items()
    if path is not None and path.is_file()
  }
