"""What a sensor and a task are: the few frozen facts that everything else is built from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

CONTEXT = "context"  # name of the input that every sensor's encoder reads beside its own
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


def resolve_views(name: str, known: Collection[str]) -> tuple[str, ...]:
  """The views that a modality is made of: the view of that name, else several, joined with `_`.

  As views may have `_` in their own names, the longest that fits is taken first, from the left.

  Args:
    name: of the modality, e.g. `S2_S2VI`.
    known: the views that the data set has.

  Raises:
    InputError: the name cannot be cut into different views.
  """

  def cuts(rest: str) -> Iterator[tuple[str, ...]]:
    for view in sorted(known, key=len, reverse=True):
      if rest == view:
        yield (view,)
      elif rest.startswith(f"{view}_"):
        yield from ((view, *others) for others in cuts(rest[len(view) + 1 :]) if view not in others)

  if not (views := next(cuts(name), None)):
    raise InputError(
      f"modality {name!r} is not allowed; a view, or several joined with _: {', '.join(known)}"
    )
  return views
