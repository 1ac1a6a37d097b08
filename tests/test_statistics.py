import os
import time

import numpy as np
import pytest
from colearn_jax.datasets import build

from colearn_jax.data import reader as readers
from colearn_jax.data import statistics
from colearn_jax.data.dataset import open_dataset
from colearn_jax.storage import array_cache
from colearn_jax.types import InputError, Modality, Task

BANDS = Modality("m", ("m",), (3, 2), ("a", "b"))


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
  return open_dataset(build.build("synthetic", tmp_path_factory.mktemp("prepared")))


def of(*pieces):
  return statistics.merged({"m": statistics.moments(x)} for x in pieces)["m"]


def test_moments_are_exact_and_skip_missing_values():
  rng = np.random.default_rng(0)
  x = rng.normal(3000.0, 5.0, size=(101, 3, 2)).astype(np.float32)
  x[::3, 1, 0] = np.nan
  x[14:21] = np.nan  # a piece without a value
  got = of(*(x[at : at + 7] for at in range(0, 101, 7)))
  wide = x.astype(np.float64)
  np.testing.assert_array_equal(got.count, np.isfinite(x).sum((0, 1)))
  np.testing.assert_allclose(got.mean, np.nanmean(wide, (0, 1)), rtol=1e-12)
  np.testing.assert_allclose(np.sqrt(got.spread / got.count), np.nanstd(wide, (0, 1)), rtol=1e-9)
  np.testing.assert_array_equal(got.least, np.nanmin(wide, (0, 1)))
  np.testing.assert_array_equal(got.greatest, np.nanmax(wide, (0, 1)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_integers_are_counted_without_overflow(dtype):
  info = np.iinfo(dtype)
  x = np.random.default_rng(0).integers(info.min, info.max, (4, 32, 32, 3), dtype, endpoint=True)
  x[..., 2] = np.maximum(x[..., 2], 100)
  got = of(x[:3], x[3:], x[:0])
  np.testing.assert_array_equal(got.count, 4 * 32 * 32)
  np.testing.assert_allclose(got.mean, x.mean((0, 1, 2), dtype=np.float64), rtol=1e-12)
  np.testing.assert_allclose(got.spread / got.count, x.var((0, 1, 2), dtype=np.float64), rtol=1e-12)
  np.testing.assert_array_equal(got.least, x.min((0, 1, 2)))
  np.testing.assert_array_equal(got.greatest, x.max((0, 1, 2)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.int32, np.int64])
def test_moments_of_one_value_and_of_none(dtype):
  """Of any type; a band may have one value in all of the pieces."""
  x = np.full((2, 1, 2), 7, dtype)
  empty = x[:0]
  for got in (of(x[:1]), of(empty, x[:1]), of(x[:1], empty), of(empty, x[:1], empty)):
    assert [got.count.tolist(), got.mean.tolist(), got.spread.tolist()] == [[1, 1], [7, 7], [0, 0]]
    assert got.least.tolist() == got.greatest.tolist() == [7, 7]
    assert statistics.Normalisation().constants(BANDS, got)["offset"].tolist() == [7, 7]
  none = of(empty)
  assert [none.count.tolist(), none.mean.tolist(), none.spread.tolist()] == [[0, 0]] * 3


@pytest.mark.parametrize("how", ["zscore", "max", "minmax"])
def test_normalisations(how):
  x = np.random.default_rng(0).normal(-10, 3, (50, 3, 2)).astype(np.float32)
  got = statistics.Normalisation(how).constants(BANDS, of(x))
  assert got["offset"].dtype == got["scale"].dtype == np.float32
  scaled = (x - got["offset"]) / got["scale"]
  if how == "zscore":
    np.testing.assert_allclose(scaled.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 1)), 1, rtol=1e-5)
  if how == "max":
    np.testing.assert_allclose(scaled, x / x.max((0, 1)), rtol=1e-6)
  if how == "minmax":
    np.testing.assert_allclose(scaled.min((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.max((0, 1)), 1, rtol=1e-6)


def test_constant_and_empty_bands():
  x = np.ones((4, 3, 2), np.float32)
  np.testing.assert_array_equal(statistics.Normalisation().constants(BANDS, of(x))["scale"], [1.0, 1.0])
  np.testing.assert_array_equal(statistics.Normalisation("minmax").constants(BANDS, of(x))["scale"], [1, 1])
  for band, name in enumerate("ab"):
    gone = x.copy()
    gone[..., band] = np.nan
    with pytest.raises(InputError, match=f"band {name} of modality m has no value in the training part"):
      statistics.Normalisation().constants(BANDS, of(gone))


def test_constants_of_an_encoder_need_a_value_of_some_band(fields):
  """A pretrained encoder has its own constants, and may read bands that a data set lacks."""
  own = {"m": {"offset": np.array([1.0, 2.0]), "scale": np.array([3.0, 4.0])}}
  for how in ("zscore", "fixed"):
    normalisation = statistics.make_normalisation(how, {}, fields, [BANDS], own)
    x = np.ones((4, 3, 2), np.float32)
    x[..., 1] = np.nan
    for found in (None, of(x)):
      got = normalisation.constants(BANDS, found)
      assert {name: value.tolist() for name, value in got.items()} == {"offset": [1, 2], "scale": [3, 4]}
    with pytest.raises(InputError, match="^modality m has no value in the training part$"):
      normalisation.constants(BANDS, of(x * np.nan))


def test_values_count_for_quantiles_alone():
  """A band whose values are not among those that are sampled is divided by its deviation."""
  x = np.random.default_rng(0).normal(5, 2, (50, 3, 2))
  plain = statistics.Normalisation("zscore").constants(BANDS, of(x))
  again = statistics.Normalisation("zscore").constants(BANDS, of(x), x[:3])
  assert all((plain[name] == again[name]).all() for name in ("offset", "scale")) and len(again) == 2
  part = x[:20].copy()
  part[..., 1] = np.nan
  for how in ("robust", "quantile"):
    got = statistics.Normalisation(how).constants(BANDS, of(x), part)
    assert got["offset"][1] == 0 and got["scale"][1] == pytest.approx(x[..., 1].std())
    assert got["offset"][0] == pytest.approx(np.median(part[..., 0]))


def test_fixed_constants_are_joined_by_view(fields):
  modality = fields.modality("S2_S2VI")
  fixed = {"S2": {"offset": 100, "scale": list(range(1, 11))}, "S2VI": {"offset": [0.5], "scale": 2.0}}
  normalisation = statistics.make_normalisation("fixed", fixed, fields, [modality])
  got = normalisation.constants(modality, None)
  np.testing.assert_array_equal(got["offset"], [100.0] * 10 + [0.5])
  np.testing.assert_array_equal(got["scale"], [*range(1, 11), 2.0])


def test_one_pass_over_the_disk_is_enough(fields, monkeypatch):
  """From the disk as from a table; kept, and not taken for what other rows or a rebuilt data set have."""
  modalities = [fields.modality("S1"), fields.modality("S2_S2VI")]
  rows = np.random.default_rng(0).permutation(3000)[:700]
  table = readers.read_table(readers.make_reader(fields, modalities))
  expected = statistics.of_table(table, rows)
  got = statistics.of_dataset(fields, modalities, rows)
  for m in expected:
    for one, other in zip(got[m], expected[m], strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-12)
  read = []
  get = readers.Source.__getitem__
  monkeypatch.setattr(readers.Source, "__getitem__", lambda self, row: read.append(row) or get(self, row))
  again = statistics.of_dataset(fields, modalities[::-1], rows[::-1])
  assert not read
  for m in expected:
    np.testing.assert_array_equal(again[m], got[m])
  statistics.of_dataset(fields, [*modalities, fields.modality("terrain")], rows)
  assert sorted(read) == sorted(rows)  # for the one that was not known
  read.clear()
  statistics.of_dataset(fields, modalities, rows[1:])
  assert len(read) == 699
  read.clear()
  (fields.path / "touched.json").write_text("{}")
  statistics.of_dataset(fields, modalities, rows)
  assert len(read) == 700


def test_absent_sensors_do_not_count():
  x = np.array([[10, 20], [0, 0], [30, 40]], np.uint8)
  table = {"inputs": {"m": x}, "present": {"m": np.array([1, 0, 1], np.float32)}}
  np.testing.assert_array_equal(statistics.of_table(table, np.arange(3))["m"].mean, [20.0, 30.0])


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
  (tmp_path / "derived").write_text("in the way")
  at, ones = array_cache.stamp(tmp_path), {"a": np.ones(3)}
  array_cache.write(tmp_path, at, {"what": "x"}, ones)
  assert array_cache.read(tmp_path, at, {"what": "x"}) is None
  (tmp_path / "derived").unlink()
  at = array_cache.stamp(tmp_path)
  array_cache.write(tmp_path, at, {"what": "x"}, ones)
  np.testing.assert_array_equal(array_cache.read(tmp_path, at, {"what": "x"})["a"], np.ones(3))
  (file,) = (tmp_path / "derived").iterdir()
  file.write_bytes(file.read_bytes()[:100])
  assert array_cache.read(tmp_path, at, {"what": "x"}) is None


def test_results_of_other_files_are_never_returned(tmp_path):
  """Not even if the files have the same sizes and times, or changed during the computation."""
  shard, query = tmp_path / "shard", {"what": "x"}
  shard.write_bytes(b"one")
  os.utime(shard, ns=(1, 1))
  at = array_cache.stamp(tmp_path)
  array_cache.write(tmp_path, at, query, {"a": np.ones(3)})
  time.sleep(0.02)  # the clock of a file system has ticks
  shard.write_bytes(b"two")
  os.utime(shard, ns=(1, 1))
  now = array_cache.stamp(tmp_path)
  assert now != at and array_cache.read(tmp_path, at, query) is None is array_cache.read(tmp_path, now, query)
  array_cache.write(tmp_path, at, query, {"a": np.zeros(3)})  # computed from what the files held before
  assert array_cache.read(tmp_path, now, query) is None


def test_constants_of_the_task():
  target = np.array([[0.0, 5.0], [4.0, 5.0]], np.float32)  # a constant target is not scaled
  got = statistics.task_constants(Task("regression", ("y", "z")), target, "balanced")
  np.testing.assert_array_equal([got["mean"], got["std"]], [[2.0, 5.0], [2.0, 1.0]])
  small = statistics.task_constants(Task("regression", ("y",)), target[:, :1] / 10, "none")
  np.testing.assert_allclose([small["mean"], small["std"]], [[0.2], [0.2]], rtol=1e-6)
  label = np.array([0, 0, 0, 2], np.int32)
  task = Task("multiclass", ("a", "b", "c"))
  weights = statistics.task_constants(task, label, "balanced")["class_weights"]
  np.testing.assert_allclose(weights, [4 / 6, 1.0, 2.0])  # n / (k n_c) over the k = 2 classes that occur
  np.testing.assert_array_equal(statistics.task_constants(task, label, "none")["class_weights"], np.ones(3))
