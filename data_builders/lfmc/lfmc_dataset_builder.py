"""TFDS builder of LFMC, live fuel moisture content of the western United States.

`read_samples` parses the CSV file. `Builder` converts it to a TFDS data set. README.md in this folder has a
description of the data.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
from pathlib import Path

import numpy as np
import requests
import tensorflow_datasets as tfds
from colearn_jax.datasets.common import ArrayRecords, here
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from colearn_jax.types import InputError

URL = "https://raw.githubusercontent.com/kkraoj/lfmc_from_sar/master/input_data/training_features.csv"
FILE = "training_features.csv"
HOW_TO_GET_IT = (
  f"get {FILE} from {URL} and give its directory (--manual_dir=DIR, in training --config.data.manual_dir=DIR)"
)

STEPS = ("t-3", "t-2", "t-1", "t")  # months; the last one is the month of the measurement
OPTICAL = ("red", "green", "blue", "swir", "nir", "ndvi", "ndwi", "nirv")
SERIES = {
  "S1": (("vv", "vh"), "Sentinel-1 backscatter, dB"),
  "S1Ind": (("vh_vv",), "Sentinel-1 VH - VV, dB"),
  "S2": (OPTICAL[:5], "Landsat-8 surface reflectance x 10000, used instead of Sentinel-2"),
  "S2Ind": (OPTICAL[5:], "indices of the Landsat-8 bands"),
  "S1_S2": (tuple(f"{sar}_{band}" for sar in ("vv", "vh") for band in OPTICAL), "backscatter over optical"),
}
STATIC = {
  "soil": (("silt", "sand", "clay"), "soil texture, %"),
  "DEM": (("elevation", "slope"), "altitude, m, and slope, degrees"),
  "LIDAR": (("canopy_height",), "height of the canopy, m"),
}
# The classes of GlobCover 2009 (ESA) that occur in the published file, by code, with shortened names.
LANDCOVER = {
  14: "rainfed_cropland",
  20: "mosaic_cropland_vegetation",
  30: "mosaic_vegetation_cropland",
  50: "closed_broadleaved_deciduous_forest",
  70: "closed_needleleaved_evergreen_forest",
  90: "open_needleleaved_forest",
  100: "mixed_forest",
  110: "mosaic_forest_shrubland_grassland",
  130: "shrubland",
  140: "herbaceous",
  150: "sparse_vegetation",
  160: "flooded_broadleaved_forest",
}
UNITS = {  # of the bands of some views
  "S1": ["dB", "dB"],
  "S1Ind": ["dB"],
  "S2": ["reflectance x 10000"] * 5,
  "DEM": ["m", "degrees"],
}
VIEWS = {  # shape, bands and description of each
  **{name: ((len(STEPS), len(bands)), bands, text) for name, (bands, text) in SERIES.items()},
  **{name: ((len(bands),), bands, text) for name, (bands, text) in STATIC.items()},
  "landcover": ((len(LANDCOVER),), tuple(LANDCOVER.values()), "GlobCover 2009 class, one-hot"),
}
LARGEST = float(np.finfo(np.float32).max)
TARGET, COVER = "percent(t)", "forest_cover(t)"

# Every column that is read as a number, in the order of the table that `read_samples` fills.
NUMBERS = (
  [TARGET, "longitude", "latitude", COVER]
  + [f"{band}({step})" for bands, _ in SERIES.values() for step in STEPS for band in bands]
  + [f"{band}(t)" for bands, _ in STATIC.values() for band in bands]
)


def _number(cell: str) -> float:
  """The number in a cell, or NaN if it is not a finite float32. Rejects `1_0`, which Python accepts."""
  try:
    value = float(cell) if "_" not in cell else np.nan
  except ValueError:
    return np.nan
  return value if abs(value) <= LARGEST else np.nan


def _read_rows(path):
  """The header, and for each row its line number and cells; blank lines are skipped."""
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      reader = csv.reader(file, strict=True)
      header = next(reader, [])
      rows = [(reader.line_num, row) for row in reader if row]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"cannot read {path} as comma-separated UTF-8 text: {error}") from error
  if not header and not rows:
    raise InputError(f"{path} is empty; {HOW_TO_GET_IT}")
  wanted = [*NUMBERS, "date", "site"]
  if missing := [name for name in wanted if name not in header[1:]]:
    raise InputError(f"{path} lacks {len(missing)} columns after the index: {', '.join(missing)}")
  if twice := [name for name in wanted if header.count(name) > 1]:
    raise InputError(f"{path} has these columns more than once: {', '.join(twice)}")
  if not rows:
    raise InputError(f"{path} has a header and no rows; {HOW_TO_GET_IT}")
  for line, row in rows:
    if len(row) != len(header):
      raise InputError(f"{path}, line {line}: {len(row)} cells where the header has {len(header)}")
  return header, rows


def read_samples(path) -> dict:
  """Reads `training_features.csv`.

  Args:
    path: the file. Its first column is the index. The others include the columns `NUMBERS`, `date`
      (YYYY-MM-DD) and `site`, in any order.

  Returns:
    A dict of N samples in the order of the file: `id`, `date`, `site`, lists of str; `target` (N, 1) float32,
    LFMC in %; `coordinates` (N, 2) float64, latitude and longitude in degrees; `views`, a dict of float32
    arrays: (N, 4, C) for the names in `SERIES`, time ascending, and (N, C) for those in `STATIC` and for
    `landcover`, which is one-hot.

  Raises:
    InputError: the file cannot be read, is empty, lacks a column, has no rows, or repeats an index; a row has
      a wrong number of cells; or a cell is not a finite number, a date, a known land cover or a valid
      coordinate, or a target is negative.
  """
  header, rows = _read_rows(path)
  column = {name: header.index(name) for name in ("date", "site", *NUMBERS)}
  seen, dates = {}, []
  for line, row in rows:
    index, date, site = row[0].strip(), row[column["date"]], row[column["site"]]
    if not index or not site.strip():
      raise InputError(f"{path}, line {line}: the {'site' if index else 'index'} is empty")
    if index in seen:
      raise InputError(f"{path}: index {index!r} on line {seen[index]} and again on line {line}")
    seen[index] = line
    try:
      dates.append(datetime.datetime.strptime(date.strip(), "%Y-%m-%d").date().isoformat())
    except ValueError:
      raise InputError(f"{path}, line {line}, column 'date': {date!r} is not a date YYYY-MM-DD") from None

  table = np.array([[_number(row[column[name]]) for name in NUMBERS] for _, row in rows])

  def check(good, names, what):
    """Raises InputError for the first bad cell; `good` is (N, len(names)) bool."""
    if not good.all():
      i, j = np.argwhere(~good)[0]
      line, row = rows[i]
      cell = row[column[names[j]]]
      raise InputError(f"{path}, line {line}, column {names[j]!r}: {cell!r} is {what}")

  check(~np.isnan(table), NUMBERS, "not a finite number")
  target, place, cover = table[:, :1], table[:, [2, 1]], table[:, 3:4]
  check(target >= 0, [TARGET], "negative; the moisture content is 0 or more %")
  check(abs(place) <= [90, 180], ["latitude", "longitude"], "out of range (degrees)")
  codes = np.array(list(LANDCOVER))
  check(np.isin(cover, codes), [COVER], f"not a known GlobCover class, have: {', '.join(map(str, codes))}")

  values, views, at = table.astype(np.float32), {}, 4
  for name, (bands, _) in SERIES.items():
    size = len(STEPS) * len(bands)
    views[name] = values[:, at : at + size].reshape(len(rows), len(STEPS), len(bands))
    at += size
  for name, (bands, _) in STATIC.items():
    views[name] = values[:, at : at + len(bands)]
    at += len(bands)
  views["landcover"] = (cover == codes).astype(np.float32)
  return {
    "id": list(seen),
    "date": dates,
    "site": [row[column["site"]].strip() for _, row in rows],
    "target": target.astype(np.float32),
    "coordinates": place,
    "views": views,
  }


def _facts(view: str) -> dict[str, object]:
  """What else is known of a view, see `colearn_jax.data.modality`."""
  units = {"units": UNITS[view]} if view in UNITS else {}
  return units | ({"steps": "month"} if view in SERIES else {})


class Builder(ArrayRecords, tfds.core.GeneratorBasedBuilder):
  """Live fuel moisture content, with the radar and optical data of the four months before."""

  pkg_dir_path, code_path = here(__file__)
  VERSION = tfds.core.Version("2.1.0")
  RELEASE_NOTES = {
    "1.0.0": "Initial release.",
    "2.0.0": "Coordinates are latitude, then longitude.",
    "2.1.0": "Units of bands, and which months the steps are.",
  }
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"Optional, as the builder can download the file: {HOW_TO_GET_IT}."

  @staticmethod
  def sources(manual_dir) -> dict[str, str]:
    """The sha256 of each source file, by name; InputError if one is missing."""
    path = Path(manual_dir) / FILE
    if not path.is_file():
      raise InputError(f"no file {FILE} in manual_dir {manual_dir}; {HOW_TO_GET_IT}")
    try:
      with open(path, "rb") as file:
        return {FILE: hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
      raise InputError(f"cannot read {path}: {error}") from error

  @staticmethod
  def describe(manual_dir=None) -> dict:
    """What the data set contains, see `build.describe`."""
    del manual_dir  # the layout of the file is fixed
    return {
      "task": {"kind": "regression", "outputs": ["LFMC"], "unit": "%"},
      "views": {
        name: {"shape": shape, "bands": list(bands), **_facts(name)}
        for name, (shape, bands, _) in VIEWS.items()
      },
      "groups": ["site"],
      "date": True,
      "coordinates": True,
    }

  def _info(self) -> tfds.core.DatasetInfo:
    tensor = lambda shape: tfds.features.Tensor(shape=shape, dtype=np.float32)
    exact = tfds.features.Encoding.BYTES  # the default would store float32
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "views": {name: tensor(shape) for name, (shape, _, _) in VIEWS.items()},
          "target": tensor((1,)),
          "groups": {"site": tfds.features.Text()},
          "date": tfds.features.Text(),  # of the measurement
          "coordinates": tfds.features.Tensor(shape=(2,), dtype=np.float64, encoding=exact),
        }
      ),
      homepage="https://github.com/kkraoj/lfmc_from_sar",
      license="CC BY-NC-ND 4.0",
      disable_shuffling=True,  # with the order of the file, a seed gives the same folds as in other programs
      metadata=tfds.core.MetadataDict(
        task=self.describe()["task"],
        views={
          name: {"bands": list(bands), "description": text, **_facts(name)}
          for name, (_, bands, text) in VIEWS.items()
        },
        sources={},
      ),
    )

  def _split_generators(self, dl_manager):
    try:
      path = Path(dl_manager.manual_dir) / FILE
    except AssertionError:  # TFDS raises it if the directory does not exist or is empty
      path = None
    if path is None or not path.is_file():
      path = self._download(dl_manager)
    self.info.metadata["sources"] = {FILE: hashlib.sha256(path.read_bytes()).hexdigest()}
    return {"train": self.counted(self._generate_examples(read_samples(path)))}

  def _download(self, dl_manager) -> Path:
    """Downloads the file and verifies its checksum."""
    try:
      # TFDS retries an unreachable host for minutes, so test the connection first.
      requests.head(URL, timeout=20, allow_redirects=True).raise_for_status()
      return Path(dl_manager.download(URL))
    except NonMatchingChecksumError:
      known = self.url_infos[URL].checksum
      raise InputError(f"{URL} has changed: its sha256 is not {known}") from None
    except (requests.RequestException, DownloadError) as error:
      raise InputError(f"cannot download {FILE} ({type(error).__name__}); {HOW_TO_GET_IT}") from error

  def _generate_examples(self, samples):
    for i, name in enumerate(samples["id"]):
      example = {
        "id": name,
        "views": {view: values[i] for view, values in samples["views"].items()},
        "target": samples["target"][i],
        "groups": {"site": samples["site"][i]},
        "date": samples["date"][i],
        "coordinates": samples["coordinates"][i],
      }
      yield i, example
