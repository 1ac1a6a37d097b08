"""TFDS builder of CropHarvest, crops all over the world.

`read_labels` parses the GeoJSON file of labels, `read_arrays` the HDF5 files of satellite data. `Builder`
converts them to a TFDS data set. README.md in this folder describes the data.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow_datasets as tfds
from colearn_jax.datasets.common import ArrayRecords, here
from tqdm import tqdm

from colearn_jax.types import InputError

LABELS, ARCHIVE, ARRAYS = "labels.geojson", "features.tar.gz", "features/arrays"
HOW_TO_GET_IT = (
  f"get {LABELS} and {ARCHIVE} from https://zenodo.org/records/10251170 and give their directory "
  "(--manual_dir=DIR, in training --config.data.manual_dir=DIR)"
)

STEPS = 12  # of 30 days each; the last one ends at the sample's export_end_date
# The columns of the published arrays.
BANDS = ("VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
BANDS += ("temperature_2m", "total_precipitation", "elevation", "slope", "NDVI")
VIEWS = {
  "S1": ((STEPS, 2), BANDS[:2], "Sentinel-1 backscatter, dB"),
  "S1Ind": ((STEPS, 1), ("VH-VV",), "Sentinel-1 VH - VV, dB"),
  "S2": ((STEPS, 11), BANDS[2:13], "Sentinel-2 top of atmosphere reflectance x 10000"),
  "S2VI": ((STEPS, 1), ("NDVI_stored",), "NDVI as published, which is (B7 - B3) / (B7 + B3)"),
  "S2NDVI": ((STEPS, 1), ("NDVI",), "NDVI recomputed, (B8 - B4) / (B8 + B4), NaN where B8 + B4 is 0"),
  "weather": ((STEPS, 2), BANDS[13:15], "ERA5 temperature, K, and precipitation, m"),
  "DEM": ((2,), BANDS[15:17], "SRTM altitude, m, and slope, degrees"),
}
UNITS = {  # of the bands of some views
  "S1": ["dB", "dB"],
  "S1Ind": ["dB"],
  "S2": ["reflectance x 10000"] * 11,
  "weather": ["K", "m"],
  "DEM": ["m", "degrees"],
}
# The groups of the FAO's indicative crop classification, in the order in which CropHarvest numbers them.
CROPS = ("non_crop", "cereals", "vegetables_melons", "fruits_nuts", "oilseeds", "root_tuber")
CROPS += ("beverage_spice", "leguminous", "sugar", "other")


@dataclasses.dataclass(frozen=True)
class Row:
  """One labelled place.

  Attributes:
    id: name of its array's file, without the suffix.
    dataset: the contributing data set.
    label: its class.
    coordinates: latitude and longitude, degrees.
    year: year of the label.
    date: end of the satellite series, YYYY-MM-DD; empty if unknown.
  """

  id: str
  dataset: str
  label: str
  coordinates: tuple[float, float]
  year: int
  date: str


def read_labels(path, task: str) -> tuple[list[Row], dict[str, int]]:
  """Reads `labels.geojson`. Leaves out test rows and, for `multi`, rows without a class.

  Args:
    path: the file.
    task: `binary` or `multi`.

  Returns:
    The rows in the order of the file; and the number of rows that were left out, by reason: `test`,
    `unlabelled`, and `repeated` for exact repetitions of an earlier row.

  Raises:
    InputError: the file cannot be read, or a row lacks a property, has an invalid value, or differs from an
      earlier row with the same array.
  """
  try:
    with open(path, encoding="utf-8") as file:
      # Outlines of fields are most of the file and are not needed, so they are dropped while parsing.
      tree = json.load(file, object_hook=lambda node: None if "coordinates" in node else node)
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"cannot read {path} as GeoJSON: {error}") from error
  features = tree.get("features") if isinstance(tree, dict) else None
  if not isinstance(features, list) or not features:
    raise InputError(f"{path} is not a GeoJSON FeatureCollection, or it is empty; {HOW_TO_GET_IT}")
  rows, left_out = {}, {"test": 0, "unlabelled": 0, "repeated": 0}
  for number, feature in enumerate(features):
    properties = feature.get("properties") if isinstance(feature, dict) else None
    row = _read_row(properties, task, f"{path}, feature {number}")
    if isinstance(row, str):
      left_out[row] += 1
    elif rows.setdefault(row.id, row) is not row:
      if rows[row.id] != row:
        raise InputError(f"{path}, feature {number}: {row.id} is there twice, with different properties")
      left_out["repeated"] += 1
  return list(rows.values()), left_out


def _read_row(properties: object, task: str, where: str) -> Row | str:
  """The row of one feature, or the reason for leaving it out."""
  if not isinstance(properties, dict):
    raise InputError(f"{where} has no properties")

  def get(name, good, allowed):
    if name not in properties:
      raise InputError(f"{where} lacks the property {name!r}, it has: {', '.join(properties)}")
    if not good(value := properties[name]):
      raise InputError(f"{where}: {name} is {value!r}, not {allowed}")
    return value

  yes_or_no = (lambda v: v in (0, 1), "true or false")  # True == 1 and False == 0 in Python
  if get("is_test", *yes_or_no):
    return "test"
  if task == "binary":
    label = ("non_crop", "crop")[int(get("is_crop", *yes_or_no))]
  else:
    label = get("classification_label", lambda v: v is None or (v and isinstance(v, str)), "text or null")
    if label is None:
      return "unlabelled"
  number = lambda v: type(v) in (int, float)
  index = get("index", lambda v: number(v) and v == v // 1, "a whole number")
  named = lambda v: isinstance(v, str) and re.fullmatch(r"[^/\\\0]+", v)  # it is a part of a file name
  dataset = get("dataset", named, "a name without / and \\")
  date = get("collection_date", lambda v: isinstance(v, str) and re.match("[0-9]{4}", v), "a date YYYY-MM-DD")
  longitude = get("lon", lambda v: number(v) and abs(v) <= 180, "degrees from -180 to 180")
  latitude = get("lat", lambda v: number(v) and abs(v) <= 90, "degrees from -90 to 90")
  return Row(
    id=f"{int(index)}_{dataset}",
    dataset=dataset,
    label=label,
    coordinates=(latitude, longitude),
    year=int(date[:4]),
    date=(get("export_end_date", lambda v: v is None or _day(v), "a date YYYY-MM-DD or null") or "")[:10],
  )


def _day(text: object) -> bool:
  """Whether a text begins with a date YYYY-MM-DD; a time may follow."""
  try:
    return isinstance(text, str) and bool(datetime.datetime.strptime(text[:10], "%Y-%m-%d"))
  except ValueError:
    return False


def choose_classes(labels: Sequence[str], path) -> tuple[str, ...]:
  """The classes of `multi`: CropHarvest's ten if all labels are among them, the sorted labels if none is.

  Args:
    labels: the labels of all rows.
    path: the file that they are from, for the error message.

  Raises:
    InputError: some labels are among the ten and others are not, or there is only one class.
  """
  found = sorted(set(labels))
  if strange := [label for label in found if label not in CROPS]:
    if len(strange) < len(found):
      known = ", ".join(CROPS)
      raise InputError(f"{path}: classification_label {strange[0]!r} is none of CropHarvest's: {known}")
    if len(found) == 1:
      raise InputError(f"{path} has only one classification_label: {found[0]}")
  return tuple(found) if strange else CROPS


def read_array(source, where: str) -> np.ndarray:
  """Reads the HDF5 file of one sample.

  Args:
    source: path, or binary file object.
    where: name of the file in error messages.

  Returns:
    (12, 18) float64, columns `BANDS`, time ascending.

  Raises:
    InputError: the file is not HDF5, or has no array of this shape with values in the range of float32.
  """
  h5py = import_h5py()
  try:
    with h5py.File(source, "r") as file:
      array = file.get("array")
      if not isinstance(array, h5py.Dataset):
        raise InputError(f"{where} has no array under the key 'array', its keys are: {', '.join(file)}")
      if array.shape != (STEPS, len(BANDS)) or array.dtype.kind not in "iuf":
        shape = f"{array.dtype} {array.shape}"
        raise InputError(f"{where}: the array is {shape}, not numbers of shape {(STEPS, len(BANDS))}")
      values = array[()].astype(np.float64)
  except InputError:
    raise
  except Exception as error:  # h5py raises many types for damaged files
    raise InputError(f"cannot read {where} as HDF5: {' '.join(str(error).split())}") from error
  if (abs(values) > np.finfo(np.float32).max).any():
    raise InputError(f"{where}: the array holds infinite values")
  return values


def import_h5py():
  """Returns the module h5py, or raises an InputError that says how to install it."""
  try:
    import h5py
  except ImportError:
    raise InputError("CropHarvest is read with h5py: pip install 'colearn_jax[raster]'") from None
  return h5py


def read_arrays(manual_dir, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Reads the arrays of these samples from the published archive, or from a folder if there is no archive.

  Args:
    manual_dir: directory with `features.tar.gz` or `features/arrays/`.
    ids: names of the files, without the suffix.

  Returns:
    (N, 12, 18) float64, see `read_array`; and (N,) bool, False for samples without a file.

  Raises:
    InputError: the archive or a file cannot be read or has a wrong layout.
  """
  import_h5py()
  at = {name: i for i, name in enumerate(ids)}
  arrays = np.full((len(ids), STEPS, len(BANDS)), np.nan)
  there = np.zeros(len(ids), bool)
  archive = Path(manual_dir) / ARCHIVE
  files = _archived(archive, at) if archive.is_file() else _unpacked(Path(manual_dir) / ARRAYS, at)
  for name, source, where in tqdm(files, desc="Reading arrays", unit=" files", total=len(ids), disable=None):
    if there[at[name]]:
      raise InputError(f"{where} is there more than once")
    arrays[at[name]], there[at[name]] = read_array(source, where), True
  return arrays, there


LARGEST_MEMBER = 2**24  # bytes; the largest arrays have 20 000


def _unpacked(directory: Path, wanted) -> Iterator[tuple[str, object, str]]:
  """For each wanted file in the directory its id, its path, and its name in messages."""
  there = set(os.listdir(directory))
  for name in wanted:
    if f"{name}.h5" in there:
      yield name, directory / f"{name}.h5", str(directory / f"{name}.h5")


def _archived(path: Path, wanted) -> Iterator[tuple[str, object, str]]:
  """For each wanted file in the archive its id, content, and name in messages; in one pass, in memory."""
  try:
    with tarfile.open(path, "r|*") as archive:
      for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
          raise InputError(f"{path} has a member with an unsafe path: {member.name!r}")
        if name.parent.name == "arrays" and name.suffix == ".h5" and name.stem in wanted:
          where = f"{member.name} in {path}"
          if not member.isfile():
            raise InputError(f"{where} is not a regular file")
          if member.size > LARGEST_MEMBER:
            raise InputError(f"{where} has {member.size} bytes, at most {LARGEST_MEMBER} are read")
          content = archive.extractfile(member).read()
          yield name.stem, io.BytesIO(content), where
  except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
    raise InputError(f"cannot read {path} as a tar archive: {error}") from error


def to_views(array: np.ndarray) -> dict[str, np.ndarray]:
  """Computes the views of one sample, float32, from its (12, 18) array. `VIEWS` has their shapes."""
  red, infrared = array[:, [BANDS.index("B4")]], array[:, [BANDS.index("B8")]]
  total = infrared + red
  views = {
    "S1": array[:, :2],
    "S1Ind": array[:, 1:2] - array[:, :1],
    "S2": array[:, 2:13],
    "S2VI": array[:, 17:],
    "S2NDVI": np.divide(infrared - red, total, out=np.full_like(total, np.nan), where=total != 0),
    "weather": array[:, 13:15],
    "DEM": array[0, 15:17],  # the same in every step
  }
  return {name: view.astype(np.float32) for name, view in views.items()}


def _facts(view: str, shape: tuple[int, ...]) -> dict[str, object]:
  """What else is known of a view, see `colearn_jax.data.modality`."""
  units = {"units": UNITS[view]} if view in UNITS else {}
  return units | ({"steps": "30 days"} if len(shape) == 2 else {})


class Builder(ArrayRecords, tfds.core.GeneratorBasedBuilder):
  """Labelled places all over the world with twelve months of satellite and weather data."""

  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("2.1.0")
  RELEASE_NOTES = {
    "1.0.0": "Initial release.",
    "2.0.0": "Coordinates are latitude, then longitude; `export_end_date` is the feature `date`.",
    "2.1.0": "Units of bands, and which months the steps are.",
  }
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="binary", description="Crop or not."),
    tfds.core.BuilderConfig(name="multi", description="Which of ten groups of crops, or none."),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"{HOW_TO_GET_IT}."

  @staticmethod
  def sources(manual_dir) -> dict[str, str]:
    """The sha256 of each source file; InputError if one is missing.

    For an unpacked folder, which has a file for each sample, it is the digest of their names and sizes.
    """
    labels, archive, arrays = (Path(manual_dir) / name for name in (LABELS, ARCHIVE, ARRAYS))
    if not labels.is_file():
      raise InputError(f"no file {LABELS} in manual_dir {manual_dir}; {HOW_TO_GET_IT}")
    if not archive.is_file() and not arrays.is_dir():
      raise InputError(f"neither {ARCHIVE} nor {ARRAYS} in manual_dir {manual_dir}; {HOW_TO_GET_IT}")
    try:
      if archive.is_file():
        return {LABELS: _sha256(labels), ARCHIVE: _sha256(archive)}
      sizes = sorted((entry.name, entry.stat().st_size) for entry in os.scandir(arrays))
      return {LABELS: _sha256(labels), ARRAYS: hashlib.sha256(json.dumps(sizes).encode()).hexdigest()}
    except OSError as error:
      raise InputError(f"cannot read {error.filename}: {error.strerror}") from error

  @staticmethod
  def describe(manual_dir=None, config: str = "multi") -> dict:
    """What the data set contains, see `build.describe`. Assumes the classes of the published files."""
    del manual_dir
    binary = config == "binary"
    return {
      "task": {
        "kind": "binary" if binary else "multiclass",
        "outputs": ["non_crop", "crop"] if binary else list(CROPS),
        "unit": "crop" if binary else "crop group",
      },
      "views": {
        name: {"shape": shape, "bands": list(bands), **_facts(name, shape)}
        for name, (shape, bands, _) in VIEWS.items()
      },
      "groups": ["dataset"],
      "date": True,
      "coordinates": True,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    task = self.describe(config=self.builder_config.name)["task"]
    binary, outputs = task["kind"] == "binary", task["outputs"]
    tensor = lambda shape: tfds.features.Tensor(shape=shape, dtype=np.float32)
    exact = tfds.features.Encoding.BYTES  # the default would store float32
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "views": {name: tensor(shape) for name, (shape, _, _) in VIEWS.items()},
          # The classes of `multi` are set after the labels have been read.
          "target": tfds.features.ClassLabel(names=outputs) if binary else tfds.features.ClassLabel(),
          "groups": {"dataset": tfds.features.Text()},
          "coordinates": tfds.features.Tensor(shape=(2,), dtype=np.float64, encoding=exact),
          "year": tfds.features.Scalar(np.int32),
          "date": tfds.features.Text(),  # end of the last of the twelve steps
        }
      ),
      homepage="https://github.com/nasaharvest/cropharvest",
      license="CC BY-SA 4.0",
      disable_shuffling=True,  # keep the order of the labels, which may differ from the archive's
      metadata=tfds.core.MetadataDict(
        task=task,
        views={
          name: {"bands": list(bands), "description": text, **_facts(name, shape)}
          for name, (shape, bands, text) in VIEWS.items()
        },
        sources={},
        left_out={},
      ),
    )

  def _split_generators(self, dl_manager):
    try:
      manual_dir = Path(dl_manager.manual_dir)
    except AssertionError:  # TFDS raises it if the directory does not exist or is empty
      raise InputError(f"CropHarvest has to be downloaded by hand: {HOW_TO_GET_IT}") from None
    sources, task, metadata = self.sources(manual_dir), self.builder_config.name, self.info.metadata
    rows, left_out = read_labels(manual_dir / LABELS, task)
    if not rows:
      raise InputError(f"{manual_dir / LABELS} has no labelled row outside of the test part")
    note = ""
    if task == "multi":
      classes = choose_classes([row.label for row in rows], manual_dir / LABELS)
      self.info.features["target"].names = list(classes)
      metadata["task"]["outputs"] = list(classes)
      note = "" if classes == CROPS else f"; these are not CropHarvest's classes: {', '.join(classes)}"
    arrays, there = read_arrays(manual_dir, [row.id for row in rows])
    if not there.any():
      raise InputError(f"{manual_dir} has no array for any of {len(rows)} rows; {HOW_TO_GET_IT}")
    left_out["without_array"] = int((~there).sum())
    metadata["sources"], metadata["left_out"] = sources, left_out
    counts = ", ".join(f"{count} {why}" for why, count in left_out.items())
    print(f"cropharvest/{task}: {there.sum()} samples; left out: {counts}{note}", file=sys.stderr)
    return {"train": self.counted(self._generate_examples(rows, arrays, there))}

  def _generate_examples(self, rows, arrays, there):
    for i in np.flatnonzero(there):
      row = rows[i]
      example = {
        "id": row.id,
        "views": to_views(arrays[i]),
        "target": row.label,
        "groups": {"dataset": row.dataset},
        "coordinates": np.array(row.coordinates, np.float64),
        "year": row.year,
        "date": row.date,
      }
      yield int(i), example


def _sha256(path: Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
