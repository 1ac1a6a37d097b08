"""Presto: a transformer over the tokens of a pixel's series (Tseng et al. 2023, arXiv 2304.14065)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.encoders import groups as band_groups
from colearn_jax.encoders.bands import Band
from colearn_jax.nn import layers
from colearn_jax.nn.attention import Block
from colearn_jax.types import InputError

CLASSES = "dynamic_world"  # a band of classes 0 to 8, which are embedded; others are numbers
GROUPS = {
  "S1": ("VV", "VH"),
  "S2_RGB": ("B2", "B3", "B4"),
  "S2_Red_Edge": ("B5", "B6", "B7"),
  "S2_NIR_10m": ("B8",),
  "S2_NIR_20m": ("B8A",),
  "S2_SWIR": ("B11", "B12"),
  "ERA5": ("temperature_2m", "total_precipitation"),
  "SRTM": ("elevation", "slope"),
  "NDVI": ("NDVI",),
  CLASSES: (CLASSES,),
}
STATIC = ("SRTM",)  # groups with one token for the whole series
ABSENT_CLASS = 9


class Presto(nnx.Module):
  """Tokens of band groups and time steps, and of the place: `[B T C]` or `[B C]` to `[B layer_size]`.

  Each group whose bands the modality has makes a token at each step. Only these tokens are computed. The
  encodings of the month, of the group and of the position in the series are added to it; an unknown month is
  encoded as zeros. SRTM makes one token, from the first step. A token is left out of a sample
  where one of its bands is missing. The output is the norm of the mean over the tokens that are there.
  """

  mask_nans = True
  context_joins = "features"
  BANDS = {
    **dict.fromkeys(("VV", "VH"), (-25.0, 25.0)),
    **dict.fromkeys(("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), (0.0, 1e4)),
    "temperature_2m": (272.15, 35.0),
    "total_precipitation": (0.0, 0.03),
    "elevation": (0.0, 2000.0),
    "slope": (0.0, 50.0),
    "NDVI": (0.0, 1.0),
    CLASSES: (0.0, 1.0),
  }

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    bands: Mapping[str, Band],
    place: bool = False,
    layer_size: int = 128,
    n_layers: int = 2,
    num_heads: int = 8,
    feedforward_size: int = 512,
    max_steps: int = 24,
    drop_path: float = 0.0,
    use_months: bool = True,
    leave_out: tuple[str, ...] = (),
    weights: str = "",
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    # `bands` lacks the bands that are left out, `weights` reads the file, and months may come in any call.
    del leave_out, weights, use_months
    if len(shape) not in (1, 2):
      raise InputError(f"encoder presto reads series of shape (T, C) or values (C,), got {shape}")
    steps = shape[0] if len(shape) == 2 else 0
    width = {"layer_size": layer_size, "parts": 4, "num_heads": num_heads}
    band_groups.check_sizes("presto", steps, max_steps, **width)
    self.groups = tuple(band_groups.complete("presto", GROUPS, bands))
    self.embed: Any = nnx.Dict(
      {
        group: nnx.Embed(ABSENT_CLASS + 1, layer_size, dtype=dtype, rngs=rngs)
        if group == CLASSES
        else layers.linear(len(GROUPS[group]), layer_size, rngs=rngs, dtype=dtype)
        for group in self.groups
      }
    )
    normal = nnx.initializers.normal(0.02)
    self.vectors = nnx.Param(normal(rngs.params(), (len(self.groups), layer_size // 4)))  # of the groups
    self.place = layers.linear(3, layer_size, rngs=rngs, dtype=dtype) if place else None
    block = lambda: Block(layer_size, num_heads, feedforward_size, drop_path, rngs=rngs, dtype=dtype)
    self.blocks = nnx.List([block() for _ in range(n_layers)])
    self.norm = layers.layer_norm(layer_size, rngs=rngs, dtype=dtype)
    self.bands, self.width, self.dtype = dict(bands), layer_size, dtype

  def __call__(
    self,
    x: jax.Array,
    *,
    months: jax.Array | None = None,
    place: jax.Array | None = None,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes values normalised by `BANDS`, NaN where missing.

    Args:
      x: `[B T C]` or `[B C]`.
      months: `[B T]` int32, 0 is January, -1 unknown; None: all unknown.
      place: unit vector `[B 3]`, NaN if unknown; given if the backbone was built with `place`.
      train: whether to drop paths.
      present: not used, as samples do not influence each other.
      rngs: the stream `dropout`, in training.
    """
    x = x if x.ndim == 3 else x[:, None]
    tokens, there = self._tokens(x, months)
    if self.place is not None:
      known = ~jnp.isnan(place).any(-1, keepdims=True)
      tokens.insert(0, self.place(jnp.where(known, place, 0.0))[:, None])
      there.insert(0, known)
    y, mask = jnp.concatenate(tokens, axis=1), jnp.concatenate(there, axis=1)
    *blocks, last = self.blocks
    for block in blocks:
      y = block(y, mask, train=train, rngs=rngs)
    share = mask / jnp.maximum(mask.sum(1, keepdims=True), 1)
    return self.norm(last.mean(y, share, train=train, rngs=rngs))

  def _tokens(self, x: jax.Array, months: jax.Array | None) -> tuple[list[jax.Array], list[jax.Array]]:
    """Tokens `[B N D]` of each group, and which of them are there, `[B N]`."""
    steps, quarter = x.shape[1], self.width // 4
    months = jnp.full(x.shape[:2], -1) if months is None else months
    month = jnp.asarray(band_groups.month_table(quarter), self.dtype)[months]  # -1 is the last row, zeros
    position = jnp.asarray(position_table(steps, 2 * quarter), self.dtype)
    tokens, there = [], []
    for number, group in enumerate(self.groups):
      values = jnp.stack([x[..., self.bands[name].position] for name in GROUPS[group]], axis=-1)
      known = ~jnp.isnan(values).any(-1)
      if group in STATIC:
        values, known = values[:, :1], known[:, :1]
      values = jnp.where(known[..., None], values, 0.0)
      if group == CLASSES:
        token = self.embed[group](jnp.clip(values[..., 0], 0, ABSENT_CLASS).astype(jnp.int32))
        known = known & (values[..., 0] < ABSENT_CLASS)
      else:
        token = self.embed[group](values)
      vector = self.vectors[number].astype(self.dtype)
      if group in STATIC:
        code = jnp.concatenate([jnp.zeros(quarter), vector, jnp.zeros(2 * quarter)]).astype(self.dtype)[
          None, None
        ]
      else:
        of_group = jnp.broadcast_to(vector, (*x.shape[:2], quarter))
        of_step = jnp.broadcast_to(position, (*x.shape[:2], 2 * quarter))
        code = jnp.concatenate([month, of_group, of_step], axis=-1)
      tokens.append(token + code)
      there.append(known)
    return tokens, there


def position_table(steps: int, width: int) -> np.ndarray:
  """Encoded positions in the series `[T width]`, counted from 0."""
  return layers.sinusoid(np.arange(steps), width, base=1000.0)
