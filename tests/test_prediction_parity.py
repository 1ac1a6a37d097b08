"""A training, the model of its work directory and the exported model predict the same from equal values."""

import csv

import jax
import numpy as np
import pytest

from colearn_jax import config, load_model
from colearn_jax.data import context
from colearn_jax.data import reader as readers
from colearn_jax.data.dataset import open_dataset
from colearn_jax.deploy.export import export_sensor
from colearn_jax.parallel import sharding
from colearn_jax.storage import models
from colearn_jax.training import run as train
from colearn_jax.training import setup

CONFIG = "configs/folder.py:official,individual"
SPLIT = ["train"] * 12 + ["validation"] * 4 + ["test"] * 9
TEST = slice(16, 25)
WITHOUT_Q = (18, 19)  # samples without the view of integers
DAYS = [str(np.datetime64("2019-01-05") + np.timedelta64(13 * i, "D")) for i in range(24)] + [""]
LARGE = float(np.finfo(np.float32).max)


def values():
  """The values of each view, `[N ...]`; those of the test part are odd. Q has integers."""
  rng = np.random.default_rng(0)
  x = {name: rng.normal(size=(25, *shape)).astype(np.float32) for name, shape in (("A", (4, 3)), ("P", (2,)))}
  x["Q"] = rng.integers(0, 200, (25, 3)).astype(np.uint8)
  a, p = x["A"][TEST], x["P"][TEST]
  a[1, 0, 1] = a[1, 3, 2] = p[1, 0] = np.nan
  a[2] = p[2] = np.nan  # absent: of P_Q both views are
  a[3, 1] = np.nan  # an absent step
  a[4, 2, 0] = p[4, 1] = np.inf
  a[5, 0, 2] = p[5, 0] = -np.inf
  a[6, 1, 1], p[6, 0] = LARGE, -LARGE
  a[7], p[7] = 1e6, np.nan  # P is absent, Q is not
  return x


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A finished training whose test part has odd values: its work directory and its settings.

  Builders refuse odd values or make them missing, so they replace those that are read.
  """
  root, x = tmp_path_factory.mktemp("parity"), values()
  rows = [["id", "target", "split", "date"]]
  rows += [[f"s{i}", ("oak", "pine")[i % 2], split, DAYS[i]] for i, split in enumerate(SPLIT)]
  for view in x:
    (root / "fields" / view).mkdir(parents=True)
    for i, own in enumerate(x[view]):
      if not (view == "Q" and i in WITHOUT_Q):
        np.save(root / f"fields/{view}/s{i}.npy", np.ones_like(own) if i in range(25)[TEST] else own)
  with open(root / "fields/samples.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  settings = {"data.manual_dir": root / "fields", "data.data_dir": root / "data", "data.modalities": "A,P_Q"}
  settings |= {"data.context": "date,time", "model.emb_dim": 4, "train.batch_size": 8, "train.max_epochs": 1}
  settings |= {
    "model.encoders": {
      "A": {"model_type": "gru", "layer_size": 4},  # without batch statistics
      "P_Q": {"model_type": "mlp", "layer_sizes": (4,)},  # with them
    }
  }
  original = readers.Source.__getitem__

  def odd(self, row):
    sample = original(self, row)
    own = int(sample["id"].decode()[1:])
    sample["views"] |= {view: x[view][own] for view in sample["views"] if view != "Q" or own not in WITHOUT_Q}
    return sample

  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    patch.setattr(readers.Source, "__getitem__", odd)
    train.run(config.load(CONFIG, settings), root / "run")
    yield root / "run", settings


@pytest.fixture(scope="module")
def written(trained):
  """What the training wrote for its test part, `[N C]` by sensor."""
  out = {}
  for sensor in ("A", "P_Q"):
    with open(trained[0] / f"predictions/{sensor}.csv") as file:
      rows = {row["id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 9
    cells = [[rows[f"s{i}"][f"probability_{c}"] for c in ("oak", "pine")] for i in range(25)[TEST]]
    out[sensor] = np.array([[float(cell or "nan") for cell in row] for row in cells])
  return out


@pytest.fixture(scope="module")
def loaded(trained, tmp_path_factory):
  """The models of each sensor, from the work directory and from an exported folder."""
  out = tmp_path_factory.mktemp("exported")
  return {
    sensor: (load_model(trained[0], sensor), load_model(export_sensor(trained[0], sensor, out / sensor)))
    for sensor in ("A", "P_Q")
  }


def given(sensor):
  """The values of the test part of one sensor, as a user has them."""
  x = values()
  if sensor == "A":
    return x["A"][TEST]
  integers = x["Q"].astype(np.float32)
  integers[list(WITHOUT_Q)] = np.nan
  return np.concatenate([x["P"], integers], axis=-1)[TEST]


KINDS = {
  "float32": lambda x: x,
  "float64": lambda x: x.astype(np.float64),
  "masked": lambda x: np.ma.masked_array(np.where(np.isnan(x), np.float32(7), x), np.isnan(x)),
  "list of masked": lambda x: list(KINDS["masked"](x)),
}


@pytest.mark.long
@pytest.mark.parametrize("sensor", ["A", "P_Q"])
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_agree(written, loaded, sensor, kind):
  x = KINDS[kind](given(sensor))
  columns = ("date_sin", "date_cos", "time_years")
  dates = context.encode(columns, dates=DAYS[TEST])
  for model in loaded[sensor]:
    assert model.context == columns
    np.testing.assert_allclose(model.predict(x, dates), written[sensor], rtol=0, atol=1e-6)


def test_samples_read_from_disk_agree(trained, written):
  workdir, settings = trained
  settings = config.load(CONFIG, settings | {"data.placement": "stream"})
  dataset = open_dataset(setup.prepare(settings))
  modalities, index = setup.make_modalities(settings, dataset), readers.read_index(dataset)
  recipe = setup.make_recipe(settings, dataset.task, modalities)
  samples = setup.make_samples(settings, recipe, dataset, modalities, index)
  rows = [list(index.ids).index(f"s{i}") for i in range(25)[TEST]]
  got = samples.predict(models.restore(workdir / "checkpoints/seed10_fold0"), np.array(rows))
  (named,) = got.values()
  for sensor, want in written.items():
    np.testing.assert_allclose(named[sensor], want, rtol=0, atol=1e-6)


def test_absent_samples_have_no_prediction(written):
  """An infinite value is missing, as in builders. Only a number that is too large for float32 gives none."""
  none = {sensor: np.flatnonzero(np.isnan(y).any(1)).tolist() for sensor, y in written.items()}
  assert none == {"A": [2], "P_Q": [2, 6]}
