"""Gives Presto the values of its published weights, `default_model.pt` of nasaharvest/presto (MIT).

Tensors of the encoder have names that begin with `encoder.`. The decoder is not needed and is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from colearn_jax.encoders import presto
from colearn_jax.encoders.groups import month_table
from colearn_jax.weights import tensors as files

PREFIX, DECODER = "encoder.", "decoder."
MONTHS, POSITIONS, GROUPS = "month_embed.weight", "pos_embed", "channel_embed.weight"


def fill(path: Path, net: presto.Presto) -> None:
  """Gives a backbone the values of a file. Groups of bands that it does not have are left out.

  Args:
    path: see `tensors.read`.
    net: the backbone, which may be abstract.

  Raises:
    InputError: the file cannot be read or does not fit.
  """
  tensors = _read(path)
  files.check_sizes(path, "Presto", files.sizes(tensors), net)
  files.check_names(path, "Presto", tensors, names(net))
  quarter = net.width // 4
  files.check_table(path, "a Presto", MONTHS, tensors[MONTHS], month_table(quarter)[:12])
  positions = tensors[POSITIONS].reshape(-1, tensors[POSITIONS].shape[-1])
  expected = presto.position_table(len(positions), 2 * quarter)
  files.check_table(path, "a Presto", POSITIONS, positions, expected)
  files.fill(path, tensors, places(net))


def sizes(path: Path) -> dict[str, int]:
  """The sizes of the encoder in a file, as arguments of the encoder, without the number of heads.

  Raises:
    InputError: the file cannot be read.
  """
  return files.sizes(_read(path))


def _read(path: Path) -> dict[str, np.ndarray]:
  """The tensors of the encoder."""
  given = {name: tensor for name, tensor in files.read(path).items() if not name.startswith(DECODER)}
  return {name.removeprefix(PREFIX): tensor for name, tensor in given.items()}


def places(net: presto.Presto) -> Iterator[tuple]:
  """The variables of the backbone, see `tensors.fill`."""
  order = [list(presto.GROUPS).index(group) for group in net.groups]
  yield GROUPS, net.vectors, lambda table: table[order]
  for group in net.groups:
    if group == presto.CLASSES:
      yield "dw_embed.weight", net.embed[group].embedding, files.same
    else:
      yield from files.linear(f"eo_patch_embed.{group}", net.embed[group])
  if net.place is not None:
    yield from files.linear("latlon_embed", net.place)
  for i, block in enumerate(net.blocks):
    yield from files.norm(f"blocks.{i}.norm1", block.norm)
    yield from files.linear(f"blocks.{i}.attn.qkv", block.project)
    yield from files.linear(f"blocks.{i}.attn.proj", block.merge)
    yield from files.norm(f"blocks.{i}.norm2", block.dense_norm)
    yield from files.linear(f"blocks.{i}.mlp.fc1", block.dense)
    yield from files.linear(f"blocks.{i}.mlp.fc2", block.dense_out)
  yield from files.norm("norm", net.norm)


def names(net: presto.Presto) -> list[str]:
  """The names of all tensors of the encoder in a file, whatever groups the backbone has."""
  both = lambda name: [f"{name}.weight", f"{name}.bias"]
  parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
  layered = [f"blocks.{i}.{part}" for i in range(len(net.blocks)) for part in parts]
  groups = [f"eo_patch_embed.{group}" for group in presto.GROUPS if group != presto.CLASSES]
  pairs = [name for layer in ("latlon_embed", *groups, *layered, "norm") for name in both(layer)]
  return [POSITIONS, MONTHS, GROUPS, "dw_embed.weight", *pairs]
