"""PSE + L-TAE for series of small tiles: pixel-set encoders (Garnot et al. 2020, CVPR) before `ltae.py`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.encoders.ltae import LTAE
from colearn_jax.nn import layers
from colearn_jax.types import InputError


class PSELTAE(nnx.Module):
  """Every time step as a set of pixels, then attention over time: `[B T H W C]` to `[B n_neurons[-1]]`.

  One network for all time steps: each pixel by itself goes through layers of `pixel_sizes`, the mean and the
  deviation over the step's pixels through layers of `step_sizes`. Where in the tile a pixel lies makes no
  difference. The other arguments are those of `ltae.LTAE`.

  Missing values are left out rather than filled: a pixel without one of its bands does not count in its step,
  unless no pixel of the step has them all, when those count that have any; and a step without any value, be
  it clouded or padding, is not looked at and not among the statistics of the norms.
  """

  mask_nans = True

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    pixel_sizes: Sequence[int] = (32, 64),
    step_sizes: Sequence[int] = (128,),
    num_heads: int = 16,
    d_k: int = 8,
    d_model: int = 256,
    n_neurons: Sequence[int] = (256, 128),
    dropout: float = 0.2,
    attention_dropout: float = 0.1,
    max_period: float = 1000.0,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if len(shape) != 4:
      raise InputError(f"encoder pse_ltae reads series of tiles of shape (T, H, W, C), got {shape}")
    self.pixels = Rows(shape[-1], pixel_sizes, rngs=rngs, dtype=dtype)
    self.steps = Rows(2 * self.pixels.width, step_sizes, rngs=rngs, dtype=dtype)
    self.over_time = LTAE(
      (shape[0], self.steps.width),
      num_heads=num_heads,
      d_k=d_k,
      d_model=d_model,
      n_neurons=n_neurons,
      dropout=dropout,
      attention_dropout=attention_dropout,
      max_period=max_period,
      mask_nans=True,
      dtype=dtype,
      rngs=rngs,
    )
    self.width = self.over_time.width

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B T H W C]`, NaN where a value is missing."""
    return self.attend(x, train=train, present=present, rngs=rngs)[0]

  def attend(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Encodes `[B T H W C]`; returns `[B width]` and how much heads look at time steps, `[B heads T]`."""
    x = x.reshape(*x.shape[:2], -1, x.shape[-1])
    finite = jnp.isfinite(x)
    whole = finite.all(-1)
    counted = jnp.where(whole.any(-1, keepdims=True), whole, finite.any(-1))  # [B T P]
    seen = counted.any(-1)
    here = 1.0 if present is None else present.reshape(-1, 1)
    pixels = self.pixels(jnp.where(finite, x, 0.0), counted * jnp.expand_dims(here, -1), train=train)
    features = self.steps(mean_and_deviation(pixels, counted), seen * here, train=train)
    # Steps as L-TAE knows them to be missing.
    features = jnp.where(seen[..., None], features, jnp.nan)
    return self.over_time.attend(features, train=train, present=present, rngs=rngs)


class Rows(nnx.Module):
  """Linear maps with BatchNorm and ReLU, `[... C]` to `[... sizes[-1]]`."""

  def __init__(self, features: int, sizes: Sequence[int], *, rngs: nnx.Rngs, dtype):
    widths = [features, *sizes]
    weights = lambda i, o: nnx.Param(layers.uniform_fan_in(i)(rngs.params(), (i, o)))
    self.kernels = nnx.List([weights(i, o) for i, o in zip(widths, sizes)])
    self.norms = nnx.List([layers.BatchNorm(o, dtype=dtype) for o in sizes])
    self.width, self.dtype = widths[-1], dtype

  def __call__(self, x: jax.Array, counted: jax.Array, *, train: bool) -> jax.Array:
    """Encodes every row of `[... C]`; `counted`, `[...]`, says which are part of the batch's statistics."""
    shape, x, counted = x.shape[:-1], x.reshape(-1, x.shape[-1]), counted.reshape(-1)
    for kernel, norm in zip(self.kernels, self.norms):
      x = nnx.relu(norm(x.astype(self.dtype) @ kernel[...].astype(self.dtype), train=train, present=counted))
    return x.reshape(*shape, -1)


def mean_and_deviation(x: jax.Array, counted: jax.Array) -> jax.Array:
  """Mean and deviation over the pixels of `[B T P D]` that count, side by side: `[B T 2D]`, float32."""
  x, weight = x.astype(jnp.float32), counted.astype(jnp.float32)[..., None]
  weight /= jnp.maximum(weight.sum(2, keepdims=True), 1.0)
  mean = (weight * x).sum(2, keepdims=True)
  variance = (weight * jnp.square(x - mean)).sum(2)
  # The root of zero has no gradient, and tiles of one value are common.
  return jnp.concatenate([mean[:, :, 0], jnp.sqrt(variance + 1e-5)], axis=-1)
