"""Fusion: one prediction from the features of all sensors, the upper reference of co-learning."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.methods.base import Method, mean_over_sensors, summed
from colearn_jax.nn import layers
from colearn_jax.nn.random import hashed_bits
from colearn_jax.rules import ON, POSITIVE, SHARE, choice, setting
from colearn_jax.types import InputError

MOST = 6  # sensors of which every subset is trained, 63 subsets


def together(sensors: Iterable[str]) -> str:
  """The name of the predictor that reads all these sensors in whatever order, e.g. `S1+S2`."""
  return "+".join(sorted(sensors))


def any_of(present: Mapping[str, jax.Array]) -> jax.Array:
  """Which samples `[B]` have any of the sensors."""
  return functools.reduce(jnp.maximum, present.values())


def of_rows(mask: jax.Array, x: jax.Array) -> jax.Array:
  """Whether each row of x `[B ...]` is in the mask `[B]`, `[B 1 ...]` bool."""
  return mask.reshape(-1, *[1] * (x.ndim - 1)) > 0


def subsets(sensors: Sequence[str]) -> list[tuple[str, ...]]:
  """All subsets of the sensors but the empty one, the whole one first."""
  counts = range(len(sensors), 0, -1)
  return [part for count in counts for part in itertools.combinations(sensors, count)]


def hide(key: jax.Array, present: Mapping[str, jax.Array], rate: float) -> dict[str, jax.Array]:
  """Hides sensors of samples at random; every sample that has a sensor keeps one.

  Each sensor of each sample is hidden with probability `rate`, independently. Where that would hide all that
  a sample has, one of them stays, each with the same probability.

  Args:
    key: of the draw.
    present: `[B]` by sensor.
    rate: from 0 to below 1.
  """
  names = sorted(present)
  there = jnp.stack([present[m] for m in names], axis=1)
  uniform = (hashed_bits(key, there.shape) >> 8).astype(jnp.float32) * 2.0**-24
  candidates = jnp.where(there > 0, uniform, -1.0)
  last = jax.nn.one_hot(candidates.argmax(1), len(names), dtype=bool)
  kept = jnp.where((uniform >= rate) | last, there, 0.0)
  return {m: kept[:, k] for k, m in enumerate(names)}


class Fused(nnx.Module):
  """An encoder for every sensor of `read`, and one head for the merged features of all sensors."""

  def __init__(self, architecture: Architecture, read: Iterable[str], *, merge: str, rngs: nnx.Rngs):
    read, a, count = set(read), architecture, len(architecture.sensors)
    self.encoders = nnx.Dict({m: a.encoder(m, rngs=rngs) for m in a.sensors if m in read})
    self.head = a.head(a.emb_dim * (count if merge == "concat" else 1), rngs=rngs)
    self.gate = layers.linear(a.emb_dim, count, rngs=rngs, dtype=a.wide) if merge == "gated" else None
    self.sensors, self.merge, self.remat = a.sensors, merge, a.remat

  def __call__(self, z: Mapping[str, jax.Array], shown: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
    """Predicts from features `[B D]` by sensor, of the sensors that are shown, `[B]` by sensor."""
    any_z = next(iter(z.values()))
    nothing = jnp.zeros_like(any_z)
    of = lambda m: jnp.where(of_rows(shown[m], z[m]), z[m], 0.0) if m in shown else nothing
    parts = {m: of(m) for m in self.sensors}
    if self.merge == "concat":
      merged = jnp.concatenate(list(parts.values()), axis=-1)
    else:
      count = jnp.maximum(functools.reduce(operator.add, shown.values()), 1.0).reshape(
        -1, *[1] * (any_z.ndim - 1)
      )
      merged = functools.reduce(operator.add, parts.values()) / count
      if self.gate is not None:
        merged = self._gated(self.gate(merged), parts, shown)
    return self.head(merged, train=train, present=any_of(shown))

  def _gated(
    self, logits: jax.Array, parts: Mapping[str, jax.Array], shown: Mapping[str, jax.Array]
  ) -> jax.Array:
    """Σ_m g_m z_m with g = softmax(logits) `[B M]` over the sensors that are shown."""
    seen = lambda m: of_rows(shown[m], logits) if m in shown else jnp.zeros_like(logits[..., :1], bool)
    masks = jnp.concatenate([jnp.broadcast_to(seen(m), (*logits.shape[:-1], 1)) for m in self.sensors], -1)
    # A row without any sensor has no weight in the loss; -inf everywhere would make its gradient NaN.
    masks = masks | ~masks.any(-1, keepdims=True)
    weights = jax.nn.softmax(jnp.where(masks, logits, -jnp.inf))
    return functools.reduce(operator.add, (weights[..., k, None] * parts[m] for k, m in enumerate(parts)))


@dataclasses.dataclass(frozen=True)
class Fusion(Method):
  """L = ℓ(P([z_1; ...; z_M]), y), where the features z_m of an absent sensor are zeros.

  A sample counts if it has a label and any sensor. The same model predicts with every sensor alone if it was
  trained for that, in one of two ways:

  - `sensor_dropout`: sensors of training samples are hidden at random. With `merge=mean` this is FSensD (Chen
    et al. 2024, TGRS), where features are the mean of the sensors that are shown.
  - `shown=all`: FCoM (Mena et al. 2025, Neurocomputing, arXiv 2501.01132). All subsets of the sensors are
    predicted from the same features, and L is the mean over the subsets.

  With `merge=gated` features are Σ_m g_m z_m, g = softmax(W mean_m z_m + b) over the sensors that are shown.
  In validation no sensor is hidden: the objective is that of all sensors together, or of all subsets.
  """

  allows_members = True

  main: float = setting(1.0, POSITIVE, "Weight of L_main, the task's loss of the prediction of all sensors.")
  merge: str = setting(
    "concat",
    choice("concat", "mean", "gated"),
    "How features of sensors are merged: side by side (concat), their mean (mean), or weighted by a gate "
    "(gated).",
    needs={"several sensors": ON},
  )
  sensor_dropout: float = setting(
    0.0,
    SHARE,
    "Probability of hiding a sensor of a training sample; one always stays. Above 0 the model also predicts "
    "with each sensor alone.",
    needs={"several sensors": ON, "loss.shown": choice("drawn")},
  )
  shown: str = setting(
    "drawn",
    choice("drawn", "all"),
    "Which sensors a training sample shows: those that loss.sensor_dropout leaves (drawn), or every subset "
    "of its sensors in turn (all).",
    needs={"several sensors": ON},
  )

  @property
  def predicts_alone(self) -> bool:
    """Whether the model also predicts with each sensor alone."""
    return self.sensor_dropout > 0 or self.shown == "all"

  def predictors(self, sensors):
    """See `Method`: all sensors together and, if it was trained for that, each alone."""
    alone = {m: (m,) for m in sensors} if self.predicts_alone else {}
    return {together(sensors): tuple(sensors), **alone}

  def build(self, architecture, *, only=None, rngs):
    """See `Method`; the head keeps its inputs of all sensors. InputError if settings contradict."""
    if self.shown == "all" and self.sensor_dropout > 0:
      raise InputError(
        "loss.shown=all shows every subset of sensors; loss.sensor_dropout=0, or loss.shown=drawn"
      )
    if self.shown == "all" and len(architecture.sensors) > MOST:
      raise InputError(
        f"loss.shown=all is for at most {MOST} sensors; loss.sensor_dropout=0.5, loss.shown=drawn"
      )
    read = architecture.sensors
    if only is not None:
      if only not in (predictors := self.predictors(architecture.sensors)):
        raise InputError(f"fusion does not predict with {only!r}, but with: {', '.join(predictors)}")
      read = predictors[only]
    return Fused(architecture, read, merge=self.merge, rngs=rngs)

  def forward(self, model, inputs, present=None, *, train=False, progress=0.0, rngs=None):
    """See `Method`; returns `[B C]` by the sensors that are shown, in training without each alone."""
    del progress
    given = [m for m in model.sensors if m in inputs and m in model.encoders]
    if not self.predicts_alone and len(given) < len(model.sensors):
      return {}
    mask = lambda m: None if present is None else present[m]
    z = {
      m: encode(model, model.encoders[m], inputs[m], train=train, present=mask(m), rngs=rngs) for m in given
    }
    there = {m: jnp.ones(len(z[m])) if present is None else present[m] for m in given}
    fused = lambda part: model(z, {m: there[m] for m in part}, train=train)
    if self.shown == "all":
      return {together(part): fused(part) for part in subsets(given)}
    hidden = train and self.sensor_dropout > 0
    shown = hide(rngs.sensors(), there, self.sensor_dropout) if hidden else there
    out = {together(given): model(z, shown, train=train)}
    if self.predicts_alone and not train:
      out |= {m: fused([m]) for m in given}
    return out

  def loss(self, outputs, batch, values):
    """See `Method`; the parts of the term `main` have the names of the sensors that are shown."""
    names = sorted(batch.present)
    seen = subsets(names) if self.shown == "all" else [tuple(names)]
    parts = {together(part): part for part in seen}
    rows = {
      name: any_of({m: batch.present[m] for m in part}) * batch.labelled for name, part in parts.items()
    }
    main = {name: values.task_loss(outputs[name], batch.target, rows[name]) for name in parts}
    return summed({"main": main}, {"main": values.weights["main"] * mean_over_sensors(main, rows)})

  def predict(self, outputs):
    """See `Method`."""
    alone = [name for name in outputs if "+" not in name]
    kept = (together(alone), *alone) if alone else tuple(outputs)
    return {"prediction": {name: outputs[name] for name in dict.fromkeys(kept)}}
