"""What every method builds its model from: encoders of the configured kind, and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax import encoders
from colearn_jax.nn import layers
from colearn_jax.types import Task


@dataclasses.dataclass(frozen=True)
class Architecture:
  """The parts of a model that are configured once for all methods.

  Attributes:
    shapes: the shape of one sample of each sensor; their order numbers the sensors.
    encoders: each sensor's encoder settings, see `encoders.make_encoder`.
    task: what is predicted.
    emb_dim: D, the width of an encoder's output.
    head_layers: widths of the hidden layers of every head.
    context: K, the number of context values that every encoder reads beside its sensor; 0 for none.
    remat: whether training computes the encoders' inner values again in the backward pass, to save memory.
    dtype: of the encoders' computation; everything behind them is at least float32.
  """

  shapes: Mapping[str, tuple[int, ...]]
  encoders: Mapping[str, Mapping[str, Any]]
  task: Task
  emb_dim: int = 128
  head_layers: tuple[int, ...] = ()
  context: int = 0
  remat: bool = False
  dtype: Any = jnp.float32

  @property
  def sensors(self) -> tuple[str, ...]:
    """The names of the sensors in their order."""
    return tuple(self.shapes)

  @property
  def outputs(self) -> int:
    """C, the number of values that a head returns for the task."""
    return len(self.task.outputs)

  @property
  def wide(self) -> Any:
    """The dtype of what comes behind the encoders."""
    return jnp.promote_types(self.dtype, jnp.float32)

  def part(self, sensors: Iterable[str]) -> Architecture:
    """The same with these sensors alone."""
    kept = set(sensors)
    return dataclasses.replace(self, shapes={m: shape for m, shape in self.shapes.items() if m in kept})

  def encoder(self, sensor: str, *, width: int | None = None, rngs: nnx.Rngs) -> encoders.Encoder:
    """An encoder of a sensor to `width` values, D by default."""
    return encoders.make_encoder(
      self.encoders[sensor],
      self.shapes[sensor],
      width or self.emb_dim,
      context=self.context,
      rngs=rngs,
      dtype=self.dtype,
    )

  def head(self, features: int, outputs: int | None = None, *, rngs: nnx.Rngs) -> Head:
    """A head from features `[B features]` to `outputs` values, those of the task by default."""
    return Head(features, outputs or self.outputs, self.head_layers, rngs=rngs, dtype=self.wide)


class Head(nnx.Module):
  """A predictive model: hidden layers (linear, ReLU, BatchNorm; none by default), then a linear layer."""

  def __init__(
    self, features: int, outputs: int, hidden: Sequence[int] = (), *, rngs: nnx.Rngs, dtype=jnp.float32
  ):
    widths = [features, *hidden]
    self.hidden = nnx.List([layers.linear(i, o, rngs=rngs, dtype=dtype) for i, o in zip(widths, hidden)])
    self.norms = nnx.List([layers.BatchNorm(width, dtype=dtype) for width in hidden])
    self.out = layers.linear(widths[-1], outputs, rngs=rngs, dtype=dtype)

  def __call__(self, z: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Predicts from features `[B D]`; returns `[B outputs]`."""
    for linear, norm in zip(self.hidden, self.norms):
      z = norm(nnx.relu(linear(z)), train=train, present=present)
    return self.out(z)


def encode(
  model: nnx.Module,
  encoder: encoders.Encoder,
  x: Any,
  *,
  train: bool,
  present: jax.Array | None,
  rngs: nnx.Rngs | None,
) -> jax.Array:
  """Runs an encoder `[B *shape]` to `[B D]`; in training with rematerialisation where `model.remat` is on."""
  run = lambda encoder, x, present, rngs: encoder(x, train=train, present=present, rngs=rngs)
  return (nnx.remat(run) if model.remat and train else run)(encoder, x, present, rngs)
