import hashlib
import io
import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets import shards
from colearn_jax.datasets.build import build
from colearn_jax.datasets.treesat_ts import arrays, files
from colearn_jax.datasets.treesat_ts import treesat_ts_dataset_builder as treesat
from colearn_jax.datasets.treesat_ts.dummy import STEPS, published_names, random_names, write_dummy
from colearn_jax.datasets.treesat_ts.reader import Reader

from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.fixed_length import Settings
from colearn_jax.data.reader import make_reader, read_index
from colearn_jax.types import InputError

h5py, rasterio = pytest.importorskip("h5py"), pytest.importorskip("rasterio")

LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
PLACES = "geojson/bb_60m.GeoJSON"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  there = tmp_path_factory.mktemp("manual") / "treesat"
  write_dummy(there)
  return there


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, folder):
  return build("treesat_ts", tmp_path_factory.mktemp("data"), manual_dir=folder, workers=1)


@pytest.fixture
def copy(tmp_path, folder):
  """The dummy files, to be changed."""
  return shutil.copytree(folder, tmp_path / "manual")


def names(there, split):
  return [n.removesuffix(".tif") for n in (there / f"split/{split}_filenames.lst").read_text().split()]


def samples(path, split):
  return list(tfds.builder_from_directory(path).as_data_source(split=split))


def series_of(there, name):
  (path,) = there.glob(f"sentinel-ts/{name}_*.h5")
  return path


def test_samples_hold_what_the_files_hold_in_the_order_of_the_lists(prepared, folder):
  labels = json.loads((folder / LABELS).read_text())
  unsorted = 0
  for split, listed in (("train", "train"), ("validation", "val"), ("test", "test")):
    every = samples(prepared, split)
    assert [s["id"].decode() for s in every] == names(folder, listed)
    for sample in every:
      name = sample["id"].decode()
      with rasterio.open(folder / f"aerial/{name}.tif") as image:
        expected = np.stack([image.read(band) for band in (1, 2, 3, 4)], axis=-1)
      np.testing.assert_array_equal(sample["views"]["aerial"], expected, strict=True)
      with h5py.File(series_of(folder, name)) as file:
        for view, data, products, at in (
          ("S1asc", "sen-1-asc-data", "sen-1-asc-products", 4),
          ("S1des", "sen-1-des-data", "sen-1-des-products", 4),
          ("S2", "sen-2-data", "sen-2-products", 2),
          ("S2mask", "sen-2-masks", "sen-2-products", 2),
        ):
          days = [product.decode().split("_")[at][:8] for product in file[products]]
          order = sorted(range(len(days)), key=days.__getitem__)
          unsorted += order != list(range(len(days)))
          expected = file[data][:].transpose(0, 2, 3, 1)[order].astype(np.float32)
          np.testing.assert_array_equal(sample["views"][view], expected, strict=True)
          dates = np.datetime64("1970-01-01") + sample["dates"][view].astype("timedelta64[D]")
          assert [str(date).replace("-", "") for date in dates] == [days[i] for i in order]
          assert sample["dates"][view].dtype == np.int32
      wanted = {genus for genus, share in labels[f"{name}.tif"] if share >= 0.07}
      assert {g for g, there in zip(files.GENERA, sample["target"], strict=True) if there} == wanted
  assert unsorted > 5


def test_metadata_describes_task_views_sources_and_lengths(prepared, folder):
  info = tfds.builder_from_directory(prepared).info
  metadata = info.metadata
  assert metadata["task"] == {"kind": "multilabel", "outputs": list(files.GENERA), "unit": "genus"}
  assert len(files.GENERA) == 15
  for name, feature in info.features["views"].items():
    assert len(metadata["views"][name]["bands"]) == feature.shape[-1]
    assert metadata["views"][name]["description"]
  every = [s for split in ("train", "validation", "test") for s in samples(prepared, split)]
  assert metadata["longest"] == {
    view: max(len(sample["dates"][view]) for sample in every) for view in ("S1asc", "S1des", "S2", "S2mask")
  }
  assert metadata["left_out"] == {"without_genus": [], "unreadable": {}}
  digest = hashlib.sha256((folder / LABELS).read_bytes()).hexdigest()
  assert metadata["sources"]["TreeSatBA_v9_60m_multi_labels.json"] == digest
  assert len(metadata["sources"]) == 7
  assert "Ahlswede" in info.citation


def test_training_can_open_it(prepared):
  dataset = open_dataset(prepared, Settings(lengths={"S1asc": 151}, masked_above={"cloud": 49}))
  longest = tfds.builder_from_directory(prepared).info.metadata["longest"]
  assert dataset.views["S1asc"] == (151, 6, 6, 2) and dataset.views["aerial"] == (304, 304, 4)
  assert dataset.modality("S2_S2mask").shape == (longest["S2"], 6, 6, 12)
  read = make_reader(dataset, [dataset.modality(name) for name in ("S2_S2mask", "S1asc", "aerial")])
  partly = 0
  for row, sample in enumerate(samples(prepared, "train")):
    inputs, views = read(row)["inputs"], sample["views"]
    early = 151 - len(views["S1asc"])
    np.testing.assert_array_equal(inputs["S1asc"][early:], views["S1asc"])
    assert np.isnan(inputs["S1asc"][:early]).all()
    cloudy = views["S2mask"][..., 1] > 49
    partly += cloudy.any() and not cloudy.all()
    kept = ~cloudy.all((1, 2))
    cube, early = inputs["S2_S2mask"], longest["S2"] - kept.sum()
    expected = np.where(cloudy[..., None], np.nan, views["S2"])[kept]
    np.testing.assert_array_equal(cube[early:, ..., :10], expected)
    assert np.isnan(cube[:early, ..., :10]).all() and not cube[:early, ..., 10:].any()
    np.testing.assert_array_equal(inputs["aerial"], views["aerial"], strict=True)  # bytes as they are
  assert partly
  index = read_index(dataset)
  assert index.target.shape == (11, 15) and index.target.dtype == np.float32
  assert len(set(index.groups["block"])) > 5


def test_archives_and_processes_give_the_same(prepared, folder, tmp_path, monkeypatch):
  shutil.copytree(folder, tmp_path / "manual")
  for kind in ("aerial", "sentinel-ts", "labels", "split", "geojson"):
    shutil.make_archive(str(tmp_path / "manual" / kind), "zip", folder, kind)
    shutil.rmtree(tmp_path / "manual" / kind)
  monkeypatch.setattr(treesat, "SHARD", 4)
  path = build("treesat_ts", tmp_path / "data", manual_dir=tmp_path / "manual", workers=2)
  assert tfds.builder_from_directory(path).info.splits["train"].shard_lengths == [4, 2]
  for split in ("train", "validation", "test"):
    for one, two in zip(samples(prepared, split), samples(path, split), strict=True):
      assert one["id"] == two["id"] and one["groups"] == two["groups"]
      for group in ("views", "dates"):
        for name, values in one[group].items():
          np.testing.assert_array_equal(values, two[group][name], strict=True)
  read = lambda path: json.loads((path / "metadata.json").read_text())
  assert read(path) == read(prepared)
  assert build("treesat_ts", tmp_path / "data", manual_dir=folder) == path  # what was packed is the same


def test_a_genus_counts_from_seven_hundredths(copy, tmp_path, capfd):
  labels = json.loads((copy / LABELS).read_text())
  first, second, third, *_ = (f"{name}.tif" for name in names(copy, "train"))
  labels[first] = [["Picea", 0.8], ["Abies", 0.07], ["Tilia", 0.0699]]
  labels[second] = [["Quercus", 0.05], ["Quercus", 0.05], ["Fagus", 1.7]]
  labels[third] = [["Acer", 0.05], ["Pinus", 0.0]]
  (copy / LABELS).write_text(json.dumps(labels))
  path = build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1)
  every = samples(path, "train")
  assert [files.GENERA[i] for i in np.flatnonzero(every[0]["target"])] == ["Abies", "Picea"]
  assert [files.GENERA[i] for i in np.flatnonzero(every[1]["target"])] == ["Fagus"]
  assert len(every) == 5
  left_out = tfds.builder_from_directory(path).info.metadata["left_out"]
  assert left_out["without_genus"] == [third.removesuffix(".tif")]
  said = "treesat_ts: 5 train, 2 validation, 3 test samples; left out: 1 without a genus on 7% of the area"
  assert said in capfd.readouterr().err


@pytest.mark.parametrize("crs", ["EPSG:25832", "urn:ogc:def:crs:EPSG::25832", None, "degrees"])
def test_places_become_longitude_and_latitude(copy, crs):
  tree = json.loads((copy / PLACES).read_text())
  x, y = (9, 52) if crs == "degrees" else (500_000, 5_761_038.21)  # where the zone's meridian meets 52° north
  ring = [[x - 0.001, y - 0.001], [x + 0.001, y - 0.001], [x + 0.001, y + 0.001], [x - 0.001, y - 0.001]]
  tree["features"] = tree["features"][:3]
  tree["features"][0]["geometry"]["coordinates"] = [ring]
  tree["features"][1]["geometry"] = {"type": "MultiPolygon", "coordinates": [[ring], [ring]]}
  del tree["features"][2]
  tree["crs"]["properties"]["name"] = crs
  if crs in (None, "degrees"):
    del tree["crs"]
  (copy / PLACES).write_text(json.dumps(tree))
  first, second, third, *_ = files.read_plan(copy)[0]["train"]
  for sample in (first, second):
    np.testing.assert_allclose([sample.longitude, sample.latitude], [9, 52], atol=1e-6)
  assert np.isnan([third.longitude, third.latitude]).all()
  example = Reader(files.find_images(copy), files.find_series(copy)).read(third)
  assert example["groups"]["block"] == "unknown" and np.isnan(example["coordinates"]).all()


def test_dates_are_the_first_in_the_names_of_products():
  day = lambda text: (np.datetime64(text) - np.datetime64("1970-01-01")).astype(int)
  s2 = b"S2B_MSIL2A_20180212T104141_N0206_R008_T32ULU_20180213T142655"
  s1 = "S1A_IW_GRDH_1SDV_20171231T172401_20180101T172426_019950_021F8B_1C2D"
  assert arrays.read_date(s2, "") == day("2018-02-12")
  assert arrays.read_date(s1, "") == day("2017-12-31")
  for name in ("S2B_MSIL2A_2018", "S2B_20181332T104141", b"\xff"):
    with pytest.raises(InputError, match="a.h5: no date in the product name"):
      arrays.read_date(name, "a.h5")


def hdf5(change=None, count=3):
  """The content of a file of series; `change` edits its arrays."""
  out, shapes = io.BytesIO(), {"sen-1-asc": 2, "sen-1-des": 2, "sen-2": 10}
  content = {f"{key}-data": np.ones((count, bands, 6, 6), np.float32) for key, bands in shapes.items()}
  content |= {f"{key}-products": [f"A_2018010{9 - i}T" for i in range(count)] for key in shapes}
  content["sen-2-masks"] = np.zeros((count, 2, 6, 6), np.uint8)
  if change:
    change(content)
  with h5py.File(out, "w") as file:
    for key, value in content.items():
      file.create_dataset(key, data=value, dtype=h5py.string_dtype() if isinstance(value, list) else None)
  return out.getvalue()


def test_a_satellite_that_never_came_has_an_empty_series():
  def never(content):
    content["sen-1-asc-data"], content["sen-1-asc-products"] = np.zeros((0, 2, 6, 6), np.float32), []

  views, dates = arrays.read_series(hdf5(never), "a.h5")
  assert views["S1asc"].shape == (0, 6, 6, 2) and dates["S1asc"].shape == (0,)
  assert views["S1des"].shape == (3, 6, 6, 2)


def test_infinite_values_are_missing_ones():
  def change(content):
    content["sen-1-des-data"][0, 1, 2, 3] = -np.inf
    content["sen-1-des-data"][1, 0, 0, 0] = np.nan

  views, _ = arrays.read_series(hdf5(change), "a.h5")
  assert np.argwhere(np.isnan(views["S1des"])).tolist() == [[1, 0, 0, 0], [2, 2, 3, 1]]  # dates descend


def tif(shape=(4, 304, 304), dtype="uint8"):
  profile = {"driver": "GTiff", "count": shape[0], "height": shape[1], "width": shape[2], "dtype": dtype}
  with rasterio.MemoryFile() as memory:
    with memory.open(**profile, crs="EPSG:25832", transform=rasterio.Affine(1, 0, 1, 0, -1, 1)) as image:
      image.write(np.ones(shape, dtype))
    return memory.read()


FILE_ERRORS = {
  "h5 truncated": ("h5", hdf5()[:-2000], "cannot read .*h5 as HDF5: .*truncated"),
  "h5 key": (
    "h5",
    hdf5(lambda c: c.pop("sen-1-des-data")),
    "h5 has no array under the key 'sen-1-des-data', its keys are: sen-1-asc-data, sen-1-asc-products",
  ),
  "h5 bands": (
    "h5",
    hdf5(lambda c: c.update({"sen-2-data": np.ones((3, 12, 6, 6))})),
    r"h5: sen-2-data is float64 \(3, 12, 6, 6\) for 3 products, not numbers of shape \(3, 10, 6, 6\)",
  ),
  "h5 dates": ("h5", hdf5(lambda c: c["sen-2-products"].pop()), r"sen-2-data is .* for 2 products"),
  "h5 product": (
    "h5",
    hdf5(lambda c: c["sen-1-asc-products"].__setitem__(0, "none")),
    "h5: sen-1-asc-products: no date in the product name 'none'",
  ),
  "h5 missing": ("h5", None, "cannot read .*h5: No such file"),
  "tif truncated": ("tif", tif()[:5000], "cannot read .*tif as GeoTIFF"),
  "tif empty": ("tif", b"", "cannot read .*tif as GeoTIFF"),
  "tif size": (
    "tif",
    tif((4, 300, 304)),
    r"tif: the image is uint8 \(300, 304, 4\), not uint8 \(304, 304, 4\)",
  ),
  "tif type": ("tif", tif(dtype="uint16"), r"tif: the image is uint16 \(304, 304, 4\), not"),
}


@pytest.mark.parametrize("kind, content, message", FILE_ERRORS.values(), ids=FILE_ERRORS)
def test_an_unreadable_file_is_fatal_or_skipped(copy, tmp_path, capfd, kind, content, message):
  bad = names(copy, "train")[2]
  path = series_of(copy, bad) if kind == "h5" else copy / f"aerial/{bad}.tif"
  path.unlink() if content is None else path.write_bytes(content)
  with pytest.raises(InputError, match=message) as error:
    build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1)
  assert "\n" not in str(error.value) and bad in str(error.value)
  assert {left.name for left in (tmp_path / "data/treesat_ts").iterdir()} == {".lock"}

  path = build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1, unreadable="skip")
  assert [s["id"].decode() for s in samples(path, "train")] == [
    name for name in names(copy, "train") if name != bad
  ]
  left_out = tfds.builder_from_directory(path).info.metadata["left_out"]["unreadable"]
  assert list(left_out) == [bad] and left_out[bad] == str(error.value)
  first, last = capfd.readouterr().err.splitlines()
  assert first == f"treesat_ts: left out {bad}: {error.value}"
  assert last.endswith(
    "5 train, 2 validation, 3 test samples; left out: 0 without a genus on 7% of the area, 1 unreadable"
  )


def test_a_stopped_build_goes_on_where_it_was(copy, prepared, tmp_path, monkeypatch):
  monkeypatch.setattr(treesat, "SHARD", 2)
  written, write = [], shards.Shard.write

  def recorded(shard):
    written.append(shard.path.name)
    return write(shard)

  monkeypatch.setattr(shards.Shard, "write", recorded)
  train = names(copy, "train")
  broken, good = series_of(copy, train[4]), series_of(copy, train[4]).read_bytes()
  broken.write_bytes(good[:1000])
  for _ in range(2):  # the second time nothing but the third shard is tried
    with pytest.raises(InputError, match=f"cannot read .*{broken.name} as HDF5"):
      build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1)
  partial = tmp_path / "data/treesat_ts/partial-2.0.0"
  whole = {f"train-0000000{at}.{kind}" for at in (0, 2) for kind in ("array_record", "json")}
  assert {left.name for left in partial.iterdir()} == whole
  assert written == [f"train-0000000{at}.array_record" for at in (0, 2, 4, 4)]

  broken.write_bytes(good)
  (partial / "train-00000004.half").write_bytes(b"of a process that was killed")
  (partial / "train-00000000.array_record").write_bytes(b"shorter than it was")
  changed = series_of(copy, train[2])
  changed.write_bytes(hdf5())
  del written[:]
  path = build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1)
  assert written[:3] == [f"train-0000000{at}.array_record" for at in (0, 2, 4)]
  assert not partial.exists()
  every, before = samples(path, "train"), samples(prepared, "train")
  assert [s["id"].decode() for s in every] == train
  assert every[2]["views"]["S2"].shape == (3, 6, 6, 10) and (every[2]["views"]["S2"] == 1).all()
  for i in (0, 1, 3, 4, 5):
    np.testing.assert_array_equal(every[i]["views"]["S2"], before[i]["views"]["S2"])


def test_what_was_skipped_is_tried_again_by_a_build_that_does_not_skip(copy, tmp_path, monkeypatch):
  bad = series_of(copy, names(copy, "train")[0])
  bad.write_bytes(b"")
  write = shards.Shard.write

  def stopped(shard):
    if "test" in shard.path.name:
      raise KeyboardInterrupt
    return write(shard)

  with monkeypatch.context() as patch:
    patch.setattr(shards.Shard, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
      build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1, unreadable="skip")
  with pytest.raises(InputError, match=f"cannot read .*{bad.name}"):
    build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1)
  path = build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1, unreadable="skip")
  assert len(samples(path, "train")) == 5


def test_a_split_of_which_nothing_can_be_read_is_an_error(copy, tmp_path):
  for name in names(copy, "val"):
    (copy / f"aerial/{name}.tif").unlink()
  with pytest.raises(InputError, match="no sample of the validation part is left: cannot read .*tif"):
    build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1, unreadable="skip")
  assert not (tmp_path / "data/treesat_ts/2.0.0").exists()


def listed(split, edit):
  def change(there):
    path = there / f"split/{split}_filenames.lst"
    path.write_text(edit(path.read_text().splitlines()))

  return change


def labelled(edit):
  def change(there):
    labels = json.loads((there / LABELS).read_text())
    edit(labels, next(iter(labels)))
    (there / LABELS).write_text(json.dumps(labels))

  return change


def entry(value):
  return labelled(lambda labels, name: labels.__setitem__(name, value))


def second_year(there):
  path = next(there.glob("sentinel-ts/*.h5"))
  shutil.copy(path, path.with_stem(path.stem[:-4] + "2031"))


PLAN_ERRORS = {
  "empty list": (listed("test", lambda lines: "\n \n"), "test_filenames.lst is empty; get aerial.zip"),
  "twice": (
    listed("train", lambda lines: "\n".join([*lines, lines[1]])),
    "train_filenames.lst: .* is there twice$",
  ),
  "two splits": (
    listed("test", lambda lines: "Oak.tif\nBirch"),
    "test_filenames.lst: Oak has no entry in TreeSatBA_v9_60m_multi_labels.json",
  ),
  "no list": (lambda there: (there / "split/test_filenames.lst").unlink(), "no file test_filenames.lst in"),
  "no images": (
    lambda there: shutil.rmtree(there / "aerial"),
    "has no .tif files in any of aerial, aerial.zip",
  ),
  "json": (lambda there: (there / LABELS).write_text("{"), "cannot read .*json as JSON"),
  "label twice": (
    lambda there: (there / LABELS).write_text('{"a.tif": [], "b.tif": [], "a.tif": []}'),
    "json: a.tif is there twice",
  ),
  "genus": (entry([["Palma", 1.0]]), "json: unknown genus 'Palma' of .*, have: Abies, Acer"),
  "share": (entry([["Pinus", -1]]), "json: the share of Pinus of .* is -1.0, not a number of 0 or more"),
  "entry": (entry([["Pinus"]]), "json: the entry of .* is not a list of genera and shares"),
  "two years": (second_year, r"has two series of .*: .*\.h5 and .*\.h5"),
  "places": (
    lambda there: (there / PLACES).write_text('{"features": [{"geometry": null}]}'),
    "bb_60m.GeoJSON is not a GeoJSON of outlines with an IMG_ID",
  ),
  "not text": (
    lambda there: (there / "split/val_filenames.lst").write_bytes(b"\xff\xfe"),
    "cannot read .*val_filenames.lst as UTF-8 text",
  ),
}


@pytest.mark.parametrize("change, message", PLAN_ERRORS.values(), ids=PLAN_ERRORS)
def test_malformed_lists_and_labels_are_an_error_of_one_line(copy, tmp_path, change, message):
  change(copy)
  with pytest.raises(InputError, match=message) as error:
    build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1)
  assert "\n" not in str(error.value)
  root = tmp_path / "data/treesat_ts"
  assert not root.exists() or {left.name for left in root.iterdir()} == {".lock"}


def test_a_name_in_two_lists_is_an_error(copy):
  shutil.copy(copy / "split/train_filenames.lst", copy / "split/val_filenames.lst")
  with pytest.raises(InputError, match="val_.*lst: .* is there twice, also in .*train_filenames.lst"):
    files.read_plan(copy)


def test_without_the_validation_list_there_is_no_validation(copy, tmp_path):
  (copy / "split/val_filenames.lst").unlink()
  path = build("treesat_ts", tmp_path / "data", manual_dir=copy, workers=1)
  assert set(tfds.builder_from_directory(path).info.splits) == {"train", "test"}


def test_the_other_naming_is_read(copy, folder):
  (copy / "sentinel-ts").rename(copy / "sentinel")
  for path in copy.glob("sentinel/*.h5"):
    path.rename(path.with_stem(path.stem[:-5]))
  for path in copy.glob("split/*.lst"):
    path.rename(copy / path.name)
  plan, other = files.read_plan(folder)[0], files.read_plan(copy)[0]
  for one, two in zip(plan["train"], other["train"], strict=True):
    assert one.id == two.id and two.series == f"{one.id}.h5" != one.series
  assert len(files.find_series(copy).read(other["test"][0].series)) > 0


@pytest.mark.parametrize(
  "members, message",
  [
    (["aerial/../../x.tif"], "aerial.zip has a member with an unsafe path: 'aerial/../../x.tif'"),
    (["/x.tif"], "aerial.zip has a member with an unsafe path"),
    (["a/x.tif", "b/x.tif"], "aerial.zip holds x.tif twice: a/x.tif, b/x.tif"),
    ([], "cannot read .*aerial.zip: File is not a zip file"),
  ],
)
def test_a_bad_archive_is_an_error(tmp_path, members, message):
  if members:
    with zipfile.ZipFile(tmp_path / "aerial.zip", "w") as archive:
      for name in members:
        archive.writestr(name, b"")
  else:
    (tmp_path / "aerial.zip").write_bytes(b"no archive")
  with pytest.raises(InputError, match=message):
    files.find_images(tmp_path)


def test_a_damaged_member_is_an_error(tmp_path):
  with zipfile.ZipFile(tmp_path / "aerial.zip", "w") as archive:
    archive.writestr("aerial/x.tif", b"pixels" * 100)
  content = (tmp_path / "aerial.zip").read_bytes()
  (tmp_path / "aerial.zip").write_bytes(content.replace(b"pixels", b"pixelz", 1))
  with pytest.raises(InputError, match="cannot read x.tif in .*aerial.zip: Bad CRC-32"):
    files.find_images(tmp_path).read("x.tif")


def test_a_member_that_is_far_too_large_is_not_read(tmp_path, monkeypatch):
  with zipfile.ZipFile(tmp_path / "aerial.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("aerial/x.tif", bytes(10**6))
  assert len(files.find_images(tmp_path).read("x.tif")) == 10**6
  monkeypatch.setattr(files, "LARGEST_MEMBER", 10**6 - 1)
  with pytest.raises(InputError, match="x.tif in .*aerial.zip has 1000000 bytes, at most 999999 are read"):
    files.find_images(tmp_path).read("x.tif")


def test_other_files_than_the_prepared_ones_are_an_error(prepared, copy):
  root = prepared.parents[1]
  next(copy.glob("aerial/*.tif")).unlink()
  with pytest.raises(InputError, match="was made from another .*aerial, sentinel-ts than the one in"):
    build("treesat_ts", root, manual_dir=copy)


def test_without_the_readers_the_error_says_what_to_install(tmp_path, folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "rasterio", None)
  with pytest.raises(InputError, match=r"pip install 'colearn_jax\[raster\]'"):
    build("treesat_ts", tmp_path / "data", manual_dir=folder)


@pytest.mark.parametrize("option", [{"unreadable": "ignore"}, {"workers": 0}])
def test_options_that_do_not_exist_are_errors(tmp_path, option):
  with pytest.raises(InputError, match="is not allowed; (one of: fail, skip|1 or more)"):
    build("treesat_ts", tmp_path, **option)


def test_it_is_not_downloaded(tmp_path):
  with pytest.raises(InputError, match="has to be downloaded by hand: get aerial.zip, .*huggingface"):
    build("treesat_ts", tmp_path / "data")


def test_dummy_files_take_given_names(tmp_path):
  splits, labels = random_names({"train": 1, "test": 1}, seed=3)
  write_dummy(tmp_path / "manual", splits, labels, steps={**STEPS, "S2": (140, 147)}, archives=True)
  plan, _ = files.read_plan(tmp_path / "manual")
  assert [f"{sample.id}.tif" for sample in plan["train"]] == splits["train"]
  sample = plan["test"][0]
  series = files.find_series(tmp_path / "manual")
  views, _ = arrays.read_series(series.read(sample.series), sample.series)
  assert 140 <= len(views["S2"]) <= 146 and np.isnan(views["S1asc"]).any() and views["S2mask"].max() > 40


def test_dummy_files_take_published_names(folder):
  """Also where there is no list of a validation part, whose names are then others of the train list."""
  splits, labels = published_names(folder, {"train": 3, "val": 2, "test": 1})
  every = sum(splits.values(), [])
  assert len(set(every)) == 6 == len(labels) and {"train", "val", "test"} == set(splits)
  assert set(splits["train"]) < {f"{name}.tif" for name in names(folder, "train")}
  published = json.loads((folder / LABELS).read_text())
  assert all(labels[name] == published[name] for name in every)
