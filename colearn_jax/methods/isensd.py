"""ISensD: one encoder for the bands of all sensors, with sensor dropout (arXiv 2407.15512)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.encoders import BY_BAND
from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.base import Method, summed
from colearn_jax.methods.fusion import any_of, hide, together
from colearn_jax.rules import ON, POSITIVE, SHARE, setting
from colearn_jax.types import InputError


def steps_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
  """The axes before the bands that all sensors have in common; () if all are static.

  Raises:
    InputError: two sensors have different steps or pixels.
  """
  found = {m: shape[:-1] for m, shape in shapes.items() if len(shape) > 1}
  if len(set(found.values())) > 1:
    named = ", ".join(f"{m} {shapes[m]}" for m in found)
    raise InputError(f"method=isensd joins sensors step by step, and these differ in their steps: {named}")
  return next(iter(found.values()), ())


def joined(architecture: Architecture) -> Architecture:
  """The architecture of the one sensor that has the bands of all.

  Its encoder is that of the sensors with steps, or of all if none has steps.

  Raises:
    InputError: the sensors differ in their steps or encoders, or the encoder knows the bands of one sensor.
  """
  steps, shapes = steps_of(architecture.shapes), architecture.shapes
  leading = {m: architecture.encoders[m] for m, shape in shapes.items() if len(shape) > 1 or not steps}
  first, *others = leading
  for m in others:
    if dict(leading[m]) != dict(leading[first]):
      raise InputError(f"method=isensd has one encoder; {first} and {m} differ in the settings of theirs")
  kind = leading[first]["model_type"]
  if kind in BY_BAND or leading[first].get("weights"):
    raise InputError(f"method=isensd reads the bands of all sensors; {kind} with weights of its own cannot")
  name, bands = together(shapes), sum(shape[-1] for shape in shapes.values())
  return dataclasses.replace(
    architecture, shapes={name: (*steps, bands)}, encoders={name: leading[first]}, modalities={}
  )


class Joined(nnx.Module):
  """One encoder and one head."""

  def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs):
    one = joined(architecture)
    self.encoder = one.encoder(*one.sensors, rngs=rngs)
    self.head = one.head(one.emb_dim, rngs=rngs)
    self.shapes, self.steps = tuple(architecture.shapes.items()), steps_of(architecture.shapes)
    self.sensors, self.remat = architecture.sensors, architecture.remat


@dataclasses.dataclass(frozen=True)
class InputFusion(Method):
  """L = ℓ(P(E([x_1; ...; x_M])), y), where the normalised values x_m of an absent sensor are zeros.

  The bands of all sensors are joined at each step, those of static sensors are repeated. Sensors of training
  samples are hidden at random. The same model predicts with every sensor alone. A sample counts if it has a
  label and any sensor. In validation no sensor is hidden.
  """

  allows_members = True

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of the prediction.")
  sensor_dropout: float = setting(
    0.5,
    SHARE,
    "Probability of hiding a sensor of a training sample; one always stays.",
    needs={"several sensors": ON},
  )

  def predictors(self, sensors):
    """See `Method`: all sensors together, and each alone."""
    return {together(sensors): tuple(sensors), **{m: (m,) for m in sensors}}

  def build(self, architecture, *, only=None, rngs):
    """See `Method`; every predictor needs the whole model."""
    if only is not None and only not in (predictors := self.predictors(architecture.sensors)):
      raise InputError(f"isensd does not predict with {only!r}, but with: {', '.join(predictors)}")
    return Joined(architecture, rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None):
    """See `Method`; returns `[B C]` by predictor, in training that of all sensors alone."""
    del progress
    given = [m for m in model.sensors if m in inputs]
    values: dict[str, Any] = {m: inputs[m][0] if isinstance(inputs[m], tuple) else inputs[m] for m in given}
    context = inputs[given[0]][1] if isinstance(inputs[given[0]], tuple) else None
    rows = len(values[given[0]])
    there = {m: jnp.ones(rows) if present is None else present[m] for m in given}

    def fused(shown):
      bands = [self._bands(model, m, values.get(m), shown.get(m), rows) for m in model.sensors]
      seen, joint = any_of(shown), jnp.concatenate(bands, -1)
      x: Any = joint if context is None else (joint, context)
      z = encode(model, model.encoder, x, train=train, present=seen, rngs=rngs)
      return model.head(z, train=train, present=seen)

    hidden = train and self.sensor_dropout > 0
    shown = hide(rngs.sensors(), there, self.sensor_dropout) if hidden else there
    out = {together(given): fused(shown)}
    return out if train else out | {m: fused({m: there[m]}) for m in given}

  def _bands(self, model, sensor: str, x: jax.Array | None, shown: jax.Array | None, rows: int) -> jax.Array:
    """The values of a sensor at each step `[B *steps bands]`, zeros where it is not shown."""
    shape = dict(model.shapes)[sensor]
    if x is None or shown is None:
      return jnp.zeros((rows, *model.steps, shape[-1]))
    x = jnp.where(shown.reshape(-1, *[1] * len(shape)) > 0, x, 0.0)
    if len(shape) == 1:
      x = x.reshape(rows, *[1] * len(model.steps), shape[-1])
    return jnp.broadcast_to(x, (rows, *model.steps, shape[-1]))

  def loss(self, outputs, batch, values):
    """See `Method`; the only part of the term `main` has the name of the predictor of all sensors."""
    name = together(batch.present)
    main = values.task_loss(outputs[name], batch.target, any_of(batch.present) * batch.labelled)
    return summed({"main": {name: main}}, {"main": values.weights["main"] * main})

  def predict(self, outputs):
    """See `Method`."""
    return {"prediction": dict(outputs)}
