"""DeCUR: common and unique features by redundancy reduction (Wang et al. 2024, ECCV, arXiv 2309.05300)."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import flax.struct
import jax
import jax.numpy as jnp

from colearn_jax.methods.architecture import encode
from colearn_jax.methods.base import mean_over_sensors, over_members, summed
from colearn_jax.methods.individual import Individual
from colearn_jax.objectives.alignment import decoupling
from colearn_jax.rules import ON, POSITIVE, SHARE, WEIGHT, setting


@flax.struct.dataclass
class Outputs:
  """What the models compute of a batch, by sensor."""

  prediction: dict[str, jax.Array]  # ŷ_m [B C]
  shared: dict[str, jax.Array]  # the common features, the first of z_m
  specific: dict[str, jax.Array]  # the unique features, the rest of z_m
  sensors: tuple[str, ...] = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Decoupling(Individual):
  """L = w_main (1/M) Σ_m ℓ(P_m(z_m), y) + w_red Σ_{m<n} R(z_m, z_n), the supervised form of DeCUR.

  The models are those of `individual`. R is `objectives.alignment.decoupling`: the first features of two
  sensors are to be equal up to scale, the others uncorrelated, each pair over the samples that have both,
  also those without a label. The paper trains without labels. Its third term, which does the same for two
  augmented views of one sensor, keeps unique features from collapsing; here the task does.
  """

  redundancy: float = setting(
    1.0,
    WEIGHT,
    "Weight of L_red, the redundancy reduction of each pair of sensors.",
    needs={"several sensors": ON},
  )
  common: float = setting(
    0.875,
    SHARE,
    "Share of the features that are to be common; 448 of 512 in the authors' program.",
    needs={"loss.redundancy": ON},
  )
  off_diagonal: float = setting(
    0.0051,
    POSITIVE,
    "Weight λ of the correlations between different features in L_red.",
    needs={"loss.redundancy": ON},
  )

  closed_form = False
  terms = ("main", "redundancy")

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.redundancy > 0

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    del progress
    predicted, shared, specific = {}, {}, {}
    for m in filter(inputs.__contains__, model.sensors):
      mask = None if present is None else present[m]
      z = encode(model, model.encoders[m], inputs[m], train=train, present=mask, rngs=rngs)
      at = self._common(z.shape[-1])
      shared[m], specific[m] = z[..., :at], z[..., at:]
      predicted[m] = model.heads[m](z, train=train, present=mask)
    return Outputs(predicted, shared, specific, model.sensors)

  def _common(self, width: int) -> int:
    return round(self.common * width)

  def loss(self, outputs: Outputs, batch, values):
    """See `Method`; the part of `redundancy` of a pair of sensors is `<m>__<n>`."""
    names = [m for m in outputs.sensors if m in outputs.prediction]
    rows = {m: batch.present[m] * batch.labelled for m in names}
    parts = {"main": {m: values.task_loss(outputs.prediction[m], batch.target, rows[m]) for m in names}}
    totals = {"main": values.weights["main"] * mean_over_sensors(parts["main"], rows)}
    if "redundancy" in values.weights:
      z = {m: jnp.concatenate([outputs.shared[m], outputs.specific[m]], axis=-1) for m in names}
      parts["redundancy"] = {}
      for m, n in itertools.combinations(names, 2):
        common, both = outputs.shared[m].shape[-1], batch.present[m] * batch.present[n]
        loss = functools.partial(decoupling, mask=both, common=common, off_diagonal=self.off_diagonal)
        parts["redundancy"][f"{m}__{n}"] = over_members(loss, z[m], z[n])
      total = sum(parts["redundancy"].values(), jnp.zeros(()))
      totals["redundancy"] = values.weights["redundancy"] * total
    return summed(parts, totals)

  def predict(self, outputs: Outputs):
    """See `Method`."""
    return {"prediction": dict(outputs.prediction)}
