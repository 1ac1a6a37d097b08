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

from colearn_jax import encoders
from colearn_jax.types import InputError
from colearn_jax.weights import galileo, imagenet, presto, tensors

LOADERS: dict[str, Callable[[Path, Any], None]] = {
  "galileo": galileo.fill,
  "presto": presto.fill,
  "resnet": imagenet.fill,
}


SIZES: dict[str, Callable[[Path], dict[str, int]]] = {"galileo": galileo.sizes, "presto": presto.sizes}


def sized(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The settings of an encoder, with the sizes of its file of weights where they are None.

  Where a file does not tell the number of heads, it is that of the published model with these sizes.

  Args:
    settings: settings of the encoder, see `encoders.make_encoder`.

  Raises:
    InputError: the file cannot be read, or does not tell a size that is needed.
  """
  path, kind = file_of(settings), settings["model_type"]
  wanted = [name for name in encoders.SIZES_OF_FILE if settings.get(name) is None]
  if path is None or kind not in SIZES or not wanted:
    return dict(settings)
  found, published = SIZES[kind](path), encoders.published_sizes(kind)
  if found and "num_heads" not in found and "num_heads" in wanted:
    if any(found[name] != published[name] for name in found):
      shown = ", ".join(f"{name}={size}" for name, size in found.items())
      raise InputError(f"weights={path} have {shown}, but do not tell their number of heads; set num_heads")
    found["num_heads"] = published["num_heads"]
  return {**settings, **{name: found[name] for name in wanted if name in found}}


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


def describe(by_sensor: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
  """The files that the settings of encoders name and that exist.

  Args:
    by_sensor: settings of encoders by sensor.

  Returns:
    `file` and `sha256` by sensor. Sensors without a file are left out.
  """
  files = {sensor: file_of(settings) for sensor, settings in by_sensor.items()}
  return {
    sensor: {"file": str(path), "sha256": tensors.digest(path)}
    for sensor, path in files.items()
    if path is not None and path.is_file()
  }
