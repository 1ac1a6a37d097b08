"""Reads the cells of target columns: numbers, names of classes, lists of labels, vectors."""

from __future__ import annotations

import collections
import decimal
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from colearn_jax.types import InputError

SEPARATOR = ";"  # between the labels of a sample
_WHOLE = re.compile(r"[+-]?\d+")
_COMMA = re.compile(r"[+-]?\d+(?:\.\d{3})*,\d+")
_PERCENT = re.compile(r"[+-]?\d+(?:[.,]\d+)?\s*%")
_NUMBER = r"[+\u2212-]?\d+(?:[.,]\d+)?"
_GROUPED = re.compile(r"[+\u2212-]?\d{1,3}(?:[ '\u2019,._]\d{3})+(?:[.,]\d+)?|\u2212\d+(?:[.,]\d+)?")
_PLAIN = re.compile(_NUMBER)
_MONEY = r"[$\u20ac\u00a3\u00a5\u00b0]"
_UNIT = re.compile(rf"({_MONEY}?) ?{_NUMBER}((?: [^\W\d_]|[^\W\d_][^\W\d_/])[\w/^. \u00b0-]*| ?{_MONEY})?")
_DATE = re.compile(
  r"(?:19|20)\d\d-\d\d|(?:19|20)\d\d[-./]\d\d?[-./]\d\d?(?:[T ].*)?|\d\d?[-./]\d\d?[-./](?:19|20)\d\d(?: .*)?"
)
_LIST = re.compile(r"\[.*\]|\{.*\}|\(['\"].*\)", re.DOTALL)  # of Python, JSON or PostgreSQL
_BETWEEN = re.compile(rf"{_NUMBER} ?(?:\u00b1|\+/-|\+-) ?{_NUMBER}")
_ERROR = re.compile(r"#(?:N/A|NA|VALUE!|REF!|DIV/0!|NUM!|NAME\?|NULL!)")  # of a spreadsheet
NO_LABEL = {"na", "n/a", "<na>", "null", "none", "nil", "-", "--", "?", "."} | {
  "nodata",
  "no data",
  "no label",
  "unlabelled",
  "unlabeled",
}

Cell = int | float | str | tuple | None  # None is empty


def read(cells: Sequence, unlabelled, kind: str | None, where: Callable[[int], str]) -> list[Cell]:
  """The cells of a column, whichever file they come from.

  Args:
    cells: as the file has them.
    unlabelled: code or codes that mean no label.
    kind: of the task if it is known: texts among classes are names, among amounts they are numbers.
    where: what messages call a sample.
  """
  texts = [cell for cell in cells if isinstance(cell, str)]
  # 0301 is a name, for as a number it would lose its zero; then all others are names too
  names = kind != "regression" and any(re.fullmatch(r"0\d+", text) for text in texts)
  mixed = kind in ("binary", "multiclass") and not all(_whole(text) for text in texts)
  plain = set().union(*map(_same, codes_of(unlabelled)))
  values = [_value(cell, names or mixed, where, i) for i, cell in enumerate(cells)]
  return [None if is_code(cell, value, plain) else value for cell, value in zip(cells, values)]


def codes_of(unlabelled) -> list:
  """The codes that mean no label, from what is said of them."""
  return unlabelled if isinstance(unlabelled, list) else [] if unlabelled is None else [unlabelled]


def _same(code) -> set:
  """A code as text and, if it is one, as a number; 0301 is none."""
  number = code if not isinstance(code, str) else _number(code) if not re.match(r"0\d", code) else None
  whole = number is not None and math.isfinite(number) and float(number).is_integer()
  return (
    {str(code)}
    | ({str(int(number))} if whole else set())
    | ({float(number)} if number is not None else set())
  )


def is_code(cell, value: Cell, codes: set) -> bool:
  """Whether a cell, as it is and as it was read, is one of these codes."""
  if value is None or isinstance(value, tuple):
    return value is None
  return isinstance(cell, str) and cell in codes or value in codes


def unseen(columns: Sequence[Sequence], unlabelled) -> list:
  """The codes that no cell has, nor any list in a cell."""
  there = set()
  for cell in (cell for column in columns for cell in column if cell is not None):
    parts = labels(tuple(cell) if isinstance(cell, list | np.ndarray) else cell)
    there |= set().union(*map(_same, parts), {str(cell)})
  return [code for code in codes_of(unlabelled) if not _same(code) & there]


def _whole(text: str) -> bool:
  """Whether a text is a whole number, as 1 or 1.0, or none at all."""
  number = _number(text)
  return number is not None and (math.isnan(number) or number.is_integer()) or not text


def _number(text: str) -> float | None:
  try:
    return float(text) if "_" not in text else None
  except ValueError:
    return None


def _value(cell, names: bool, where: Callable[[int], str], i: int) -> Cell:
  """One cell; `names` leaves texts as they are."""
  if isinstance(cell, list | tuple | np.ndarray):
    if odd := next((part for part in cell if isinstance(part, list | tuple | dict | np.ndarray)), None):
      raise InputError(f"{where(i)}: its target is a list of {odd!r}; a list of names or of numbers is read")
    return tuple(_value(part, True, where, i) for part in cell)
  if isinstance(cell, bool | np.bool_):
    return int(cell)
  if isinstance(cell, str):
    if cell.lower() in ("", "nan"):
      return None
    if _LIST.fullmatch(cell):
      raise InputError(f"{where(i)}: its target {cell!r} is a list written as text; write oak;pine")
    if names:
      return cell
    if cell.lower() in ("true", "false"):
      return int(cell.lower() == "true")
    number = _number(cell)
    return cell if number is None else int(cell) if _WHOLE.fullmatch(cell) else number
  if isinstance(cell, decimal.Decimal):
    return None if cell.is_nan() else int(cell) if cell.as_tuple().exponent == 0 else float(cell)
  if cell is None or cell != cell:
    return None
  if isinstance(cell, int | float):
    return cell
  raise InputError(f"{where(i)}: its target {cell!r} is no number, text or list")


def vectors(cells: Sequence[Cell], kind: str | None, path: Path) -> int:
  """How many numbers each cell of a column of lists is a vector of; 0 if they are no vectors.

  Lists of 0 and 1 of one length say of each label whether it is there. Lists in which nothing occurs twice
  may as well be codes of labels.
  """
  lists = [cell for cell in cells if isinstance(cell, tuple)]
  if not lists or any(isinstance(part, str) for cell in lists for part in cell):
    return 0
  parts = {part for cell in lists for part in cell}
  if not parts or len(lists) != sum(cell is not None for cell in cells):
    return 0
  length = collections.Counter(map(len, lists)).most_common(1)[0][0]
  if None in parts:
    raise InputError(f"{path}: a target is a list with an empty element")
  repeated = any(len(set(cell)) < len(cell) for cell in lists)
  alike = len({len(cell) for cell in lists}) == 1
  if kind == "regression" or any(isinstance(part, float) and not part.is_integer() for part in parts):
    return length
  if alike and parts <= {0, 1} and (repeated or length > 2):
    return length
  if repeated or parts <= {0, 1} or any(isinstance(part, float) for part in parts):
    raise InputError(
      f"{path}: targets such as {list(lists[0])} may be codes of labels or one number for each output; "
      "give labels by name, or a column target_... for each output"
    )
  return 0


def labels(cell: Cell, unlabelled=None) -> list[str]:
  """The labels of one sample, without the codes that mean none."""
  codes = set().union(*map(_same, codes_of(unlabelled)))
  parts = cell if isinstance(cell, tuple) else str(cell).split(SEPARATOR)
  every = [label for part in parts if part is not None and (label := str(part).strip())]
  return [label for label in every if label not in codes]


def check_decimals(cells: Sequence, path: Path) -> None:
  """Refuses texts such as 1.1 and 1.10, which are one number and may be two codes."""
  texts: dict[float, str] = {}
  for cell in cells:
    if isinstance(cell, str) and re.fullmatch(r"\d+\.\d+", cell):
      other = texts.setdefault(float(cell), cell)
      if other != cell:
        raise InputError(
          f"{path}: {min(other, cell)!r} and {max(other, cell)!r} are one number, or two codes; say which in "
          'dataset.json: {"task": {"kind": ...}}, regression or multiclass'
        )


def check_texts(cells: Sequence[Cell], path: Path, where: Callable[[int], str]) -> None:
  """Refuses texts that are numbers written otherwise, or that may mean no label."""
  texts = [cell for cell in cells if isinstance(cell, str)]
  if texts and all(map(_COMMA.fullmatch, texts)):
    raise InputError(f"{path}: targets such as {texts[0]!r} have decimal commas; write decimal points")
  if texts and all(map(_PERCENT.fullmatch, texts)):
    raise InputError(f"{path}: targets such as {texts[0]!r} are texts; write numbers without %")
  no_label = lambda text: text.lower() in NO_LABEL or _ERROR.fullmatch(text)
  i = next((i for i, cell in enumerate(cells) if isinstance(cell, str) and no_label(cell)), None)
  if i is not None:
    raise InputError(
      f"{where(i)}: is {cells[i]!r} a class, or no label? Say so in dataset.json: "
      f'{{"task": {{"unlabelled": ["{cells[i]}"]}}}}, or [] if it is a class'
    )


def check_amounts(cells: Sequence[Cell], path: Path) -> None:
  """Refuses texts that all are numbers with thousands separators or a unit, formulas, or dates."""
  # Here all kinds of blanks are one.
  texts = [unicodedata.normalize("NFKC", cell) for cell in cells if isinstance(cell, str)]
  if not texts or len(texts) < sum(cell is not None for cell in cells):
    return
  grouped = [text for text in texts if _GROUPED.fullmatch(text)]
  units = {match.groups() if (match := _UNIT.fullmatch(text)) else () for text in texts}
  codes = any(re.match(r"0\d", text) for text in texts)
  if grouped and not codes and all(text in grouped or _PLAIN.fullmatch(text) for text in texts):
    what = "are numbers with separators; write 1234.5"
  elif len(units) == 1 and any(next(iter(units))) and len(set(texts)) > 1:
    what = "are numbers with a unit; write the number alone, and the unit in dataset.json"
  elif all(map(_BETWEEN.fullmatch, texts)):
    what = "are numbers with an uncertainty; write the number alone"
  elif all(text.startswith("=") for text in texts):
    what = "are formulas; write their values"
  elif all(map(_DATE.fullmatch, texts)):
    what = "are dates; write amounts, such as a number of days"
  else:
    return
  raise InputError(
    f'{path}: targets such as {texts[0]!r} {what}; if they are names say "kind" in dataset.json'
  )


def spelling(text: str) -> str:
  """What is left of a name without capitals, blanks, letters that are not seen, and leading zeros."""
  plain = unicodedata.normalize("NFKC", text)
  words = "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cc"))
  words = re.sub(r"(\d)\.0+$", r"\1", " ".join(words.split()).casefold())
  return words.lstrip("0") or "0" if words.isdecimal() else words


def check_names(cells: Sequence[str], path: Path, named: bool) -> None:
  """Refuses texts that are no names of classes by the look of them."""
  spelled, spelled_as = collections.defaultdict(set), set(cells)
  for cell in spelled_as:
    spelled[spelling(cell)].add(cell)
  if not named and (twice := next((sorted(some) for some in spelled.values() if len(some) > 1), None)):
    raise InputError(
      f"{path}: {twice[0]!r} and {twice[1]!r} are two classes that differ in capitals, blanks or zeros; "
      'write one of them, or name both in dataset.json: "outputs"'
    )
  for separator in "|,/+& ":
    split = {cell: {part.strip() for part in cell.split(separator)} for cell in set(cells)}
    number = collections.Counter(part for parts in split.values() for part in parts)
    known = lambda part, sep=separator, number=number: part in spelled_as if sep == " " else number[part] > 1
    several = (cell for cell, parts in split.items() if len(parts) > 1 and all(map(known, parts)))
    if not named and (one := min(several, default=None)) is not None:
      raise InputError(
        f"{path}: {one!r} may be one class or several labels; write labels as "
        f'{SEPARATOR.join(sorted(split[one]))}, or name the classes in dataset.json: "outputs"'
      )


def shown(cell: Cell) -> str:
  """A cell as messages have it."""
  return repr(SEPARATOR.join(map(str, cell)) if isinstance(cell, tuple) else cell)
