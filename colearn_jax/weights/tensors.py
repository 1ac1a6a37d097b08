"""Reads files of tensors by name, in PyTorch's or safetensors format, and fills modules with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from colearn_jax.types import InputError
from colearn_jax.weights import torch_file


def read(path: Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a state dict, by name.

  Args:
    path: a `.safetensors` file, or a file of `torch.save` with a state dict, or with a dict that has one
      under the key `state_dict`.

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


def digest(path: Path) -> str:
  """The sha256 of a file, in hexadecimal digits; InputError if it cannot be read."""
  try:
    with open(path, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise InputError(f"weights={path} cannot be read: {error.strerror}") from None


def check_names(path: Path, what: str, found: Collection[str], wanted: Collection[str]) -> None:
  """Raises InputError if names are missing in a file, or if it has others."""
  missing = [name for name in wanted if name not in found]
  unused = [name for name in found if name not in wanted]
  if missing or unused:
    raise InputError(f"weights={path} do not fit {what}: missing {some(missing)}; not used {some(unused)}")


def sizes(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
  """The sizes of a transformer with `nn.attention.Block`s, as arguments of its encoder; {} if it is none.

  The number of heads is not in the tensors.
  """
  if "norm.weight" not in tensors or "blocks.0.mlp.fc1.bias" not in tensors:
    return {}
  return {
    "layer_size": tensors["norm.weight"].size,
    "n_layers": next(i for i in range(len(tensors) + 1) if f"blocks.{i}.norm1.weight" not in tensors),
    "feedforward_size": tensors["blocks.0.mlp.fc1.bias"].size,
  }


def check_sizes(path: Path, what: str, found: Mapping[str, int], net: Any) -> None:
  """Raises InputError if a transformer has other sizes than its file.

  Args:
    path: the file, for messages.
    what: the name of the encoder, for messages.
    found: the sizes that are known of the file, see `sizes`.
    net: the backbone.
  """
  first = net.blocks[0]
  own = {
    "layer_size": net.width,
    "n_layers": len(net.blocks),
    "num_heads": first.num_heads,
    "feedforward_size": first.dense.out_features,
  }
  shown = lambda of: ", ".join(f"{name}={of[name]}" for name in own if name in found)
  if any(own[name] != size for name, size in found.items()):
    raise InputError(
      f"weights={path} are those of a {what} with {shown(found)}; the encoder has {shown(own)}"
    )


def check_table(path: Path, what: str, name: str, found: np.ndarray, expected: np.ndarray) -> None:
  """Raises InputError unless a table of a file is the one that is computed here and not read."""
  if found.shape != expected.shape or not np.abs(found - expected).max() < 1e-4:
    raise InputError(f"weights={path}: {name} is not the table of {what}")


def fill(path: Path, tensors: Mapping[str, np.ndarray], places: Iterable[tuple]) -> None:
  """Gives variables the values of tensors.

  Args:
    path: the file, for messages.
    tensors: by name.
    places: for each variable the name of its tensor, the variable, and the function that gives the tensor
      the variable's layout.

  Raises:
    InputError: a shape differs, or a value is not finite.
  """
  for name, variable, layout in places:
    ours = layout(tensors[name])
    if ours.shape != variable.shape:
      raise InputError(
        f"weights={path}: {name} has shape {ours.shape}, inputs first; the encoder's is {variable.shape}"
      )
    array = np.array(ours, variable.dtype, order="C")
    if not np.isfinite(array).all():
      raise InputError(f"weights={path}: {name} has values that are not finite")
    variable.set_value(array)


def variables(net: nnx.Module) -> dict[str, dict]:
  """`params` and `stats` of a module as nested dicts of arrays, without variables that have no values."""
  of = lambda kind: _filled(nnx.to_pure_dict(nnx.state(net, kind)))
  return {
    name: tree for name, kind in (("params", nnx.Param), ("stats", nnx.BatchStat)) if (tree := of(kind))
  }


def some(names: Sequence[str]) -> str:
  """Lists at most four names, for error messages of one line."""
  return (", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)) if names else "none"


def _filled(tree: Mapping) -> dict:
  parts = {k: _filled(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
  return {k: v for k, v in parts.items() if not isinstance(v, jax.ShapeDtypeStruct)}


Layout = Callable[[np.ndarray], np.ndarray]


def same(tensor: np.ndarray) -> np.ndarray:
  """The layout of vectors and tables."""
  return tensor


def transposed(tensor: np.ndarray) -> np.ndarray:
  """The layout of dense layers, whose kernels are `[in out]` here and `[out in]` in PyTorch."""
  return tensor.T


def linear(name: str, layer: Any) -> list[tuple[str, nnx.Variable, Layout]]:
  """The places of a dense layer, see `fill`."""
  return [(f"{name}.weight", layer.kernel, transposed), (f"{name}.bias", layer.bias, same)]


def norm(name: str, layer: Any) -> list[tuple[str, nnx.Variable, Layout]]:
  """The places of a LayerNorm, see `fill`."""
  return [(f"{name}.weight", layer.scale, same), (f"{name}.bias", layer.bias, same)]
