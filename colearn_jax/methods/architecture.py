"""Builds the parts of a model that all methods have in common: the configured encoders, and heads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.encoders import Encoder, make_encoder
from colearn_jax.encoders.encoder import Projection
from colearn_jax.nn import layers
from colearn_jax.nn import members as members_lib
from colearn_jax.types import Modality, Task


@dataclasses.dataclass(frozen=True)
class Architecture:
  """The settings of a model that do not depend on the method.

  Attributes:
    shapes: shape of one sample of each sensor. The order of the sensors defines their numbers.
    encoders: encoder settings of each sensor, see `encoders.make_encoder`.
    task: the task to predict.
    emb_dim: D, the number of features that an encoder returns.
    projection: whether a linear layer maps what a backbone returns to D values; else D is what it returns.
    head_layers: widths of the hidden layers of every head.
    context: K, the number of context values in the input of every encoder; 0 for none.
    context_parts: how many of them are the date, the location, the time, and static, in this order.
    members: number of members that share the matrices of each encoder and head. Above 1, features are
      `[B members D]` and outputs `[B members C]`. Each member learns by itself; a prediction is their mean.
    standardised: whether the heads of a regression are linear in the standardised target, see `Head`.
    place: position of the location's unit vector among the context values, if it is there.
    modalities: the modality of each sensor, for encoders that know bands (`encoders.BY_BAND`).
    remat: whether the encoders' activations are recomputed in the backward pass, to save memory.
    dtype: data type of the encoders' computation. Layers after the encoders use float32 or wider.
  """

  shapes: Mapping[str, tuple[int, ...]]
  encoders: Mapping[str, Mapping[str, Any]]
  task: Task
  emb_dim: int = 128
  projection: bool = True
  head_layers: tuple[int, ...] = ()
  context: int = 0
  context_parts: tuple[int, ...] = ()
  members: int = 1
  standardised: bool = False
  place: int | None = None
  modalities: Mapping[str, Modality] = dataclasses.field(default_factory=dict)
  remat: bool = False
  dtype: Any = jnp.float32

  @property
  def sensors(self) -> tuple[str, ...]:
    """The names of the sensors, in order."""
    return tuple(self.shapes)

  @property
  def outputs(self) -> int:
    """C, the number of outputs of the task."""
    return len(self.task.outputs)

  @property
  def wide(self) -> Any:
    """The dtype of the layers after the encoders."""
    return jnp.promote_types(self.dtype, jnp.float32)

  def part(self, sensors: Iterable[str]) -> Architecture:
    """The architecture with only these sensors."""
    kept = set(sensors)
    return dataclasses.replace(self, shapes={m: shape for m, shape in self.shapes.items() if m in kept})

  def encoder(self, sensor: str, *, width: int | None = None, rngs: nnx.Rngs) -> Encoder:
    """Builds an encoder of a sensor with `width` output features, D by default."""
    return make_encoder(
      self.encoders[sensor],
      self.shapes[sensor],
      width or self.emb_dim,
      context=self.context,
      context_parts=self.context_parts,
      members=self.members,
      linear=self.projection,
      modality=self.modalities.get(sensor),
      place=self.place,
      rngs=rngs,
      dtype=self.dtype,
    )

  def second_projection(self, encoder: Encoder, sensor: str, *, rngs: nnx.Rngs) -> Projection:
    """Builds a second projection of the features of a sensor's encoder, to D values."""
    return Projection(
      encoder.backbone.width,
      self.emb_dim,
      norm=str(self.encoders[sensor].get("use_norm", "none")),
      members=self.members,
      signs=getattr(encoder.backbone, "members", 1) == 1,
      rngs=rngs,
      dtype=self.dtype,
    )

  def head(self, features: int, outputs: int | None = None, *, rngs: nnx.Rngs) -> Head:
    """Builds a head from `[B features]` to `[B outputs]`. Default: the outputs of the task."""
    target = outputs is None and self.task.kind == "regression" and self.standardised
    hidden = self.head_layers or ((self.emb_dim,) if self.members > 1 else ())
    return Head(
      features,
      outputs or self.outputs,
      hidden,
      members=self.members,
      standardised=target,
      rngs=rngs,
      dtype=self.wide,
    )


class Head(nnx.Module):
  """A prediction head: hidden layers (linear, ReLU, BatchNorm; none by default), then a linear layer.

  A standardised head returns mean + std * y for the output y of its linear layer, so that y is learned at the
  scale of the weights and not at that of the target's unit. `mean` and `std` `[outputs]` are those of the
  training part. They are constants of a run, which `training.state.init` sets.
  """

  def __init__(
    self,
    features: int,
    outputs: int,
    hidden: Sequence[int] = (),
    *,
    members: int = 1,
    standardised: bool = False,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
  ):
    widths = [features, *hidden]
    layer = functools.partial(members_lib.linear, members=members, rngs=rngs, dtype=dtype)
    self.hidden = nnx.List([layer(i, o) for i, o in zip(widths, hidden)])
    self.norms = nnx.List([layers.BatchNorm(width, dtype=dtype) for width in hidden])
    self.out = layer(widths[-1], outputs)
    self.target = Target(outputs) if standardised else None

  def __call__(self, z: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Maps features `[B D]` to `[B outputs]`; with K members `[B K D]` to `[B K outputs]`."""
    for linear, norm in zip(self.hidden, self.norms):
      z = norm(nnx.relu(linear(z)), train=train, present=present)
    y = self.out(z)
    if self.target is None:
      return y
    mean, std = (layers.along_last_axis(a[...], y) for a in (self.target.mean, self.target.std))
    return mean + std * y


class Target(nnx.Module):
  """Mean and standard deviation `[C]` of the targets of the training part."""

  def __init__(self, outputs: int):
    self.mean, self.std = nnx.BatchStat(jnp.zeros(outputs)), nnx.BatchStat(jnp.ones(outputs))


def encode(
  model: Any,
  encoder: Encoder,
  x: Any,
  *,
  train: bool,
  present: jax.Array | None,
  rngs: nnx.Rngs | None,
  features: bool = False,
) -> jax.Array:
  """Runs an encoder, `[B *shape]` to `[B D]`. In training, `model.remat` turns on rematerialisation.

  With `features`, the result is what the encoder's projection reads, see `Encoder.features`.
  """

  def run(encoder, x, present, rngs):
    call = encoder.features if features else encoder
    return call(x, train=train, present=present, rngs=rngs)

  return (nnx.remat(run) if model.remat and train else run)(encoder, x, present, rngs)
