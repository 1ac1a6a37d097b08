"""ESensI: one head for all sensors, which knows the sensor by a learned code (Mena et al. 2024)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.individual import Individual
from colearn_jax.nn.layers import along_last_axis
from colearn_jax.rules import POSITIVE, choice, setting


class Coded(nnx.Module):
  """An encoder and a code for each sensor of `read`, and one head."""

  def __init__(self, architecture: Architecture, *, merge: str, rngs: nnx.Rngs):
    a = architecture
    code = lambda: nnx.Param(jax.random.normal(rngs.params(), (a.emb_dim,)))
    self.encoders = nnx.Dict({m: a.encoder(m, rngs=rngs) for m in a.sensors})
    self.codes = nnx.Dict({m: code() for m in a.sensors})
    self.head = a.head(2 * a.emb_dim if merge == "concat" else a.emb_dim, rngs=rngs)
    self.sensors, self.merge, self.remat = a.sensors, merge, a.remat


@dataclasses.dataclass(frozen=True)
class SensorCodes(Individual):
  """L = (1/M) Σ_m ℓ(P(z_m + ρ_m), y), with one head P for all sensors (arXiv 2407.15512).

  ρ_m is a learned code of the sensor, which begins as draws from N(0, 1). Each sensor is a predictor; the
  prediction of all of them is the row `ensemble` of the results, the mean over the sensors that a sample has.
  """

  closed_form = False

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of each sensor's prediction.")
  merge: str = setting(
    "sum",
    choice("sum", "product", "concat"),
    "How the code is merged with the features: added, multiplied, or beside them.",
  )

  def build(self, architecture, *, only=None, rngs):
    """See `Method`."""
    return Coded(architecture if only is None else architecture.part([only]), merge=self.merge, rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None):
    """See `Method`; returns ŷ_m `[B C]` by sensor."""
    del progress
    out = {}
    for m in filter(inputs.__contains__, model.sensors):
      mask = None if present is None else present[m]
      z = encode(model, model.encoders[m], inputs[m], train=train, present=mask, rngs=rngs)
      code = along_last_axis(model.codes[m][...], z)
      if model.merge == "concat":
        merged = jnp.concatenate([z, jnp.broadcast_to(code, z.shape).astype(z.dtype)], axis=-1)
      else:
        merged = z + code if model.merge == "sum" else z * code
      out[m] = model.head(merged, train=train, present=mask)
    return out
