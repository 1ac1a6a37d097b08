"""Samples of a small model of series, in every format that can be predicted."""

import functools

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.cases.exported import BANDS, DAYS, write_csv

IDS = [f"field {k}" for k in range(11)]


@functools.cache
def values(*shape):
  """Values of eleven samples; the third has none, the fourth lacks one."""
  x = np.random.default_rng(0).normal(size=(11, *shape)).astype(np.float32)
  x[2] = x[3, ..., :1] = np.nan
  return x


def steps_of(names):
  x = values(3, 2)
  return {f"{b}{name}": x[:, t, k] for t, name in enumerate(names) for k, b in enumerate(BANDS)}


def as_csv(folder):
  columns = steps_of([f"_{day}" for day in DAYS])
  shuffled = dict(sorted(columns.items(), key=lambda item: item[0][::-1]))
  return write_csv(folder / "a.csv", {"x": [1] * 11} | shuffled | {"id": IDS, "text": ["a"] * 11})


def as_parquet(folder):
  table = pa.table({"id": IDS} | steps_of(["(t-2)", "(t-1)", "(t)"]) | {"other": [None] * 11})
  parquet.write_table(table, folder / "a.parquet")
  return folder / "a.parquet"


def as_lists(folder):
  x = values(3, 2)
  table = pa.table({"nir": list(x[..., 1]), "red": list(x[..., 0]), "id": IDS})
  parquet.write_table(table, folder / "a.parquet")
  return folder / "a.parquet"


def as_npz(folder):
  more = np.concatenate([values(3, 2)[..., ::-1], np.ones((11, 3, 1))], -1)
  np.savez(folder / "a.npz", id=np.array(IDS), values=more, bands=["nir", "red", "swir"])
  return folder / "a.npz"


def as_npz_by_band(folder):
  np.savez(folder / "a.npz", ids=np.array(IDS), red=values(3, 2)[..., 0], nir=values(3, 2)[..., 1], x=3)
  return folder / "a.npz"


def as_cube(folder, suffix):
  xarray = pytest.importorskip("xarray")
  x = values(3, 2)
  named = {
    "nir": (("time", "id"), x[..., 1].T),
    "red": (("id", "time"), x[..., 0]),
    "qa": ("id", np.ones(11)),
  }
  named["nir"] = (("id", "time"), x[..., 1])
  made = xarray.Dataset(named, {"id": IDS, "time": np.array(DAYS, "datetime64[ns]")})
  path = folder / f"a{suffix}"
  made.to_zarr(path, consolidated=False) if suffix == ".zarr" else made.to_netcdf(path, engine="h5netcdf")
  return path


FORMATS = {
  "csv": as_csv,
  "parquet": as_parquet,
  "lists": as_lists,
  "npz": as_npz,
  "npz by band": as_npz_by_band,
  "netcdf": lambda folder: as_cube(folder, ".nc"),
  "zarr": lambda folder: as_cube(folder, ".zarr"),
}
