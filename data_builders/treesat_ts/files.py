"""Finds the files of TreeSatAI-Time-Series, unpacked or in zip archives, and lists the samples.

`read_plan` makes a list of `Sample`s for each split, from the official split, the labels, the coordinates and
the names of the series. `Folder` reads single files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from colearn_jax.datasets.treesat_ts.arrays import import_readers

from colearn_jax.types import InputError

HOW_TO_GET_IT = (
  "get aerial.zip, sentinel-ts.zip, labels.zip, split.zip and geojson.zip from "
  "https://huggingface.co/datasets/IGNF/TreeSatAI-Time-Series and give their directory, "
  "unpacked or not (--manual_dir=DIR, in training --config.data.manual_dir=DIR)"
)
LABELS = ("labels", "TreeSatBA_v9_60m_multi_labels.json")
PLACES = ("geojson", "bb_60m.GeoJSON")
SPLITS = {"train": "train_filenames.lst", "validation": "val_filenames.lst", "test": "test_filenames.lst"}

GENERA = ("Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix", "Picea", "Pinus")
GENERA += ("Populus", "Prunus", "Pseudotsuga", "Quercus", "Tilia")
THRESHOLD = 0.07  # least share of the area for a genus to be a label


@dataclasses.dataclass(frozen=True)
class Folder:
  """A directory with files of one kind, or the zip archive that it is distributed as."""

  path: str

  def sizes(self) -> Iterator[tuple[str, int]]:
    """The name and size of each file; InputError if the folder cannot be listed."""
    with self._errors(self.path):
      if os.path.isdir(self.path):
        with os.scandir(self.path) as entries:
          yield from ((entry.name, entry.stat().st_size) for entry in entries)
      else:
        yield from ((name, member.file_size) for name, member in self._archive()[1].items())

  def stamp(self, name: str) -> tuple[int, ...] | None:
    """The size of a file, and its times or checksum, to detect changes; None if there is no such file."""
    try:
      if os.path.isdir(self.path):
        stat = os.stat(os.path.join(self.path, name))
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
      member = self._archive()[1].get(name)
      return (member.file_size, member.CRC) if member else None
    except OSError:
      return None

  def read(self, name: str) -> bytes:
    """The content of a file; InputError if it cannot be read."""
    with self._errors(self.where(name)):
      if os.path.isdir(self.path):
        return Path(self.path, name).read_bytes()
      archive, members = self._archive()
      if name not in members:
        raise FileNotFoundError("the archive has no such file")
      if (size := members[name].file_size) > LARGEST_MEMBER:
        raise InputError(f"{self.where(name)} has {size} bytes, at most {LARGEST_MEMBER} are read")
      return archive.read(members[name])

  def where(self, name: str) -> str:
    """The name of a file in error messages."""
    return os.path.join(self.path, name) if os.path.isdir(self.path) else f"{name} in {self.path}"

  def _archive(self):
    return _open_archive(self.path, os.stat(self.path).st_mtime_ns)

  @contextlib.contextmanager
  def _errors(self, what: str):
    try:
      yield
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
      raise InputError(f"cannot read {what}: {getattr(error, 'strerror', None) or error}") from error


LARGEST_MEMBER = 2**30  # bytes; zipfile reads no more than a member declares


@functools.lru_cache(maxsize=4)  # reading the table of contents takes long
def _open_archive(path: str, modified: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
  """An archive, and its members by name without directories. `modified` is only a key of the cache."""
  archive, members = zipfile.ZipFile(path), {}
  for member in archive.infolist():
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts:
      raise InputError(f"{path} has a member with an unsafe path: {member.filename!r}")
    if (
      not member.is_dir() and "__MACOSX" not in name.parts and members.setdefault(name.name, member) != member
    ):
      raise InputError(f"{path} holds {name.name} twice: {members[name.name].filename}, {member.filename}")
  return archive, members


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
  """What is known of a tile before its images and series are read.

  Attributes:
    id: name of its files without the suffix.
    series: name of the file of its series.
    genera: positions in `GENERA`.
    longitude: in degrees, NaN if unknown.
    latitude: in degrees, NaN if unknown.
  """

  id: str
  series: str
  genera: tuple[int, ...]
  longitude: float
  latitude: float


def find_folder(manual_dir, folders: Sequence[str], suffix: str) -> Folder:
  """The first of these directories, or of their zip archives, that contains files with the suffix.

  Raises:
    InputError: there is none, or one cannot be read.
  """
  for folder in folders:
    directory, archive = Path(manual_dir) / folder, Path(manual_dir) / f"{folder}.zip"
    if directory.is_dir() or archive.is_file():
      found = Folder(str(directory if directory.is_dir() else archive))
      if any(name.endswith(suffix) for name, _ in found.sizes()):
        return found
  tried = ", ".join(f"{folder}, {folder}.zip" for folder in folders)
  raise InputError(f"manual_dir {manual_dir} has no {suffix} files in any of {tried}; {HOW_TO_GET_IT}")


def find_images(manual_dir) -> Folder:
  """The folder of the aerial images."""
  return find_folder(manual_dir, ("aerial",), ".tif")


def find_series(manual_dir) -> Folder:
  """The folder of the satellite series."""
  return find_folder(manual_dir, ("sentinel-ts", "sentinel"), ".h5")


def read_file(manual_dir, folder: str, name: str) -> tuple[str, bytes] | None:
  """Reads a file of `manual_dir/folder`, of `manual_dir`, or of the zip archive of the folder.

  Returns:
    The name of the file in error messages, and its content; None if there is no such file.
  """
  for place in (Path(manual_dir) / folder, Path(manual_dir), Path(manual_dir) / f"{folder}.zip"):
    found = Folder(str(place))
    if (place / name).is_file() or place.is_file() and found.stamp(name):
      return found.where(name), found.read(name)
  return None


def sources(manual_dir) -> dict[str, str]:
  """The sha256 of each text file; for the folders of images and series, that of their names and sizes."""
  out = {}
  for folder, name in (LABELS, PLACES, *(("split", name) for name in SPLITS.values())):
    if found := read_file(manual_dir, folder, name):
      out[name] = hashlib.sha256(found[1]).hexdigest()
    elif name != SPLITS["validation"]:  # the earlier data set TreeSatAI has no validation split
      raise InputError(f"no file {name} in manual_dir {manual_dir}; {HOW_TO_GET_IT}")
  for name, folder in (("aerial", find_images(manual_dir)), ("sentinel-ts", find_series(manual_dir))):
    digest = hashlib.sha256()
    for entry in sorted(folder.sizes()):
      digest.update(json.dumps(entry).encode())
    out[name] = digest.hexdigest()
  return out


def read_plan(manual_dir) -> tuple[dict[str, list[Sample]], list[str]]:
  """Lists the samples of each split, from the split lists, the labels, the outlines and the series' names.

  Args:
    manual_dir: directory with the published files.

  Returns:
    The samples of each split, in the order of its list; and the names of tiles without a label.

  Raises:
    InputError: a list, the labels or the outlines cannot be read; a list is empty or repeats a name; or a
      name has no labels or two series.
  """
  genera, places, series = _read_labels(manual_dir), _read_places(manual_dir), {}
  for file, _ in find_series(manual_dir).sizes():  # {name}_{year}.h5, or {name}.h5
    if file.endswith(".h5"):
      name = re.sub("_[0-9]{4}$", "", file.removesuffix(".h5"))
      if series.setdefault(name, file) != file:
        raise InputError(f"manual_dir {manual_dir} has two series of {name}: {series[name]} and {file}")
  splits, without, seen = {}, [], {}
  for split, filename in SPLITS.items():
    if not (found := read_file(manual_dir, "split", filename)):
      continue
    where, content = found
    names = [
      line.strip().removesuffix(".tif") for line in _decode(where, content).splitlines() if line.strip()
    ]
    if not names:
      raise InputError(f"{where} is empty; {HOW_TO_GET_IT}")
    splits[split] = []
    for name in names:
      if name in seen:
        raise InputError(
          f"{where}: {name} is there twice" + f", also in {seen[name]}" * (seen[name] != where)
        )
      seen[name] = where
      if name not in genera:
        raise InputError(f"{where}: {name} has no entry in {LABELS[1]}")
      if genera[name]:
        place = places.get(name, (np.nan, np.nan))
        splits[split].append(Sample(name, series.get(name, f"{name}.h5"), genera[name], *place))
      else:
        without.append(name)
  return splits, without


def _decode(where: str, content: bytes) -> str:
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise InputError(f"cannot read {where} as UTF-8 text: {error}") from error


def _read_json(manual_dir, folder: str, name: str, shorten=dict) -> tuple[str, object]:
  """The name of the file in messages, and its content, with every object replaced by `shorten(object)`."""
  found = read_file(manual_dir, folder, name)
  if not found:
    raise InputError(f"no file {name} in manual_dir {manual_dir}; {HOW_TO_GET_IT}")
  where, content = found

  def unique(pairs):
    if len(out := dict(pairs)) < len(pairs):
      names = [key for key, _ in pairs]
      raise InputError(f"{where}: {next(key for key in names if names.count(key) > 1)} is there twice")
    return shorten(out)

  try:
    return where, json.loads(_decode(where, content), object_pairs_hook=unique)
  except (json.JSONDecodeError, RecursionError) as error:
    raise InputError(f"cannot read {where} as JSON: {error}") from error


def _read_labels(manual_dir) -> dict[str, tuple[int, ...]]:
  """The labels of each tile by its name, as positions in `GENERA`."""
  where, tree = _read_json(manual_dir, *LABELS)
  if not isinstance(tree, dict) or not tree:
    raise InputError(f"{where} is not a JSON object of file names with their genera")
  out, combinations, index = {}, {}, {genus: i for i, genus in enumerate(GENERA)}
  for name, entries in tree.items():
    try:
      shares = [(str(genus), float(share)) for genus, share in entries]
    except (TypeError, ValueError):
      raise InputError(f"{where}: the entry of {name} is not a list of genera and shares") from None
    for genus, share in shares:
      if genus not in index:
        raise InputError(f"{where}: unknown genus {genus!r} of {name}, have: {', '.join(GENERA)}")
      if not 0 <= share < np.inf:
        raise InputError(f"{where}: the share of {genus} of {name} is {share}, not a number of 0 or more")
    found = tuple(sorted({index[genus] for genus, share in shares if share >= THRESHOLD}))
    out[name.removesuffix(".tif")] = combinations.setdefault(found, found)  # tiles share tuples in memory
  return out


def _read_places(manual_dir) -> dict[str, tuple[float, float]]:
  """Longitude and latitude of the centre of each tile, by its name."""
  _, rasterio = import_readers()

  def shorten(node):  # while parsing, because all outlines together take much memory
    if "coordinates" in node:
      rings = node["coordinates"] if np.ndim(node["coordinates"][0][0]) == 1 else sum(node["coordinates"], [])
      corners = np.concatenate([np.array(ring)[:, :2] for ring in rings])
      return tuple(((corners.min(0) + corners.max(0)) / 2).tolist())
    if "geometry" in node:
      return node["properties"]["IMG_ID"].removesuffix(".tif"), *node["geometry"]
    return node

  try:
    where, tree = _read_json(manual_dir, *PLACES, shorten)
    names, x, y = zip(*tree["features"], strict=True)
    crs = tree.get("crs", {}).get("properties", {}).get("name")
    metres = max(map(abs, x)) > 180
  except InputError:
    raise
  except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
    raise InputError(f"{PLACES[1]} is not a GeoJSON of outlines with an IMG_ID: {error!r}") from None
  # Without a named system, coordinates are degrees by the GeoJSON standard. Values above 180 can only be
  # metres, in the UTM zone that Lower Saxony uses.
  crs = crs or ("EPSG:25832" if metres else "OGC:CRS84")
  try:
    x, y = rasterio.warp.transform(rasterio.CRS.from_user_input(crs), "OGC:CRS84", x, y)
  except rasterio.errors.RasterioError as error:
    raise InputError(f"{where}: unknown coordinate system {crs!r}: {' '.join(str(error).split())}") from error
  return dict(zip(names, zip(x, y)))
