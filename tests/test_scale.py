"""One program over replicas, batch and parameters: every arrangement gives the numbers of the plain one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from colearn_jax.methods.mdico import MDiCo
from colearn_jax.nn import layers
from colearn_jax.objectives import ring
from colearn_jax.objectives.contrastive import contrastive
from colearn_jax.parallel import sharding
from colearn_jax.training.epoch import batched, take, train_epoch, train_stack
from colearn_jax.training.state import init
from colearn_jax.training.step import train_step
from colearn_jax.types import InputError
from tests.small_training import BATCH, TRAIN, VALIDATION, VALUES, constant_rate, recipe, table


def close(got, want, tolerance=2e-4):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=0.05 * tolerance), got, want
  )


def mesh(devices=8, replica=1, fsdp=1):
  sizes = {"replica": replica, "data": -1, "fsdp": fsdp}
  return sharding.make_mesh(sizes, BATCH, devices=jax.devices()[:devices])


@pytest.mark.parametrize(
  ("sizes", "batch", "message"),
  [
    (
      (3, -1, 1),
      16,
      "mesh: replica=3, data=-1, fsdp=1 does not fit 8 devices; the sizes multiply to 3",
    ),
    ((1, 16, 1), 16, "mesh: .* does not fit 8 devices; the sizes multiply to 16, 8 would"),
    ((-1, -1, 1), 16, "mesh: replica=-1, data=-1, fsdp=1 is not allowed; at most one size can be -1"),
    ((2, 2, 2), 10, "train.batch_size: 10 does not divide over 4 devices of the mesh; 8 or 12 would"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused_B37(sizes, batch, message):
  with pytest.raises(InputError, match=message):
    sharding.make_mesh(dict(zip(sharding.AXES, sizes)), batch)


def test_sizes_are_filled_in():
  assert dict(mesh(replica=2, fsdp=2).shape) == {"replica": 2, "data": 2, "fsdp": 2}


# The contrastive objective around a ring of devices.


def features(batch=BATCH, width=6):
  rng = np.random.default_rng(0)
  za, zb = rng.normal(size=(2, batch, width)).astype(np.float32)
  za[3] = 0.0  # a row of zeros, as a ReLU may leave it
  return za, zb


@pytest.mark.parametrize("negatives", ["both", "cross"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_ring_of_devices_gives_the_dense_contrastive_loss(negatives, masked, fsdp):
  za, zb = features()
  mask = np.ones(BATCH, np.float32)
  if masked:
    mask[[0, 1, 5, 9]] = 0.0  # one device's rows are all absent
  dense = lambda za, zb: contrastive(za, zb, 0.1, mask, negatives=negatives)
  around = lambda za, zb: ring.contrastive(mesh(fsdp=fsdp), za, zb, 0.1, mask, negatives=negatives)
  want, got = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(za, zb) for f in (dense, around))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), got[1], want[1])
  warm = jax.jit(lambda: ring.contrastive(mesh(fsdp=fsdp), za, zb, 5.0, mask, negatives=negatives))()
  np.testing.assert_allclose(warm, contrastive(za, zb, 5.0, mask, negatives=negatives), rtol=1e-5)
  nobody = jax.jit(lambda za: ring.contrastive(mesh(), za, zb, 0.1, np.zeros(BATCH), negatives=negatives))
  assert nobody(za) == 0.0
  assert not np.any(jax.jit(jax.grad(nobody))(za))


@pytest.mark.parametrize("negatives", ["both", "cross"])
def test_the_ring_is_exact_at_a_low_temperature(negatives):
  """Exponents of ±200; the first sample is opposite to all others, which are alike."""
  za, zb = (1.0 + 0.3 * a for a in features())
  za[0] *= -1.0
  mask = np.ones(BATCH, np.float32)
  mask[5] = 0.0
  want = contrastive(za, zb, 0.005, mask, negatives=negatives)
  za[5] = np.nan  # a row that does not count
  around = jax.jit(lambda za: ring.contrastive(mesh(), za, zb, 0.005, mask, negatives=negatives))
  np.testing.assert_allclose(around(za), want, rtol=1e-5)


def test_no_device_holds_the_matrix_of_all_pairs():
  """Eight devices: the program of each has no array of [2B 2B], nor of [2B/8 2B], forwards or backwards."""
  za, zb = features(batch=256)
  place = sharding.by_example(mesh())
  loss = lambda za, zb: ring.contrastive(mesh(), za, zb, 0.1, jnp.ones(len(za)))
  program = jax.jit(jax.grad(loss, argnums=(0, 1)), in_shardings=place, out_shardings=place)
  text = program.lower(za, zb).compile().as_text()
  assert "f32[64,64]" in text
  assert "512,512" not in text and "64,512" not in text and "8,64,64" not in text


@pytest.mark.parametrize(
  ("similarity", "devices", "batch", "around"),
  [
    ("auto", 8, 4096, True),
    ("auto", 8, 4095, False),
    ("auto", 1, 4096, False),
    ("dense", 8, 4096, False),
    ("ring", 8, 16, True),
    ("ring", 1, 16, True),
  ],
)
def test_the_ring_is_for_large_batches_on_several_devices(similarity, devices, batch, around):
  method = MDiCo(similarity=similarity)
  assert method._around(mesh(devices), batch) is around
  assert method._around(None, batch) is (similarity == "ring")  # without a mesh there is one device


# Every arrangement of a training.


def train(epochs=2, runs=((TRAIN, VALIDATION),), uneven=False, constants=(VALUES,), **arrangement):
  """Trains a stack of runs in an arrangement of devices; its states and every epoch's terms."""
  r = recipe(**arrangement)
  place = sharding.by_replica(r.mesh)
  begin = jax.vmap(lambda seed, constants: init(r, jax.random.key(seed), constants))
  seeds, constants = jnp.arange(len(runs)), jax.tree.map(lambda *c: np.stack(c), *constants)
  placed = sharding.of_stack(r.mesh, jax.eval_shape(begin, seeds, constants))
  states = jax.jit(begin, out_shardings=placed)(seeds, constants)
  most = lambda part: max(len(batched(run[part], BATCH)) for run in runs)
  padded = lambda rows, count: np.concatenate([rows, np.full((count - len(rows), BATCH), -1, np.int32)])
  rows = [np.stack([padded(batched(run[k], BATCH), most(k)) for run in runs]) for k in (0, 1)]
  epoch = functools.partial(train_stack, r, uneven=uneven)
  epoch = jax.jit(epoch, donate_argnums=0, out_shardings=(placed, sharding.whole(r.mesh)))
  samples, logs = jax.device_put(table(), sharding.whole(r.mesh)), []
  for _ in range(epochs):
    states, terms = epoch(states, samples, *jax.device_put(rows, place))
    logs.append(jax.device_get(terms))
  return states, logs


RING = MDiCo(similarity="ring")


@functools.cache
def plain():
  return train(devices=1)[1]


@pytest.mark.long
@pytest.mark.parametrize(
  "arrangement",
  [{"fsdp": 4}, {"fsdp": 2, "method": RING}, {"devices": 4, "replica": 1, "method": RING}],
)
def test_parameters_over_devices_give_the_losses_of_one(arrangement):
  states, logs = train(**arrangement)
  close(logs, plain())
  if arrangement.get("fsdp"):
    for tree in (states.params["shared"], states.best.params["shared"]):
      kernel, bias = (tree["radar"]["linear"][name] for name in ("kernel", "bias"))
      assert kernel.addressable_shards[0].data.size * arrangement["fsdp"] == kernel.size
      assert bias.sharding.is_fully_replicated


def runs_of_unequal_size():
  """Three folds, of 3, 2 and 1 steps an epoch, with statistics and weights of their own."""
  runs = [
    (np.arange(5, 40), np.arange(5)),
    (np.arange(20), np.arange(20, 40)),
    (np.arange(3, 15), np.arange(3)),
  ]
  constants = []
  for k in range(4):
    inputs = {m: {**c, "offset": c["offset"] + 0.3 * k} for m, c in VALUES["inputs"].items()}
    weights = VALUES["weights"] | {"contrastive": np.float32(0.1 * k)}
    constants.append({**VALUES, "inputs": inputs, "weights": weights})
  return [*runs, (np.arange(30), np.arange(30, 40))], constants


@functools.cache
def alone():
  """Each of them by itself, on one device."""
  r, out = recipe(devices=1, patience=2, min_delta=1.2), []
  epoch, begin = (jax.jit(functools.partial(f, r)) for f in (train_epoch, init))
  for seed, (rows, constants) in enumerate(zip(*runs_of_unequal_size())):
    state, logs = begin(jax.random.key(seed), constants), []
    for _ in range(6):
      state, terms = epoch(state, table(), *(batched(part, BATCH) for part in rows))
      logs.append(jax.device_get(terms))
    out.append((jax.device_get((state.stop, state.best.params, state.epoch, state.best.epoch)), logs))
  return out


@pytest.mark.long
@pytest.mark.parametrize(
  "arrangement",
  # Not replica=2 with fsdp=2: on simulated devices of a CPU with few cores, a replica that is done waits in a
  # thread that the collectives of the other replica need.
  [{"devices": 1}, {"devices": 4, "replica": 4}],
)
def test_a_replica_is_the_run_alone(arrangement):
  """Folds of several sizes, each with its statistics, order, dropout, weights and early stop."""
  runs, constants = runs_of_unequal_size()
  states, logs = train(
    6, tuple(runs), uneven=True, constants=constants, patience=2, min_delta=1.2, **arrangement
  )
  ends = [int(epoch) for epoch in states.epoch]
  assert len(set(ends)) > 1, "all stop at once: nothing is frozen"
  for k, (want, want_logs) in enumerate(alone()):
    mine = functools.partial(jax.tree.map, lambda v, k=k: v[k])
    # Some steps of a contrastive loss at τ = 0.1 turn rounding into hundredths. A wrong row, statistic or
    # mask makes tenths, and shows in the first epoch.
    close([mine(log) for log in logs[:3]], want_logs[:3], 2e-3)
    close([mine(log) for log in logs[3:]], want_logs[3:], 5e-2)
    stop, _, epoch, best_epoch = want
    ended = (states.stop.done[k], states.epoch[k], states.best.epoch[k])
    assert tuple(map(int, ended)) == (int(stop.done), int(epoch), int(best_epoch))


@pytest.mark.long
def test_microbatches_change_the_batch_statistics_alone(monkeypatch):
  """Without BatchNorm and dropout the gradients are those of the whole batch, contrastive term included."""
  monkeypatch.setattr(layers.BatchNorm, "_observe", lambda self, x, present: (self.mean[...], self.var[...]))
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(-1, BATCH - 1))
  outcomes = []
  for count in (1, 2, 4):
    r = recipe(encoder=(("dropout", 0.0),), microbatches=count)
    state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
    outcomes.append(jax.jit(functools.partial(train_step, r))(state, batch))
  for state, terms in outcomes[1:]:
    close(terms, outcomes[0][1])
    close(state.params, outcomes[0][0].params)


@pytest.mark.long
def test_microbatches_keep_running_statistics_of_each():
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  r = recipe(microbatches=2)
  state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
  after, terms = jax.jit(functools.partial(train_step, r))(state, batch)
  assert int(after.stats["shared"]["radar"]["norm"]["batches"]) == 2 and np.isfinite(terms["objective"])


@pytest.mark.long
def test_rematerialisation_changes_nothing():
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  got = []
  for remat in (False, True):
    r = recipe(remat=remat)
    state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
    program = jax.jit(functools.partial(train_step, r))
    got.append(program(state, batch))
    assert ("remat" in str(jax.make_jaxpr(program)(state, batch))) == remat
  close(got[1][0].params, got[0][0].params)
  close(got[1][0].stats, got[0][0].stats)
  close(got[1][1], got[0][1])


@pytest.mark.long
def test_clipping_bounds_the_step():
  batch = take(jax.tree.map(jnp.asarray, table()), jnp.arange(BATCH))
  r = dataclasses.replace(recipe(), optimizer=constant_rate(optax.clip_by_global_norm(0.01)))
  state = jax.jit(functools.partial(init, r))(jax.random.key(0), VALUES)
  after, _ = jax.jit(functools.partial(train_step, r))(state, batch)
  moved = jax.tree.map(lambda a, b: a - b, after.params, state.params)
  np.testing.assert_allclose(optax.tree.norm(moved), 0.01, rtol=1e-3)
