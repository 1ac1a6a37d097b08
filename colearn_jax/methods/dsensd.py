"""DSensD+: the mean of the sensors' outputs, with sensor dropout and self-distillation (Mena et al. 2025)."""

from __future__ import annotations

import dataclasses
import functools
import operator

import flax.struct
import jax
import jax.numpy as jnp

from colearn_jax.methods.base import mean_over_sensors, over_members, summed
from colearn_jax.methods.fusion import any_of, hide, of_rows, together
from colearn_jax.methods.individual import Individual, Separate
from colearn_jax.objectives.distillation import distillation
from colearn_jax.rules import ON, POSITIVE, SHARE, WEIGHT, setting
from colearn_jax.types import InputError


@flax.struct.dataclass
class Outputs:
  """What the models compute of a batch."""

  alone: dict[str, jax.Array]  # o_m [B C] by sensor
  complete: jax.Array  # the mean of all that a sample has
  shown: jax.Array  # the mean of those that are not hidden


@dataclasses.dataclass(frozen=True)
class DecisionDropout(Individual):
  """L = w_main ℓ(o_S, y) + w_full ℓ(o, y) + w_alone (1/M) Σ_m ℓ(o_m, y) + w_dist (1/M) Σ_m D(o ‖ o_m).

  The models are those of `individual`. o_m is the output of sensor m before the activation, o the mean of
  those that a sample has, o_S the mean of those that sensor dropout leaves. D is `objectives.distillation`; o
  has no gradient in it. IEEE Access 2025, doi 10.1109/ACCESS.2025.3568706. With the weights of all terms but
  `main` at 0 it is DSensD. The distillation needs no label. In validation no sensor is hidden.
  """

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of the mean of the shown sensors.")
  complete: float = setting(1.0, WEIGHT, "Weight of L_full, the task's loss of the mean of all sensors.")
  alone: float = setting(1.0, WEIGHT, "Weight of L_alone, the task's loss of each sensor's prediction.")
  distillation: float = setting(
    1.0, WEIGHT, "Weight of L_dist, the distance of each sensor from the mean of all sensors."
  )
  temperature: float = setting(
    0.5,
    POSITIVE,
    "Temperature T of the probabilities in L_dist.",
    needs={"loss.distillation": ON, "classes or labels": ON},
  )
  sensor_dropout: float = setting(
    0.5,
    SHARE,
    "Probability of hiding a sensor of a training sample; one always stays.",
    needs={"several sensors": ON},
  )

  closed_form = False
  terms = ("main", "complete", "alone", "distillation")

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.distillation > 0

  def predictors(self, sensors):
    """See `Method`: all sensors together, and each alone."""
    return {together(sensors): tuple(sensors), **{m: (m,) for m in sensors}}

  def build(self, architecture, *, only=None, rngs):
    """See `Method`."""
    if only is None:
      return Separate(architecture, rngs=rngs)
    if only not in (predictors := self.predictors(architecture.sensors)):
      raise InputError(f"dsensd does not predict with {only!r}, but with: {', '.join(predictors)}")
    return Separate(architecture.part(predictors[only]), rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    alone = super().forward(model, inputs, present, train=train, progress=progress, rngs=rngs)
    there = {m: jnp.ones(len(y)) if present is None else present[m] for m, y in alone.items()}
    hidden = train and self.sensor_dropout > 0
    shown = hide(rngs.sensors(), there, self.sensor_dropout) if hidden else there
    return Outputs(alone, mean_of(alone, there), mean_of(alone, shown))

  def loss(self, outputs: Outputs, batch, values):
    """See `Method`; parts of `main` and `complete` have the name of all sensors together."""
    alone, present = outputs.alone, {m: batch.present[m] for m in outputs.alone}
    name, every = together(alone), any_of(present) * batch.labelled
    labelled = {m: present[m] * batch.labelled for m in alone}
    distance = lambda y, o, rows: distillation(
      values.task.kind, y, o, values.constants, rows, self.temperature
    )
    apart = lambda m: over_members(lambda y, o: distance(y, o, present[m]), alone[m], outputs.complete)
    of = {
      "main": lambda: {name: values.task_loss(outputs.shown, batch.target, every)},
      "complete": lambda: {name: values.task_loss(outputs.complete, batch.target, every)},
      "alone": lambda: {m: values.task_loss(y, batch.target, labelled[m]) for m, y in alone.items()},
      "distillation": lambda: {m: apart(m) for m in alone},
    }
    rows = {"main": {name: every}, "complete": {name: every}, "alone": labelled, "distillation": present}
    parts = {term: of[term]() for term in self.terms if term in values.weights}
    totals = {
      term: values.weights[term] * mean_over_sensors(part, rows[term]) for term, part in parts.items()
    }
    return summed(parts, totals)

  def predict(self, outputs: Outputs):
    """See `Method`."""
    return {"prediction": {together(outputs.alone): outputs.complete, **outputs.alone}}


def mean_of(outputs: dict[str, jax.Array], shown: dict[str, jax.Array]) -> jax.Array:
  """The mean of the sensors' outputs `[B C]` over those that a sample shows, `[B]` by sensor; 0 of none."""
  add = functools.partial(functools.reduce, operator.add)
  total = add([jnp.where(of_rows(shown[m], y), y, 0.0) for m, y in outputs.items()])
  count = jnp.maximum(add(shown.values()), 1.0)
  return total / count.reshape(-1, *[1] * (total.ndim - 1))
