import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import convtran
from colearn_jax.types import InputError
from tests.helpers import SERIES, SMALL, SMALL_SHAPES, make, program, series, split

RADAR, OPTICAL = (12, 2), (12, 12)  # CropHarvest's sensors
WIDTH = 128

# Parameters of each encoder with its defaults, wrapped to width 128, for radar and for optical series.
PARAMETERS = {
  "convtran": (90_040, 253_880),
  "gru": (166_272, 170_112),
  "kernel": (1024 * 64 + 64 + 64 * 128 + 128,) * 2,
  "lstm": (216_192, 221_312),
  "ltae": (89_860, 92_440),
  "mlp": (36_736, 52_096),
  "rnn": (66_432, 67_712),
  "tae": (152_708, 154_008),
  "table": (61_184, 201_344),
  "tempcnn": (937_600, 944_000),
  "transformer": (281_984, 283_264),
}


@pytest.mark.parametrize("name", SERIES)
def test_number_of_parameters(name):
  counts = []
  for shape in (RADAR, OPTICAL):
    build = lambda: encoders.make_encoder({"model_type": name}, shape, WIDTH, rngs=nnx.Rngs(0))  # noqa: B023
    params = nnx.state(nnx.eval_shape(build), nnx.Param)
    counts.append(sum(p.size for p in jax.tree.leaves(params)))
  assert tuple(counts) == PARAMETERS[name]


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL_SHAPES)
def test_shape_gradient_and_dropout(name):
  module = make(name, dropout=0.5)
  x = series(5, *SMALL_SHAPES[name])
  y = jax.eval_shape(module, x)
  assert y.shape == (5, 4) and y.dtype == jnp.float32
  graphdef, params, stats = split(module)

  def loss(params, key):
    m = nnx.merge(graphdef, params, stats)
    return jnp.square(m(x, train=True, rngs=nnx.Rngs(dropout=key))).sum()

  keys = jax.vmap(jax.random.key)(jnp.arange(2))
  values, grads = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(params, keys)
  assert values[0] != values[1]
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  # No parameter is out of the gradient's reach, but for the biases that a norm takes away again.
  moved = [path for path, g in jax.tree.leaves_with_path(grads) if np.abs(g).max() > 1e-6]
  weights = [
    path for path, p in jax.tree.leaves_with_path(params) if p.ndim > 1 and path[-1].key != "missing"
  ]
  assert set(weights) <= set(moved)


@pytest.mark.parametrize("name", SMALL_SHAPES)
def test_absent_rows_change_nothing(name):
  call = program(make(name), train=True, present=jnp.array([1.0, 1, 1, 1, 0, 0]))
  x = series(6, *SMALL_SHAPES[name])
  y, stats = call(x)
  for value in (100.0, jnp.nan):
    junk, junk_stats = call(x.at[4:].set(value))
    assert np.isfinite(junk).all()
    np.testing.assert_allclose(y[:4], junk[:4], rtol=0, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), stats, junk_stats)
  if name == "tempcnn":  # and they are as if they were not: one encoder stands for all, they share BatchNorm
    alone, stats_alone = program(make(name), train=True)(x[:4])
    np.testing.assert_allclose(y[:4], alone, rtol=0, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), stats, stats_alone)


@pytest.mark.parametrize("name", sorted(set(SERIES) - {"table"}))
def test_missing_values_count_as_zero_unless_masked(name):
  call, x = program(make(name)), series(3, 6, 3).at[0, 2, 1].set(jnp.nan)
  np.testing.assert_array_equal(call(x)[0], call(x.at[0, 2, 1].set(0.0))[0])


@pytest.mark.parametrize("name", ["ltae", "tae"])
def test_masked_time_steps(name):
  module = make(name, mask_nans=True)
  x = series(4, 6, 3).at[0, 2].set(jnp.nan).at[1].set(jnp.nan).at[2, 3, 0].set(jnp.nan)
  rep, attention = jax.jit(lambda x: module.backbone.attend(x))(x)
  heads = SMALL[name]["num_heads"]
  assert attention.shape == (4, heads, 6)
  np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=1e-5)
  masked = np.zeros((4, heads, 6), bool)
  masked[0, :, 2] = True  # a step of which a band is there is looked at, and so is what is missing throughout
  np.testing.assert_array_equal(np.asarray(attention) == 0.0, masked)
  assert np.isfinite(rep).all()
  plain, _ = jax.jit(lambda x: make(name).backbone.attend(x))(jnp.where(jnp.isnan(x), 0.0, x))
  np.testing.assert_allclose(rep[1:], plain[1:], rtol=0, atol=1e-6)
  assert np.abs(rep[0] - plain[0]).max() > 1e-3
  grads = jax.jit(jax.grad(lambda x: module.backbone.attend(x)[0].sum()))(x)
  assert np.isfinite(grads).all()


@pytest.mark.parametrize("name", ["mlp", "gru", "pse_ltae"])  # one for each way, and one that reads NaN
def test_context_reaches_the_output_and_the_gradient(name):
  shape = SMALL_SHAPES[name]
  module = make(name, shape, context=3)
  x, context = series(4, *shape), series(4, 3, seed=1)
  graphdef, params, stats = split(module)
  encode = lambda params, x, context: nnx.merge(graphdef, params, stats)((x, context))

  @jax.jit
  def results(x, context):
    loss = lambda params, context: jnp.square(encode(params, x, context)).sum()
    grads = jax.grad(loss, (0, 1))(params, context)
    return encode(params, x, context), encode(params, jnp.zeros_like(x), context), *grads

  y, y_of_zeros, grads, of_context = results(x, context)
  other, other_of_zeros, *_ = results(x, context[::-1])
  difference = np.abs(y - other)
  assert difference.max() > 1e-3 and np.abs(of_context).min(0).max() > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  # What the context changes depends on the features: the two interact.
  assert np.abs((y - other) - (y_of_zeros - other_of_zeros)).max() > 1e-3
  # An unknown value counts as zero.
  np.testing.assert_array_equal(
    results(x, context.at[0, 1].set(jnp.nan))[0], results(x, context.at[0, 1].set(0))[0]
  )
  if "join" in params:
    assert all(np.abs(grads["join"][layer]["kernel"]).max() > 0 for layer in ("context", "both"))


@pytest.mark.parametrize("name", SERIES)
def test_number_of_parameters_with_context(name):
  """Those of `FLAT` read K more inputs; `kernel` has no parameters for them.

  In others a layer of 64 units reads K values and joins them.
  """
  more = {"context": 5, "context_parts": (2, 3, 0, 0)}
  build = lambda: encoders.make_encoder({"model_type": name}, RADAR, WIDTH, **more, rngs=nnx.Rngs(0))
  module = nnx.eval_shape(build)
  count = sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
  width = module.backbone.width
  inputs = {"kernel": 0, "mlp": 5 * 128, "table": 5 * (16 * 8 + 8 + 8 + 8 * 128)}
  added = inputs[name] if name in inputs else 5 * 64 + 64 + (width + 64) * width + width
  assert count == PARAMETERS[name][0] + added


def test_layer_norm_keeps_its_digits_far_from_zero():
  """The mean of squares minus the squared mean would lose them."""
  module = make("mlp", width=16, use_norm="layer")
  module.norm.scale.set_value(jnp.ones(16))
  module.norm.bias.set_value(jnp.zeros(16))
  x = series(8, 6, 3)
  expected = module(x)
  module.linear.bias.set_value(module.linear.bias[...] + 4000.0)
  np.testing.assert_allclose(module(x), expected, rtol=0, atol=0.01)


def test_context_has_to_be_what_the_encoder_was_built_for():
  x, context = series(2, *SMALL_SHAPES["gru"]), series(2, 3)
  with pytest.raises(ValueError, match="a context of 0 values and is given an array of shape .2, 3."):
    make("gru")((x, context))
  for given in (x, (x, context[:, :2])):
    with pytest.raises(ValueError, match="a context of 3 values and is given"):
      make("gru", context=3)(given)


def recurrence(cell, weights, x, xp=np):
  """A recurrent layer by its equations, one step after the other, `[T B D]`; xp is NumPy or jax.numpy."""
  sigmoid = lambda a: 1.0 / (1.0 + xp.exp(-a))
  wi, wh, bi, bh = weights
  h = c = xp.zeros((x.shape[1], wh.shape[0]))
  out = []
  for step in x:
    p, q = step @ wi + bi[None], h @ wh + bh[None]
    if cell == "rnn":
      h = xp.tanh(p + q)
    elif cell == "gru":
      (pr, pz, pn), (qr, qz, qn) = xp.split(p, 3, -1), xp.split(q, 3, -1)
      z = sigmoid(pz + qz)
      h = (1 - z) * xp.tanh(pn + sigmoid(pr + qr) * qn) + z * h
    else:
      i, f, g, o = xp.split(p + q, 4, -1)
      c = sigmoid(f) * c + sigmoid(i) * xp.tanh(g)
      h = sigmoid(o) * xp.tanh(c)
    out.append(h)
  return xp.stack(out)


def recurrent_weights(direction, dtype):
  """The weights of one direction of a recurrent layer, in the order that `recurrence` has them."""
  weights = direction.kernel_input, direction.kernel_hidden, direction.bias_input, direction.bias_hidden
  return [np.asarray(weight[...], dtype) for weight in weights]


@pytest.mark.parametrize("output", ["last_output", "last_state"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_two_directions(cell, output):
  module = make(cell, bidirectional=True, output=output).backbone
  x = series(3, 6, 3)
  y, _ = program(module)(x)
  below, ends = np.asarray(x, np.float64).transpose(1, 0, 2), []
  for layer in module.layers:
    weights = [recurrent_weights(d, np.float64) for d in layer]
    forward = recurrence(cell, weights[0], below)
    backward = recurrence(cell, weights[1], below[::-1])[::-1]
    below = np.concatenate([forward, backward], -1)
    ends += [forward[-1], backward[0]]
  expected = (forward[-1] + backward[-1]) / 2 if output == "last_output" else (ends[1] + ends[3]) / 2
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_gradients_of_recurrent_units(cell):
  """Those of the weights and of the input are what JAX derives from the equations."""
  module = make(cell, n_layers=1).backbone
  graphdef, params = nnx.split(module)
  x = series(3, 6, 3)

  def loss(params, x):
    return jnp.square(nnx.merge(graphdef, params)(x, train=True)).sum()

  def expected(weights, x):
    return jnp.square(recurrence(cell, weights, x.transpose(1, 0, 2), jnp)[-1]).sum()

  of_params, of_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
  weights = recurrent_weights(module.layers[0][0], np.float32)
  of_weights, of_series = jax.jit(jax.grad(expected, argnums=(0, 1)))(weights, x)
  found = recurrent_weights(of_params["layers"][0][0], np.float32)
  for a, b in zip([*found, of_x], [*of_weights, of_series], strict=True):
    assert np.abs(b).max() > 1e-4
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_many_rows_are_what_few_are(cell):
  """On a CPU batches of 64 are evaluated in pieces, others and those of training are not."""
  module, x = make(cell, bidirectional=True, output="last_state"), series(64, *SMALL_SHAPES[cell])
  whole, _ = program(module)(x)
  np.testing.assert_allclose(whole, program(module, train=True)(x)[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(whole[:6], program(module)(x[:6])[0], rtol=1e-5, atol=1e-6)


def test_convtran_narrows_over_further_layers():
  module = make("convtran", shape=(9, 3), n_layers=6).backbone
  shapes = [conv.kernel.shape for conv in module.convs]
  assert shapes == [(8, 1, 32), (8, 32, 24), (8, 24, 16), (8, 16, 8), (8, 8, 8)]
  assert jax.eval_shape(module, series(2, 9, 3)).shape == (2, 8)


@pytest.mark.parametrize("steps", [5, 12])
def test_convtran_convolution_keeps_the_length(steps):
  """Both with a kernel of 5 and with one of 8, which is padded by one more zero behind the series."""
  module = make("convtran", shape=(steps, 3)).backbone
  conv, x = module.convs[0], series(2, steps, 3, 1)
  weights = np.asarray(conv.kernel[...], np.float64)[:, 0]  # [k D], of one channel
  size = len(weights)
  before = (size - 1) // 2
  padded = np.pad(np.asarray(x[..., 0], np.float64), ((0, 0), (before, size // 2), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)  # [B T bands k]
  expected = windows @ weights + np.asarray(conv.bias[...])
  np.testing.assert_allclose(convtran._over_time(conv, x), expected, rtol=0, atol=1e-5)


def attention_with_vectors(x, weights, vectors, heads):
  """Relative vectors pair by pair of time steps, up to the merged heads."""
  query, key, value = (np.split(x @ w, heads, -1) for w in weights)
  steps, out = len(x), []
  for q, k, v in zip(query, key, value):
    scores = q @ k.T
    for i in range(steps):
      for j in range(steps):
        if j <= i:
          scores[i, j] += q[i] @ vectors[steps - 1 - (i - j)]
        elif j > i + 1:
          scores[i, j] += q[i + 1] @ vectors[j - i - 2]
    scores = np.exp(scores * x.shape[1] ** -0.5)
    out.append(scores / scores.sum(-1, keepdims=True) @ v)
  return np.concatenate(out, -1)


def test_convtran_relative_vectors():
  module = make("convtran", relative_position="vector", num_heads=4).backbone.attention
  module.norm = lambda merged: merged
  x = series(1, 6, 8)
  weights = [np.asarray(m.kernel[...], np.float64) for m in (module.query, module.key, module.value)]
  expected = attention_with_vectors(
    np.asarray(x[0], np.float64), weights, np.asarray(module.vectors[...], np.float64), 4
  )
  np.testing.assert_allclose(module(x)[0], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("position", ["tape", "sinusoidal", "learned", "none"])
@pytest.mark.parametrize("relative", ["erpe", "vector", "none"])
def test_convtran_positions_break_the_symmetry_of_time(position, relative):
  """Attention alone does not see the order of time steps; any position makes it."""
  module = make("convtran", position=position, relative_position=relative).backbone
  x = series(2, 6, 8)
  table = 0.0 if position == "none" else module.table[...][None]
  attend = lambda x: module.attention(x + table).mean(1)
  forward, backward = attend(x), attend(x[:, ::-1])
  symmetric = position == relative == "none"
  assert (np.abs(forward - backward).max() < 1e-5) == symmetric


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"model_type": "tcn"}, "unknown encoder 'tcn', have: convtran, galileo"),
    ({"model_type": "gru", "heads": 3}, "encoder gru has no argument 'heads', has: layer_size"),
    ({"model_type": "gru", "output": "mean"}, "output='mean' of encoder gru: have last_output, last_state"),
    ({"model_type": "ltae", "num_heads": 3}, "num_heads=3 does not divide d_model=256"),
    ({"model_type": "ltae", "n_neurons": (8,)}, r"n_neurons=\(8,\) does not begin with 256"),
    ({"model_type": "transformer", "num_heads": 3}, "num_heads=3 does not divide layer_size=128"),
    ({"model_type": "transformer", "activation": "tanh"}, "activation='tanh', have relu, gelu"),
    ({"model_type": "convtran", "position": "odd"}, "position='odd', have tape, sinusoidal"),
    ({"model_type": "convtran", "relative_position": "odd"}, "relative_position='odd', have erpe"),
    ({"model_type": "mlp", "layer_sizes": ()}, "layer_sizes of encoder mlp is empty"),
    ({"model_type": "tempcnn", "use_norm": "group"}, "use_norm='group' of encoder tempcnn: have none"),
    ({"model_type": "tempcnn", "n_layers": 0}, "tempcnn: n_layers=0 is not allowed; an integer >= 1"),
    ({"model_type": "lstm", "layer_size": 2.0}, "lstm: layer_size=2.0 is not allowed; an integer >= 1"),
    ({"model_type": "mlp", "dropout": 1.0}, "mlp: dropout=1.0 is not allowed; a number >= 0 and < 1"),
    ({"model_type": "gru", "seq_len": 12}, r"gru: seq_len=12, but data of shape \(6, 4\) have 6"),
    ({"model_type": "mlp", "num_features": 4}, r"mlp: num_features=4, but data of shape \(6, 4\) have 24"),
  ],
)
def test_wrong_settings_are_one_line(settings, message):
  with pytest.raises(InputError, match=message) as error:
    nnx.eval_shape(lambda: encoders.make_encoder(settings, (6, 4), 8, rngs=nnx.Rngs(0)))
  assert "\n" not in str(error.value)


def test_only_some_read_vectors():
  for name in set(SERIES) - {"kernel", "mlp", "table"}:
    with pytest.raises(InputError, match=rf"encoder {name} reads series of shape \(T, C\), got \(4,\)"):
      make(name, shape=(4,))


def test_sizes_of_the_data_may_be_given():
  make("gru", seq_len=6, num_features=3)
  make("mlp", seq_len=6, num_features=18)
  make("gru", seq_len=None)


def test_mlp_reads_static_values():
  assert jax.eval_shape(make("mlp", shape=(4,)), series(3, 4)).shape == (3, 4)


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_interface(name):
  """What `encoders/README.md` promises of every backbone."""
  backbone = encoders.ENCODERS[name]
  assert {"train", "present", "rngs"} <= set(inspect.signature(backbone.__call__).parameters)
  assert ("dropout" in encoders.arguments(name)) == (name not in ("galileo", "presto", "resnet"))
  assert backbone.__doc__ and inspect.getmodule(backbone).__doc__
  assert backbone.context_joins in ("inputs", "features")
