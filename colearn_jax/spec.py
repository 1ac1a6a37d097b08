"""What a sensor and a task are: the few frozen facts that everything else is built from."""

from __future__ import annotations

import dataclasses

KINDS = ("binary", "multiclass", "multilabel", "regression")


class InputError(ValueError):
  """Something a user gave is wrong; the message is one line: what, where, what is allowed.

  The command line prints the message alone; any other exception is a bug and keeps its trace.
  """


@dataclasses.dataclass(frozen=True)
class Modality:
  """One sensor's input: views of the data set joined on the last axis.

  Attributes:
    name: as configured, e.g. `S2_S2VI`.
    views: the stored views it is made of, in order, e.g. `("S2", "S2VI")`.
    shape: of one sample, channels last: `(T, C)` for a series, `(C,)` for static values.
    bands: the name of each of the C bands.
  """

  name: str
  views: tuple[str, ...]
  shape: tuple[int, ...]
  bands: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Task:
  """What is predicted.

  Attributes:
    kind: one of `KINDS`.
    outputs: the name of each model output: the classes (two for `binary`), the labels of a
      multi-label task, or the target columns of a regression.
  """

  kind: str
  outputs: tuple[str, ...]

  def __post_init__(self):
    """Rejects a kind that does not exist."""
    if self.kind not in KINDS:
      raise InputError(f"unknown task kind {self.kind!r}, have: {', '.join(KINDS)}")

  @property
  def classes(self) -> bool:
    """Whether a sample has exactly one class."""
    return self.kind in ("binary", "multiclass")
