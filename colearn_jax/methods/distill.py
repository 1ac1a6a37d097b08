"""Distillation from learners of scikit-learn, which may read more, to a model of each sensor."""

from __future__ import annotations

import dataclasses

from colearn_jax.methods.base import summed
from colearn_jax.methods.individual import Individual
from colearn_jax.methods.teacher import Taught
from colearn_jax.rules import WEIGHT, setting


@dataclasses.dataclass(frozen=True)
class TreeDistillation(Individual, Taught):
  """L = w_main (1/M) Σ_m ℓ(ŷ_m, y) + w_dist (1/M) Σ_m D(t ‖ ŷ_m), the students being those of `individual`.

  The teacher t is described in `teacher`. With w_main = 0 the students learn from the teacher alone. Rows
  outside of the training part have no teacher, so the validation objective is L_main. D is
  `objectives.distillation`.
  """

  main: float = setting(
    1.0,
    WEIGHT,
    "Weight of L_main, the task's loss of each sensor's prediction. 0: the teacher alone is learnt.",
  )
  distillation: float = setting(
    1.0, WEIGHT, "Weight of L_dist, the distance of each sensor from the teacher."
  )

  terms = ("main", "distillation")

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.distillation > 0

  def loss(self, outputs, batch, values):
    """See `Method`."""
    return summed(*self.taught(outputs, batch, values))
