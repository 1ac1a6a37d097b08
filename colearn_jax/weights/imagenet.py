"""Gives ResNets the values of pretrained weights. The tensors have the names of torchvision and timm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from colearn_jax.encoders import resnet
from colearn_jax.types import InputError
from colearn_jax.weights import tensors as files

CLASSIFIER = ("fc.weight", "fc.bias")  # not part of the encoder, ignored
COUNTER = "num_batches_tracked"  # missing in files of PyTorch before 0.4.1


def fill(path: Path, net: resnet.ResNet) -> None:
  """Gives a backbone the values of a file.

  The file must contain all variables of the backbone. It may also contain a classifier, which is ignored. If
  the first convolution has another number of bands than the sensor, it is ignored too, and the encoder's
  keeps its random values.

  Args:
    path: see `tensors.read`.
    net: the backbone, which may be abstract.

  Raises:
    InputError: the file cannot be read, has a ResNet of another depth, or does not fit.
  """
  variables = dict(_names(net))
  tensors = {name: tensor for name, tensor in files.read(path).items() if name not in CLASSIFIER}
  found = _depth(tensors)
  if found not in (None, net.depth):
    raise InputError(f"weights={path} are those of a ResNet-{found}, the encoder has depth={net.depth}")
  wanted = [name for name in variables if name in tensors or not name.endswith(COUNTER)]
  files.check_names(path, f"a ResNet-{net.depth}", tensors, wanted)
  layout = lambda tensor: np.transpose(tensor, (2, 3, 1, 0)) if tensor.ndim == 4 else tensor
  stem = net.stem.kernel
  left_out = "conv1.weight" if layout(tensors["conv1.weight"]).shape[2:3] != stem.shape[2:3] else ""
  files.fill(path, tensors, ((name, variables[name], layout) for name in tensors if name != left_out))


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
