"""Fusion: one prediction from the features of all sensors, the upper reference of co-learning."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.base import Method, summed
from colearn_jax.nn.random import hashed_bits
from colearn_jax.rules import POSITIVE, SHARE, setting
from colearn_jax.types import InputError


def together(sensors: Iterable[str]) -> str:
  """The name of the predictor that reads all these sensors in whatever order, e.g. `S1+S2`."""
  return "+".join(sorted(sensors))


def any_of(present: Mapping[str, jax.Array]) -> jax.Array:
  """Which samples `[B]` have any of the sensors."""
  return functools.reduce(jnp.maximum, present.values())


def hide(key: jax.Array, present: Mapping[str, jax.Array], rate: float) -> dict[str, jax.Array]:
  """Hides sensors of samples at random; every sample that has a sensor keeps one.

  Each sensor of each sample is hidden with probability `rate`, independently. Where that would hide all that
  a sample has, one of them stays, each with the same probability.

  Args:
    key: of the draw.
    present: `[B]` by sensor.
    rate: from 0 to below 1.
  """
  names = sorted(present)
  there = jnp.stack([present[m] for m in names], axis=1)
  uniform = (hashed_bits(key, there.shape) >> 8).astype(jnp.float32) * 2.0**-24
  candidates = jnp.where(there > 0, uniform, -1.0)
  last = jax.nn.one_hot(candidates.argmax(1), len(names), dtype=bool)
  kept = jnp.where((uniform >= rate) | last, there, 0.0)
  return {m: kept[:, k] for k, m in enumerate(names)}


class Fused(nnx.Module):
  """An encoder for every sensor of `read`, and one head for the concatenated features of all sensors."""

  def __init__(self, architecture: Architecture, read: Iterable[str], *, rngs: nnx.Rngs):
    read = set(read)
    self.encoders = nnx.Dict(
      {m: architecture.encoder(m, rngs=rngs) for m in architecture.sensors if m in read}
    )
    self.head = architecture.head(architecture.emb_dim * len(architecture.sensors), rngs=rngs)
    self.sensors, self.width, self.remat = architecture.sensors, architecture.emb_dim, architecture.remat


@dataclasses.dataclass(frozen=True)
class Fusion(Method):
  """L = ℓ(P([z_1; ...; z_M]), y), where the features z_m of an absent sensor are zeros.

  A sample counts if it has a label and any sensor. With `sensor_dropout` sensors of training samples are
  hidden at random (Chen et al. 2024, TGRS; Mena et al. 2024, arXiv 2407.15512). The same model then predicts
  with every sensor alone. The validation objective is that of all sensors together.
  """

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of the prediction of all sensors.")
  sensor_dropout: float = setting(
    0.0,
    SHARE,
    "Probability of hiding a sensor of a training sample; one always stays. Above 0 the model also predicts "
    "with each sensor alone.",
  )

  def predictors(self, sensors):
    """See `Method`: all sensors together and, with sensor dropout, each alone."""
    alone = {m: (m,) for m in sensors} if self.sensor_dropout > 0 else {}
    return {together(sensors): tuple(sensors), **alone}

  def build(self, architecture, *, only=None, rngs):
    """See `Method`; the head keeps its inputs of all sensors."""
    if only is None:
      return Fused(architecture, architecture.sensors, rngs=rngs)
    if only not in (predictors := self.predictors(architecture.sensors)):
      raise InputError(f"fusion does not predict with {only!r}, but with: {', '.join(predictors)}")
    return Fused(architecture, predictors[only], rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None):
    """See `Method`; returns by predictor `[B C]`, in training that of all sensors alone."""
    del progress
    given = [m for m in model.sensors if m in inputs and m in model.encoders]
    if self.sensor_dropout == 0 and len(given) < len(model.sensors):
      return {}
    mask = lambda m: None if present is None else present[m]
    z = {
      m: encode(model, model.encoders[m], inputs[m], train=train, present=mask(m), rngs=rngs) for m in given
    }
    there = {m: jnp.ones(len(z[m])) if present is None else present[m] for m in given}
    shown = hide(rngs.sensors(), there, self.sensor_dropout) if train and self.sensor_dropout > 0 else there

    def fused(shown):
      nothing = jnp.zeros((len(z[given[0]]), model.width), z[given[0]].dtype)
      features = [
        jnp.where(shown[m][:, None] > 0, z[m], 0.0) if m in shown else nothing for m in model.sensors
      ]
      return model.head(jnp.concatenate(features, axis=-1), train=train, present=any_of(shown))

    out = {together(given): fused(shown)}
    if self.sensor_dropout > 0 and not train and len(given) > 1:
      out |= {m: fused({m: there[m]}) for m in given}
    return out

  def loss(self, outputs, batch, values):
    """See `Method`; the only part of the term `main` has the name of the predictor of all sensors."""
    name = together(batch.present)
    main = values.task_loss(outputs[name], batch.target, any_of(batch.present) * batch.labelled)
    return summed({"main": {name: main}}, {"main": values.weights["main"] * main})

  def predict(self, outputs):
    """See `Method`."""
    return {"prediction": dict(outputs)}
