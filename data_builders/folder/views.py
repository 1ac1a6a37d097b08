"""Finds a folder's views: the files of each sample and sensor. No file of values is opened."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from colearn_jax.datasets.folder import arrays

from colearn_jax import dates
from colearn_jax.types import InputError

STACKS = (".npy", ".zarr", ".nc")  # one file for all samples, of which one can be read at a time
OTHERS = (  # formats of values that are not read
  (
    ".jp2",
    ".j2k",
    ".png",
    ".jpg",
    ".jpeg",
    ".img",
    ".vrt",
    ".bil",
    ".hdf",
    ".h5",
    ".hdf5",
    ".nc4",
    ".grib",
    ".grb",
  )
  + (".grb2", ".mat", ".pt", ".pkl", ".csv", ".parquet", ".zip", ".gz")
)
BESIDE = (".msk", ".aux.xml", ".ovr")  # what GDAL writes beside an image
_DATED = re.compile(r"(?P<sample>.+?)[-_. ](?P<date>\d{4}[-_.]?\d{2}[-_.]?\d{2}(?:T\d{4,6}Z?)?)")

Entries = tuple[tuple[str, int, str], ...]
# Names in a view's directory, with their days where each holds one date; the row of a stack; or no file.
Files = tuple[str, ...] | tuple[tuple[str, int], ...] | int | None


@dataclasses.dataclass(frozen=True)
class ViewFiles:
  """A view's files.

  Attributes:
    name: of the view.
    path: its directory, or the one file of all samples.
    stack: whether it is one file of all samples.
    files: of each sample in the table's order, relative to the directory; of a stack ().
    series: whether each file holds one date.
    stamp: names, sizes and times of the files.
    strangers: files of no sample.
  """

  name: str
  path: Path
  stack: bool
  files: tuple[Files, ...]
  series: bool
  stamp: tuple
  strangers: tuple[str, ...]


def nfc(name: str) -> str:
  """A name in the Unicode form in which names are compared; macOS stores letters and accents apart."""
  return unicodedata.normalize("NFC", name)


def walk(folder: Path) -> Entries:
  """Name, size and times of everything in a folder; it changes whenever `find` may find other things.

  A Zarr directory counts as one file; the names of other directories end with a slash. Hidden files are left
  out, and at the top names that begin with an underscore.
  """
  out = []

  def visit(directory, above: str):
    for entry in _scan(directory):
      if entry.name.startswith("." if above else (".", "_")):
        continue
      name = above + entry.name
      try:
        is_dir, stat = entry.is_dir(), entry.stat()
      except OSError as error:
        raise InputError(f"cannot read {entry.path}: {error.strerror}") from error
      if is_dir and entry.is_symlink() and _leads_up(entry.path):
        raise InputError(f"{entry.path} is a link to a directory that holds it")
      if not is_dir:
        out.append((name, stat.st_size, _times(stat)))
      elif name.lower().endswith(".zarr"):
        out.append((name, *stamp(Path(entry.path))))
      else:
        out.append((f"{name}/", 0, ""))
        visit(entry.path, f"{name}/")

  visit(folder, "")
  return tuple(sorted(out))


def _leads_up(link: str) -> bool:
  """Whether a link leads to a directory that holds it."""
  return Path(os.path.realpath(os.path.dirname(link))).is_relative_to(os.path.realpath(link))


def find(folder: Path, ids: Sequence[str], entries: Entries) -> list[ViewFiles]:
  """The views of a folder, by name: every directory and every stack in it.

  Args:
    folder: the directory.
    ids: of the samples.
    entries: what `walk` found in it.

  Raises:
    InputError: there is none, or one without a file of any sample, or with two of one.
  """
  there: dict[str, list[str]] = {}
  below: dict[str, dict[str, tuple[int, str]]] = {}  # by directory
  for name, size, time in entries:
    top, slash, rest = name.partition("/")
    if rest:
      below[top] |= {} if rest.endswith("/") else {rest: (size, time)}
    elif slash:
      there.setdefault(nfc(top), []).append(top)
      below[top] = {}
    elif os.path.splitext(name)[1].lower() in (*STACKS, ".npz"):
      there.setdefault(nfc(Path(name).stem), []).append(name)
  if not there:
    raise InputError(f"{folder} holds no views: a directory for each, with a file of values for each sample")
  out, stamps = [], {name: (size, time) for name, size, time in entries}
  for name, names in sorted(there.items()):
    if len(names) > 1:
      raise InputError(f"{folder} has two of view {name}: {', '.join(names)}")
    one = names[0]
    if one in below:
      out.append(_find_files(name, folder / one, below[one], ids))
    else:
      out.append(_find_stack(name, folder / one, stamps[one]))
  return out


def _find_stack(name: str, path: Path, stamp: tuple[int, str]) -> ViewFiles:
  if path.suffix.lower() not in STACKS:
    raise InputError(f"{path}: one file for all samples has to be one of {', '.join(STACKS)}")
  return ViewFiles(name, path, True, (), False, ((path.name, *stamp),), ())


def _find_files(
  name: str, directory: Path, files: Mapping[str, tuple[int, str]], ids: Sequence[str]
) -> ViewFiles:
  number = {sample: i for i, sample in enumerate(ids)}
  whole, steps, stamps, strangers = {}, {}, [], []
  for actual in files:
    if actual.lower().endswith(BESIDE):
      continue
    relative = nfc(actual)
    sample, suffix = os.path.splitext(relative)
    known = suffix.lower() in arrays.SUFFIXES
    if known and sample in number:
      if (other := whole.get(sample)) is not None:
        raise InputError(f"view {name}, sample {sample}: it has two files, {other} and {actual}")
      whole[sample] = actual
    elif known and (of_date := _of_date(sample, number)) is not None:
      owner, day = of_date
      days = steps.setdefault(owner, {})
      if (other := days.get(day)) is not None:
        raise InputError(
          f"view {name}, sample {owner}: {other} and {actual} are of one date; one file has all bands"
        )
      days[day] = actual
    else:
      strangers.append(relative)
      continue
    stamps.append((actual, *(files.get(actual + more) for more in ("", *BESIDE))))
  _check_strangers(name, strangers, number, {*whole, *steps})
  if not stamps:
    found = f"its files are such as {min(strangers)}; " if strangers else ""
    raise InputError(
      f"view {name}: {directory} has no file of any sample, as would be {ids[0]}.npy; {found}"
      f"{', '.join(arrays.SUFFIXES)} are read; a directory that is no view has a name that begins with _"
    )
  if both := next((sample for sample in whole if steps), None):
    one = next(iter(steps))
    raise InputError(
      f"view {name} has one file for sample {both} ({whole[both]}) and a file for each date of sample {one} "
      f"({min(steps[one].values())}); all samples have to have the one or the other"
    )
  of = lambda sample: (
    (whole[sample],) if sample in whole else tuple((own, day) for day, own in sorted(steps[sample].items()))
  )
  files = tuple(of(sample) if sample in whole or sample in steps else None for sample in ids)
  return ViewFiles(
    name, directory, False, files, bool(steps), tuple(sorted(stamps)), tuple(sorted(strangers))
  )


def _of_date(name: str, number: Mapping[str, int]) -> tuple[str, int] | None:
  """The sample of a file that holds one date, and its day; None if it is no such.

  Such names are field1/2023-05-01, field1/2023-05-01/response and field1_20230501. Names of samples may have
  dates of their own.
  """
  parent, _, last = name.rpartition("/")
  above, _, folder = parent.rpartition("/")
  if parent in number and (day := dates.in_name(last)) is not None:
    return parent, day
  if above in number and (day := dates.in_name(folder)) is not None:
    inner = dates.in_name(last)
    return above, day if inner is None else inner
  match = _DATED.fullmatch(name)
  if match and match["sample"] in number and (day := dates.in_name(match["date"])) is not None:
    return match["sample"], day
  return None


def _check_strangers(view: str, strangers: Sequence[str], number: Mapping[str, int], found) -> None:
  """A file whose name is a sample's but for its format, or upper and lower case, is surely that sample's."""
  lacking = {sample.casefold(): sample for sample in number if sample not in found}
  for name in strangers:
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in arrays.SUFFIXES and (sample := lacking.get(stem.casefold())) is not None:
      raise InputError(f"view {view}: {name} is no file of sample {sample}, whose id is written otherwise")
    if suffix.lower() in OTHERS and stem.casefold() in lacking and found:
      raise InputError(
        f"view {view}: {name} is not read, and sample {lacking[stem.casefold()]} has no other file; read are "
        f"{', '.join(arrays.SUFFIXES)}"
      )


def _scan(directory: Path) -> list[os.DirEntry]:
  try:
    with os.scandir(directory) as entries:
      return list(entries)
  except OSError as error:
    raise InputError(f"cannot read {directory}: {error.strerror}") from error


def stamp(path: Path) -> tuple[int, str]:
  """What changes with a file: size and times of a file with its mask, or of all in a Zarr directory."""
  paths = sorted(path.rglob("*")) if path.is_dir() else [path]
  if path.suffix.lower() in (".tif", ".tiff"):
    paths = [path, *(Path(f"{path}{more}") for more in BESIDE)]
  stats = [(p, p.stat()) for p in paths if p.is_file() or p == path and not p.is_dir()]
  every = repr([(str(p.relative_to(path.parent)), stat.st_size, _times(stat)) for p, stat in stats])
  return sum(stat.st_size for _, stat in stats), hashlib.sha256(every.encode()).hexdigest()


def _times(stat: os.stat_result) -> str:
  """The times of a file's last change: of its content, which programs can set, and of any kind (ctime)."""
  return f"{stat.st_mtime_ns} {stat.st_ctime_ns}"


def paths(view: ViewFiles, files: Files) -> tuple[Path, ...]:
  """The paths of a sample's files, `arrays.Steps` where each holds one date; () if it has none."""
  if view.stack:
    return () if files is None else (view.path,)
  if view.series:
    return arrays.Steps([view.path / name for name, _ in files or ()], [day for _, day in files or ()])
  return tuple(view.path / name for name in files or ())
