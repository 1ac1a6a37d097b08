"""Mixed samples and balanced groups: which rows are mixed with which, and what counts how much."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax import config
from colearn_jax.data import grouping
from colearn_jax.methods.base import Batch
from colearn_jax.training.epoch import take
from colearn_jax.training.mixup import mix, mixed_loss
from colearn_jax.training.state import init
from colearn_jax.training.step import eval_step, train_step
from colearn_jax.types import InputError
from tests.small_methods import KINDS, B, constants, make, outputs_of, task, values
from tests.small_training import BATCH, VALUES, recipe, table

N = 64


def batch(**absent):
  """Rows of two sensors and a context, whose inputs are their number and its hundredfold."""
  number = jnp.arange(1.0, N + 1)
  flags = {m: np.ones(N, np.float32) for m in ("radar", "optical")}
  for m, rows in absent.items():
    if m in flags:
      flags[m][list(rows)] = 0
  labelled = np.ones(N, np.float32)
  labelled[list(absent.get("labelled", ()))] = 0
  context = number[:, None] * jnp.ones((1, 2))
  inputs = {
    "radar": (number[:, None, None] * jnp.ones((1, 3, 2)), context),
    "optical": (100 * context, context),
  }
  ones = jnp.ones(N)
  return Batch(
    inputs, jax.tree.map(jnp.asarray, flags), number[:, None], jnp.asarray(labelled), jnp.arange(N), {}, ones
  )


def test_all_of_a_sample_is_mixed_with_one_other_by_one_share():
  own, theirs, share = mix(jax.random.key(0), 0.4, batch())
  assert 0 < share < 1 and len(set(theirs.row.tolist())) == N
  number, other = np.arange(1.0, N + 1), np.asarray(theirs.row) + 1.0
  mixed = share * number + (1 - share) * other
  for m, factor in (("radar", 1), ("optical", 100)):
    x, context = own.inputs[m]
    np.testing.assert_allclose(
      x, factor * mixed.reshape(-1, *[1] * (x.ndim - 1)) * np.ones_like(x), rtol=1e-5
    )
    np.testing.assert_allclose(context[:, 1], mixed, rtol=1e-5)
  np.testing.assert_array_equal(own.target[:, 0], number)
  np.testing.assert_array_equal(theirs.target[:, 0], other)
  assert theirs.inputs is own.inputs and (own.row == jnp.arange(N)).all()
  draws = [mix(jax.random.key(k), 0.4, batch()) for k in range(3)]
  assert (
    len({float(one[2]) for one in draws}) == 3 and len({tuple(one[1].row.tolist()) for one in draws}) == 3
  )


def test_shares_have_the_distribution_of_beta():
  draw = jax.jit(jax.vmap(lambda key: mix(key, 0.5, batch())[2]))
  shares = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
  np.testing.assert_allclose(shares.mean(), 0.5, atol=0.02)
  np.testing.assert_allclose(shares.var(), 0.125, atol=0.01)  # 1 / (4 (2 α + 1))


def test_rows_with_other_sensors_or_without_a_label_are_left_alone():
  absent = {"radar": range(0, 20), "optical": range(10, 30), "labelled": range(40, 50)}
  given = batch(**absent)
  own, theirs, share = mix(jax.random.key(3), 0.4, given)
  kind = lambda row: (*(float(flags[row]) for flags in given.present.values()), float(given.labelled[row]))
  left = mixed = 0
  for row, partner in enumerate(theirs.row.tolist()):
    assert kind(row) == kind(partner)
    x = float(own.inputs["radar"][0][row, 0, 0])
    if partner == row:
      left += x == row + 1.0  # exactly
    else:
      mixed += 1
      np.testing.assert_allclose(x, share * (row + 1) + (1 - share) * (partner + 1), rtol=1e-5)
  assert left > 5 and mixed > 5 and left + mixed == N


def test_a_value_that_either_lacks_is_missing():
  given = batch()
  x, context = given.inputs["radar"]
  own, theirs, _ = mix(
    jax.random.key(0), 0.4, given.replace(inputs={"radar": (x.at[7, 1].set(jnp.nan), context)})
  )
  missing = np.isnan(own.inputs["radar"][0])
  rows = {7, int(np.flatnonzero(theirs.row == 7)[0])}
  assert set(np.flatnonzero(missing.any((1, 2)))) == rows and missing.sum() == 2 * len(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_mixture_is_that_of_both_targets(kind):
  """By hand for the main loss; of a regression its gradient is that of the mixed target."""
  method, outputs = make("individual"), outputs_of(kind, 0)
  given = values(method, kind)
  rng = np.random.default_rng(0)
  if kind in ("binary", "multiclass"):
    targets = [jnp.asarray(rng.integers(0, len(task(kind).outputs), B)) for _ in range(2)]
  else:
    targets = [jnp.asarray(rng.integers(0, 2, (B, 3)), jnp.float32) for _ in range(2)]
  there = dict.fromkeys(outputs, jnp.ones(B))
  own, theirs = (Batch({}, there, target, jnp.ones(B), jnp.arange(B)) for target in targets)
  loss = lambda outputs: mixed_loss(lambda b: method.loss(outputs, b, given), own, theirs, jnp.float32(0.3))
  got, terms = loss(outputs)
  each = [method.loss(outputs, one, given)[0] for one in (own, theirs)]
  np.testing.assert_allclose(got, 0.3 * each[0] + 0.7 * each[1], rtol=1e-6)
  np.testing.assert_allclose(terms["objective"], got, rtol=1e-6)
  if kind in ("regression", "multilabel"):
    mixed = dataclasses.replace(own, target=0.3 * targets[0] + 0.7 * targets[1])
    want = jax.grad(lambda outputs: method.loss(outputs, mixed, given)[0])(outputs)
    got = jax.grad(lambda outputs: loss(outputs)[0])(outputs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), got, want)
  assert constants(kind)


@pytest.mark.long
def test_a_step_mixes_and_does_not_change_its_batch_without():
  rows = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  terms = {}
  for name, alpha in (("none", 0.0), ("some", 0.4)):
    r = recipe(1, mixup=alpha, encoder=(("dropout", 0.0),))
    state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
    after, terms[name] = jax.jit(functools.partial(train_step, r))(state, rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, terms[name])))
  assert terms["some"].keys() == terms["none"].keys()
  assert terms["some"]["main/radar"] != terms["none"]["main/radar"]


# Balanced groups.


def test_weights_of_groups_by_hand():
  site = np.array(list("aaaabbcd"))
  rows = np.array([0, 1, 2, 3, 4, 6])  # four of a, one of b, one of c
  got = grouping.balance({"site": site}, rows, 1.0)
  np.testing.assert_allclose(got, [0.5, 0.5, 0.5, 0.5, 2, 2, 2, 1], rtol=1e-6)  # 1/4, 1 and 1, of mean 1/2
  assert got[rows].mean() == 1.0 and got.dtype == np.float32
  np.testing.assert_array_equal(grouping.balance({"site": site}, rows, 0.0), 1.0)
  half = grouping.balance({"site": site}, rows, 0.5)
  np.testing.assert_allclose(half[4] / half[0], 2.0, rtol=1e-6)
  numbers = grouping.codes({"site": site}, rows)
  assert numbers.dtype == np.int32 and set(numbers[rows]) == set(range(len(set(site[rows]))))
  assert all((numbers[i] == numbers[j]) == (site[i] == site[j]) for i in rows for j in rows)
  assert (np.delete(numbers, rows) == -1).all()
  both = grouping.balance({"site": site, "year": np.array(list("xxxyxxxx"))}, rows, 1.0)
  np.testing.assert_allclose(both[4] / both[[0, 3]], [3.0, 1.0], rtol=1e-6)


def test_a_step_weights_its_rows():
  """Row 0 counts three times as much, as if it stood in the batch three times."""
  r = recipe(1, method=make("individual"), encoder=(("dropout", 0.0),))
  weights = {"weights": {"main": np.float32(1.0)}}
  whole = jax.tree.map(jnp.asarray, table())
  balance = np.ones(40, np.float32)
  balance[0] = 3.0
  state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES | weights)
  weighted = dataclasses.replace(state, values=state.values | {"balance": jnp.asarray(balance)})
  step = jax.jit(functools.partial(eval_step, r))
  got = step(weighted, take(whole, jnp.arange(4)))["main/radar"]
  want = step(state, take(whole, jnp.array([0, 0, 0, 1, 2, 3])))["main/radar"]
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert step(state, take(whole, jnp.arange(4)))["main/radar"] != got


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"loss.group_balance": 1.0}, "^loss.group_balance: 1.0 .* 0 without protocol.group_by"),
    ({"loss.label_smoothing": 0.1}, "^loss.label_smoothing: 0.1 .* 0, for lfmc is a regression"),
    ({"train.schedule": "coslog4", "train.mixup": -1.0}, "^train.mixup: -1.0"),
    ({"model.encoders": {"S1": {"model_type": "presto"}}, "train.mixup": 0.2}, "months cannot be mixed"),
  ],
)
def test_what_does_not_go_together_is_refused(changes, message):
  with pytest.raises(InputError, match=message):
    config.load("configs/lfmc.py", {"data.modalities": "S1,S2", **changes})


def test_huber_is_for_regressions():
  with pytest.raises(InputError, match="^loss.huber: 1.0 .* 0, for synthetic is no regression"):
    config.load("configs/synthetic.py", {"loss.huber": 1.0})
