"""MDiCo: multi-modal disentanglement for co-learning (Mena et al. 2025, Machine Learning 114(12):279).

Each sensor has two encoders. Contrastive learning makes the features of the common encoder similar between
sensors. Discriminative learning makes the features of the unique encoder specific to their sensor.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.base import mean_over_sensors, over_members, summed
from colearn_jax.methods.teacher import Taught
from colearn_jax.nn import layers
from colearn_jax.objectives import ring
from colearn_jax.objectives.contrastive import contrastive
from colearn_jax.objectives.discriminative import modality_loss
from colearn_jax.rules import POSITIVE, WEIGHT, choice, setting
from colearn_jax.types import InputError

LARGE_BATCH = 4096  # from this batch size on, the similarity matrix [2B 2B] is split over devices


@flax.struct.dataclass
class Outputs:
  """The outputs of the model by sensor. Heads that were not built have no entries."""

  prediction: dict[str, jax.Array]  # ŷ_m [B C]: target units, or logits
  specific: dict[str, jax.Array]  # z_m^spe [B D/2]
  unused: dict[str, jax.Array]  # z_m^unu [B D/2]
  shared: dict[str, jax.Array]  # z_m^sha [B D/2]
  auxiliary_specific: dict[str, jax.Array]  # A(z_m^spe) [B C]
  auxiliary_shared: dict[str, jax.Array]  # A(z_m^sha) [B C]
  modality_specific: dict[str, jax.Array]  # D_spe(z_m^spe) [B M]
  modality_unused: dict[str, jax.Array]  # D_unu(z_m^unu) [B M]; of z_m^sha in the released variant
  # The sensors of the model, in the order of their numbers. jit does not keep the order of dicts.
  sensors: tuple[str, ...] = flax.struct.field(pytree_node=False)


class Shared(nnx.Module):
  """Projects common features `[B D]` to shared features `[B D/2]`: ReLU(BatchNorm(W c + b))."""

  def __init__(self, width: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    self.linear = layers.linear(width, width // 2, rngs=rngs, dtype=dtype)
    self.norm = layers.BatchNorm(width // 2, dtype=dtype)

  def __call__(self, c: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Projects common features `[B D]` to `[B D/2]`."""
    return nnx.relu(self.norm(self.linear(c), train=train, present=present))


class Model(nnx.Module):
  """The modules of MDiCo: two encoders, a shared layer and a head per sensor; three heads for training.

  Half of the unique encoder's output are the specific features, half are unused. The shared layer projects
  the common encoder's output to the shared features.

  Args:
    architecture: the architecture of the sensors.
    auxiliary: whether the auxiliary head is built.
    discriminative: whether the two modality heads are built.
    variant: what the second modality head reads: the unused features (`paper`) or the shared ones
      (`released`).
    one_backbone: whether the two encoders of a sensor have one backbone. The common encoder is then only a
      projection of its features.
    rngs: random numbers, with the stream `params`.

  Raises:
    InputError: emb_dim is odd; or see `encoders.make_encoder`.
  """

  def __init__(
    self,
    architecture: Architecture,
    *,
    auxiliary: bool = True,
    discriminative: bool = True,
    variant: str = "paper",
    one_backbone: bool = False,
    rngs: nnx.Rngs,
  ):
    a, sensors = architecture, architecture.sensors
    if a.emb_dim % 2:
      raise InputError(f"emb_dim={a.emb_dim} is odd; half of the unique features are specific, half unused")
    half = a.emb_dim // 2
    self.unique = nnx.Dict({m: a.encoder(m, rngs=rngs) for m in sensors})
    common = lambda m: a.projection(self.unique[m], m, rngs=rngs) if one_backbone else a.encoder(m, rngs=rngs)
    self.common = nnx.Dict({m: common(m) for m in sensors})
    self.shared = nnx.Dict({m: Shared(a.emb_dim, rngs=rngs, dtype=a.wide) for m in sensors})
    self.heads = nnx.Dict({m: a.head(2 * half, rngs=rngs) for m in sensors})
    self.auxiliary = a.head(half, rngs=rngs) if auxiliary else None
    self.modality_specific = a.head(half, len(sensors), rngs=rngs) if discriminative else None
    self.modality_unused = a.head(half, len(sensors), rngs=rngs) if discriminative else None
    self.sensors, self.variant, self.one_backbone, self.remat = sensors, variant, one_backbone, a.remat


@dataclasses.dataclass(frozen=True)
class MDiCo(Taught):
  """L = w_main L_main + w_aux L_aux + w_cont L_cont + w_mod L_mod (+ w_dist L_dist, with a teacher).

  L_main, L_aux and L_mod are means over sensors, where each sensor contributes the mean over its present
  samples. Sensors without samples in the batch are left out. L_cont is the sum over ordered pairs of sensors,
  so that each pair counts twice. Samples without a label contribute only to L_cont and L_mod. A weight of 0
  switches a term off; its heads are not built. L_dist is not part of the published method. It is the distance
  of each sensor's prediction from a teacher, see `teacher`; w_main may be 0 then.
  """

  main: float = setting(1.0, WEIGHT, "Weight of L_main, the task's loss of each sensor's prediction.")
  auxiliary: float = setting(
    1.0, WEIGHT, "Weight of L_aux, the task's loss of the auxiliary head on specific and on shared features."
  )
  contrastive: float = setting(
    1.0, WEIGHT, "Weight of L_cont, NT-Xent between the shared features of each pair of sensors."
  )
  discriminative: float = setting(
    1.0, WEIGHT, "Weight of L_mod, the loss of two heads that classify the sensor from its features."
  )
  temperature: float = setting(0.1, POSITIVE, "Temperature τ of the contrastive term.")
  negatives: str = setting(
    "both",
    choice("both", "cross"),
    "Negatives of the contrastive term: samples of both sensors (both), or only of the other sensor "
    "(cross, as in CLIP).",
  )
  similarity: str = setting(
    "auto",
    choice("auto", "dense", "ring"),
    "How similarities across devices are computed: as one matrix (dense), or in blocks that are passed "
    f"around the devices (ring). auto: ring for batches of {LARGE_BATCH} or more on several devices.",
  )
  variant: str = setting(
    "paper",
    choice("paper", "released"),
    "Input of the second modality head: unused features (paper), or shared features (released), as in the "
    "authors' program.",
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
    if only is not None:
      return Model(
        architecture.part([only]),
        auxiliary=False,
        discriminative=False,
        one_backbone=self.backbones == "one",
        rngs=rngs,
      )
    return Model(
      architecture,
      auxiliary=self.auxiliary > 0,
      discriminative=self.discriminative > 0,
      variant=self.variant,
      one_backbone=self.backbones == "one",
      rngs=rngs,
    )

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    del progress
    fields = (field.name for field in dataclasses.fields(Outputs))
    out: dict[str, dict[str, jax.Array]] = {name: {} for name in fields if name != "sensors"}
    for m in filter(inputs.__contains__, model.sensors):
      mode = {"train": train, "present": None if present is None else present[m]}
      if model.one_backbone:
        features = encode(model, model.unique[m], inputs[m], rngs=rngs, features=True, **mode)
        u, c = (branch[m].project(features, **mode) for branch in (model.unique, model.common))
      else:
        u = encode(model, model.unique[m], inputs[m], rngs=rngs, **mode)
        c = encode(model, model.common[m], inputs[m], rngs=rngs, **mode)
      specific, unused = jnp.split(u, 2, axis=-1)
      shared = model.shared[m](c, **mode)
      out["specific"][m], out["unused"][m], out["shared"][m] = specific, unused, shared
      out["prediction"][m] = model.heads[m](jnp.concatenate([specific, shared], axis=-1), **mode)
      if model.auxiliary is not None:
        out["auxiliary_specific"][m] = model.auxiliary(specific, **mode)
        out["auxiliary_shared"][m] = model.auxiliary(shared, **mode)
      if model.modality_specific is not None:
        second = shared if model.variant == "released" else unused
        out["modality_specific"][m] = model.modality_specific(specific, **mode)
        out["modality_unused"][m] = model.modality_unused(second, **mode)
    return Outputs(**out, sensors=model.sensors)

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
        first, second = outputs.modality_specific, outputs.modality_unused
        parts[term] = {m: 0.5 * (sensor(first, m) + sensor(second, m)) for m in names}
      else:
        parts[term] = self._pairs(outputs.shared, names, batch.present, values.mesh)
      if term == "contrastive":
        total = 2.0 * sum(parts[term].values(), jnp.zeros(()))
      else:
        total = mean_over_sensors(parts[term], batch.present if term == "discriminative" else labelled)
      totals[term] = values.weights[term] * total
    return summed(parts, totals)

  def _pairs(self, shared, names, present, mesh) -> dict[str, jax.Array]:
    """NT-Xent of every unordered pair of sensors, over the samples that have both."""
    out = {}
    for position, m in enumerate(names):
      for n in names[position + 1 :]:
        around = self._around(mesh, len(shared[m]))
        loss = functools.partial(ring.contrastive, mesh) if around else contrastive
        options = {
          "temperature": self.temperature,
          "mask": present[m] * present[n],
          "negatives": self.negatives,
        }
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
