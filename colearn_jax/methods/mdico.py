"""MDiCo: multi-modal disentanglement for co-learning (Mena et al. 2025, Machine Learning 114(12):279).

Each sensor has two encoders. Contrastive learning makes the features of the common encoder similar between
sensors. Discriminative learning makes the features of the unique encoder specific to their sensor.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from colearn_jax.methods.base import mean_over_sensors, over_members, summed
from colearn_jax.methods.disentangled import Model, Outputs, run
from colearn_jax.methods.teacher import Taught
from colearn_jax.objectives import ring
from colearn_jax.objectives.alignment import coral, discrepancy
from colearn_jax.objectives.contrastive import contrastive
from colearn_jax.objectives.discriminative import modality_loss
from colearn_jax.rules import ON, POSITIVE, SWITCH, WEIGHT, choice, setting

LARGE_BATCH = 4096  # from this batch size on, the similarity matrix [2B 2B] is split over devices
NTXENT = {"loss.contrastive": ON, "loss.alignment": choice("ntxent")}  # needed by its settings
LEARNED = {"uncertainty": 0.0, "corrected": 1.0}  # initial value of the learned weight of every term


@dataclasses.dataclass(frozen=True)
class MDiCo(Taught):
  """L = w_main L_main + w_aux L_aux + w_cont L_cont + w_mod L_mod (+ w_dist L_dist, with a teacher).

  L_main, L_aux and L_mod are means over sensors, where each sensor contributes the mean over its present
  samples. Sensors without samples in the batch are left out. L_cont is the sum over ordered pairs of sensors,
  so that each pair counts twice. Samples without a label contribute only to L_cont and L_mod. A weight of 0
  switches a term off; its heads are not built. L_dist is not part of the published method. It is the distance
  of each sensor's prediction from a teacher, see `teacher`; w_main may be 0 then.

  `alignment` replaces NT-Xent in L_cont: by the discrepancy (mmd) or the distance of covariances (coral) of
  the shared features of each pair, over the samples that have both (`objectives.alignment`); or by the mean
  over sensors of CE(D(R(z_m^sha)), m), where R reverses the gradient (grl, Ganin et al. 2016).

  With `weighting` every term t has one more parameter: uncertainty, exp(-s_t) w_t L_t + s_t, s_t = 0 at first
  (Kendall et al. 2018, CVPR, as far as a factor); corrected, w_t L_t / (2 c_t²) + log(1 + c_t²), c_t = 1 at
  first (Liebel & Körner 2018, arXiv 1805.06334, equation 3).
  """

  main: float = setting(1.0, WEIGHT, "Weight of L_main, the task's loss of each sensor's prediction.")
  auxiliary: float = setting(
    1.0, WEIGHT, "Weight of L_aux, the task's loss of the auxiliary head on specific and on shared features."
  )
  contrastive: float = setting(
    1.0,
    WEIGHT,
    "Weight of L_cont, which aligns the shared features of each pair of sensors.",
    needs={"several sensors": ON},
  )
  discriminative: float = setting(
    1.0,
    WEIGHT,
    "Weight of L_mod, the loss of two heads that classify the sensor from its features.",
    needs={"several sensors": ON},
  )
  alignment: str = setting(
    "ntxent",
    choice("ntxent", "mmd", "coral", "grl"),
    "Loss of L_cont: contrastive (ntxent), distance of distributions (mmd) or of covariances (coral), "
    "or gradient reversal (grl). CLIP's loss is ntxent with loss.negatives=cross.",
    needs={"loss.contrastive": ON},
  )
  temperature: float = setting(
    0.1,
    POSITIVE,
    "Temperature τ of the contrastive term.",
    needs=NTXENT,
  )
  negatives: str = setting(
    "both",
    choice("both", "cross"),
    "Negatives of the contrastive term: samples of both sensors (both), or only of the other sensor "
    "(cross, as in CLIP).",
    needs=NTXENT,
  )
  similarity: str = setting(
    "auto",
    choice("auto", "dense", "ring"),
    "How similarities across devices are computed: as one matrix (dense), or in blocks that are passed "
    f"around the devices (ring). auto: ring for batches of {LARGE_BATCH} or more on several devices.",
    needs=NTXENT,
  )
  variant: str = setting(
    "paper",
    choice("paper", "released"),
    "Input of the second modality head: unused features (paper), or shared features (released), as in the "
    "authors' program.",
    needs={"loss.discriminative": ON},
  )
  unused_features: bool = setting(
    True,
    SWITCH,
    "Whether half of the unique encoder's features are unused. False: all are specific, and shared features "
    "are as many.",
  )
  weighting: str = setting(
    "fixed",
    choice("fixed", *LEARNED),
    "Weights of the terms: as given (fixed), or times a learned one (uncertainty, or corrected so that no "
    "term becomes negative).",
  )
  backbones: str = setting(
    "two",
    choice("two", "one"),
    "Backbones of a sensor: one for the unique and one for the common encoder (two), or one for both, whose "
    "features two layers project (one).",
  )

  terms = ("main", "auxiliary", "contrastive", "discriminative", "distillation")
  allows_members = True

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.contrastive + self.discriminative + self.distillation > 0

  def build(self, architecture, *, only=None, rngs):
    """See `Method`."""
    common = {"one_backbone": self.backbones == "one", "unused": self.unused_features, "rngs": rngs}
    if only is not None:
      return Model(architecture.part([only]), auxiliary=False, discriminative=False, **common)
    learned = [term for term in self.terms if getattr(self, term) > 0] if self.weighting in LEARNED else []
    return Model(
      architecture,
      auxiliary=self.auxiliary > 0,
      discriminative=self.discriminative > 0,
      variant=self.variant,
      adversary=self.contrastive > 0 and self.alignment == "grl",
      weighting={term: LEARNED[self.weighting] for term in learned},
      **common,
    )

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    del progress
    return run(model, inputs, present, train=train, rngs=rngs)

  def loss(self, outputs: Outputs, batch, values):
    """See `Method`. The contrastive term of a pair of sensors is named `contrastive/<m>__<n>`."""
    names = [m for m in outputs.sensors if m in outputs.prediction]
    labelled = {m: batch.present[m] * batch.labelled for m in names}
    task = lambda head, m: values.task_loss(head[m], batch.target, labelled[m])
    number = outputs.sensors.index
    sensor = lambda head, m: over_members(lambda y: modality_loss(y, number(m), batch.present[m]), head[m])
    parts, totals = self.taught({m: outputs.prediction[m] for m in names}, batch, values)
    for term in filter(values.weights.__contains__, ("auxiliary", "contrastive", "discriminative")):
      if term == "auxiliary":
        first, second = outputs.auxiliary_specific, outputs.auxiliary_shared
        parts[term] = {m: 0.5 * (task(first, m) + task(second, m)) for m in names}
      elif term == "discriminative":
        heads = [head for head in (outputs.modality_specific, outputs.modality_unused) if head]
        mean = lambda m, heads=heads: (
          functools.reduce(operator.add, (sensor(h, m) for h in heads)) / len(heads)
        )
        parts[term] = {m: mean(m) for m in names}
      elif self.alignment == "grl":
        parts[term] = {m: sensor(outputs.adversary, m) for m in names}
      else:
        parts[term] = self._pairs(outputs.shared, names, batch.present, values.mesh)
      if term == "contrastive" and self.alignment != "grl":
        total = 2.0 * sum(parts[term].values(), jnp.zeros(()))
      else:
        total = mean_over_sensors(parts[term], labelled if term == "auxiliary" else batch.present)
      totals[term] = values.weights[term] * total
    # In an ablation without the term its learned weight has no part: nothing would bound it.
    for term, learned in outputs.weighting.items():
      totals[term] = jnp.where(values.weights[term] > 0, self._weighted(totals[term], learned.mean()), 0.0)
    return summed(parts, totals)

  def _weighted(self, total: jax.Array, learned: jax.Array) -> jax.Array:
    """A term w_t L_t with its learned weight, see `MDiCo`."""
    if self.weighting == "uncertainty":
      return jnp.exp(-learned) * total + learned
    return total / (2.0 * jnp.square(learned)) + jnp.log1p(jnp.square(learned))

  def _pairs(self, shared, names, present, mesh) -> dict[str, jax.Array]:
    """The alignment of every unordered pair of sensors, over the samples that have both."""
    out = {}
    for m, n in itertools.combinations(names, 2):
      options: dict[str, Any] = {"mask": present[m] * present[n]}
      if self.alignment == "ntxent":
        around = self._around(mesh, len(shared[m]))
        loss: Callable[..., jax.Array] = functools.partial(ring.contrastive, mesh) if around else contrastive
        options |= {"temperature": self.temperature, "negatives": self.negatives}
      else:
        loss = discrepancy if self.alignment == "mmd" else coral
      out[f"{m}__{n}"] = over_members(functools.partial(loss, **options), shared[m], shared[n])
    return out

  def _around(self, mesh, batch_size: int) -> bool:
    """Whether the similarities are computed in blocks that are passed around a ring of devices."""
    if self.similarity != "auto":
      return self.similarity == "ring"
    return mesh is not None and ring.devices(mesh) > 1 and batch_size >= LARGE_BATCH

  def predict(self, outputs: Outputs):
    """See `Method`."""
    heads = ("prediction", "auxiliary_specific", "auxiliary_shared")
    return {head: dict(named) for head in heads if (named := getattr(outputs, head))}
