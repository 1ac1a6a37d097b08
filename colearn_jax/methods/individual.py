"""The baseline of co-learning: each sensor has its own encoder and head, trained with the task's loss."""

from __future__ import annotations

import dataclasses

import jax
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.base import Method, mean_over_sensors, summed
from colearn_jax.rules import POSITIVE, setting


class Separate(nnx.Module):
  """One encoder and one head per sensor. Sensors share no parameters."""

  def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs):
    self.encoders = nnx.Dict({m: architecture.encoder(m, rngs=rngs) for m in architecture.sensors})
    self.heads = nnx.Dict(
      {m: architecture.head(architecture.emb_dim, rngs=rngs) for m in architecture.sensors}
    )
    self.sensors, self.remat = architecture.sensors, architecture.remat


@dataclasses.dataclass(frozen=True)
class Individual(Method):
  """L = (1/M) Σ_m ℓ(ŷ_m, y), for M models that share no parameters."""

  closed_form = True
  allows_members = True

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of each sensor's prediction.")

  def build(self, architecture, *, only=None, rngs):
    """See `Method`."""
    return Separate(architecture if only is None else architecture.part([only]), rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None):
    """See `Method`; returns ŷ_m `[B C]` by sensor."""
    del progress
    out = {}
    for m in filter(inputs.__contains__, model.sensors):
      mask = None if present is None else present[m]
      z = encode(model, model.encoders[m], inputs[m], train=train, present=mask, rngs=rngs)
      out[m] = model.heads[m](z, train=train, present=mask)
    return out

  def head_inputs(self, model, inputs, present):
    """See `Method`."""
    read = lambda m: encode(model, model.encoders[m], inputs[m], train=False, present=present[m], rngs=None)
    return {m: read(m) for m in model.sensors}

  def loss(self, outputs, batch, values) -> tuple[jax.Array, dict[str, jax.Array]]:
    """See `Method`."""
    rows = {m: batch.present[m] * batch.labelled for m in outputs}
    main = {m: values.task_loss(y, batch.target, rows[m]) for m, y in outputs.items()}
    return summed({"main": main}, {"main": values.weights["main"] * mean_over_sensors(main, rows)})

  def predict(self, outputs):
    """See `Method`."""
    return {"prediction": dict(outputs)}
