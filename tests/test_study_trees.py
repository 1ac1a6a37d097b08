import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from colearn_jax.data.splits import Run
from colearn_jax.evaluation.metrics import HEADLINE
from colearn_jax.methods.base import Samples
from colearn_jax.studies import trees
from colearn_jax.types import KINDS, InputError, Task

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
  return Samples(x, present, target, labelled, None, Task(kind, names))


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
