"""What is computed from all training samples before the first step, beside formulas in NumPy."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax import config
from colearn_jax.deploy.load import load_model
from colearn_jax.methods.base import Network
from colearn_jax.methods.distill import TreeDistillation
from colearn_jax.methods.individual import Individual
from colearn_jax.storage import models
from colearn_jax.training import closed_form, run
from colearn_jax.training.epoch import batched, take
from colearn_jax.training.state import init
from colearn_jax.training.step import as_batch
from colearn_jax.types import InputError, Task
from tests.helpers import by_default
from tests.small_training import BATCH, SHAPES, TRAIN, VALUES, N, architecture, recipe, table

FEW, MANY = 6, 64  # features, less and more than the training rows
DISTILL = TreeDistillation(main=0.5, distillation=2.0)


def given():
  """Sensors, labels and a teacher that are missing in some rows."""
  out = table()
  rng = np.random.default_rng(1)
  out["target"] = np.concatenate([out["target"], rng.normal(5.0, 2.0, (N, 1))], 1).astype(np.float32)
  out["labelled"] = (rng.random(N) > 0.2).astype(np.float32)
  out["present"] = {m: (rng.random(N) > 0.1 + 0.1 * k).astype(np.float32) for k, m in enumerate(SHAPES)}
  out["present"]["radar"][:2] = 0.0, 1.0
  teacher = rng.normal(3.0, 2.0, (N, 2)).astype(np.float32)
  teacher[::7] = np.nan
  return jax.tree.map(jnp.asarray, out), teacher


CLASSES = {"binary": 2, "multiclass": 3, "multilabel": 2}


GROUPS = np.where(np.isin(np.arange(N), TRAIN), np.arange(N) ** 2 % 5, -1).astype(np.int32)


def begun(method, features, ridge=0.3, kind="regression", effect=0.0, own_rounds=None, **settings):
  """A recipe, its state before and after `begin`, and all that it reads."""
  encoder = {"model_type": "kernel", "landmarks": features, "layer_sizes": (), "dropout": 0.0} | settings
  own = architecture(
    encoder=encoder,
    emb_dim=features,
    projection=False,
    standardised=True,
    task=Task(kind, ("x", "y", "z")[: CLASSES.get(kind, 2)]),
  )
  of_sensor = lambda m: encoder | ({"metric_rounds": own_rounds[m]} if own_rounds else {})
  own = dataclasses.replace(own, encoders={m: of_sensor(m) for m in SHAPES})
  r = dataclasses.replace(recipe(1), network=Network(method, own), ridge=ridge, group_effect=effect)
  rows, teacher = given()
  task = {"mean": np.array([1.0, 5.0], np.float32), "std": np.array([2.0, 1.5], np.float32)}
  if kind != "regression":
    number = np.argsort(np.argsort(rows["target"][:, 0])) * CLASSES[kind] // N
    several = np.asarray(rows["target"] > 3, np.float32)
    rows["target"] = jnp.asarray(several if kind == "multilabel" else number.astype(np.int32))
    teacher = np.concatenate([teacher, teacher[:, :1]], 1)[:, : CLASSES[kind]]
    task = {"class_weights": np.arange(1.0, 1.0 + CLASSES[kind], dtype=np.float32)}
  weights = {term: np.float32(getattr(method, term)) for term in method.terms}
  values = VALUES | {"task": task, "weights": weights, "arrays": {"teacher": teacher}}
  values |= {"groups": GROUPS} if effect else {}
  state = jax.jit(functools.partial(init, r))(jax.random.key(3), values)
  order = batched(TRAIN, BATCH)
  params, stats = jax.jit(functools.partial(closed_form.begin, r))(state, rows, order)
  after = dataclasses.replace(state, params=params, stats=stats)
  return r, state, after, rows


def features_of(r, state, rows):
  batch, values = as_batch(r, state, take(rows, jnp.asarray(TRAIN)))
  model = r.network.model(state.params, state.stats)
  return r.method.head_inputs(model, batch.inputs, batch.present), batch, values


@pytest.mark.parametrize("effect", by_default([0.4], [0.0, 0.4]))
@pytest.mark.parametrize("features", [FEW, MANY])
@pytest.mark.parametrize(
  "method", by_default([DISTILL], [Individual(), DISTILL]), ids=["individual", "distill"]
)
def test_heads_are_ridge_regressions_on_target_and_teacher(method, features, effect):
  """By normal equations in float64, with the weights of every row from the definition of the loss.

  With an effect of groups, each group has a column of its own, which the head does not keep.
  """
  r, _, state, rows = begun(method, features, effect=effect)
  inputs, batch, values = features_of(r, state, rows)
  target, labelled = np.asarray(batch.target, np.float64), np.asarray(batch.labelled, np.float64)
  teacher = np.asarray(values.arrays["teacher"], np.float64)[TRAIN]
  known = np.isfinite(teacher).all(1)
  mean, std = (np.asarray(state.values["task"][name], np.float64) for name in ("mean", "std"))
  for m, z in inputs.items():
    z, present = np.asarray(z, np.float64), np.asarray(batch.present[m], np.float64)
    measured = method.main * present * labelled / (present * labelled).sum()
    taught = np.zeros(len(z))
    if method is DISTILL:
      taught = method.distillation * present * known / (present * known).sum()
    weight = measured + taught
    used = weight > 0
    strength = 0.3 * np.square(z[used]).sum(1).mean() * weight[used].mean()
    for column in range(2):
      goal = measured * target[:, column] + taught * np.nan_to_num(teacher[:, column])
      goal = (np.divide(goal, weight, out=np.zeros_like(goal), where=used) - mean[column]) / std[column]
      design = np.concatenate([z, np.ones((len(z), 1))], 1)
      one_hot = np.eye(5)[GROUPS[TRAIN]] if effect else np.zeros((len(z), 0))
      of_group = [weight[used].mean() / effect] * 5 if effect else []
      columns = np.concatenate([design, one_hot], 1)
      penalty = np.diag([strength] * z.shape[1] + [0.0] + of_group)
      want = np.linalg.solve(columns.T * weight @ columns + penalty, columns.T * weight @ goal)
      want = want[: design.shape[1]]
      head = state.params["heads"][m]["out"]
      got = np.append(np.asarray(head["kernel"])[:, column], head["bias"][column])
      np.testing.assert_allclose(design @ got, design @ want, atol=2e-3)


@pytest.mark.parametrize(
  "method", by_default([DISTILL], [Individual(), DISTILL]), ids=["individual", "distill"]
)
@pytest.mark.parametrize("kind", by_default(["regression", "multiclass"], ["regression", *CLASSES]))
def test_no_small_change_of_a_head_lowers_the_objective_with_its_ridge(method, kind):
  """The derivative by a kernel's column is opposed to the column, that by a bias is 0."""
  r, _, state, rows = begun(method, MANY, kind=kind)
  inputs, batch, values = features_of(r, state, rows)

  def strength(m):
    """λ of classes that exclude each other: r is half of a row's weight in the mean over two sensors."""
    known = np.isfinite(values.arrays["teacher"][TRAIN]).all(1) & (method is DISTILL)
    of_class = np.asarray(state.values["task"]["class_weights"])[np.asarray(batch.target)]
    measured, taught = (batch.present[m] * w for w in (of_class * batch.labelled, known))
    weight = method.main * measured / measured.sum()
    weight += method.distillation * taught / taught.sum() if method is DISTILL else 0.0
    used = np.asarray(weight) > 0
    return float(0.3 * (weight[used] / 2 / 2).mean() * np.square(inputs[m][used]).sum(1).mean())

  def objective(heads):
    model = r.network.model(state.params | {"heads": heads}, state.stats)
    return r.method.loss(r.method.forward(model, batch.inputs, batch.present), batch, values)[0]

  for m, slope in jax.grad(objective)(state.params["heads"]).items():
    kernel, of_kernel = (
      np.asarray(a[m]["out"]["kernel"] if m in a else a["out"]["kernel"])
      for a in (state.params["heads"], slope)
    )
    assert np.abs(kernel).max() > 1e-3 and np.abs(slope["out"]["bias"]).max() < 2e-4
    for w, g in zip(kernel.T, of_kernel.T):
      factor = -(w @ g) / (w @ w)
      assert factor > 0
      if kind in ("binary", "multiclass"):
        assert factor == pytest.approx(strength(m), rel=0.02)
      np.testing.assert_allclose(g, -factor * w, atol=0.02 * np.abs(g).max() + 1e-5)


def test_a_learnt_metric_is_that_of_the_gradients_of_the_outputs():
  """Gradients by finite differences of the heads that were solved with the length scales."""
  r, _, fixed, rows = begun(Individual(), MANY, smoothness=2.5)
  batch, _ = as_batch(r, fixed, take(rows, jnp.asarray(TRAIN)))
  model = r.network.model(fixed.params, fixed.stats)

  @jax.jit
  def outputs(inputs):
    read = r.method.head_inputs(model, inputs, batch.present)
    return {m: z @ fixed.params["heads"][m]["out"]["kernel"] for m, z in read.items()}

  _, _, learnt, _ = begun(Individual(), MANY, smoothness=2.5, metric_rounds=1)
  for m, shape in SHAPES.items():
    slopes = []
    for at in np.ndindex(shape):
      step = np.zeros(shape, np.float32)
      step[at] = 0.05
      more, less = (outputs(batch.inputs | {m: batch.inputs[m] + sign * step[None]})[m] for sign in (1, -1))
      slopes.append(np.where(batch.present[m][:, None] > 0, more - less, 0.0) / 0.1)
    slopes = np.stack(slopes, -1).reshape(-1, np.prod(shape)).astype(np.float64)
    values, vectors = np.linalg.eigh(slopes.T @ slopes)
    root = np.sqrt(np.maximum(values, 0))
    metric = vectors * np.sqrt(root / root.sum()) @ vectors.T / 2.0  # of length scale 2: trace 1 / 2²
    got, before = (
      np.asarray(state.stats["encoders"][m]["backbone"]["landmarks"]["metric"]) for state in (learnt, fixed)
    )
    np.testing.assert_allclose(got, metric, atol=0.01 * np.abs(metric).max())
    assert np.abs(got - before).max() > 0.1 * np.abs(metric).max()


def test_each_sensor_has_as_many_rounds_as_it_asks_for():
  metric = lambda state, m: np.asarray(state.stats["encoders"][m]["backbone"]["landmarks"]["metric"])
  _, _, fixed, _ = begun(Individual(), FEW, smoothness=2.5)
  _, _, learnt, _ = begun(Individual(), FEW, smoothness=2.5, own_rounds={"radar": 0, "optical": 1})
  np.testing.assert_array_equal(metric(learnt, "radar"), metric(fixed, "radar"))
  assert np.abs(metric(learnt, "optical") - metric(fixed, "optical")).max() > 1e-3


def test_what_is_computed_before_the_first_step():
  """Heads with a ridge, and encoders that read training samples: of any sensor."""
  plain = recipe(1)
  encoders = plain.network.architecture.encoders
  assert not closed_form.needed(plain) and closed_form.needed(dataclasses.replace(plain, ridge=0.1))
  one = dataclasses.replace(
    plain.network.architecture, encoders=encoders | {"optical": {"model_type": "kernel"}}
  )
  assert closed_form.needed(dataclasses.replace(plain, network=Network(plain.method, one)))


@pytest.mark.parametrize("features", [FEW, MANY])
def test_landmarks_are_training_samples_that_have_the_sensor(features):
  r, before, after, rows = begun(Individual(), features)
  for m in SHAPES:
    old, new = (dict(s.stats["encoders"][m]["backbone"]["landmarks"]) for s in (before, after))
    assert np.abs(old["whitening"] - new["whitening"]).max() > 0
    batch, _ = as_batch(r, before, take(rows, jnp.arange(N)))
    every = np.nan_to_num(np.asarray(batch.inputs[m]).reshape(N, -1))
    found = [int(np.abs(every - point).sum(1).argmin()) for point in np.asarray(new["points"])]
    np.testing.assert_allclose(every[found], new["points"], atol=1e-6)
    allowed = [row for row in TRAIN if rows["present"][m][row] > 0]
    assert set(found) <= set(allowed) and len(set(found)) == min(features, len(allowed))


def test_a_sensor_that_one_sample_has_has_landmarks_there():
  r, before, _, rows = begun(Individual(), FEW)
  rows["present"]["radar"] = jnp.zeros(N).at[5].set(1.0)
  stats = jax.jit(functools.partial(closed_form.fit, r))(before, rows, jnp.asarray(TRAIN))
  batch, _ = as_batch(r, before, take(rows, jnp.array([5])))
  points = np.asarray(stats["encoders"]["radar"]["backbone"]["landmarks"]["points"])
  np.testing.assert_allclose(
    points, np.tile(np.asarray(batch.inputs["radar"]).reshape(1, -1), (FEW, 1)), rtol=1e-6
  )


@pytest.fixture(scope="module")
def lfmc(tmp_path_factory):
  manual, prepared = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("prepared")
  write_dummy(manual / "training_features.csv", rows=72, sites=12)
  small = {"protocol.folds": 2, "model.encoder.landmarks": 16, "model.emb_dim": 16, "train.batch_size": 16}
  small |= {"loss.trees": 10, "loss.teacher_folds": 2}
  return small | {
    "data.manual_dir": str(manual),
    "data.data_dir": str(prepared),
    "data.normalisation": "quantile",
  }


@pytest.mark.long
@pytest.mark.parametrize("replicas", [True, False])
def test_a_run_without_epochs_keeps_the_closed_form_and_predicts_with_it(lfmc, tmp_path, replicas):
  load = lambda: config.load("lfmc_best", lfmc | {"train.replicas": replicas})
  run.run(load(), tmp_path)
  results, files = (tmp_path / "results.json").read_bytes(), sorted((tmp_path / "predictions").iterdir())
  assert len(files) >= 2 and np.isfinite(json.loads(results)["modalities"]["S1_S1Ind"]["r2"]["mean"])
  kept = models.restore(tmp_path / "checkpoints/seed10_fold0")
  assert np.abs(kept["params"]["heads"]["S1_S1Ind"]["out"]["kernel"]).max() > 0
  predicted = load_model(tmp_path, "S2_S2Ind").predict(np.zeros((2, 4, 8), np.float32))
  assert np.isfinite(predicted).all()
  run.run(load(), tmp_path)  # finished: nothing is computed again
  assert (tmp_path / "results.json").read_bytes().split(b'"timing"')[0] == results.split(b'"timing"')[0]


@pytest.mark.parametrize(
  "words, changes, line",
  [
    ("", {"train.ridge": 0.0}, "train.max_epochs: 0 .* an integer >= 1; 0 only with train.ridge"),
    (
      "",
      {"train.ridge": 0.0, "train.max_epochs": 1, "model.encoder.metric_rounds": 1},
      "model.encoder.metric_rounds: 1 .* 0; more only with train.ridge",
    ),
    ("method=mdico", {}, "method: 'mdico' .* a method of: distill, individual"),
    ("", {"loss.huber": 1.0}, "loss.huber: 1.0 .* 0; train.ridge=0.5 solves linear heads in closed form"),
    ("", {"model.head_layers": (8,)}, r"model.head_layers: \(8,\)"),
    ("", {"model.standardised": False}, "model.standardised"),
    ("", {"model.emb_dim": 32}, "without a projection model.emb_dim has to be 16"),
    ("", {"train.ridge": 0.0, "train.max_epochs": 1, "train.group_effect": 0.1}, "only with train.ridge"),
    ("plain", {"train.group_effect": 0.1}, "train.group_effect: 0.1 .* 0 without protocol.group_by or"),
    ("", {"train.group_effect_of": "site"}, "group_effect_of: 'site' .* empty without train.group_effect"),
    ("", {"train.group_effect": 0.1, "train.group_effect_of": "plot"}, "there is no group 'plot', have"),
    ("", {"model.members": 2}, "model.projection: False .* True with model.members=2"),
    ("", {"data.placement": "stream"}, "data.placement=device"),
  ],
)
def test_what_does_not_go_together_is_one_line(lfmc, tmp_path, words, changes, line):
  with pytest.raises(InputError, match=line):
    run.run(config.load(f"lfmc_best:{words}", lfmc | changes), tmp_path)
