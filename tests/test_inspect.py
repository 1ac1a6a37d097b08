import dataclasses
import json
import sys

import numpy as np
import pytest
from absl import flags
from colearn_jax.datasets.folder.dummy import write_dummy
from colearn_jax.datasets.lfmc import dummy as lfmc

from colearn_jax import config, inspect, main
from colearn_jax.data.splits import Run
from colearn_jax.inspection import leakage, report
from colearn_jax.inspection.scan import Steps
from colearn_jax.types import InputError


@pytest.fixture(scope="module")
def own(tmp_path_factory):
  """A folder whose sample field9 (test) has the inputs of field6 (validation) and of field3 (training)."""
  path = tmp_path_factory.mktemp("own")
  written = write_dummy(path / "fields")
  soil = np.load(path / "fields/soil.npy")
  soil[9] = soil[6] = soil[3]
  np.save(path / "fields/soil.npy", np.concatenate([soil, soil[:, :1], np.full((12, 1), 7.0)], axis=1))
  for name in ("field6", "field9"):
    (path / f"fields/S1/{name}.npz").write_bytes((path / "fields/S1/field3.npz").read_bytes())
    (path / f"fields/photo/{name}.npy").unlink()
  settings = {"data.manual_dir": path / "fields", "data.data_dir": path / "data"}
  settings |= {"data.modalities": "S1,photo,soil"}
  (path / "fields/dataset.json").write_text('{"views": {"S1": {"units": "dB"}}}')
  return config.load("configs/folder.py:official", settings), path, written


def test_a_folder_is_shown_as_training_reads_it(own):
  settings, path, written = own
  shown = inspect.inspect(settings, ids=["field0", "field2", "field1"], json=str(path / "found.json"))
  assert "  b1 (dB): mean " in report.text(shown)
  found = json.loads((path / "found.json").read_text())
  assert found["task"] == {"kind": "binary", "outputs": ["maize", "wheat"], "unit": ""}
  assert found["targets"] == {"maize": 6, "wheat": 5} and found["labelled"] == 11
  assert found["modalities"]["photo"]["shape"] == [6, 5, 3]
  assert found["modalities"]["S1"]["units"] == {"b1": "dB", "b2": "dB"}
  assert found["modalities"]["photo"]["units"] == {}
  sample = found["samples"]["field0"]
  series = np.array(sample["inputs"]["S1"], float)  # None is NaN
  order = np.argsort(written["field0"]["days"])
  np.testing.assert_array_equal(series[-len(order) :], written["field0"]["S1"][order])
  assert np.isnan(series[: -len(order)]).all() and None in sample["inputs"]["S1"][0] * (len(order) < 6) + [
    None
  ]
  assert sample["inputs"]["photo"] == written["field0"]["photo"].tolist()
  assert (sample["target"], sample["label"]) == (0, "maize")
  assert found["samples"]["field2"]["present"] == {"S1": False, "photo": True, "soil": True}
  assert np.isnan(np.array(found["samples"]["field2"]["inputs"]["S1"], float)).all()
  assert found["samples"]["field1"]["target"] is None

  soil = found["modalities"]["soil"]
  values = np.load(path / "fields/soil.npy")[:, 1]
  band = soil["statistics"]["b2"]
  np.testing.assert_allclose(band["mean"], values.mean(), rtol=1e-6)
  np.testing.assert_allclose(band["deviation"], values.std(), rtol=1e-6)
  np.testing.assert_allclose([band["least"], band["greatest"]], [values.min(), values.max()], rtol=1e-6)
  assert soil["constant"] == ["b5"] and soil["equal_bands"] == [["b1", "b4"]] and band["missing"] == 0
  assert found["modalities"]["photo"]["absent"] == 4
  assert found["modalities"]["photo"]["statistics"]["b1"]["missing"] == pytest.approx(4 / 12)
  days = np.concatenate(
    [s["days"] for name, s in written.items() if name not in ("field2", "field6", "field9")]
  )
  iso = [str(np.datetime64(int(day), "D")) for day in (days.min(), days.max())]
  assert found["modalities"]["S1"]["days"] == {"S1": iso}


def test_steps_that_are_0_in_all_bands_are_counted(tmp_path):
  source, rng = tmp_path / "own", np.random.default_rng(0)
  series = rng.integers(1, 99, (6, 5, 3)).astype(np.uint16)
  series[0, :3], series[1, 4, :2] = 0, 0  # three whole steps, and two bands of a fourth
  source.mkdir()
  np.save(source / "S2.npy", series)
  np.save(source / "soil.npy", np.zeros((6, 2), np.float32) + np.arange(6)[:, None])  # 0 in both bands
  rows = [f"p{k},{'train validation test'.split()[k % 3]},{'ab'[k % 2]}" for k in range(6)]
  (source / "samples.csv").write_text("id,split,target\n" + "\n".join(rows))
  settings = {"data.manual_dir": source, "data.data_dir": tmp_path / "data", "data.modalities": "S2,soil"}
  shown = inspect.inspect(config.load("folder:official", settings))
  assert shown["modalities"]["S2"]["zeros"] == 3 / 30 and shown["modalities"]["soil"]["zeros"] == 0
  lines = report.text(shown).splitlines()
  assert "  0 in all bands: 10.0% of the steps; if these are missing, declare nodata" in lines


def test_equal_samples_and_straddling_groups_are_found(own):
  settings, *_ = own
  found = inspect.inspect(settings)
  assert found["samples"] == {} and found["equal_samples"]["number"] == 1
  parts = {"field3": "train", "field6": "validation", "field9": "test"}
  (one,) = found["equal_samples"]["listed"]
  assert one["parts"] == parts
  (run,) = found["runs"].values()
  assert run["leakage"]["equal"] == 1
  assert run["leakage"]["straddling"] == {"region": ["region0", "region1", "region2"]}
  assert run["parts"]["train"]["samples"] == 6 and run["parts"]["train"]["labelled"] == 5
  near = run["leakage"]["near_duplicates"]["S1"]
  assert (near["samples"], near["found"], near["same_group"]["region"]) == (4, 1, 1)


def test_a_wrong_id_lists_near_ones(own):
  with pytest.raises(InputError, match="^--ids: there is no sample 'feild10'; near it: field10, .*field1"):
    inspect.inspect(own[0], ids=["feild10"])


def test_plots_are_written_or_the_library_is_named(own, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'colearn_jax\[plot\]'"):
      inspect.inspect(own[0], plots=str(tmp_path / "none"))
  pytest.importorskip("matplotlib")
  inspect.inspect(own[0], plots=str(tmp_path / "plots"))
  files = {path.name for path in (tmp_path / "plots").iterdir() if path.stat().st_size > 5000}
  assert files == {
    *(f"histograms_{m}.png" for m in ("S1", "photo", "soil")),
    "series_S1.png",
    "tiles_photo.png",
  }


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
  """LFMC samples in which each odd row is the row before it, one month later at the same site."""
  path = tmp_path_factory.mktemp("lfmc")
  (path / "raw").mkdir()
  file = path / "raw/training_features.csv"
  lfmc.write_dummy(file, rows=20, sites=10)
  header, *rows = [line.split(",") for line in file.read_text().splitlines()]
  for i, row in enumerate(rows):
    row[header.index("site")] = f"Site {i // 2}"
    for k, name in enumerate(header):
      later = {"(t-3)": "(t-2)", "(t-2)": "(t-1)", "(t-1)": "(t)"}.get(name[name.find("(") :])
      if i % 2 and later and name.replace(name[name.find("(") :], later) in header:
        row[k] = rows[i - 1][header.index(name.replace(name[name.find("(") :], later))]
  file.write_text("\n".join(map(",".join, [header, *rows])))
  return {"data.manual_dir": path / "raw", "data.data_dir": path / "data", "protocol.folds": 5}, path


def test_shifted_series_are_counted_on_plain_folds_and_not_by_site(sites):
  settings, path = sites
  plain = inspect.inspect(config.load("lfmc", settings), plots=None)
  by_site = inspect.inspect(config.load("lfmc:clean", settings))
  pair = np.arange(20) // 2
  runs = _runs(config.load("lfmc", settings))
  expected = sum(np.isin(pair[run.test], pair[run.train]).sum() for run in runs)
  for sensor in ("S1_S1Ind", "S2_S2Ind"):
    assert expected > 10
    want = {"samples": 20, "found": expected, "same_group": {"site": expected}}
    assert plain["near_duplicates"][sensor] == want
    assert by_site["near_duplicates"][sensor] == {"samples": 20, "found": 0, "same_group": {"site": 0}}
  assert all(not run["leakage"]["straddling"]["site"] for run in by_site["runs"].values())
  assert plain["dates"] and plain["coordinates"]


def _runs(settings):
  from colearn_jax.data.dataset import open_dataset
  from colearn_jax.data.reader import read_index
  from colearn_jax.training import setup

  dataset = open_dataset(setup.prepare(settings))
  return setup.make_runs(settings, dataset, read_index(dataset))


def test_windows_match_nearly_with_the_same_gaps_and_not_by_chance():
  rng = np.random.default_rng(0)
  sketch = rng.normal(size=(6, 5, 4)).astype(np.float32)
  seen = np.full((6, 5), 9, np.uint32)
  sketch[1, 2:] = sketch[0, :3] + 2e-5  # two steps later, nearly
  sketch[2] = sketch[0] + 1e-2  # too far
  sketch[3], seen[3, 1] = sketch[0], 7  # with another gap
  sketch[4, 4:] = sketch[0, :1]  # four steps later
  steps, train = Steps(sketch, seen, values=4), np.array([0])
  near = lambda steps, groups=None: leakage.near_duplicates(steps, train, np.arange(1, 6), groups).tolist()
  assert near(steps) == [True, False, False, True, False]
  assert near(steps, np.array(list("abacdd"))) == [False] * 5
  assert near(steps, np.array(list("aabcdd"))) == [True] + [False] * 4
  assert near(dataclasses.replace(steps, sketch=sketch[:, ::-1], seen=seen[:, ::-1]))[0]
  few = dataclasses.replace(steps, values=0)
  assert near(few) == [False] * 5
  nothing = dataclasses.replace(steps, seen=np.zeros_like(seen))
  assert near(nothing) == [False] * 5


def test_distances_to_training_samples_are_summed_up_over_runs():
  dates = np.array(["2020-01-01", "2020-01-31", "2020-03-01", "", "2021-01-01"], "datetime64[D]")
  places = np.array([[40.0, 10.0], [40.0, 10.0], [41.0, 10.0], [41.0, 10.0], [np.nan, np.nan]])
  runs = [
    Run(0, k, train=np.setdiff1d(np.arange(5), test), validation=test, test=test)
    for k, test in enumerate([np.array([0, 2]), np.array([3, 4])])
  ]
  found = leakage.of_runs({}, {}, np.zeros(5, np.uint64), {}, runs, dates=dates, places=places)
  assert found["nearest"]["days"] == {"samples": 4, "found": 3, "least": 30.0, "median": 30.0}
  assert found["nearest"]["days at the same place"] == {
    "samples": 4,
    "found": 1,
    "least": 30.0,
    "median": 30.0,
  }
  assert found["nearest"]["km"] == {"samples": 4, "found": 3, "least": 0.0, "median": 0.0}
  assert found["runs"]["seed0_fold1"]["nearest"]["days"]["least"] == 306.0


def test_equal_samples_in_one_part_are_not_listed():
  digests = np.array([5, 5, 8, 0, 0], np.uint64)
  run = Run(0, 0, train=np.array([0, 1, 3]), validation=np.array([2]), test=np.array([4]))
  assert leakage.equal_samples(digests, [run]) == []
  other = Run(0, 0, train=np.array([0, 3]), validation=np.array([1]), test=np.array([4, 2]))
  assert [rows.tolist() for rows in leakage.equal_samples(digests, [run, other])] == [[0, 1]]


def test_the_command_prints_the_report(own, tmp_path, capsys):
  values = flags.FlagValues()
  inspect.define(values)
  data = own[0].data
  words = [f"--config.data.{key}={getattr(data, key)}" for key in ("manual_dir", "data_dir")]
  words += ["--config=folder:official", "--config.data.modalities=S1,soil", "--ids=field0,field4"]
  command = main.parse(["inspect", *words, f"--json={tmp_path}/x.json"], values)
  inspect.main(command)
  out = capsys.readouterr().out
  assert "folder: 12 samples, 11 with a label" in out and "the same values: b1, b4" in out
  assert set(json.loads((tmp_path / "x.json").read_text())["samples"]) == {"field0", "field4"}
