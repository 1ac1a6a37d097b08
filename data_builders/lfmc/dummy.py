"""Writes random numbers in the layout of `training_features.csv`, for tests."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from colearn_jax.datasets.lfmc import lfmc_dataset_builder as lfmc


def write_dummy(path, *, rows=8, sites=3, seed=0):
  """Writes random samples. The target depends on ndwi and vh of the last month, so that it can be learnt.

  Args:
    path: the file to write.
    rows: number of samples.
    sites: number of sites.
    seed: seed of NumPy's generator.
  """
  rng = np.random.default_rng(seed)
  columns = {name: rng.normal(size=rows).round(4) for name in lfmc.NUMBERS}
  moisture = 100 + 20 * columns["ndwi(t)"] + 10 * columns["vh(t)"] + rng.normal(size=rows)
  columns[lfmc.TARGET] = moisture.round(2)
  columns[lfmc.COVER] = rng.choice(list(lfmc.LANDCOVER), rows)
  columns["longitude"] = rng.uniform(-125, -100, rows).round(4)
  columns["latitude"] = rng.uniform(30, 50, rows).round(4)
  columns["date"] = (
    np.datetime64("2015-06-30") + rng.integers(0, 1300, rows).astype("timedelta64[D]")
  ).astype(str)
  columns["site"] = [f"Site {i}" for i in rng.integers(0, sites, rows)]
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["", *columns])
    writer.writerows([100 + 3 * i, *cells] for i, cells in enumerate(zip(*columns.values(), strict=True)))


if __name__ == "__main__":
  write_dummy(Path(__file__).parent / "dummy_data" / lfmc.FILE)
