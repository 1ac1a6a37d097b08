"""Views in which files of whole numbers stand beside files of decimals: refused where they differ in size."""

import numpy as np
import pytest

from tests.cases.folders import describe, examples, pixels, refused, table, view_of, write_tif

DN = pixels(dtype="uint16") * np.uint16(20)  # 1000 to 4000
REFLECTANCE = (DN * 1e-4).astype(np.float32)


def files(there, *images, suffix="tif", days=()):
  """A sample for each image, or one whose dates they are."""
  table(there, "ab" if days else "ab" * (len(images) // 2))
  for i, image in enumerate(images):
    name = f"S2/s0/{days[i]}.tif" if days else f"S2/s{i}.{suffix}"
    if suffix == "tif":
      write_tif(there / name, image)
    else:
      (there / "S2").mkdir(exist_ok=True)
      values = np.moveaxis(image, 0, -1)
      np.save(there / name, values) if suffix == "npy" else np.savez(there / name, values)
  if days:
    write_tif(there / "S2/s1" / f"{days[0]}.tif", images[0])
  return there


@pytest.mark.parametrize("suffix", ["tif", "npy", "npz"])
def test_digital_numbers_beside_reflectances_are_refused(tmp_path, suffix):
  there = files(tmp_path, DN, REFLECTANCE, suffix=suffix)
  refused(
    there, r"view S2: .*s0.* holds whole numbers, .*s1.* holds decimals, about .* in band b.; write all"
  )
  assert len(examples(describe(there, views={"S2": {"units": "reflectance x 10000"}}))) == 2


def test_dates_of_one_sample_are_compared(tmp_path):
  refused(
    files(tmp_path, DN, REFLECTANCE, days=["2018-01-15", "2018-02-14"]), "2018-02-14.tif holds decimals"
  )


def test_one_band_of_another_unit_is_named(tmp_path):
  """Degrees and tenths of degrees."""
  tenths = np.stack([DN[0], np.full_like(DN[0], 171)])
  refused(files(tmp_path, tenths, np.stack([DN[0], tenths[1] / 10])), "171 and 17.1 in band b2")


@pytest.mark.parametrize("zarr", [2, 3])
def test_cubes_are_compared_as_they_are_stored(tmp_path, zarr):
  """A fill value makes floating point of both."""
  xarray, there = pytest.importorskip("xarray"), table(tmp_path, "ab")
  pytest.importorskip("zarr")
  for i, image in enumerate((DN, REFLECTANCE)):
    attributes = {"_FillValue": np.uint16(0)} if i == 0 else {}
    cube = xarray.Dataset({"v": (("band", "y", "x"), image, attributes)})
    cube.to_zarr(there / f"S2/s{i}.zarr", zarr_format=zarr, consolidated=False)
  refused(there, "s0.zarr holds whole numbers, .*s1.zarr holds decimals")


METRES = pixels(dtype="int16") * np.int16(3)
ALIKE = {  # images of one view that are in one unit by all signs
  "widths": [pixels(dtype=dtype) for dtype in ("uint8", "int16", "uint16", "int32")],
  "bytes beside digital numbers": [pixels(dtype="uint8"), DN],
  "precisions": [REFLECTANCE, REFLECTANCE.astype(np.float64)],
  "rounded heights": [METRES, METRES + np.float32(0.25)],
  "zeros": [np.zeros_like(DN), REFLECTANCE],
  "missing": [DN, np.full_like(REFLECTANCE, np.nan)],
  "NaN for nodata": [DN, np.where(DN < 2000, np.nan, DN).astype(np.float32)],
}


@pytest.mark.parametrize("images", ALIKE.values(), ids=ALIKE)
def test_types_of_one_unit_are_read(tmp_path, images):
  read = view_of(files(tmp_path, *images))
  for image, values in zip(images, read):
    np.testing.assert_array_equal(values, np.moveaxis(image, 0, -1).astype(np.float32))


def test_numbers_of_masks_are_percent_and_true_is_no_number(tmp_path):
  there = table(tmp_path, "ab")
  np.save(there / "S2.npy", np.ones((2, 4, 4, 3), np.float32))
  (there / "cloud").mkdir()
  for i, image in enumerate((np.eye(4) > 0, 100 * np.eye(4, dtype=np.uint8))):
    np.save(there / f"cloud/s{i}.npy", image[..., None])
  refused(there, "s0.npy holds true and false, .*s1.npy holds whole numbers, about 1 and 100 in band b1")
  describe(there, views={"S2": {"mask": "cloud"}})
  refused(there, "view cloud: .*s0.npy holds true and false, .*s1.npy holds whole numbers; all have to hold")
