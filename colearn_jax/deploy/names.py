"""Finds a model's bands among the names of columns, variables or layers, for every step of a series.

The name of a band is followed by its step:

    B2_2023-05-01, B2_20230501   the date of the step
    B2_1, B2_2, B2_3             its number, in the order of time
    B2(t-2), B2(t-1), B2(t)      how many steps there are after it

or it follows the step, as `toBands` of Earth Engine writes it:

    20230501_B2, 0_B2, 20230501T103621_20230501T103945_T32UNC_B2
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from colearn_jax import dates
from colearn_jax.types import InputError

_DATE = r"(?P<date>\d{4}(?P<s>[-.]?)\d\d(?P=s)\d\d)"
_STEP = re.compile(
  rf"_{_DATE}(?:T\d\d:?\d\d(?::?\d\d(?:\.\d+)?)?Z?)?|_(?P<number>\d{{1,4}})|\(t(?P<before>-\d+)?\)"
)
_BEFORE = re.compile(rf"{_DATE}(?:T\d{{6}}(?:_\d{{8}}T\d{{6}}_T\d\d[A-Z]{{3}})?)?_|(?P<number>\d{{1,4}})_")


@dataclasses.dataclass(frozen=True)
class Steps:
  """The steps that names tell.

  Attributes:
    names: of each step in the order of time, those of all bands in the order that was asked for, `[T][C]`.
    days: of the steps, since 1970-01-01; None if they have no dates.
    dates: the same as datetime64[D].
  """

  names: tuple[tuple[str, ...], ...]
  days: tuple[int, ...] | None

  @property
  def dates(self) -> np.ndarray | None:
    """See above."""
    return None if self.days is None else np.array(self.days).astype("datetime64[D]")


def missing(names: Sequence[str], bands: Sequence[str], where: str) -> None:
  """Raises InputError that lists the bands that are not among these names."""
  if lacking := [band for band in bands if band not in names]:
    raise InputError(f"{where} lacks the bands {', '.join(lacking)}; it has: {some(names)}")


def steps(names: Sequence[str], bands: Sequence[str], where: str) -> Steps | None:
  """Finds all steps of these bands; None if no name is that of a step.

  Args:
    names: of columns, variables or layers; others are ignored.
    bands: of the model.
    where: what messages call the place of the names.

  Raises:
    InputError: a band lacks a step, steps are named in different ways, or a number is left out.
  """
  found: dict[str, dict[int, str]] = {}
  kinds: dict[str, str] = {}
  for band in bands:
    for name in names:
      match = _STEP.fullmatch(name[len(band) :]) if name.startswith(band) else None
      if match is None and name.endswith(band):
        match = _BEFORE.fullmatch(name[: -len(band)])
      if match is None:
        continue
      known = match.groupdict()
      kind = "date" if known["date"] else "number" if known["number"] else "before"
      value = known[kind] or "0"
      step = int(value) if kind != "date" else int(dates.to_days([value], f"{where}, {name}")[0])
      if (twice := found.setdefault(band, {}).get(step)) is not None:
        raise InputError(f"{where}: {twice} and {name} are of one step")
      found[band][step] = name
      kinds.setdefault(kind, name)
  if not found:
    return None
  if len(kinds) > 1:
    raise InputError(f"{where}: {' and '.join(kinds.values())} name their steps in different ways")
  every = sorted(set().union(*found.values()))
  (kind,) = kinds
  if kind != "date" and every != list(range(every[0], every[-1] + 1)):
    raise InputError(f"{where}: the steps {', '.join(map(str, every))} of its bands leave some out")
  shown = {"date": lambda k: f"_{dates.to_iso(k)}", "number": lambda k: f"_{k}", "before": _before}[kind]
  if lacking := [f"{b}{shown(k)}" for b in bands for k in every if k not in found.get(b, {})]:
    raise InputError(f"{where} lacks {some(lacking)}")
  days = tuple(every) if kind == "date" else None
  return Steps(tuple(tuple(found[band][k] for band in bands) for k in every), days)


def _before(step: int) -> str:
  return f"(t{step})" if step else "(t)"


def some(names: Sequence[str]) -> str:
  """At most twelve of these names, for messages of one line."""
  more = f" and {len(names) - 12} more" if len(names) > 12 else ""
  return (", ".join(map(str, names[:12])) or "none") + more
