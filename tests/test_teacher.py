"""Teachers that are learners of scikit-learn: what they read, what they may not, and their students."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from colearn_jax.data import grouping, splits
from colearn_jax.data.apart import Apart
from colearn_jax.methods import tabular
from colearn_jax.methods.base import Samples
from colearn_jax.methods.learners import Learner, normal_scores
from colearn_jax.methods.predict import activate
from colearn_jax.methods.teacher import LEARNERS
from colearn_jax.types import InputError, Task
from tests.helpers import kilometres, sites
from tests.small_methods import (
  KINDS,
  SHAPES,
  a_batch,
  architecture,
  distance,
  filled,
  make,
  masks,
  outputs_of,
  random,
  targets,
  task,
  values,
)

N = 40


def cut(rows, number, seed, apart=None):
  return splits.inner_folds(rows, number, apart or Apart(), seed)


def samples(kind, groups=None, seed=0):
  """A radar sensor, tiles of pixels that some samples lack, and a context."""
  inputs = {"radar": random(N, 3, seed=seed), "tile": random(N, 2, 4, 4, 2, seed=seed + 1)}
  inputs |= {"context": random(N, 2, seed=seed + 2)}
  inputs["radar"][::7, 1] = np.nan
  present = {"radar": np.ones(N, np.float32), "tile": (np.arange(N) % 9 > 0).astype(np.float32)}
  apart = Apart({} if groups is None else {"site": groups})
  folds = functools.partial(cut, apart=apart)
  return Samples(inputs, present, targets(kind, N), np.arange(N) % 5 > 0, task(kind), folds)


def teacher(own, train, seed=1, folds=3, **settings):
  method = make("distill", **{"learners": LEARNERS, "trees": 4, "teacher_folds": folds} | settings)
  return method.arrays(train, own, seed)["teacher"]


def other(kind, target, rows):
  """The targets with others in these rows."""
  changed = target.copy()
  if kind == "regression":
    changed[rows] += 1e3
  else:
    changed[rows] = (changed[rows] + 1) % (2 if kind != "multiclass" else 3)
  return changed


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_sees_no_target_of_its_sample_and_nothing_outside_of_the_training_part(kind):
  own, train = samples(kind), np.arange(2, 32)
  got = teacher(own, train)
  held = np.setdiff1d(np.arange(N), train)
  assert got.shape == (N, len(own.task.outputs)) and got.dtype == np.float32
  assert np.isfinite(got[train]).all() and np.isnan(got[held]).all()
  probabilities = np.asarray(activate(kind, jnp.asarray(got[train])))
  if kind != "regression":
    assert (probabilities > 0).all() and (probabilities < 1).all()
  if kind in ("binary", "multiclass"):
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.exp(got[train]), probabilities, rtol=1e-4)
  np.testing.assert_array_equal(teacher(own, train), got)
  with_other = teacher(dataclasses.replace(own, target=other(kind, own.target, [6])), train)
  np.testing.assert_array_equal(with_other[6], got[6])
  assert not np.array_equal(with_other[train], got[train])
  inputs = {name: x.copy() for name, x in own.inputs.items()}
  for x in inputs.values():
    x[held] = 1e3
  present = {
    name: np.where(np.isin(np.arange(N), held), 1 - there, there) for name, there in own.present.items()
  }
  beyond = dataclasses.replace(own, inputs=inputs, present=present, target=other(kind, own.target, held))
  np.testing.assert_array_equal(teacher(beyond, train), got)
  assert not np.array_equal(teacher(own, train, seed=2), got)


@pytest.mark.long
@pytest.mark.parametrize("learner", LEARNERS)
def test_groups_of_a_teacher_are_not_divided(learner):
  groups = np.repeat(np.arange(8), 5)
  own, train = samples("regression", groups), np.arange(N)
  make_one = lambda own: teacher(own, train, folds=9, learners=(learner,))  # more folds than groups
  got = make_one(own)
  for group in (0, 3):
    changed = make_one(dataclasses.replace(own, target=other("regression", own.target, groups == group)))
    np.testing.assert_array_equal(changed[groups == group], got[groups == group])
    assert not np.array_equal(changed, got)
  with pytest.raises(InputError, match="^folds of a training part need two groups of site, it has 1"):
    make_one(samples("regression", np.zeros(N)))
  few = dataclasses.replace(samples("regression"), labelled=np.arange(N) == 3)
  with pytest.raises(InputError, match="^loss.teacher_folds: no labelled sample is left for fold . of 2"):
    teacher(few, train, folds=2)


RULES = {  # protocol.group_by and the other rules
  "plain": ("", {}),
  "site": ("site", {}),
  "year": ("year", {"purge": 40}),
  "site and year": ("site,year", {"purge": 20}),
  "blocks": ("block", {"buffer_km": 2000.0}),
}


@pytest.mark.parametrize("case", RULES)
def test_folds_of_a_teacher_keep_every_rule_of_the_protocol_for_all_pairs(case):
  group_by, rules = RULES[case]
  site, dates, places, _ = sites(3)
  groups = grouping.features(group_by, {"site": site}, dates=dates, places=places, block_km=2000, seed=0)
  apart = Apart(groups, dates=dates, places=places, **rules)
  train = splits.runs("clean", (0,), {"train": np.arange(len(site))}, folds=4, apart=apart)[1].train
  folds = splits.inner_folds(train, 4, apart, seed=5)
  assert sorted(np.concatenate([held for _, held in folds])) == sorted(train)
  excluded = 0
  for fit, held in folds:
    assert len(fit) and set(fit) <= set(train) - set(held)
    every = np.setdiff1d(train, held)
    broken = np.zeros(len(every), bool)
    for of in groups.values():
      broken |= np.isin(of[every], of[held])
    if "purge" in rules:
      broken |= (np.abs((dates[every][:, None] - dates[held][None]).astype(int)) < rules["purge"]).any(1)
    if "buffer_km" in rules:
      broken |= (kilometres(places[every], places[held]) < rules["buffer_km"]).any(1)
    np.testing.assert_array_equal(fit, every[~broken])
    excluded += broken.sum()
  assert bool(excluded) == (case in ("year", "site and year", "blocks"))  # groups of one feature are whole
  draws = {tuple(tuple(held) for _, held in splits.inner_folds(train, 4, apart, seed)) for seed in range(4)}
  assert len(draws) > 1


def test_two_samples_are_enough_for_folds():
  folds = splits.inner_folds(np.array([3, 7]), 5, Apart(), seed=0)
  assert sorted((fit.tolist(), held.tolist()) for fit, held in folds) == [([3], [7]), ([7], [3])]
  with pytest.raises(InputError, match="need two samples, it has 1"):
    splits.inner_folds(np.array([3]), 5, Apart(), seed=0)


# What learners do.


@pytest.mark.long
def test_a_teacher_is_the_mean_of_its_learners():
  own, train = samples("regression"), np.arange(N)
  each = [teacher(own, train, learners=(name,)) for name in LEARNERS]
  np.testing.assert_allclose(teacher(own, train), np.mean(each, axis=0), rtol=1e-5)
  own = samples("multiclass")
  each = [np.exp(teacher(own, train, learners=(name,))) for name in LEARNERS]
  np.testing.assert_allclose(np.exp(teacher(own, train)), np.mean(each, axis=0), rtol=1e-4)
  assert not np.allclose(each[0], each[2], atol=0.05)


@pytest.mark.parametrize("name", ["extra_trees", "boosting", "svm"])
def test_learners_learn_and_take_missing_values(name):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(300, 5)).astype(np.float32)
  y = (1e3 + 50 * np.sin(2 * x[:, :1]) + 20 * x[:, 1:2] ** 2).astype(np.float32)
  x[::11, 2], x[::13, 3], x[:, 4] = np.nan, np.inf, np.nan
  learner = Learner(name, {"min_samples_leaf": 3} if name == "boosting" else {})
  predict = functools.partial(learner.predict, Task("regression", ("y",)))
  got = predict(x[:200], y[:200], x[200:], 0)
  assert np.corrcoef(got[:, 0], y[200:, 0])[0, 1] > 0.8
  classes = np.digitize(y[:, 0], [990, 1020]).astype(np.int32)
  many = Learner(name, {}, balanced=True).predict(Task("multiclass", tuple("abcd")), x, classes, x, 0)
  assert (many.argmax(1) == classes).mean() > 0.7 and not many[:, 3].any()
  np.testing.assert_allclose(many.sum(1), 1.0, rtol=1e-5)
  one = learner.predict(Task("binary", ("a", "b")), x, np.ones(300, np.int32), x, 0)
  assert (one == [0, 1]).all()
  # A column without a value, and values beyond those that were seen.
  extreme = np.full((2, 5), np.nan, np.float32)
  extreme[1] = 1e30
  assert np.isfinite(predict(x[:200], y[:200], extreme, 0)).all()
  np.testing.assert_allclose(
    predict(extreme[:, :1] * np.nan, y[:2], extreme[:, :1], 0), y[:2].mean(), rtol=0.1
  )


def test_normal_scores_by_hand():
  x = np.array([[1.0, 7.0, np.nan], [2.0, 7.0, np.nan], [4.0, 7.0, np.nan]])
  own, rows = normal_scores(x, np.array([[3.0, 7.0, 5.0], [np.inf, 1.0, 1.0], [9.0, 0.0, 0.0]]))
  assert own.shape == rows.shape == (3, 1)
  np.testing.assert_allclose(own[1, 0], 0.0, atol=1e-9)  # the median
  np.testing.assert_allclose(own[0, 0], -own[2, 0])
  assert rows[1, 0] == 0.0  # missing
  np.testing.assert_allclose(rows[2, 0], own[2, 0])  # beyond the greatest value
  np.testing.assert_allclose(scipy.special.ndtr(rows[0, 0]), 0.75, rtol=1e-3)


def test_a_teacher_knows_all_classes_and_labels_of_the_task():
  """Also those that no sample of the training part has, or that all have."""
  own, train = samples("multiclass"), np.arange(N)
  own = dataclasses.replace(own, target=np.where(own.target == 1, 0, own.target), folds=cut)
  got = teacher(own, train, folds=2)
  fitted = [own.labelled[fit].sum() for fit, _ in cut(train, 2, 1)]
  for (_, held), n in zip(cut(train, 2, 1), fitted):
    np.testing.assert_allclose(np.exp(got[held, 1]), (1 / 3) / (n + 1), rtol=1e-5)
  own = samples("multilabel")
  own.target[:, 2], own.target[:, 1] = 1.0, 0.0
  got = teacher(own, train, folds=2)
  for (_, held), n in zip(cut(train, 2, 1), fitted):
    np.testing.assert_allclose(scipy.special.expit(got[held, 1]), 0.5 / (n + 1), rtol=1e-5)
    np.testing.assert_allclose(scipy.special.expit(got[held, 2]), (n + 0.5) / (n + 1), rtol=1e-5)


def test_balanced_teachers_weight_rare_classes_more():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(300, 2)).astype(np.float32)
  rare = (rng.random(300) < 0.1).astype(np.int32)
  own = Samples({"radar": x}, {"radar": np.ones(300)}, rare, np.ones(300, bool), task("binary"), cut)
  mean = lambda own: np.exp(teacher(own, np.arange(300), learners=("svm",)))[:, 1].mean()
  assert mean(own) < 0.2 and mean(dataclasses.replace(own, balanced=True)) > 0.35


def test_tables_have_means_and_deviations_of_pixels():
  own, rows = samples("regression"), np.arange(N)
  got = tabular.tabulated(own, rows)
  assert got.shape == (N, 2 + 3 + 2 * 2 * 2 + 2)
  tile = own.inputs["tile"]
  both = np.concatenate([tile.mean((2, 3)), tile.std((2, 3))], axis=-1).reshape(N, -1)
  there = own.present["tile"] > 0
  np.testing.assert_allclose(got[there, 5:13], both[there], rtol=1e-4, atol=1e-6)
  assert np.isnan(got[~there, 5:13]).all() and np.isnan(got[::7, 3]).all()
  np.testing.assert_array_equal(got[:, 14], own.present["tile"])


# Students.


@pytest.mark.parametrize("kind", KINDS)
def test_students_learn_from_the_teacher_and_the_target(kind):
  method, outputs = make("distill", teacher_temperature=2.0), outputs_of(kind, 0)
  said = np.array(outputs_of(kind, 20)["radar"])
  said[[1, 4]] = np.nan  # held-out rows
  present = masks(radar=(2,), thermal=(0, 2, 3, 5))
  batch = a_batch(kind, present=present, labelled=[1, 0, 1, 1, 1, 1])
  batch = batch.replace(row=jnp.array([5, 4, 3, 2, 1, 0]))
  given = values(method, kind, arrays={"teacher": jnp.asarray(said)}, distillation=3.0, main=0.5)
  loss, terms = method.loss(outputs, batch, given)
  rows = {"radar": [0, 3, 5], "optical": [0, 2, 3, 5]}
  want = {m: distance(kind, outputs[m], said[::-1], rows[m], 2.0) for m in rows}
  for m, value in want.items():
    np.testing.assert_allclose(terms[f"distillation/{m}"], value, rtol=1e-5)
  np.testing.assert_allclose(terms["total/distillation"], 3 * np.mean(list(want.values())), rtol=1e-5)
  alone = make("individual").loss(outputs, batch, given)[0]
  np.testing.assert_allclose(terms["total/main"], alone, rtol=1e-6)
  np.testing.assert_allclose(loss, alone + terms["total/distillation"], rtol=1e-6)
  grads = jax.grad(lambda o: method.loss(o, batch, given)[0])(outputs)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  off = make("distill", distillation=0.0)
  assert off.reads is None and not off.uses_unlabelled
  assert off.loss(outputs, batch, values(off, kind, main=0.5))[0] == alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ablated", [False, True])
def test_a_teacher_in_the_place_of_the_target(kind, ablated):
  """Rows with a teacher do not count by their target; rows without, those of the validation part, do."""
  method, outputs = make("distill", main=0.0, distillation=2.0), outputs_of(kind, 0)
  said = np.array(outputs_of(kind, 20)["radar"])
  batch, known = a_batch(kind, present=masks(thermal=range(6))), jnp.asarray(said)
  given = values(method, kind, arrays={"teacher": known})
  if ablated:  # of another run of the stack the weight is not 0, so that it is no constant
    given.weights["main"] = jnp.float32(0.0)
  else:
    assert "main" not in given.weights
  loss, terms = method.loss(outputs, batch, given)
  assert terms["total/main"] == 0.0 and terms["main/radar"] > 0.0
  np.testing.assert_allclose(loss, terms["total/distillation"], rtol=1e-6)
  changed = batch.replace(target=jnp.asarray(other(kind, np.array(batch.target), [0, 2])))
  assert method.loss(outputs, changed, given)[0] == loss
  nobody = given.replace(arrays={"teacher": jnp.full_like(known, jnp.nan)})
  loss, terms = method.loss(outputs, batch, nobody)
  alone = make("individual").loss(outputs, batch, values(make("individual"), kind))[0]
  np.testing.assert_allclose(loss, alone, rtol=1e-6)
  assert terms["total/distillation"] == 0.0


def test_mdico_with_a_teacher_is_mdico_and_its_distance():
  kind, method = "multiclass", make("mdico", distillation=2.0)
  said = jnp.asarray(random(6, 3, seed=9))
  batch, given = a_batch(kind), values(method, kind, arrays={"teacher": said})
  outputs = method.forward(*_built(method), masks())
  loss, terms = method.loss(outputs, batch, given)
  plain = make("mdico", distillation=0.0)
  want = plain.loss(outputs, batch, values(plain, kind))[0]
  each = [distance(kind, outputs.prediction[m], said, list(range(6))) for m in SHAPES]
  np.testing.assert_allclose(loss, want + 2 * np.mean(each), rtol=1e-5)
  assert set(terms) > {f"distillation/{m}" for m in SHAPES}


def _built(method):
  model = filled(lambda: method.build(architecture("multiclass"), rngs=nnx.Rngs(0)))
  return model, {m: jnp.asarray(random(6, *shape)) for m, shape in SHAPES.items()}
