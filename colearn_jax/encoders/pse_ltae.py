"""PSE + L-TAE: a pixel-set encoder (Garnot et al. 2020, CVPR), then L-TAE, for series of small tiles."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.encoders.ltae import LTAE
from colearn_jax.nn import layers
from colearn_jax.types import InputError


class PSELTAE(nnx.Module):
  """Encodes time steps as sets of pixels, then attends over time: `[B T H W C]` to `[B n_neurons[-1]]`.

  Layers of `pixel_sizes` are applied to each pixel, then layers of `step_sizes` to the mean and the
  standard deviation over the pixels of each time step. All steps share these layers. The position of a
  pixel in the tile makes no difference. The other arguments are those of `ltae.LTAE`.

  Missing values are left out instead of filled. Pixels with a missing band do not count, unless all pixels
  of the step have one. Then the pixels with any value count. A step without any value (clouds, padding)
  gets no attention and is not part of the norms' statistics.
  """

  mask_nans = True
  context_joins = "features"

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
    """Encodes `[B T H W C]`; returns `[B width]` and the attention of the heads to the steps, `[B H T]`."""
    x = x.reshape(*x.shape[:2], -1, x.shape[-1])
    finite = jnp.isfinite(x)
    whole = finite.all(-1)
    counted = jnp.where(whole.any(-1, keepdims=True), whole, finite.any(-1))  # [B T P]
    seen = counted.any(-1)
    here = jnp.ones((1, 1)) if present is None else present.reshape(-1, 1)
    pixels = self.pixels(jnp.where(finite, x, 0.0), counted * jnp.expand_dims(here, -1), train=train)
    features = self.steps(mean_and_deviation(pixels, counted), seen * here, train=train)
    # L-TAE recognises missing steps by NaN.
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
    """Encodes every row of `[... C]`; the mask `counted` `[...]` selects rows for the batch's statistics."""
    shape, x, counted = x.shape[:-1], x.reshape(-1, x.shape[-1]), counted.reshape(-1)
    for kernel, norm in zip(self.kernels, self.norms):
      x = nnx.relu(norm(x.astype(self.dtype) @ kernel[...].astype(self.dtype), train=train, present=counted))
    return x.reshape(*shape, -1)


def mean_and_deviation(x: jax.Array, counted: jax.Array) -> jax.Array:
  """Mean and standard deviation over the counted pixels of `[B T P D]`, side by side: `[B T 2D]`, float32."""
  x, weight = x.astype(jnp.float32), counted.astype(jnp.float32)[..., None]
  weight /= jnp.maximum(weight.sum(2, keepdims=True), 1.0)
  mean = (weight * x).sum(2, keepdims=True)
  variance = (weight * jnp.square(x - mean)).sum(2)
  # Tiles with a single value are common, and the square root has no gradient at zero.
  return jnp.concatenate([mean[:, :, 0], jnp.sqrt(variance + 1e-5)], axis=-1)
