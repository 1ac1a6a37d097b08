"""Gives Galileo the values of its published weights, `encoder.pt` of nasaharvest/galileo (MIT).

Names may contain an extra part `backbone`. `config.json`, if it lies beside the file, says the sizes.
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
VECTORS = {"space_time": "s_t", "space": "sp", "time": "t", "static": "st"}  # of groups, by kind
PARTS = {"merge": "attn.proj", "dense": "mlp.fc1", "dense_out": "mlp.fc2"}  # dense layers of a block


def fill(path: Path, net: galileo.Galileo) -> None:
  """Gives a backbone the values of a file. Groups of bands that it does not have are left out.

  Args:
    path: see `tensors.read`.
    net: the backbone, which may be abstract.

  Raises:
    InputError: the file cannot be read or does not fit.
  """
  tensors = {_plain(name): tensor for name, tensor in files.read(path).items()}
  _check_sizes(path, tensors, net)
  files.check_names(path, f"Galileo with n_layers={len(net.blocks)}", tensors, _names(net))
  quarter = net.width // 4
  files.check_table(path, MONTHS, tensors[MONTHS], galileo.month_table(quarter)[:12])
  steps = np.arange(len(tensors[POSITIONS]))
  files.check_table(path, POSITIONS, tensors[POSITIONS], galileo.wave_table(steps, quarter))
  files.fill(path, tensors, _places(net))
