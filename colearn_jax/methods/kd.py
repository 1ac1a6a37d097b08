"""Knowledge distillation from one model of all sensors to a model of each sensor (Hinton et al. 2015)."""

from __future__ import annotations

import dataclasses

from colearn_jax.methods.base import mean_over_sensors, summed
from colearn_jax.methods.fusion import together
from colearn_jax.methods.individual import Individual
from colearn_jax.objectives.distillation import distillation
from colearn_jax.rules import POSITIVE, WEIGHT, setting


@dataclasses.dataclass(frozen=True)
class Distillation(Individual):
  """L = w_main (1/M) Σ_m ℓ(ŷ_m, y) + w_dist (1/M) Σ_m D(t ‖ ŷ_m), the students being those of `individual`.

  The teacher t is `fusion`, trained first on the same folds and frozen. It sees the sensors that a sample
  has. D is `objectives.distillation`, over all samples that have the student's sensor, also those without
  a label. arXiv 1503.02531, section 2; equal weights are its α = 1/2.
  """

  distillation: float = setting(
    1.0, WEIGHT, "Weight of L_dist, the distance of each sensor from the teacher."
  )
  temperature: float = setting(
    4.0, POSITIVE, "Temperature T of the teacher's and the students' probabilities; unused for a regression."
  )

  terms = ("main", "distillation")
  requires = ("fusion",)

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.distillation > 0

  def loss(self, outputs, batch, values):
    """See `Method`."""
    rows = {m: batch.present[m] * batch.labelled for m in outputs}
    parts = {"main": {m: values.task_loss(y, batch.target, rows[m]) for m, y in outputs.items()}}
    totals = {"main": values.weights["main"] * mean_over_sensors(parts["main"], rows)}
    if "distillation" in values.weights:
      teacher = batch.teachers["fusion"][together(batch.present)]
      rows = {m: batch.present[m] * batch.weight for m in outputs}
      distance = lambda m: distillation(
        values.task.kind, outputs[m], teacher, values.constants, rows[m], self.temperature
      )
      parts["distillation"] = {m: distance(m) for m in outputs}
      totals["distillation"] = values.weights["distillation"] * mean_over_sensors(parts["distillation"], rows)
    return summed(parts, totals)
