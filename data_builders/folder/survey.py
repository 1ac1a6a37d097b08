"""What shape, type, bands and dates a view has in all samples together, from the headers of its files."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.folder import arrays, kinds, rasters, views
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.datasets.folder.optional import no_warnings, require
from colearn_jax.datasets.folder.views import Files, ViewFiles

from colearn_jax import dates
from colearn_jax.types import InputError

SMALL = ("uint8", "int8", "uint16", "int16", "int32", "float16")  # stored as they are
THREADS = min(32, 4 * (os.cpu_count() or 1))


@dataclasses.dataclass(frozen=True)
class View:
  """A view as it is stored.

  Attributes:
    name: of the view.
    shape: of one sample; its first length is None where samples differ in it.
    dtype: the name of NumPy's.
    bands: their names.
    dated: whether days are stored beside the values.
    numbered: whether these are the numbers of the steps, for no dates are known.
    boolean: whether its files hold true and false.
    days_of: the view whose days its steps have, for it masks that view or is masked by it; else empty.
    located: whether the bounds of the ground are stored beside the values.
    dates: those of all samples alike, if they were given.
    decoding: what the user says of the stored numbers.
    path: the directory of its files, or the one file of all samples.
    stack: whether it is one file of all samples.
    series: whether each file holds one date.
    version: changes with a stack.
    percent: whether true is stored as 100, for the view is a mask.
  """

  name: str
  shape: tuple[int | None, ...]
  dtype: str
  bands: tuple[str, ...]
  dated: bool
  numbered: bool
  located: bool
  dates: tuple[int, ...] | None
  decoding: Decoding
  path: Path
  stack: bool
  series: bool
  version: tuple
  boolean: bool = False
  days_of: str = ""
  percent: bool = False

  @property
  def flagged(self) -> bool:
    """Whether a feature of its own says which samples have it: whole numbers have no NaN."""
    return np.dtype(self.dtype).kind != "f"

  def absent(self) -> np.ndarray:
    """What is stored for a sample without it."""
    shape = tuple(n or 0 for n in self.shape)
    return np.full(shape, 0 if self.flagged else np.nan, self.dtype)

  def read(self, files: Files) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """A sample's values, days and bounds; steps are in the order of the file.

    Raises:
      InputError: they cannot be read, or have changed since the headers were read.
    """
    bounds, days = rasters.NOWHERE, None
    paths = views.paths(self, files)
    with no_warnings():
      if self.stack:
        values = arrays.read_row(self.path, files, self.decoding, self.version)
      else:
        values, days, bounds = arrays.read(paths, self.decoding, dated=self.dates is None)
    if self.percent:
      values = values.astype(np.uint8) * np.uint8(100)
    if self.dates is not None:
      days = np.array(self.dates, np.int32)
    if values.ndim != len(self.shape) or any(n not in (None, m) for n, m in zip(self.shape, values.shape)):
      raise InputError(f"{paths[0]} has shape {values.shape}, not {pattern(self.shape)}")
    dtype = np.dtype(self.dtype)
    if dtype.kind == "f":
      with np.errstate(over="ignore"):
        values = values.astype(dtype)  # infinities are counted, then made NaN, see `bands.Counter`
    elif not np.can_cast(values.dtype, dtype, "safe") and values.dtype.kind != "b":
      raise InputError(f"{paths[0]} holds {values.dtype} now, not {dtype}")
    if not self.dated:
      return values.astype(dtype), np.zeros(0, np.int32), bounds
    if self.numbered or self.days_of:
      days = np.arange(len(values), dtype=np.int32)
    return values.astype(dtype), days, bounds


def survey(
  found: ViewFiles, ids: Sequence[str], described: Mapping[str, object], masks: bool
) -> tuple[View, tuple[Files, ...], dict[str, str]]:
  """What the files of a view have in common, from their headers, and what is wrong with which samples.

  Most samples decide: one whose file has another shape is named, as is one whose file cannot be read.

  Args:
    found: its files.
    ids: of the samples.
    described: what `dataset.json` says of the view.
    masks: whether the view has a mask or is one: steps are then numbered where they have no dates.

  Returns:
    The view, the files of each sample (rows of a stack), and by sample why its files cannot be used.

  Raises:
    InputError: a library is missing, no file can be read, bands or dates are not as described, or whole
      numbers and decimals may be in different units.
  """
  decoding = Decoding.of(described)
  if found.stack:
    return *_survey_stack(found, ids, decoding, described, masks), {}
  every = {sample: views.paths(found, files) for sample, files in zip(ids, found.files) if files}
  require({path.suffix.lower() for paths in every.values() for path in paths})

  def read(sample):
    try:
      return arrays.read_header(every[sample], decoding)
    except InputError as error:
      return str(error)

  with no_warnings(), concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    answers = dict(zip(every, pool.map(read, every)))
  wrong = {sample: answer for sample, answer in answers.items() if isinstance(answer, str)}
  headers = {sample: header for sample, header in answers.items() if sample not in wrong}
  if not headers:
    raise InputError(f"view {found.name}: none of its files can be read: {next(iter(wrong.values()))}")
  said = "dates" in described
  units = {s: () if "units" in described else h.units for s, h in headers.items()}
  trait = {s: (_kept(h.shape), h.bands, h.dated and not said, h.scaled, units[s]) for s, h in headers.items()}
  (most, _), *_ = collections.Counter(trait.values()).most_common(1)
  shapes = {}
  for sample, header in headers.items():
    if trait[sample] == most:
      shapes[header.shape] = None
    else:
      wrong[sample] = _difference(every[sample][0], header, trait[sample], most)
  shape = most[0] if len(shapes) > 1 else next(iter(shapes))
  usable = [header for sample, header in headers.items() if sample not in wrong]
  header = arrays.Header(
    shape, np.result_type(*(h.dtype for h in usable)), most[2], most[1], any(h.located for h in usable)
  )
  tags = frozenset().union(*(h.nodata for h in usable))
  if None in tags and decoding.nodata is None:  # some files say it, others do not
    known = {value for value in tags - {None} if value == value}
    decoding = dataclasses.replace(decoding, elsewhere=tuple(sorted(known)))
  view = _view(found, header, decoding, described, masks)
  if "units" not in described:
    stored = [pair for s, own in headers.items() if s not in wrong for pair in zip(every[s], own.kinds)]
    with no_warnings():
      kinds.check(found.name, stored, view.bands, decoding, masks)
  return view, found.files, wrong


def _difference(path: Path, header: arrays.Header, own: tuple, most: tuple) -> str:
  """In what a sample differs from most."""
  if own[0] != most[0]:
    return f"{path} has shape {header.shape}, not {pattern(most[0])} as most have"
  if own[1] != most[1]:
    there, others = (", ".join(names or ["none"]) for names in (header.bands, most[1]))
    return f"{path} names the bands {there}, not {others} as most do"
  if own[2] != most[2]:
    return f"{path} has {'' if header.dated else 'no '}dates, others have {'none' * header.dated}"
  if own[3] == most[3]:
    there, others = (", ".join(names) or "none" for names in (own[4], most[4]))
    return f"{path} has the units {there}, others {others}; units in dataset.json, if all are alike"
  has, others = ("a", "none") if header.scaled else ("no", "one")
  return f"{path} has {has} scale factor, others have {others}; scale in dataset.json replaces all of them"


def _survey_stack(found: ViewFiles, ids: Sequence[str], decoding: Decoding, described, masks: bool):
  require({found.path.suffix.lower()})
  with no_warnings():
    cube = arrays.open_stack(found.path, decoding, found.stamp)
  if cube.dtype.kind not in "biuf":
    raise InputError(f"{found.path} holds {cube.dtype}, not numbers")
  if len(cube.shape) < 2:
    raise InputError(f"{found.path} has shape {cube.shape}; samples and the shape of each are wanted")
  own = cube.ids() if cube.ids is not None else None
  count, rows = cube.shape[0], tuple(range(len(ids)))
  if own is not None and count == len(ids) and set(own) & set(ids) and set(own) != set(ids):
    _check_counted(found.path, own, ids)
  # Numbers from 0 are the positions that xarray gives to an axis without labels.
  if own is not None and (own != [str(i) for i in range(count)] or set(own) & set(ids)):
    position = {views.nfc(name): row for row, name in enumerate(own)}
    if len(own) != count or len(position) != count or not set(position) & set(ids):
      raise InputError(
        f"{found.path} has ids such as {own[0]} for {count} samples; different ones of the table are wanted"
      )
    rows = tuple(position.get(name) for name in ids)
  elif count != len(ids):
    raise InputError(f"{found.path} holds {count} samples, the table {len(ids)}")
  header = arrays.Header(cube.shape[1:], decoding.dtype(cube.dtype), False, cube.bands)
  if cube.dates is not None and "dates" not in described:
    described = {**described, "dates": cube.dates()}
  return _view(found, header, decoding, described, masks), rows


def _check_counted(path: Path, own: Sequence[str], ids: Sequence[str]) -> None:
  """Refuses numbers that count the rows of a stack where the ids of the table count from another number."""
  for numbers in (own, ids):
    if not all(name.isdecimal() for name in numbers):
      return
    whole = sorted(map(int, numbers))
    if whole != list(range(whole[0], whole[0] + len(whole))):
      return
  raise InputError(
    f"{path} numbers its samples from {min(map(int, own))}, the table from {min(map(int, ids))}: are they "
    "the same ones? Give both the same ids"
  )


def _kept(shape: tuple[int, ...]) -> tuple[int | None, ...]:
  """A sample's shape without the length that may differ, which a series (T, C) or (T, H, W, C) has."""
  return (None, *shape[1:]) if len(shape) in (2, 4) else shape


def pattern(shape: tuple[int | None, ...]) -> str:
  """A shape as messages have it; T is a length that differs."""
  inner = ", ".join("T" if n is None else str(n) for n in shape)
  return f"({inner},)" if len(shape) == 1 else f"({inner})"


def _view(found: ViewFiles, header: arrays.Header, decoding: Decoding, described, masks: bool) -> View:
  shape, dtype, dated = header.shape, np.dtype(header.dtype), header.dated
  boolean = dtype.kind == "b"
  if boolean:
    dtype = np.dtype(np.uint8)
  elif dtype.name not in SMALL:  # larger numbers are used in single precision anyway
    dtype = np.dtype(np.float32)
  where, named = f"dataset.json, view {found.name}", described.get("bands")
  if len(shape) > 4:
    raise InputError(
      f"view {found.name}: a sample has shape {pattern(shape)}; at most (T, H, W, C) is read, without a batch"
    )
  if named and len(named) != shape[-1]:
    raise InputError(
      f"dataset.json names {len(named)} bands of view {found.name}, its files have {shape[-1]}"
    )
  for key, what in (("nodata", "numbers"), ("scale", "numbers"), ("offset", "numbers"), ("units", "units")):
    if isinstance(given := described.get(key), list) and given and len(given) != shape[-1]:
      raise InputError(f"{where}: {key} has {len(given)} {what} for {shape[-1]} bands")
  bands = tuple(named or header.bands or (f"b{i + 1}" for i in range(shape[-1])))
  if twice := [name for name in bands if bands.count(name) > 1]:
    raise InputError(
      f"view {found.name} has several bands named {twice[0]}; name them in dataset.json: bands"
    )
  common = None
  if "dates" in described:
    days = dates.to_days(described["dates"], where)
    if len(shape) not in (2, 4) or shape[0] != len(days):
      raise InputError(
        f"dataset.json has {len(days)} dates of view {found.name}, its files have shape {pattern(shape)}"
      )
    common, dated = tuple(days.tolist()), True
  if "steps" in described and (dated or len(shape) not in (2, 4)):
    what = "its steps have dates" if dated else f"a sample has shape {pattern(shape)}, no series"
    raise InputError(f"{where}: steps says what the steps of a series without dates are, but {what}")
  numbered = not dated and (shape[0] is None or masks and len(shape) in (2, 4))
  return View(
    name=found.name,
    shape=tuple(shape),
    dtype=dtype.name,
    bands=bands,
    dated=dated or numbered,
    numbered=numbered,
    located=header.located,
    dates=common,
    decoding=decoding,
    path=found.path,
    stack=found.stack,
    series=found.series,
    version=found.stamp if found.stack else (),
    boolean=boolean,
  )
