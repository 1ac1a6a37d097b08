"""Finds out from the targets of a table what the task is, and brings them to the form they are stored in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from colearn_jax.types import KINDS, InputError

SEPARATOR = ";"  # between the labels of a sample
MOST_CLASSES = 100  # more different whole numbers than these may be amounts

Cell = int | float | str | tuple[str, ...] | None  # None is empty
Stored = int | tuple[float, ...]


def encode(
  columns: Mapping[str, Sequence], described: Mapping[str, object], path: Path, where: Callable[[int], str]
) -> tuple[dict, list[Stored]]:
  """The task, and the target of every sample as it is stored.

  Args:
    columns: the cells of each target column, `target` alone or several `target_...`.
    described: `kind`, `outputs` and `unit` of the task, as far as they are given.
    path: of the table.
    where: what messages call a sample.

  Returns:
    `kind`, `outputs` and `unit`; for each sample its class's number, -1 if unknown, or the values of its
    outputs, NaN if unknown.

  Raises:
    InputError: the targets are none of one task.
  """
  targets = list(columns)
  values = [tuple(_value(cell) for cell in row) for row in zip(*columns.values())]
  kind = described.get("kind") or _kind(targets, values, path, where)
  if kind not in KINDS:
    raise InputError(f"unknown task kind {kind!r} for {path}, have: {', '.join(KINDS)}")
  names = [name.removeprefix("target_") for name in targets]
  given = described.get("outputs")
  lists = kind == "multilabel" and len(targets) == 1 and targets[0] == "target"
  if kind in ("binary", "multiclass"):
    if len(targets) > 1:
      raise InputError(f"{path} has {len(targets)} target columns, a {kind} task has one")
    outputs, stored = _classes(kind, [value for (value,) in values], given, path, where)
  elif lists:
    outputs, stored = _labels([value for (value,) in values], given, path, where)
  else:
    if given and len(given) != len(names):
      raise InputError(f"{path} has {len(names)} target columns, {len(given)} outputs are named")
    outputs, stored = given or names, [_numbers(kind, row, names, where, i) for i, row in enumerate(values)]
  if twice := [name for name in outputs if list(outputs).count(name) > 1 or not str(name).strip()]:
    raise InputError(f"{path}: the output {twice[0]!r} has no name of its own")
  return {"kind": kind, "outputs": list(outputs), "unit": described.get("unit", "")}, stored


def _value(cell) -> Cell:
  """A cell of a target, whichever file it comes from."""
  if isinstance(cell, list | tuple):
    return tuple(map(str, cell))
  if isinstance(cell, bool):
    return int(cell)
  if isinstance(cell, str):
    if cell.lower() in ("", "nan"):
      return None
    if cell.lower() in ("true", "false"):
      return int(cell.lower() == "true")
    try:
      return int(cell) if re.fullmatch(r"[+-]?[0-9]+", cell) else float(cell) if "_" not in cell else cell
    except ValueError:
      return cell
  if cell is None or cell != cell:
    return None
  return cell if isinstance(cell, int | float) else str(cell)


def _kind(targets, values, path, where) -> str:
  """What kind of task the targets are of."""
  cells = [cell for row in values for cell in row if cell is not None]
  if not cells:
    raise InputError(f"{path}: no sample has a target")
  say = 'say which in dataset.json: {"task": {"kind": ...}}, one of ' + ", ".join(KINDS)
  texts = [isinstance(cell, str | tuple) for cell in cells]
  if any(texts) and not all(texts):
    i, odd = next(
      (i, cell)
      for i, row in enumerate(values)
      for cell in row
      if cell is not None and isinstance(cell, str | tuple) == (sum(texts) * 2 < len(texts))
    )
    most = "text" if sum(texts) * 2 >= len(texts) else "a number"
    raise InputError(f"{where(i)}: its target {_shown(odd)} is not {most}, as most targets are")
  if len(targets) > 1:
    if all(texts):
      raise InputError(f"{path}: the columns {', '.join(targets)} have to hold numbers")
    return "multilabel" if set(cells) <= {0, 1} else "regression"
  if all(texts):
    several = any(isinstance(cell, tuple) or SEPARATOR in cell for cell in cells)
    classes = len(set(cells))
  else:
    several, classes = False, len(set(cells))
    whole = all(float(cell).is_integer() for cell in cells)
    if not whole:
      return "regression"
    if any(isinstance(cell, float) for cell in cells) or classes > MOST_CLASSES:
      raise InputError(
        f"{path}: targets are {classes} different whole numbers, such as {cells[0]}, so classes or amounts; "
        + say
      )
  return "multilabel" if several else "binary" if classes == 2 else "multiclass"


def _shown(cell: Cell) -> str:
  return repr(SEPARATOR.join(cell) if isinstance(cell, tuple) else cell)


def _classes(kind, cells, given, path, where) -> tuple[Sequence[str], list[int]]:
  """The classes in their order, and each sample's; -1 where there is none."""
  name = lambda cell: str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
  if given is None:
    outputs = [name(cell) for cell in sorted({cell for cell in cells if cell is not None}, key=_order)]
    index = {output: i for i, output in enumerate(outputs)}
  else:
    outputs = given
    index = {str(output): i for i, output in enumerate(outputs)}
    if not any(name(cell) in index for cell in cells if cell is not None):  # numbered rather than named
      index = {str(i): i for i in range(len(outputs))}
  if len(outputs) < 2 or kind == "binary" and len(outputs) != 2:
    raise InputError(
      f"{path}: a {kind} task has {'2' if kind == 'binary' else '2 or more'} classes, not {len(outputs)}"
    )
  stored = []
  for i, cell in enumerate(cells):
    if cell is not None and name(cell) not in index:
      raise InputError(f"{where(i)}: unknown class {_shown(cell)}, have: {', '.join(index)}")
    stored.append(-1 if cell is None else index[name(cell)])
  return outputs, stored


def _order(cell: Cell) -> tuple:
  """Numbers by size, before text by the alphabet."""
  return (1, 0, cell) if isinstance(cell, str) else (0, cell, "")


def _labels(cells, given, path, where) -> tuple[Sequence[str], list[tuple[float, ...]]]:
  """The labels in their order, and which of them each sample has; NaN where nothing is known."""
  lists = [
    None
    if cell is None
    else [str(label).strip() for label in (cell if isinstance(cell, tuple) else str(cell).split(SEPARATOR))]
    for cell in cells
  ]
  lists = [None if labels is None else [label for label in labels if label] for labels in lists]
  outputs = given or sorted({label for labels in lists if labels for label in labels})
  if not outputs:
    raise InputError(f"{path}: no sample has a label")
  index, stored = {output: i for i, output in enumerate(outputs)}, []
  for i, labels in enumerate(lists):
    row = [math.nan if labels is None else 0.0] * len(outputs)
    for label in labels or ():
      if label not in index:
        raise InputError(f"{where(i)}: unknown label {label!r}, have: {', '.join(outputs)}")
      row[index[label]] = 1.0
    stored.append(tuple(row))
  return outputs, stored


def _numbers(kind, row, names, where, i) -> tuple[float, ...]:
  """The numbers of one sample, or 0 and 1 for the labels of a multi-label task."""
  if all(cell is None for cell in row):
    return (math.nan,) * len(row)
  for name, cell in zip(names, row):
    if cell is None:
      raise InputError(f"{where(i)}: its target {name} is empty, others are not")
    if isinstance(cell, str | tuple) or not abs(cell) <= np.finfo(np.float32).max:
      raise InputError(f"{where(i)}: its target {_shown(cell)} is not a finite number")
    if kind == "multilabel" and cell not in (0, 1):
      raise InputError(f"{where(i)}: its target {name} is {cell}, not 0 or 1")
  return tuple(map(float, row))
