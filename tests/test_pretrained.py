"""Encoders that know bands in a whole training: months, places, weights, and what is kept of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from colearn_jax.datasets.lfmc.dummy import write_dummy
from flax import nnx

from colearn_jax import config, encoders, methods
from colearn_jax.data import reader as readers
from colearn_jax.data.dataset import context_modality, open_dataset
from colearn_jax.deploy.export import export_sensor
from colearn_jax.deploy.load import load_model
from colearn_jax.encoders.bands import DYNAMIC_WORLD, WORLD_CEREAL
from colearn_jax.encoders.galileo import Galileo
from colearn_jax.evaluation.results import Results
from colearn_jax.parallel import sharding
from colearn_jax.storage import models
from colearn_jax.storage.files import read_json
from colearn_jax.training import run, work_directory
from colearn_jax.training.optimizer import layer_decay, make_optimizer
from colearn_jax.types import InputError
from tests import galileo_files, small_methods
from tests.helpers import save_torch_file
from tests.presto_files import SIZES, architecture, state_dict


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(methods.METHODS) - {"isensd"}))  # which has one encoder for all
@pytest.mark.parametrize(
  "more",
  [{}, {"remat": True, "dtype": jnp.bfloat16}, {"encoder": "galileo"}],
  ids=["presto", "presto_remat_bf16", "galileo"],
)
def test_every_method_takes_it(name, more):
  method, a = small_methods.make(name), architecture(**more)
  inputs = {m: (jnp.ones((6, *shape)), jnp.ones((6, 5))) for m, shape in a.shapes.items()}

  def call(inputs):
    rngs = nnx.Rngs(dropout=1, sensors=2, method=3)
    model = method.build(a, rngs=nnx.Rngs(0))
    outputs = method.forward(model, inputs, small_methods.masks(), train=True, rngs=rngs)
    return method.predict(outputs)["prediction"]

  assert {y.shape for y in jax.eval_shape(call, inputs).values()} == {(6, 3)}


@pytest.mark.long
@pytest.mark.parametrize("backbones", ["one", "two"])
def test_one_backbone_has_members_as_two_have(backbones):
  method, a = small_methods.make("mdico", backbones=backbones), architecture(members=3)
  inputs = {m: (jnp.ones((6, *shape)), jnp.ones((6, 5))) for m, shape in a.shapes.items()}

  def call(inputs):
    model = method.build(a, rngs=nnx.Rngs(0))
    return method.forward(model, inputs, small_methods.masks(), train=True, rngs=nnx.Rngs(dropout=1))

  outputs = jax.eval_shape(call, inputs)
  assert {y.shape for y in outputs.shared.values()} == {(6, 3, 2)}
  assert {y.shape for y in outputs.prediction.values()} == {(6, 3, 3)}


def test_layers_learn_the_slower_the_deeper_they_are():
  depths = layer_decay(0.5, {"S1": 2})
  optimizer = make_optimizer("adam", learning_rate=1.0, max_epochs=1, rates={"unique": 0.1}, depths=depths)
  rate, at = optimizer.factor, "common/S1/backbone/"
  assert [rate(at + part) for part in ("blocks/1/dense/kernel", "blocks/0/dense/kernel")] == [0.5, 0.25]
  assert [rate(at + part) for part in ("norm/scale", "vectors", "embed/S1/kernel")] == [1, 0.125, 0.125]
  assert rate("common/S1/linear/kernel") == rate("common/S11/backbone/vectors") == 1
  assert rate("unique/S1/backbone/blocks/1/norm/scale") == 0.05


@pytest.fixture(scope="module")
def lfmc(tmp_path_factory):
  """A small file in LFMC's layout, weights of a small Presto, and one device."""
  root = tmp_path_factory.mktemp("lfmc")
  write_dummy(root / "training_features.csv", rows=48, sites=12)
  file = save_torch_file(root / "presto.pt", state_dict(blocks=1))
  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    yield {
      "data.manual_dir": str(root),
      "data.data_dir": str(root / "prepared"),
      "data.modalities": "S1,S2",
      "data.context": "date,location",
      "model.emb_dim": 8,
      "model.encoder.n_layers": 1,
      **{f"model.encoder.{name}": size for name, size in SIZES.items()},
      "model.encoders.S1.weights": str(file),
      "protocol.folds": 2,
      "train.batch_size": 16,
      "train.max_epochs": 2,
    }


def load(lfmc, **changes):
  return config.load("configs/lfmc.py:encoder=presto", {**lfmc, **changes})


@pytest.fixture(scope="module")
def finished(lfmc, tmp_path_factory):
  """A run with one backbone of each sensor, of which that of S1 is frozen."""
  workdir = tmp_path_factory.mktemp("run")
  changes = {"loss.backbones": "one", "train.rates": {"S1/backbone": 0}, "train.replicas": True}
  run.run(load(lfmc, **changes, **{"train.layer_decay": 0.5}), workdir)
  return workdir


@pytest.mark.long
def test_a_frozen_backbone_keeps_the_values_of_its_file(finished):
  params = models.restore(finished / "checkpoints/seed10_fold0")["params"]
  assert set(params["common"]["S1"]) == {"linear", "norm"}
  own, state = params["unique"]["S1"]["backbone"], state_dict(blocks=1)
  np.testing.assert_array_equal(own["embed"]["S1"]["kernel"].T, state["encoder.eo_patch_embed.S1.weight"])
  np.testing.assert_array_equal(own["vectors"], state["encoder.channel_embed.weight"][:1])
  other = models.restore(finished / "checkpoints/seed10_fold1")["params"]["unique"]["S2"]["backbone"]
  first = params["unique"]["S2"]["backbone"]
  assert set(first["embed"]) == {"S2_RGB", "S2_NIR_10m"}
  assert np.abs(first["embed"]["S2_RGB"]["kernel"] - other["embed"]["S2_RGB"]["kernel"]).max() > 0


@pytest.mark.long
def test_the_file_and_its_digest_are_kept(finished):
  kept = read_json(finished / "weights.json")
  assert list(kept) == ["S1"] and len(kept["S1"]["sha256"]) == 64
  assert Results.read(finished / "results.json").weights == kept
  assert load_model(finished, "S1").about["weights"] == kept["S1"]


@pytest.mark.long
def test_one_sensor_predicts_alike_from_the_run_and_from_its_export(lfmc, finished, tmp_path):
  dataset = open_dataset(f"{lfmc['data.data_dir']}/lfmc/2.1.0")
  modality = dataset.modality("S1", months=True)
  model = load_model(finished, "S1", runs=["seed10_fold1"])
  assert model.bands == ("vv", "vh", "month") and model.modality == modality
  constants = model.about["normalisation"]["seed10_fold1"]["S1"]
  assert constants == {"offset": [-25, -25, 0], "scale": [25, 25, 1]}

  context = context_modality(dataset, ("date", "location"))
  inputs = readers.read_table(readers.make_reader(dataset, [modality, context]))["inputs"]
  x, context = inputs["S1"], inputs["context"]
  got, index = model.predict(x, context, prepared=True), readers.read_index(dataset)
  ids = list(index.ids)
  np.testing.assert_array_equal(model.predict(x[..., :2], context, date=index.dates), got)
  head, *rows = [line.split(",") for line in (finished / "predictions/S1.csv").read_text().splitlines()]
  column = next(k for k, title in enumerate(head) if title.startswith("prediction"))
  rows = [row for row in rows if row[head.index("fold")] == "1"]
  assert len(rows) == 24
  for row in rows:
    value = got[ids.index(row[head.index("id")]), 0]
    np.testing.assert_allclose(value, float(row[column]), rtol=1e-4)

  exported = load_model(export_sensor(finished, "S1", tmp_path / "S1", runs=["seed10_fold1"]))
  assert exported.modality == modality
  np.testing.assert_allclose(exported.predict(x, context, prepared=True), got, rtol=1e-5)
  other = x.copy()
  other[..., -1] = (other[..., -1] + 6) % 12
  assert np.abs(exported.predict(other, context, prepared=True) - got).max() > 0
  other[0, :, :2] = np.nan  # without values the sensor is absent, whatever the months are
  assert np.isnan(exported.predict(other, context, prepared=True)[0]).all()


@pytest.mark.long
def test_galileo_trains_and_its_export_predicts_alike(lfmc, tmp_path):
  state = galileo_files.state_dict()
  file = save_torch_file(tmp_path / "encoder.pt", state)
  own = {"model_type": "galileo", **galileo_files.SIZES, "n_layers": 1, "weights": str(file)}
  settings = {k: v for k, v in lfmc.items() if not k.startswith("model.enc")} | {
    "model.encoders.S1": own,
    "train.rates": {"S1/backbone": 0},
    "train.max_epochs": 1,
    "data.modalities": "S1",
  }
  run.run(config.load("configs/lfmc.py:individual,encoder=mlp", settings), tmp_path / "run")
  params = models.restore(tmp_path / "run/checkpoints/seed10_fold0")["params"]["encoders"]["S1"]["backbone"]
  assert set(params["embed"]) == {"S1", "location"}
  kernel = state["space_time_embed.S1.proj.weight"].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(params["embed"]["S1"]["kernel"], kernel)

  dataset = open_dataset(f"{lfmc['data.data_dir']}/lfmc/2.1.0")
  parts = [dataset.modality("S1", months=True), context_modality(dataset, ("date", "location"))]
  inputs = readers.read_table(readers.make_reader(dataset, parts))["inputs"]
  x, context = inputs["S1"], inputs["context"]
  expected = load_model(tmp_path / "run", "S1", runs=["seed10_fold0"]).predict(x, context, prepared=True)
  exported = load_model(export_sensor(tmp_path / "run", "S1", tmp_path / "S1", runs=["seed10_fold0"]))
  assert np.isfinite(expected).all()
  np.testing.assert_allclose(exported.predict(x, context, prepared=True), expected, rtol=1e-5)
  x[..., -1] = (x[..., -1] + 6) % 12
  assert np.abs(exported.predict(x, context, prepared=True) - expected).max() > 0


@pytest.mark.long
def test_climate_lights_and_land_cover_of_a_folder(lfmc, tmp_path):
  """Galileo's bands by name and unit: values in other units give the same normalised ones."""
  rng, rows, own = np.random.default_rng(0), 24, tmp_path / "own"
  own.mkdir()
  lines = [f"s{i},{'ab'[i % 2]},{40 + i / 10},{-120 + i / 10}" for i in range(rows)]
  (own / "samples.csv").write_text("\n".join(["id,target,lat,lon", *lines]))
  climate = rng.uniform(0, 100, (rows, 3, 4)).astype(np.float32)
  cover = rng.uniform(0, 100, (rows, 2, 2, 14)).astype(np.float32)
  cover[0], climate[1, 1] = np.nan, np.nan
  np.save(own / "climate.npy", climate)
  np.save(own / "cover.npy", cover)
  shares = [*DYNAMIC_WORLD, *WORLD_CEREAL]
  views = {
    "climate": {
      "bands": ["DEF", "soil", "AET", "avg_rad"],
      "units": ["mm", "0.1 mm", "mm", "nW/cm²/sr"],
      "steps": "calendar",
    },
    "cover": {"bands": shares, "units": ["%"] * 9 + ["1"] * 5},
  }
  (own / "dataset.json").write_text(json.dumps({"views": views}))
  settings = {
    "data.manual_dir": str(own),
    "data.data_dir": str(tmp_path / "data"),
    "data.modalities": "climate,cover",
    "data.context": "location",
    "model.emb_dim": 4,
    **{f"model.encoder.{name}": size for name, size in galileo_files.SIZES.items()},
    "model.encoder.n_layers": 1,
    "model.encoder.patch_size": 2,
    "protocol.folds": 2,
    "train.batch_size": 8,
    "train.max_epochs": 1,
  }
  run.run(config.load("configs/folder.py:encoder=galileo", settings), tmp_path / "run")
  groups = {"climate": {"TC", "VIIRS", "location"}, "cover": {"DW", "WC", "location"}}
  params = models.restore(tmp_path / "run/checkpoints/seed10_fold0")["params"]["unique"]
  for name, expected in groups.items():
    assert set(params[name]["backbone"]["embed"]) == expected
    model = load_model(tmp_path / "run", name)
    constants = next(iter(model.about["normalisation"].values()))[name]
    factors = [10, 1, 10, 1] if name == "climate" else [0.01] * 9 + [1] * 5
    bands = ["def", "soil", "aet", "avg_rad"] if name == "climate" else shares
    own_constants = np.array([Galileo.BANDS[band] for band in bands]) / np.array(factors)[:, None]
    given = np.stack([constants["offset"], constants["scale"]], 1)[: len(bands)]
    np.testing.assert_allclose(given, own_constants, rtol=1e-5)
    file = (tmp_path / f"run/predictions/{name}.csv").read_text().splitlines()
    assert len(file) == 1 + rows
  with pytest.raises(InputError, match="soil has the unit 'cm', it reads: 0.1 mm, mm"):
    views["climate"]["units"][1] = "cm"
    (own / "dataset.json").write_text(json.dumps({"views": views}))
    config.load("configs/folder.py:encoder=galileo", settings)


def test_a_resumed_run_stops_at_other_weights(lfmc, tmp_path):
  of = lambda file: {"S1": {"model_type": "presto", "weights": str(file)}}
  work_directory.keep_weights(tmp_path, of(lfmc["model.encoders.S1.weights"]))
  file = save_torch_file(tmp_path / "other.pt", state_dict(blocks=1, seed=1))
  with pytest.raises(InputError, match="was started with other pretrained weights of S1: restore the file"):
    work_directory.keep_weights(tmp_path, of(file))
  assert list(work_directory.keep_weights(tmp_path, of(tmp_path / "none.pt"))) == ["S1"]


@pytest.mark.long
def test_sizes_of_the_file_are_kept_with_the_run(lfmc, tmp_path):
  """They are read at the start. The months of the steps can be left out."""
  file = save_torch_file(tmp_path / "presto.pt", state_dict(blocks=2))
  plain = {k: v for k, v in lfmc.items() if k.removeprefix("model.encoder.") not in encoders.SIZES_OF_FILE}
  plain |= {"data.modalities": "S1", "train.max_epochs": 1, "model.encoder.num_heads": 4}
  plain |= {"model.encoders.S1.weights": str(file), "model.encoders.S1.use_months": False}
  settings = lambda: config.load("configs/lfmc.py:individual,encoder=presto", plain)
  first = settings()
  assert first.model.encoder.layer_size is None
  run.run(first, tmp_path / "run")
  kept = json.loads((tmp_path / "run/config.json").read_text())["model"]
  sizes = {"layer_size": 16, "n_layers": 2, "feedforward_size": 24}
  assert sizes.items() <= kept["encoders"]["S1"].items() and kept["encoder"]["layer_size"] is None
  model = load_model(tmp_path / "run", "S1")
  assert model.bands == ("vv", "vh")  # without a month
  (tmp_path / "run/results.json").unlink()
  file.unlink()
  run.run(first, tmp_path / "run")  # a run that is resumed does not need the file
  assert load_model(tmp_path / "run", "S1").about["weights"] == model.about["weights"]


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"data.modalities": "S2_S2Ind,S1"}, "does not know the bands ndwi, nirv"),
    ({"model.encoders.S1.weights": "/none.pt"}, "for modality S1: weights=/none.pt: there is no such file"),
    (
      {"model.encoders.S1.n_layers": 2},
      "a Presto with layer_size=16, n_layers=1, .*; the encoder has layer_size=16, n_layers=2",
    ),
    ({"model.encoders.S1.leave_out": "vv,vh"}, "complete none of its groups"),
  ],
)
def test_what_does_not_fit_is_told_before_anything_is_read(lfmc, changes, message):
  with pytest.raises(InputError, match=message) as error:
    load(lfmc, **changes)
  assert "\n" not in str(error.value)


def test_layer_decay_needs_blocks(lfmc, tmp_path):
  plain = {k: v for k, v in lfmc.items() if not k.startswith("model.enc")}
  settings = config.load("configs/lfmc.py:encoder=mlp", plain | {"train.layer_decay": 0.5})
  with pytest.raises(InputError, match="train.layer_decay: 0.5 needs an encoder with blocks: .*presto"):
    run.run(settings, tmp_path)
