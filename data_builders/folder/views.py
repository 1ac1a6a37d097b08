"""Finds a folder's views: their files, and what shape and type they have in all samples together."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder import arrays

from colearn_jax.types import InputError

STACKS = (".npy", ".zarr")  # one file for all samples, of which one can be read at a time


@dataclasses.dataclass(frozen=True)
class Found:
  """A view's files before any is opened.

  Attributes:
    name: of the view.
    stack: the one file of all samples, if there is one.
    suffixes: else that of each sample's file, None where it has none.
    stamp: names, sizes and times of the files.
    strangers: files of no sample.
  """

  name: str
  stack: Path | None
  suffixes: tuple[str | None, ...]
  stamp: tuple
  strangers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class View:
  """A view as it is stored.

  Attributes:
    name: of the view.
    shape: of one sample; its first length is None where each sample has its own.
    dtype: the name of NumPy's.
    bands: their names.
    dated: whether days are stored beside the values.
    numbered: whether these are the numbers of the steps, for no dates are known.
    dates: those of all samples alike, if they were given.
    stack: the one file of all samples, if there is one.
  """

  name: str
  shape: tuple[int | None, ...]
  dtype: str
  bands: tuple[str, ...]
  dated: bool
  numbered: bool = False
  dates: tuple[int, ...] | None = None
  stack: str | None = None

  @property
  def flagged(self) -> bool:
    """Whether a feature of its own says which samples have it: whole numbers have no NaN."""
    return np.dtype(self.dtype).kind != "f"

  def absent(self) -> np.ndarray:
    """What is stored for a sample without it."""
    shape = tuple(n or 0 for n in self.shape)
    return np.full(shape, 0 if self.flagged else np.nan, self.dtype)

  def read(self, path: Path, row: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A sample's values and dates as they are stored; InputError if they cannot be read or have changed."""
    values, days = (arrays.read_row(path, row), None) if self.stack else arrays.read(path)
    if self.dates is not None:
      days = np.array(self.dates, np.int32)
    if values.ndim != len(self.shape) or any(n not in (None, m) for n, m in zip(self.shape, values.shape)):
      raise InputError(f"{path} has shape {values.shape}, not {pattern(self.shape)}")
    if np.dtype(self.dtype).kind == "f":
      with np.errstate(over="ignore"):
        values = values.astype(self.dtype)
      values[~np.isfinite(values)] = np.nan
    if not self.dated:
      return values.astype(self.dtype), None
    if self.numbered:
      days = np.arange(len(values), dtype=np.int32)
    order = np.argsort(days, kind="stable")
    return values[order].astype(self.dtype), days[order]


def find(folder: Path, ids: Sequence[str]) -> list[Found]:
  """The views of a folder, by name: every directory and every stack in it.

  Raises:
    InputError: there is none, or one without a file of any sample, or with two of one.
  """
  entries = {entry.name: Path(entry.path) for entry in _scan(folder) if not entry.name.startswith((".", "_"))}
  there = {}
  for name, path in sorted(entries.items()):
    if path.suffix in STACKS or path.suffix == ".npz":
      there.setdefault(path.stem, []).append(path)
    elif path.is_dir():
      there.setdefault(name, []).append(path)
  if not there:
    raise InputError(f"{folder} holds no views: a directory for each, with a file of values for each sample")
  out = []
  for name, paths in there.items():
    if len(paths) > 1:
      raise InputError(f"{folder} has two of view {name}: {', '.join(path.name for path in paths)}")
    out.append(_find_stack(name, paths[0]) if paths[0].suffix else _find_files(name, paths[0], ids))
  return out


def _find_stack(name: str, path: Path) -> Found:
  if path.suffix not in STACKS:
    raise InputError(f"{path}: one file for all samples has to be one of {', '.join(STACKS)}")
  return Found(name, path, (), ((path.name, *stamp(path)),), ())


def _find_files(name: str, directory: Path, ids: Sequence[str]) -> Found:
  number, suffixes, stamps, strangers = {name: i for i, name in enumerate(ids)}, [None] * len(ids), [], []
  for path in _files(directory):
    sample = path.relative_to(directory).as_posix().removesuffix(path.suffix)
    if path.suffix not in arrays.SUFFIXES or sample not in number:
      strangers.append(path.relative_to(directory).as_posix())
    elif (other := suffixes[number[sample]]) is not None:
      raise InputError(f"view {name}, sample {sample}: it has two files, {sample}{other} and {path.name}")
    else:
      suffixes[number[sample]] = path.suffix
      stamps.append((sample, path.suffix, *stamp(path)))
  if not stamps:
    raise InputError(
      f"view {name}: {directory} has no file of any sample, as would be {ids[0]}.npy; "
      f"{', '.join(arrays.SUFFIXES)} are read"
    )
  return Found(name, None, tuple(suffixes), tuple(sorted(stamps)), tuple(sorted(strangers)))


def _scan(directory: Path) -> list[os.DirEntry]:
  try:
    with os.scandir(directory) as entries:
      return list(entries)
  except OSError as error:
    raise InputError(f"cannot read {directory}: {error.strerror}") from error


def _files(directory: Path) -> Iterator[Path]:
  """All files below, a Zarr directory being one; hidden ones are none."""
  for entry in _scan(directory):
    if entry.name.startswith("."):
      continue
    if entry.is_dir() and not entry.name.endswith(".zarr"):
      yield from _files(Path(entry.path))
    else:
      yield Path(entry.path)


def stamp(path: Path) -> tuple[int, int]:
  """What changes with a file: size and time of a file, or of all in a Zarr directory."""
  stats = [p.stat() for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()]
  return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def path_of(folder: Path, view: str, sample: str, suffix: str) -> Path:
  """A sample's file."""
  return folder / view / f"{sample}{suffix}"


def survey(
  folder: Path, ids: Sequence[str], found: Found, described: Mapping[str, object]
) -> tuple[View, dict[str, str]]:
  """What the files of a view have in common, from their headers, and what is wrong with which samples.

  Most samples decide: one whose file has another shape is named, as is one whose file cannot be read.

  Raises:
    InputError: a library is missing, or no file can be read, or bands or dates are not as described.
  """
  if found.stack is not None:
    return _survey_stack(found, len(ids), described), {}
  suffixes = {sample: suffix for sample, suffix in zip(ids, found.suffixes) if suffix}
  arrays.require(set(suffixes.values()))
  headers, wrong = {}, {}
  for sample, suffix in suffixes.items():
    try:
      headers[sample] = arrays.read_header(path_of(folder, found.name, sample, suffix))
    except InputError as error:
      wrong[sample] = str(error)
  if not headers:
    raise InputError(f"view {found.name}: none of its files can be read: {next(iter(wrong.values()))}")
  said = "dates" in described
  trait = {s: (_kept(h.shape), h.bands, h.dated and not said) for s, h in headers.items()}
  (most, _), *_ = collections.Counter(trait.values()).most_common(1)
  shapes = {}
  for sample, header in headers.items():
    if trait[sample] == most:
      shapes[header.shape] = None
      continue
    path = path_of(folder, found.name, sample, suffixes[sample])
    if trait[sample][0] != most[0]:
      wrong[sample] = f"{path} has shape {header.shape}, not {pattern(most[0])} as most have"
    elif trait[sample][1] != most[1]:
      there, others = (", ".join(names or ["none"]) for names in (header.bands, most[1]))
      wrong[sample] = f"{path} names the bands {there}, not {others} as most do"
    else:
      wrong[sample] = f"{path} has {'' if header.dated else 'no '}dates, others have {'none' * header.dated}"
  shape = most[0] if len(shapes) > 1 else next(iter(shapes))
  dtypes = [header.dtype for sample, header in headers.items() if sample not in wrong]
  return _view(found, shape, np.result_type(*dtypes), most[1], most[2], described), wrong


def _survey_stack(found: Found, count: int, described: Mapping[str, object]) -> View:
  arrays.require({found.stack.suffix})
  header = arrays.read_header(found.stack)
  if len(header.shape) < 2:
    raise InputError(f"{found.stack} has shape {header.shape}; samples and the shape of each are wanted")
  if header.shape[0] != count:
    raise InputError(f"{found.stack} holds {header.shape[0]} samples, the table {count}")
  if header.dated:
    raise InputError(f"{found.stack}: dates of all samples belong into dataset.json")
  return _view(found, header.shape[1:], header.dtype, None, False, described)


def _kept(shape: tuple[int, ...]) -> tuple[int | None, ...]:
  """A sample's shape without the length that may be its own, which a series (T, C) or (T, H, W, C) has."""
  return (None, *shape[1:]) if len(shape) in (2, 4) else shape


def pattern(shape: tuple[int | None, ...]) -> str:
  """A shape as messages have it; T is a length that each sample has of its own."""
  inner = ", ".join("T" if n is None else str(n) for n in shape)
  return f"({inner},)" if len(shape) == 1 else f"({inner})"


def _view(found: Found, shape, dtype: np.dtype, bands, dated: bool, described: Mapping[str, object]) -> View:
  dtype, small = np.dtype(dtype), ("uint8", "int8", "uint16", "int16", "int32", "float16")
  if dtype.kind == "b":
    dtype = np.dtype(np.uint8)
  elif dtype.name not in small:  # larger numbers are used in single precision anyway
    dtype = np.dtype(np.float32)
  named = described.get("bands")
  if named and len(named) != shape[-1]:
    raise InputError(
      f"dataset.json names {len(named)} bands of view {found.name}, its files have {shape[-1]}"
    )
  dates = None
  if "dates" in described:
    days = arrays.to_days(described["dates"], f"dataset.json, view {found.name}")
    if shape[0] != len(days):
      raise InputError(
        f"dataset.json has {len(days)} dates of view {found.name}, its files have shape {pattern(shape)}"
      )
    dates, dated = tuple(days.tolist()), True
  return View(
    name=found.name,
    shape=tuple(shape),
    dtype=dtype.name,
    bands=tuple(named or bands or (f"b{i + 1}" for i in range(shape[-1]))),
    dated=dated or shape[0] is None,
    numbered=shape[0] is None and not dated,
    dates=dates,
    stack=str(found.stack) if found.stack else None,
  )
