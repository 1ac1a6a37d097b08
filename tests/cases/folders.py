"""Small folders as people bring them, and what the builder and training make of them."""

import csv
import dataclasses
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from colearn_jax.datasets import bands
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder, Config

from colearn_jax.data import fixed_length
from colearn_jax.data import reader as readers
from colearn_jax.types import InputError, Modality, resolve_views

DAY = 17_546  # 2018-01-15
AERIAL = (0.0003, 0, 9.0, 0, -0.0003, 51.4514)  # a tile over the one of write_tif, in degrees
NAN = float("nan")


def table(there, targets, **more):
  """A table of samples s0, s1, ..., and a view `x` of them."""
  (there / "x").mkdir(parents=True, exist_ok=True)
  rows = [{"id": f"s{i}", "target": t} | {k: v[i] for k, v in more.items()} for i, t in enumerate(targets)]
  with open(there / "samples.csv", "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  for row in rows:
    np.save(there / "x" / f"{row['id']}.npy", np.zeros(3, np.float32))
  return there


def parquet(there, targets, **more):
  table(there, range(len(targets)))
  (there / "samples.csv").unlink()
  columns = {"id": [f"s{i}" for i in range(len(targets))], "target": targets} | more
  pyarrow.parquet.write_table(pyarrow.table(columns), there / "samples.parquet")
  return there


def describe(there, **tree):
  (there / "dataset.json").write_text(json.dumps(tree))
  return there


def examples(there):
  """All samples as they would be stored, without writing them."""
  folder = read_folder(there)
  surveyed, reader = (
    survey_folder(folder),
    Builder(config=Config(folder), data_dir="/dev/null/none")._reader(),
  )
  assert not surveyed.wrong, surveyed.wrong
  found = [
    reader.read(dataclasses.replace(sample, files=files))
    for sample, files in zip(folder.table.samples, zip(*surveyed.files))
  ]
  for example in found:
    bands.Counter().add(example)  # makes NaN of infinities
  return found


def used(there, modality, **settings):
  """What training sees of all samples: the input of one modality."""
  described = Builder.describe(there)["views"]
  shapes = {name: view["shape"] for name, view in described.items()}
  said = {n: {k: v for k, v in view.items() if k in ("bands", "mask")} for n, view in described.items()}
  for name, view in described.items():
    said[name] |= {"dated": not view["numbered"]} if view["dated"] else {}
  every = [{**example, "id": example["id"].encode()} for example in examples(there)]
  longest = {name: max(len(e["views"][name]) for e in every) for name in shapes}
  asked = fixed_length.Settings(modalities=(modality,), **settings)
  fixed = fixed_length.fixed_lengths(asked, shapes, said, longest)
  one = Modality(modality, resolve_views(modality, shapes), (), ())
  read = readers.Reader(every, (one,), fixed)
  return [read(i)["inputs"][modality] for i in range(len(every))]


def refused(there, message):
  with pytest.raises(InputError, match=message) as error:
    examples(there)
  assert "\n" not in str(error.value)


def write_tif(path, bands, **more):
  rasterio = pytest.importorskip("rasterio")
  path.parent.mkdir(parents=True, exist_ok=True)
  mask, tags = (
    more.pop("mask", None),
    {k: more.pop(k) for k in ("scales", "offsets", "colorinterp", "descriptions") if k in more},
  )
  x, y = more.pop("at", (500_000, 5_700_000))
  more = {"crs": "EPSG:25832", "transform": (10, 0, x, 0, -10, y), "driver": "GTiff"} | more
  more["transform"] = rasterio.Affine(*more["transform"])
  count, height, width = bands.shape
  inside = more.pop("inside", True)
  size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
  with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "w", **size, **more) as file:
    for name, value in tags.items():
      setattr(file, name, value)
    file.write(bands)
    if mask is not None:
      file.write_mask(mask)


def pixels(seed=0, dtype="uint8", count=3):
  return np.random.default_rng(seed).integers(50, 200, (count, 4, 4)).astype(dtype)


def view_of(there, name="S2"):
  return [example["views"][name] for example in examples(there)]
