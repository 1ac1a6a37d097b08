"""Reads golden cases: settings and outputs of the PyTorch program, `<case>.json` and `<case>.npz`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from colearn_jax.types import InputError

Arrays = dict[str, np.ndarray]


class Case:
  """The settings and arrays of a case. It records which inputs a replay has read.

  Attributes:
    name: name of the files, without suffix.
    spec: content of the JSON file.
    arrays: arrays by key, `<family>/<name>`.
    read: keys of the inputs that a replay has read.
  """

  def __init__(self, path: Path):
    """Reads the JSON file `path`, and the `.npz` file of the same name.

    Raises:
      InputError: a file is missing, or the arrays differ from the list in the JSON file.
    """
    self.name = path.stem
    try:
      self.spec = json.loads(path.read_text())
      with np.load(path.with_suffix(".npz")) as arrays:
        self.arrays = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError) as error:
      raise InputError(f"case {self.name} cannot be read: {' '.join(str(error).split())}") from None
    listed = {key: (tuple(a["shape"]), a["dtype"]) for key, a in self["arrays"].items()}
    found = {key: (a.shape, str(a.dtype)) for key, a in self.arrays.items()}
    if odd := sorted(key for key in listed.keys() | found.keys() if listed.get(key) != found.get(key)):
      raise InputError(f"case {self.name}: {odd[0]} is not in the .npz file as the .json file lists it")
    self.read: set[str] = set()

  def __getitem__(self, setting: str) -> object:
    """Returns a setting of the JSON file; InputError if there is none."""
    if not isinstance(self.spec, dict) or setting not in self.spec:
      raise InputError(f"case {self.name}: its .json file has no {setting!r}")
    return self.spec[setting]

  def family(self, name: str) -> Arrays:
    """Returns the arrays `<name>/<key>` by key."""
    return {k.split("/", 1)[1]: a for k, a in self.arrays.items() if k.split("/", 1)[0] == name}

  def given(self, name: str) -> np.ndarray:
    """Returns the input `in/<name>` and notes that it was read."""
    if f"in/{name}" not in self.arrays:
      raise InputError(f"case {self.name} has no array in/{name}")
    self.read.add(f"in/{name}")
    return self.arrays[f"in/{name}"]

  def agree(self, what: str, *said: object) -> None:
    """Raises InputError unless all these values of a setting are equal."""
    if any(value != said[0] for value in said):
      raise InputError(f"case {self.name}: {what} is {', '.join(map(str, said))} in different places")
