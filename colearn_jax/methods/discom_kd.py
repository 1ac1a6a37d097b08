"""DisCoM-KD: disentangled features and gradient reversal (Ienco & Dantas 2024, BMVC, arXiv 2408.07080)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
from flax import nnx

from colearn_jax.methods import mdico
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Method, mean_over_sensors, summed
from colearn_jax.nn.reversal import growing, reverse_gradient
from colearn_jax.objectives.discriminative import modality_loss
from colearn_jax.objectives.orthogonality import cosine
from colearn_jax.rules import POSITIVE, SWITCH, WEIGHT, choice, setting


@flax.struct.dataclass
class Outputs:
  """What the model computes of a batch: the features and heads of MDiCo, and the adversary's logits."""

  features: mdico.Outputs
  adversary: dict[str, jax.Array]  # D(z_m^sha) [B M] behind the gradient reversal


class Model(mdico.Model):
  """The modules of MDiCo, and a head that tells the sensor from the shared features."""

  def __init__(self, architecture: Architecture, *, heads: dict[str, Any], adversary: bool, rngs: nnx.Rngs):
    super().__init__(architecture, **heads, rngs=rngs)
    half, sensors = architecture.emb_dim // 2, len(architecture.sensors)
    self.adversary = architecture.head(half, sensors, rngs=rngs) if adversary else None


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
    1.0, WEIGHT, "Weight of L_mod, in which two heads tell the sensor from specific and unused features."
  )
  adversarial: float = setting(
    1.0, WEIGHT, "Weight of L_adv, in which the shared features hide the sensor from a head."
  )
  orthogonality: float = setting(
    1.0, WEIGHT, "Weight of L_orth, the cosines of specific with unused and with shared features."
  )
  reversal: float = setting(1.0, POSITIVE, "Factor of the reversed gradient.")
  reversal_schedule: str = setting(
    "constant",
    choice("constant", "growing"),
    "Whether the factor is constant, or grows from 0 with the epochs (growing, Ganin et al. 2016).",
  )
  unpaired: bool = setting(
    True, SWITCH, "Whether a training batch holds other samples for each sensor, B of each."
  )

  terms = ("main", "auxiliary", "discriminative", "adversarial", "orthogonality")

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
    heads = {"auxiliary": whole and self.auxiliary > 0, "discriminative": whole and self.discriminative > 0}
    part = architecture if whole else architecture.part([only])
    return Model(part, heads=heads, adversary=whole and self.adversarial > 0, rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    features = mdico.MDiCo().forward(model, inputs, present, train=train, rngs=rngs)
    adversary = {}
    if model.adversary is not None:
      strength = self.reversal * (growing(progress) if self.reversal_schedule == "growing" else 1.0)
      for m, z in features.shared.items():
        mask = None if present is None else present[m]
        adversary[m] = model.adversary(reverse_gradient(z, strength), train=train, present=mask)
    return Outputs(features, adversary)

  def loss(self, outputs: Outputs, batch, values):
    """See `Method`."""
    features = outputs.features
    names = [m for m in features.sensors if m in features.prediction]
    present = {m: batch.present[m] for m in names}
    labelled = {m: batch.present[m] * batch.labelled for m in names}
    task = lambda head, m: values.task_loss(head[m], batch.target, labelled[m])
    tell = lambda head, m: modality_loss(head[m], features.sensors.index(m), present[m])
    spe, unu, sha = features.specific, features.unused, features.shared
    of = {
      "main": lambda m: task(features.prediction, m),
      "auxiliary": lambda m: task(features.auxiliary_specific, m) + task(features.auxiliary_shared, m),
      "discriminative": lambda m: tell(features.modality_specific, m) + tell(features.modality_unused, m),
      "adversarial": lambda m: tell(outputs.adversary, m),
      "orthogonality": lambda m: cosine(spe[m], unu[m], present[m]) + cosine(spe[m], sha[m], present[m]),
    }
    parts = {term: {m: of[term](m) for m in names} for term in self.terms if term in values.weights}
    rows = lambda term: labelled if term in ("main", "auxiliary") else present
    totals = {
      term: values.weights[term] * mean_over_sensors(part, rows(term)) for term, part in parts.items()
    }
    return summed(parts, totals)

  def predict(self, outputs: Outputs):
    """See `Method`."""
    return mdico.MDiCo().predict(outputs.features)
