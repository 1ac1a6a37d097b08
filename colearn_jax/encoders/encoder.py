"""The encoder of a sensor: a backbone, then a linear layer to the embedding's width and an optional norm."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.encoders import bands as band_names
from colearn_jax.nn import layers
from colearn_jax.nn import members as members_lib
from colearn_jax.types import UNIT_VECTOR

CONTEXT_WIDTH = 64  # of the hidden layer of a context that joins the features


class Projection(nnx.Module):
  """A linear layer to width d (if any) and an optional norm: features `[B D]` to `[B d]`, at least float32.

  With K members features are `[B K D]`, or `[B D]` for all of them, and the output is `[B K d]`.

  Args:
    features: D, the width of the features.
    members: K, see `Architecture.members`.
    signs: whether the members first differ here, see `members.MemberLinear`.
    width: d, the width of the output.
    norm: `none`, `layer` or `batch`.
    linear: whether there is the linear layer. Without it d has to be D.
    rngs: the stream `params` for the initial values.
    dtype: of the computation. The output and the norm are at least float32.
  """

  def __init__(
    self,
    features: int,
    width: int,
    *,
    norm: str,
    members: int = 1,
    signs: bool = False,
    linear: bool = True,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
  ):
    self.members = members
    layer = functools.partial(members_lib.linear, features, width, members, signs=signs)
    self.linear = layer(rngs=rngs, dtype=dtype) if linear else None
    wide = jnp.promote_types(dtype, jnp.float32)
    if norm == "layer":
      self.norm = layers.layer_norm(width, rngs=rngs, dtype=wide)
    else:
      self.norm = layers.BatchNorm(width, dtype=wide) if norm == "batch" else None

  def project(self, y: jax.Array, *, train: bool = False, present: jax.Array | None = None) -> jax.Array:
    """Projects features."""
    if self.members > 1 and y.ndim == 2:
      y = y[:, None]
    y = layers.widened(y if self.linear is None else self.linear(y))
    if isinstance(self.norm, layers.BatchNorm):
      return self.norm(y, train=train, present=present)
    return y if self.norm is None else self.norm(y)


class Encoder(Projection):
  """A backbone, a linear layer to width d (if any) and an optional norm: `[B *shape]` to `[B d]`.

  With `context=K`, the encoder is called with a pair: the sample and its context `[B K]`, which is what is
  known without a sensor, such as the date and the location. Where the context joins the inputs, the
  backbone reads it beside the sample's values. Where it joins the features, one layer reads it, and another
  reads the result together with the backbone's output, so that the features can depend on both at once.

  Args:
    backbone: see the module's documentation.
    width: d, the width of the output.
    norm: one of `NORMS`.
    flatten: whether to flatten series of images `[B T H W C]` to series `[B T H*W*C]`.
    members: of the projection, and of backbones that have members.
    linear: whether there is the linear layer, see `Projection`.
    context: K, the number of values of the context. Without context the parameters are the same as ever.
    place: position of the location's unit vector in the context, for backbones that know bands.
    months: whether the last band is the month of each step, for backbones that know bands.
    rngs: the stream `params` for the initial values.
    dtype: of the computation. The linear layer's output and the norm are at least float32.
  """

  def __init__(
    self,
    backbone: Any,
    width: int,
    *,
    norm: str,
    flatten: bool = False,
    context: int = 0,
    members: int = 1,
    linear: bool = True,
    place: int | None = None,
    months: bool = False,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
  ):
    self.backbone: Any = backbone
    self.flatten, self.context = flatten, context
    self.place, self.months = place, months
    # Members differ from their first layer on: this one, unless the backbone has members itself.
    signs = getattr(backbone, "members", 1) == 1
    layer = {"members": members, "signs": signs, "linear": linear}
    super().__init__(backbone.width, width, norm=norm, **layer, rngs=rngs, dtype=dtype)
    joined = context - (0 if place is None else len(UNIT_VECTOR))
    joins_features = joined > 0 and backbone.context_joins == "features"
    self.join = Join(backbone.width, joined, rngs=rngs, dtype=dtype) if joins_features else None

  def __call__(
    self,
    x: jax.Array | tuple[jax.Array, jax.Array],
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes normalised inputs; NaN stands for a missing value.

    Args:
      x: `[B *shape]`, or with context the pair of it and the context `[B K]`, normalised. NaN in the context
        stands for an unknown value and is set to zero.
      train: whether to use dropout and the batch's statistics.
      present: mask `[B]` of the samples that have data.
      rngs: the stream `dropout`, in training.

    Returns:
      Features `[B d]`, or `[B K d]` with K members, at least float32.

    Raises:
      ValueError: there is a context and the encoder was built without, or the other way round.
    """
    y = self.features(x, train=train, present=present, rngs=rngs)
    return self.project(y, train=train, present=present)

  def features(
    self,
    x: jax.Array | tuple[jax.Array, jax.Array],
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """What `project` reads, `[B D]`; with the arguments and errors of a call."""
    x, context, known = self._read(x)
    y = self.backbone(x, train=train, present=present, rngs=rngs, **known)
    return y if self.join is None else self.join(y, context)

  def fit(self, x: jax.Array | tuple[jax.Array, jax.Array]) -> None:
    """Sets the constants of a backbone in `encoders.FITTED`; `x` as in a call, `[backbone.samples ...]`."""
    self.backbone.fit(self._read(x)[0])

  def _read(
    self, x: jax.Array | tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array | None, dict[str, jax.Array | None]]:
    """What the backbone reads of inputs, the context that joins its features, and further arguments."""
    x, context = x if isinstance(x, tuple) else (x, None)
    if (0 if context is None else context.shape[-1]) != self.context:
      given = "none" if context is None else f"an array of shape {context.shape}"
      raise ValueError(f"the encoder was built for a context of {self.context} values and is given {given}")
    if hasattr(self.backbone, "BANDS"):
      x, context, known = self._known(x, context)
    else:
      known = {}
    if not self.backbone.mask_nans:
      x = _without_nans(x)
    if self.flatten:
      x = x.reshape(*x.shape[:2], -1)
    if context is not None:
      context = _without_nans(context)
      if self.backbone.context_joins == "inputs":
        x = jnp.concatenate([x.reshape(x.shape[0], -1), context.astype(x.dtype)], axis=-1)
    return x, context, known

  def _known(self, x: jax.Array, context: jax.Array | None) -> tuple[jax.Array, jax.Array | None, dict]:
    """The bands, the rest of the context, and `months` and `place` for a backbone that knows bands."""
    months = place = None
    if self.months:
      step = jnp.where(jnp.isnan(x[..., -1]), -1.0, x[..., -1])
      months = step.reshape(*step.shape[:2], -1).max(-1).astype(jnp.int32)  # the same for all pixels
      x = x[..., :-1]
    if self.place is not None and context is not None:
      end = self.place + len(UNIT_VECTOR)
      place = context[:, self.place : end]
      context = jnp.concatenate([context[:, : self.place], context[:, end:]], axis=1)
    x = band_names.from_power(x, self.backbone.bands, self.backbone.BANDS)
    return x, context, {"months": months, "place": place}


class Join(nnx.Module):
  """Joins features `[B D]` and a context `[B K]` by two layers, so that the two can interact: `[B D]`."""

  def __init__(self, width: int, context: int, *, rngs: nnx.Rngs, dtype):
    self.context = layers.linear(context, CONTEXT_WIDTH, rngs=rngs, dtype=dtype)
    self.both = layers.linear(width + CONTEXT_WIDTH, width, rngs=rngs, dtype=dtype)

  def __call__(self, features: jax.Array, context: jax.Array) -> jax.Array:
    """Joins the two."""
    return nnx.relu(self.both(jnp.concatenate([features, nnx.relu(self.context(context))], axis=-1)))


def _without_nans(x: jax.Array) -> jax.Array:
  return jnp.where(jnp.isnan(x), 0.0, x)
