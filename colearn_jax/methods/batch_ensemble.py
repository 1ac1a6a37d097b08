"""An ensemble whose members share their weights (Wen et al. 2020, ICLR; Gorishniy et al. 2025, ICLR)."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.base import Method, mean_over_sensors, summed
from colearn_jax.nn import layers
from colearn_jax.nn.random import hashed_bits
from colearn_jax.rules import POSITIVE, integer, setting


@flax.struct.dataclass
class Outputs:
  """What each member predicts, and the kind of the task, which says how predictions are averaged."""

  members: dict[str, jax.Array]  # by sensor [B K C]
  kind: str = flax.struct.field(pytree_node=False)


def mean_prediction(kind: str, members: jax.Array) -> jax.Array:
  """The output `[B C]` whose activation is the mean of the members' activations.

  Of classes this is the logarithm of the mean probability, of labels the logit of the mean probability, of a
  regression the mean.

  Args:
    kind: one of `types.KINDS`.
    members: `[B K C]`, before the activation.
  """
  if kind == "regression":
    return members.mean(1)
  log_mean = lambda logs: jax.nn.logsumexp(logs, axis=1) - jnp.log(logs.shape[1])
  if kind == "multilabel":
    return log_mean(jax.nn.log_sigmoid(members)) - log_mean(jax.nn.log_sigmoid(-members))
  return log_mean(jax.nn.log_softmax(members))


class MemberLinear(nnx.Module):
  """K linear layers that share a matrix: y_k = s_k ⊙ W (r_k ⊙ x_k) + b_k (Wen et al. 2020, equation 5).

  r_k and s_k begin as random signs, so that the members differ.
  """

  def __init__(self, features_in: int, features_out: int, members: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    init = layers.uniform_fan_in(features_in)
    signs = lambda width: jnp.where(hashed_bits(rngs.params(), (members, width)) >> 31 > 0, 1.0, -1.0)
    self.kernel = nnx.Param(init(rngs.params(), (features_in, features_out)))
    self.before, self.behind = nnx.Param(signs(features_in)), nnx.Param(signs(features_out))
    self.bias = nnx.Param(init(rngs.params(), (members, features_out)))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes `[B K I]` to `[B K O]`; `[B 1 I]` is the same input for all members."""
    x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
    before, behind, bias = (a[...].astype(self.dtype)[None] for a in (self.before, self.behind, self.bias))
    return (x * before) @ kernel * behind + bias


class MemberHead(nnx.Module):
  """The heads of all members: `architecture.Head` with `MemberLinear`, and at least one hidden layer.

  Without a hidden layer the mean of the members of a regression would be one linear layer.
  """

  def __init__(self, architecture: Architecture, members: int, *, rngs: nnx.Rngs):
    a = architecture
    widths = [a.emb_dim, *(a.head_layers or (a.emb_dim,)), a.outputs]
    *hidden, out = [MemberLinear(i, o, members, rngs=rngs, dtype=a.wide) for i, o in zip(widths, widths[1:])]
    self.hidden, self.out = nnx.List(hidden), out
    self.norms = nnx.List([layers.BatchNorm(width, dtype=a.wide) for width in widths[1:-1]])

  def __call__(self, z: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Predicts from features `[B D]`; returns `[B K C]`."""
    z = z[:, None, :]
    for linear, norm in zip(self.hidden, self.norms):
      z = norm(nnx.relu(linear(z)), train=train, present=present)
    return self.out(z)


class Members(nnx.Module):
  """For every sensor an encoder, and the heads of all members."""

  def __init__(self, architecture: Architecture, members: int, *, rngs: nnx.Rngs):
    self.encoders = nnx.Dict({m: architecture.encoder(m, rngs=rngs) for m in architecture.sensors})
    self.heads = nnx.Dict({m: MemberHead(architecture, members, rngs=rngs) for m in architecture.sensors})
    self.sensors, self.remat, self.kind = architecture.sensors, architecture.remat, architecture.task.kind


@dataclasses.dataclass(frozen=True)
class BatchEnsemble(Method):
  """L = (1/M) Σ_m (1/K) Σ_k ℓ(ŷ_mk, y): each member learns the task by itself.

  The members of a sensor have one encoder and the matrices of the head in common; scales and biases are
  their own. Their mean loss is that of Gorishniy et al. (TabM, arXiv 2410.24210). A prediction is the mean of
  the members' probabilities, or of their values for a regression.
  """

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of each sensor's members.")
  members: int = setting(8, integer(1), "K, members of the ensemble of each sensor.")

  def build(self, architecture, *, only=None, rngs):
    """See `Method`."""
    part = architecture if only is None else architecture.part([only])
    return Members(part, self.members, rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    del progress
    out = {}
    for m in filter(inputs.__contains__, model.sensors):
      mask = None if present is None else present[m]
      z = encode(model, model.encoders[m], inputs[m], train=train, present=mask, rngs=rngs)
      out[m] = model.heads[m](z, train=train, present=mask)
    return Outputs(out, model.kind)

  def loss(self, outputs: Outputs, batch, values):
    """See `Method`."""
    rows = {m: batch.present[m] * batch.labelled for m in outputs.members}
    each = lambda m: jax.vmap(lambda y: values.task_loss(y, batch.target, rows[m]), in_axes=1)
    main = {m: each(m)(y).mean() for m, y in outputs.members.items()}
    return summed({"main": main}, {"main": values.weights["main"] * mean_over_sensors(main, rows)})

  def predict(self, outputs: Outputs):
    """See `Method`."""
    return {"prediction": {m: mean_prediction(outputs.kind, y) for m, y in outputs.members.items()}}
