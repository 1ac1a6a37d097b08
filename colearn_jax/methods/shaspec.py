"""ShaSpec: shared and specific features; shared ones stand for absent sensors (Wang et al. 2023, CVPR)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.base import Method, mean_over_sensors, summed
from colearn_jax.methods.fusion import any_of, together
from colearn_jax.nn import layers
from colearn_jax.nn.random import hashed_bits
from colearn_jax.objectives.alignment import absolute_difference
from colearn_jax.objectives.discriminative import modality_loss
from colearn_jax.rules import ON, POSITIVE, SHARE, WEIGHT, setting
from colearn_jax.types import InputError


@flax.struct.dataclass
class Outputs:
  """What the model computes of a batch."""

  prediction: dict[str, jax.Array]  # by predictor [B C]; in training of all sensors alone
  shared: dict[str, jax.Array]  # s_m [B D] by sensor
  sensor: dict[str, jax.Array]  # the sensor head's logits [B M] from e_m, by sensor
  sensors: tuple[str, ...] = flax.struct.field(pytree_node=False)  # of the model, in their order


def subset(key: jax.Array, present: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Shows a random number of sensors, uniform from 1 to all that the sample has, and hides the others.

  Args:
    key: of the draw.
    present: `[B]` by sensor.
  """
  names = sorted(present)
  there = jnp.stack([present[m] for m in names], axis=1)
  uniform = (hashed_bits(key, (len(there), len(names) + 1)) >> 8).astype(jnp.float32) * 2.0**-24
  count = 1 + jnp.floor(uniform[:, -1] * there.sum(1))
  lot = jnp.where(there > 0, uniform[:, :-1], -1.0)
  rank = (lot[:, None, :] > lot[:, :, None]).sum(2)
  kept = jnp.where(rank < count[:, None], there, 0.0)
  return {m: kept[:, k] for k, m in enumerate(names)}


class Trunk(nnx.Module):
  """The layers of the shared encoder that all sensors have in common: `[B D]` to `[B D]`."""

  def __init__(self, width: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    self.hidden = layers.linear(width, width, rngs=rngs, dtype=dtype)
    self.out = layers.linear(width, width, rngs=rngs, dtype=dtype)

  def __call__(self, z: jax.Array) -> jax.Array:
    """Computes shared features."""
    return self.out(nnx.relu(self.hidden(z)))


class Model(nnx.Module):
  """The modules of ShaSpec.

  The paper's shared encoder reads all sensors. Here sensors have different shapes. So each has a stem, an
  encoder of its own to D values, and behind the stems is one trunk for all sensors.

  Args:
    architecture: of all sensors.
    read: the sensors that get encoders.
    sensor_head: whether the head is built that tells the sensor from specific features.
    rngs: gives the stream `params`.
  """

  def __init__(self, architecture: Architecture, read: Iterable[str], *, sensor_head: bool, rngs: nnx.Rngs):
    a, count = architecture, len(architecture.sensors)
    names = [m for m in a.sensors if m in set(read)]
    self.stems = nnx.Dict({m: a.encoder(m, rngs=rngs) for m in names})
    self.specific = nnx.Dict({m: a.encoder(m, rngs=rngs) for m in names})
    self.trunk = Trunk(a.emb_dim, rngs=rngs, dtype=a.wide)
    self.compose = layers.linear(2 * a.emb_dim, a.emb_dim, rngs=rngs, dtype=a.wide)
    self.head = a.head(count * a.emb_dim, rngs=rngs)
    self.sensor_head = layers.linear(a.emb_dim, count, rngs=rngs, dtype=a.wide) if sensor_head else None
    self.sensors, self.remat = a.sensors, a.remat


@dataclasses.dataclass(frozen=True)
class ShaSpec(Method):
  """L = w_main ℓ(P([r_1; ...; r_M]), y) + w_align Σ_(m,n) |s_m - s_n|_1 + w_disc (1/M) Σ_m CE(D(e_m), m).

  Of the shared features s_m and the specific features e_m of a sensor, r_m = s_m + W [s_m; e_m]. For an
  absent sensor r_m is the mean of the shared features that the sample has. Pairs (m, n) are neighbours on
  the ring of sensors, over the samples that have both. In training each sample shows a random subset of its
  sensors to the main term; the other two terms use all that it has. They need no label.
  """

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of the prediction of all sensors.")
  alignment: float = setting(
    0.1,
    WEIGHT,
    "Weight of L_align, the absolute difference between shared features of two sensors.",
    needs={"several sensors": ON},
  )
  discriminative: float = setting(
    0.02,
    WEIGHT,
    "Weight of L_disc, in which a head tells the sensor from its specific features.",
    needs={"several sensors": ON},
  )
  complete: float = setting(
    0.0,
    SHARE,
    "Share of train.max_epochs at the beginning in which no sensors are hidden, as in the paper. A training "
    "that stops early may end before it is over, and has then not learned to predict from single sensors.",
  )

  terms = ("main", "alignment", "discriminative")

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.alignment + self.discriminative > 0

  def predictors(self, sensors):
    """See `Method`: all sensors together, and each alone."""
    return {together(sensors): tuple(sensors), **{m: (m,) for m in sensors}}

  def build(self, architecture, *, only=None, rngs):
    """See `Method`; the head keeps its inputs of all sensors."""
    if only is None:
      return Model(architecture, architecture.sensors, sensor_head=self.discriminative > 0, rngs=rngs)
    if only not in (predictors := self.predictors(architecture.sensors)):
      raise InputError(f"shaspec does not predict with {only!r}, but with: {', '.join(predictors)}")
    return Model(architecture, predictors[only], sensor_head=False, rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None) -> Outputs:
    """See `Method`."""
    given = [m for m in model.sensors if m in inputs and m in model.stems]
    mask = lambda m: None if present is None else present[m]
    run = lambda encoder, m: encode(model, encoder[m], inputs[m], train=train, present=mask(m), rngs=rngs)
    s = {m: model.trunk(run(model.stems, m)) for m in given}
    e = {m: run(model.specific, m) for m in given}
    r = {m: s[m] + model.compose(jnp.concatenate([s[m], e[m].astype(s[m].dtype)], axis=-1)) for m in given}
    there = {m: jnp.ones(len(s[m])) if present is None else present[m] for m in given}

    def fused(shown):
      weighted = sum(jnp.where(shown[m][:, None] > 0, s[m], 0.0) for m in shown)
      mean = weighted / jnp.maximum(sum(shown.values()), 1.0)[:, None]
      of = lambda m: jnp.where(shown[m][:, None] > 0, r[m], mean) if m in shown else mean
      features = jnp.concatenate([of(m) for m in model.sensors], axis=-1)
      return model.head(features, train=train, present=any_of(shown))

    if train:
      hidden = subset(rngs.sensors(), there)
      shown = {m: jnp.where(jnp.asarray(progress) < self.complete, there[m], hidden[m]) for m in given}
      prediction = {together(given): fused(shown)}
    else:
      prediction = {together(given): fused(there)} | {m: fused({m: there[m]}) for m in given}
    sensor = {m: model.sensor_head(e[m]) for m in given} if model.sensor_head is not None else {}
    return Outputs(prediction, s, sensor, model.sensors)

  def loss(self, outputs: Outputs, batch, values):
    """See `Method`; the part of `main` has the name of the predictor, one of `alignment` is `<m>__<n>`."""
    names = [m for m in outputs.sensors if m in outputs.shared]
    name, present = together(names), {m: batch.present[m] for m in names}
    labelled = any_of(present) * batch.labelled
    parts = {"main": {name: values.task_loss(outputs.prediction[name], batch.target, labelled)}}
    totals = {"main": values.weights["main"] * parts["main"][name]}
    if "alignment" in values.weights:
      s, difference = outputs.shared, absolute_difference
      pairs = {f"{m}__{n}": difference(s[m], s[n], present[m] * present[n]) for m, n in ring(names)}
      parts["alignment"] = pairs
      totals["alignment"] = values.weights["alignment"] * sum(pairs.values(), jnp.zeros(()))
    if "discriminative" in values.weights:
      tell = lambda m: modality_loss(outputs.sensor[m], outputs.sensors.index(m), present[m])
      parts["discriminative"] = {m: tell(m) for m in names}
      mean = mean_over_sensors(parts["discriminative"], present)
      totals["discriminative"] = values.weights["discriminative"] * mean
    return summed(parts, totals)

  def predict(self, outputs: Outputs):
    """See `Method`."""
    return {"prediction": dict(outputs.prediction)}


def ring(names: Sequence[str]) -> list[tuple[str, str]]:
  """The pairs of neighbours on a ring, each once; none of one name."""
  pairs = list(zip(names, names[1:]))
  return [*pairs, (names[-1], names[0])] if len(names) > 2 else pairs
