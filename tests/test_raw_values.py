"""Values as people have them: what `Model.predict` makes of them is what a training reads from a data set."""

import csv
import functools
import json

import jax
import numpy as np
import pytest
from colearn_jax.datasets import build

from colearn_jax import config, load_model
from colearn_jax import predict as command
from colearn_jax.data import reader as readers
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.fixed_length import Settings
from colearn_jax.data.modality import View
from colearn_jax.deploy.export import export_sensor
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.pixels import Pixels
from colearn_jax.deploy.raw import Raw
from colearn_jax.parallel import sharding
from colearn_jax.training import run as train
from colearn_jax.types import InputError, Modality, Task

N, START, NAN = 24, np.datetime64("2018-11-20"), np.nan
ABSENT = 5  # lacks S1 and S2; the sample after it lacks S1
BANDS = {"S1": ("vv", "vh"), "S2": ("red", "nir", "swir"), "S2mask": ("snow", "cloud"), "W": ("rain", "heat")}
UNITS = {"S1": "dB", "W": ["mm", "K"]}


@functools.cache
def odd():
  """Series of each sample: values by view, and days since START in no order; W has no dates."""
  rng, out = np.random.default_rng(0), []
  for i in range(N):
    steps = (1, 2, 5, 7, 9)[i % 5]
    days = rng.integers(0, 500, steps)
    days[-1] = days[0]  # repeated
    own = {v: rng.normal(size=(steps, len(BANDS[v]))).astype(np.float32) for v in ("S1", "S2")}
    own |= {"S2mask": rng.integers(0, 101, (steps, 2)), "W": rng.normal(size=(4, 2)).astype(np.float32)}
    if i % 4 == 1:
      own["S2"][0, 0], own["S2"][-1, 1], own["S1"][-1, 1], own["W"][1] = np.inf, -np.inf, NAN, NAN
    if i % 4 == 2:
      own["S2"][steps // 2], own["S2mask"][:, 1] = NAN, 0
    if i == 7:
      own["S2mask"][:] = 100  # all of it is hidden
    if i == 11:
      own["S2"] = (own["S2"] * 1e4).astype(np.float32)  # other units
    out.append((own, days))
  return out


def lacks(i, view):
  return i == ABSENT and view != "W" or i == ABSENT + 1 and view == "S1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The samples as a folder of files."""
  there = tmp_path_factory.mktemp("raw") / "fields"
  for i, (own, days) in enumerate(odd()):
    for view, values in own.items():
      (there / view).mkdir(parents=True, exist_ok=True)
      arrays = {"values": values} | ({"dates": START + days} if view != "W" else {})
      if not lacks(i, view):
        np.savez(there / view / f"s{i}.npz", **arrays)
  split = ["train"] * 12 + ["validation"] * 4 + ["test"] * 8
  split[ABSENT], split[ABSENT + 1], split[7], split[17] = ["test"] * 3 + ["train"]
  rows = [[f"s{i}", ("oak", "pine")[i % 2], split[i], DATE[i]] for i in range(N)]
  with open(there / "samples.csv", "w", newline="") as file:
    csv.writer(file).writerows([["id", "target", "split", "date"], *rows])
  views = {v: {"bands": bands} | ({"units": UNITS[v]} if v in UNITS else {}) for v, bands in BANDS.items()}
  views["S2"]["mask"], views["W"]["steps"] = "S2mask", "30 days"
  (there / "dataset.json").write_text(json.dumps({"views": views}))
  return there


DATE = ["" if i == 3 else str(np.datetime64("2019-03-05") + np.timedelta64(11 * i, "D")) for i in range(N)]


@pytest.fixture(scope="module")
def prepared(folder):
  return build.build("folder", folder.parent / "data", manual_dir=folder)


def given(name, i):
  """The values of a sample, views joined, as a user has them; None if it lacks all of them."""
  own = odd()[i][0]
  parts = [np.full_like(own[v], NAN) if lacks(i, v) else own[v] for v in name.split("_")]
  return None if all(lacks(i, v) for v in name.split("_")) else np.concatenate(parts, -1)


CASES = {
  "last steps": ("S2", {"method": "pad"}, False),
  "fewer steps": ("S2", {"method": "pad", "lengths": {"S2": 3}}, False),
  "more steps": ("S2", {"method": "pad", "lengths": {"S2": 12}}, False),
  "masks": ("S2", {"method": "pad", "masked_above": {"cloud": 40, "snow": 90}}, False),
  "months": ("S2", {"method": "month"}, False),
  "months and masks": ("S2", {"method": "month", "masked_above": {"cloud": 40}}, False),
  "joined": ("S1_S2", {"method": "pad"}, False),
  "joined months": ("S2_S1", {"method": "month", "masked_above": {"cloud": 40}}, False),
  "the encoder reads months": ("S2", {"method": "pad", "masked_above": {"cloud": 40}}, True),
  "it reads those of means": ("S1_S2", {"method": "month"}, True),
  "steps by rule": ("W", {"method": "pad"}, False),
  "months by rule": ("W", {"method": "pad"}, True),
  "the last steps by rule": ("W", {"method": "pad", "lengths": {"W": 3}}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_values_become_what_training_reads(prepared, case):
  name, settings, months = CASES[case]
  dataset = open_dataset(prepared, Settings(modalities=(name,), **settings))
  modality = dataset.modality(name, months=months)
  reader, index = readers.make_reader(dataset, [modality]), readers.read_index(dataset)
  rows = [list(index.ids).index(f"s{i}") for i in range(N)]
  read = [reader(row) for row in rows]
  want = np.stack([one["inputs"][name] for one in read])
  views = {
    view: View.from_json(json.loads(json.dumps(own.to_json())))
    for view, own in dataset.stored([modality]).items()
  }
  raw = Raw(modality, views)
  dates = [START + days for _, days in odd()]
  how = {"dates": dates} if name != "W" else {}
  how |= {"date": DATE} if raw.needs_date else {}
  masks = {band: [own["S2mask"][:, k] for own, _ in odd()] for k, band in enumerate(BANDS["S2mask"])}
  how |= {"masks": {band: masks[band] for band in raw.masks}}
  got = raw([given(name, i) for i in range(N)], **how)
  assert got.dtype == np.float32 and got.shape == want.shape
  np.testing.assert_array_equal(np.where(np.isfinite(want), want, NAN), got)
  absent = np.array([one["present"][name] == 0 for one in read])
  np.testing.assert_array_equal(np.isnan(got).all((1, 2)), absent)
  assert (name == "W") != absent[ABSENT]
  # Other bands beside them, in another order; masks among them; dates as texts.
  names = [*raw.bands[::-1], "qa", *raw.masks]
  wide = []
  for i in range(N):
    x = given(name, i)
    hiding = [masks[band][i] for band in raw.masks]
    wide.append(None if x is None else np.column_stack([x[:, ::-1], np.ones(len(x)), *hiding]))
  how = {k: v for k, v in how.items() if k != "masks"} | {"bands": names}
  how |= {"dates": [one.astype(str).tolist() for one in dates]} if name != "W" else {}
  np.testing.assert_array_equal(raw(wide, **how), got)
  if not months and name != "W":  # scenes are prepared all at once; without an order of their own
    model = Model(None, {}, modality, Task("binary", ("a", "b")), views=views)
    for i in (2, 4, 9):
      order = np.argsort(dates[i], kind="stable")
      scene = np.concatenate([given(name, i), *(masks[b][i][:, None] for b in raw.masks)], -1)[order]
      scene = np.where(np.isfinite(scene), scene, NAN).astype(np.float32)[:, None]
      days = dates[i][order].astype(int)
      np.testing.assert_allclose(Pixels(model).prepare(scene, days)[0], got[i], rtol=1e-6)


def test_what_may_be_left_out_and_what_not(prepared):
  dataset = open_dataset(prepared, Settings("month", masked_above={"cloud": 40}, modalities=("S2",)))
  modality = dataset.modality("S2")
  raw, x = Raw(modality, dataset.stored([modality])), np.ones((2, 3, 3))
  dates, clear = START + np.arange(3), {"cloud": np.zeros((2, 3))}
  want = raw(x, dates=dates, masks=clear)
  np.testing.assert_array_equal(raw(x, dates=[dates, dates], masks={"cloud": clear["cloud"] > 1}), want)
  hidden = raw(x, dates=dates, masks={"cloud": np.ones((2, 3), bool)})  # true is 100 %
  assert np.isnan(hidden).all() and not np.isnan(want).all()
  assert raw(np.ones((0, 3, 3)), dates=dates).shape == raw([], dates=[]).shape == (0, 12, 3)
  assert np.isnan(raw([None, None], dates=[None, None], masks={"cloud": [None, None]})).all()
  for how, message in (
    ({"masks": clear}, "model of S2 needs `dates`"),
    ({"dates": dates}, "needs `masks` with cloud"),
    ({"dates": dates[:2], "masks": clear}, "sample 0 has 3 steps and 2 dates"),
    ({"dates": [dates], "masks": clear}, "dates: 1 samples have some, the values have 2"),
    ({"dates": ["2018", "2019", "2020"], "masks": clear}, "dates: its dates are no days"),
    ({"dates": dates, "masks": clear | {"fog": 1}}, "does not use fog; it uses: cloud"),
    ({"dates": dates, "masks": {"cloud": np.ones((2, 4))}}, r"cloud of sample 0 has shape \(4,\)"),
    ({"dates": dates, "masks": {"cloud": np.ones((1, 3))}}, "cloud has 1 samples, the values 2"),
    ({"dates": dates, "masks": clear, "date": "2018-01-01"}, "cannot use `date`"),
    ({"dates": dates, "masks": clear, "bands": ["red", "b", "swir"]}, "the model needs nir as well; given"),
    ({"dates": dates, "masks": clear, "bands": ["red", "red", "nir", "swir"]}, "bands: red is there twice"),
    (
      {"dates": dates, "masks": clear, "bands": ["swir", "red", "nir", "x"]},
      r"shape \(any, 4\), got \(3, 3\) in sample 0",
    ),
  ):
    with pytest.raises(InputError, match=message) as error:
      raw(x, **how)
    assert "\n" not in str(error.value)
  modality = dataset.modality("W", months=True)
  raw = Raw(modality, dataset.stored([modality]))
  with pytest.raises(InputError, match="cannot use `dates`"):
    raw(np.ones((1, 4, 2)), dates=dates)
  with pytest.raises(InputError, match="needs `date`, the day of each sample"):
    raw(np.ones((1, 4, 2)))
  with pytest.raises(InputError, match=r"shape \(4, 2\), got \(3, 2\)"):
    raw(np.ones((1, 3, 2)), date="2018-01-01")
  with pytest.raises(InputError, match=r"got \(4, 3\) in sample 0; months follow from the dates"):
    raw(np.ones((1, 4, 3)), date="2018-01-01")


def test_a_model_that_does_not_know_its_series():
  model = Model(lambda w, x: x[:, 0], {"a": {}}, Modality("S2", ("S2",), (2, 2), ("red", "nir")), TASK)
  x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
  want = model.predict(x)
  np.testing.assert_array_equal(model.predict(x[..., ::-1], bands=["nir", "red"]), want)
  np.testing.assert_array_equal(model.predict(x, prepared=True), want)
  with pytest.raises(InputError, match="dates cannot be used: it is not known"):
    model.predict(x, dates=["2018-01-01", "2018-01-02"])
  with pytest.raises(InputError, match="bands cannot be used: `prepared` values"):
    model.predict(x, bands=["red", "nir"], prepared=True)


TASK = Task("binary", ("oak", "pine"))


@pytest.fixture(scope="module")
def trained(folder):
  """A finished training of one epoch; its predictions of the test part, by sample."""
  root = folder.parent
  settings = {"data.manual_dir": folder, "data.data_dir": root / "data", "data.modalities": "S2_S1"}
  settings |= {"data.series": "month", "data.masked_above": {"cloud": 40}, "model.emb_dim": 4}
  settings |= {"train.batch_size": 4, "train.max_epochs": 1, "model.encoder.layer_sizes": (4,)}
  with pytest.MonkeyPatch.context() as patch:  # one device: compiling for eight takes longer
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    train.run(config.load("configs/folder.py:official,individual,encoder=mlp", settings), root / "run")
  with open(root / "run/predictions/S2_S1.csv", newline="") as file:
    cells = {
      row["id"]: [float(row[f"probability_{c}"] or "nan") for c in TASK.outputs]
      for row in csv.DictReader(file)
    }
  return root, cells


def test_training_export_and_commands_predict_the_same(trained, tmp_path):
  root, cells = trained
  ids = [int(name[1:]) for name in cells]
  want = np.array(list(cells.values()))
  x = [given("S2_S1", i) for i in ids]
  dates = [START + odd()[i][1] for i in ids]
  cloud = [odd()[i][0]["S2mask"][:, 1] for i in ids]
  exported = load_model(export_sensor(root / "run", "S2_S1", tmp_path / "model"))
  for model in (load_model(root / "run", "S2_S1"), exported):
    np.testing.assert_allclose(model.predict(x, dates=dates, masks={"cloud": cloud}), want, atol=1e-6)
    found = model.estimate(x, dates=dates, masks={"cloud": cloud}).value
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert model.modality.units == ("", "", "", "dB", "dB")
  empty = {ids.index(ABSENT), ids.index(7)} - {ids.index(7)}  # of sample 7 Sentinel-1 is seen
  assert set(np.flatnonzero(np.isnan(want).any(1))) == empty
  ready = exported._raw(x, dates=dates, masks={"cloud": cloud})
  np.testing.assert_allclose(exported.predict(ready, prepared=True), want, atol=1e-6)
  # A file with a list for each sample.
  pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
  lists = {b: [None if v is None else v[:, k].tolist() for v in x] for k, b in enumerate(exported.bands)}
  lists |= {"cloud": [None if v is None else c.tolist() for v, c in zip(x, cloud)]}
  columns = {"id": list(cells)} | lists | {"dates": [d.astype(str).tolist() for d in dates]}
  parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
  line = [f"--model={tmp_path / 'model'}", f"--input={tmp_path / 'a.parquet'}"]
  command.main([*line, f"--out={tmp_path / 'out.csv'}"])
  with open(tmp_path / "out.csv", newline="") as file:
    found = [[float(row[f"probability_{c}"] or "nan") for c in TASK.outputs] for row in csv.DictReader(file)]
  np.testing.assert_allclose(found, want, atol=1e-6)
