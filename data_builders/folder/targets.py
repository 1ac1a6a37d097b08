"""Finds out from the targets of a table what the task is, and brings them to the form they are stored in.

Where targets can be read in two ways the build stops and says how to decide, in `dataset.json`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder import cells as cells_lib
from colearn_jax.datasets.folder.cells import SEPARATOR, Cell, shown

from colearn_jax.types import KINDS, InputError

MOST_CLASSES = 100  # more different whole numbers than these may be amounts
FEW = 10  # with fewer samples nothing follows from all targets being different
SENTINELS = (-1, 255, 65535, -9999, -999, -99, -32768, 9999, 99999, -99999)

Stored = int | tuple[float, ...]
Where = Callable[[int], str]


def encode(
  columns: Mapping[str, Sequence], described: Mapping[str, object], path: Path, where: Where
) -> tuple[dict, list[Stored]]:
  """The task, and the target of every sample as it is stored.

  Args:
    columns: the cells of each target column, `target` alone or several `target_...`.
    described: `kind`, `outputs`, `unit` and `unlabelled` of the task, as far as they are given.
    path: of the table.
    where: what messages call a sample.

  Returns:
    `kind`, `outputs` and `unit`; for each sample its class's number, -1 if unknown, or the values of its
    outputs, NaN if unknown.

  Raises:
    InputError: the targets are none of one task, or can be read in two ways.
  """
  kind, given = described.get("kind"), described.get("outputs")
  if kind is not None and kind not in KINDS:
    raise InputError(f"unknown task kind {kind!r} for {path}, have: {', '.join(KINDS)}")
  names = [name.removeprefix("target_") for name in columns]
  if isinstance(given, dict) and kind is None:  # only classes have codes
    kind = "binary" if len(set(given.values())) == 2 else "multiclass"
  if kind is None and len(columns) == 1:
    cells_lib.check_decimals(next(iter(columns.values())), path)
  values = [cells_lib.read(cells, described.get("unlabelled"), kind, where) for cells in columns.values()]
  vectors = len(columns) == 1 and cells_lib.vectors(values[0], kind, path)
  if vectors:
    values, names = _spread(values[0], where), [str(i) for i in range(vectors)]
  rows = list(zip(*values))
  kind = kind or _kind(names, rows, path, where, described)
  if kind in ("binary", "multiclass"):
    if len(names) > 1:
      raise InputError(f"{path} has {len(names)} target columns, a {kind} task has one")
    outputs, stored = _classes(kind, values[0], given, path, where)
    if "unlabelled" not in described and not isinstance(given, dict):
      _check_codes(values[0], path)
  elif isinstance(given, dict):
    raise InputError(f"{path}: outputs that name codes are for classes, not for a {kind} task")
  elif kind == "multilabel" and not vectors and list(columns) == ["target"]:
    outputs, stored = _labels(values[0], given, described, path, where)
  else:
    if given and len(given) != len(names):
      raise InputError(f"{path} has {len(names)} target columns, {len(given)} outputs are named")
    outputs, stored = given or names, [_numbers(kind, row, names, where, i) for i, row in enumerate(rows)]
    if kind == "regression" and "unlabelled" not in described:
      _check_amounts(values, names, path)
  if twice := [name for name in outputs if list(outputs).count(name) > 1 or not str(name).strip()]:
    raise InputError(f"{path}: the output {twice[0]!r} has no name of its own")
  return {"kind": kind, "outputs": list(outputs), "unit": described.get("unit", "")}, stored


def _spread(column: Sequence[Cell], where: Where) -> list[list[Cell]]:
  """Columns of vectors, one for each output."""
  length = next(len(cell) for cell in column if cell is not None)
  for i, cell in enumerate(column):
    if cell is not None and len(cell) != length:
      raise InputError(f"{where(i)}: its target has {len(cell)} numbers, others have {length}")
  return [[None if cell is None else cell[k] for cell in column] for k in range(length)]


def _kind(names, rows, path: Path, where: Where, described) -> str:
  """What kind of task the targets are of."""
  cells = [cell for row in rows for cell in row if cell is not None]
  if not cells:
    raise InputError(f"{path}: no sample has a target")
  say = 'say which in dataset.json: {"task": {"kind": ...}}, one of ' + ", ".join(KINDS)
  if "unlabelled" not in described:
    cells_lib.check_texts([row[0] for row in rows], path, where)
  if "outputs" not in described:
    cells_lib.check_amounts([row[0] for row in rows], path)
  texts = [isinstance(cell, str | tuple) for cell in cells]
  if any(texts) and not all(texts):
    few = sum(texts) * 2 < len(texts)
    odd = lambda cell: cell is not None and isinstance(cell, str | tuple) == few
    i, cell = next((i, cell) for i, row in enumerate(rows) for cell in row if odd(cell))
    most = "a number" if few else "text"
    raise InputError(f"{where(i)}: its target {shown(cell)} is not {most}, as most targets are; or {say}")
  if len(names) > 1:
    if all(texts):
      raise InputError(f"{path}: the columns {', '.join(names)} have to hold numbers")
    return _of_columns(set(cells), path, say)
  different = len(set(cells))
  if all(texts):
    if any(isinstance(cell, tuple) or SEPARATOR in cell for cell in cells):
      return "multilabel"
    cells_lib.check_names(cells, path, "outputs" in described)
  elif not all(float(cell).is_integer() for cell in cells):
    return "regression"
  elif any(isinstance(cell, float) for cell in cells) or different > MOST_CLASSES:
    raise InputError(
      f"{path}: targets are {different} different whole numbers, such as {cells[0]}, "
      f"so classes or amounts; {say}"
    )
  if len(cells) >= FEW and 2 * different > len(cells) and "outputs" not in described:
    what = "texts" if all(texts) else "whole numbers"
    raise InputError(
      f"{path}: targets are {different} different {what} of {len(cells)} samples, such as {shown(cells[0])}; "
      f"if they are meant so, {say}"
    )
  return "binary" if different == 2 else "multiclass"


def _of_columns(numbers: set[Cell], path: Path, say: str) -> str:
  """What kind of task several columns of such numbers are of."""
  if numbers <= {0, 1}:
    return "multilabel"
  if not all(isinstance(number, int) for number in numbers):
    return "regression"
  more = sorted(numbers - {0, 1})
  if len(more) == 1 and more[0] in SENTINELS:
    raise InputError(
      f"{path}: the targets are 0, 1 and {more[0]}, which may mean that a label is not known; leave all "
      f"targets of such a sample empty, or {say}"
    )
  raise InputError(
    f"{path}: several columns of whole numbers such as {more[0]} may be amounts, or classes, of which a task "
    f"has one column; {say}"
  )


def _classes(kind, cells, given, path: Path, where: Where) -> tuple[Sequence[str], list[int]]:
  """The classes in their order, and each sample's; -1 where there is none."""
  name = lambda cell: str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
  occur = {name(cell): cell for cell in cells if cell is not None}
  if given is None:
    outputs = [name(cell) for cell in sorted(occur.values(), key=_order)]
    index = {output: i for i, output in enumerate(outputs)}
  elif isinstance(given, dict):  # codes and names
    outputs = list(dict.fromkeys(given.values()))
    index = {str(code): outputs.index(output) for code, output in given.items()}
  else:
    outputs = given
    index = {str(output): i for i, output in enumerate(outputs)}
    if occur and not set(occur) & set(index):  # numbered rather than named
      first = _first_number(list(occur.values()), outputs, path)
      index = {str(i + first): i for i in range(len(outputs))}
  if len(outputs) < 2 or kind == "binary" and len(outputs) != 2:
    raise InputError(
      f"{path}: a {kind} task has {'2' if kind == 'binary' else '2 or more'} classes, not {len(outputs)}"
    )
  stored = []
  for i, cell in enumerate(cells):
    if cell is not None and name(cell) not in index:
      raise InputError(f"{where(i)}: unknown class {shown(cell)}, have: {', '.join(index)}")
    stored.append(-1 if cell is None else index[name(cell)])
  return outputs, stored


def _first_number(cells: Sequence[Cell], outputs: Sequence[str], path: Path) -> int:
  """Whether numbered classes begin with 0 or with 1; InputError if both are plausible."""
  try:
    numbers = [int(cell) for cell in cells]
  except (TypeError, ValueError):
    return 0
  if min(numbers) < 1:
    return 0
  if max(numbers) == len(outputs):
    return 1
  if max(numbers) < len(outputs):
    example = ", ".join(f'"{i}": "{output}"' for i, output in enumerate(outputs[:2], 1))
    raise InputError(
      f"{path}: targets are the numbers {min(numbers)} to {max(numbers)}, which may count the "
      f'{len(outputs)} outputs from 0 or from 1; say which in dataset.json: "outputs": {{{example}, ...}}'
    )
  return 0


def _check_codes(cells: Sequence[Cell], path: Path) -> None:
  """Refuses class numbers of which one usually means that there is no label."""
  numbers = sorted({cell for cell in cells if isinstance(cell, int)})
  for code in SENTINELS:
    others = [number for number in numbers if number != code]
    if code in numbers and others and (code < 0 <= others[0] or code > 2 * others[-1] + 1 and code > 100):
      raise InputError(
        f"{path}: is the class {code} a class, or no label? Say so in dataset.json: "
        f'{{"task": {{"unlabelled": [{code}]}}}}, or [] if it is a class'
      )


def _check_amounts(columns: Sequence[Sequence[Cell]], names: Sequence[str], path: Path) -> None:
  """Refuses amounts of which one usually means that nothing was measured."""
  for name, column in zip(names, columns):
    numbers = sorted({float(cell) for cell in column if cell is not None})
    for code in (*(code for code in SENTINELS if abs(code) > 900), numbers[0] if numbers else 0):
      others = [abs(number) for number in numbers if number != code]
      odd = code in numbers and others and code < 0 and -code > 5 * max(others)
      if odd and (code in SENTINELS or code < -1e30):
        raise InputError(
          f"{path}: is {code:g} of {name} an amount, or a sign that there is none? Say so in dataset.json: "
          f'{{"task": {{"unlabelled": [{code:g}]}}}}, or [] if it is an amount'
        )


def _order(cell: Cell) -> tuple:
  """Numbers by size, before text by the alphabet."""
  return (1, 0, cell) if isinstance(cell, str) else (0, cell, "")


def _labels(
  cells, given, described: Mapping, path: Path, where: Where
) -> tuple[Sequence[str], list[tuple[float, ...]]]:
  """The labels in their order, and which of them each sample has; NaN where nothing is known."""
  own = [None if cell is None else cells_lib.labels(cell) for cell in cells]
  lists = [None if cell is None else cells_lib.labels(cell, described.get("unlabelled")) for cell in cells]
  lists = [None if some and not left else left for some, left in zip(own, lists)]  # codes alone: not known
  every = [label for labels in lists for label in labels or ()]
  if given is None:
    cells_lib.check_names(every, path, False)
  if "unlabelled" not in described:
    cells_lib.check_texts([labels[0] if labels else None for labels in lists], path, where)
    cells_lib.check_texts(every, path, lambda i: f"{path}, label {i + 1}")
    _check_codes([int(label) if re.fullmatch(r"-?\d+", label) else label for label in every], path)
  codes = lambda label: (0, int(label), label) if label.isdecimal() else (1, 0, label)
  outputs = given or sorted({label for labels in lists if labels for label in labels}, key=codes)
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


def _numbers(kind, row, names, where: Where, i: int) -> tuple[float, ...]:
  """The numbers of one sample, or 0 and 1 for the labels of a multi-label task."""
  if all(cell is None for cell in row):
    return (math.nan,) * len(row)
  for name, cell in zip(names, row):
    if cell is None:
      raise InputError(f"{where(i)}: its target {name} is empty, others are not")
    if isinstance(cell, str | tuple) or not abs(cell) <= np.finfo(np.float32).max:
      raise InputError(f"{where(i)}: its target {shown(cell)} is not a finite number")
    if kind == "multilabel" and cell not in (0, 1):
      raise InputError(f"{where(i)}: its target {name} is {cell}, not 0 or 1")
  return tuple(map(float, row))
