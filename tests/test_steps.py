import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from colearn_jax.data.augment import Augment
from colearn_jax.methods import mdico
from colearn_jax.parallel import sharding
from colearn_jax.training import steps
from colearn_jax.types import Task

SHAPES = {"radar": (4, 2), "optical": (4, 3)}
N, BATCH = 40, 16
TRAIN, VALIDATION = np.arange(28), np.arange(28, 40)


@functools.cache
def recipe(devices=8, replica=1, fsdp=1, **changes):
  mesh = sharding.make_mesh(
    {"replica": replica, "data": -1, "fsdp": fsdp}, BATCH, devices=jax.devices()[:devices]
  )
  settings = dict.fromkeys(SHAPES, {"model_type": "tempcnn", "layer_size": 4, "n_layers": 1})
  fields = {
    "build": lambda rngs: mdico.MDiCo(SHAPES, settings, 1, emb_dim=8, rngs=rngs),
    "task": Task("regression", ("y",)),
    "temperature": 0.1,
    "negatives": "both",
    "similarity": "dense",
    # Not Adam: it makes whole steps out of the rounding noise in gradients that are exactly zero.
    "optimizer": optax.sgd(0.03),
    "batch_size": BATCH,
    "microbatches": 1,
    "patience": 100,
    "min_delta": 0.01,
    "mesh": mesh,
  }
  return steps.Recipe(**(fields | changes))


def table():
  rng = np.random.default_rng(0)
  inputs = {m: rng.normal(2.0, 3.0, size=(N, *shape)).astype(np.float32) for m, shape in SHAPES.items()}
  inputs["optical"][::5, 1] = np.nan
  target = inputs["radar"].mean((1, 2))[:, None]
  every = np.ones(N, np.float32)
  return {"inputs": inputs, "target": target, "labelled": every, "present": dict.fromkeys(SHAPES, every)}


CONSTANTS = {
  "inputs": {
    m: {"offset": np.full(s[-1], 2.0, np.float32), "scale": np.full(s[-1], 3.0, np.float32)}
    for m, s in SHAPES.items()
  },
  "task": {"mean": np.ones(1, np.float32), "std": np.ones(1, np.float32)},
  "weights": dict.fromkeys(mdico.TERMS, np.float32(1.0)),
}


@functools.cache
def programs(devices=8):
  r = recipe(devices)
  jit = functools.partial(jax.jit, out_shardings=sharding.whole(r.mesh))
  return jit(functools.partial(steps.init, r)), jit(functools.partial(steps.train_epoch, r))


def epochs(count, devices=8):
  init, epoch = programs(devices)
  place = functools.partial(jax.device_put, device=sharding.whole(recipe(devices).mesh))
  state, logs = init(jax.random.key(0), place(CONSTANTS)), []
  for _ in range(count):
    rows = place((steps.batched(TRAIN, BATCH), steps.batched(VALIDATION, BATCH)))
    state, terms = epoch(state, place(table()), *rows)
    logs.append(jax.device_get(terms))
  return state, logs


def test_eight_devices_give_the_losses_of_one():
  """Batch statistics, negatives and dropout are those of the global batch however it is split."""
  for one, eight in zip(epochs(3, devices=1)[1], epochs(3, devices=8)[1]):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4), one, eight)


def test_training_learns_and_counts():
  state, logs = epochs(6)
  assert logs[-1]["train"]["total/main"] < 0.7 * logs[0]["train"]["total/main"]
  assert int(state.epoch) == 6 and int(state.step) == 12
  for part in ("train", "validation"):
    names = {name for name in logs[0][part] if not name.startswith("total")}
    pairs = {"contrastive/radar__optical", "objective"}
    assert names == pairs | {f"{t}/{m}" for t in ("main", "auxiliary", "discriminative") for m in SHAPES}
  objectives = [log["validation"]["objective"] for log in logs]
  assert float(state.best.objective) == min(objectives)
  assert int(state.best.epoch) == 1 + int(np.argmin(objectives))


def test_validation_is_the_mean_over_rows_of_the_batches():
  state, logs = epochs(1)
  whole = jax.tree.map(jnp.asarray, table())
  parts = [steps.take(whole, jnp.asarray(rows)) for rows in steps.batched(VALIDATION, BATCH)]
  evaluate = jax.jit(functools.partial(steps.eval_step, recipe()))
  (terms,) = [evaluate(state, part) for part in parts]
  for name, value in terms.items():
    np.testing.assert_allclose(logs[0]["validation"][name], value, rtol=1e-5)
  small = jax.jit(functools.partial(steps.eval_step, recipe()))(state, jax.tree.map(lambda a: a[28:], whole))
  for name, value in small.items():  # padding changes nothing
    np.testing.assert_allclose(terms[name], value, rtol=1e-5)


def test_an_epoch_sees_every_row_once_in_a_new_order():
  seen = []

  def spy(r, state, batch):
    jax.debug.callback(
      lambda y, p: seen.append(np.asarray(y)[np.asarray(p) > 0, 0]),
      batch["target"],
      batch["present"]["radar"],
    )
    return original(r, state, batch)

  original = steps.train_step
  one = recipe(1)
  steps.train_step = spy
  try:
    state = programs(1)[0](jax.random.key(0), CONSTANTS)
    run = jax.jit(functools.partial(steps.train_epoch, one))
    for _ in range(2):
      state, _ = run(state, table(), steps.batched(TRAIN, BATCH), steps.batched(VALIDATION, BATCH))
    jax.effects_barrier()
  finally:
    steps.train_step = original
  first, second = np.concatenate(seen[:2]), np.concatenate(seen[2:])
  want = np.sort(table()["target"][TRAIN, 0])
  np.testing.assert_array_equal(np.sort(first), want)
  np.testing.assert_array_equal(np.sort(second), want)
  assert (first != second).any()


def test_early_stopping_and_a_finished_state_stays():
  state, _ = epochs(0)
  stop = jax.jit(functools.partial(steps.end_epoch, recipe(patience=2)))
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
  rows = place((steps.batched(TRAIN, BATCH), steps.batched(VALIDATION, BATCH)))
  after, terms = programs()[1](state, place(table()), *rows)
  same = lambda a, b: np.testing.assert_array_equal(
    jax.random.key_data(a) if a.dtype == state.key.dtype else a,
    jax.random.key_data(b) if b.dtype == state.key.dtype else b,
  )
  jax.tree.map(same, state, after)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(terms))


def test_the_best_epoch_keeps_its_own_parameters():
  state, _ = epochs(0)
  stop = jax.jit(functools.partial(steps.end_epoch, recipe()))
  good = stop(state, jnp.float32(1.0))
  worse = stop(good.replace(params=jax.tree.map(lambda p: p + 1, good.params)), jnp.float32(2.0))
  jax.tree.map(np.testing.assert_array_equal, worse.best.params, good.params)
  assert int(worse.best.epoch) == 1 and int(worse.epoch) == 2


def test_nothing_is_traced_twice():
  r = recipe(1)
  once = chex.assert_max_traces(lambda *args: steps.train_epoch(r, *args), n=1)
  epoch = jax.jit(once, donate_argnums=0)
  state = programs(1)[0](jax.random.key(0), CONSTANTS)
  for _ in range(3):
    state, _ = epoch(state, table(), steps.batched(TRAIN, BATCH), steps.batched(VALIDATION, BATCH))


def test_activations():
  logits = jnp.array([[0.0, 2.0]])
  np.testing.assert_allclose(steps.activate("multiclass", logits).sum(), 1.0, rtol=1e-6)
  np.testing.assert_allclose(steps.activate("multilabel", logits)[0, 0], 0.5)
  np.testing.assert_array_equal(steps.activate("regression", logits), logits)


def test_integers_are_normalised_as_the_numbers_they_are():
  x = np.array([[[200, 7]], [[0, 255]]], np.uint8)
  constants = {"inputs": {"m": {"offset": np.array([100.0, 8.0]), "scale": np.array([10.0, 0.5])}}}
  got = jax.jit(steps.normalise)({"m": x}, constants)["m"]
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, (x.astype(np.float64) - [100, 8]) / [10, 0.5], rtol=1e-6)


def test_augmented_steps_train_on_something_else_and_stay_finite():
  given = table()
  given["inputs"]["optical"][3] = np.nan
  batch = steps.take(jax.tree.map(jnp.asarray, given), jnp.arange(BATCH))
  batch["present"]["optical"] = batch["present"]["optical"].at[3].set(0)
  after = {}
  for augment in (None, Augment(time_shift=1, time_dropout=0.3, noise=0.1)):
    r = recipe(1, augment=augment)
    state = jax.jit(functools.partial(steps.init, r))(jax.random.key(0), CONSTANTS)
    after[augment], terms = jax.jit(functools.partial(steps.train_step, r))(state, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after[augment].params, terms)))
  leaves = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(s.params)]) for s in after.values()]
  assert np.abs(leaves[0] - leaves[1]).max() > 1e-4
