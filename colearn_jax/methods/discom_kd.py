"""DisCoM-KD: disentangled features and gradient reversal (Ienco & Dantas 2024, BMVC, arXiv 2408.07080)."""

from __future__ import annotations

import dataclasses

from colearn_jax.methods.base import Method, mean_over_sensors, over_members, summed
from colearn_jax.methods.disentangled import Model, Outputs, run
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.nn.reversal import growing
from colearn_jax.objectives.discriminative import modality_loss
from colearn_jax.objectives.orthogonality import cosine
from colearn_jax.rules import ON, POSITIVE, SWITCH, WEIGHT, choice, setting


@dataclasses.dataclass(frozen=True)
class DisCoMKD(Method):
  """L = w_main L_main + w_aux L_aux + w_mod L_mod + w_adv L_adv + w_orth L_orth.

  Encoders, features and heads are those of `mdico`. Every term is a mean over the sensors that have any
  sample in the batch, of these, for each sensor m over its present samples:

  - main: ℓ(P_m([z_m^spe, z_m^sha]), y), labelled samples alone;
  - auxiliary: ℓ(A(z_m^spe), y) + ℓ(A(z_m^sha), y), labelled samples alone;
  - discriminative: CE(D_1(z_m^spe), m) + CE(D_2(z_m^unu), m);
  - adversarial: CE(D_3(R(z_m^sha)), m), where R reverses the gradient: the head D_3 learns to tell the
    sensor, the encoders learn to hide it;
  - orthogonality: cos(z_m^spe, z_m^unu) + cos(z_m^spe, z_m^sha).

  No term compares sensors of one sample. So a batch may hold other samples for each sensor, as in the paper.
  """

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of each sensor's prediction.")
  auxiliary: float = setting(
    1.0, WEIGHT, "Weight of L_aux, the task's loss of the auxiliary head on specific and shared features."
  )
  discriminative: float = setting(
    1.0,
    WEIGHT,
    "Weight of L_mod, in which two heads tell the sensor from specific and unused features.",
    needs={"several sensors": ON},
  )
  adversarial: float = setting(
    1.0,
    WEIGHT,
    "Weight of L_adv, in which the shared features hide the sensor from a head.",
    needs={"several sensors": ON},
  )
  orthogonality: float = setting(
    1.0, WEIGHT, "Weight of L_orth, the cosines of specific with unused and with shared features."
  )
  reversal: float = setting(1.0, POSITIVE, "Factor of the reversed gradient.", needs={"loss.adversarial": ON})
  reversal_schedule: str = setting(
    "constant",
    choice("constant", "growing"),
    "Whether the factor is constant, or grows from 0 with the epochs (growing, Ganin et al. 2016).",
    needs={"loss.adversarial": ON},
  )
  unpaired: bool = setting(
    True, SWITCH, "Whether a training batch holds other samples for each sensor, B of each."
  )

  terms = ("main", "auxiliary", "discriminative", "adversarial", "orthogonality")
  allows_members = True

  @property
  def paired(self):
    """See `Method`."""
    return not self.unpaired

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.discriminative + self.adversarial + self.orthogonality > 0

  def build(self, architecture, *, only=None, rngs):
    """See `Method`."""
    whole = only is None
    return Model(
      architecture if whole else architecture.part([only]),
      auxiliary=whole and self.auxiliary > 0,
      discriminative=whole and self.discriminative > 0,
      adversary=whole and self.adversarial > 0,
      rngs=rngs,
    )

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    strength = self.reversal * (growing(progress) if self.reversal_schedule == "growing" else 1.0)
    return run(model, inputs, present, train=train, reversal=strength, rngs=rngs)

  def loss(self, outputs: Outputs, batch, values):
    """See `Method`."""
    names = [m for m in outputs.sensors if m in outputs.prediction]
    present = {m: batch.present[m] for m in names}
    labelled = {m: batch.present[m] * batch.labelled for m in names}
    task = lambda head, m: values.task_loss(head[m], batch.target, labelled[m])
    number = outputs.sensors.index
    tell = lambda head, m: over_members(lambda y: modality_loss(y, number(m), present[m]), head[m])
    angle = lambda a, b, m: over_members(lambda a, b: cosine(a, b, present[m]), a[m], b[m])
    spe, unu, sha = outputs.specific, outputs.unused, outputs.shared
    of = {
      "main": lambda m: task(outputs.prediction, m),
      "auxiliary": lambda m: task(outputs.auxiliary_specific, m) + task(outputs.auxiliary_shared, m),
      "discriminative": lambda m: tell(outputs.modality_specific, m) + tell(outputs.modality_unused, m),
      "adversarial": lambda m: tell(outputs.adversary, m),
      "orthogonality": lambda m: angle(spe, unu, m) + angle(spe, sha, m),
    }
    parts = {term: {m: of[term](m) for m in names} for term in self.terms if term in values.weights}
    rows = lambda term: labelled if term in ("main", "auxiliary") else present
    totals = {
      term: values.weights[term] * mean_over_sensors(part, rows(term)) for term, part in parts.items()
    }
    return summed(parts, totals)

  def predict(self, outputs: Outputs):
    """See `Method`."""
    return MDiCo().predict(outputs)
