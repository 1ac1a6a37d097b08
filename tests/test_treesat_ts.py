"""TreeSatAI-TS from its publishers' files to scores, with the main command's own functions."""

import csv
import json

import jax
import numpy as np
import pytest
from colearn_jax.datasets import build
from colearn_jax.datasets.treesat_ts.dummy import STEPS, random_names, write_dummy

from colearn_jax import config
from colearn_jax.data import fixed_length, stream
from colearn_jax.data import reader as readers
from colearn_jax.data.dataset import open_dataset
from colearn_jax.deploy.load import load_model
from colearn_jax.parallel import sharding
from colearn_jax.storage.files import read_json
from colearn_jax.training import log
from colearn_jax.training.epoch import batched
from colearn_jax.training.run import run
from colearn_jax.types import InputError

pytest.importorskip("h5py")
pytest.importorskip("rasterio")

HALF = {"offset": [1], "scale": 2}
TINY = {"model_type": "mlp", "layer_sizes": (4,)}
SMALL = {
  "data.placement": "stream",
  "data.lengths": {"S2": 20},
  "data.normalisation": "minmax",
  "model.emb_dim": 8,
  "model.encoders": {"S2_S2mask": TINY, "aerial": TINY},
  "train.batch_size": 8,
  "train.max_epochs": 2,
  "augment.flip": True,
  "augment.quarter_turns": True,
  "augment.crop": 0.8,
  "augment.time_shift": 1,
  "augment.time_dropout": 0.1,
  "augment.noise": 0.1,
}


@pytest.fixture(autouse=True, scope="module")
def one_device():
  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    yield one


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Files of realistic lengths in the publishers' layout, and where they get prepared."""
  manual, prepared = tmp_path_factory.mktemp("manual") / "files", tmp_path_factory.mktemp("prepared")
  splits, labels = random_names({"train": 20, "val": 6, "test": 7})
  write_dummy(manual, splits, labels, steps={**STEPS, "S2": (10, 40)})
  return {"data.manual_dir": str(manual), "data.data_dir": str(prepared)}


@pytest.mark.long
def test_from_files_to_scores(folders, tmp_path, monkeypatch):
  """Built, streamed, stopped after an epoch, taken up again, scored, and used."""
  settings = config.load("configs/treesat_ts.py", {**SMALL, **folders})
  write, calls = log.Log.write, []

  def stop(self, *args):
    calls.append(args)
    if len(calls) == 2:
      raise RuntimeError("stopped")
    return write(self, *args)

  monkeypatch.setattr(log.Log, "write", stop)
  with pytest.raises(RuntimeError, match="stopped"):
    run(settings, tmp_path)
  summary = run(settings, tmp_path)
  assert [args[1] for args in calls] == [1, 2, 2]
  assert (summary.dataset, summary.task, summary.split) == ("treesat_ts", "multilabel", "official")
  for m in ("S2_S2mask", "aerial"):
    scores = summary.scores.modalities[m]
    assert 0 <= scores["f1_micro"]["mean"] <= 1 and 0 <= scores["f1_macro"]["mean"] <= 1
    rows = list(csv.DictReader((tmp_path / "predictions" / f"{m}.csv").read_text().splitlines()))
    listed = [name.removesuffix(".tif") for name in listed_for_test(folders)]
    assert [row["id"] for row in rows] == listed
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [line["epoch"] for line in lines] == [1, 2]
  assert np.isfinite([line["validation/contrastive/S2_S2mask__aerial"] for line in lines]).all()

  # What was configured describes what the predictor reads; a user's series gets there with the same function.
  model = load_model(tmp_path, "S2_S2mask")
  assert model.modality.shape == (20, 6, 6, 12) and model.bands[-2:] == ("snow", "cloud")
  dataset = open_dataset(f"{folders['data.data_dir']}/treesat_ts/2.0.0")
  row = int(dataset.parts["test"][0])
  sample = readers.Source(dataset, {"views": {"S2": None, "S2mask": None}})[row]["views"]
  own = [fixed_length.pad(sample["S2"], 20), fixed_length.pad(sample["S2mask"], 20, fill=0.0)]
  got = model.predict(np.concatenate(own, -1)[None], batch_size=4)[0]
  expected = results_of(tmp_path, "S2_S2mask", listed[0])
  np.testing.assert_allclose(got, expected, rtol=1e-4)
  assert read_json(tmp_path / "dataset.json")["modalities"][1]["shape"] == [304, 304, 4]


def listed_for_test(folders):
  with open(f"{folders['data.manual_dir']}/split/test_filenames.lst") as file:
    return file.read().split()


def results_of(workdir, modality, name):
  rows = csv.DictReader((workdir / "predictions" / f"{modality}.csv").read_text().splitlines())
  row = next(row for row in rows if row["id"] == name)
  return [float(v) for k, v in row.items() if k.startswith("probability")]


@pytest.mark.long
def test_processes_read_what_threads_read(folders, one_device):
  path = build.build("treesat_ts", folders["data.data_dir"], manual_dir=folders["data.manual_dir"])
  dataset = open_dataset(path, fixed_length.Settings("month", masked_above={"cloud": 50}))
  reader = readers.make_reader(dataset, [dataset.modality("S2_S2mask"), dataset.modality("S1asc_S1des")])
  labels, rows = readers.labels(readers.read_index(dataset)), dataset.parts["train"]
  place = sharding.by_example(one_device)
  words = np.array([1, 2], np.uint32)
  order = stream.Order(words, batched(rows, 8))
  iterators = [iter(stream.train_batches(reader, labels, order, sharding=place, workers=n)) for n in (0, 2)]
  for _ in range(4):
    one, other = map(next, iterators)
    jax.tree.map(np.testing.assert_array_equal, one, other)
  for iterator in iterators:
    iterator.close()


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"data.lengths": {"aerial": 4}}, "data.lengths: 'aerial' is not allowed; a view with series"),
    ({"data.lengths": {"S2": 0}}, "data.lengths: {'S2': 0} is not allowed; steps by view"),
    ({"data.masked_above": {"fog": 4}}, "data.masked_above: 'fog' is not allowed; .*: snow, cloud"),
    (
      {"data.modalities": "S1asc_S1des,aerial"},
      "S1asc_S1des cannot join views that differ before the last axis",
    ),
    (
      {"data.normalisation": "fixed"},
      "data.fixed: {} is not allowed; .* an offset and a scale of S2 are needed",
    ),
    (
      {"data.normalisation": "fixed", "data.modalities": "S1asc", "data.fixed": {"S1asc": HALF}},
      r"data.fixed.S1asc.offset: \[1\] is not allowed; a number, or one for each of: VV, VH",
    ),
    (
      {"data.fixed": {"S2": {"offset": 1, "scale": [1, 0]}}},
      "data.fixed: .* a scale other than 0 by view",
    ),
    ({"augment.crop": 0}, "augment.crop: 0.0 is not allowed; a finite number > 0 and <= 1"),
  ],
)
def test_settings_that_do_not_fit(changes, told):
  names = changes.get("data.modalities", "S2_S2mask,aerial").split(",")
  with pytest.raises(InputError, match=told):
    config.load("configs/treesat_ts.py", {"model.encoders": dict.fromkeys(names, TINY)} | changes)


@pytest.mark.parametrize("word", ["", ":individual", ":released,clean"])
def test_words(word):
  settings = config.load(f"configs/treesat_ts.py{word}")
  assert settings.model.encoders.to_dict() == {"aerial": {"model_type": "resnet", "depth": 50}}
  assert (settings.loss.get("variant") == "released") == ("released" in word)
  assert (settings.method == "individual") == ("individual" in word)
  assert settings.protocol.name == ("clean" if "clean" in word else "paper")
  assert settings.train.batch_size == 128
