import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from colearn_jax.data import stream
from colearn_jax.data.augment import Augment
from colearn_jax.methods.individual import Individual
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.methods.predict import activate, normalise
from colearn_jax.nn import random
from colearn_jax.parallel import sharding
from colearn_jax.training import epoch as epoch_lib
from colearn_jax.training import on_device, streaming
from colearn_jax.training.epoch import batched, end_epoch, take, train_epoch
from colearn_jax.training.optimizer import (
  Average,
  Optimizer,
  decayed,
  layer_decay,
  make_optimizer,
  make_schedule,
)
from colearn_jax.training.state import init
from colearn_jax.training.step import as_batch, eval_step, mean_terms, predict_step, present_rows, train_step
from colearn_jax.types import InputError
from tests.small_training import (
  BATCH,
  SHAPES,
  TRAIN,
  VALIDATION,
  VALUES,
  N,
  close,
  constant_rate,
  recipe,
  table,
)


@functools.cache
def programs(devices=8):
  r = recipe(devices)
  jit = functools.partial(jax.jit, out_shardings=sharding.whole(r.mesh))
  return jit(functools.partial(init, r)), jit(functools.partial(train_epoch, r))


def epochs(count, devices=8):
  begin, epoch = programs(devices)
  place = functools.partial(jax.device_put, device=sharding.whole(recipe(devices).mesh))
  state, logs = begin(jax.random.key(0), place(VALUES)), []
  for _ in range(count):
    rows = place((batched(TRAIN, BATCH), batched(VALIDATION, BATCH)))
    state, terms = epoch(state, place(table()), *rows)
    logs.append(jax.device_get(terms))
  return state, logs


def test_rows_of_a_batch_and_their_weights():
  rows = jnp.array([2, -1, 0, 5])
  inputs, present = {"b": jnp.arange(6.0), "a": jnp.arange(6.0) + 10}, {"b": jnp.ones(6), "a": jnp.ones(6)}
  present["b"] = present["b"].at[5].set(0.0)
  got = take({"inputs": inputs, "present": present}, rows)
  np.testing.assert_array_equal(got["inputs"]["b"], [2, 0, 0, 5])
  np.testing.assert_array_equal([got["present"][m] for m in "ab"], [[1, 0, 1, 1], [1, 0, 1, 0]])
  one = take({"inputs": inputs, "present": present}, rows, one_sensor_each=True)["present"]
  np.testing.assert_array_equal([one[m] for m in "ab"], [[1, 0, 0, 0], [0, 0, 1, 0]])


def test_stacked_runs_are_padded_with_batches_of_no_row():
  got = on_device._padded([batched(np.arange(3), 2), batched(np.arange(10, 15), 2)])
  np.testing.assert_array_equal(got[0], [[0, 1], [2, -1], [-1, -1]])
  np.testing.assert_array_equal(got[1], [[10, 11], [12, 13], [14, -1]])


def test_means_of_terms_are_over_rows_of_the_steps_that_were_made():
  """The last two steps have no row."""
  terms = {"loss": [1.0, np.nan, 5.0, 0.0, 0.0], "skipped": [0.0, 1.0, 0.0, 0.0, 0.0]}
  terms["learning_rate"] = [0.3, 0.2, 0.1, 0.0, 0.0]
  got = mean_terms({k: jnp.array(v) for k, v in terms.items()}, jnp.array([3.0, 4.0, 1.0, 0.0, 0.0]))
  assert {k: round(float(v), 6) for k, v in got.items()} == {"loss": 2, "skipped": 1, "learning_rate": 0.1}


def test_rates_decrease_towards_the_input_of_a_backbone():
  of = Optimizer(optax.identity(), lambda *_: jnp.float32(0.1), depths=layer_decay(0.5, {"S1": 2}))
  at = {"blocks/1/dense": 0.5, "blocks/0/dense": 0.25, "embed": 0.125, "norm/scale": 1.0}
  assert {path: of.factor(f"unique/S1/backbone/{path}") for path in at} == at
  assert of.factor("unique/S2/backbone/embed") == of.factor("unique/S1/linear/kernel") == 1.0


@pytest.mark.parametrize("kind", ["factors", "depths"])
def test_frozen_parameters_have_no_gradient(kind):
  of = Optimizer(optax.identity(), lambda *_: jnp.float32(0.1), **{kind: {"^a/": 0.0, "^b/": 0.5}})
  params = {name: {"x": jnp.ones(2)} for name in "abc"}
  grads = jax.grad(lambda p: sum(leaf.sum() for leaf in jax.tree.leaves(of.trained(p))))(params)
  assert {name: float(grads[name]["x"][0]) for name in "abc"} == {"a": 0.0, "b": 1.0, "c": 1.0}


@pytest.mark.long
def test_eight_devices_give_the_losses_of_one():
  """Batch statistics, negatives and dropout are those of the global batch however it is split."""
  for one, eight in zip(epochs(3, devices=1)[1], epochs(3, devices=8)[1]):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4), one, eight)


@pytest.mark.long
def test_training_learns_and_counts():
  state, logs = epochs(6)
  assert logs[-1]["train"]["total/main"] < 0.7 * logs[0]["train"]["total/main"]
  assert int(state.epoch) == 6 and int(state.step) == 12
  for part in ("train", "validation"):
    names = {n for n in logs[0][part] if not n.startswith("total") and n != "learning_rate"}
    pairs = {"contrastive/radar__optical", "objective"}
    assert names == pairs | {f"{t}/{m}" for t in ("main", "auxiliary", "discriminative") for m in SHAPES}
  objectives = [log["validation"]["objective"] for log in logs]
  assert float(state.best.objective) == min(objectives)
  assert int(state.best.epoch) == 1 + int(np.argmin(objectives))


@pytest.mark.long
@pytest.mark.parametrize("streamed", [False, True])
def test_an_epochs_terms_are_the_means_over_the_rows_of_several_batches(streamed):
  """28 training and 24 validation rows in batches of 16: whole batches count more than the padded ones."""
  r, rows = recipe(1), np.arange(16, 40)
  state = programs(1)[0](jax.random.key(0), VALUES)
  whole = jax.tree.map(jnp.asarray, table())
  order = random.epoch_rows(
    jax.random.key_data(random.stream(state.key, "order")), 0, jnp.asarray(batched(TRAIN, BATCH))
  )
  step, evaluate = (jax.jit(functools.partial(f, r)) for f in (train_step, eval_step))
  now, want = state, {"train": [], "validation": []}
  for part in order:
    batch = take(whole, part)
    now, terms = step(now, batch)
    want["train"].append((terms, float(present_rows(batch))))
  for part in batched(rows, BATCH):
    batch = take(whole, jnp.asarray(part))
    want["validation"].append((evaluate(now, batch), float(present_rows(batch))))
  assert [count for _, count in want["train"]] == [16, 12]
  assert [count for _, count in want["validation"]] == [16, 8]
  if streamed:
    got = through_the_stream(r, state, whole, order, rows)
  else:
    one = jax.jit(functools.partial(train_epoch, r))
    got = one(state, whole, batched(TRAIN, BATCH), batched(rows, BATCH))[1]
  for part, batches in want.items():
    for name in batches[0][0]:
      mean = np.average([terms[name] for terms, _ in batches], weights=[count for _, count in batches])
      if name != "learning_rate":
        np.testing.assert_allclose(got[part][name], mean, rtol=2e-4, atol=1e-6, err_msg=f"{part} {name}")


def through_the_stream(r, state, whole, order, rows):
  """The same epoch by the programs of `training.streaming`."""
  zeros = lambda terms: {"sums": dict.fromkeys(terms, jnp.zeros(())), "count": jnp.zeros(())}
  stack = epoch_lib.stacked(state)
  trained = zeros(jax.eval_shape(functools.partial(train_step, r), state, take(whole, order[0]))[1])
  seen = zeros(jax.eval_shape(functools.partial(eval_step, r), state, take(whole, order[0])))
  for part in order:
    stack, trained, _ = jax.jit(functools.partial(streaming._train, r))(stack, trained, take(whole, part))
  for part in batched(rows, BATCH):
    batch = take(whole, jnp.asarray(part))
    seen, _ = jax.jit(functools.partial(streaming._validate, r))(stack, seen, batch)
  return epoch_lib.only(streaming._end(r, stack, trained, seen)[1])


@pytest.mark.long
def test_padding_changes_no_term():
  state, _ = epochs(0)
  whole = jax.tree.map(jnp.asarray, table())
  evaluate = jax.jit(functools.partial(eval_step, recipe()))
  padded = evaluate(state, take(whole, jnp.asarray(batched(VALIDATION, BATCH)[0])))
  exact = evaluate(state, take(whole, jnp.asarray(VALIDATION)))
  for name, value in exact.items():
    np.testing.assert_allclose(padded[name], value, rtol=1e-5)


@pytest.mark.long
def test_an_epoch_sees_every_row_once_in_a_new_order():
  seen = []

  def spy(r, state, batch):
    jax.debug.callback(
      lambda y, p: seen.append(np.asarray(y)[np.asarray(p) > 0, 0]),
      batch["target"],
      batch["present"]["radar"],
    )
    return original(r, state, batch)

  original = epoch_lib.train_step
  one = recipe(1)
  epoch_lib.train_step = spy
  try:
    state = programs(1)[0](jax.random.key(0), VALUES)
    run = jax.jit(functools.partial(train_epoch, one))
    for _ in range(2):
      state, _ = run(state, table(), batched(TRAIN, BATCH), batched(VALIDATION, BATCH))
    jax.effects_barrier()
  finally:
    epoch_lib.train_step = original
  first, second = np.concatenate(seen[:2]), np.concatenate(seen[2:])
  want = np.sort(table()["target"][TRAIN, 0])
  np.testing.assert_array_equal(np.sort(first), want)
  np.testing.assert_array_equal(np.sort(second), want)
  assert (first != second).any()


@pytest.mark.long
def test_early_stopping_and_a_finished_state_stays():
  state, _ = epochs(0)
  stop = jax.jit(functools.partial(end_epoch, recipe(patience=2)))
  history = [5.0, 4.0, 3.995, 3.0, 2.999, 2.998]  # min_delta 0.01, patience 2
  waits, done = [], []
  for objective in history:
    state = stop(state, jnp.float32(objective))
    waits.append(int(state.stop.wait))
    done.append(bool(state.stop.done))
  assert waits == [0, 0, 1, 0, 1, 2]
  assert done == [False] * 5 + [True]
  assert float(state.best.objective) == np.float32(2.998) and int(state.best.epoch) == 6
  place = functools.partial(jax.device_put, device=sharding.whole(recipe().mesh))
  rows = place((batched(TRAIN, BATCH), batched(VALIDATION, BATCH)))
  after, terms = programs()[1](state, place(table()), *rows)
  same = lambda a, b: np.testing.assert_array_equal(
    jax.random.key_data(a) if a.dtype == state.key.dtype else a,
    jax.random.key_data(b) if b.dtype == state.key.dtype else b,
  )
  jax.tree.map(same, state, after)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(terms))


def test_the_best_epoch_keeps_its_own_parameters():
  state, _ = epochs(0)
  stop = jax.jit(functools.partial(end_epoch, recipe()))
  good = stop(state, jnp.float32(1.0))
  worse = stop(good.replace(params=jax.tree.map(lambda p: p + 1, good.params)), jnp.float32(2.0))
  jax.tree.map(np.testing.assert_array_equal, worse.best.params, good.params)
  assert int(worse.best.epoch) == 1 and int(worse.epoch) == 2


def test_an_epoch_counts_that_is_better_by_the_least_difference():
  """`min_delta` is 0.01, and the patience two epochs; of two epochs alike the first is kept."""
  state = programs()[0](jax.random.key(0), VALUES)
  stop = jax.jit(functools.partial(end_epoch, recipe(patience=2)))
  seen = []
  for objective in (1.0, 0.995, 0.98, 0.98, 0.985):
    state = stop(state, jnp.float32(objective))
    seen.append((int(state.stop.wait), int(state.best.epoch), bool(state.stop.done)))
  assert seen == [(0, 1, False), (1, 2, False), (0, 3, False), (1, 3, False), (2, 3, True)]
  stop = jax.jit(functools.partial(end_epoch, recipe(min_delta=0.0)))
  state = stop(stop(programs()[0](jax.random.key(0), VALUES), jnp.float32(1.0)), jnp.float32(1.0))
  assert int(state.stop.wait) == 1


ALONE = Individual()
VALUES_ALONE = VALUES | {"weights": {"main": np.float32(1.0)}}


def one_step(batch, state=None, **changes):
  """The state before and after a step of `individual`, and its terms."""
  r = recipe(1, method=ALONE, encoder=(("model_type", "gru"),), **changes)
  before = state or jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES_ALONE)
  return before, *jax.jit(functools.partial(train_step, r))(before, batch)


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_that_is_not_finite_changes_nothing():
  good = jax.tree.map(jnp.asarray, take(table(), batched(TRAIN, BATCH)[0]))
  bad = good | {"target": good["target"].at[3].set(jnp.inf)}
  begun, plain, terms = one_step(good)
  assert "skipped" not in terms and int(plain.step) == 1
  for nonfinite in ("skip", "stop"):
    _, after, terms = one_step(good, nonfinite=nonfinite)
    equal(after.params, plain.params)
    assert int(after.step) == 1 and int(after.faults.step) == -1 == int(after.faults.epoch)
    assert terms.get("skipped", 0.0) == 0.0 and ("skipped" in terms) == (nonfinite == "skip")
    before, fault, terms = one_step(bad, dataclasses.replace(begun, epoch=jnp.int32(7)), nonfinite=nonfinite)
    equal(fault.params, before.params)
    equal(fault.opt_state, before.opt_state)
    skips = nonfinite == "skip"
    assert int(fault.step) == skips and (int(fault.faults.step), int(fault.faults.epoch)) == (0, 7)
    assert terms.get("skipped", 1.0) == 1.0
    _, later, _ = one_step(good, dataclasses.replace(fault, epoch=jnp.int32(4)), nonfinite=nonfinite)
    changed = [np.any(a != b) for a, b in zip(jax.tree.leaves(later.params), jax.tree.leaves(fault.params))]
    assert any(changed) == skips and int(later.step) == 2 * skips
    _, again, _ = one_step(bad, dataclasses.replace(later, epoch=jnp.int32(4)), nonfinite=nonfinite)
    assert (int(again.faults.step), int(again.faults.epoch)) == (0, 7)  # the first one is kept


def test_a_state_has_its_teachers_and_its_progress():
  r = recipe(1, method=ALONE, max_epochs=4)
  state = jax.jit(functools.partial(init, r))(
    jax.random.key(0), VALUES_ALONE, frozen={"fusion": {"w": jnp.ones(2)}}
  )
  assert state.frozen["fusion"]["w"].tolist() == [1.0, 1.0]
  zeros = jax.tree.map(jnp.zeros_like, {"encoders": {"radar": state.params["encoders"]["radar"]}})
  from_file = init(r, jax.random.key(0), VALUES_ALONE, pretrained={"params": zeros})
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(from_file.params["encoders"]["radar"]))
  close(jax.device_get(from_file.params["heads"]), jax.device_get(state.params["heads"]))
  close(jax.device_get(from_file.params["encoders"]["optical"]), state.params["encoders"]["optical"])
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  seen = [as_batch(r, dataclasses.replace(state, epoch=jnp.int32(k)), batch)[1].progress for k in (0, 1, 3)]
  assert np.asarray(seen).tolist() == [0.0, 0.25, 0.75]
  linear = make_optimizer("sgd", learning_rate=0.1, max_epochs=4, schedule="linear")
  later = dataclasses.replace(state, step=jnp.int32(1), opt_state=linear.transform.init(state.params))
  step = jax.jit(functools.partial(train_step, dataclasses.replace(r, optimizer=linear)))
  assert float(step(later, batch)[1]["learning_rate"]) == pytest.approx(0.1 * (1 - 1 / 8))  # of 8 steps


def test_microbatches_without_batch_statistics_change_nothing():
  batch = jax.tree.map(jnp.asarray, take(table(), batched(TRAIN, BATCH)[0]))
  (_, whole, terms), (_, parts, others) = (one_step(batch, microbatches=n) for n in (1, 4))
  close(jax.device_get(parts.params), jax.device_get(whole.params))
  close(jax.device_get(others), jax.device_get(terms))


def test_a_stack_of_uneven_runs_makes_no_step_without_rows():
  """The row of number 0 is one; the second batch has none."""
  r = recipe(1, method=ALONE, encoder=(("model_type", "gru"),))
  state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES_ALONE)
  rows = np.full((2, BATCH), -1, np.int32)
  rows[0, 0] = 0
  epoch = jax.jit(functools.partial(train_epoch, r, uneven=True))
  after, _ = epoch(state, table(), rows, batched(VALIDATION, BATCH))
  assert int(after.step) == 1 and int(after.epoch) == 1


def test_nothing_is_traced_twice():
  r = recipe(1)
  once = chex.assert_max_traces(lambda *args: train_epoch(r, *args), n=1)
  epoch = jax.jit(once, donate_argnums=0)
  state = programs(1)[0](jax.random.key(0), VALUES)
  for _ in range(3):
    state, _ = epoch(state, table(), batched(TRAIN, BATCH), batched(VALIDATION, BATCH))


def test_activations():
  logits = jnp.array([[0.0, 2.0]])
  np.testing.assert_allclose(activate("multiclass", logits).sum(), 1.0, rtol=1e-6)
  np.testing.assert_allclose(activate("multilabel", logits)[0, 0], 0.5)
  np.testing.assert_array_equal(activate("regression", logits), logits)


def test_integers_are_normalised_as_the_numbers_they_are():
  x = np.array([[[200, 7]], [[0, 255]]], np.uint8)
  constants = {"m": {"offset": np.array([100.0, 8.0]), "scale": np.array([10.0, 0.5])}}
  got = jax.jit(normalise)({"m": x}, constants)["m"]
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, (x.astype(np.float64) - [100, 8]) / [10, 0.5], rtol=1e-6)


@pytest.mark.long
def test_augmented_steps_train_on_something_else_and_stay_finite():
  given = table()
  given["inputs"]["optical"][3] = np.nan
  batch = take(jax.tree.map(jnp.asarray, given), jnp.arange(BATCH))
  batch["present"]["optical"] = batch["present"]["optical"].at[3].set(0)
  after = {}
  for augment in (None, Augment(time_shift=1, time_dropout=0.3, noise=0.1)):
    r = recipe(1, augment=augment)
    state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
    after[augment], terms = jax.jit(functools.partial(train_step, r))(state, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after[augment].params, terms)))
  leaves = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(s.params)]) for s in after.values()]
  assert np.abs(leaves[0] - leaves[1]).max() > 1e-4


# Random draws.


def test_the_order_is_the_same_on_the_device_and_on_the_host():
  key, rows = random.run_key(3, 1), batched(TRAIN, BATCH)
  words = np.asarray(jax.random.key_data(random.stream(key, "order")))
  order = stream.Order(words, rows)
  for epoch in (0, 1, 5):
    device = jax.jit(random.epoch_rows)(words, jnp.int32(epoch), jnp.asarray(rows))
    np.testing.assert_array_equal(device, random.epoch_rows(words, epoch, rows, xp=np))
    here = [order[epoch * rows.size + i] for i in range(rows.size)]
    np.testing.assert_array_equal(np.ravel(device), here)
    assert sorted(here) == sorted(rows.ravel()) and here[-4:] == [-1] * 4


def test_the_order_of_a_run_does_not_depend_on_the_padding_of_its_stack():
  words = jax.random.key_data(random.stream(random.run_key(0, 0), "order"))
  alone = np.ravel(random.epoch_rows(words, 2, jnp.asarray(batched(TRAIN, BATCH))))
  longer = np.full((4, BATCH), -1, np.int32)
  longer[:2] = batched(TRAIN, BATCH)
  in_a_stack = np.ravel(random.epoch_rows(words, 2, jnp.asarray(longer)))
  np.testing.assert_array_equal(in_a_stack[: len(alone)], alone)


def test_every_place_is_as_likely_in_an_order():
  words = jax.random.key_data(random.stream(random.run_key(0, 0), "order"))
  rows = jnp.arange(8)[None]
  orders = jax.vmap(lambda epoch: random.epoch_rows(words, epoch, rows)[0])(jnp.arange(4000))
  counts = np.stack([np.bincount(orders[:, place], minlength=8) for place in range(8)])
  chi2 = ((counts - 500) ** 2 / 500).sum()  # 49 degrees of freedom, deviation 10
  assert 15 < chi2 < 100
  pairs = np.bincount(orders[:, 0] * 8 + orders[:, 1], minlength=64).reshape(8, 8)
  assert np.all(np.diag(pairs) == 0) and pairs[~np.eye(8, dtype=bool)].min() > 40


def test_streams_differ_and_no_other_name_is_allowed():
  key = random.run_key(1, 2)
  words = {tuple(np.asarray(jax.random.key_data(random.stream(key, name, 0)))) for name in random.STREAMS}
  assert len(words) == len(random.STREAMS)
  with pytest.raises(ValueError, match="unknown random stream 'noise', have: init, landmarks, order"):
    random.stream(key, "noise")


def test_augmentation_does_not_change_what_dropout_draws(monkeypatch):
  """They drew from one key before; each has a stream of its own."""
  drawn, original = [], random.stream

  def spy(key, name, number=None):
    drawn.append(name)
    return original(key, name, number)

  monkeypatch.setattr(random, "stream", spy)
  state = jax.eval_shape(functools.partial(init, recipe(1)), jax.random.key(0), VALUES)
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  jax.eval_shape(functools.partial(train_step, recipe(1, augment=Augment(noise=0.1))), state, batch)
  assert drawn == ["init", "augment", "dropout", "sensors", "method"]


# The optimizer.


def updated(optimizer, steps=1):
  r = dataclasses.replace(recipe(1, encoder=(("dropout", 0.0),)), optimizer=optimizer)
  state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  step, before = jax.jit(functools.partial(train_step, r)), state
  for _ in range(steps):
    state, terms = step(state, batch)
  return before, state, terms


@pytest.mark.parametrize(
  ("name", "reference"),
  [
    ("adam", optax.adam(0.01)),
    ("adamw", optax.adamw(0.01, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p))),
    ("lamb", optax.lamb(0.01)),
    ("lion", optax.lion(0.01, weight_decay=0.0)),
    ("nadam", optax.nadam(0.01)),
    ("radam", optax.radam(0.01)),
    ("rmsprop", optax.rmsprop(0.01, momentum=0.9)),
    ("sgd", optax.sgd(0.01, momentum=0.9)),
  ],
)
def test_optimizers_are_optax_s(name, reference):
  decay = 0.1 if name == "adamw" else 0.0
  own = make_optimizer(name, learning_rate=0.01, max_epochs=3, weight_decay=decay)
  params = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
  grads = {"layer": {"kernel": jnp.linspace(-1, 1, 6).reshape(3, 2), "bias": jnp.array([0.5, -2.0])}}
  ours, theirs, states = params, params, (own.transform.init(params), reference.init(params))
  for _ in range(3):
    ours, first = own.update(grads, states[0], ours, own.schedule(0, 1))
    updates, second = reference.update(grads, states[1], theirs)
    theirs, states = optax.apply_updates(theirs, updates), (first, second)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def sgd(rate=1.0, **settings):
  return make_optimizer("sgd", learning_rate=rate, max_epochs=1, momentum=0.0, **settings)


def test_weight_decay_spares_tables_and_tokens():
  """They are matrices by their shape alone."""
  shapes = {"a/kernel": (2, 3), "a/bias": (3,), "a/bias_hh": (2, 3), "a/table": (4, 3), "b/token": (1, 3)}
  params = {path: np.zeros(shape) for path, shape in shapes.items()}
  assert {path for path, yes in decayed(params).items() if yes} == {"a/kernel"}


@pytest.mark.long
def test_weight_decay_spares_biases_norms_and_vectors():
  before, after, _ = updated(sgd(weight_decay=0.5))
  plain = updated(sgd())[1]
  flat = lambda s: {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(s.params)}
  old, decayed, kept = flat(before), flat(after), flat(plain)
  for path, value in decayed.items():
    shrunk = kept[path] - 0.5 * old[path] if old[path].ndim > 1 else kept[path]
    np.testing.assert_allclose(value, shrunk, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.long
def test_parts_learn_more_slowly_or_not_at_all():
  rates = {"unique/radar": 0.0, "unique": 0.5}
  fast, slow = updated(sgd(0.1)), updated(sgd(0.1, rates=rates))

  def moved(run, *path):
    change = jax.tree.map(jnp.subtract, run[1].params, run[0].params)
    return functools.reduce(lambda tree, key: tree[key], path, change)

  jax.tree.map(lambda d: np.testing.assert_array_equal(d, 0.0), moved(slow, "unique", "radar"))
  half = lambda a, b: np.testing.assert_allclose(a, 0.5 * b, rtol=1e-3, atol=1e-7)
  jax.tree.map(half, moved(slow, "unique", "optical"), moved(fast, "unique", "optical"))
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
  jax.tree.map(same, moved(slow, "common"), moved(fast, "common"))
  after, before = (state.stats["unique"]["radar"] for state in (slow[1], slow[0]))
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert not np.array_equal(slow[1].stats["common"]["radar"]["backbone"]["norms"][0]["mean"], 0.0)


def test_schedules():
  at = lambda schedule, steps: [float(schedule(s, 10)) for s in steps]
  np.testing.assert_allclose(at(make_schedule("constant", 0.1, 4), [0, 39]), 0.1)
  warm = make_schedule("constant", 0.1, 4, warmup=1, unit="epochs")
  np.testing.assert_allclose(at(warm, [0, 4, 9, 20]), [0.01, 0.05, 0.1, 0.1], rtol=1e-6)
  warm = make_schedule("constant", 0.1, 4, warmup=5, unit="steps")
  np.testing.assert_allclose(at(warm, [0, 4]), [0.02, 0.1], rtol=1e-6)
  np.testing.assert_allclose(at(make_schedule("linear", 0.1, 4), [0, 20, 40]), [0.1, 0.05, 0.0], atol=1e-8)
  warm = make_schedule("constant", 0.1, 4, warmup=1, unit="steps")
  np.testing.assert_allclose(at(warm, [0, 1]), [0.1, 0.1], rtol=1e-6)
  single = make_schedule("linear", 0.1, 1)
  assert float(single(0, 1)) == pytest.approx(0.1) and float(single(1, 1)) == 0.0
  reference = optax.cosine_decay_schedule(0.1, 40)
  close = lambda kind, steps: np.testing.assert_allclose(
    at(make_schedule(kind, 0.1, 4), steps), [reference(s) for s in steps], atol=1e-6
  )
  close("cosine", range(41))
  reference = optax.cosine_onecycle_schedule(40, 0.1)
  close("one_cycle", range(40))
  cycle = make_schedule("one_cycle", 0.1, 4)
  np.testing.assert_allclose(at(cycle, [0, 12, 40, 50]), [0.1 / 25, 0.1, 0.1 / 25e4, 0.1 / 25e4], rtol=1e-3)
  assert at(cycle, [12])[0] == pytest.approx(0.1, rel=2e-6)
  warm = make_schedule("linear", 0.1, 4, warmup=1, unit="epochs")
  np.testing.assert_allclose(at(warm, [9, 25, 40, 60]), [0.1, 0.05, 0.0, 0.0], rtol=1e-5, atol=1e-8)
  # Waves end where log2(1 + 15 t) is whole: at 1/15, 3/15 and 7/15 of 60 steps. In the middle is the maximum.
  quiet, high = [0, 4, 12, 28, 60], [60 * (2 ** (k + 0.5) - 1) / 15 for k in range(4)]
  coslog = make_schedule("coslog4", 0.1, 6)
  np.testing.assert_allclose(at(coslog, quiet), 0.0, atol=1e-8)
  np.testing.assert_allclose(at(coslog, high), 0.1, rtol=1e-5)


@pytest.mark.long
def test_the_logged_rate_is_the_schedules():
  *_, terms = updated(make_optimizer("adam", learning_rate=0.1, max_epochs=5, schedule="linear"), steps=3)
  np.testing.assert_allclose(terms["learning_rate"], 0.1 * (1 - 2 / 10), rtol=1e-5)  # 2 steps an epoch


def test_warm_up_has_to_end():
  with pytest.raises(InputError, match="train.warmup: 5 epochs are not less than train.max_epochs=5"):
    make_optimizer("adam", learning_rate=0.1, max_epochs=5, warmup=5)
  with pytest.raises(InputError, match="train.warmup: 1 epochs are not less than train.max_epochs=1"):
    make_optimizer("adam", learning_rate=0.1, max_epochs=1, warmup=1)
  with pytest.raises(InputError, match="train.warmup: one_cycle has its own warm-up"):
    make_optimizer("adam", learning_rate=0.1, max_epochs=5, warmup=1, schedule="one_cycle")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_average_of_the_weights_is_validated_kept_and_predicted_with(kind):
  average = Average(kind, decay=0.5, first_epoch=1)
  r = recipe(1, average=average)
  state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
  one = jax.jit(functools.partial(train_epoch, r))
  history = []
  for _ in range(3):
    state, terms = one(state, table(), batched(TRAIN, BATCH), batched(VALIDATION, BATCH))
    history.append(jax.device_get(state))
  leaf = lambda tree: tree["heads"]["radar"]["out"]["kernel"]
  if kind == "swa":
    want = (leaf(history[1].params) + leaf(history[2].params)) / 2
    np.testing.assert_allclose(leaf(state.average["params"]), want, rtol=1e-5)
    stat = lambda tree: tree["shared"]["radar"]["norm"]["var"]
    want = (stat(history[1].stats) + stat(history[2].stats)) / 2
    np.testing.assert_allclose(stat(state.average["stats"]), want, rtol=1e-5)
  else:
    assert not np.array_equal(leaf(state.average["params"]), leaf(state.params))
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.asarray(batched(VALIDATION, BATCH)[0]))
  plain = state.replace(average={}, params=state.average["params"], stats=state.average["stats"])
  again = jax.jit(functools.partial(eval_step, recipe(1)))(plain, batch)
  np.testing.assert_allclose(again["objective"], terms["validation"]["objective"], rtol=1e-5)
  if int(state.best.epoch) == 3:
    jax.tree.map(np.testing.assert_array_equal, state.best.params, state.average["params"])


def test_an_exponential_average_is_the_formula():
  average, value = Average("ema", decay=0.9), {"w": jnp.zeros(()), "n": jnp.zeros((), jnp.int32)}
  want = 0.0
  for step in range(5):
    new = {"w": jnp.float32(step), "n": jnp.int32(step)}
    decay = min(0.9, (1 + step) / (10 + step))
    want = decay * want + (1 - decay) * step
    value = average.after_step(value, new, jnp.int32(step))
  np.testing.assert_allclose(value["w"], want, rtol=1e-6)
  assert int(value["n"]) == 4


def test_an_average_of_epochs_is_their_mean():
  """From the epoch of number 1 on; until there it is the current model. Counters are the last ones."""
  average = Average("swa", first_epoch=1)
  models = [{"w": jnp.full(2, value), "n": jnp.int32(value)} for value in (8.0, 2.0, 6.0, 1.0)]
  kept, seen = models[0], []
  for epoch, model in enumerate(models):
    assert average.after_step(kept, model, jnp.int32(epoch)) is kept
    kept = average.after_epoch(kept, model, jnp.int32(epoch))
    seen.append((float(kept["w"][0]), int(kept["n"])))
  assert seen == [(8.0, 8), (2.0, 2), (4.0, 6), (3.0, 1)]
  ema = Average("ema")
  assert ema.after_epoch(kept, models[0], jnp.int32(1)) is kept


def test_rates_of_parts_are_multiples_of_the_rate():
  optimizer = Optimizer(optax.identity(), lambda *_: 0.1, {"^a": 0.5, "^b": 0.0, "^d": 2.0}, {"w$": 0.5})
  params = {name: {"w": jnp.ones(1), "v": jnp.ones(1)} for name in "abcd"}
  moved = optimizer.moving(jax.tree.map(lambda p: p + 1, params), params)
  assert {name: float(leaves["v"][0]) for name, leaves in moved.items()} == {"a": 2, "b": 1, "c": 2, "d": 2}
  grads = jax.tree.map(lambda p: 2 * p, params)
  new, _ = optimizer.update(grads, optimizer.transform.init(params), params, 0.1)
  got = {
    f"{name}/{leaf}": round(1 - float(x[0]), 6) for name, leaves in new.items() for leaf, x in leaves.items()
  }
  assert got == {"a/w": 0.05, "a/v": 0.1, "b/w": 0, "b/v": 0, "c/w": 0.1, "c/v": 0.2, "d/w": 0.2, "d/v": 0.4}
  clipped = make_optimizer("sgd", learning_rate=1.0, max_epochs=1, momentum=0.0, clip_norm=0.5)
  new, _ = clipped.update(grads, clipped.transform.init(params), params, 1.0)
  change = jax.tree.leaves(jax.tree.map(jnp.subtract, new, params))
  np.testing.assert_allclose(np.linalg.norm(np.concatenate(change)), 0.5, rtol=1e-5)


def test_the_last_epoch_is_kept_where_that_is_asked_for_and_patience_0_never_stops():
  stop = jax.jit(functools.partial(end_epoch, recipe(keep_last=True, patience=0, max_epochs=9)))
  state, _ = epochs(0)
  for objective in (1.0, 2.0, *[3.0] * 7):
    assert not bool(state.stop.done)
    state = stop(state.replace(params=jax.tree.map(lambda p: p + 1, state.params)), jnp.float32(objective))
  assert int(state.best.epoch) == 9 and float(state.best.objective) == 3.0 and bool(state.stop.done)
  jax.tree.map(np.testing.assert_array_equal, state.best.params, state.params)


@pytest.mark.long
def test_the_contrastive_term_alone_is_minimised_by_both_common_encoders():
  """It falls, moves every kernel that leads to the shared features, and no other parameter."""
  adam = constant_rate(optax.scale_by_adam(), 0.01)
  r = dataclasses.replace(recipe(1, encoder=(("dropout", 0.0),)), optimizer=adam)
  values = VALUES | {"weights": {"contrastive": np.float32(1.0)}}
  state = begun = jax.jit(functools.partial(init, r))(jax.random.key(0), values)
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  step, course = jax.jit(functools.partial(train_step, r)), []
  for _ in range(40):
    state, terms = step(state, batch)
    course.append(float(terms["contrastive/radar__optical"]))
  assert float(terms["objective"]) == pytest.approx(2 * course[-1])  # both orders of the pair
  assert course[-1] < 0.5 * course[0]
  for path, old in jax.tree_util.tree_leaves_with_path(begun.params):
    part, *_, name = (key.key for key in path)
    new = functools.reduce(lambda tree, key: tree[key.key], path, state.params)
    if part not in ("common", "shared"):
      np.testing.assert_array_equal(new, old, err_msg=jax.tree_util.keystr(path))
    elif name == "kernel":
      assert np.abs(new - old).max() > 1e-3, jax.tree_util.keystr(path)


# What other methods need of the step.


class Unpaired(MDiCo):
  """Sensors come from different samples."""

  paired = False


@pytest.mark.long
def test_rows_that_are_not_paired_show_one_sensor_each_in_orders_of_their_own():
  r = recipe(1, method=Unpaired(contrastive=0.0))
  rows = jnp.asarray(batched(TRAIN, BATCH))
  words = jax.random.key_data(random.stream(random.run_key(0, 0), "order"))
  order = random.epoch_rows(words, 0, rows, r.blocks)
  assert order.shape == (2, 2 * BATCH)
  first, second = np.split(np.asarray(order), 2, axis=1)
  assert (first != second).any() and sorted(first.ravel()) == sorted(second.ravel()) == sorted(rows.ravel())
  batch = take(jax.tree.map(jnp.asarray, table()), order[0], one_sensor_each=True)
  # Blocks are in the order of names.
  np.testing.assert_array_equal(batch["present"]["optical"], [1] * BATCH + [0] * BATCH)
  np.testing.assert_array_equal(batch["present"]["radar"], [0] * BATCH + [1] * BATCH)
  values = VALUES | {"weights": {k: v for k, v in VALUES["weights"].items() if k != "contrastive"}}
  state = jax.jit(functools.partial(init, r))(jax.random.key(0), values)
  one = jax.jit(functools.partial(train_epoch, r))
  state, terms = one(state, table(), batched(TRAIN, BATCH), batched(VALIDATION, BATCH))
  assert int(state.step) == 2 and np.isfinite(terms["train"]["objective"])


def test_predictions_by_value_and_by_head():
  """Each head is the model's own, activated; absent sensors are NaN."""
  r = recipe(1)
  state = programs(1)[0](jax.random.key(0), VALUES)
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  batch["present"]["radar"] = batch["present"]["radar"].at[2].set(0)
  model = {"params": state.params, "stats": state.stats, "values": VALUES}
  got = jax.jit(functools.partial(predict_step, r))(model, batch["inputs"], batch["present"])
  outputs = r.method.forward(
    r.network.model(state.params, state.stats), normalise(batch["inputs"], VALUES["inputs"])
  )
  assert set(got) == {"prediction", "auxiliary_specific", "auxiliary_shared"}
  for head, named in got.items():
    for m in SHAPES:
      seen = np.arange(BATCH) != 2 if m == "radar" else np.ones(BATCH, bool)
      np.testing.assert_allclose(named[m][seen], getattr(outputs, head)[m][seen], rtol=1e-4, atol=1e-5)
      assert np.isnan(named[m][~seen]).all()
  assert not np.allclose(got["auxiliary_specific"]["radar"][:2], got["auxiliary_shared"]["radar"][:2])
  assert len(table()["target"]) == N
