"""Samples on the device and samples that are streamed: the same states, batches, values and predictions."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax import methods
from colearn_jax.data import reader as readers
from colearn_jax.data.splits import Run
from colearn_jax.data.statistics import Normalisation
from colearn_jax.methods.base import Network
from colearn_jax.nn import random
from colearn_jax.training import closed_form, streaming
from colearn_jax.training.epoch import batched
from colearn_jax.training.on_device import OnDevice
from colearn_jax.training.optimizer import Average
from colearn_jax.training.state import finished_model
from colearn_jax.types import InputError, Modality
from tests.small_training import (
  BATCH,
  SHAPES,
  TRAIN,
  VALIDATION,
  VALUES,
  N,
  architecture,
  close,
  recipe,
  table,
)

RUN = Run(3, 1, TRAIN, VALIDATION, VALIDATION)
OTHER = Run(4, 0, np.arange(5, 25), np.arange(3), np.arange(3))  # as many steps
LONGER = Run(5, 0, np.arange(2, 40), np.arange(2), np.arange(2))  # one step more
MODALITIES = [Modality(m, (m,), shape, tuple("abc"[: shape[-1]])) for m, shape in SHAPES.items()]
METHOD = methods.METHODS["individual"]()
WEIGHTS = {"main": np.float32(0.5)}


def stored():
  """What a data set of `table` has stored; the radar lacks in every seventh sample."""
  inputs = table()["inputs"]
  for row in range(N):
    views = {
      m: np.full_like(x[row], np.nan if m == "radar" and row % 7 == 3 else x[row]) for m, x in inputs.items()
    }
    yield {"views": views}


READER = readers.Reader(list(stored()), tuple(MODALITIES))
TARGET = np.where(np.arange(N)[:, None] % 5 == 1, np.nan, table()["target"]).astype(np.float32)
INDEX = readers.Index(np.arange(N).astype(str), TARGET, {})


def samples(place, how="fixed", method=METHOD, network=None, **changes):
  """`OnDevice` or `Streamed`, of one device."""
  options = {
    "class_weights": "none",
    "weights": lambda run: WEIGHTS if method is METHOD else dict.fromkeys(method.terms, np.float32(1.0)),
    "arrays": lambda run: {},
    "normalisation": Normalisation(how, VALUES["inputs"]),
  }
  r = recipe(1, method=method, **changes)
  r = r if network is None else dataclasses.replace(r, network=network)
  if place == "device":
    return OnDevice(r, MODALITIES, readers.read_table(READER), INDEX, **options)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(streaming, "make_reader", lambda *_: READER)
    return streaming.Streamed(r, MODALITIES, None, INDEX, **options)


@functools.cache
def kept(place):
  """Shared by tests, so that their programs are compiled once."""
  return samples(place)


PLACES = ("device", "stream")


def copied(state):
  return jax.tree.map(jnp.copy, state)


@functools.cache
def trained(place, count=2):
  """The states and terms after each epoch of the run, from the first on."""
  of = kept(place)
  state, out = of.init([RUN]), []
  with of.epochs([RUN], state) as epoch:
    for _ in range(count):
      state, terms = epoch(state)
      out.append((copied(state), jax.device_get(terms)))
  return out


def test_both_places_train_the_same():
  for (device, terms), (streamed, others) in zip(*map(trained, PLACES), strict=True):
    assert int(device.epoch[0]) == int(streamed.epoch[0]) and int(device.step[0]) == int(streamed.step[0])
    close(jax.device_get((device.params, device.best)), jax.device_get((streamed.params, streamed.best)))
    assert terms.keys() == others.keys() == {"train", "validation"}
    assert terms["train"].keys() == others["train"].keys() > {"total/main", "learning_rate"}
    close(terms, others)
  (first, _), (second, terms) = trained("stream")
  before = jax.device_get(kept("stream").init([RUN]).stats)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(jax.device_get(first.stats)), strict=True):
    assert (old != new).any()  # BatchNorm is in training
  assert int(first.step[0]) == 2 and int(second.step[0]) == 4
  assert terms["train"]["learning_rate"] == np.float32(0.03)


def test_runs_of_about_the_same_size_share_a_program():
  """Batches of padding take no steps and count in no mean."""
  fewer = dataclasses.replace(RUN, train=TRAIN[:25], validation=VALIDATION[:9])  # 9 and 3 batches
  device, streamed = (samples(place, batch_size=3) for place in PLACES)
  for run, steps in ((RUN, 10), (fewer, 9)):
    states, terms = [], []
    for of in (device, streamed):
      state = of.init([run])
      with of.epochs([run], state) as epoch:
        state, own = epoch(state)
      states.append(jax.device_get(state))
      terms.append(jax.device_get(own))
    assert states[0].step[0] == states[1].step[0] == steps
    close(states[0].params, states[1].params)
    close(*terms)
  (program,) = (device._programs[name] for name in device._programs if name not in ("begin", "join"))
  assert program._cache_size() == 1
  model = device.pick(finished_model(state), 0)
  for rows in (VALIDATION, VALIDATION[:9]):
    close(device.predict(model, rows), streamed.predict(model, rows))
  assert device._predict._cache_size() == 1


def test_without_a_validation_part_there_are_no_terms_of_it():
  run = dataclasses.replace(RUN, validation=VALIDATION[:0])
  for place in PLACES:
    of = samples(place, patience=0, keep_last=True)
    state = of.init([run])
    with of.epochs([run], state) as epoch:
      state, terms = epoch(state)
    assert terms.keys() == {"train"} and int(state.epoch[0]) == 1
    close(jax.device_get(state.params), jax.device_get(trained(place)[0][0].params))


def test_steps_that_are_watched_are_the_same_steps():
  of = samples("stream", nonfinite="stop")
  state = of.init([LONGER])
  with of.epochs([LONGER], state) as epoch:
    state, terms = epoch(state)
  assert int(state.step[0]) == 3 and terms.keys() == {"train", "validation"}


def test_a_streamed_epoch_goes_on_from_any_of_its_steps():
  of = kept("stream")
  saved = []

  def pause(state, partial):
    saved.append((copied(state), partial()))

  state = of.init([LONGER])
  with of.epochs([LONGER], state, pause=pause) as epoch:
    for _ in range(2):
      state, terms = epoch(state)
  assert [partial["steps"] for _, partial in saved] == [1, 2, 1, 2]  # the last step of an epoch is its end
  assert [int(one.step[0]) for one, _ in saved] == [1, 2, 4, 5]
  assert [of.number([LONGER], k // 2, partial) for k, (_, partial) in enumerate(saved)] == [1, 2, 4, 5]
  assert of.number([LONGER], 2, None) == 6 == int(state.step[0])
  for one, partial in saved:
    again = copied(one)
    with of.epochs([LONGER], one, partial) as epoch:
      while int(again.epoch[0]) < 2:
        again, said = epoch(again)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.params), jax.device_get(state.params))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(said), jax.device_get(terms))


def test_a_finished_run_stays_as_it_is():
  for place in PLACES:
    of = kept(place)
    state = of.init([RUN])
    done = dataclasses.replace(state, stop=dataclasses.replace(state.stop, done=jnp.ones(1, bool)))
    before = jax.device_get(done.params)
    with of.epochs([RUN], done) as epoch:
      after, terms = epoch(done)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.params), before)
    assert int(after.step[0]) == int(after.epoch[0]) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(terms)))


def test_a_finished_run_of_a_stack_waits_for_the_others():
  of = kept("device")
  state = of.init([RUN, OTHER])
  state = dataclasses.replace(state, stop=dataclasses.replace(state.stop, done=jnp.array([True, False])))
  with of.epochs([RUN, OTHER], state) as epoch:
    after, _ = epoch(state)
  assert after.step.tolist() == [0, 2] and after.epoch.tolist() == [0, 1]


@pytest.mark.parametrize("paired", [True, False])
def test_the_batch_of_a_step_is_that_of_the_order(paired):
  method = methods.METHODS["discom_kd"](unpaired=True)
  for place in PLACES:
    of = kept(place) if paired else samples(place, method=method)
    key = random.stream(random.run_key(RUN.seed, RUN.fold), "order")
    words, batches = np.asarray(jax.random.key_data(key)), batched(TRAIN, BATCH)
    state = of.pick(of.init([RUN]), 0)
    for step in (0, 1, 2, 5):
      blocks = 1 if paired else 2
      rows = random.epoch_rows(words, step // 2, batches, blocks, np)[step % 2]
      got = of.batch(RUN, dataclasses.replace(state, step=jnp.int32(step)))
      real = rows >= 0
      np.testing.assert_array_equal(np.asarray(got["row"])[real], rows[real])
      np.testing.assert_array_equal(np.asarray(got["target"])[real], np.nan_to_num(TARGET)[rows[real]])
      np.testing.assert_array_equal(np.asarray(got["labelled"])[real], np.isfinite(TARGET[rows[real], 0]))
      own = np.arange(len(rows)) * blocks // len(rows)
      for number, m in enumerate(sorted(SHAPES)):
        there = real & ((m != "radar") | (rows % 7 != 3)) & (paired | (own == number))
        np.testing.assert_array_equal(got["present"][m], there)
        np.testing.assert_array_equal(np.asarray(got["inputs"][m])[there], table()["inputs"][m][rows[there]])


def test_predictions_are_in_the_order_of_the_rows():
  rows = np.array([7, 3, 39, 0, 12, 8, 9, 1, 2, 4, 5, 6, 10, 11, 13, 14, 15, 16, 20])  # more than a batch
  model = jax.device_get(trained("device")[0][0])
  model = jax.tree.map(
    lambda leaf: leaf[0], {"params": model.params, "stats": model.stats, "values": model.values}
  )
  device, streamed = (kept(place).predict(model, rows) for place in PLACES)
  close(device, streamed)
  for heads in (device, streamed):
    assert all(y.shape == (len(rows), 1) for head in heads.values() for y in head.values())
    np.testing.assert_array_equal(np.isnan(heads["prediction"]["radar"][:, 0]), rows % 7 == 3)
    assert np.isfinite(heads["prediction"]["optical"]).all()
  for at in (0, 2, 17):
    alone = kept("stream").predict(model, rows[at : at + 1])
    close(alone, jax.tree.map(lambda y, at=at: y[at : at + 1], device))


def test_the_values_of_rows_are_those_of_samples_that_have_the_sensor():
  rows = np.array([1, 2, 3, 10, 30])
  for place in PLACES:
    got = kept(place)._inputs(rows)
    np.testing.assert_array_equal(got["radar"], table()["inputs"]["radar"][[1, 2, 30]])
    np.testing.assert_array_equal(got["optical"], table()["inputs"]["optical"][rows])


def test_the_arrays_of_a_run():
  of = samples("device", "zscore")
  values = of._values(RUN)
  assert values["weights"] == WEIGHTS and values["steps_per_epoch"] == 2
  assert of._values(LONGER)["steps_per_epoch"] == 3
  seen = table()["inputs"]["radar"][[row for row in TRAIN if row % 7 != 3]]
  np.testing.assert_allclose(values["inputs"]["radar"]["offset"], seen.mean((0, 1)), rtol=1e-5)
  robust = samples("device", "robust")._values(RUN)["inputs"]["radar"]
  np.testing.assert_allclose(robust["offset"], np.median(seen, axis=(0, 1)), rtol=1e-5)
  labelled = TARGET[[row for row in TRAIN if row % 5 != 1]]
  np.testing.assert_allclose(values["task"]["mean"], labelled.mean(0), rtol=1e-5)
  np.testing.assert_allclose(values["task"]["std"], labelled.std(0), rtol=1e-5)


def test_what_a_run_needs_is_checked_before_it_begins(monkeypatch):
  def lacking(run):
    raise InputError(f"{run.name}: no teacher")

  of = samples("device")
  of.check([RUN])
  of._arrays = lacking
  of.check([RUN], arrays=False)
  with pytest.raises(InputError, match="^seed3_fold1: no teacher"):
    of.check([RUN])
  seen = []
  monkeypatch.setattr(streaming, "check_unchanged", lambda dataset, index: seen.append((dataset, index)))
  kept("device").check_source()
  assert not seen
  kept("stream").check_source()
  assert seen == [(None, INDEX)]


def test_each_run_of_a_stack_has_its_own_teachers_and_all_have_the_values_of_a_file():
  of = kept("device")
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), of.init([RUN]).params["encoders"])
  teachers = [{"fusion": {"params": np.full((3, 2), k, np.float32)}} for k in (1, 2)]
  fresh = samples("device")  # compiles for these arguments
  state = fresh.init([RUN, OTHER], frozen=teachers, pretrained={"params": {"encoders": zeros}})
  assert state.frozen["fusion"]["params"].tolist() == [np.full((3, 2), k).tolist() for k in (1, 2)]
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.params["encoders"]))
  plain = of.init([RUN, OTHER])
  close(jax.device_get(state.params["heads"]), jax.device_get(plain.params["heads"]))


@pytest.mark.parametrize(
  "runs",
  [(RUN, OTHER), (RUN, LONGER), (LONGER, dataclasses.replace(LONGER, seed=6))],
  ids=["two steps", "uneven", "three steps"],
)
def test_runs_of_a_stack_are_trained_as_each_is_alone(runs):
  of = kept("device")
  state = of.init(runs)
  with of.epochs(runs, state) as epoch:
    state, terms = epoch(state)
  for k, run in enumerate(runs):
    one = of.init([run])
    with of.epochs([run], one) as epoch:
      one, own = epoch(one)
    pick = lambda tree, k: jax.tree.map(lambda leaf: leaf[k], jax.device_get(tree))
    close(pick(state.params, k), pick(one.params, 0))
    close(pick(terms, k), pick(own, 0))
    assert int(state.step[k]) == int(one.step[0])


def test_each_run_of_a_stack_begins_with_its_own_closed_form():
  """Landmarks, heads, the best model and the average."""
  encoder = {"model_type": "kernel", "landmarks": 6, "layer_sizes": (), "dropout": 0.0}
  own = architecture(emb_dim=6, projection=False, standardised=True)
  own = dataclasses.replace(own, encoders=dict.fromkeys(SHAPES, encoder))
  of = samples("device", network=Network(METHOD, own), ridge=0.3, average=Average("ema"))
  state = of.init([RUN, LONGER])
  state = of.begin([RUN, LONGER], state)
  for k, run in enumerate((RUN, LONGER)):
    one = of.pick(of.init([run]), 0)
    rows = batched(run.train, BATCH)
    params, stats = jax.jit(functools.partial(closed_form.begin, of.recipe))(one, of.device_table, rows)
    for model in (state, state.best):
      got = jax.tree.map(lambda leaf, k=k: leaf[k], (model.params, model.stats))
      close(jax.device_get(got), jax.device_get((params, stats)))
    average = jax.tree.map(lambda leaf, k=k: leaf[k], state.average)
    close(jax.device_get((average["params"], average["stats"])), jax.device_get((params, stats)))
  before = jax.device_get(of.init([RUN]).params["heads"])
  after = jax.device_get(jax.tree.map(lambda leaf: leaf[:1], state.params["heads"]))
  assert all((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def test_compiling_ahead_trains_nothing_and_a_stream_takes_one_run():
  of = kept("device")
  of.compile([RUN])
  again = jax.device_get(of.init([RUN]).params)
  jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(kept("device").init([RUN]).params))
  with pytest.raises(InputError, match="mesh.replica: a stream trains one run at a time"):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(streaming, "make_reader", lambda *_: READER)
      options = {"class_weights": "none", "weights": None, "arrays": None, "normalisation": None}
      streaming.Streamed(recipe(2, 2), MODALITIES, None, INDEX, **options)


def test_sums_of_terms_leave_out_skipped_steps_and_absent_rows():
  totals = {"sums": {"a": 10.0, "skipped": 1.0, "learning_rate": 9.0}, "count": 4.0}
  batch = {"present": {"x": jnp.array([1.0, 0.0, 1.0]), "y": jnp.array([0.0, 0.0, 1.0])}}
  terms = {"a": jnp.array(3.0), "skipped": jnp.array(0.0), "learning_rate": jnp.array(0.5)}
  got = jax.device_get(streaming._add(totals, terms, batch))
  assert got == {"sums": {"a": 16.0, "skipped": 1.0, "learning_rate": 0.5}, "count": 6.0}
  got = jax.device_get(streaming._add(totals, terms | {"a": jnp.nan, "skipped": jnp.array(1.0)}, batch))
  assert got == {"sums": {"a": 10.0, "skipped": 2.0, "learning_rate": 0.5}, "count": 4.0}
  plain = {"sums": {"a": 10.0}, "count": 4.0}
  assert jax.device_get(streaming._add(plain, {"a": jnp.array(3.0)}, batch)) == {
    "sums": {"a": 16.0},
    "count": 6.0,
  }


def test_a_queue_holds_two_batches_and_tells_of_a_fault():
  begun = collections.deque()
  tokens = [jnp.int32(k) for k in (-1, 0, -1, 5)]
  assert [streaming._wait(begun, token) for token in tokens] == [False, False, False, True]
  assert len(begun) == 2
