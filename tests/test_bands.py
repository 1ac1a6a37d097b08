"""What bands hold is counted when a data set is built; a view that is mostly unusable is refused."""

import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets import bands, build

from colearn_jax.types import InputError
from tests.cases.folders import describe, table

NAN, INF = np.nan, np.inf


def example(**views):
  return {"id": "a", "views": {name: np.array(x, np.float32) for name, x in views.items()}}


@pytest.mark.parametrize("piece", [1, 5, 2**20])
def test_counts_by_hand(monkeypatch, piece):
  monkeypatch.setattr(bands, "PIECE", piece)
  counter = bands.Counter()
  first = example(s=[[1, NAN, 3], [INF, 5, 3]])
  counter.add(first)
  np.testing.assert_array_equal(first["views"]["s"], [[1, NAN, 3], [NAN, 5, 3]])
  counter.add(example(s=[[NAN, NAN, NAN], [NAN, NAN, NAN]]))  # the sample lacks the view
  counter.add(example(s=[[2, -INF, 3]]))
  flags = {"views": {"s": np.zeros((2, 3), np.float32), "i": np.array([[7]], np.uint8)}}
  counter.add({"views": {"i": np.array([[9]], np.uint8)}, "present": {"i": False}})
  counter.add({"views": {"i": flags["views"]["i"]}, "present": {"i": True}})
  found = {
    name: bands.Found.from_json(json.loads(json.dumps(f.to_json()))) for name, f in counter.found.items()
  }
  assert found["s"].samples == 2 and found["i"].samples == 1
  got = bands.facts(found, {"s": {"bands": ["a", "b", "c"]}, "i": {"bands": ["n"]}, "none": {"bands": ["x"]}})
  of = lambda *numbers: dict(zip(("values", "missing", "infinite", "constant"), numbers))
  assert got == {
    "s": {"a": of(3, 0, 1, False), "b": of(3, 1, 1, True), "c": of(3, 0, 0, True)},
    "i": {"n": of(1, 0, 0, True)},
  }


def test_pieces_are_joined():
  x = np.random.default_rng(0).normal(size=(6, 4, 2))
  x[0, 1, 1], x[5, 3, 0] = INF, NAN
  whole = bands.Found.of(list(x))
  parts = bands.joined({"s": bands.Found.of(list(x[at : at + 2]))} for at in (0, 2, 4))["s"]
  assert parts.by_band("ab") == whole.by_band("ab") and parts.samples == 6
  np.testing.assert_allclose(parts.moments, whole.moments)


def own(there, values, **said):
  table(there, [i % 2 for i in range(len(values))])
  for i, x in enumerate(values):
    np.save(there / "x" / f"s{i}.npy", np.asarray(x, np.float32))
  return describe(there, views={"x": {"bands": ["a", "b", "c"], **said}})


def made(there, to):
  return tfds.builder_from_directory(build.build("folder", to, manual_dir=there, workers=1)).info.metadata


GOOD = np.random.default_rng(0).normal(size=(12, 3))


def test_the_build_says_and_stores_what_bands_hold(tmp_path, capsys):
  values = GOOD.copy()
  values[:, 1], values[3, 0], values[4, 2] = 5, INF, NAN
  counts = made(own(tmp_path / "own", values), tmp_path / "data")["counts"]["x"]
  assert counts["a"] == {"values": 12, "missing": 0, "infinite": 1, "constant": False}
  assert counts["b"]["constant"] and counts["c"]["missing"] == 1
  said = capsys.readouterr().err
  assert "view x: 1 values of band a are infinite (8.3%), now missing" in said
  assert "view x: 1 of 3 bands hold one value only: b" in said


UNUSABLE = {
  "constant": (lambda x: np.stack([x[:, 0], 0 * x[:, 0], 0 * x[:, 0] + 3], 1), "2 of its 3 bands hold", 0.67),
  "empty": (lambda x: np.stack([x[:, 0], NAN * x[:, 0], NAN * x[:, 0]], 1), "2 of its 3 bands hold", 0.67),
  "infinite": (
    lambda x: np.where(np.arange(12)[:, None] < 8, [1, INF, 1], 1) * x,
    "66.7% of the values",
    0.67,
  ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_view_that_is_mostly_unusable_is_refused_in_one_line(tmp_path, case):
  make, message, allowed = UNUSABLE[case]
  with np.errstate(invalid="ignore"):
    there = own(tmp_path / "own", make(np.abs(GOOD)))
  with pytest.raises(InputError, match=rf'view x: {message}.*"unusable": {re.escape(str(allowed))}') as error:
    made(there, tmp_path / "data")
  assert "\n" not in str(error.value)
  describe(there, views={"x": {"bands": ["a", "b", "c"], "unusable": allowed}})
  assert made(there, tmp_path / "data")["counts"]
  describe(there, views={"x": {"bands": ["a", "b", "c"], "unusable": 1.5}})
  with pytest.raises(InputError, match="unusable of view x is 1.5, not a share from 0 to 1"):
    made(there, tmp_path / "data")


def test_few_samples_and_masks_may_be_constant(tmp_path):
  assert made(own(tmp_path / "few", 0 * GOOD[:9]), tmp_path / "data")
  found = {"m": bands.Found.of([np.ones((2, 1), np.uint8)] * 20)}
  bands.check(found, {"m": {"bands": ["clear"]}, "x": {"bands": ["a"], "mask": "m"}})
  with pytest.raises(InputError, match="view m: 1 of its 1 bands"):
    bands.check(found, {"m": {"bands": ["clear"]}})


def test_a_shard_of_an_earlier_version_without_counts_is_written_again(tmp_path, monkeypatch):
  """The build is stopped after its shards; the counts of complete ones come from their reports."""
  there, stop = own(tmp_path / "own", GOOD), RuntimeError("stopped")
  joined = bands.joined
  monkeypatch.setattr(bands, "joined", lambda pieces: (_ for _ in ()).throw(stop))
  with pytest.raises(RuntimeError, match="stopped"):
    made(there, tmp_path / "data")
  monkeypatch.setattr(bands, "joined", joined)
  (report,) = (tmp_path / "data").rglob("train-*.json")
  tree = json.loads(report.read_text())
  assert tree["bands"]["x"]["samples"] == 12
  del tree["bands"]
  report.write_text(json.dumps(tree))
  assert made(there, tmp_path / "data")["counts"]["x"]["a"]["values"] == 12


@pytest.mark.long
def test_generated_data_sets_count_too(tmp_path):
  info = tfds.builder_from_directory(build.build("synthetic", tmp_path)).info
  counts = info.metadata["counts"]
  assert set(counts) == set(info.metadata["views"])
  size = sum(split.num_examples for split in info.splits.values())
  for view, own in counts.items():
    steps = int(np.prod(info.features["views"][view].shape[:-1]))
    assert {band["values"] % steps for band in own.values()} == {0}
    assert all(0 < band["values"] <= size * steps for band in own.values())
