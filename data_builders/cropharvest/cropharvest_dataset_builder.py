"""TFDS builder of CropHarvest, crops all over the world: see README.md beside it."""

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
from colearn_jax.datasets.place import here
from tqdm import tqdm

from colearn_jax.types import InputError

LABELS, ARCHIVE, ARRAYS = "labels.geojson", "features.tar.gz", "features/arrays"
HOW_TO_GET_IT = (
  f"get {LABELS} and {ARCHIVE} from https://zenodo.org/records/10251170 and give the directory "
  "that they lie in (--manual_dir=DIR, in training --config.data.manual_dir=DIR)"
)

STEPS = 12  # of 30 days, the last one ending with the sample's export_end_date
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
# The groups of the FAO's indicative crop classification, in the order in which CropHarvest numbers them.
CROPS = ("non_crop", "cereals", "vegetables_melons", "fruits_nuts", "oilseeds", "root_tuber")
CROPS += ("beverage_spice", "leguminous", "sugar", "other")


@dataclasses.dataclass(frozen=True)
class Row:
  """One labelled place: the stem of its array's file, its class, and where and when it is."""

  id: str
  dataset: str
  label: str
  coordinates: tuple[float, float]
  year: int
  date: str


def read_labels(path, task: str) -> tuple[list[Row], dict[str, int]]:
  """Reads `labels.geojson`; rows of the test part, and for `multi` those without a class, are left out.

  Args:
    path: of the file.
    task: `binary` or `multi`.

  Returns:
    The rows in the file's order, and how many were left out: `test`, `unlabelled`, and `repeated`, which are
    rows that say again what an earlier one said.

  Raises:
    InputError: if the file cannot be read, or a row lacks a property, has an impossible value, or contradicts
      an earlier one with the same array.
  """
  try:
    with open(path, encoding="utf-8") as file:
      # Outlines of fields are most of the file and of no use here: they go as they are read.
      tree = json.load(file, object_hook=lambda node: None if "coordinates" in node else node)
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"cannot read {path} as GeoJSON: {error}") from error
  features = tree.get("features") if isinstance(tree, dict) else None
  if not isinstance(features, list) or not features:
    raise InputError(f"{path} is no GeoJSON FeatureCollection, or an empty one; {HOW_TO_GET_IT}")
  rows, left_out = {}, {"test": 0, "unlabelled": 0, "repeated": 0}
  for number, feature in enumerate(features):
    properties = feature.get("properties") if isinstance(feature, dict) else None
    row = _read_row(properties, task, f"{path}, feature {number}")
    if isinstance(row, str):
      left_out[row] += 1
    elif rows.setdefault(row.id, row) is not row:
      if rows[row.id] != row:
        raise InputError(f"{path}, feature {number}: {row.id} was there before, with other properties")
      left_out["repeated"] += 1
  return list(rows.values()), left_out


def _read_row(properties: object, task: str, where: str) -> Row | str:
  """The row of one feature, or why it is left out."""
  if not isinstance(properties, dict):
    raise InputError(f"{where} has no properties")

  def get(name, good, allowed):
    if name not in properties:
      raise InputError(f"{where} lacks the property {name!r}, it has: {', '.join(properties)}")
    if not good(value := properties[name]):
      raise InputError(f"{where}: {name} is {value!r}, not {allowed}")
    return value

  yes_or_no = (lambda v: v in (0, 1), "true or false")  # which are 1 and 0 in Python
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
  named = lambda v: isinstance(v, str) and re.fullmatch(r"[^/\\\0]+", v)  # it is part of a file's name
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
  """Whether a text begins with a day, whatever time follows."""
  try:
    return isinstance(text, str) and bool(datetime.datetime.strptime(text[:10], "%Y-%m-%d"))
  except ValueError:
    return False


def choose_classes(labels: Sequence[str], path) -> tuple[str, ...]:
  """The classes of `multi`: CropHarvest's ten if all labels are among them, the sorted labels if none is.

  Args:
    labels: of all rows.
    path: of the file that they are from, for the message.

  Raises:
    InputError: if some are and some are not, or there is one class alone.
  """
  found = sorted(set(labels))
  if strange := [label for label in found if label not in CROPS]:
    if len(strange) < len(found):
      known = ", ".join(CROPS)
      raise InputError(f"{path}: classification_label {strange[0]!r} is none of CropHarvest's: {known}")
    if len(found) == 1:
      raise InputError(f"{path} has one classification_label alone: {found[0]}")
  return tuple(found) if strange else CROPS


def read_array(source, where: str) -> np.ndarray:
  """Reads one sample's file.

  Args:
    source: path or binary file of the HDF5 file.
    where: what messages call it.

  Returns:
    (12, 18) float64, columns `BANDS`, time ascending.

  Raises:
    InputError: if it is no HDF5 file, or holds no such array of numbers that float32 can hold.
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
  except Exception as error:  # of a damaged file, whatever h5py stumbles over
    raise InputError(f"cannot read {where} as HDF5: {' '.join(str(error).split())}") from error
  if (abs(values) > np.finfo(np.float32).max).any():
    raise InputError(f"{where}: the array holds infinite values")
  return values


def import_h5py():
  """The module, or an InputError that says how to install it."""
  try:
    import h5py
  except ImportError:
    raise InputError("CropHarvest is read with h5py: pip install 'colearn_jax[raster]'") from None
  return h5py


def read_arrays(manual_dir, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Reads the arrays of these samples from the published archive, or from the unpacked folder without it.

  Args:
    manual_dir: holds `features.tar.gz` or `features/arrays/`.
    ids: stems of the files.

  Returns:
    (N, 12, 18) float64, see `read_array`; and (N,) bool, False where there is no such file.

  Raises:
    InputError: if a file or the archive cannot be read, or is not as published.
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


def _unpacked(directory: Path, wanted) -> Iterator[tuple[str, object, str]]:
  there = set(os.listdir(directory))
  for name in wanted:
    if f"{name}.h5" in there:
      yield name, directory / f"{name}.h5", str(directory / f"{name}.h5")


def _archived(path: Path, wanted) -> Iterator[tuple[str, object, str]]:
  """Goes through the archive once, in its own order; nothing of it is written to disk."""
  try:
    with tarfile.open(path, "r|*") as archive:
      for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
          raise InputError(f"{path} holds a path that leads out of it: {member.name!r}")
        if name.parent.name == "arrays" and name.suffix == ".h5" and name.stem in wanted:
          where = f"{member.name} in {path}"
          if not member.isfile():
            raise InputError(f"{where} is no plain file")
          content = archive.extractfile(member).read()
          yield name.stem, io.BytesIO(content), where
  except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
    raise InputError(f"cannot read {path} as a tar archive: {error}") from error


def to_views(array: np.ndarray) -> dict[str, np.ndarray]:
  """One sample's views, float32, of its (12, 18) array; `VIEWS` has their shapes."""
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


class Builder(tfds.core.GeneratorBasedBuilder):
  """Places all over the world, what grows there, and twelve months of satellite and weather data."""

  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES = {
    "1.0.0": "Initial release.",
    "2.0.0": "Coordinates are latitude, then longitude; `export_end_date` is the feature `date`.",
  }
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="binary", description="Crop or not."),
    tfds.core.BuilderConfig(name="multi", description="Which of ten groups of crops, or none."),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"{HOW_TO_GET_IT}."

  @staticmethod
  def sources(manual_dir) -> dict[str, str]:
    """The sha256 of the files that the data set is made from; InputError if one is missing.

    Of an unpacked folder, which has a file for each sample, it is that of the names and sizes in it.
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
    """What the data set holds, see `build.describe`. Classes of other files of this layout are not known."""
    del manual_dir
    binary = config == "binary"
    return {
      "task": {
        "kind": "binary" if binary else "multiclass",
        "outputs": ["non_crop", "crop"] if binary else list(CROPS),
        "unit": "crop" if binary else "crop group",
      },
      "views": {name: {"shape": shape, "bands": list(bands)} for name, (shape, bands, _) in VIEWS.items()},
      "groups": ["dataset"],
      "date": True,
      "coordinates": True,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    task = self.describe(config=self.builder_config.name)["task"]
    binary, outputs = task["kind"] == "binary", task["outputs"]
    tensor = lambda shape: tfds.features.Tensor(shape=shape, dtype=np.float32)
    exact = tfds.features.Encoding.BYTES  # otherwise stored as float32
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "views": {name: tensor(shape) for name, (shape, _, _) in VIEWS.items()},
          # The classes of `multi` are known for good when the labels have been read.
          "target": tfds.features.ClassLabel(names=outputs) if binary else tfds.features.ClassLabel(),
          "groups": {"dataset": tfds.features.Text()},
          "coordinates": tfds.features.Tensor(shape=(2,), dtype=np.float64, encoding=exact),
          "year": tfds.features.Scalar(np.int32),
          "date": tfds.features.Text(),  # the end of the last of the twelve steps
        }
      ),
      homepage="https://github.com/nasaharvest/cropharvest",
      license="CC BY-SA 4.0",
      disable_shuffling=True,  # the order of the labels, whatever the archive's
      metadata=tfds.core.MetadataDict(
        task=task,
        views={name: {"bands": list(bands), "description": text} for name, (_, bands, text) in VIEWS.items()},
        sources={},
        left_out={},
      ),
    )

  def _split_generators(self, dl_manager):
    try:
      manual_dir = Path(dl_manager.manual_dir)
    except AssertionError:  # TFDS says so where there is no such directory, or an empty one
      raise InputError(f"CropHarvest is not downloaded for you: {HOW_TO_GET_IT}") from None
    sources, task, metadata = self.sources(manual_dir), self.builder_config.name, self.info.metadata
    rows, left_out = read_labels(manual_dir / LABELS, task)
    if not rows:
      raise InputError(f"{manual_dir / LABELS} has no row that is labelled and not of the test part")
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
    return {"train": self._generate_examples(rows, arrays, there)}

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
