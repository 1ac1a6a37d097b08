"""Files and tables as the tools of the field write them: each read as it is meant, or refused in one line."""

import datetime
import decimal

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from colearn_jax.datasets.folder.folder import read_folder
from colearn_jax.datasets.folder.folder_dataset_builder import Builder

from colearn_jax.dates import to_iso
from tests.cases.folders import NAN, describe, examples, parquet, pixels, refused, table, view_of, write_tif

# Tables

TARGETS = {  # of `target` in CSV: the classes, or the message
  "Excel: German thousands": (["1.234,56", "2.345,67"], "decimal commas"),
  "Excel: English thousands": (["1,234.56", "2,345.67"], "numbers with separators"),
  "Excel: French thousands": (["1\u202f234,56", "12,5"], "numbers with separators"),
  "Excel: Swiss thousands": (["1'234.5", "2'345.6"], "numbers with separators"),
  "Excel: formulas": (["=A1+1", "=A2+1"], "formulas"),
  "Excel: #N/A": (["#N/A", "1.5", "2.5"], "is '#N/A' a class, or no label"),
  "Excel: #DIV/0!": (["#DIV/0!", "1.5", "2.5"], "is '#DIV/0!' a class, or no label"),
  "Excel: #VALUE!": (["#VALUE!", "a", "b"], "is '#VALUE!' a class, or no label"),
  "Excel: units": (["12 mm", "13 mm"], "numbers with a unit"),
  "Excel: money": (["€12", "€13"], "numbers with a unit"),
  "Excel: days": (["15/01/2018", "16/01/2018"], "are dates"),
  "pandas: months": (["2018-01", "2018-02"], "are dates"),
  "pandas: numbers with a gap": (["1.0", "2.0", ""], "2 different whole numbers, such as 1.0"),
  "laboratory: below the limit": (["<5", "13", "14"], "'<5' is not a number"),
  "word processor: minus": (["\u22121.5", "\u22122.5"], "numbers with separators"),
  "web page: blanks of no width": (["oak", "oak\u200b", "pine"], "differ in capitals"),
  "R: NA": (["a", "NA", "b"], "is 'NA' a class, or no label"),
  "R: logical": (["TRUE", "FALSE"], ["0", "1"]),
  "QGIS: ranges": (["5-10", "10-20"], ["10-20", "5-10"]),
  "EuroCrops: HCAT": (["3301010100", "3301010200"], ["3301010100", "3301010200"]),
  "EuroCrops: leading zeros": (["0301010100", "3301010200"], ["0301010100", "3301010200"]),
  "EuroCrops: dashes": (["33-01-01-01-00", "33-01-01-02-00"], ["33-01-01-01-00", "33-01-01-02-00"]),
  "PASTIS: background and void": (["0", "19", "3"], ["0", "3", "19"]),
  "Earth Engine: masked": (["1.5", "-9999", "2"], "is -9999 of target an amount"),
}


@pytest.mark.parametrize("targets, expected", TARGETS.values(), ids=TARGETS)
def test_targets(tmp_path, targets, expected):
  there = table(tmp_path, targets)
  if isinstance(expected, str):
    refused(there, expected)
  else:
    assert read_folder(there).table.task["outputs"] == expected


def test_names_that_look_like_amounts_can_be_kept(tmp_path):
  there = describe(table(tmp_path, ["12 mm", "13 mm"]), task={"kind": "binary"})
  assert read_folder(there).table.task["outputs"] == ["12 mm", "13 mm"]


GEO = '"{""type"":""Point"",""coordinates"":[9,51]}"'
LONG = "\n".join(f"s0,2018-0{m}-01,0.1,a" for m in range(1, 5))
TEXTS = {  # samples.csv: the ids, or the message
  "QGIS: byte order mark": ("\ufeffid,target\ns0,a\ns1,b\n", ["s0", "s1"]),
  "QGIS: semicolons": ("id;target\ns0;a\n", "separated by commas, not ';'"),
  "QGIS: semicolons and decimal commas": ("id;target\ns0;1,5\n", "separated by commas, not ';'"),
  "QGIS: tabs": ("id\ttarget\ns0\ta\n", "separated by commas, not"),
  "QGIS: WKT": ('WKT,id,target\n"POINT (9 51)",s0,a\n"POINT (9 52)",s1,b\n', ["s0", "s1"]),
  "QGIS: fid": ("fid,target\n1,a\n", "no column 'id', its columns are: 'fid', 'target'"),
  "QGIS: Latin-1": ("id,target\ns0,Müller\n".encode("latin-1"), "cannot read .*UTF-8"),
  "Excel: UTF-16": ("id,target\ns0,a\n".encode("utf-16"), "cannot read .*UTF-8"),
  "Excel: trailing commas": ("id,target,,\ns0,a,,\ns1,b,,\n", ["s0", "s1"]),
  "Excel: empty rows": ("id,target\ns0,a\ns1,b\n,\n,\n", ["s0", "s1"]),
  "Excel: sep=": ("sep=,\nid,target\ns0,a\ns1,b\n", ["s0", "s1"]),
  "Excel: ids with exponents": ("id,target\n1E+05,a\n2E+05,b\n", "1E\\+05.npy; its files are such as s0.npy"),
  "Earth Engine": (f"system:index,B2,target,.geo\ns0,,1,{GEO}\ns1,0.1,2,\n", ["s0", "s1"]),
  "Earth Engine: other label": ("system:index,landcover,.geo\ns0,1,\n", "one column 'target'.*landcover"),
  "sits": ("id,longitude,latitude,start_date,end_date,label\n1,9,51,2018-01-01,2018-12-31,a\n", "label"),
  "sits: long": (f"id,Index,B02,target\n{LONG}\n", "is there twice.*one row is one sample"),
  "Sentinel Hub": (f"id,interval_from,B0_mean,target\n{LONG}\n", "is there twice.*one row is one sample"),
  "Windows: lines and blanks": ("id,target\r\n\r\ns0,a\r\n\r\ns1,b\r\n", ["s0", "s1"]),
  "Mac OS 9: lines": ("id,target\rs0,a\rs1,b\r", ["s0", "s1"]),
  "a line break in a class": ('id,target\ns0,"oak\nold"\ns1,"pine, ""young"""\n', ["s0", "s1"]),
  "a comment": ("# made by hand\nid,target\ns0,a\n", "no column 'id', its columns are: '# made by hand'"),
  "R: row names": ('"","id","target"\n"1","s0","a"\n"2","s1","b"\n', ["s0", "s1"]),
}


@pytest.mark.parametrize("text, expected", TEXTS.values(), ids=TEXTS)
def test_csv_B44(tmp_path, text, expected):
  there = table(tmp_path, "ab")
  (there / "samples.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
  if isinstance(expected, str):
    refused(there, expected)
  else:
    assert [sample.id for sample in read_folder(there).table.samples] == expected


CELLS = {  # of `date`
  "Earth Engine: milliseconds": ("1515974400000", "2018-01-15"),
  "Earth Engine: milliseconds with an exponent": ("1.5159744E12", "2018-01-15"),
  "PostGIS": ("2018-01-15 23:00:00+00", "2018-01-15"),
  "ISO week": ("2018-W03-1", "2018-01-15"),
  "R: NA": ("NA", ""),
  "Python: None": ("None", ""),
  "Excel: day first": ("15/01/2018", "may mean two days"),
  "Excel: German": ("15.01.2018", "may mean two days"),
  "Excel: month by name": ("15-Jan-2018", "no days such as"),
  "Excel: number of a day": ("43115", "no days such as"),
}


@pytest.mark.parametrize("cell, expected", CELLS.values(), ids=CELLS)
def test_dates_of_samples(tmp_path, cell, expected):
  there = table(tmp_path, "ab", date=[cell, "2018-01-16"], lat=["NA", 51], lon=["NA", 9])
  if len(expected) > 10:
    refused(there, expected)
  else:
    assert examples(there)[0]["date"] == expected and np.isnan(examples(there)[0]["coordinates"]).all()


arrow = pyarrow.array
PARQUET = {  # `target`: the classes or outputs, or the message
  "pandas: categories": (arrow(["low", "high"]).dictionary_encode(), ["high", "low"]),
  "pandas: nullable": (arrow([1, None, 2]), ["1", "2"]),
  "pandas: bytes": (arrow([b"a", b"b"]), ["a", "b"]),
  "polars: large text": (arrow(["a", "b"], pyarrow.large_string()), ["a", "b"]),
  "polars: enumeration": (
    pyarrow.DictionaryArray.from_arrays(arrow([0, 1], pyarrow.uint32()), arrow(["low", "high"])),
    ["high", "low"],
  ),
  "polars: array": (arrow([[0.5, 1.0], [2.0, 3.0]], pyarrow.list_(pyarrow.float64(), 2)), ["0", "1"]),
  "polars: decimal": (arrow([decimal.Decimal("1.50"), decimal.Decimal("2.25")]), ["target"]),
  "polars: struct": ([{"oak": 0.3}, {"oak": 0.5}], "is no number, text or list"),
  "polars: float": (arrow([1.5, NAN, None]), ["target"]),
  "Spark: map": (
    arrow([[("oak", 0.3)], [("pine", 0.5)]], pyarrow.map_(pyarrow.string(), pyarrow.float64())),
    "is a list of",
  ),
  "Spark: nested lists": ([[["a", "b"]], [["a"]]], "is a list of"),
  "R: integers": (arrow([1, 2], pyarrow.int8()), ["1", "2"]),
  "DuckDB: duration": ([datetime.timedelta(1)] * 2, "is no number, text or list"),
  "NumPy: half": (arrow(np.array([1.5, 2.5], np.float16)), ["target"]),
}


@pytest.mark.parametrize("targets, expected", PARQUET.values(), ids=PARQUET)
def test_parquet_B45(tmp_path, targets, expected):
  there = parquet(tmp_path, targets)
  if isinstance(expected, str):
    refused(there, expected)
  else:
    assert read_folder(there).table.task["outputs"] == expected


def test_directories_that_look_like_columns_are_none_B45(tmp_path):
  """Of a path such as target=9/split=test, pyarrow would make columns."""
  there = parquet(tmp_path / "target=9/split=test", ["a", "b"])
  assert read_folder(there).table.task["outputs"] == ["a", "b"] and not read_folder(there).table.split


def test_numbers_with_a_gap_of_pandas_B45(tmp_path):
  """A column of codes in which one is missing is stored in floating point."""
  there = parquet(tmp_path, ["a", "b"], group_site=arrow([1.0, 2.0]))
  assert [example["groups"]["site"] for example in examples(there)] == ["1.0", "2.0"]
  refused(parquet(tmp_path / "b", arrow([1.0, 2.0, None])), "2 different whole numbers.*classes or amounts")


def test_times_with_zones_and_ids_that_are_no_text(tmp_path):
  moment = datetime.datetime(2018, 1, 15, 12)
  date = arrow([moment, None], pyarrow.timestamp("us", tz="Europe/Berlin"))
  there = parquet(tmp_path, ["a", "b"], date=date)
  assert [e["date"] for e in examples(there)] == ["2018-01-15", ""]
  for ids in ([b"s0", b"s1"], [1.0, 2.0]):
    pyarrow.parquet.write_table(pyarrow.table({"id": ids, "target": ["a", "b"]}), there / "samples.parquet")
    for i in (1, 2):
      np.save(there / f"x/{i}.npy", np.zeros(3, np.float32))
    assert [s.id for s in read_folder(there).table.samples] == (["1", "2"] if ids[0] == 1 else ["s0", "s1"])


@pytest.mark.parametrize("name", ["samples.geojson", "samples.gpkg", "samples.xlsx", "samples.csv.gz"])
def test_tables_of_other_formats_are_named(tmp_path, name):
  there = table(tmp_path, "ab")
  (there / "samples.csv").rename(there / name)
  refused(there, f"holds no table of samples, one of: samples.csv, samples.parquet, but {name}")


# GeoTIFF


def images(there, bands, **more):
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", bands, **more)
  return there


LAYOUTS = {
  "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
  "BigTIFF": {"BIGTIFF": "YES"},
  "big endian": {"ENDIANNESS": "BIG"},
  "predictor": {"compress": "deflate", "predictor": 2},
  "bands apart": {"interleave": "band"},
  "nine bits": {"NBITS": "9"},
  "sparse": {"SPARSE_OK": "TRUE"},
}


@pytest.mark.parametrize("more", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_gdal(tmp_path, more):
  image = pixels(dtype="uint16")
  there = images(table(tmp_path, "ab"), image, **more)
  np.testing.assert_array_equal(view_of(there)[0], np.moveaxis(image, 0, -1), strict=True)


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int64", "float64"])
def test_types_of_gdal(tmp_path, dtype):
  image = (pixels() % 100).astype(dtype)
  np.testing.assert_array_equal(view_of(images(table(tmp_path, "ab"), image))[0], np.moveaxis(image, 0, -1))


def test_complex_numbers_are_refused(tmp_path):
  refused(
    images(table(tmp_path, "ab"), pixels(dtype="complex64")), "holds complex numbers; write their parts"
  )


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_several_images_in_a_file_are_refused(tmp_path):
  rasterio = pytest.importorskip("rasterio")
  there = images(table(tmp_path, "ab"), pixels(count=1))
  for i in range(2):
    size = {"count": 1, "width": 4, "height": 4, "dtype": "uint8", "driver": "GTiff"}
    with rasterio.open(there / f"S2/s{i}.tif", "w", APPEND_SUBDATASET="YES", **size) as file:
      file.write(pixels(1, count=1))
  refused(there, "holds 2 images, and one can be read")


def test_rows_go_from_north_to_south(tmp_path):
  there, image = table(tmp_path, "ab"), pixels()
  write_tif(there / "S2/s0.tif", image)
  write_tif(there / "S2/s1.tif", image[:, ::-1], transform=(10, 0, 500_000, 0, 10, 5_699_960))
  one, two = view_of(there)
  np.testing.assert_array_equal(one, two)


def test_sidecar_of_gdal(tmp_path):
  there, image = images(table(tmp_path, "ab"), pixels()), pixels()
  band = "<Description>B{0}</Description><NoDataValue>{1}</NoDataValue><Offset>1</Offset><Scale>2</Scale>"
  facts = "".join(
    f'<PAMRasterBand band="{b}">{band.format(b, image[0, 0, 0])}</PAMRasterBand>' for b in (1, 2, 3)
  )
  for i in range(2):
    (there / f"S2/s{i}.tif.aux.xml").write_text(f"<PAMDataset>{facts}</PAMDataset>")
    (there / f"S2/s{i}.tif.ovr").touch()
  expected = np.where(image == image[0, 0, 0], NAN, image * 2.0 + 1)
  np.testing.assert_array_equal(view_of(there)[0], np.moveaxis(expected, 0, -1))
  assert Builder.describe(there)["views"]["S2"]["bands"] == ["B1", "B2", "B3"]
  assert not read_folder(there).views[0].strangers


def test_a_nodata_value_beside_a_mask(tmp_path):
  image, valid = pixels(dtype="int16"), np.full((4, 4), 255, np.uint8)
  image[0, 0, 0], valid[1] = -9999, 0
  got = view_of(images(table(tmp_path, "ab"), image, nodata=-9999, mask=valid))[0]
  assert np.isnan(got[0, 0, 0]) and np.isnan(got[1]).all() and np.isnan(got).sum() == 13


def test_palettes_keep_their_codes(tmp_path):
  rasterio = pytest.importorskip("rasterio")
  codes = pixels(count=1) % 4
  there = images(table(tmp_path, "ab"), codes)
  for i in range(2):
    with rasterio.open(there / f"S2/s{i}.tif", "r+") as file:
      file.write_colormap(1, {0: (0, 0, 0, 0), 1: (255, 0, 0, 255), 2: (0, 255, 0, 255)})
  np.testing.assert_array_equal(view_of(there)[0][..., 0], codes[0])


def test_nodata_that_only_some_files_name(tmp_path):
  there, image = table(tmp_path, "ab"), pixels(dtype="int16")
  image[0, 0, 0] = 7
  write_tif(there / "S2/s0.tif", image, nodata=7)
  write_tif(there / "S2/s1.tif", image)
  refused(there, "s1.tif has no nodata value and holds 7, which is nodata in other files")
  describe(there, views={"S2": {"nodata": []}})
  assert [np.isnan(x).sum() for x in view_of(there)] == [1, 0]
  describe(there, views={"S2": {"nodata": 7}})
  assert [np.isnan(x).sum() for x in view_of(there)] == [1, 1]


CODES = {
  "Earth Engine": (-9999, "float32"),
  "int16": (-32768, "int16"),
  "float": (-3.4e38, "float32"),
  "netCDF": (9.96921e36, "float32"),
}


@pytest.mark.parametrize("suffix", ["tif", "npy"])
@pytest.mark.parametrize("code, dtype", CODES.values(), ids=CODES)
def test_a_code_that_no_file_names(tmp_path, code, dtype, suffix):
  there, image = table(tmp_path, "ab"), pixels(dtype=dtype)
  image[:, 0, 0] = code
  if suffix == "tif":
    images(there, image)
  else:
    np.save(there / "S2.npy", np.stack([np.moveaxis(image, 0, -1)] * 2))
  refused(there, "holds .*: a value, or nodata")
  describe(there, views={"S2": {"nodata": []}})
  assert not np.isnan(view_of(there)[0]).any()
  describe(there, views={"S2": {"nodata": code}})
  assert np.isnan(view_of(there)[0]).sum() == 3


def test_low_values_are_no_code(tmp_path):
  image = pixels(dtype="int16") * 0 + np.array([-9999, -9990, -9000], np.int16)[:, None, None]
  assert view_of(images(table(tmp_path, "ab"), image))[0].min() == -9999


@pytest.mark.parametrize("name", ["S2_s0.npy", "s0.jp2", "s0.vrt", "s0.json", "s0.csv", "s0.nc4"])
def test_files_that_cannot_be_read_are_named(tmp_path, name):  # PASTIS, ESA, GDAL, Sentinel Hub, netCDF
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  (there / f"S2/{name}").touch()
  refused(there, f"has no file of any sample, as would be s0.npy; its files are such as {name}")


def test_a_batch_axis_is_refused(tmp_path):
  np.save(table(tmp_path, "ab") / "S2.npy", np.zeros((2, 1, 3, 4, 4, 2)))
  refused(tmp_path, "at most \\(T, H, W, C\\) is read, without a batch")


# NetCDF and Zarr


@pytest.fixture
def cubes(tmp_path):
  """Writes data sets as samples of the view S2."""
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("h5netcdf")

  def write(variables, coordinates=None, zarr=None, **more):
    there = table(tmp_path, "ab")
    for i in range(2):
      (there / "S2").mkdir(exist_ok=True)
      cube = xarray.Dataset(variables, coordinates or {})
      if zarr:
        cube.to_zarr(str(there / f"S2/s{i}.zarr"), zarr_format=zarr, mode="w", consolidated=False)
      else:
        cube.to_netcdf(there / f"S2/s{i}.nc", engine="h5netcdf", **more)
    return there

  return write


def days(there):
  return [to_iso(day) for day in examples(there)[0]["dates"]["S2"]]


UNITS = {  # units, calendar, numbers: the days, or the message
  "standard": ("days since 2018-01-15", "standard", [0, 31], ["2018-01-15", "2018-02-15"]),
  "gregorian": ("days since 2018-01-15", "gregorian", [0, 31], ["2018-01-15", "2018-02-15"]),
  "proleptic": ("days since 2018-01-15", "proleptic_gregorian", [0, 31], ["2018-01-15", "2018-02-15"]),
  "julian": ("days since 2018-01-15", "julian", [0, 31], ["2018-01-15", "2018-02-15"]),
  "noleap": ("days since 2020-02-28", "noleap", [0, 1], ["2020-02-28", "2020-03-01"]),
  "365_day": ("days since 2020-02-28", "365_day", [0, 1], ["2020-02-28", "2020-03-01"]),
  "all_leap": ("days since 2018-01-15", "all_leap", [0, 59], ["2018-01-15", "2018-03-14"]),
  "366_day": ("days since 2018-01-15", "366_day", [0, 59], ["2018-01-15", "2018-03-14"]),
  "360_day": ("days since 2018-01-15", "360_day", [0, 31], ["2018-01-15", "2018-02-16"]),
  "other calendar": ("days since 2018-01-15", "lunar", [0, 1], "cannot be read"),
  "months": ("months since 2018-01-01", "standard", [0, 1], "cannot be read; write 'days since"),
  "months of 30 days": ("months since 2018-01-01", "360_day", [0, 1], ["2018-01-01", "2018-02-01"]),
  "years": ("years since 2018-01-01", "standard", [0, 1], "cannot be read; write 'days since"),
  "nanoseconds": (
    "nanoseconds since 2018-01-01",
    "standard",
    [0, 864 * 10**11],
    ["2018-01-01", "2018-01-02"],
  ),
  "ERA5": ("hours since 1900-01-01 00:00:00.0", "standard", [1034688], ["2018-01-14"]),
  "modified Julian days": ("days since 1858-11-17", "standard", [58133.5], ["2018-01-15"]),
  "MATLAB": ("days since 1-1-1", "proleptic_gregorian", [736708], ["2018-01-15"]),
  "CDO": ("day as %Y%m%d.%f", "standard", [20180115.5], ["2018-01-15"]),
  "zone": ("hours since 2018-01-15 00:00:00 +02:00", "standard", [0, 24], ["2018-01-14", "2018-01-15"]),
  "slashes": ("days since 2018/01/15", "standard", [0], ["2018-01-15"]),
  "year last": ("days since 15-01-2018", "standard", [0], "the year comes first"),
  "no origin": ("days", "standard", [17546], "cannot be read; write 'days since"),
}


@pytest.mark.parametrize("units, calendar, numbers, expected", UNITS.values(), ids=UNITS)
def test_times_of_cf(cubes, units, calendar, numbers, expected):
  time = ("time", np.array(numbers), {"units": units, "calendar": calendar})
  there = cubes({"v": (("time", "band"), np.ones((len(numbers), 2)))}, {"time": time})
  if isinstance(expected, str):
    refused(there, expected)
  else:
    assert days(there) == expected


def test_a_missing_time_is_refused(cubes):
  time = np.array(["2018-01-15", "NaT"], "datetime64[ns]")
  refused(cubes({"v": (("time", "band"), np.ones((2, 2)))}, {"time": time}), "a date is missing")


def test_dates_of_the_description_replace_years(cubes):
  there = cubes({"v": (("year", "band"), np.ones((2, 2)))}, {"year": [2017, 2018]})
  refused(there, "may be years")
  describe(there, views={"S2": {"dates": ["2017-07-01", "2018-07-01"]}})
  assert days(there) == ["2017-07-01", "2018-07-01"]


GRID = np.array([[100, -3000], [12000, 7]], np.int16)
PACKED = {  # attributes: the values
  "two fill values": (
    {"_FillValue": np.int16(-3000), "missing_value": np.int16(12000), "scale_factor": 0.01},
    [[1, NAN], [NAN, 0.07]],
  ),
  "valid range": ({"valid_range": np.array([-2000, 10000], "i2")}, [[100, NAN], [NAN, 7]]),
  "valid range, scaled": (
    {"valid_range": np.array([-2000, 10000], "i2"), "scale_factor": 1e-2},
    [[1, NAN], [NAN, 0.07]],
  ),
  "valid range of the values": ({"valid_range": [0.0, 100.0], "scale_factor": 1e-2}, [[1, NAN], [NAN, 0.07]]),
  "valid minimum": ({"valid_min": np.int16(0)}, [[100, NAN], [12000, 7]]),
  "Open Data Cube": ({"nodata": -3000}, [[100, NAN], [12000, 7]]),
  "older rasters": ({"nodatavals": [-3000.0], "scales": [0.5], "offsets": [0.0]}, [[50, NAN], [6000, 3.5]]),
  "nodata of another type": ({"nodata": -99999}, [[100, -3000], [12000, 7]]),
  "scale as an array": ({"scale_factor": np.array([0.5])}, [[50, -1500], [6000, 3.5]]),
  "scale as text": ({"scale_factor": "0.5"}, "its scale_factor '0.5' is text"),
}


@pytest.mark.parametrize("zarr", [None, 3], ids=["netCDF", "Zarr"])
@pytest.mark.parametrize("attributes, expected", PACKED.values(), ids=PACKED)
def test_packed_numbers(cubes, attributes, expected, zarr):
  if zarr:
    attributes = {k: np.asarray(v).tolist() for k, v in attributes.items()}
  there = cubes({"v": (("y", "x"), GRID, attributes)}, zarr=zarr)
  if isinstance(expected, str):
    refused(there, expected)
  else:
    np.testing.assert_allclose(view_of(there)[0][..., 0], expected, rtol=1e-6)


def test_what_netcdf_never_wrote_is_missing(tmp_path):
  h5py, there = pytest.importorskip("h5py"), table(tmp_path, "ab")
  pytest.importorskip("h5netcdf")
  (there / "S2").mkdir()
  for i in range(2):
    with h5py.File(there / f"S2/s{i}.nc", "w") as file:
      for name, size in (("y", 2), ("x", 2)):
        file[name] = np.arange(size)
        file[name].make_scale(name)
      file.create_dataset("v", (2, 2), "i2", fillvalue=-32767)[0] = [1, 2]
      for k, name in enumerate(("y", "x")):
        file["v"].dims[k].attach_scale(file[name])
  np.testing.assert_array_equal(view_of(there)[0][..., 0], [[1, 2], [NAN, NAN]])


TIME = np.array(["2018-01-15", "2018-02-15", "2018-03-15"], "datetime64[ns]")
DIMENSIONS = {  # dimensions, lengths: shape, or the message
  "wavelength": (("wavelength", "y", "x"), (2, 3, 4), (3, 4, 2)),
  "new ERA5": (("valid_time", "latitude", "longitude"), (3, 2, 4), (3, 2, 4, 1)),
  "rotated grid": (("time", "rlat", "rlon"), (3, 2, 4), (3, 2, 4, 1)),
  "depth": (("time", "depth", "lat", "lon"), (3, 2, 4, 5), (3, 4, 5, 2)),
  "height": (("time", "height", "lat", "lon"), (3, 2, 4, 5), (3, 4, 5, 2)),
  "any order": (("x", "time", "y", "band"), (2, 3, 4, 5), (3, 4, 2, 5)),
  "pixels": (("time", "pixel", "band"), (3, 4, 2), "cannot be told apart"),
  "one more": (("run", "time", "band", "y", "x"), (1, 3, 2, 4, 4), "cannot be told apart"),
  "rows without columns": (("time", "y", "band"), (3, 4, 2), "cannot be told apart"),
  "unnamed": (("dim_0", "dim_1"), (3, 2), (3, 2)),
}


@pytest.mark.parametrize("dims, lengths, expected", DIMENSIONS.values(), ids=DIMENSIONS)
def test_names_of_dimensions(cubes, dims, lengths, expected):
  values = np.arange(np.prod(lengths), dtype=np.float32).reshape(lengths)
  time = {dim: TIME for dim in dims if "time" in dim}
  there = cubes({"v": (dims, values)}, time)
  if isinstance(expected, str):
    refused(there, expected)
  else:
    got = view_of(there)[0]
    assert got.shape == expected and got.ravel()[0] == 0
    assert not time or days(there) == ["2018-01-15", "2018-02-15", "2018-03-15"]


def test_attributes_say_what_a_dimension_is(cubes):
  coordinates = {
    "a": ("a", [0, 31], {"units": "days since 2018-01-15"}),
    "b": ("b", [1.0, 2.0, 3.0], {"standard_name": "latitude"}),
    "c": ("c", [5.0, 6.0], {"axis": "X"}),
  }
  values = np.arange(12.0).reshape(2, 3, 2)
  there = cubes({"v": (("c", "b", "a"), values)}, coordinates)
  np.testing.assert_array_equal(view_of(there)[0][..., 0], values.transpose(2, 1, 0)[:, ::-1])
  assert days(there) == ["2018-01-15", "2018-02-15"]


@pytest.mark.parametrize("lat, lon", [([2.0, 1], [1.0, 2]), ([1.0, 2], [1.0, 2]), ([2.0, 1], [2.0, 1])])
def test_latitudes_and_longitudes_in_any_order(cubes, lat, lon):
  values = np.array([[10 * a + b for b in lon] for a in lat])
  there = cubes({"v": (("lat", "lon"), values)}, {"lat": lat, "lon": lon})
  np.testing.assert_array_equal(view_of(there)[0][..., 0], [[21, 22], [11, 12]])


def test_places_and_bounds_are_no_bands(cubes):
  grid = lambda value: (("y", "x"), np.full((2, 2), value))
  there = cubes({"red": grid(1.0), "lat": grid(51.0), "lon": grid(9.0)})
  assert view_of(there)[0].shape == (2, 2, 1)
  time = ("time", [14, 45], {"climatology": "climatology_bnds", "units": "days since 2018-01-01"})
  bounds = (("time", "nv"), np.ones((2, 2)))
  there = cubes({"v": (("time", "band"), np.ones((2, 2))), "climatology_bnds": bounds}, {"time": time})
  assert view_of(there)[0].shape == (2, 2) and days(there) == ["2018-01-15", "2018-02-15"]


def test_groups_are_refused(cubes):
  there = cubes({"v": (("y", "x"), np.ones((2, 2)))}, group="S2")
  refused(there, "arrays in groups within it are not read")


def test_booleans_and_unsigned_bytes(cubes):
  there = cubes({"v": (("y", "x"), np.eye(2, dtype=bool))})
  np.testing.assert_array_equal(view_of(there)[0][..., 0], np.eye(2))
  there = cubes({"v": (("y", "x"), np.array([[100, -1], [-128, 7]], np.int8), {"_Unsigned": "true"})})
  np.testing.assert_array_equal(view_of(there)[0][..., 0], [[100, 255], [128, 7]])


def test_the_axis_of_the_samples(tmp_path):
  xarray = pytest.importorskip("xarray")
  pytest.importorskip("h5netcdf")
  values = np.arange(12.0).reshape(3, 2, 2)
  for dims in (("time", "field", "band"), ("time", "sample", "band")):
    there = table(tmp_path / dims[1], "ab")
    cube = xarray.Dataset({"v": (dims, values)}, {"time": TIME, dims[1]: ["s1", "s0"]})
    cube.to_netcdf(there / "S2.nc", engine="h5netcdf")
    np.testing.assert_array_equal(view_of(there)[0], values[:, 1])
    assert days(there) == ["2018-01-15", "2018-02-15", "2018-03-15"]
  there = table(tmp_path / "none", "ab")
  xarray.Dataset({"v": (("time", "y", "x"), values)}).to_netcdf(there / "S2.nc", engine="h5netcdf")
  refused(there, "which of its dimensions time, y, x is that of the samples")


def test_a_store_in_a_zip_file_is_refused(tmp_path):
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  (there / "S2/s0.zarr").write_bytes(b"PK")
  refused(there, "s0.zarr is a file; a Zarr store is a directory")
