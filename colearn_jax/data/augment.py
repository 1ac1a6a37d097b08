"""Random changes of the training inputs, on the device, before they are normalised.

Everything is drawn for each sample of the global batch from one key: the same whichever devices hold it, and
after a training was stopped. What is missing stays missing.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from colearn_jax.nn.random import hashed_bits


@dataclasses.dataclass(frozen=True)
class Augment:
  """What may happen to a sample.

  Images `(H, W, C)` and the images of a series `(T, H, W, C)` show one place: `flip`, `quarter_turns` and
  `crop` are drawn once for all sensors of a sample, in shares of the side, whatever a pixel measures. The
  other three concern series, `(T, C)` and `(T, H, W, C)`.

  Attributes:
    flip: up and down, left and right, each in every second sample.
    quarter_turns: by 0, 90, 180 or 270 degrees; square images only.
    crop: the least side of the window that is shown at the image's size, as a share of its side; the window's
      side and place are uniform, and its pixels are the nearest ones.
    time_shift: the most steps by which all series of a sample move back or forth; what comes in is missing.
    time_dropout: the share of steps that go missing, each sensor's by themselves.
    noise: the deviation of normal noise on every value, in units of the band's scale.
  """

  flip: bool = False
  quarter_turns: bool = False
  crop: float = 1.0
  time_shift: int = 0
  time_dropout: float = 0.0
  noise: float = 0.0

  def __call__(
    self, key: jax.Array, inputs: Mapping[str, jax.Array], constants: Mapping[str, Mapping[str, jax.Array]]
  ) -> dict[str, jax.Array]:
    """Changes a batch.

    Args:
      key: of the step.
      inputs: raw, `[B *shape]` by modality, NaN where a value is missing.
      constants: each modality's `scale`, `[C]`.

    Returns:
      The same shapes; a series whose steps or values may change is float32.
    """
    batch = next(iter(inputs.values())).shape[0]
    place = jax.random.uniform(key, (7, batch))
    out = {}
    for m, x in inputs.items():
      if x.ndim in (4, 5) and (self.flip or self.quarter_turns or self.crop < 1):
        x = self._place(place, x)
      if x.ndim in (3, 5):
        own = jax.random.fold_in(key, zlib.crc32(m.encode()))
        x = self._time(place[6], own, x, constants[m]["scale"])
      out[m] = x
    return out

  def _place(self, drawn: jax.Array, x: jax.Array) -> jax.Array:
    """Turns, flips and crops `[B ... H W C]`."""
    side = self.crop + (1.0 - self.crop) * drawn[0]
    quarter = jnp.floor(4 * drawn[3]).astype(jnp.int32) if self.quarter_turns else jnp.zeros_like(side, int)
    flips = drawn[4:6] < 0.5 if self.flip else jnp.zeros((2, len(side)), bool)
    # A quarter turn is the transpose upside down; which pixel comes where is then one question an axis.
    if self.quarter_turns:
      turned = (quarter % 2 == 1).reshape(-1, *[1] * (x.ndim - 1))
      x = jnp.where(turned, jnp.swapaxes(x, -3, -2), x)
    upside_down = flips[0] ^ ((quarter == 1) | (quarter == 2))
    left_right = flips[1] ^ ((quarter == 2) | (quarter == 3))
    x = _pick(x, _window(x.shape[-3], side, drawn[1], upside_down), axis=-3)
    return _pick(x, _window(x.shape[-2], side, drawn[2], left_right), axis=-2)

  def _time(self, drawn: jax.Array, key: jax.Array, x: jax.Array, scale: jax.Array) -> jax.Array:
    """Shifts, thins and blurs `[B T ... C]`."""
    steps = x.shape[1]
    gone = jnp.zeros(x.shape[:2], bool)
    if self.time_shift:
      moved = jnp.floor((2 * self.time_shift + 1) * drawn).astype(jnp.int32) - self.time_shift
      came_from = jnp.arange(steps)[None] - moved[:, None]
      gone |= (came_from < 0) | (came_from >= steps)
      x = _pick(x, jnp.clip(came_from, 0, steps - 1), axis=1)
    if self.time_dropout:
      bits = hashed_bits(jax.random.fold_in(key, 0), x.shape[:2])
      gone |= bits < jnp.uint32(self.time_dropout * 2**32)
    if self.time_shift or self.time_dropout:
      x = jnp.where(gone.reshape(*gone.shape, *[1] * (x.ndim - 2)), jnp.nan, x.astype(jnp.float32))
    if self.noise:
      bits = hashed_bits(jax.random.fold_in(key, 1), x.shape)
      uniform = ((bits >> 8).astype(jnp.float32) + 0.5) * 2.0**-24
      normal = 2.0**0.5 * jax.lax.erf_inv(2.0 * uniform - 1.0)
      x = x.astype(jnp.float32) + self.noise * scale.reshape((1,) * (x.ndim - 1) + scale.shape) * normal
    return x


def make_augment(settings: Mapping[str, object]) -> Augment | None:
  """What these settings ask for, or None where all is switched off."""
  augment = Augment(**settings)
  return None if augment == Augment() else augment


def _window(size: int, side: jax.Array, start: jax.Array, flipped: jax.Array) -> jax.Array:
  """The pixels `[B size]` of an axis that are shown, for windows of relative side `[B]`."""
  middle = (jnp.arange(size) + 0.5) / size
  middle = jnp.where(flipped[:, None], 1.0 - middle, middle)
  at = (start * (1.0 - side))[:, None] + side[:, None] * middle
  return jnp.clip(jnp.floor(at * size).astype(jnp.int32), 0, size - 1)


def _pick(x: jax.Array, positions: jax.Array, axis: int) -> jax.Array:
  """Each sample's own positions `[B n]` along an axis of `[B ...]`."""
  axis = axis - 1 if axis > 0 else axis
  return jax.vmap(lambda x, at: jnp.take(x, at, axis=axis, mode="clip"))(x, positions)
