"""Further files as openEO, Sentinel Hub, Earth Engine, rioxarray and NumPy write them."""

import numpy as np
import pytest
from colearn_jax.datasets.folder import arrays
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.report import hint

from colearn_jax.types import InputError
from tests.cases.folders import (
  DAY,
  describe,
  examples,
  pixels,
  refused,
  table,
  used,
  view_of,
  write_tif,
)


@pytest.mark.parametrize("lengths", [(5, 5), (5, 6)])
def test_values_with_a_date_each_are_a_series_of_one_band(tmp_path, lengths):
  """NDVI of NumPy or pandas: without an axis of bands five steps are no five bands."""
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  for i, n in enumerate(lengths):
    np.savez(there / f"S2/s{i}.npz", values=np.arange(float(n)), dates=DAY + np.arange(n)[::-1])
  view = next(view for view in survey_folder(read_folder(there)).views if view.name == "S2")
  assert view.bands == ("b1",) and view.dated and not view.numbered
  for values, n in zip(view_of(there), lengths):
    np.testing.assert_array_equal(values, np.arange(n)[::-1, None])
  assert {x.shape for x in used(there, "S2")} == {(max(lengths), 1)}


def test_dates_of_the_description_beside_those_of_one_band(tmp_path):
  there = describe(table(tmp_path, "ab"), views={"S2": {"dates": ["2018-01-15", "2018-02-14"]}})
  (there / "S2").mkdir()
  for i in range(2):
    np.savez(there / f"S2/s{i}.npz", values=np.arange(2.0), dates=[DAY, DAY + 1])
  assert examples(there)[0]["dates"]["S2"].tolist() == [DAY, DAY + 30]
  assert view_of(there)[0].shape == (2, 1)


@pytest.mark.parametrize("zarr", [2, 3])
def test_a_series_of_one_band_in_zarr(tmp_path, zarr):
  module, there = pytest.importorskip("zarr"), table(tmp_path, "ab")
  for i in range(2):
    group = module.open_group(str(there / f"S2/s{i}.zarr"), mode="w", zarr_format=zarr)
    group.create_array("values", data=np.arange(3.0))
    group.create_array("dates", data=DAY + np.arange(3))
  np.testing.assert_array_equal(view_of(there)[0], [[0], [1], [2]])


def sentinel_hub(there, valid, name="dataMask", dtype="uint8"):
  """Images whose last band says what is valid."""
  for i in range(2):
    bands = pixels(dtype=dtype)
    bands[:, 0, :2] = 0
    mask = np.full((1, 4, 4), valid, dtype)
    mask[0, 0, :2] = 0
    names = ("B04", "B03", "B02", name)
    write_tif(there / f"S2/s{i}.tif", np.concatenate([bands, mask]), descriptions=names)
  return there


@pytest.mark.parametrize("valid, dtype", [(1, "uint8"), (255, "uint8"), (1, "uint16"), (1, "float32")])
def test_the_data_mask_of_sentinel_hub_hides_pixels(tmp_path, valid, dtype):
  there = sentinel_hub(table(tmp_path, "ab"), valid, dtype=dtype)
  view = next(view for view in survey_folder(read_folder(there)).views if view.name == "S2")
  assert view.bands == ("B04", "B03", "B02")
  values = view_of(there)[0]
  assert values.shape == (4, 4, 3) and np.isnan(values).sum() == 6 and np.isnan(values[0, :2]).all()


def test_a_data_mask_that_is_named_among_the_bands_is_one(tmp_path):
  there = sentinel_hub(table(tmp_path, "ab"), 1)
  describe(there, views={"S2": {"bands": ["red", "green", "blue", "valid"]}})
  assert view_of(there)[0].shape == (4, 4, 4) and not np.isnan(view_of(there)[0]).any()


@pytest.mark.parametrize("name", ["s1.jp2", "S1.JP2", "s1.png", "s1.csv", "s1.h5"])
def test_a_sample_whose_only_file_has_another_format_is_named(tmp_path, name):
  """It would lack the sensor, and one line among many would say so."""
  there = table(tmp_path, "ab")
  write_tif(there / "S2/s0.tif", pixels())
  (there / "S2" / name).write_bytes(b"x")
  refused(there, "(?i)view S2: s1.* is not read, and sample s1 has no other file; read are .npy")
  write_tif(there / "S2/s1.tif", pixels())
  assert len(examples(there)) == 2


STEPS = {  # names of bands: whether they seem to be of several steps
  "openEO, sits": (["B2_20180115", "B3_20180115", "B2_20180214", "B3_20180214"], True),
  "with dashes": (["B02_2018-01-15", "B02_2018-02-14"], True),
  "one step": (["B2_20180115", "B3_20180115"], False),
  "orders": (["glcm_1", "glcm_2"], False),
}


@pytest.mark.parametrize("names, several", STEPS.values(), ids=STEPS)
def test_steps_behind_the_names_of_bands_are_mentioned(tmp_path, names, several):
  there = table(tmp_path, "ab")
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels(count=len(names)), descriptions=names)
  view = next(view for view in survey_folder(read_folder(there)).views if view.name == "S2")
  assert ("bands of several steps in one image" in hint(view)) == several


@pytest.mark.parametrize("of_band", [False, True])
def test_a_scale_factor_in_the_metadata_alone_is_unclear(tmp_path, of_band):
  """Old versions of rioxarray copy the attributes of a cube there; GDAL does not apply them."""
  rasterio, there = pytest.importorskip("rasterio"), table(tmp_path, "ab")
  for i in range(2):
    write_tif(there / f"S2/s{i}.tif", pixels(dtype="int16"))
    with rasterio.open(there / f"S2/s{i}.tif", "r+") as file:
      for band in (1, 2, 3) if of_band else (0,):
        file.update_tags(band, scale_factor="0.0001", add_offset="0.0")
  message = (
    "has the scale_factor 0.0001 in its metadata, and none that is applied; say in dataset.json, for the view"
  )
  assert message in refusal(there)
  describe(there, views={"S2": {"scale": 0.0001}})
  np.testing.assert_allclose(view_of(there)[0], np.moveaxis(pixels(), 0, -1) * 1e-4, rtol=1e-6)
  describe(there, views={"S2": {"scale": 1}})
  np.testing.assert_array_equal(view_of(there)[0], np.moveaxis(pixels(), 0, -1))


def refusal(there):
  """Why the first sample cannot be read."""
  with pytest.raises(InputError) as error:
    survey_folder(read_folder(there))
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_fault_of_pythons_parser_is_no_fault_of_the_file(tmp_path, monkeypatch):
  np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
  told, memmap = iter([SystemError("AST constructor recursion depth mismatch")]), np.lib.format.open_memmap

  def opened(*args, **kwargs):
    if (error := next(told, None)) is not None:
      raise error
    return memmap(*args, **kwargs)

  monkeypatch.setattr(np.lib.format, "open_memmap", opened)
  assert arrays.read_header([tmp_path / "a.npy"], Decoding.of({})).shape == (2, 3)
