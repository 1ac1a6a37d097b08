import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax.data import augment
from colearn_jax.data.augment import Augment, make_augment
from colearn_jax.parallel import sharding

B = 64


def inputs(seed=0):
  """An image, a tile whose pixels are the image's means over 4 x 4 pixels, and a series."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (B, 24, 24, 2), dtype=np.uint8)
  tile = image.reshape(B, 1, 6, 4, 6, 4, 2).mean((3, 5), dtype=np.float32).repeat(5, 1)
  return {"aerial": image, "tile": tile, "series": rng.normal(size=(B, 5, 3)).astype(np.float32)}


def apply(augment, given, key=None):
  constants = {m: {"scale": jnp.arange(1.0, x.shape[-1] + 1)} for m, x in given.items()}
  return jax.device_get(jax.jit(augment)(jax.random.key(3) if key is None else key, given, constants))


def symmetries(x):
  """All eight of a square image `[H W C]`: four rotations, then each with its rows flipped."""
  turned = [np.rot90(x, k) for k in range(4)]
  return turned + [image[::-1] for image in turned]


@pytest.mark.parametrize(
  "flip, turns, shown",
  [(True, False, {0, 2, 4, 6}), (False, True, {0, 1, 2, 3}), (True, True, set(range(8)))],
)
def test_geometry_is_shared_by_all_sensors_of_a_sample(flip, turns, shown):
  given = inputs()
  got = apply(Augment(flip=flip, quarter_turns=turns), given)
  assert got["aerial"].dtype == np.uint8
  same = lambda b: [np.array_equal(image, got["aerial"][b]) for image in symmetries(given["aerial"][b])]
  which = [same(b).index(True) for b in range(B)]
  assert set(which) == shown
  for b, i in enumerate(which):
    for t in range(5):
      np.testing.assert_array_equal(got["tile"][b, t], symmetries(given["tile"][b, t])[i])
  np.testing.assert_array_equal(got["series"], given["series"])


def test_all_turns_and_flips_are_as_frequent():
  count = 4000
  x = np.tile(np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)[None, ..., None], (count, 1, 1, 1))
  for flip, turns in ((False, 4), (True, 8)):
    got = apply(Augment(flip=flip, quarter_turns=True), {"a": x})["a"].reshape(count, 4)
    _, counts = np.unique(got, axis=0, return_counts=True)
    assert len(counts) == turns
    expected = count / turns
    assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_a_crop_shows_the_same_window_to_all_sensors():
  """Of two sensors that see a pixel's own coordinates, in shares of the side."""
  ramp = lambda n: (np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1) + 0.5) / n
  given = {
    "fine": np.tile(ramp(60), (B, 1, 1, 1)).astype(np.float32),
    "coarse": np.tile(ramp(12), (B, 2, 1, 1, 1)).astype(np.float32),
  }
  got = apply(Augment(crop=0.5), given)
  corners = got["fine"][:, [0, -1], [0, -1]]  # [B 2 axes]
  side = (corners[:, 1] - corners[:, 0]) * 60 / 59
  assert side.min() > 0.45 and side.max() < 1.01 and side.std() > 0.05
  np.testing.assert_allclose(side[:, 0], side[:, 1], atol=2 / 60)
  assert corners[:, 0].std() > 0.05 and (got["fine"] >= 0).all() and (got["fine"] <= 1).all()
  middle = lambda x: x.mean((-3, -2))
  np.testing.assert_allclose(middle(got["coarse"])[:, 0], middle(got["fine"]), atol=0.6 / 12)


def test_images_need_not_be_square():
  x = np.random.default_rng(0).normal(size=(B, 4, 6, 1)).astype(np.float32)
  got = apply(Augment(flip=True), {"a": x, "series": np.repeat(x[:, None], 3, 1)})
  flips = [x, x[:, ::-1], x[:, :, ::-1], x[:, ::-1, ::-1]]
  which = [next(k for k, y in enumerate(flips) if np.array_equal(y[b], got["a"][b])) for b in range(B)]
  assert set(which) == {0, 1, 2, 3}
  for b, k in enumerate(which):
    np.testing.assert_array_equal(got["series"][b], np.repeat(flips[k][b][None], 3, 0))


@pytest.mark.parametrize("bits", [0, 2**32 - 1])
def test_noise_is_finite_for_any_random_bits(bits, monkeypatch):
  """And as many numbers are drawn as keys: dropped steps and noise of each sensor have their own."""
  keys = []

  def drawn(key, shape):
    keys.append(tuple(jax.random.key_data(key).tolist()))
    return jnp.full(shape, bits, jnp.uint32)

  monkeypatch.setattr(augment, "hashed_bits", drawn)
  given = {m: np.ones((2, 3, 2), np.float32) for m in "ab"}
  constants = {m: {"scale": jnp.ones(2)} for m in given}
  for x in Augment(noise=0.1)(jax.random.key(0), given, constants).values():
    assert np.isfinite(x).all() and 0.4 < np.abs(x - 1).min() < 0.6
  keys.clear()
  Augment(noise=0.1, time_dropout=0.5)(jax.random.key(0), given, constants)
  assert len(keys) == 4 == len(set(keys))


def test_series_shift_together_and_what_comes_in_is_missing():
  given = {m: x for m, x in inputs().items() if m != "aerial"}
  got = apply(Augment(time_shift=2), given)
  moves = set()
  for b in range(B):
    gone = np.isnan(got["series"][b, :, 0])
    move = int(gone.sum()) * (1 if gone[0] else -1)
    moves.add(move)
    for m in given:
      x, y = given[m][b], got[m][b]
      kept, came = (y[move:], x[: 5 - move]) if move >= 0 else (y[:move], x[-move:])
      np.testing.assert_array_equal(kept, came)
      assert np.isnan(np.delete(y, np.flatnonzero(~gone), 0)).all()
  assert moves == {-2, -1, 0, 1, 2}


def test_steps_drop_out_by_themselves_and_noise_is_in_units_of_the_scale():
  x = np.zeros((512, 20, 3), np.float32)
  x[0] = np.nan
  got = apply(Augment(time_dropout=0.25, noise=0.1), {"a": x, "b": x})
  gone = {m: np.isnan(got[m][1:]) for m in "ab"}
  assert (gone["a"].all(-1) == gone["a"].any(-1)).all()
  np.testing.assert_allclose(gone["a"].mean(), 0.25, atol=0.02)
  assert (gone["a"] != gone["b"]).any()
  assert np.isnan(got["a"][0]).all()  # absent rows stay absent
  noise = got["a"][1:]
  np.testing.assert_allclose(np.nanstd(noise, (0, 1)), [0.1, 0.2, 0.3], rtol=0.05)
  np.testing.assert_allclose(np.nanmean(noise, (0, 1)), 0, atol=0.02)
  flat = noise[~np.isnan(noise[..., 0])]
  assert np.abs(np.corrcoef(flat.T) - np.eye(3)).max() < 0.05


def test_months_move_with_their_series_and_get_no_noise():
  x = np.tile(np.arange(5, dtype=np.float32)[None, :, None], (B, 1, 3))
  got = apply(Augment(time_shift=1, noise=0.5, months=("a",)), {"a": x, "b": x})
  month = got["a"][..., 2]
  assert set(month[np.isfinite(month)].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
  for band in (0, 1):
    assert np.nanstd(got["a"][..., band] - month) > 0.3
  assert np.nanstd(got["b"][..., 2] % 1) > 0.1


ALL = Augment(flip=True, quarter_turns=True, crop=0.6, time_shift=1, time_dropout=0.2, noise=0.3)


def test_the_key_decides_and_not_the_devices():
  given = inputs()
  got = apply(ALL, given)
  place = sharding.by_example(sharding.make_mesh({"replica": 1, "data": -1, "fsdp": 1}, B))
  jax.tree.map(np.testing.assert_array_equal, apply(ALL, jax.device_put(given, place)), got)
  other = apply(ALL, given, jax.random.key(4))
  assert all((other[m] != got[m]).any() for m in got)


def test_stacked_runs_get_what_each_gets_alone():
  given = inputs()
  constants = {m: {"scale": jnp.ones(x.shape[-1])} for m, x in given.items()}
  keys = jax.vmap(jax.random.key)(jnp.arange(3))
  run = functools.partial(ALL, inputs=given, constants=constants)
  stacked, alone = jax.jit(jax.vmap(run))(keys), jax.jit(run)(keys[1])
  jax.tree.map(lambda s, a: np.testing.assert_array_equal(s[1], a), stacked, alone)


def test_switched_off_it_is_not_there():
  assert make_augment(dataclasses.asdict(Augment())) is None
  assert make_augment(dataclasses.asdict(ALL)) == ALL
