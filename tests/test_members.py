"""Members that share weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax.methods import batch_ensemble
from colearn_jax.methods.predict import activate
from tests.small_methods import KINDS, SHAPES, B, a_batch, filled, make, masks, outputs_of, random, values


def test_members_share_a_matrix():
  layer = filled(lambda: batch_ensemble.MemberLinear(4, 3, 2, rngs=nnx.Rngs(0)))
  x = random(B, 2, 4)
  a = {name: np.asarray(getattr(layer, name)[...]) for name in ("kernel", "before", "behind", "bias")}
  for k in range(2):
    kernel = np.diag(a["before"][k]) @ a["kernel"] @ np.diag(a["behind"][k])
    np.testing.assert_allclose(layer(x)[:, k], x[:, k] @ kernel + a["bias"][k], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(layer(x[:, :1])[:, 1], layer(np.repeat(x[:, :1], 2, 1))[:, 1], rtol=1e-5)
  new = batch_ensemble.MemberLinear(64, 3, 4, rngs=nnx.Rngs(0))
  assert set(np.unique(new.before[...])) == {-1.0, 1.0} and 0.3 < (new.before[...] > 0).mean() < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_the_prediction_is_the_mean_of_the_members(kind):
  members = jnp.asarray(50 * random(B, 5, 3))  # also where probabilities round to 0 and 1
  got = activate(kind, batch_ensemble.mean_prediction(kind, members))
  each = jnp.stack([activate(kind, members[:, k]) for k in range(5)])
  np.testing.assert_allclose(got, each.mean(0), rtol=1e-4, atol=1e-6)
  output = batch_ensemble.mean_prediction(kind, members)
  assert np.isfinite(output).all()
  if kind in ("binary", "multiclass"):  # logarithms of probabilities, not only up to a constant
    np.testing.assert_allclose(jnp.exp(output), got, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_member_learns_the_task(kind):
  method, present = make("batch_ensemble"), masks(radar=(1, 2), thermal=range(B))
  each = [outputs_of(kind, 10 * k) for k in range(3)]
  outputs = batch_ensemble.Outputs({m: jnp.stack([o[m] for o in each], 1) for m in SHAPES}, kind)
  batch, given = a_batch(kind, present=present, labelled=[1, 0, 1, 1, 1, 1]), values(method, kind, main=2.0)
  loss, terms = method.loss(outputs, batch, given)
  alone = [make("individual").loss(o, batch, given) for o in each]
  for m in SHAPES:
    np.testing.assert_allclose(terms[f"main/{m}"], np.mean([a[1][f"main/{m}"] for a in alone]), rtol=1e-5)
  np.testing.assert_allclose(loss, np.mean([a[0] for a in alone]), rtol=1e-5)
