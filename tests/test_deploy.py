"""Models of one sensor: the format, against a small function; and exported models, against the program."""

import dataclasses
import json
import subprocess
import sys
import textwrap

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import config, export, methods
from colearn_jax.deploy import model as deploy
from colearn_jax.deploy import tensors
from colearn_jax.deploy.export import save_model
from colearn_jax.deploy.load import load_model
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.predictor import flat, one_sensor
from colearn_jax.evaluation.results import Results, Scores
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.predict import predict
from colearn_jax.storage import models
from colearn_jax.storage.files import write_json
from colearn_jax.types import CONTEXT, InputError, Modality, Task

S2 = Modality("S2", ("S2",), (3, 2), ("red", "nir"))
TASK = Task("multiclass", ("crop", "tree", "water"))
RUNS = ["seed10_fold0", "seed10_fold1"]


def function(weights, x, *context):
  """Linear after normalisation, missing values 0; NaN where a sample has no value."""
  there = ~jnp.isnan(x).all((1, 2))
  x = (x - weights["offset"][None, None]) / weights["scale"][None, None]
  y = jnp.where(jnp.isnan(x), 0.0, x).reshape(x.shape[0], -1) @ weights["head/kernel"]
  y = sum((jnp.where(jnp.isnan(c), 0.0, c) @ weights["context"] for c in context), y)
  return jnp.where(there[:, None], jax.nn.softmax(y), jnp.nan)


def weights(columns=0):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  one = lambda: {"offset": draw(2), "scale": np.float32([2, 3]), "head/kernel": draw(6, 3)}
  more = lambda: {"context": draw(columns, 3)} if columns else {}
  return {run: one() | more() for run in RUNS}


def by_hand(own, x):
  z = (np.asarray(x, np.float64) - own["offset"]) / own["scale"]
  z = np.exp(np.nan_to_num(z).reshape(len(z), 6) @ own["head/kernel"].astype(np.float64))
  return z / z.sum(1, keepdims=True)


def values(n, seed=1):
  return np.random.default_rng(seed).normal(size=(n, 3, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  about = {"method": "mdico", "metrics": {"f1_macro": 0.5}}
  return save_model(Model(function, weights(), S2, TASK, (), about), tmp_path_factory.mktemp("deploy") / "s2")


@pytest.fixture
def copy(folder, tmp_path):
  for file in folder.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  return tmp_path


def test_a_model_tells_what_it_is(folder):
  model = load_model(folder)
  assert (model.modality, model.task, model.runs) == (S2, TASK, RUNS)
  assert (model.bands, model.outputs, model.context) == (("red", "nir"), ("crop", "tree", "water"), ())
  assert model.about["method"] == "mdico" and model.about["metrics"] == {"f1_macro": 0.5}
  assert model.about["versions"]["jax"] == jax.__version__
  assert sorted(file.name for file in folder.iterdir()) == [
    "function.jax",
    "model.json",
    "weights.safetensors",
  ]


def test_the_unit_goes_with_the_model(tmp_path):
  task = Task("regression", ("a", "b", "c"), "%")
  assert load_model(save_model(Model(function, weights(), S2, task), tmp_path / "s2")).task == task


def test_predictions_are_the_mean_over_the_runs(folder):
  model, x = load_model(folder), values(5)
  x[1, :, 0] = np.nan
  each = np.stack([by_hand(own, x) for own in weights().values()])
  got = model.predict(x)
  assert got.dtype == np.float32 and got.shape == (5, 3)
  np.testing.assert_allclose(model.predict_runs(x), each, atol=1e-6)
  np.testing.assert_allclose(got, each.mean(0), atol=1e-6)
  np.testing.assert_allclose(model.spread(x), np.abs(each[0] - each[1]) / 2**0.5, atol=1e-6)
  second = load_model(folder, runs=[RUNS[1]])
  np.testing.assert_allclose(second.predict(x), each[1], atol=1e-6)
  assert np.isnan(second.spread(x)).all() and second.runs == [RUNS[1]]


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_any_number_of_samples(folder, n):
  x = values(n)
  want = np.mean([by_hand(own, x) for own in weights().values()], 0)
  for batch_size in (None, 1000, 64):
    got = load_model(folder).predict(x, batch_size=batch_size)
    assert got.shape == (n, 3)
    np.testing.assert_allclose(got, want, atol=1e-6)


ODD = {
  "bytes": lambda: np.random.default_rng(0).integers(0, 255, (4, 3, 2)).astype(np.uint8),
  "integers": lambda: np.arange(24).reshape(4, 3, 2) - 12,
  "16 bits": lambda: np.arange(24, dtype=np.int16).reshape(4, 3, 2),
  "float64": lambda: values(4).astype(np.float64),
  "big-endian floats": lambda: values(4).astype(">f4"),
  "big-endian integers": lambda: np.arange(24).reshape(4, 3, 2).astype(">i2"),
  "lists": lambda: values(4).tolist(),
}


@pytest.mark.parametrize("kind", ODD)
def test_every_dtype_is_read_by_its_values(folder, kind):
  x = ODD[kind]()
  want = np.mean([by_hand(own, x) for own in weights().values()], 0)
  np.testing.assert_allclose(load_model(folder).predict(x), want, atol=1e-5)


def test_missing_and_infinite_values(folder):
  """NaN throughout is an absent sensor; an infinity is not hidden; a masked value is NaN."""
  x = values(4)
  x[0], x[1, 0, 0], x[2, 0, 0] = np.nan, np.nan, np.inf
  model, given = load_model(folder), Model(function, weights(), S2, TASK)
  got = model.predict(x)
  np.testing.assert_array_equal(np.isnan(got).all(1), [True, False, True, False])
  np.testing.assert_allclose(got, given.predict(x), atol=1e-6)
  masked = np.ma.masked_array(np.where(np.isnan(x), 9, x), np.isnan(x))
  np.testing.assert_array_equal(model.predict(masked), got)
  np.testing.assert_array_equal(model.predict([masked[i] for i in range(4)]), got)
  integers = np.ma.masked_array(np.zeros((1, 3, 2), np.uint8), True)  # an absent sensor
  assert np.isnan(model.predict(integers)).all()
  np.testing.assert_array_equal(model.predict(x.astype(np.float64) * 1e300)[2], np.full(3, np.nan))


def test_images_stay_bytes_up_to_the_device(monkeypatch):
  """Also the weights are placed once: the compiled call moves nothing."""
  seen, placed = [], []
  model = Model(function, weights(), S2, TASK)
  model.devices = model.devices[:1]
  inner, put = model._compiled, jax.device_put

  def guarded(weights, x):
    seen.append(x.dtype)
    with jax.transfer_guard("disallow_explicit"):
      return inner(weights, x)

  monkeypatch.setattr(
    jax, "device_put", lambda tree, device: placed.append(jax.tree.leaves(tree)) or put(tree, device)
  )
  monkeypatch.setattr(model, "_compiled", guarded)
  model.predict(ODD["bytes"](), batch_size=2)
  assert seen == [np.uint8] * 4  # two batches, two runs
  assert [[a.shape for a in leaves] for leaves in placed] == [[(2, 3, 2)]] * 2  # inputs alone


def test_batches_are_shared_by_the_devices(monkeypatch):
  seen, model, x = [], Model(function, weights(), S2, TASK), values(11)
  model.devices = model.devices[:3]
  inner = model._compiled
  monkeypatch.setattr(model, "_compiled", lambda w, x: seen.append(x.device) or inner(w, x))
  got = model.predict_runs(x, batch_size=2)
  assert seen[::2] == [model.devices[i % 3] for i in range(6)]
  np.testing.assert_allclose(got, [by_hand(own, x) for own in weights().values()], atol=1e-6)
  np.testing.assert_array_equal(model.predict_runs(x, batch_size=2, runs=RUNS[1:])[0], got[1])


def test_few_programs_are_compiled():
  traced = []

  def counted(weights, x):
    traced.append(x.shape[0])
    return function(weights, x)

  model = Model(counted, weights(), S2, TASK)
  for n in range(1, 70):
    model.predict(values(n), batch_size=48)
  assert sorted(traced) == [1, 2, 4, 8, 16, 32, 48]


def test_the_default_batch_is_bounded_by_bytes():
  def of(*shape, **about):
    return Model(None, {}, Modality("a", ("a",), shape, ()), TASK, about=about)._batch_size

  assert (of(304, 304, 4), of(2), of(4096, 4096, 4)) == (16, 256, 1)
  each = (100, 20 * 2**10, 60 * 2**10, 500 * 2**10, 2**30)
  assert [of(2, temporary_bytes=b) for b in each] == [1024, 512, 256, 32, 16]


def test_an_exported_model_knows_what_a_row_takes(tmp_path):
  def sorts(weights, x):
    return function(weights, jnp.sort(jnp.tile(x, (1, 1, 4096)), axis=1)[..., : x.shape[-1]])

  narrow, wide = (
    load_model(save_model(Model(f, weights(), S2, TASK), tmp_path / f.__name__)) for f in (function, sorts)
  )
  assert narrow.about["temporary_bytes"] < wide.about["temporary_bytes"]
  assert narrow._batch_size > wide._batch_size
  x = values(70)
  np.testing.assert_allclose(wide.predict(x), wide.predict(x, batch_size=70), rtol=1e-6)


def test_context(tmp_path):
  columns = ("date sine", "date cosine")
  model = load_model(save_model(Model(function, weights(2), S2, TASK, columns), tmp_path / "s2"))
  x, context = values(3), np.array([[0.5, 0.1], [np.nan, 0.2], [1, 0]])
  want = np.mean([function(w, x, context.astype(np.float32)) for w in weights(2).values()], 0)
  assert model.context == columns
  np.testing.assert_allclose(model.predict(x, context), want, atol=1e-6)
  with pytest.raises(InputError, match=r"needs a context \[3 2\], the columns date sine, date cosine"):
    model.predict(x)
  with pytest.raises(InputError, match=r"has shape \[2, 2\], needed: \[3 2\]"):
    model.predict(x, context[:2])


@pytest.mark.parametrize(
  ("x", "message"),
  [
    (np.zeros((4, 3, 3)), r"S2 reads samples of shape \(3, 2\), got \(3, 3\); .* red, nir"),
    (np.zeros((3, 2)), r"got \(2,\)"),
    (np.zeros((4, 3, 2), complex), "dtype complex128, needed: real numbers"),
    ([["a"]], "needed: real numbers"),
    (1.0, "a single number"),
    ([np.zeros((3, 2)), np.zeros((4, 2))], "the input has samples of different shapes, needed: one shape"),
    (np.ma.masked_array(np.zeros((4, 3, 2), "datetime64[D]"), False), "dtype datetime64"),
  ],
)
def test_wrong_inputs(folder, x, message):
  with pytest.raises(InputError, match=message) as e:
    load_model(folder).predict(x)
  assert "\n" not in str(e.value)


def test_what_a_model_does_not_take(folder):
  with pytest.raises(InputError, match="takes no context"):
    load_model(folder).predict(values(1), np.zeros((1, 2)))
  with pytest.raises(InputError, match="no run 'seed1_fold0', have: seed10_fold0, seed10_fold1"):
    load_model(folder, runs=["seed1_fold0"])
  with pytest.raises(InputError, match="of modality 'S2', not of 'S1'"):
    load_model(folder, "S1")


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "function.jax"])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.97])
def test_a_flipped_byte_is_noticed(copy, name, place):
  data = bytearray((copy / name).read_bytes())
  data[int(place * len(data))] ^= 1
  (copy / name).write_bytes(data)
  with pytest.raises(InputError, match=f"{name} (was altered|is damaged)") as e:
    load_model(copy)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "function.jax"])
def test_a_missing_file(copy, name):
  (copy / name).unlink()
  with pytest.raises(InputError, match=f"{name} cannot be read: No such file"):
    load_model(copy)


def test_the_weights_are_a_safetensors_file(folder, tmp_path):
  """Both ways: its library reads what is written here, and the other way round."""
  own = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "ä/b": np.ones((), np.int64)}
  own |= {"c": np.zeros((0, 2)), "d": np.array([True, False]), "big": np.arange(3, dtype=">i2")}
  safetensors = pytest.importorskip("safetensors.numpy")
  written = tensors.to_bytes(own)
  theirs = safetensors.load(written)
  assert set(theirs) == set(own)
  for read in (theirs, tensors.from_bytes(written), tensors.from_bytes(safetensors.save(theirs))):
    for name, array in own.items():
      assert read[name].shape == array.shape and read[name].dtype == array.dtype.newbyteorder("=")
      np.testing.assert_array_equal(read[name], array)
  half = tensors.from_bytes(tensors.to_bytes({"half": jnp.arange(3, dtype=jnp.bfloat16)}))["half"]
  assert half.dtype == jnp.bfloat16 and half.tolist() == [0, 1, 2]
  read = safetensors.load_file(folder / "weights.safetensors")
  np.testing.assert_array_equal(read[f"{RUNS[1]}/head/kernel"], weights()[RUNS[1]]["head/kernel"])


def test_the_function_is_for_three_kinds_of_devices_and_any_number_of_samples(folder):
  function = jax.export.deserialize(bytearray((folder / "function.jax").read_bytes()))
  assert function.platforms == ("cpu", "cuda", "tpu")
  assert str(function.in_avals[-1].shape) == "(rows, 3, 2)"


def altered(folder, **changes):
  about = json.loads((folder / "model.json").read_text()) | changes
  about["sha256"] = deploy.digest_of(about)
  (folder / "model.json").write_text(json.dumps(about))


def test_a_newer_format(copy):
  altered(copy, format=99)
  with pytest.raises(InputError, match="has format 99, this version of colearn_jax reads up to 3: update"):
    load_model(copy)
  altered(copy, format=1)
  with pytest.raises(InputError, match="has format 1, which is no longer read: export the model again"):
    load_model(copy)


def test_a_function_of_another_jax(copy):
  (copy / "function.jax").write_bytes(b"none")
  altered(copy, files={"function.jax": deploy.sha256(b"none")}, versions={"jax": "9.9"})
  with pytest.raises(InputError, match="exported with jax 9.9, cannot be read by jax") as e:
    load_model(copy)
  assert "\n" not in str(e.value)


def test_no_model(tmp_path):
  with pytest.raises(InputError, match="no exported model: there is no model.json"):
    load_model(tmp_path)


def test_what_cannot_be_written(tmp_path, folder):
  with pytest.raises(InputError, match="exists already"):
    save_model(load_model(folder), folder)
  other = weights()
  other[RUNS[1]]["offset"] = np.zeros(3, np.float32)
  with pytest.raises(InputError, match="seed10_fold1: weights have other names, shapes or dtypes than"):
    save_model(Model(function, other, S2, TASK), tmp_path / "new")
  assert not list(tmp_path.iterdir())


BARE = """
import sys, importlib.abc
from importlib.metadata import packages_distributions

# What jax and numpy need; colearn_jax itself is checked module by module.
allowed = {"numpy", "jax", "jaxlib", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers", "colearn_jax"}
installed = set(packages_distributions()) - allowed
rooms = ("", ".batches", ".load", ".model", ".raw", ".tensors", ".uncertainty")
own = {"colearn_jax", "colearn_jax.types", "colearn_jax.dates"}
own |= {f"colearn_jax.deploy{room}" for room in rooms}
own |= {f"colearn_jax.data{room}" for room in ("", ".fixed_length", ".modality")}  # prepare series

class Blocked(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in installed or name.startswith("colearn_jax") and name not in own:
      raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, Blocked())
import numpy as np
from colearn_jax.deploy.load import load_model
model = load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2])))
for name in ("flax", "optax", "tensorflow_datasets", "grain", "sklearn", "orbax", "ml_collections"):
  assert name not in sys.modules
"""


def predict_bare(folder, x, tmp_path):
  """Predictions of a process that can import numpy, jax, flatbuffers and those modules of the package."""
  np.save(tmp_path / "x.npy", x)
  command = [sys.executable, "-c", textwrap.dedent(BARE), folder, tmp_path / "x.npy", tmp_path / "y.npy"]
  done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return np.load(tmp_path / "y.npy")


def test_jax_and_numpy_are_enough(folder, tmp_path):
  x = values(7)
  np.testing.assert_allclose(predict_bare(folder, x, tmp_path), load_model(folder).predict(x), atol=1e-6)


# Exported models against the program that trained them.

SHAPES = {"S1": (4, 3), "S2": (4, 2)}
KINDS = {"mdico": TASK, "individual": Task("regression", ("height", "biomass"))}


def odd_values(n, shape):
  """Values of a sensor of which some are missing, some infinite or large, and some samples are absent."""
  rng = np.random.default_rng(n)
  x = (100 * rng.normal(size=(n, *shape))).astype(np.float32)
  x[rng.uniform(size=x.shape) < 0.2] = np.nan
  for row, value in ((1, np.nan), (2, np.inf), (3, 1e3)):
    x[row::50] = value
  return x


def finished_run(directory, method, encoder, columns=0):
  """A model with random values, saved as a training saves it; returns what it predicts, by sensor."""
  task = KINDS[method]
  settings = dict.fromkeys(SHAPES, {"model_type": encoder} | ({"depth": 18} if encoder == "resnet" else {}))
  shapes = SHAPES if encoder != "resnet" else {m: (16, 16, shape[-1]) for m, shape in SHAPES.items()}
  architecture = Architecture(shapes, settings, task, emb_dim=8, context=columns)
  method = methods.METHODS[method]()
  model = method.build(architecture, rngs=nnx.Rngs(int(directory.name[11])))
  _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  bands = {m: shape[-1] for m, shape in shapes.items()} | ({CONTEXT: columns} if columns else {})
  constant = lambda c: {"offset": np.arange(c, dtype=np.float32), "scale": np.full(c, 50, np.float32)}
  inputs = {m: constant(c) for m, c in bands.items()}
  saved = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
  models.save(directory, saved | {"values": {"inputs": inputs, "task": {}}}, {"epoch": 1})

  @jax.jit
  def predictions(given):
    return predict(method, model, task.kind, inputs, given)["prediction"]

  return method, architecture, predictions


@pytest.mark.parametrize(
  ("method", "encoder"),
  [
    pytest.param("mdico", "gru", marks=pytest.mark.slow),
    ("individual", "gru"),
    pytest.param("mdico", "tempcnn", marks=pytest.mark.long),
    pytest.param("mdico", "transformer", marks=pytest.mark.slow),
    pytest.param("individual", "resnet", marks=pytest.mark.slow),
  ],
)
def test_exported_equals_the_program(tmp_path, method, encoder):
  runs = [tmp_path / "checkpoints" / run for run in RUNS]
  made = [finished_run(run, method, encoder) for run in runs]
  own, architecture, _ = made[0]
  shape, task = architecture.shapes["S2"], KINDS[method]
  function, part = one_sensor(own, architecture, "S2")
  weights = {run.name: flat(models.restore(run, part)) for run in runs}
  assert not any("S1" in name for own in weights.values() for name in own)
  model = Model(function, weights, Modality("S2", ("S2",), shape, ("a", "b")), task)
  exported = load_model(save_model(model, tmp_path / "out"))
  for n in (0, 1, 7, 100):
    x = odd_values(n, shape)
    got = exported.predict(x)
    assert got.shape == (n, len(task.outputs))
    np.testing.assert_allclose(got, model.predict(x), atol=1e-6)
    if n:
      want = np.stack([predictions({"S2": x})["S2"] for *_, predictions in made])
      np.testing.assert_allclose(exported.predict_runs(x), want, rtol=1e-6, atol=1e-6)
  integers = np.random.default_rng(0).integers(0, 200, (5, *shape)).astype(np.uint8)
  want = np.mean([predictions({"S2": integers})["S2"] for *_, predictions in made], 0)
  np.testing.assert_allclose(exported.predict(integers), want, atol=1e-6)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A work directory of a finished training with two folds and an ablation."""
  workdir = tmp_path_factory.mktemp("workdir")
  settings = config.load(
    "configs/lfmc.py:encoder=gru", {"model.emb_dim": 8, "model.encoder.use_norm": "none"}
  )
  write_json(workdir / "config.json", config.to_json(settings))
  bands = lambda name, n: tuple(f"{name} {k}" for k in range(n))
  sensors = [Modality(m, (m,), shape, bands(m, shape[-1])) for m, shape in SHAPES.items()]
  described = {"name": "own", "task": dataclasses.asdict(TASK)}
  described["modalities"] = [dataclasses.asdict(m) for m in sensors]
  write_json(workdir / "dataset.json", described)
  scores = Scores({"S1": {}, "S2": {"f1_macro": {"mean": 0.5, "std": None, "per_fold": [0.5]}}})
  Results("own", TASK.kind, "mdico", scores).write(workdir / "results.json")
  for run in (*RUNS, "seed10_fold0_contrastive_off"):
    finished_run(workdir / "checkpoints" / run, "mdico", "gru")
  return workdir


def test_a_sensor_from_a_work_directory(workdir, tmp_path, capsys):
  model = load_model(workdir, "S2")
  assert (model.runs, model.context) == (RUNS, ())
  assert (model.task, model.bands) == (TASK, ("S2 0", "S2 1"))
  assert model.about["metrics"]["f1_macro"]["mean"] == 0.5
  assert model.about["normalisation"][RUNS[0]]["S2"] == {"offset": [0, 1], "scale": [50, 50]}
  x = odd_values(7, SHAPES["S2"])
  command = [f"--workdir={workdir}", "--modality=S2", "--no-uncertainty", f"--runs={RUNS[1]}"]
  export.main([*command, f"--out={tmp_path / 'out'}"])
  assert capsys.readouterr().out == f"exported to {tmp_path / 'out'}\n"
  exported = load_model(tmp_path / "out")
  assert exported.runs == RUNS[1:]
  np.testing.assert_allclose(exported.predict(x), model.predict_runs(x)[1], atol=1e-6)
  np.testing.assert_allclose(predict_bare(tmp_path / "out", x, tmp_path), exported.predict(x), atol=1e-6)


@pytest.mark.long
def test_a_context_is_an_input_of_the_exported_model(tmp_path):
  run = tmp_path / "checkpoints" / RUNS[0]
  method, architecture, predictions = finished_run(run, "mdico", "gru", columns=2)
  function, part = one_sensor(method, architecture, "S2")
  weights = {RUNS[0]: flat(models.restore(run, part))}
  model = Model(
    function, weights, Modality("S2", ("S2",), SHAPES["S2"], ("a", "b")), TASK, ("sine", "cosine")
  )
  exported = load_model(save_model(model, tmp_path / "out"))
  x, context = odd_values(7, SHAPES["S2"]), np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
  context[0] = np.nan
  got = exported.predict(x, context)
  np.testing.assert_allclose(got, predictions({"S2": x, CONTEXT: context})["S2"], atol=1e-6)
  assert np.nanmax(np.abs(got - exported.predict(x, -context))) > 1e-4


def test_wrong_sensors_runs_and_work_directories(workdir, tmp_path):
  for arguments, message in (
    ((workdir, "S3"), "has no modality 'S3', have: S1, S2"),
    ((tmp_path, "S2"), "no finished training: there is no results.json"),
  ):
    with pytest.raises(InputError, match=message):
      load_model(*arguments)
  with pytest.raises(InputError, match="no run 'seed1_fold0', have: seed10_fold0, seed10_fold0_contr"):
    load_model(workdir, "S2", runs=["seed1_fold0"])
  assert load_model(workdir, "S2", runs=["seed10_fold0_contrastive_off"]).runs == [
    "seed10_fold0_contrastive_off"
  ]
