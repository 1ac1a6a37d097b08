"""What a training may not depend on: held-out samples, chance beyond the seed, a random key used twice."""

import ast
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import settings

from colearn_jax import load_model
from colearn_jax.config import load, series_settings
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import make_reader, read_index, read_table
from colearn_jax.deploy import uncertainty
from colearn_jax.nn import random
from colearn_jax.training import held_back, setup
from colearn_jax.training import run as training

pytestmark = pytest.mark.usefixtures("alone")
ROWS = 120

PROTOCOLS = {
  "kfold": {"protocol__name": "clean"},
  "group_by": {"protocol__name": "clean", "protocol__group_by": "site"},
  "purge": {"protocol__name": "clean", "protocol__group_by": "year", "protocol__purge": 20},
  "block": {"protocol__name": "clean", "protocol__group_by": "block", "protocol__block_km": 50.0},
  "buffer": {"protocol__name": "clean", "protocol__buffer_km": 0.1},
  "fixed number of epochs": {
    "protocol__validation_fraction": 0.0,
    "protocol__name": "clean",
    "train__patience": 0,
    "train__keep": "last",
  },
}


def altered_target(task, target):
  """Other targets of the same task: each class or label is another one."""
  if task.one_class:
    return np.where(target < 0, target, (target + 1) % len(task.outputs)).astype(target.dtype)
  return 1 - target if task.kind == "multilabel" else target * -7 + 1000


def altered_inputs(values):
  return values * -3 + 50


def trained(config, alter=()):
  """The run, and its whole state after two epochs. The parts of the run in `alter` have other values."""
  dataset = open_dataset(setup.prepare(config), series_settings(config))
  modalities, index = setup.make_modalities(config, dataset), read_index(dataset)
  first = setup.make_runs(config, dataset, index)[0]
  rows = np.concatenate([np.zeros(0, int), *(getattr(first, part) for part in alter)])
  target = index.target.copy()
  target[rows] = altered_target(dataset.task, target[rows])
  index = dataclasses.replace(index, target=target)

  def altered(reader):
    table = read_table(reader)
    for values in table["inputs"].values():
      values[rows] = altered_inputs(values[rows])
    return table

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setup, "read_table", altered)
    run = setup.make_runs(config, dataset, index)[0]
    for part in ("train", "validation", "test"):
      np.testing.assert_array_equal(getattr(run, part), getattr(first, part))
    recipe = setup.make_recipe(config, dataset.task, modalities)
    samples = setup.make_samples(config, recipe, dataset, modalities, index)
  state = samples.init([run])
  with samples.epochs([run], state) as epoch:  # of a stream, too, if nothing is altered
    for _ in range(2):
      state, _ = epoch(state)
  return run, jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key)))


def same(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@pytest.mark.long
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_held_out_samples_change_nothing_by_a_single_bit(where, protocol):
  """Parameters, statistics, normalisation, constants of the target, early stopping, the kept model."""
  config = settings(where, data__placement="device", **PROTOCOLS[protocol])
  run, whole = trained(config)
  assert len(run.test) > 5 and len(run.train) > 20
  assert same(whole, trained(config, ["test"])[1])
  if protocol == "kfold":  # the test would notice
    assert same(whole, trained(config)[1])  # and the same configuration gives the same bits twice
    assert not same(whole, trained(config, ["train"])[1])
    stopped = trained(config, ["validation"])[1]
    assert same(whole.params, stopped.params) and not same(whole.stop, stopped.stop)


@pytest.mark.long
def test_official_splits_and_class_weights_know_nothing_of_held_out_samples(tmp_path):
  """Classes of unequal size, whose weights are of the training part; the test part has other classes."""
  rng, there = np.random.default_rng(0), tmp_path / "fields"
  (there / "S2").mkdir(parents=True)
  rows = [["id", "split", "target"]]
  for i in range(90):
    split = ("train", "train", "validation", "test")[i % 4]
    rows.append([f"s{i}", split, ("oak", "oak", "oak", "elm", "ash")[rng.integers(5)]])
    np.save(there / f"S2/s{i}.npy", rng.normal(size=6).astype(np.float32))
  (there / "samples.csv").write_text("\n".join(map(",".join, rows)))
  keys = {"data.manual_dir": there, "data.data_dir": tmp_path / "data", "data.modalities": "S2"}
  keys |= {"protocol.name": "clean", "protocol.split": "official", "loss.class_weights": "balanced"}
  keys |= {"data.placement": "device", "model.emb_dim": 4, "train.batch_size": 16}
  config = load("configs/folder.py:individual,encoder=mlp", keys | {"model.encoder.layer_sizes": (4,)})
  run, whole = trained(config)
  weights = whole.values["task"]["class_weights"]
  assert len(run.test) > 20 and len(run.train) > 40 and len(set(weights[0].tolist())) > 1
  assert same(whole, trained(config, ["test"])[1])
  other = trained(config, ["train"])[1]  # the test would notice
  assert not np.array_equal(weights, other.values["task"]["class_weights"]) and not same(whole, other)
  stopped = trained(config, ["validation"])[1]
  assert same(whole.params, stopped.params) and same(whole.values, stopped.values)
  assert not same(whole.stop, stopped.stop)


@pytest.mark.long
def test_calibration_at_export_knows_nothing_of_the_test_part(where, tmp_path, monkeypatch):
  """The uncertainty of a run is of its validation part: other values of its test part change no bit of it."""
  config = settings(where, protocol__name="clean", protocol__validation_fraction=0.4, train__max_epochs=1)
  training.run(config, tmp_path)
  dataset = open_dataset(setup.prepare(config), series_settings(config))
  run = setup.make_runs(config, dataset, read_index(dataset))[0]
  model = load_model(tmp_path, "S2_S2Ind", runs=[run.name])

  def fitted(part=None):
    rows = np.zeros(0, int) if part is None else getattr(run, part)

    def index(dataset):
      found = read_index(dataset)
      target = found.target.copy()
      target[rows] = altered_target(dataset.task, target[rows])
      return dataclasses.replace(found, target=target)

    def reader(dataset, modalities):
      own = make_reader(dataset, modalities)
      change = lambda row, x: altered_inputs(x) if row in rows else x
      return lambda row: jax.tree.map(lambda x: change(row, x) if np.ndim(x) else x, own(int(row)))

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(held_back, "read_index", index)
      patch.setattr(held_back, "make_reader", reader)
      return uncertainty.fit(dataset.task, held_back.held_back(tmp_path, model))

  whole = fitted()
  assert whole["samples"] == len(run.validation) and whole == fitted("test") == fitted("train")
  assert whole != fitted("validation")  # the test would notice


@pytest.mark.long
@pytest.mark.parametrize("placement", ["device", "stream"])
def test_a_training_part_smaller_than_a_batch_is_padded_without_influence(where, placement):
  """A batch of just its size, and one with half as many rows of padding, give the same parameters."""
  plain = {"data__placement": placement, "model__encoder__dropout": 0.0}
  run, exact = trained(settings(where, **plain, train__batch_size=60))
  assert len(run.train) == 60
  _, padded = trained(settings(where, **plain, train__batch_size=90))
  assert int(exact.step[0]) == int(padded.step[0]) == 2  # one step an epoch
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, exact.params, padded.params)
  jax.tree.map(close, exact.stats, padded.stats)
  assert not same(exact.params, trained(settings(where, **plain, train__batch_size=30))[1].params)


def test_every_draw_has_a_stream_of_its_own():
  """All draws of JAX. A stream is used in one place, but for the order, which each data path reads."""
  used, draws = {}, {}
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        call, where = ast.unparse(node.func), path.relative_to(PACKAGE).as_posix()
        if call == "random.stream" and isinstance(node.args[1], ast.Constant):
          used.setdefault(node.args[1].value, []).append(where)
        elif call == f"jax.random.{node.func.attr}" and node.func.attr not in KEYS:
          draws.setdefault(where, []).append(node.func.attr)
  order = ["training/epoch.py", "training/on_device.py", "training/streaming.py"]
  assert used.pop("order") == order
  assert all(len(places) == 1 for places in used.values()), used
  # The step draws these by their names, each folded with the number of the microbatch.
  assert set(used) | {"order", "dropout", "sensors", "method"} == set(random.STREAMS)
  assert draws == DRAWS


def test_a_key_is_folded_with_a_number_once():
  """Two draws of one function that fold the same number into the same key would be equal."""
  found = 0
  for path in sorted(PACKAGE.rglob("*.py")):
    for function in ast.walk(ast.parse(path.read_text())):
      if isinstance(function, ast.FunctionDef):
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        folds = [ast.unparse(c) for c in calls if ast.unparse(c.func) == "jax.random.fold_in"]
        assert len(folds) == len(set(folds)), (path, folds)
        found += len(folds)
  assert found >= 6


def test_every_other_generator_is_listed_with_its_seed():
  """Those of NumPy, scikit-learn, Optuna and Python. Those of Python that have no seed are not used."""
  found = {}
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      said = []
      if isinstance(node, ast.Call):
        call = ast.unparse(node.func)
        of_numpy = call.startswith("np.random.") and "(" not in call
        if of_numpy or call in ("random.Random", "optuna.samplers.TPESampler"):
          said = [ast.unparse(node)]
        said += [f"random_state={ast.unparse(w.value)}" for w in node.keywords if w.arg == "random_state"]
      elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        said = [f"random_state={ast.unparse(v)}" for k, v in pairs if k and "random_state" in ast.unparse(k)]
      if said:
        found.setdefault(path.relative_to(PACKAGE).as_posix(), []).extend(said)
  assert found == GENERATORS


PACKAGE = Path(random.__file__).parents[1]
KEYS = ("key", "key_data", "wrap_key_data", "fold_in")
# Every draw by a generator of JAX: initial values, landmarks, mixup and augmentation. All others hash bits.
DRAWS = {
  "data/augment.py": ["uniform"],
  "encoders/resnet.py": ["split"],
  "methods/esensi.py": ["normal"],
  "training/closed_form.py": ["permutation"],
  "training/mixup.py": ["split", "beta", "permutation"],
}
# Every other generator, and its seed. In training: folds, validation parts, blocks, teachers and choices; the
# others are for reports. Processes that train side by side draw nothing: their streams are those of the runs.
GENERATORS = {
  "data/grouping.py": ["np.random.RandomState(seed)"],
  "data/splits.py": [
    "random_state=seed",
    "np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, fold))))",
    "np.random.MT19937(np.random.SeedSequence((seed, fold)))",
    "np.random.SeedSequence((seed, fold))",
    "np.random.RandomState(seed)",
  ],
  "deploy/onnx.py": ["np.random.default_rng(0)"],
  "inspection/leakage.py": ["np.random.default_rng(2)"],
  "inspection/plots.py": ["np.random.default_rng(0)"],
  "inspection/scan.py": ["np.random.default_rng(1)", "np.random.default_rng(0)"],
  "methods/learners.py": ["random_state=seed", "random_state=seed", "random_state=seed"],
  "reporting/charts.py": ["np.random.default_rng(0)"],
  "reporting/features.py": ["np.random.default_rng(run.seed)"],
  "studies/choice.py": ["optuna.samplers.TPESampler(seed=SEED)", "random.Random(SEED)"],
  "training/teaching.py": ["np.random.SeedSequence(key)"],
}


def test_streams_of_a_run_and_of_all_its_steps_are_different_keys():
  """10 200 keys: each stream at many steps of several seeds and folds, and the streams without a step."""
  data = lambda key: tuple(np.asarray(jax.random.key_data(key)).tolist())
  keys = jax.vmap(random.run_key)(np.repeat(np.arange(5), 5).astype(np.uint32), np.tile(np.arange(5), 5))
  every = []
  for name in random.STREAMS:
    every += map(data, jax.vmap(lambda key, name=name: random.stream(key, name))(keys))
    of_step = jax.vmap(lambda key, n, name=name: random.stream(key, name, n))
    every += map(data, of_step(jnp.repeat(keys, 50), np.tile(np.arange(50), 25)))
  assert len(every) == len(random.STREAMS) * 25 * 51 and len(set(every)) == len(every)
