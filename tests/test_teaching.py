"""Trainings with a teacher: nothing held out reaches it or a parameter, and predictions need no teacher."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax import config
from colearn_jax.data import reader as readers
from colearn_jax.data.dataset import open_dataset
from colearn_jax.deploy.load import load_model
from colearn_jax.parallel import sharding
from colearn_jax.storage import files
from colearn_jax.training import run, setup, teaching
from colearn_jax.types import InputError

ENCODER = {"model_type": "mlp", "layer_sizes": (4,), "batchnorm": False}
NAMES = ("S1_S1Ind", "S2_S2Ind")
TEACHER = {
  "loss.distillation": 1.0,
  "loss.learners": ("trees", "boosting", "svm"),
  "loss.teacher_context": ("date", "location", "soil"),
  "loss.teacher_sensors": ("S2", "S1"),
  "loss.trees": 5,
  "loss.teacher_folds": 3,
}


@pytest.fixture(scope="module", autouse=True)
def one_device():
  one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    yield


@pytest.fixture(scope="module")
def lfmc(tmp_path_factory):
  """A small file in LFMC's layout, and settings of a small training."""
  manual, prepared = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("prepared")
  write_dummy(manual / "training_features.csv", rows=96, sites=16)
  return {
    "data.manual_dir": str(manual),
    "data.data_dir": str(prepared),
    "protocol.folds": 2,
    "model.emb_dim": 4,
    "model.encoders": dict.fromkeys(NAMES, ENCODER),
    "train.batch_size": 16,
    "train.max_epochs": 2,
    "train.keep": "last",
  }


def trained(settings, monkeypatch, change=None, epochs=2):
  """The first run, the teacher's output, and the parameters after some epochs.

  `change` changes the samples: of the run and an array `[N ...]` it returns the array with other values.
  """
  dataset = open_dataset(setup.prepare(settings), config.series_settings(settings))
  index, modalities = readers.read_index(dataset), setup.make_modalities(settings, dataset)
  one = setup.make_runs(settings, dataset, index)[0]
  apply = (lambda x: change(one, x)) if change else (lambda x: x)
  index = dataclasses.replace(index, target=apply(index.target))
  read = lambda reader: jax.tree.map(lambda x: apply(x.copy()), readers.read_table(reader))
  with monkeypatch.context() as patch:
    patch.setattr(setup, "read_table", read)
    patch.setattr(teaching, "read_table", read)
    recipe = setup.make_recipe(settings, dataset.task, modalities)
    samples = setup.make_samples(settings, recipe, dataset, modalities, index)
    state = samples.init([one])
  with samples.epochs([one], state) as epoch:
    for _ in range(epochs):
      state, _ = epoch(state)
  return one, np.asarray(state.values["arrays"]["teacher"][0]), jax.device_get(state.params)


def held_out(one, x):
  """Other values of all samples of the validation part and the test part."""
  rows = np.concatenate([one.validation, one.test])
  x[rows] = np.where(x[rows] == 0, 1.0, 0.0) if x.ndim == 1 else 7.0 - 3 * np.nan_to_num(x[rows])
  return x


def one_target(row, x):
  if x.shape == (96, 1):
    x[row] += 1e3
  return x


@pytest.mark.long
@pytest.mark.parametrize("method", ["distill", "mdico"])
def test_nothing_held_out_reaches_the_teacher_or_a_parameter(lfmc, monkeypatch, method):
  blocks = {"protocol.group_by": "site,year", "protocol.folds": "2,each", "protocol.purge": 10}
  more = blocks if method == "mdico" else {}
  settings = config.load(f"configs/lfmc.py:clean,method={method}", lfmc | TEACHER | more)
  one, teacher, params = trained(settings, monkeypatch)
  assert len(one.validation) and len(one.test) and np.isfinite(teacher[one.train]).all()
  assert np.isnan(np.delete(teacher, one.train, axis=0)).all()
  again, teacher_again, params_again = trained(settings, monkeypatch, held_out)
  np.testing.assert_array_equal(again.train, one.train)
  np.testing.assert_array_equal(teacher_again, teacher)
  jax.tree.map(np.testing.assert_array_equal, params_again, params)
  # The target of a training sample reaches the teacher's output for others, but not for itself.
  row = one.train[3]
  _, other, _ = trained(settings, monkeypatch, lambda _, x: one_target(row, x), epochs=0)
  np.testing.assert_array_equal(other[row], teacher[row])
  assert not np.array_equal(other[one.train], teacher[one.train])


def test_the_teacher_reads_what_is_named(lfmc, monkeypatch):
  """Its own sensors and context, in addition to the context of the model."""
  settings = config.load("configs/lfmc.py:clean,method=distill", lfmc | TEACHER | {"data.context": "date"})
  seen = []
  arrays = type(setup.make_method(settings)).arrays

  def spy(self, train, samples, seed):
    seen.append({name: x.shape[1:] for name, x in samples.inputs.items()} | {"present": set(samples.present)})
    return arrays(self, train, samples, seed)

  monkeypatch.setattr(type(setup.make_method(settings)), "arrays", spy)
  trained(settings, monkeypatch, epochs=0)
  soil = len(open_dataset(setup.prepare(settings)).bands["soil"])
  assert seen == [{"S1": (4, 2), "S2": (4, 5), "context": (2 + 3 + soil,), "present": {"S1", "S2"}}]
  trained(
    config.load("configs/lfmc.py:clean,method=distill", lfmc | {"loss.trees": 5}), monkeypatch, epochs=0
  )
  assert seen[1].keys() == {*NAMES, "present"}


@pytest.mark.long
def test_a_student_predicts_without_what_only_its_teacher_reads(lfmc, tmp_path):
  more = {"loss.main": 0.0, "train.replicas": True, "loss.learners": "trees"}
  more |= {"loss.ablations": {"both": {"main": 1.0}, "alone": {"main": 1.0, "distillation": 0.0}}}
  settings = config.load("configs/lfmc.py:clean,method=distill", lfmc | TEACHER | more)
  results = run.train(settings, tmp_path)
  scores = [results.scores, *results.ablations.values()]
  assert len({one.modalities["S1_S1Ind"]["rmse"]["mean"] for one in scores}) == 3
  described = files.read_json(tmp_path / "dataset.json")
  assert [m["name"] for m in described["modalities"]] == list(NAMES)
  model = load_model(tmp_path, "S2_S2Ind")
  assert model.context == () and np.isfinite(model.predict(np.zeros((3, 4, 8), np.float32))).all()


@pytest.mark.parametrize(
  ("method", "changes", "message"),
  [
    ("distill", {"loss.teacher_context": "rain"}, "^loss.teacher_context: 'rain' .* date, location"),
    ("distill", {"loss.teacher_sensors": "S1,S9"}, "^loss.teacher_sensors: modality 'S9' is not allowed"),
    ("distill", {"loss.learners": "trees,forest"}, "^loss.learners: .* one or more of: trees, boosting, svm"),
    ("distill", {"loss.learners": "()"}, "^loss.learners: .* one or more of: trees, boosting, svm"),
    ("mdico", {"loss.distillation": 0.0}, "^loss.teacher_context: .* there is no teacher"),
    ("mdico", {"loss.distillation": 0.0, "loss.main": 0.0}, "^loss.main: 0 .* with loss.distillation > 0"),
    (
      "distill",
      {"loss.ablations": {"none": {"main": 0.0, "distillation": 0.0}}},
      "^loss.ablations.none.main: 0 .* with loss.distillation > 0",
    ),
  ],
)
def test_what_a_teacher_cannot_be_is_refused(lfmc, method, changes, message):
  with pytest.raises(InputError, match=message):
    config.load(f"configs/lfmc.py:clean,method={method}", lfmc | TEACHER | changes)


def test_a_teacher_needs_its_samples_in_memory_and_groups_to_cut(lfmc, tmp_path):
  load = functools.partial(config.load, "configs/lfmc.py:clean,method=mdico")
  with pytest.raises(InputError, match="^method=mdico: its teacher needs the samples in memory"):
    run.train(load(lfmc | TEACHER | {"data.placement": "stream"}), tmp_path / "stream")
  with pytest.raises(InputError, match="^seed10_fold0: folds of a training part need two groups of season"):
    run.train(load(lfmc | TEACHER | {"protocol.group_by": "season"}), tmp_path / "few")
  assert not (tmp_path / "few/checkpoints").exists()
