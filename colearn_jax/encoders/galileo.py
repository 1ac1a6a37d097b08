"""Galileo: Tseng et al. 2025, arXiv 2502.09356. A transformer over tokens of groups of bands.

There are four kinds of groups, by the axes that their values have: in space and time, in space, in time, and
neither. A token is a group's values in one patch of pixels and at one time step, as far as the group has
them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.nn.attention import Block
from colearn_jax.types import InputError

_COVER = ("water", "trees", "grass", "flooded_vegetation", "crops", "shrub_and_scrub", "built", "bare",
          "snow_and_ice")  # fmt: skip
_CROPS = ("temporarycrops", "maize", "wintercereals", "springcereals", "irrigation")
KINDS: dict[str, dict[str, tuple[str, ...]]] = {  # the groups of each kind, and the bands of each group
  "space_time": {
    "S1": ("VV", "VH"),
    "S2_RGB": ("B2", "B3", "B4"),
    "S2_Red_Edge": ("B5", "B6", "B7"),
    "S2_NIR_10m": ("B8",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
    "NDVI": ("NDVI",),
  },
  "space": {
    "SRTM": ("elevation", "slope"),
    "DW": tuple(f"DW_{name}" for name in _COVER),
    "WC": tuple(f"WC_{name}" for name in _CROPS),
  },
  "time": {
    "ERA5": ("temperature_2m", "total_precipitation_sum"),
    "TC": ("def", "soil", "aet"),
    "VIIRS": ("avg_rad",),
  },
  "static": {
    "LS": ("population",),
    "location": ("x", "y", "z"),
    "DW_static": tuple(f"DW_{name}_static" for name in _COVER),
    "WC_static": tuple(f"WC_{name}_static" for name in _CROPS),
  },
}
KIND = {group: kind for kind, groups in KINDS.items() for group in groups}
BANDS = {group: bands for groups in KINDS.values() for group, bands in groups.items()}
# By band: shift and scale, so that (value - shift) / scale is 0 to 1 within two standard deviations of the
# mean. Bands that are not listed are used as they are.
NORMALISATION = {
  "VV": (-21.503015938865595, 19.548583099361263),
  "VH": (-30.316122521008758, 22.921081281537173),
  "B2": (-440.0674150064983, 3670.816576148341),
  "B3": (-488.19499253784784, 3653.195369432611),
  "B4": (-842.2586089515398, 4370.71489411022),
  "B5": (-550.580418440855, 4188.882433384169),
  "B6": (90.18188471987287, 4192.040644462707),
  "B7": (237.71267996767028, 4574.761210727998),
  "B8": (212.3793632740426, 4395.916710926596),
  "B8A": (341.3399545168895, 4817.891020343572),
  "B11": (-57.043712554288504, 4583.909625231551),
  "B12": (-485.954841393848, 3920.9719360031186),
  "elevation": (-1293.1241777089112, 3932.278919318495),
  "slope": (-10.40472091071138, 32.66962715925299),
  "temperature_2m": (111.9509175478781, 319.23315761257714),
  "total_precipitation_sum": (-0.14784790519146407, 0.46678188392605946),
  "def": (-750.6836131024303, 2816.0034782230828),
  "soil": (-1157.8940457005976, 3700.0464505625723),
  "aet": (-343.7054725750826, 1812.9736089114313),
  "avg_rad": (-13.46132874826197, 30.052080683331273),
  "population": (-2120.980666851603, 4618.367651320241),
}
PATCH = 8  # the edge of the patches that the kernels are stored for
STEPS = 24  # of the table of positions in time, in the published files


def waves(positions: np.ndarray, width: int) -> np.ndarray:
  """Encodes positions `[P]` as sines, then cosines, of p / 10000^(i / (2 width)): `[P width]`."""
  angle = np.multiply.outer(positions, 10000.0 ** (-np.arange(width // 2) / (2 * width)))
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)


def month_waves(width: int) -> np.ndarray:
  """Encodes the months as sine and cosine of their angle in the year, each repeated: `[12 width]`."""
  angle = 2 * np.pi * np.arange(12) / 12
  return np.repeat(np.stack([np.sin(angle), np.cos(angle)], -1), width // 2, axis=1).astype(np.float32)


def place_waves(rows: int, columns: int, step: float, width: int) -> np.ndarray:
  """Encodes the positions of patches that are `step` apart: `[rows columns width]`, columns first."""
  of = lambda count: waves(step * np.arange(count), width // 2)
  shape = rows, columns, width // 2
  across, down = np.broadcast_to(of(columns)[None], shape), np.broadcast_to(of(rows)[:, None], shape)
  return np.concatenate([across, down], axis=-1)


@functools.cache
def kernel_resize(size: int) -> np.ndarray:
  """The matrix `[8 size]` that resizes a kernel of patches along one axis (Beyer et al. 2023, CVPR).

  It is the pseudo-inverse of the matrix that resizes an image of 8 pixels to `size`, by cubic interpolation
  (Keys 1981, a = -1/2), which is widened by 8 / size against aliasing.
  """
  scale = PATCH / size
  centre = (np.arange(size) + 0.5) * scale - 0.5
  x = np.abs(np.arange(PATCH)[None] - centre[:, None]) / scale
  near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
  return np.linalg.pinv(weights / weights.sum(1, keepdims=True))


class Group(nnx.Module):
  """Embeds the values of one group of bands: `kernel` `[8 8 C D]` for patches, else `[C D]`, and `bias`.

  `encoding` `[D/4]` is learnt, and says which group a token is of.
  """

  def __init__(self, name: str, width: int, *, rngs: nnx.Rngs, dtype):
    bands, patches = len(BANDS[name]), KIND[name] in ("space_time", "space")
    shape = (PATCH, PATCH, bands, width) if patches else (bands, width)
    init = layers.uniform_fan_in(int(np.prod(shape[:-1])))
    self.kernel, self.bias = nnx.Param(init(rngs.params(), shape)), nnx.Param(jnp.zeros(width))
    self.encoding = nnx.Param(jnp.zeros(width // 4))
    self.dtype = dtype

  def __call__(self, x: jax.Array, size: int) -> jax.Array:
    """Embeds patches `[B h w size size ... C]`, or values `[B ... C]` without patches: `[B (h w) ... D]`."""
    kernel = self.kernel[...]
    if kernel.ndim == 4:
      if size != PATCH:
        resize = jnp.asarray(kernel_resize(size), kernel.dtype)
        kernel = jnp.einsum("hwcd,hi,wj->ijcd", kernel, resize, resize)
      x = jnp.moveaxis(x, (3, 4), (-3, -2))
      x = x.reshape(*x.shape[:-3], -1)
      kernel = kernel.reshape(-1, kernel.shape[-1])
    return x.astype(self.dtype) @ kernel.astype(self.dtype) + layers.along_last_axis(
      self.bias[...].astype(self.dtype), x
    )


class Transformer(nnx.Module):
  """Tokens of groups, blocks of attention, and a LayerNorm. `width` is that of the tokens.

  Tables of positions and months are not trained: they are kept with the statistics.

  Args:
    groups: names of the groups to build, of `BANDS`.
    width, depth, heads, hidden: sizes of the blocks.
    patch_size: edge of a patch in pixels, 1 to 8.
    resolution: edge of a pixel in metres.
    drop_path: see `nn.attention.DropPath`.
    rngs: the stream `params` for the initial values.
    dtype: of the computation.
  """

  def __init__(
    self,
    groups: tuple[str, ...],
    *,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    patch_size: int,
    resolution: float,
    drop_path: float,
    rngs: nnx.Rngs,
    dtype,
  ):
    if width % 16:
      raise InputError(f"encoder galileo: embedding_size={width}, it has to be a multiple of 16")
    if patch_size > PATCH:
      raise InputError(f"encoder galileo: patch_size={patch_size}, it is 1 to {PATCH} pixels")
    self.groups = nnx.Dict({name: Group(name, width, rngs=rngs, dtype=dtype) for name in groups})
    self.positions = nnx.BatchStat(jnp.asarray(waves(np.arange(STEPS), width // 4)))
    self.months = nnx.BatchStat(jnp.asarray(month_waves(width // 4)))
    block = lambda: Block(width, heads, hidden, drop_path, rngs=rngs, dtype=dtype)
    self.blocks = nnx.List([block() for _ in range(depth)])
    self.norm = layers.layer_norm(width, rngs=rngs, dtype=dtype)
    self.width, self.patch_size, self.resolution, self.dtype = width, patch_size, resolution, dtype

  def __call__(
    self,
    values: Mapping[str, jax.Array],
    there: Mapping[str, jax.Array],
    months: jax.Array | None,
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
    per_patch: bool = False,
  ) -> jax.Array:
    """The mean over the tokens that are there, `[B D]`, in all or for each patch, `[B h·w D]`.

    Args:
      values: normalised, by group: `[B H W T C]` in space and time, `[B H W C]` in space, `[B T C]` in time,
        `[B C]` static. Groups that are not among them are not computed.
      there: by group, whether the values are there, `[B H W T]` to `[B]`, bool. Of a patch the first pixel
        decides. Values that are not there may not be NaN.
      months: `[B T]` int, 0 is January. None if no group has time.
      train: whether to drop paths.
      rngs: the stream `dropout`, in training.
      per_patch: whether the means are those of patches. Tokens without space count in every patch.
    """
    tokens, masks = zip(*(self.tokens(group, values[group], there[group], months) for group in values))
    x, mask = (jnp.concatenate([part.reshape(part.shape[0], -1, *part.shape[3:]) for part in parts], 1)
               for parts in (tokens, masks))  # fmt: skip
    for block in self.blocks:
      x = block(x, mask, train=train, rngs=rngs)
    x = layers.widened(jnp.where(mask[..., None], self.norm(x), 0))
    if not per_patch:
      return x.sum(1) / jnp.maximum(mask.sum(1), 1)[:, None].astype(x.dtype)
    total, count, begin = 0, 0, 0
    for part in masks:  # [B patches tokens], with one patch where there is no space
      end = begin + part[0].size
      of = lambda a: a[:, begin:end].reshape(*part.shape[:2], -1, *a.shape[2:])  # noqa: B023
      total, count, begin = total + of(x).sum(2), count + of(mask).sum(2), end
    return total / jnp.maximum(count, 1)[..., None].astype(x.dtype)

  def tokens(
    self, group: str, x: jax.Array, there: jax.Array, months: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """The tokens of a group with their encodings, `[B patches steps D]`, and which are there.

    Without space there is one patch, without time one step.
    """
    kind, size, part = KIND[group], self.patch_size, self.width // 4
    quarters = [self.groups[group].encoding[...][None, None, None]]
    if kind in ("space_time", "space"):
      batch, rows, columns = x.shape[0], x.shape[1] // size, x.shape[2] // size
      x = x.reshape(batch, rows, size, columns, size, *x.shape[3:])
      x = jnp.swapaxes(x, 2, 3)
      there = there[:, ::size, ::size].reshape(batch, rows * columns, -1)
      table = place_waves(rows, columns, self.resolution * size / 10, part)
      place = jnp.asarray(table).reshape(1, rows * columns, 1, part)
    else:
      batch, place = x.shape[0], None
      there = there.reshape(batch, 1, -1)
    y = self.groups[group](x, size).reshape(*there.shape, self.width)
    if kind in ("space_time", "time"):
      moment = jnp.concatenate(
        [
          jnp.broadcast_to(self.positions[: months.shape[1]][None], (*months.shape, part)),
          self.months[...][months],
        ],
        -1,
      )[:, None]
      quarters.append(moment)
    return self._encoded(y, quarters, place), there

  def _encoded(self, y, quarters, place):
    part = self.width // 4
    pad = lambda a, before: jnp.pad(
      a, [(0, 0)] * 3 + [(before * part, self.width - before * part - a.shape[-1])]
    )
    y = y + sum(pad(a, before).astype(y.dtype) for a, before in zip(quarters, (0, 1)))
    return y if place is None else y + pad(place, 3).astype(y.dtype)
