"""Knowledge distillation from one model of all sensors to a model of each sensor (Hinton et al. 2015)."""

from __future__ import annotations

import dataclasses

from colearn_jax.methods.base import mean_over_sensors, over_members, summed
from colearn_jax.methods.fusion import together
from colearn_jax.methods.individual import Individual
from colearn_jax.methods.predict import mean_prediction
from colearn_jax.objectives.distillation import decoupled, distillation
from colearn_jax.rules import ON, POSITIVE, WEIGHT, choice, setting
from colearn_jax.types import InputError

DECOUPLED = {"loss.distillation": ON, "loss.form": choice("decoupled")}  # needed by its settings


@dataclasses.dataclass(frozen=True)
class Distillation(Individual):
  """L = w_main (1/M) Σ_m ℓ(ŷ_m, y) + w_dist (1/M) Σ_m D(t ‖ ŷ_m), the students being those of `individual`.

  The teacher t is `fusion`, trained first on the same folds and frozen. It sees the sensors that a sample
  has. D is `objectives.distillation`, over all samples that have the student's sensor, also those without
  a label. arXiv 1503.02531, section 2; equal weights are its α = 1/2. With `form=decoupled` D is
  `objectives.distillation.decoupled`, over the samples with a label; for one class per sample.
  """

  distillation: float = setting(
    1.0, WEIGHT, "Weight of L_dist, the distance of each sensor from the teacher."
  )
  temperature: float = setting(
    4.0,
    POSITIVE,
    "Temperature T of the teacher's and the students' probabilities.",
    needs={"loss.distillation": ON, "classes or labels": ON},
  )
  form: str = setting(
    "plain",
    choice("plain", "decoupled"),
    "Distance from the teacher: KL divergence (plain), or its parts for the sample's class and for the other "
    "classes, with weights of their own (decoupled, DKD).",
    needs={"loss.distillation": ON},
  )
  target_weight: float = setting(
    1.0,
    WEIGHT,
    "Weight α of the sample's class.",
    needs=DECOUPLED,
  )
  rest_weight: float = setting(
    8.0,
    WEIGHT,
    "Weight β of the other classes.",
    needs=DECOUPLED,
  )

  closed_form = False
  terms = ("main", "distillation")
  requires = ("fusion",)

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.distillation > 0 and self.form == "plain"

  def build(self, architecture, *, only=None, rngs):
    """See `Method`. InputError if the task has no classes that decoupled distillation needs."""
    if self.form == "decoupled" and not architecture.task.one_class:
      raise InputError(
        f"loss.form=decoupled needs one class per sample, the task is {architecture.task.kind}; "
        "loss.form=plain"
      )
    return super().build(architecture, only=only, rngs=rngs)

  def loss(self, outputs, batch, values):
    """See `Method`."""
    rows = {m: batch.present[m] * batch.labelled for m in outputs}
    parts = {"main": {m: values.task_loss(y, batch.target, rows[m]) for m, y in outputs.items()}}
    totals = {"main": values.weights["main"] * mean_over_sensors(parts["main"], rows)}
    if "distillation" in values.weights:
      kind = values.task.kind
      teacher = mean_prediction(kind, batch.teachers["fusion"][together(batch.present)])
      if self.form != "decoupled":
        rows = {m: batch.present[m] * batch.weight for m in outputs}

      def distance(m):
        if self.form == "plain":
          loss = lambda y: distillation(kind, y, teacher, values.constants, rows[m], self.temperature)
        else:
          weights = {"target_weight": self.target_weight, "rest_weight": self.rest_weight}
          loss = lambda y: decoupled(y, teacher, batch.target, rows[m], self.temperature, **weights)
        return over_members(loss, outputs[m])

      parts["distillation"] = {m: distance(m) for m in outputs}
      totals["distillation"] = values.weights["distillation"] * mean_over_sensors(parts["distillation"], rows)
    return summed(parts, totals)
