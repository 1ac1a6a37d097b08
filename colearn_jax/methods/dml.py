"""Deep mutual learning: the models of the sensors are each other's teachers (Zhang et al. 2018, CVPR)."""

from __future__ import annotations

import dataclasses
import functools

from colearn_jax.methods.base import mean_over_sensors, over_members, summed
from colearn_jax.methods.individual import Individual
from colearn_jax.objectives.distillation import distillation
from colearn_jax.rules import ON, WEIGHT, setting


@dataclasses.dataclass(frozen=True)
class MutualLearning(Individual):
  """L = w_main (1/M) Σ_m ℓ(ŷ_m, y) + w_mut (1/M) Σ_m 1/(M-1) Σ_{k≠m} D(sg(ŷ_k) ‖ ŷ_m).

  The models are those of `individual`, one for each sensor, trained at the same time. D is the KL divergence
  of Zhang et al., equation 9, per label for several labels, and the squared difference in standard deviations
  of the target for a regression (`objectives.distillation` with T = 1). Each pair counts over the samples
  that have both sensors, also those without a label. Means are over peers and sensors with any such sample.
  """

  mutual: float = setting(
    1.0,
    WEIGHT,
    "Weight of L_mut, the distance of each sensor from the other sensors.",
    needs={"several sensors": ON},
  )

  closed_form = False
  terms = ("main", "mutual")

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.mutual > 0

  def loss(self, outputs, batch, values):
    """See `Method`; `mutual/<m>` is the mean of the sensor's distances from its peers."""
    rows = {m: batch.present[m] * batch.labelled for m in outputs}
    parts = {"main": {m: values.task_loss(y, batch.target, rows[m]) for m, y in outputs.items()}}
    totals = {"main": values.weights["main"] * mean_over_sensors(parts["main"], rows)}
    if "mutual" in values.weights and len(outputs) > 1:
      parts["mutual"], rows = {}, {}
      apart = functools.partial(self._apart, values)
      for m in outputs:
        both = {k: batch.present[m] * batch.present[k] * batch.weight for k in outputs if k != m}
        distances = {k: apart(outputs[m], outputs[k], rows=both[k]) for k in both}
        parts["mutual"][m] = mean_over_sensors(distances, both)
        rows[m] = sum(both.values())
      totals["mutual"] = values.weights["mutual"] * mean_over_sensors(parts["mutual"], rows)
    return summed(parts, totals)

  @staticmethod
  def _apart(values, own, peer, *, rows):
    """The distance of a sensor from a peer. Each of K members has the same member of the peer as its own."""
    distance = lambda own, peer: distillation(values.task.kind, own, peer, values.constants, rows)
    return over_members(distance, own, peer)
