"""Reads pretrained weights of ResNets from PyTorch and safetensors files.

The tensors must have the names of torchvision and timm. PyTorch is not needed, and no code in the file is
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import resnet
from colearn_jax.types import InputError
from colearn_jax.weights import torch_file

CLASSIFIER = ("fc.weight", "fc.bias")  # not part of the encoder, ignored
COUNTER = "num_batches_tracked"  # missing in files of PyTorch before 0.4.1


def load(settings: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, dict]:
  """Reads the pretrained values of an encoder's backbone, if its settings name a file (`weights`).

  The file must contain all variables of the backbone. It may also contain a classifier, which is ignored. If
  the first convolution has another number of bands than the sensor, it is ignored too, and the encoder's
  keeps its random values.

  Args:
    settings: settings of the encoder, see `encoders.make_encoder`.
    shape: shape of one sample, (H, W, C).

  Returns:
    `params` and `stats` of the backbone as nested dicts of NumPy arrays. Variables that keep their random
    values are left out. {} if the settings name no file.

  Raises:
    InputError: the file cannot be read, has a ResNet of another depth, or does not fit.
  """
  if not settings.get("weights"):
    return {}
  path = Path(str(settings["weights"])).expanduser()
  depth = settings.get("depth", encoders.arguments("resnet")["depth"])
  net = nnx.eval_shape(lambda: resnet.ResNet(shape, depth=depth, rngs=nnx.Rngs(0)))
  variables = dict(_names(net))
  tensors = {name: tensor for name, tensor in read(path).items() if name not in CLASSIFIER}
  found = _depth(tensors)
  if found not in (None, depth):
    raise InputError(f"weights={path} are those of a ResNet-{found}, the encoder has depth={depth}")
  missing = [name for name in variables if name not in tensors and not name.endswith(COUNTER)]
  unused = [name for name in tensors if name not in variables]
  if missing or unused:
    raise InputError(
      f"weights={path} do not fit a ResNet-{depth}: missing {_some(missing)}; not used {_some(unused)}"
    )
  for name, tensor in tensors.items():
    variable = variables[name]
    ours = np.transpose(tensor, (2, 3, 1, 0)) if tensor.ndim == 4 else tensor
    if name == "conv1.weight" and ours.shape[2] != shape[-1]:
      continue
    if ours.shape != variable.shape:
      there = np.empty(variable.shape).transpose(3, 2, 0, 1).shape if variable.ndim == 4 else variable.shape
      raise InputError(f"weights={path}: {name} has shape {tensor.shape}, the encoder's is {there}")
    array = np.array(ours, variable.dtype, order="C")
    if not np.isfinite(array).all():
      raise InputError(f"weights={path}: {name} has values that are not finite")
    variable.set_value(array)
  of = lambda kind: _filled(nnx.to_pure_dict(nnx.state(net, kind)))
  return {"params": of(nnx.Param), "stats": of(nnx.BatchStat)}


def read(path: Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a state dict, by name.

  Args:
    path: a `.safetensors` file, or a file of `torch.save` with a state dict, or with a dict that has one
    under the
      key `state_dict`.

  Raises:
    InputError: there is no such file, it cannot be read, or it holds something else.
  """
  if not path.is_file():
    raise InputError(f"weights={path}: there is no such file")
  if path.suffix == ".safetensors":
    return _read_safetensors(path)
  content = torch_file.read(path)
  if isinstance(content, dict) and "state_dict" in content:
    content = content["state_dict"]
  if not isinstance(content, dict) or not content:
    raise InputError(f"weights={path} hold no state dict")
  for name, value in content.items():
    if not isinstance(value, np.ndarray):
      raise InputError(f"weights={path} hold no state dict: {name} is no tensor")
  return content


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
  try:
    import safetensors.numpy
  except ImportError:
    line = "safetensors files are read with safetensors: pip install 'colearn_jax[safetensors]'"
    raise InputError(line) from None
  try:
    return safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
    raise InputError(f"weights={path} cannot be read: {' '.join(str(error).split())}") from None


def _names(net: resnet.ResNet) -> Iterator[tuple[str, nnx.Variable]]:
  """Yields every variable of the backbone with its name in the file."""
  yield from _unit("conv1", "bn1", net.stem)
  for number, stage in enumerate(net.stages, 1):
    for position, block in enumerate(stage):
      where = f"layer{number}.{position}"
      for i, unit in enumerate(block.units, 1):
        yield from _unit(f"{where}.conv{i}", f"{where}.bn{i}", unit)
      if block.project is not None:
        yield from _unit(f"{where}.downsample.0", f"{where}.downsample.1", block.project)


def _unit(conv: str, norm: str, unit: resnet.Unit) -> Iterator[tuple[str, nnx.Variable]]:
  yield f"{conv}.weight", unit.kernel
  yield f"{norm}.weight", unit.norm.scale
  yield f"{norm}.bias", unit.norm.bias
  yield f"{norm}.running_mean", unit.norm.mean
  yield f"{norm}.running_var", unit.norm.var
  yield f"{norm}.{COUNTER}", unit.norm.batches


def _depth(names: Mapping[str, object]) -> int | None:
  """Finds the depth of a ResNet from its tensor names; None if no ResNet has as many blocks."""
  count = lambda pattern: next(i for i in range(len(names) + 1) if pattern.format(i) not in names)
  blocks = tuple(count(f"layer{stage}.{{}}.conv1.weight") for stage in range(1, 5))
  convs = 3 if "layer1.0.conv3.weight" in names else 2
  return next((depth for depth, stages in resnet.STAGES.items() if stages == (blocks, convs)), None)


def _some(names: Sequence[str]) -> str:
  """Lists at most four names, for error messages of one line."""
  return (", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)) if names else "none"


def _filled(tree: Mapping) -> dict:
  """Drops variables without values from a tree."""
  parts = {k: _filled(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
  return {k: v for k, v in parts.items() if not isinstance(v, jax.ShapeDtypeStruct)}
