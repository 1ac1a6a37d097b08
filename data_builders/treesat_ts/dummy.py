"""Writes random forests in the layout of TreeSatAI-Time-Series' files, for tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from colearn_jax.datasets.treesat_ts import arrays, files

SPLITS = {"train": 6, "val": 2, "test": 3}
# Lengths of series, from the first number to below the second, similar to the published ones.
STEPS = {"asc": (20, 152), "des": (30, 258), "S2": (20, 147)}
# Reflectance of forest in the ten bands, x 10000, and what summer adds to it.
FOREST = np.array([300, 500, 350, 800, 1900, 2300, 2500, 2600, 1500, 700.0])
SUMMER = np.array([0, 50, -50, 100, 900, 1200, 1300, 1300, 100, -50.0])


def random_names(counts: Mapping[str, int] = SPLITS, seed: int = 0) -> tuple[dict, dict]:
  """Names in the form of the published ones.

  Args:
    counts: number of samples in each split.
    seed: seed of NumPy's generator.

  Returns:
    The names of each split, with `.tif`; and for each name its genera with their shares of the area.
  """
  rng = np.random.default_rng(seed)
  splits, labels = {}, {}
  for split, count in counts.items():
    splits[split] = []
    for _ in range(count):
      some = rng.choice(files.GENERA, rng.integers(1, 4), replace=False).tolist()
      shares = np.sort(rng.dirichlet(np.ones(len(some))))[::-1].round(5).tolist()
      name = f"{some[0]}_spec._{rng.integers(1, 9)}_{len(labels)}_WEFL_NLF.tif"
      splits[split].append(name)
      labels[name] = [list(entry) for entry in zip(some, shares, strict=True)]
  return splits, labels


def published_names(directory, counts: Mapping[str, int], seed: int = 0) -> tuple[dict, dict]:
  """A random choice of the published names with their genera, in the form of `random_names`.

  Args:
    directory: directory with the published `labels` and `split`. Without a list for `val`, names for it are
      drawn from `train`.
    counts: number of samples in each split.
    seed: seed of NumPy's generator.
  """
  labels = json.loads(Path(directory, *files.LABELS).read_text(encoding="utf-8"))
  splits, rng = {}, np.random.default_rng(seed)
  for split, count in counts.items():
    path = Path(directory, "split", f"{split}_filenames.lst")
    path = path if path.is_file() else path.with_name("train_filenames.lst")
    taken = {name for names in splits.values() for name in names}
    names = [name for name in path.read_text(encoding="utf-8").split() if name in labels]
    names = [name for name in names if name not in taken]
    splits[split] = sorted(rng.choice(names, count, replace=False).tolist())
  return splits, {name: labels[name] for names in splits.values() for name in names}


def write_dummy(
  manual_dir,
  splits: Mapping[str, Sequence[str]] | None = None,
  labels: Mapping[str, Sequence] | None = None,
  *,
  steps: Mapping[str, tuple[int, int]] | None = None,
  archives: bool = False,
  seed: int = 0,
):
  """Writes all files that the builder reads. The genera of a tile influence the data of every sensor.

  A third of the Sentinel-2 dates have clouds, half of these over the whole tile. Some winter dates have snow.
  Some Sentinel-1 pixels are NaN. Dates are not sorted.

  Args:
    manual_dir: directory to write to; it is created.
    splits: the names in `train`, `val` and `test`; by default those of `random_names`.
    labels: the genera and shares of each name.
    steps: lengths of series, in the form of `STEPS`, whose lengths are realistic; by default short.
    archives: whether to write zip archives instead of folders.
    seed: seed of NumPy's generator.
  """
  if splits is None:
    splits, labels = random_names()
  manual_dir = Path(manual_dir)
  for folder in ("aerial", "sentinel-ts", "labels", "split", "geojson"):
    (manual_dir / folder).mkdir(parents=True)
  (manual_dir / "labels" / files.LABELS[1]).write_text(json.dumps(labels), encoding="utf-8")
  for split, names in splits.items():
    (manual_dir / "split" / f"{split}_filenames.lst").write_text("".join(f"{name}\n" for name in names))
  steps = steps or dict.fromkeys(STEPS, (2, 7))
  rng, features = np.random.default_rng(seed), []
  for name in (name for names in splits.values() for name in names):
    stem, year = name.removesuffix(".tif"), int(rng.integers(2017, 2021))
    x, y = rng.uniform([400_000, 5_700_000], [600_000, 5_900_000]).round().tolist()
    features.append({"type": "Feature", "properties": {"IMG_ID": stem}, "geometry": _square(x, y)})
    cover = _cover(labels[name])
    _write_aerial(manual_dir / "aerial" / f"{stem}.tif", cover, (x, y), rng)
    _write_series(manual_dir / "sentinel-ts" / f"{stem}_{year}.h5", cover, year, steps, rng)
  crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}
  tree = {"type": "FeatureCollection", "crs": crs, "features": features}
  (manual_dir / "geojson" / files.PLACES[1]).write_text(json.dumps(tree), encoding="utf-8")
  if archives:
    for folder in [path for path in manual_dir.iterdir() if path.is_dir()]:
      shutil.make_archive(str(folder), "zip", manual_dir, folder.name)
      shutil.rmtree(folder)


def _cover(entries) -> np.ndarray:
  """The share of each genus."""
  cover = np.zeros(len(files.GENERA))
  for genus, share in entries:
    cover[files.GENERA.index(genus)] += share
  return cover


def _signature(cover: np.ndarray, bands: int, spread: float) -> np.ndarray:
  """The difference of a mixture of genera from the average forest in each band; deterministic."""
  return cover @ np.random.default_rng(bands).normal(0, spread, (len(cover), bands))


def _square(x: float, y: float) -> dict:
  corners = [[x - 30, y - 30], [x + 30, y - 30], [x + 30, y + 30], [x - 30, y + 30], [x - 30, y - 30]]
  return {"type": "Polygon", "coordinates": [corners]}


def _write_aerial(path: Path, cover: np.ndarray, middle: tuple[float, float], rng: np.random.Generator):
  _, rasterio = arrays.import_readers()
  rows, columns, bands = arrays.AERIAL
  crowns = np.kron(rng.normal(0, 25, (bands, rows // 16, columns // 16)), np.ones((16, 16)))
  level = np.array([150, 93, 85, 81.0]) + _signature(cover, bands, 30)
  grain = rng.integers(
    -12, 13, (bands, rows, columns)
  )  # noise, so that files compress as little as real ones
  pixels = (level[:, None, None] + crowns + grain).clip(0, 255).astype(np.uint8)
  transform = rasterio.Affine(0.2, 0, middle[0] - 30.4, 0, -0.2, middle[1] + 30.4)
  profile = {"driver": "GTiff", "count": bands, "height": rows, "width": columns, "dtype": "uint8"}
  with rasterio.open(
    path, "w", crs="EPSG:25832", transform=transform, compress="deflate", **profile
  ) as image:
    image.write(pixels)


def _write_series(
  path: Path, cover: np.ndarray, year: int, steps: Mapping[str, tuple[int, int]], rng: np.random.Generator
):
  h5py, _ = arrays.import_readers()
  side = (arrays.PIXELS, arrays.PIXELS)
  with h5py.File(path, "w") as file:
    for orbit in ("asc", "des"):
      days = rng.integers(0, 365, rng.integers(*steps[orbit]))
      values = np.array([-11, -17.0]) + _signature(cover, 2, 3) + rng.normal(0, 1, (len(days), *side, 2))
      values[rng.random(values.shape[:3]) < 0.02] = np.nan
      file[f"sen-1-{orbit}-data"] = np.moveaxis(values, -1, 1).astype(np.float32)
      dates = [_date(year, day) for day in days]
      names = [f"S1A_IW_GRDH_1SDV_{d}T053420_{d}T053445_020123_0224F1_AB12" for d in dates]
      file[f"sen-1-{orbit}-products"] = names
    days = rng.integers(0, 365, rng.integers(*steps["S2"]))
    season = np.sin(np.pi * days / 365)[:, None, None, None] ** 2
    values = FOREST + SUMMER * season + _signature(cover, 10, 300) + rng.normal(0, 40, (len(days), *side, 10))
    clouded, broken, cold = rng.random((3, len(days), 1, 1))
    cloud = rng.integers(50, 101, (len(days), *side)) * (clouded < 1 / 3)
    cloud *= (broken < 1 / 2) | (rng.random(cloud.shape) < 1 / 2)
    snow = rng.integers(20, 101, cloud.shape) * ((days < 60)[:, None, None] & (cold < 1 / 4))
    values = (values + 50 * np.maximum(cloud, snow)[..., None]).clip(1, 20_000)
    file["sen-2-data"] = np.moveaxis(values, -1, 1).astype(np.uint16)
    file["sen-2-masks"] = np.stack([snow, cloud], axis=1).astype(np.uint8)
    dates = [_date(year, day) for day in days]
    file["sen-2-products"] = [f"S2A_MSIL2A_{d}T103021_N0206_R108_T32UNC_{d}T142655" for d in dates]


def _date(year: int, day: int) -> str:
  return (np.datetime64(f"{year}-01-01") + np.timedelta64(int(day), "D")).item().strftime("%Y%m%d")
