"""The encoder `kernel` beside the kernels that it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import config, encoders
from colearn_jax.encoders import kernel
from colearn_jax.methods.configured import make_architecture
from colearn_jax.types import (
  CONTEXT,
  DATE_COLUMNS,
  TIME_COLUMN,
  InputError,
  Modality,
  Task,
  place_columns,
)

MATERN = {
  0.5: lambda r: np.exp(-r),
  1.5: lambda r: (1 + 3**0.5 * r) * np.exp(-(3**0.5) * r),
  2.5: lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r),
}  # of distances, Rasmussen & Williams 2006, equation 4.17


def draws(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("smoothness", MATERN)
def test_products_of_features_are_the_kernel_projected_to_the_landmarks(smoothness):
  scale, points, x = np.array([1.0, 2.0, 3.0, 4.0]), draws(9, 4), draws(20, 4, seed=1)
  groups = [(1, lengthscale) for lengthscale in scale]
  features = kernel.Nystroem(groups, 9, smoothness=smoothness, rngs=nnx.Rngs(0))
  features.fit(jnp.asarray(points))
  of = lambda a, b: MATERN[smoothness](np.linalg.norm((a[:, None] - b[None]) / scale, axis=-1))
  inner = of(points, points) + kernel.NUGGET * np.eye(9)
  projected = of(x, points) @ np.linalg.solve(inner, of(points, x))
  y = np.asarray(features(jnp.asarray(x)), np.float64) / kernel.SQUARES**0.5
  np.testing.assert_allclose(y @ y.T, projected, rtol=0, atol=1e-4)
  z = np.asarray(features(jnp.asarray(points)), np.float64) / kernel.SQUARES**0.5
  np.testing.assert_allclose(y @ z.T, of(x, points), rtol=0, atol=0.02)


def test_equal_landmarks_do_no_harm():
  features = kernel.Nystroem([(2, 1.0)], 6, smoothness=0.5, rngs=nnx.Rngs(0))
  points = np.repeat(draws(2, 2), 3, 0)
  features.fit(jnp.asarray(points))
  y = np.asarray(features(jnp.asarray(points)), np.float64) / kernel.SQUARES**0.5
  np.testing.assert_allclose((y**2).sum(1), 1.0, atol=1e-3)


def test_the_context_has_a_lengthscale_of_its_own():
  """Two samples are as far apart as the distances of sensor and context together."""
  settings = {"lengthscale": 2.0, "context_lengthscale": 0.5, "landmarks": 2, "layer_sizes": ()}
  module = kernel.Kernel((6,), context_parts=(2, 0, 0, 0), rngs=nnx.Rngs(0), **settings)
  x = draws(2, 6, seed=1)
  module.fit(jnp.asarray(x))
  difference = np.asarray(x[0] - x[1], np.float64)
  distance = np.sqrt(np.sum((difference[:4] / 2.0) ** 2) / 4 + np.sum((difference[4:] / 0.5) ** 2) / 2)
  y = np.asarray(module(jnp.asarray(x)), np.float64)
  np.testing.assert_allclose(y[0] @ y[1] / kernel.SQUARES, MATERN[1.5](distance), atol=2e-3)


def test_the_parts_of_a_context_count_alike_and_place_and_time_have_a_kernel_of_their_own():
  """2 values of the sensor; date, location, time and static values of the context."""
  parts, share = (2, 3, 1, 4), 0.25
  settings = {"lengthscale": 2.0, "context_lengthscale": 0.5, "landmarks": 5, "layer_sizes": ()}
  module = kernel.Kernel((12,), context_parts=parts, context_share=share, rngs=nnx.Rngs(0), **settings)
  x = draws(5, 12, seed=1)
  module.fit(jnp.asarray(x))
  sizes, ends = [2, *parts], np.cumsum([0, 2, *parts])
  scaled = [x[:, a:b] / (2.0 if a == 0 else 0.5) / n**0.5 for a, b, n in zip(ends, ends[1:], sizes)]
  squares = [np.square(part[:, None] - part[None]).sum(-1) for part in scaled]
  wanted = (1 - share) * MATERN[1.5](np.sqrt(sum(squares))) + share * MATERN[1.5](np.sqrt(sum(squares[1:4])))
  y = np.asarray(module(jnp.asarray(x)), np.float64)
  np.testing.assert_allclose(y @ y.T / kernel.SQUARES, wanted, atol=2e-3)
  slope = jax.grad(lambda x: module(x).sum())(jnp.asarray(x))  # also at a landmark, where distances are 0
  assert np.isfinite(slope).all()


def test_a_configuration_tells_the_parts_of_its_context():
  settings = config.load("lfmc_best:individual,everything")
  bands = (*DATE_COLUMNS, *place_columns(2), TIME_COLUMN, "silt", "sand", "height")
  sensor = Modality("S1_S1Ind", ("S1", "S1Ind"), (4, 3), ("vv", "vh", "vh_vv"))
  known = Modality(CONTEXT, (), (len(bands),), bands)
  of = lambda *modalities: make_architecture(settings, Task("regression", ("moisture",)), modalities)
  assert of(sensor, known).context_parts == (2, 11, 1, 3)
  backbone = nnx.eval_shape(lambda: of(sensor, known).encoder("S1_S1Ind", rngs=nnx.Rngs(0))).backbone
  assert [size for size, _ in backbone.landmarks.groups] == [12, 2, 11, 1, 3]
  assert (backbone.landmarks.some, backbone.landmarks.share) == ((12, 26), 0.3)


def test_the_recipe_reads_no_time_where_years_are_left_out():
  of = lambda words: config.load(f"lfmc_best:individual,{words}").data.context
  assert of("everything") == ("date", "location", "time", "soil", "DEM", "LIDAR", "landcover")
  assert of("everything,year") == tuple(name for name in of("everything") if name != "time")


def test_a_share_of_place_and_time_needs_one_of_them():
  make = lambda **how: encoders.make_encoder(
    {"model_type": "kernel", "landmarks": 8, "context_share": 0.5}, (3, 2), 4, rngs=nnx.Rngs(0), **how
  )
  assert make(context=3, context_parts=(0, 3, 0, 0)).backbone.landmarks.share == 0.5
  for how in ({}, {"context": 3, "context_parts": (0, 0, 0, 3)}):
    with pytest.raises(
      InputError, match="context_share of encoder kernel needs a date, a location or a time"
    ):
      make(**how)
  with pytest.raises(ValueError, match="other than 3 values"):
    make(context=3)


def test_a_learnt_metric_keeps_the_weight_of_each_group():
  """A group without gradients keeps its metric; the other's becomes the root of the gradients' products."""
  features = kernel.Nystroem([(3, 2.0), (2, 0.5)], 4, smoothness=0.5, rngs=nnx.Rngs(0))
  features.fit(jnp.asarray(draws(4, 5)))
  before = np.asarray(features.whitening[...])
  slopes = np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
  products = np.zeros((5, 5), np.float32)
  products[:3, :3] = slopes @ slopes
  features.learn(jnp.asarray(products))
  metric = np.asarray(features.metric[...], np.float64)
  np.testing.assert_allclose(metric @ metric, metric.T @ metric, atol=1e-6)
  np.testing.assert_allclose((metric @ metric)[:3, :3], slopes * (3 / 2.0**2) / 6, atol=1e-5)
  np.testing.assert_allclose(metric[3:, 3:], 2.0 * np.eye(2), atol=1e-6)
  assert not metric[:3, 3:].any() and not metric[3:, :3].any()
  assert np.abs(features.whitening[...] - before).max() > 0.1  # the landmarks' features follow


def test_landmarks_are_not_trained():
  settings = {"model_type": "kernel", "landmarks": 8}
  module = encoders.make_encoder(settings, (3, 2), 4, rngs=nnx.Rngs(0))
  assert "landmarks" not in nnx.state(module, nnx.Param)["backbone"]
  assert set(nnx.state(module, nnx.BatchStat)["backbone"]["landmarks"]) == {"metric", "points", "whitening"}


def test_wrong_settings():
  with pytest.raises(InputError, match="smoothness=1.0 of encoder kernel: have 0.5, 1.5, 2.5"):
    kernel.Kernel((6,), rngs=nnx.Rngs(0), smoothness=1.0)
  plain = {"model_type": "kernel", "landmarks": 8, "layer_sizes": ()}
  make = lambda width: encoders.make_encoder(plain, (3, 2), width, linear=False, rngs=nnx.Rngs(0))
  assert make(8)(jnp.zeros((1, 3, 2))).shape == (1, 8)
  with pytest.raises(InputError, match="8 features, so without a projection model.emb_dim has to be 8"):
    make(4)


def test_no_rounds_are_allowed_and_fewer_are_not():
  make = lambda rounds: encoders.make_backbone(
    {"model_type": "kernel", "landmarks": 4, "metric_rounds": rounds}, (3, 2), rngs=nnx.Rngs(0)
  )
  assert make(0).rounds == 0
  with pytest.raises(InputError, match="encoder kernel: metric_rounds=-1 is not allowed; an integer >= 0"):
    make(-1)
