"""Gives Galileo the values of its published weights, `encoder.pt` of nasaharvest/galileo (MIT).

Names of tensors may contain an extra part `backbone`. The file `config.json` beside it has the sizes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from colearn_jax.encoders import galileo
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
  plain = lambda name: ".".join(part for part in name.split(".") if part != "backbone")
  tensors = {plain(name): tensor for name, tensor in files.read(path).items()}
  _check_sizes(path, tensors, net)
  files.check_names(path, "Galileo", tensors, _names(len(net.blocks)))
  quarter = net.width // 4
  _check_table(path, MONTHS, tensors[MONTHS], galileo.month_table(quarter)[:12])
  steps = np.arange(len(np.atleast_1d(tensors[POSITIONS])))
  _check_table(path, POSITIONS, tensors[POSITIONS], galileo.wave_table(steps, quarter))
  try:
    tensors |= _joined(tensors, net)
  except (ValueError, IndexError) as error:
    raise InputError(f"weights={path}: tensors that belong together have other shapes: {error}") from None
  files.fill(path, tensors, places(net))


def sizes(path: Path) -> dict[str, int]:
  """The sizes in the `config.json` beside a file of weights, as arguments of the encoder; {} without one.

  Raises:
    InputError: `config.json` is not what the publishers write.
  """
  path = path.with_name("config.json")
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


def _check_sizes(path: Path, tensors: Mapping[str, np.ndarray], net: galileo.Galileo) -> None:
  """Checks the sizes that the tensors have, and the number of heads if `config.json` has it."""
  first = net.blocks[0]
  own = {
    "layer_size": net.width,
    "n_layers": len(net.blocks),
    "num_heads": first.num_heads,
    "feedforward_size": first.dense.out_features,
  }
  found = {name: size for name, size in sizes(path).items() if name == "num_heads"}
  if "norm.weight" in tensors and "blocks.0.mlp.fc1.bias" in tensors:
    found |= {
      "layer_size": tensors["norm.weight"].size,
      "n_layers": next(i for i in range(len(tensors) + 1) if f"blocks.{i}.norm1.weight" not in tensors),
      "feedforward_size": tensors["blocks.0.mlp.fc1.bias"].size,
    }
  shown = lambda of: ", ".join(f"{name}={of[name]}" for name in own if name in found)
  if any(own[name] != size for name, size in found.items()):
    raise InputError(
      f"weights={path} are those of a Galileo with {shown(found)}; the encoder has {shown(own)}"
    )


def _check_table(path: Path, name: str, found: np.ndarray, expected: np.ndarray) -> None:
  """Checks a table that is computed here and not read."""
  if found.shape != expected.shape or not np.abs(found - expected).max() < 1e-4:
    raise InputError(f"weights={path}: {name} is not the table of a Galileo")


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
