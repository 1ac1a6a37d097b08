"""Files of samples as tools write them, for `colearn_jax.predict`: read as training reads, or refused."""

import decimal

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from colearn_jax import load_model
from colearn_jax import predict as command
from colearn_jax.data import context
from colearn_jax.types import InputError
from tests.cases.exported import BANDS, COLUMNS, make_model, rows, write_csv

X = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
SERIES = np.random.default_rng(2).normal(size=(4, 3, 2)).astype(np.float32)
IDS = ["007", "b", "c", "d"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Models of static values, of series, and of static values with context."""
  root = tmp_path_factory.mktemp("models")
  shapes = {"static": (2,), "series": (3, 2)}
  made = {name: make_model(root / name, shape, runs=1) for name, shape in shapes.items()}
  return made | {"context": make_model(root / "context", (2,), names=COLUMNS, runs=1)}


def predict(model, path, *more):
  """Ids and probabilities of the first class."""
  out = path.parent / "out.csv"
  command.main([f"--model={model}", f"--input={path}", f"--out={out}", *more])
  found = rows(out)
  value = [row["probability_crop"] for row in found]
  return [row["id"] for row in found], np.array([float(v) if v else np.nan for v in value])


def expected(model, x, given=None):
  return load_model(model).estimate(x, given).value[:, 0]


def csv(path, x=X, ids=IDS, **more):
  return write_csv(path, {"id": ids, "red": x[:, 0], "nir": x[:, 1]} | more)


def columns(path, **more):
  parquet.write_table(pa.table({"red": X[:, 0], "nir": X[:, 1]} | more), path)
  return path


STATIC = {  # writes a file in a directory: the ids
  "id and ID": (lambda d: csv(d / "a.CSV", ID=[1] * 4), IDS),
  "QGIS: ID": (lambda d: write_csv(d / "a.csv", {"ID": IDS, "red": X[:, 0], "nir": X[:, 1]}), IDS),
  "R: blanks around": (lambda d: csv(d / "a.csv", ids=[f" {i} " for i in IDS]), IDS),
  "pandas: whole numbers": (lambda d: columns(d / "a.parquet", id=[7, 8, 9, 10]), ["7", "8", "9", "10"]),
  "EuroCrops: long numbers": (
    lambda d: columns(d / "a.parquet", id=[2**60 + k for k in range(4)]),
    [str(2**60 + k) for k in range(4)],
  ),
  "Spark: decimals": (
    lambda d: columns(d / "a.parquet", red=[decimal.Decimal(f"{v:.6f}") for v in X[:, 0].tolist()], id=IDS),
    IDS,
  ),
  "pandas: categories": (
    lambda d: columns(d / "a.parquet", red=pa.array(X[:, 0]).dictionary_encode(), id=IDS),
    IDS,
  ),
}


@pytest.mark.parametrize("write, ids", STATIC.values(), ids=STATIC)
def test_tables(models, tmp_path, write, ids):
  got = predict(models["static"], write(tmp_path))
  assert got[0] == ids
  np.testing.assert_allclose(got[1], expected(models["static"], X), atol=1e-5)


@pytest.mark.parametrize("word", ["", "NA", "N/A", "#N/A", "null", "None", "<NA>", "inf", "-Infinity"])
def test_missing_numbers_of_csv(models, tmp_path, word):
  x = X.astype(object)
  x[1] = word
  known = np.isin(np.arange(4), 1, invert=True)
  got = predict(models["static"], csv(tmp_path / "a.csv", x))[1]
  np.testing.assert_allclose(got, np.where(known, expected(models["static"], X), np.nan), atol=1e-6)


CODES = {
  "CSV": lambda d, x: csv(d / "a.csv", x),
  "Parquet": lambda d, x: columns(d / "a.parquet", red=x[:, 0]),
  "NPZ": lambda d, x: (np.savez(d / "a.npz", values=x), d / "a.npz")[1],
}


@pytest.mark.parametrize("write", CODES.values(), ids=CODES)
@pytest.mark.parametrize("code", [-9999, -3.4e38, 1e20])
def test_codes_of_nodata_are_told_as_a_build_tells_them(models, tmp_path, write, code):
  x = X.copy()
  x[1, 0] = code
  path = write(tmp_path, x)
  with pytest.raises(InputError, match="holds .*: a value, or nodata.*; --nodata=NUMBER says it"):
    predict(models["static"], path)
  x[1, 0] = np.nan
  got = predict(models["static"], path, f"--nodata={code}")[1]
  np.testing.assert_allclose(got, expected(models["static"], x), atol=1e-6)


def test_scale_and_offset(models, tmp_path):
  got = predict(models["static"], csv(tmp_path / "a.csv", 10 * X + 5), "--scale=0.1", "--offset=-0.5")[1]
  np.testing.assert_allclose(got, expected(models["static"], X), atol=1e-4)


def lists(path, kind):
  of = lambda k: pa.array(SERIES[..., k].tolist(), kind)
  parquet.write_table(pa.table({"red": of(0), "nir": of(1), "id": IDS}), path)
  return path


LISTS = {
  "polars": pa.list_(pa.float32(), 3),
  "Arrow: large": pa.large_list(pa.float32()),
  "double": pa.list_(pa.float64()),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
def test_lists_of_every_kind(models, tmp_path, kind):
  got = predict(models["series"], lists(tmp_path / "a.parquet", kind))[1]
  np.testing.assert_allclose(got, expected(models["series"], SERIES), atol=1e-6)


STEPS = {
  "Earth Engine: toBands": "{k}_{band}",
  "Earth Engine: dates": "2018-0{n}-01_{band}",
  "Earth Engine: Sentinel-2": "20180{n}15T103421_20180{n}15T103745_T32UNC_{band}",
  "R: points": "{band}_2018.0{n}.15",
  "moments": "{band}_2018-0{n}-15T10:30:00Z",
}


@pytest.mark.parametrize("name", STEPS.values(), ids=STEPS)
def test_names_of_steps(models, tmp_path, name):
  named = {
    name.format(k=t, n=t + 1, band=band): SERIES[:, t, k] for t in (1, 0, 2) for k, band in enumerate(BANDS)
  }
  got = predict(models["series"], write_csv(tmp_path / "a.csv", {"id": IDS} | named))[1]
  np.testing.assert_allclose(got, expected(models["series"], SERIES), atol=1e-5)


@pytest.mark.parametrize("suffix", ["nc", "npz", "each.npz"])
def test_steps_that_are_not_in_the_order_of_their_dates(models, tmp_path, suffix):
  """The model knows no dates: only the order of its steps counts, which is that of time in every file."""
  days, path = (
    np.array(["2018-03-01", "2018-01-01", "2018-02-01"], "datetime64[ns]"),
    tmp_path / f"a.{suffix}",
  )
  turned = SERIES[:, [2, 0, 1]]
  if suffix == "nc":
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    cube = xarray.Dataset(
      {"v": (("id", "time", "band"), turned)}, {"id": IDS, "time": days, "band": list(BANDS)}
    )
    cube.to_netcdf(path, engine="h5netcdf")
  else:
    np.savez(path, values=turned, dates=days if suffix == "npz" else np.stack([days] * 4))
  np.testing.assert_allclose(
    predict(models["series"], path)[1], expected(models["series"], SERIES), atol=1e-6
  )


PLACE = {"lat": [51.0, 52, 53, 54], "lon": [9.0] * 4, "elevation": [5.0, 6, 7, 8]}
DATES = ["2018-01-15", "2018-02-15", "", "2018-03-01"]
CONTEXT = {  # what differs from PLACE and DATES: None, or the message
  "capitals": ({"Lat": PLACE["lat"], "LONGITUDE": PLACE["lon"], "Date": DATES}, None),
  "NA": ({"date": [*DATES[:2], "NA", DATES[3]]}, None),
  "Earth Engine": ({"date": ["1515974400000", "1.5186528E12", "", "2018030112"]}, None),
  "half a place": ({"lat": [51, "", 53, 54]}, "sample b: one of lat and lon is empty"),
  "in the sea": (
    {"lat": [51, 0, 53, 54], "lon": [9, 0, 9, 9]},
    "sample b: its lat and lon are 0, in the sea",
  ),
  "swapped": ({"lat": [151.0] * 4}, "sample 007: its lat 151 is outside of -90 to 90 degrees"),
}


@pytest.mark.parametrize("more, message", CONTEXT.values(), ids=CONTEXT)
def test_dates_and_places(models, tmp_path, more, message):
  names = {name.lower()[:3] for name in more}
  given = {k: v for k, v in (PLACE | {"date": DATES}).items() if k[:3] not in names} | more
  path = csv(tmp_path / "a.csv", **given)
  if message:
    with pytest.raises(InputError, match=message):
      predict(models["context"], path)
  else:
    check_context(models["context"], path)


def check_context(model, path):
  known = context.encode(
    load_model(model).context,
    dates=np.array([day or "NaT" for day in DATES], "datetime64[D]"),
    coordinates=np.stack([PLACE["lat"], PLACE["lon"]], 1),
    static=np.array(PLACE["elevation"])[:, None],
  )
  np.testing.assert_allclose(predict(model, path)[1], expected(model, X, known), atol=1e-5)


def test_dates_of_netcdf(models, tmp_path):
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("h5netcdf")
  beside = PLACE | {"red": X[:, 0], "nir": X[:, 1], "date": np.array([d or "NaT" for d in DATES], "M8[ns]")}
  cube = xarray.Dataset({name: ("id", values) for name, values in beside.items()}, {"id": IDS})
  cube.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
  check_context(models["context"], tmp_path / "a.nc")


def npz(path, **more):
  np.savez(path, **({"values": X} | more))
  return path


WRONG = {
  "ids of others": (
    lambda d: npz(d / "a.npz", id=IDS[:2]),
    r"id has shape \(2,\), its values are of 4 samples",
  ),
  "a band twice": (
    lambda d: npz(d / "a.npz", values=np.ones((4, 3)), bands=["red", "nir", "red"]),
    "has two bands named red",
  ),
  "numbers as text": (
    lambda d: columns(d / "a.parquet", red=["1", "2", "3", "4"]),
    "column red holds string, not numbers",
  ),
}


@pytest.mark.parametrize("write, message", WRONG.values(), ids=WRONG)
def test_wrong_files_end_in_one_line(models, tmp_path, write, message):
  with pytest.raises(InputError, match=message) as error:
    predict(models["static"], write(tmp_path))
  assert "\n" not in str(error.value)
