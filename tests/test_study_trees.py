import dataclasses

import numpy as np
import pytest
from colearn_jax.datasets.lfmc.dummy import write_dummy
from sklearn.ensemble import ExtraTreesRegressor

from colearn_jax import schema
from colearn_jax.data.splits import Run
from colearn_jax.evaluation.metrics import HEADLINE
from colearn_jax.evaluation.results import Results
from colearn_jax.methods.base import Samples
from colearn_jax.plan import INPUTS, Arm, Cell, Study, Trees
from colearn_jax.studies import arms, embeddings, plans, trees
from colearn_jax.types import CONTEXT, KINDS, UNIT_VECTOR, InputError, Modality, Task
from tests import presto_files
from tests.helpers import save_torch_file

N = 60
RUN = Run(3, 0, np.arange(30), np.arange(30, 45), np.arange(45, N))
GRID = {
  "extra_trees": {"n_estimators": (5,), "min_samples_leaf": (1, 20)},
  "boosting": {"max_iter": (3,), "min_samples_leaf": (2,)},
}


def samples(kind="regression"):
  rng = np.random.default_rng(0)
  x = {"S1": rng.normal(size=(N, 3, 2)), "S2": rng.normal(size=(N, 4)), "context": rng.normal(size=(N, 2))}
  x["S1"][::7, 1] = np.nan
  x["S2"][::4] = np.nan
  present = {"S1": np.ones(N), "S2": (np.arange(N) % 4 > 0).astype(float)}
  target = np.stack([x["S1"][:, 0, 0] + x["context"][:, 0], x["context"][:, 1]], 1)
  names = ("a", "b") if kind in ("binary", "regression", "multilabel") else ("a", "b", "c")
  if kind == "multilabel":
    target = (target > 0).astype(np.float32)
  elif kind != "regression":
    target = np.digitize(target[:, 0], [0.0, 0.7][: len(names) - 1]).astype(np.int32)
  labelled = np.arange(N) != 2
  return Samples(x, present, target, labelled, Task(kind, names))


def fitted(own, kind="trees", run=RUN, refit=True, grid=GRID):
  metric = HEADLINE[own.task.kind][0]
  inputs = trees._inputs(own, kind)
  return trees.fit_run(own, inputs, trees.learners(grid, True), run, refit=refit, metric=metric)


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_predicted_where_the_sensor_is(kind):
  own = samples(kind)
  out, choice = fitted(own)
  assert list(out) == ["S1", "S2"]
  for name, prediction in out.items():
    assert prediction.shape == (15, len(own.task.outputs))
    there = own.present[name][RUN.test] > 0
    np.testing.assert_array_equal(np.isnan(prediction).all(1), ~there)
    assert np.isfinite(prediction[there]).all() and np.unique(prediction[there]).size > 3
    if own.task.one_class:
      np.testing.assert_allclose(prediction[there].sum(1), 1.0, rtol=1e-5)
    scores = choice[name]["scores"]
    assert len(scores) == 3 and choice[name]["chosen"] == int(np.argmax(scores))
  assert list(fitted(own, "context")[0]) == ["context"]


@pytest.mark.parametrize("refit", [False, True])
def test_the_numbers_are_those_of_scikit_learn(refit):
  own = samples()
  out, _ = fitted(own, refit=refit, grid={"extra_trees": {"n_estimators": (5,)}})
  x = np.concatenate([own.inputs["S2"], own.inputs["context"]], 1)
  rows = np.concatenate([RUN.train, RUN.validation]) if refit else RUN.train
  rows = rows[(rows % 4 > 0) & (rows != 2)]
  test = RUN.test[RUN.test % 4 > 0]
  for column in (0, 1):
    forest = ExtraTreesRegressor(5, random_state=3).fit(x[rows].astype(np.float32), own.target[rows, column])
    got = out["S2"][RUN.test % 4 > 0, column]
    np.testing.assert_allclose(got, forest.predict(x[test].astype(np.float32)), rtol=1e-5)


def test_test_targets_have_no_influence():
  own = samples()
  changed = own.target.copy()
  changed[RUN.test] = 99.0
  one, two = fitted(own), fitted(dataclasses.replace(own, target=changed))
  assert one[1] == two[1]
  for name in one[0]:
    np.testing.assert_array_equal(one[0][name], two[0][name])
  changed[RUN.validation] = 99.0
  assert fitted(dataclasses.replace(own, target=changed))[1] != one[1]


def test_a_class_that_does_not_occur_in_training_has_probability_zero():
  own = samples("multiclass")
  own.target[:45] = np.minimum(own.target[:45], 1)
  assert (fitted(own)[0]["S1"][:, 2] == 0).all()
  own.target[:45] = 1
  np.testing.assert_array_equal(fitted(own)[0]["S1"][0], [0, 1, 0])


def test_what_trees_cannot_do_is_said():
  own = samples()
  with pytest.raises(InputError, match="seed3_fold0: trees need a validation part that is not scored"):
    fitted(own, run=dataclasses.replace(RUN, test=RUN.validation))
  with pytest.raises(InputError, match="no labelled sample of the training part has S2"):
    fitted(dataclasses.replace(own, present=own.present | {"S2": np.zeros(N)}))
  with pytest.raises(InputError, match="unknown learner 'forest', have: extra_trees, boosting"):
    trees.learners({"forest": {}})


def test_embeddings_are_those_of_the_published_encoder(tmp_path):
  """Beside NumPy; months and the place are read, and the rest of the context is left to the trees."""
  state = presto_files.state_dict(blocks=1)
  config = schema.defaults("presto", "individual")
  config.model.encoder.weights = str(save_torch_file(tmp_path / "presto.pt", state))
  config.model.encoder.num_heads = presto_files.HEADS
  rng, rows = np.random.default_rng(0), 300  # more than a batch
  raw = rng.uniform(-20, -5, (rows, 3, 2)).astype(np.float32)
  raw[1, 2] = np.nan
  months = rng.integers(0, 12, (rows, 3))
  place = rng.normal(size=(rows, 3))
  place = (place / np.linalg.norm(place, axis=1, keepdims=True)).astype(np.float32)
  modalities = [
    Modality("S1", ("S1",), (3, 3), ("vv", "vh", "month"), (), True),
    Modality(CONTEXT, (), (4,), ("slope", *UNIT_VECTOR)),
  ]
  inputs = {
    "S1": np.concatenate([raw, months[..., None]], -1).astype(np.float32),
    CONTEXT: np.concatenate([rng.normal(size=(rows, 1)), place], 1).astype(np.float32),
  }
  found = embeddings.embed(config, modalities, inputs)["S1"]
  some = np.array([0, 1, 255, 256, 299])
  normalised = (raw[some] + 25) / 25
  expected = presto_files.reference(state, normalised, ("VV", "VH"), months[some], place[some])
  assert found.shape == (rows, presto_files.WIDTH)
  np.testing.assert_allclose(found[some], expected, rtol=2e-4, atol=2e-4)
  config.model.encoder.weights = ""
  with pytest.raises(InputError, match="of S1: encoder presto has no weights; weights for one of: galileo"):
    embeddings.embed(config, modalities, inputs)
  config = schema.defaults("tempcnn", "individual")
  with pytest.raises(InputError, match="encoder tempcnn does not know bands"):
    embeddings.embed(config, modalities, inputs)


def test_trees_read_bands_embeddings_or_both():
  own = samples()
  months, embedded = {"S1"}, {m: np.full((N, 2), 7.0, np.float32) for m in ("S1", "S2")}
  width = lambda **more: {m: x.shape[1] for m, (x, _) in trees._inputs(own, "trees", **more).items()}
  assert width() == {"S1": 3 * 2 + 2, "S2": 4 + 2}
  assert width(months=months) == {"S1": 3 + 2, "S2": 4 + 2}  # without the last band
  assert width(embedded=embedded) == {"S1": 3 * 2 + 2 + 2, "S2": 4 + 2 + 2}
  assert width(embedded=embedded, bands=False) == {"S1": 2 + 2, "S2": 2 + 2}
  x, _ = trees._inputs(own, "trees", embedded=embedded, bands=False)["S1"]
  assert (x[:, -2:] == 7).all()


def test_an_arm_of_trees_on_embeddings(tmp_path):
  write_dummy(tmp_path / "training_features.csv", rows=40, sites=10)
  weights = save_torch_file(tmp_path / "presto.pt", presto_files.state_dict(blocks=1))
  settings = {
    "data.manual_dir": str(tmp_path),
    "data.data_dir": str(tmp_path / "prepared"),
    "data.modalities": ("S1",),
    "protocol.folds": 2,
    "model.encoder.weights": str(weights),
    "model.encoder.num_heads": presto_files.HEADS,
  }
  arm = Arm("t", "T", "trees", words="encoder=presto", values=settings, trees=Trees(GRID, inputs=INPUTS))
  common = {key: settings[key] for key in settings if key.startswith(("data", "protocol"))}
  cell = Cell("c", "C", "lfmc:clean", (arm,), common)
  arms.train(tmp_path / "study", cell, arm, "r2", {})
  summary = Results.read(tmp_path / "study/c/t/results.json")
  assert summary.weights["S1"]["file"] == str(weights)
  assert np.isfinite(summary.scores.modalities["S1"]["r2"]["mean"])


@pytest.mark.parametrize(
  "kind, inputs", [("trees", ()), ("trees", ("values",)), ("context", ("embedding",)), ("network", INPUTS)]
)
def test_inputs_that_are_not_known_are_told(kind, inputs):
  arm = Arm("t", "T", kind, trees=Trees(GRID, inputs=inputs))
  study = Study("s", (Cell("c", "C", "synthetic", (arm,)),))
  (line,) = plans._problems(study)
  assert line.startswith("arm c/t: trees read one or both of bands, embedding")
