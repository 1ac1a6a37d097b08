"""Data augmentation on the device: flips, turns, crops, shifts and dropout in time, and noise.

It is applied to raw training inputs, before normalisation. All random numbers come from one key per step and
are drawn for each sample of the global batch. So they do not depend on the number of devices, and a resumed
run draws the same ones. Missing values stay missing.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from colearn_jax.nn.random import hashed_bits


class _Draws(NamedTuple):
  """Uniform random numbers in [0, 1), `[B]` each, that all sensors of a sample share."""

  side: jax.Array  # of the cropped window
  top: jax.Array  # position of the window
  left: jax.Array
  quarter: jax.Array
  flip_rows: jax.Array
  flip_columns: jax.Array
  time_shift: jax.Array


@dataclasses.dataclass(frozen=True)
class Augment:
  """The augmentations and their strengths; the defaults change nothing.

  `flip`, `quarter_turns` and `crop` apply to images `(H, W, C)` and to series of images `(T, H, W, C)`. They
  are drawn once per sample and applied to all of its sensors, which show the same place. They are measured in
  fractions of the image's side, as sensors differ in resolution. `time_shift`, `time_dropout` and `noise`
  apply to series `(T, C)` and `(T, H, W, C)`.

  Attributes:
    flip: flips each of the two image axes with probability 1/2.
    quarter_turns: rotates by 0, 90, 180 or 270 degrees with equal probability; square images only.
    crop: smallest side of the cropped window, as a fraction of the image's side. Side and position of the
      window are uniform. The window is resampled to the image's size by nearest neighbour.
    time_shift: largest number of steps by which a sample's series are shifted, in both directions and
      equally for all sensors. Steps that are shifted in are missing.
    time_dropout: probability that a step is set to missing, drawn for each sensor separately.
    noise: standard deviation of Gaussian noise on every value, in units of the band's scale.
    months: modalities whose last band is the month of the step, which gets no noise.
  """

  flip: bool = False
  quarter_turns: bool = False
  crop: float = 1.0
  time_shift: int = 0
  time_dropout: float = 0.0
  noise: float = 0.0
  months: tuple[str, ...] = ()

  def __call__(
    self, key: jax.Array, inputs: Mapping[str, jax.Array], constants: Mapping[str, Mapping[str, jax.Array]]
  ) -> dict[str, jax.Array]:
    """Augments a batch.

    Args:
      key: random key of the training step.
      inputs: raw inputs by modality, `[B *shape]`, NaN where a value is missing.
      constants: for each modality its `scale`, `[C]`.

    Returns:
      Inputs of the same shapes. Series that `time_shift`, `time_dropout` or `noise` change are float32.
    """
    batch = next(iter(inputs.values())).shape[0]
    drawn = _Draws(*jax.random.uniform(key, (len(_Draws._fields), batch)))
    out = {}
    for m, x in inputs.items():
      if x.ndim in (4, 5) and (self.flip or self.quarter_turns or self.crop < 1):
        x = self._transform_image(drawn, x)
      if x.ndim in (3, 5):
        key_of_sensor = jax.random.fold_in(key, zlib.crc32(m.encode()))
        scale = constants[m]["scale"]
        x = self._transform_series(
          drawn.time_shift, key_of_sensor, x, scale.at[-1].set(0.0) if m in self.months else scale
        )
      out[m] = x
    return out

  def _transform_image(self, drawn: _Draws, x: jax.Array) -> jax.Array:
    """Rotates, flips and crops `[B ... H W C]`."""
    side = self.crop + (1.0 - self.crop) * drawn.side
    quarter = jnp.zeros_like(side, int)
    if self.quarter_turns:
      quarter = jnp.floor(4 * drawn.quarter).astype(jnp.int32)
    flip_rows = flip_columns = jnp.zeros(len(side), bool)
    if self.flip:
      flip_rows, flip_columns = drawn.flip_rows < 0.5, drawn.flip_columns < 0.5
    # A rotation by 90 degrees is a transpose and a flip of the rows. After the transpose the rest of the
    # transformation selects pixels along each axis separately.
    if self.quarter_turns:
      transposed = (quarter % 2 == 1).reshape(-1, *[1] * (x.ndim - 1))
      x = jnp.where(transposed, jnp.swapaxes(x, -3, -2), x)
    flip_rows = flip_rows ^ ((quarter == 1) | (quarter == 2))
    flip_columns = flip_columns ^ ((quarter == 2) | (quarter == 3))
    x = _take_per_sample(x, _window(x.shape[-3], side, drawn.top, flip_rows), axis=-3)
    return _take_per_sample(x, _window(x.shape[-2], side, drawn.left, flip_columns), axis=-2)

  def _transform_series(self, drawn: jax.Array, key: jax.Array, x: jax.Array, scale: jax.Array) -> jax.Array:
    """Shifts in time, drops steps and adds noise to `[B T ... C]`; `drawn` `[B]` decides the shift."""
    steps = x.shape[1]
    missing = jnp.zeros(x.shape[:2], bool)
    if self.time_shift:
      shift = jnp.floor((2 * self.time_shift + 1) * drawn).astype(jnp.int32) - self.time_shift
      source = jnp.arange(steps)[None] - shift[:, None]
      missing |= (source < 0) | (source >= steps)
      x = _take_per_sample(x, jnp.clip(source, 0, steps - 1), axis=1)
    if self.time_dropout:
      bits = hashed_bits(jax.random.fold_in(key, 0), x.shape[:2])
      missing |= bits < jnp.uint32(self.time_dropout * 2**32)
    if self.time_shift or self.time_dropout:
      x = jnp.where(missing.reshape(*missing.shape, *[1] * (x.ndim - 2)), jnp.nan, x.astype(jnp.float32))
    if self.noise:
      bits = hashed_bits(jax.random.fold_in(key, 1), x.shape)
      uniform = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23  # 24 bits would be rounded to 1
      normal = 2.0**0.5 * jax.lax.erf_inv(2.0 * uniform - 1.0)
      x = x.astype(jnp.float32) + self.noise * scale.reshape((1,) * (x.ndim - 1) + scale.shape) * normal
    return x


def make_augment(settings: Mapping[str, Any], months: Sequence[str] = ()) -> Augment | None:
  """The augmentation with these settings, or None if they switch everything off.

  Args:
    settings: the arguments of `Augment` without `months`.
    months: see `Augment`.
  """
  augment = Augment(**settings)
  return None if augment == Augment() else dataclasses.replace(augment, months=tuple(months))


def _window(size: int, side: jax.Array, start: jax.Array, flipped: jax.Array) -> jax.Array:
  """The pixels that a cropped and flipped window shows along one axis, `[B size]`.

  Args:
    size: number of pixels of the axis.
    side: side of the window, as a fraction of the axis, `[B]`.
    start: position of the window, from 0 (first pixel) to 1 (last possible position), `[B]`.
    flipped: whether the window is flipped, `[B]`.
  """
  center = (jnp.arange(size) + 0.5) / size
  center = jnp.where(flipped[:, None], 1.0 - center, center)
  at = (start * (1.0 - side))[:, None] + side[:, None] * center
  return jnp.clip(jnp.floor(at * size).astype(jnp.int32), 0, size - 1)


def _take_per_sample(x: jax.Array, positions: jax.Array, axis: int) -> jax.Array:
  """Takes positions `[B n]`, which differ between samples, along an axis of `x` `[B ...]`."""
  axis = axis - 1 if axis > 0 else axis
  return jax.vmap(lambda x, at: jnp.take(x, at, axis=axis, mode="clip"))(x, positions)
