"""Series of tiles: flattened for the encoders of series, as they are for the pixel-set encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import pse_ltae
from colearn_jax.types import InputError
from tests.helpers import SERIES, make, program, series

TREESAT = (146, 6, 6, 12)


def parameters(name, shape):
  module = nnx.eval_shape(lambda: encoders.make_encoder({"model_type": name}, shape, 128, rngs=nnx.Rngs(0)))
  return sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_number_of_parameters():
  assert parameters("pse_ltae", TREESAT) == 210_240
  assert parameters("tempcnn", TREESAT) == parameters("tempcnn", (146, 432)) == 9_994_624


@pytest.mark.parametrize("name", SERIES)
def test_every_encoder_of_series_reads_tiles(name):
  encode = lambda x: encoders.make_encoder({"model_type": name}, TREESAT, 128, rngs=nnx.Rngs(0))(x)
  assert jax.eval_shape(encode, jax.ShapeDtypeStruct((2, *TREESAT), jnp.float32)).shape == (2, 128)


def test_tiles_are_flattened_after_time():
  x = series(3, 5, 2, 2, 3).at[0, 1].set(jnp.nan)
  cubes, flat = make("tempcnn", (5, 2, 2, 3)), make("tempcnn", (5, 12))
  np.testing.assert_array_equal(program(cubes)(x)[0], program(flat)(x.reshape(3, 5, 12))[0])


def both(x, other, **kwargs):
  """What the pixel-set encoder makes of two inputs, and its statistics: as many pixels or not."""
  graphdef, params, stats = nnx.split(make("pse_ltae", x.shape[1:]), nnx.Param, nnx.BatchStat)

  @jax.jit
  def call(x):
    module = nnx.merge(graphdef, params, stats, copy=True)
    return module(x, **kwargs), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

  return call(x), call(other)


def assert_near(one, other):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


@pytest.mark.parametrize("train", [False, True])
def test_pixels_are_a_set_and_missing_ones_are_not_in_it(train):
  x = series(4, 5, 2, 2, 3)
  x = x.at[:, :, 1, 0, 1].set(jnp.nan)  # a band of one pixel
  turned = x[:, :, ::-1].at[:, :, 0, 0].set(jnp.nan)
  assert np.isnan(turned).sum() == 3 * np.isnan(x).sum()
  without = x.reshape(4, 5, 1, 4, 3)[:, :, :, jnp.array([0, 1, 3])]
  (y, stats), other = both(x, turned, train=train)
  assert_near((y, stats), other)
  assert_near((y, stats), both(x, without, train=train)[1])


def test_pixels_without_a_band_count_where_no_pixel_has_it():
  x = series(4, 5, 2, 2, 3)
  one, other = both(x.at[:, 2, ..., 1].set(jnp.nan), x.at[:, 2, ..., 1].set(0.0), train=True)
  assert_near(one, other)


def test_steps_that_nobody_saw_are_not_looked_at():
  x = series(4, 5, 2, 2, 3)
  attend = jax.jit(make("pse_ltae", (5, 2, 2, 3)).backbone.attend)
  y, attention = map(np.asarray, attend(x.at[1:3, 2].set(jnp.nan).at[3].set(jnp.nan)))
  np.testing.assert_array_equal(attention[1:3, :, 2], 0.0)
  assert (attention[0] > 0).all() and (attention[3] > 0).all()  # a sample that nobody saw at all is zeros
  assert np.isfinite(y).all()


def test_statistics_are_those_of_the_pixels_that_count():
  rows = pse_ltae.Rows(3, (4, 2), rngs=nnx.Rngs(0), dtype=jnp.float32)
  graphdef, params, stats = nnx.split(rows, nnx.Param, nnx.BatchStat)
  x, counted = series(50, 3), jnp.arange(50) % 3 > 0

  @jax.jit
  def after(x, counted):
    module = nnx.merge(graphdef, params, stats, copy=True)
    return module(x, counted, train=True), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

  (y, some), (expected, alone) = after(x, counted), after(x[counted], jnp.ones(int(counted.sum())))
  assert_near((y[counted], some), (expected, alone))


def test_mean_and_deviation():
  x, counted = series(2, 3, 4, 5), np.ones((2, 3, 4), bool)
  counted[0, 1, 2], counted[1, 2] = False, False
  got = np.asarray(pse_ltae.mean_and_deviation(x, jnp.asarray(counted)))
  np.testing.assert_allclose(got[0, 1, :5], x[0, 1, counted[0, 1]].mean(0), rtol=0, atol=1e-6)
  np.testing.assert_allclose(got[0, 0, 5:], np.sqrt(x[0, 0].var(0) + 1e-5), rtol=1e-5)
  np.testing.assert_allclose(got[1, 2], [0.0] * 5 + [1e-5**0.5] * 5, atol=1e-6)


def test_gradients_are_finite_where_values_are_missing_or_alike():
  x = (
    series(4, 5, 2, 2, 3)
    .at[0, 1]
    .set(jnp.nan)
    .at[1]
    .set(jnp.nan)
    .at[2]
    .set(0.5)
    .at[3, 0, 0, 0, 0]
    .set(jnp.nan)
  )
  graphdef, params, stats = nnx.split(make("pse_ltae", (5, 2, 2, 3)), nnx.Param, nnx.BatchStat)

  @jax.jit
  @jax.grad
  def gradient(params):
    module = nnx.merge(graphdef, params, stats, copy=True)
    return jnp.square(module(x, train=True, rngs=nnx.Rngs(dropout=0))).sum()

  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(params)))


def test_only_tiles_are_read():
  with pytest.raises(InputError, match=r"reads series of tiles of shape \(T, H, W, C\), got \(12, 2\)"):
    make("pse_ltae", (12, 2))
