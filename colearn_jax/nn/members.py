"""Linear layers of an ensemble whose members share their weights (Wen et al. 2020, ICLR)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.nn.random import hashed_bits


class MemberLinear(nnx.Module):
  """K linear layers that share a matrix: y_k = s_k ⊙ W (r_k ⊙ x_k) + b_k (Wen et al. 2020, equation 5).

  Args:
    features_in: I, number of inputs.
    features_out: O, number of outputs.
    members: K.
    signs: whether r_k begins as random signs, which make the members differ. Otherwise r_k begins as ones, as
      in all layers but the first of TabM (Gorishniy et al. 2025, ICLR, section 3.3).
    rngs: the stream `params` for the initial values.
    dtype: of the computation.
  """

  def __init__(
    self, features_in: int, features_out: int, members: int, *, signs: bool, rngs: nnx.Rngs, dtype=jnp.float32
  ):
    init = layers.uniform_fan_in(features_in)
    self.kernel = nnx.Param(init(rngs.params(), (features_in, features_out)))
    positive = hashed_bits(rngs.params(), (members, features_in)) >> 31 > 0
    self.before = nnx.Param(jnp.where(positive, 1.0, -1.0) if signs else jnp.ones((members, features_in)))
    self.behind = nnx.Param(jnp.ones((members, features_out)))
    self.bias = nnx.Param(init(rngs.params(), (members, features_out)))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes `[B K I]` to `[B K O]`; `[B 1 I]` is the same input for all members."""
    x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
    before, behind, bias = (a[...].astype(self.dtype)[None] for a in (self.before, self.behind, self.bias))
    return layers.product(x * before, kernel) * behind + bias


def linear(
  features_in: int,
  features_out: int,
  members: int,
  *,
  signs: bool = False,
  rngs: nnx.Rngs,
  dtype=jnp.float32,
) -> nnx.Module:
  """The layer of `members` members: `MemberLinear`, or an ordinary linear layer for one member."""
  if members == 1:
    return layers.linear(features_in, features_out, rngs=rngs, dtype=dtype)
  return MemberLinear(features_in, features_out, members, signs=signs, rngs=rngs, dtype=dtype)
