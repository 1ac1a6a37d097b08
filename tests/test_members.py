"""Members that share weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders, methods
from colearn_jax.methods.predict import activate, mean_prediction
from colearn_jax.nn import members
from colearn_jax.nn.members import MemberLinear
from tests.small_methods import (
  KINDS,
  SHAPES,
  B,
  a_batch,
  architecture,
  filled,
  make,
  masks,
  outputs_of,
  random,
  values,
)


def test_members_share_a_matrix():
  layer = filled(lambda: MemberLinear(4, 3, 2, signs=True, rngs=nnx.Rngs(0)))
  x = random(B, 2, 4)
  a = {name: np.asarray(getattr(layer, name)[...]) for name in ("kernel", "before", "behind", "bias")}
  for k in range(2):
    kernel = np.diag(a["before"][k]) @ a["kernel"] @ np.diag(a["behind"][k])
    np.testing.assert_allclose(layer(x)[:, k], x[:, k] @ kernel + a["bias"][k], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(layer(x[:, :1])[:, 1], layer(np.repeat(x[:, :1], 2, 1))[:, 1], rtol=1e-5)
  new = MemberLinear(64, 3, 4, signs=True, rngs=nnx.Rngs(0))
  assert set(np.unique(new.before[...])) == {-1.0, 1.0} and 0.3 < (new.before[...] > 0).mean() < 0.7
  assert (new.behind[...] == 1).all()
  assert (MemberLinear(4, 3, 2, signs=False, rngs=nnx.Rngs(0)).before[...] == 1).all()
  assert (members.linear(4, 3, 2, rngs=nnx.Rngs(0)).before[...] == 1).all()  # signs are asked for
  assert isinstance(members.linear(4, 3, 1, rngs=nnx.Rngs(0)), nnx.Linear)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prediction_is_the_mean_of_the_members(kind):
  members = jnp.asarray(50 * random(B, 5, 3))  # also where probabilities round to 0 and 1
  got = activate(kind, mean_prediction(kind, members))
  each = jnp.stack([activate(kind, members[:, k]) for k in range(5)])
  np.testing.assert_allclose(got, each.mean(0), rtol=1e-4, atol=1e-6)
  output = mean_prediction(kind, members)
  assert np.isfinite(output).all()
  if kind in ("binary", "multiclass"):  # logarithms of probabilities, not only up to a constant
    np.testing.assert_allclose(jnp.exp(output), got, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_member_learns_the_task(kind):
  method, present = make("individual"), masks(radar=(1, 2), thermal=range(B))
  each = [outputs_of(kind, 10 * k) for k in range(3)]
  outputs = {m: jnp.stack([o[m] for o in each], 1) for m in SHAPES}
  batch, given = a_batch(kind, present=present, labelled=[1, 0, 1, 1, 1, 1]), values(method, kind, main=2.0)
  loss, terms = method.loss(outputs, batch, given)
  alone = [method.loss(o, batch, given) for o in each]
  for m in SHAPES:
    np.testing.assert_allclose(terms[f"main/{m}"], np.mean([a[1][f"main/{m}"] for a in alone]), rtol=1e-5)
  np.testing.assert_allclose(loss, np.mean([a[0] for a in alone]), rtol=1e-5)


WITH_MEMBERS = [name for name, method in methods.METHODS.items() if method.allows_members]


@pytest.mark.long
@pytest.mark.parametrize(("name", "encoder"), [*((name, "mlp") for name in WITH_MEMBERS), ("mdico", "table")])
def test_methods_with_members(name, encoder):
  method = make(name)
  settings = {"model_type": encoder, "layer_sizes": (6,), "dropout": 0.0}
  a = architecture("regression", members=3, standardised=True)
  a = a.__class__(**{**a.__dict__, "encoders": dict.fromkeys(SHAPES, settings)})
  model = filled(lambda: method.build(a, rngs=nnx.Rngs(0)))
  x = {m: random(B, *shape, seed=k) for k, (m, shape) in enumerate(SHAPES.items())}
  outputs = method.forward(model, x, masks(), train=True, rngs=nnx.Rngs(dropout=0, sensors=0, method=0))
  arrays = {"teacher": jnp.asarray(random(B, 3))} if name in ("distill", "mdico") else {}
  teachers = {"fusion": {"optical+radar+thermal": jnp.asarray(random(B, 3, 3))}} if method.requires else {}
  batch = a_batch("regression", teachers=teachers)
  loss, terms = method.loss(outputs, batch, values(method, "regression", arrays=arrays))
  assert loss.shape == () and np.isfinite(loss) and terms
  for y in method.predict(outputs)["prediction"].values():
    assert y.shape == (B, 3, 3) and float(jnp.abs(y[:, 0] - y[:, 1]).max()) > 0


def test_a_table_embeds_each_number_and_knows_missing_ones():
  for embedding in ("none", "periodic", "piecewise"):
    settings = {"model_type": "table", "layer_sizes": (8,), "embedding": embedding, "dropout": 0.0}
    make_encoder = lambda settings=settings: encoders.make_encoder(settings, (3, 2), 4, rngs=nnx.Rngs(0))
    encoder, x = filled(make_encoder), random(B, 3, 2)
    hole = x.copy()
    hole[0, 1, 1] = np.nan
    y, with_hole = encoder(x), encoder(hole)
    assert np.isfinite(with_hole).all() and not np.allclose(y[0], with_hole[0])
    np.testing.assert_array_equal(y[1:], with_hole[1:])


def test_piecewise_bins_are_quantiles():
  embed = filled(lambda: encoders.table.Piecewise(1, 4, bins=4, rngs=nnx.Rngs(0), dtype=jnp.float32))
  embed.vectors.set_value(jnp.eye(4)[None])
  embed.bias.set_value(jnp.zeros((1, 4)))
  quartiles = np.array([-0.67448975, 0.0, 0.67448975, -10.0, 10.0, 0.3186394])[:, None]
  want = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0.5, 0]]
  np.testing.assert_allclose(embed(quartiles)[:, 0], want, atol=1e-5)


@pytest.mark.parametrize("members", [1, 2])
def test_neurons_learn_their_share_of_the_activation(members):
  """s = 1 is the activation, s = 0 a linear layer."""
  build = lambda parametric: filled(
    lambda: encoders.table.Table(
      (4,), members=members, layer_sizes=(6,), embedding="none", activation="selu", dropout=0.0,
      parametric=parametric, rngs=nnx.Rngs(0),
    )
  )  # fmt: skip
  x, net, plain = random(B, 4), build(True), build(False)
  for module in (net, plain):  # the same values, whatever is drawn in between
    for path, variable in nnx.iter_graph(module):
      if isinstance(variable, nnx.Param):
        variable.set_value(jnp.cos(jnp.arange(variable.size) + len(path[0])).reshape(variable.shape))
  linear = plain.linears[0](
    (x * plain.scale[...][None])[:, None] if members > 1 else x * plain.scale[...][None]
  )
  net.shares[0].set_value(jnp.array([0.0, 1.0, 0.5, 0.0, 1.0, 2.0]))
  linear = np.asarray(linear)
  got, active, share = (np.asarray(a) for a in (net(x), plain(x), net.shares[0][...]))
  np.testing.assert_allclose(got, (1 - share) * linear + share * active, rtol=1e-4, atol=1e-5)
  assert (encoders.table.Table((4,), parametric=True, rngs=nnx.Rngs(0)).shares[0][...] == 1).all()
