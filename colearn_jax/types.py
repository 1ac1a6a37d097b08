"""The basic types of the package: `Modality`, `Task`, `Description` and `InputError`.

A `Modality` is the input of one sensor (views, shape, bands). A `Task` is what is predicted (classes, labels
or regression targets). A `Description` joins both for a data set and is what `dataset.json` stores.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

CONTEXT = "context"  # name of the input that the encoders of all sensors read in addition to their own
# Columns of a context: the day of the year, the location as a point of the sphere, and the time.
DATE_COLUMNS = ("date_sin", "date_cos")
UNIT_VECTOR = ("place_x", "place_y", "place_z")
TIME_COLUMN = "time_years"
MONTH = "month"  # the last band of a modality with `Modality.months`
CALENDAR, MONTHLY = "calendar", "month"  # what the steps of a series are, see `data.modality`
STEPS = f"{CALENDAR}, {MONTHLY}, or a number of days such as 30 days"
KINDS = ("binary", "multiclass", "multilabel", "regression")


def is_steps(text: object) -> bool:
  """Whether the text is one of `STEPS`."""
  named = (CALENDAR, MONTHLY)
  return isinstance(text, str) and (text in named or re.fullmatch(r"[1-9]\d* days", text) is not None)


class InputError(ValueError):
  """An error in the user's input. The message is one line: what is wrong, where, and what is allowed.

  The command line prints only the message. Any other exception is a bug and is shown with its traceback.
  """


@dataclasses.dataclass(frozen=True)
class Modality:
  """The input of one sensor: one or more views of the data set, concatenated on the last axis.

  Attributes:
    name: name in the configuration, e.g. `S2_S2VI`.
    views: the views of the data set that it consists of, in order, e.g. `("S2", "S2VI")`.
    shape: shape of one sample, channels last, e.g. `(T, C)` for a series, `(C,)` for static values.
    bands: names of the C bands.
    units: unit of each band, empty if unknown; () if none is known.
    months: whether the last band, `month`, is the month of each step (0 is January), for encoders that read
      it. It is NaN for unknown months and for steps without values.
  """

  name: str
  views: tuple[str, ...]
  shape: tuple[int, ...]
  bands: tuple[str, ...]
  units: tuple[str, ...] = ()
  months: bool = False

  def to_json(self) -> dict:
    """As plain JSON. Units and months are left out if there are none."""
    known = {k: list(getattr(self, k)) for k in ("views", "shape", "bands", "units")}
    if not self.units:
      del known["units"]
    return {"name": self.name, **known, **({"months": True} if self.months else {})}

  @classmethod
  def from_json(cls, tree: Mapping) -> Modality:
    """The inverse of `to_json`."""
    views, shape, bands = (tuple(tree[k]) for k in ("views", "shape", "bands"))
    units, months = tuple(tree.get("units", ())), bool(tree.get("months", False))
    return cls(tree["name"], views, shape, bands, units, months)


@dataclasses.dataclass(frozen=True)
class Task:
  """What a model predicts.

  Attributes:
    kind: one of `KINDS`.
    outputs: name of each model output: the classes (two for `binary`), the labels of a multi-label task, or
      the target columns of a regression.
    unit: unit of the outputs, e.g. `%`; empty if unknown.
  """

  kind: str
  outputs: tuple[str, ...]
  unit: str = ""

  def __post_init__(self):
    """Rejects a kind that does not exist."""
    if self.kind not in KINDS:
      raise InputError(f"unknown task kind {self.kind!r}, have: {', '.join(KINDS)}")

  @property
  def one_class(self) -> bool:
    """Whether a sample has exactly one class."""
    return self.kind in ("binary", "multiclass")

  def to_json(self) -> dict:
    """As plain JSON."""
    return {"kind": self.kind, "outputs": list(self.outputs), "unit": self.unit}

  @classmethod
  def from_json(cls, tree: Mapping) -> Task:
    """The inverse of `to_json`."""
    return cls(tree["kind"], tuple(tree["outputs"]), tree.get("unit") or "")


@dataclasses.dataclass(frozen=True)
class Description:
  """The facts about a data set that prediction needs; `dataset.json` in a work directory stores them.

  Attributes:
    name: name of the data set.
    task: what is predicted.
    modalities: the sensors in the order of the configuration, then the context if there is one.
    samples: number and digest of the samples; None for a model that was imported.
    views: how the views of the sensors are stored and used, see `data.modality.View`, as JSON; None if that
      is not known.
  """

  name: str
  task: Task
  modalities: tuple[Modality, ...]
  samples: Mapping[str, object] | None = None
  views: Mapping[str, Mapping] | None = None

  @property
  def sensors(self) -> dict[str, Modality]:
    """The sensors by name."""
    return {m.name: m for m in self.modalities if m.name != CONTEXT}

  @property
  def context(self) -> tuple[str, ...]:
    """The names of the context's columns; empty without a context."""
    return next((m.bands for m in self.modalities if m.name == CONTEXT), ())

  def to_json(self) -> dict:
    """As plain JSON."""
    out = {
      "name": self.name,
      "task": self.task.to_json(),
      "modalities": [modality.to_json() for modality in self.modalities],
    }
    out |= {} if self.samples is None else {"samples": dict(self.samples)}
    return out | ({} if self.views is None else {"views": dict(self.views)})

  @classmethod
  def from_json(cls, tree: Mapping) -> Description:
    """The inverse of `to_json`.

    Raises:
      InputError: the tree is not the content of a `dataset.json`.
    """
    try:
      modalities = tuple(map(Modality.from_json, tree["modalities"]))
      task = Task.from_json(tree["task"])
      return cls(tree["name"], task, modalities, tree.get("samples"), tree.get("views"))
    except (KeyError, TypeError) as error:
      raise InputError(f"dataset.json: missing or wrong entry {error}; training writes this file") from None


def resolve_views(name: str, known: Collection[str]) -> tuple[str, ...]:
  """Splits the name of a modality into the views that it consists of.

  The name is that of a view, or several views joined with `_`. View names may contain `_` themselves, so the
  longest view that matches is tried first, from the left.

  Args:
    name: name of the modality, e.g. `S2_S2VI`.
    known: names of the data set's views.

  Raises:
    InputError: the name cannot be split into different views, or it is reserved.
  """
  if name == CONTEXT:
    raise InputError(f"modality {name!r} is not allowed; the name is reserved for data.context")

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


def join_views(name: str, shapes: Mapping[str, Sequence[int | None]], views: Sequence[str]) -> tuple:
  """The shape of one sample of a modality, whose views are concatenated on the last axis.

  Args:
    name: name of the modality, for the error message.
    shapes: shape of one sample of each view. None is a length that differs between samples.
    views: the views to join, in order.

  Raises:
    InputError: the shapes differ before the last axis.
  """
  first, *others = (tuple(shapes[view]) for view in views)
  if any(other[:-1] != first[:-1] for other in others):
    listed = ", ".join(f"{view} {tuple(shapes[view])}" for view in views)
    raise InputError(f"data.modalities: {name} cannot join views that differ before the last axis: {listed}")
  return (*first[:-1], sum(shapes[view][-1] for view in views))


class ContextLayout(NamedTuple):
  """The columns of a context: how many are the date, the location and the time, then the static bands."""

  date: int
  place: int
  time: int
  static: tuple[str, ...]

  @property
  def scaled(self) -> int:
    """The number of columns of date and location, which have their scale. The others are normalised."""
    return self.date + self.place

  @property
  def dated(self) -> bool:
    """Whether a date is needed."""
    return self.date + self.time > 0


def context_layout(columns: Sequence[str]) -> ContextLayout:
  """The layout of a context with these columns, in the order of module `data.context`."""
  rest, place = tuple(columns), 0
  date = len(DATE_COLUMNS) if rest[: len(DATE_COLUMNS)] == DATE_COLUMNS else 0
  rest = rest[date:]
  if rest[: len(UNIT_VECTOR)] == UNIT_VECTOR:
    fourier = 0
    while rest[: len(wider := place_columns(fourier + 1))] == wider:
      fourier += 1
    place = len(place_columns(fourier))
  rest = rest[place:]
  time = int(rest[:1] == (TIME_COLUMN,))
  return ContextLayout(date, place, time, rest[time:])


def place_columns(fourier: int = 0) -> tuple[str, ...]:
  """The names of the columns of a location with `fourier` scales."""
  waves = ("lon_sin", "lon_cos", "lat_sin", "lat_cos")
  return (*UNIT_VECTOR, *(f"place_{wave}_{2**scale}" for scale in range(fourier) for wave in waves))
