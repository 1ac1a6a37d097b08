"""Gives Galileo the values of its published weights, `encoder.pt` of nasaharvest/galileo (MIT).

Names of tensors may contain an extra part `backbone`. The file `config.json` beside it tells
the sizes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from colearn_jax.encoders import galileo
from colearn_jax.encoders.groups import month_table
from colearn_jax.types import InputError
from colearn_jax.weights import tensors as files

MONTHS, POSITIONS = "month_embed.weight", "pos_embed"
VECTORS = {"space_time": "s_t", "space": "sp", "time": "t", "static": "st"}  # of the groups of a kind
BLOCK = {"norm": "norm1", "dense_norm": "norm2", "project": "attn.qkv", "merge": "attn.proj",
         "dense": "mlp.fc1", "dense_out": "mlp.fc2"}  # fmt: skip
JOINED = "qkv"  # queries, keys and values are one layer here, and three in the file
JOINED_VECTORS = "channel_embed"  # of all kinds


def fill(path: Path, net: galileo.Galileo) -> None:
  """Gives a backbone the values of a file. Groups of bands that it does not have are left out.

  Args:
    path: see `tensors.read`.
    net: the backbone, which may be abstract.

  Raises:
    InputError: the file cannot be read or does not fit.
  """
  tensors = _read(path)
  files.check_sizes(path, "Galileo", _sizes(path, tensors), net)
  files.check_names(path, "Galileo", tensors, _names(len(net.blocks)))
  quarter = net.width // 4
  files.check_table(path, "a Galileo", MONTHS, tensors[MONTHS], month_table(quarter)[:12])
  steps = np.arange(len(np.atleast_1d(tensors[POSITIONS])))
  expected = galileo.wave_table(steps, quarter)
  files.check_table(path, "a Galileo", POSITIONS, tensors[POSITIONS], expected)
  try:
    tensors |= _joined(tensors, net)
  except (ValueError, IndexError) as error:
    raise InputError(f"weights={path}: tensors that belong together have other shapes: {error}") from None
  files.fill(path, tensors, places(net))


def sizes(path: Path) -> dict[str, int]:
  """The sizes of the encoder in a file, as arguments of the encoder.

  Without `config.json` beside the file, the number of heads is not known.

  Raises:
    InputError: the file cannot be read; `config.json` is not what the publishers write, or belongs to another
      file.
  """
  return _sizes(path, _read(path))


def _read(path: Path) -> dict[str, np.ndarray]:
  plain = lambda name: ".".join(part for part in name.split(".") if part != "backbone")
  return {plain(name): tensor for name, tensor in files.read(path).items()}


def _sizes(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
  found, beside = files.sizes(tensors), _sizes_beside(path.with_name("config.json"))
  if different := [name for name in found if name in beside and found[name] != beside[name]]:
    name = different[0]
    raise InputError(
      f"weights={path} have {name}={found[name]}, but config.json beside them says {beside[name]}; "
      "the two files of one model are needed"
    )
  return found | beside if found else {}


def _sizes_beside(path: Path) -> dict[str, int]:
  """The sizes in `config.json`; {} if there is no such file."""
  if not path.is_file():
    return {}
  try:
    given = json.loads(path.read_text())["model"]["encoder"]
    width = given["embedding_size"]
    return {
      "layer_size": int(width),
      "n_layers": int(given["depth"]),
      "num_heads": int(given["num_heads"]),
      "feedforward_size": int(width * given["mlp_ratio"]),
    }
  except (OSError, ValueError, KeyError, TypeError) as error:
    line = f"no entry {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    raise InputError(f"{path} has no sizes of a Galileo: {line}") from None


def _joined(tensors: Mapping[str, np.ndarray], net: galileo.Galileo) -> dict[str, np.ndarray]:
  """The tensors of variables that the file has in several tensors."""
  row = lambda group: list(galileo.KINDS[galileo.KIND[group]]).index(group)
  out = {
    JOINED_VECTORS: np.stack([tensors[vectors(galileo.KIND[group])][row(group)] for group in net.groups])
  }
  for name in (f"blocks.{i}.attn" for i in range(len(net.blocks))):
    for kind in ("weight", "bias"):
      out[f"{name}.{JOINED}.{kind}"] = np.concatenate([tensors[f"{name}.{part}.{kind}"] for part in JOINED])
  return out


def places(net: galileo.Galileo) -> Iterator[tuple]:
  """The variables of the backbone, see `tensors.fill`."""
  yield JOINED_VECTORS, net.vectors, files.same
  for group in net.groups:
    embed, name = net.embed[group], _embed(group)
    yield f"{name}.weight", embed.kernel, _inputs_first
    yield f"{name}.bias", embed.bias, files.same
  for i, block in enumerate(net.blocks):
    for ours, theirs in BLOCK.items():
      yield from (files.norm if "norm" in ours else files.linear)(
        f"blocks.{i}.{theirs}", getattr(block, ours)
      )
  yield from files.norm("norm", net.norm)


def _inputs_first(tensor: np.ndarray) -> np.ndarray:
  """The layout of kernels `[out in ...]` in PyTorch, `[... in out]` here."""
  return np.moveaxis(tensor, (1, 0), (-2, -1)) if tensor.ndim > 1 else tensor


def vectors(kind: str) -> str:
  """The name of the table with a vector for each group of a kind."""
  return f"{VECTORS[kind]}_channel_embed"


def _embed(group: str) -> str:
  """The name of the layer that embeds a group."""
  kind = galileo.KIND[group]
  return f"{kind}_embed.{group}" + ".proj" * ("space" in kind)


def _names(n_layers: int) -> list[str]:
  """The names of all tensors in a file, whatever groups the backbone has."""
  parts = [*(part for part in BLOCK.values() if JOINED not in part), *(f"attn.{part}" for part in JOINED)]
  named = [
    "norm",
    *map(_embed, galileo.GROUPS),
    *(f"blocks.{i}.{part}" for i in range(n_layers) for part in parts),
  ]
  both = [f"{name}.{kind}" for name in named for kind in ("weight", "bias")]
  return [POSITIONS, MONTHS, *map(vectors, VECTORS), *both]
