"""Writes random numbers in the layout of CropHarvest's files, for tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.cropharvest import cropharvest_dataset_builder as cropharvest

# Rounded mean and standard deviation of each column of the real arrays.
MEANS = [-12, -19, 1400, 1250, 1150, 1300, 1900, 2200, 2300, 2450, 2400, 1900, 1250, 290, 0.003, 300, 2, 0.3]
SPREADS = [3, 3, 500, 450, 450, 450, 500, 550, 600, 600, 650, 500, 450, 8, 0.002, 200, 1, 0.15]


def write_dummy(
  manual_dir,
  *,
  rows: int = 24,
  classes: Sequence[str] = cropharvest.CROPS,
  archive: bool = False,
  seed: int = 0,
):
  """Writes random samples. VV and B8 depend on the class, so that it can be learnt from each sensor.

  Every sixth row is a test row, every eighth has no `classification_label`, and every ninth has no array.

  Args:
    manual_dir: directory to write to; it is created.
    rows: number of rows of `labels.geojson`.
    classes: values of `classification_label`. The first is not a crop, all others are.
    archive: whether to write the arrays to `features.tar.gz` instead of `features/arrays/`.
    seed: seed of NumPy's generator.
  """
  manual_dir = Path(manual_dir)
  manual_dir.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  features, files = [], {}
  for i in range(rows):
    label = int(rng.integers(len(classes)))
    name, longitude, latitude = f"set-{i % 3}", *rng.uniform([-180, -90], [180, 90]).round(5).tolist()
    array = rng.normal(MEANS, SPREADS, (cropharvest.STEPS, len(cropharvest.BANDS)))
    array[:, 0] += 4 * label
    array[:, 8] += 400 * label
    array[:, 15:17] = array[0, 15:17]
    array[:, 17] = (array[:, 7] - array[:, 3]) / (array[:, 7] + array[:, 3])
    if i % 9 != 8:
      files[f"features/arrays/{i}_{name}.h5"] = _hdf5(array)
    properties = {
      "index": i,
      "dataset": name,
      "is_crop": int(label > 0),
      "is_test": i % 6 == 5,
      "lat": latitude,
      "lon": longitude,
      "label": classes[label],
      "classification_label": None if i % 8 == 7 else classes[label],
      "collection_date": f"{2016 + i % 5}-07-15T00:00:00",
      "export_end_date": f"{2017 + i % 5}-02-01T00:00:00",
      "harvest_date": None,
      "planting_date": None,
      "externally_contributed_dataset": False,
    }
    geometry = {"type": "Point", "coordinates": [longitude, latitude]}
    features.append({"type": "Feature", "properties": properties, "geometry": geometry})
  tree = {"type": "FeatureCollection", "features": features}
  (manual_dir / cropharvest.LABELS).write_text(json.dumps(tree), encoding="utf-8")
  if archive:
    files = dict(reversed(files.items()))  # the order in an archive may differ from that of the labels
    write_archive(manual_dir / cropharvest.ARCHIVE, {"features/normalizing_dict.h5": b"", **files})
  else:
    (manual_dir / cropharvest.ARRAYS).mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
      (manual_dir / path).write_bytes(content)


def write_archive(path, files: dict[str, bytes]):
  """Writes a gzipped tar archive of these files, given by path."""
  with tarfile.open(path, "w:gz") as archive:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


def _hdf5(array: np.ndarray) -> bytes:
  content = io.BytesIO()
  with cropharvest.import_h5py().File(content, "w") as file:
    file["array"] = array
  return content.getvalue()
