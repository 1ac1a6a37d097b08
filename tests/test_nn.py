"""Layers, convolutions and random numbers, each against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from scipy.stats import norm

from colearn_jax.nn import attention, convolution, layers, random

N = 1 << 16  # values that a share or a mean is taken of
SIGMAS = 5.0  # how many standard errors it may be off; keys are fixed, so a test never fails by chance


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_scales_what_it_keeps(rate):
  x = jnp.linspace(1.0, 2.0, N).reshape(N // 8, 8)
  y = layers.Dropout(rate)(x, train=True, rngs=nnx.Rngs(dropout=jax.random.key(0)))
  kept = np.asarray(y) != 0
  np.testing.assert_allclose(y[kept], x[kept] / (1.0 - rate), rtol=1e-6)
  error = (rate * (1.0 - rate) / N) ** 0.5
  assert abs(kept.mean() - (1.0 - rate)) < SIGMAS * error
  other = layers.Dropout(rate)(x, train=True, rngs=nnx.Rngs(dropout=jax.random.key(1)))
  both = (kept & (np.asarray(other) != 0)).mean()
  assert abs(both - (1.0 - rate) ** 2) < SIGMAS * error  # masks of two keys are independent


def test_dropout_does_nothing_without_training_or_rate():
  x = jnp.arange(4.0)
  assert layers.Dropout(0.5)(x, train=False, rngs=None) is x
  assert layers.Dropout(0.0)(x, train=True, rngs=None) is x
  half = layers.Dropout(0.5)(x.astype(jnp.bfloat16), train=True, rngs=nnx.Rngs(dropout=0))
  assert half.dtype == jnp.bfloat16


def test_initial_values_are_uniform_up_to_their_bound():
  values = np.asarray(layers.uniform_fan_in(25)(jax.random.key(3), (N,)))
  assert -0.2 <= values.min() < -0.1999 and 0.1999 < values.max() <= 0.2
  assert abs(values.mean()) < SIGMAS * 0.2 / 3**0.5 / N**0.5
  shares = np.histogram(values, 16, (-0.2, 0.2))[0] / N
  assert np.abs(shares - 1 / 16).max() < SIGMAS * (1 / 16 / N) ** 0.5


def test_initial_values_of_he_et_al_are_normal():
  spread = np.asarray(layers.he_normal(50)(jax.random.key(0), (N,))) / (2 / 50) ** 0.5
  assert np.isfinite(spread).all() and np.abs(spread).max() < 6
  assert abs(spread.mean()) < SIGMAS / N**0.5
  assert abs(spread.std() - 1.0) < SIGMAS / (2 * N) ** 0.5
  np.testing.assert_allclose(np.quantile(spread, [0.0013, 0.1587, 0.8413]), [-3, -1, 1], atol=0.1)


def test_positions_are_sines_and_cosines_of_falling_frequencies():
  table = layers.sinusoid(np.array([0, 3]), 4)
  np.testing.assert_array_equal(table[0], [0, 1, 0, 1])
  angles = np.array([3.0, 3.0, 3.0 / 100, 3.0 / 100])  # 10000^(2/4) is 100
  np.testing.assert_allclose(table[1], np.where([1, 0, 1, 0], np.sin(angles), np.cos(angles)), rtol=1e-6)
  np.testing.assert_allclose(layers.sinusoid(np.array([3]), 4, base=4.0)[0, 2], np.sin(1.5), rtol=1e-6)


def agreeing(a, b):
  """The share of equal bits, which is a half for independent arrays."""
  return 1.0 - np.unpackbits((np.asarray(a) ^ np.asarray(b)).view(np.uint8)).mean()


BIT_ERROR = SIGMAS * 0.5 / (32 * N) ** 0.5  # of a share of the bits of N numbers


def test_keys_are_those_of_nnx():
  for ours, theirs in (
    (random.keys(jax.random.key(5)), nnx.Rngs(params=jax.random.key(5))),
    (random.keys(), nnx.Rngs(0)),
  ):
    for _ in range(3):
      assert jax.random.key_data(ours.params()).tolist() == jax.random.key_data(theirs.params()).tolist()


def test_hashed_bits_are_fair_and_independent_of_their_neighbours():
  bits = np.asarray(random.hashed_bits(jax.random.key(7), (N // 256, 256)))
  each = (bits.reshape(-1, 1) >> np.arange(32, dtype=np.uint32)) & 1
  assert np.abs(each.mean(0) - 0.5).max() < SIGMAS * 0.5 / N**0.5
  assert len(np.unique(bits)) > 0.999 * N
  for one, other in ((bits[1:], bits[:-1]), (bits[:, 1:], bits[:, :-1])):  # rows and columns
    assert abs(agreeing(one.copy(), other.copy()) - 0.5) < BIT_ERROR * 1.1
  pairs = np.corrcoef(each[:-1].T, each[1:].T)[:32, 32:]  # any bit and any bit of the next position
  assert np.abs(pairs).max() < SIGMAS / N**0.5


def test_hashed_bits_depend_on_both_words_of_the_key():
  key = lambda *words: jax.random.wrap_key_data(jnp.array(words, jnp.uint32))
  base = random.hashed_bits(key(1, 2), (N,))
  # Not `BIT_ERROR`: where a single high bit of the second word differs, 51 % of the bits agree. Keys in use
  # come from Threefry and differ in half of their bits.
  for other in (key(0, 2), key(1, 3), key(1 << 31, 2), key(1, 2 + (1 << 31)), key(2, 1)):
    assert abs(agreeing(base, random.hashed_bits(other, (N,))) - 0.5) < 0.02
  folded = [random.hashed_bits(jax.random.fold_in(key(1, 2), i), (N,)) for i in range(2)]
  assert abs(agreeing(*folded) - 0.5) < BIT_ERROR


def test_hashed_bits_depend_on_the_number_of_the_position_alone():
  key = jax.random.key(5)
  flat = random.hashed_bits(key, (96,))
  np.testing.assert_array_equal(random.hashed_bits(key, (8, 4, 3)), flat.reshape(8, 4, 3))
  np.testing.assert_array_equal(random.hashed_bits(key, (50,)), flat[:50])
  assert random.hashed_bits(key, ()).shape == ()


def test_draws_of_a_seed_stay_the_same():
  """A seed of a published figure gives the same initial values and the same order in later versions."""
  bits = np.asarray(random.hashed_bits(jax.random.key(5), (2, 3)))
  assert bits.tolist() == [[2722724831, 3359354011, 4291624807], [3782259333, 2887454184, 3858600664]]
  words, padded_rows = np.array([3, 5], np.uint32), np.array([0, 1, 2, 3, 4, 5, 6, 7, -1, -1])
  assert random.shuffled(words, 2, padded_rows, np).tolist() == [1, 4, 7, 6, 2, 3, 0, 5, -1, -1]
  both = random.epoch_rows(words, 1, np.arange(6).reshape(3, 2), 2, np)
  assert both.tolist() == [[1, 4, 4, 3], [2, 3, 2, 0], [0, 5, 5, 1]]
  key = random.stream(random.run_key(3, 1), "dropout", 7)
  assert jax.random.key_data(key).tolist() == [3234772537, 1745768541]
  values = layers.uniform_fan_in(25)(jax.random.key(3), (3,))
  np.testing.assert_allclose(values, [-0.04842358, 0.14220658, 0.05896828], rtol=1e-6)
  values = layers.he_normal(50)(jax.random.key(0), (3,))
  np.testing.assert_allclose(values, [-1.0589409, 0.35825935, 0.3072748], rtol=1e-5)


def test_hashed_bits_do_not_depend_on_the_sharding():
  mesh = jax.make_mesh((len(jax.devices()),), ("data",))
  draw = lambda: random.hashed_bits(jax.random.key(5), (64, 6))
  alone = jax.jit(draw)()
  for spec in (PartitionSpec("data"), PartitionSpec(None)):
    shared = jax.jit(draw, out_shardings=NamedSharding(mesh, spec))()
    np.testing.assert_array_equal(alone, shared)


def padded(size, even):
  """Half a kernel at both ends; or what keeps the length, which for even kernels is one more behind."""
  return ((size - 1) // 2, size // 2) if even else (size // 2, size // 2)


# What TempCNN, ConvTran (whose second axis is bands) and ResNet ask for.
CONVOLUTIONS = [
  *[((11,), (size,), [padded(size, False)], 1) for size in (1, 2, 5)],
  *[((11, 3), (size, 1), [padded(size, True), (0, 0)], 1) for size in (5, 8)],
  *[((9, 8), (size, size), [padded(size, False)] * 2, stride) for size in (1, 3, 7) for stride in (1, 2)],
]


def convolved(x, kernel, padding, stride):
  """The convolution by its definition, in float64."""
  x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
  kernel = np.asarray(kernel, np.float64)
  axes = range(1, x.ndim - 1)
  windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:-2], tuple(axes))
  windows = windows[(slice(None), *[slice(None, None, stride)] * len(axes))]  # [B *out C *sizes]
  windows = np.moveaxis(windows, len(axes) + 1, -1)
  return np.tensordot(windows, kernel, len(axes) + 1)


@pytest.mark.parametrize("shape, size, padding, stride", CONVOLUTIONS)
def test_convolutions_of_cpus_and_accelerators_agree(shape, size, padding, stride):
  """With the definition by value, and with each other by gradient."""
  rng = np.random.default_rng(0)
  x, kernel = jnp.asarray(rng.normal(size=(2, *shape, 3))), jnp.asarray(rng.normal(size=(*size, 3, 4)))
  expected = convolved(x, kernel, padding, stride)
  direction = jnp.asarray(rng.normal(size=expected.shape))

  def both(x, kernel):
    settings = {"padding": padding, "stride": stride}
    implementations = convolution.by_slices, convolution.by_library
    return [jax.vjp(functools.partial(f, **settings), x, kernel) for f in implementations]

  (y, back), (other, other_back) = both(x, kernel)
  np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)
  np.testing.assert_allclose(other, expected, rtol=0, atol=2e-5)
  for one, another in zip(back(direction.astype(y.dtype)), other_back(direction.astype(y.dtype))):
    np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-4)


def test_the_platform_decides_which_convolution_is_used():
  x, kernel = jnp.ones((2, 9, 3)), jnp.ones((3, 3, 4))
  traced = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, [(1, 1)])).trace(x, kernel)
  on = lambda platform: traced.lower(lowering_platforms=(platform,)).as_text()
  assert "stablehlo.convolution" not in on("cpu") and "stablehlo.convolution" in on("cuda")


def test_outside_of_loops_all_platforms_use_the_library():
  x, kernel = jnp.zeros((2, 6, 3)), jnp.zeros((3, 3, 4))
  with convolution.outside_of_loops():
    traced = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, [(1, 1)])).trace(x, kernel)
  assert "stablehlo.convolution" in traced.lower(lowering_platforms=("cpu",)).as_text()
  again = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, [(1, 1)])).trace(x, kernel)
  assert "stablehlo.convolution" not in again.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize("size", [4, 5])
def test_temporal_convolution_pads_both_ends_alike(size):
  conv = convolution.TemporalConv(2, 3, size, rngs=nnx.Rngs(0))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 2)), jnp.float32)
  expected = convolved(x, conv.kernel[...], [(size // 2, size // 2)], 1) + np.asarray(conv.bias[...])
  y = conv(x)
  assert y.shape == (2, 7 + (size == 4), 3)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_a_temporal_convolution_begins_like_a_dense_layer_of_its_window():
  conv = convolution.TemporalConv(25, 40, 4, rngs=nnx.Rngs(0))
  for values in (conv.kernel[...], conv.bias[...]):
    assert 0.08 < np.abs(values).max() <= 0.1  # 1 / √(25 · 4)


def test_a_layernorm_of_large_values_keeps_their_digits():
  x = 1000.0 + np.random.default_rng(0).normal(size=(4, 64))
  expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  normalise = layers.layer_norm(64, rngs=nnx.Rngs(0))
  np.testing.assert_allclose(normalise(jnp.asarray(x, jnp.float32)), expected, atol=2e-3)


@pytest.mark.parametrize("shape", [(4, 64), (3, 5, 64)], ids=["matrix", "series"])
def test_the_gradient_of_a_layernorm_is_that_of_jax(shape):
  rng = np.random.default_rng(0)
  x, d = (jnp.asarray(rng.normal(3.0, 2.0, size=shape), jnp.float32) for _ in range(2))
  scale, bias = (jnp.asarray(rng.normal(size=64), jnp.float32) for _ in range(2))
  module = layers.layer_norm(64, rngs=nnx.Rngs(0))

  def normalise(x, scale, bias):
    graphdef, state = nnx.split(module)
    state = nnx.to_pure_dict(state) | {"scale": scale, "bias": bias}
    return nnx.merge(graphdef, state)(x)

  def plain(x, scale, bias):
    apart = x - x.mean(-1, keepdims=True)
    y = apart / jnp.sqrt(jnp.square(apart).mean(-1, keepdims=True) + 1e-5)
    return y * jnp.broadcast_to(scale, shape) + jnp.broadcast_to(bias, shape)

  (y, back), (want, by_jax) = jax.vjp(normalise, x, scale, bias), jax.vjp(plain, x, scale, bias)
  for got, expected in zip((y, *back(d)), (want, *by_jax(d)), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "shapes",
  [((2, 3, 4), (4, 5), (2, 3, 5)), ((3, 5, 7), (7, 2), (3, 5, 2)), ((6, 7), (7, 2), (6, 2))],
  ids=["wider", "turned", "few rows"],
)
def test_the_gradient_of_a_product_is_that_of_jax(shapes):
  rng = np.random.default_rng(0)
  x, kernel, d = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
  (y, back), (want, by_jax) = jax.vjp(layers.product, x, kernel), jax.vjp(lambda x, k: x @ k, x, kernel)
  for got, expected in zip((y, *back(d)), (want, *by_jax(d)), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_batchnorm_is_over_the_positions_of_present_samples():
  rng = np.random.default_rng(1)
  x, present = (
    rng.normal(3.0, 2.0, size=(4, 3, 2, 5)).astype(np.float32),
    np.array([1.0, 0, 1, 1], np.float32),
  )
  x[1] = np.nan
  norm = layers.BatchNorm(5)
  y = norm(jnp.asarray(x), train=True, present=jnp.asarray(present))
  rows = x[present > 0].reshape(-1, 5).astype(np.float64)
  np.testing.assert_allclose(norm.mean[...], 0.1 * rows.mean(0), rtol=1e-5)
  np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
  expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
  np.testing.assert_allclose(np.asarray(y)[present > 0].reshape(-1, 5), expected, rtol=0, atol=1e-5)
  assert int(norm.batches[...]) == 1


def test_batchnorm_where_nothing_is_missing_is_that_of_present_samples():
  x = jnp.asarray(np.random.default_rng(1).normal(3.0, 2.0, size=(4, 3, 2, 5)), jnp.float32)
  norm, masked = layers.BatchNorm(5), layers.BatchNorm(5)
  y, expected = norm(x, train=True), masked(x, train=True, present=jnp.ones(4))
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(norm.mean[...], masked.mean[...], rtol=1e-5)
  np.testing.assert_allclose(norm.var[...], masked.var[...], rtol=1e-5)


def test_batchnorm_multiplies_by_its_scale_and_adds_its_bias():
  x = np.random.default_rng(1).normal(3.0, 2.0, size=(16, 2)).astype(np.float32)
  norm = layers.BatchNorm(2)
  norm.scale.set_value(jnp.array([0.5, 4.0]))
  norm.bias.set_value(jnp.array([1.0, -2.0]))
  expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * [0.5, 4.0] + [1.0, -2.0]
  np.testing.assert_allclose(norm(jnp.asarray(x), train=True), expected, rtol=1e-4, atol=1e-4)


def test_batchnorm_adds_a_small_number_to_the_variance():
  x = 0.003 * np.random.default_rng(1).normal(size=(16, 2))
  expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
  got = layers.BatchNorm(2)(jnp.asarray(x, jnp.float32), train=True)
  np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_batchnorm_of_one_row_and_of_none():
  x, norm = jnp.array([[9.0, 9.0], [2.0, -4.0], [9.0, 9.0]]), layers.BatchNorm(2)
  y = norm(x, train=True, present=jnp.array([0.0, 1.0, 0.0]))
  np.testing.assert_allclose(y[1], [0.0, 0.0], atol=1e-6)
  stats = lambda: [np.asarray(a[...]).tolist() for a in (norm.mean, norm.var, norm.batches)]
  one = stats()
  np.testing.assert_allclose(one[0], [0.2, -0.4], rtol=1e-6)
  np.testing.assert_allclose(one[1], [0.9, 0.9], rtol=1e-6)
  two = layers.BatchNorm(2)
  two(x, train=True, present=jnp.array([1.0, 1.0, 0.0]))
  np.testing.assert_allclose(two.var[...], 0.9 + 0.1 * np.var(x[:2], axis=0, ddof=1), rtol=1e-6)
  norm(x, train=True, present=jnp.zeros(3))
  assert stats() == one and one[2] == 1


def test_both_words_of_a_key_decide_the_order_of_an_epoch():
  rows = np.arange(40)
  orders = {tuple(random.shuffled(np.array(w, np.uint32), 0, rows, np)) for w in ((3, 5), (4, 5), (3, 6))}
  assert len(orders) == 3 and all(sorted(order) == rows.tolist() for order in orders)


def test_gelu_is_the_exact_one():
  x = jnp.linspace(-4.0, 4.0, 33)
  np.testing.assert_allclose(attention.gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


@pytest.mark.parametrize(
  "cache, together", [(1, 8), (1, 2), (1, 1), (400, 2), (400, 1), (attention.CACHE, attention.SIDE_BY_SIDE)]
)
def test_attention_and_its_gradient_are_those_of_the_formula(cache, together, monkeypatch):
  """In pieces of one sample and of two, in a loop and at once, and whole; one token is missing."""
  monkeypatch.setattr(attention, "CACHE", cache)
  monkeypatch.setattr(attention, "SIDE_BY_SIDE", together)
  rng = np.random.default_rng(0)
  projected, weight = (jnp.asarray(rng.normal(size=(4, 5, n)), jnp.float32) for n in (18, 6))
  bias = jnp.zeros((4, 5)).at[1, 2].set(attention.ABSENT)

  def formula(projected):
    out = []
    for head in range(2):  # of three numbers
      q, k, v = (projected[..., at + 3 * head : at + 3 * head + 3] for at in (0, 6, 12))
      scores = jnp.einsum("bnd,bmd->bnm", q, k) / 3**0.5 + bias[:, None]
      out.append(jax.nn.softmax(scores, -1) @ v)
    return jnp.concatenate(out, -1)

  got, want = (
    jax.jit(jax.value_and_grad(lambda x, of=of: (of(x) * weight).sum()))(projected)
    for of in (lambda x: attention.attend(x, bias, 2), formula)
  )
  loops = str(jax.make_jaxpr(lambda x: attention.attend(x, bias, 2))(projected)).count("scan")
  assert loops == ((cache, together) in ((1, 2), (1, 1), (400, 1)))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-5)


def test_attention_can_be_exported_for_any_size_of_a_batch():
  (batch,) = jax.export.symbolic_shape("b")
  shapes = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in ((5, 18), (5,))]
  attend = jax.jit(lambda x, bias: attention.attend(x, bias, 2))
  exported = jax.export.export(attend)(*shapes)
  for size in (1, 3):
    x, bias = (
      jnp.asarray(np.random.default_rng(0).normal(size=(size, 5, 18)), jnp.float32),
      jnp.zeros((size, 5)),
    )
    np.testing.assert_allclose(exported.call(x, bias), attend(x, bias), rtol=1e-5, atol=1e-6)


def test_a_missing_token_changes_no_other():
  block = attention.Block(6, 2, 12, rngs=nnx.Rngs(0), dtype=jnp.float32)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 6)), jnp.float32)
  there = jnp.ones((3, 5), bool).at[1, 2].set(False)
  run = jax.jit(lambda x, there: block(x, there, train=False, rngs=None))
  other = x.at[1, 2].set(7.0)
  kept = np.asarray(there)
  np.testing.assert_array_equal(np.asarray(run(x, there))[kept], np.asarray(run(other, there))[kept])
  assert np.abs(run(x, there | True) - run(other, there | True))[1, 0].max() > 1e-3


def test_drop_path_leaves_out_whole_samples_and_scales_the_others():
  x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (N // 4, 2, 2)), jnp.float32)
  y = attention.DropPath(0.25)(x, train=True, rngs=nnx.Rngs(dropout=jax.random.key(0)))
  kept = np.asarray(y[:, 0, 0]) != 0
  np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
  assert (np.asarray(y)[~kept] == 0).all()
  assert abs(kept.mean() - 0.75) < SIGMAS * (0.25 * 0.75 / len(x)) ** 0.5
  assert attention.DropPath(0.25)(x, train=False, rngs=None) is x
  assert attention.DropPath(0.0)(x, train=True, rngs=None) is x


def test_a_block_is_that_of_its_formula():
  """Pre-norm attention, then two dense layers (Xiong et al. 2020), in float64; eps counts for small x."""
  block = attention.Block(6, 2, 12, rngs=nnx.Rngs(0), dtype=jnp.float32)
  x = 0.01 * np.random.default_rng(0).normal(size=(3, 5, 6))
  there = np.ones((3, 5), bool)
  there[1, 2] = False

  def normed(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])

  dense = lambda layer, x: x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])
  query, key, value = np.split(dense(block.project, normed(block.norm, x)), 3, axis=-1)
  heads = []
  for at in (slice(0, 3), slice(3, 6)):
    scores = np.einsum("bnd,bmd->bnm", query[..., at], key[..., at]) / 3**0.5
    shares = np.where(there[:, None], np.exp(scores), 0)
    heads.append(shares / shares.sum(-1, keepdims=True) @ value[..., at])
  expected = x + dense(block.merge, np.concatenate(heads, -1))
  hidden = dense(block.dense, normed(block.dense_norm, expected))
  expected = expected + dense(block.dense_out, hidden * norm.cdf(hidden))
  got = block(jnp.asarray(x, jnp.float32), jnp.asarray(there), train=True)  # nothing is left out by default
  np.testing.assert_allclose(np.asarray(got)[there], expected[there], rtol=1e-4, atol=1e-6)


def test_a_block_leaves_out_nothing_unless_it_is_trained():
  block = attention.Block(6, 2, 12, 0.5, rngs=nnx.Rngs(0), dtype=jnp.float32)
  x, share = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, 6)), jnp.float32), jnp.full((8, 5), 0.2)
  mean, every = block.mean(x, share), block(x, share > 0)
  np.testing.assert_allclose(mean, every.mean(1), rtol=1e-5, atol=1e-6)
  dropped = block(x, share > 0, train=True, rngs=nnx.Rngs(dropout=0))
  assert 0 < (np.abs(dropped - every).max((1, 2)) > 1e-3).sum()


def test_the_mean_of_a_block_is_that_of_what_it_returns():
  """With weights above and below those of equal shares, for tokens of which some are missing."""
  block = attention.Block(6, 2, 12, rngs=nnx.Rngs(0), dtype=jnp.float32)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 6)), jnp.float32)
  there = jnp.ones((3, 5), bool).at[1, 2].set(False).at[2, 1:].set(False)
  share = there / there.sum(1, keepdims=True)
  run = jax.jit(lambda x: (block.mean(x, share, train=True), block(x, there, train=True)))
  mean, every = run(x)
  np.testing.assert_allclose(mean, (share[..., None] * every).sum(1), rtol=1e-5, atol=1e-6)


def test_no_order_of_an_epoch_shares_half_of_its_key_with_another(monkeypatch):
  """The key of an order is two words, hashed from the epoch's number: 600 epochs have 1200 different ones."""
  hashed, keys = random._hash, []

  def recorded(position, *words):
    found = hashed(position, *words)
    keys.extend(found.tolist() if position.shape == (1,) else ())
    return found

  monkeypatch.setattr(random, "_hash", recorded)
  for epoch in range(600):
    random.shuffled(np.array([3, 5], np.uint32), epoch, np.arange(4), np)
  assert len(keys) == 1200 == len(set(keys))
