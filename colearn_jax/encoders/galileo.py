"""Galileo: a transformer over the tokens of a pixel or an image (Tseng et al. 2025, arXiv 2502.09356)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.encoders import groups as band_groups
from colearn_jax.encoders.bands import DYNAMIC_WORLD, WORLD_CEREAL, Band
from colearn_jax.nn import layers
from colearn_jax.nn.attention import Block
from colearn_jax.types import InputError

PLACE = "location"  # a static group that is read from the context and not from the bands
# Groups of bands by kind: which axes the values have. A group is read if the modality has all its bands.
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
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
    "DW": DYNAMIC_WORLD,
    "WC": WORLD_CEREAL,
  },
  "time": {
    "ERA5": ("temperature_2m", "total_precipitation"),
    "TC": ("def", "soil", "aet"),
    "VIIRS": ("avg_rad",),
  },
  "static": {
    "LS": ("population",),
    PLACE: ("x", "y", "z"),
    "DW_static": tuple(f"{name}_static" for name in DYNAMIC_WORLD),
    "WC_static": tuple(f"{name}_static" for name in WORLD_CEREAL),
  },
}
KIND = {group: kind for kind, groups in KINDS.items() for group in groups}
GROUPS = {group: bands for groups in KINDS.values() for group, bands in groups.items()}
# Of an input [B T H W C], the axes over which the values of a kind are averaged.
AVERAGED = {"space_time": (), "space": (1,), "time": (2, 3), "static": (1, 2, 3)}
PATCH = 8  # edge of the kernels, in pixels, and of the largest patches


class Galileo(nnx.Module):
  """Tokens of band groups, patches and steps: `[B T C]`, `[B H W C]`, `[B T H W C]` or `[B C]` to `[B D]`.

  Only the groups whose bands the modality has make tokens. A group makes one for each patch and step, for
  each patch, for each step or a single one, by its kind, see `KINDS`. Values of a group are averaged over
  the axes that it does not have. The encodings of the group, of the position in the series, of the month and
  of the patch's position are added, as far as the group has them; an unknown month is encoded as zeros.

  A token is left out of a sample where one of its bands is missing. The first pixel decides for its patch,
  and other missing pixels of a patch get its mean. The output is the mean over the tokens that are there,
  after a LayerNorm. Its width D is `layer_size`.

  `patch_size` is the edge of the patches of images in pixels, and `resolution` that of a pixel in metres.
  """

  mask_nans = True
  context_joins = "features"
  # Values are 0 to 1 within two standard deviations of the mean of the published training data.
  BANDS = {
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
    "NDVI": (0.0, 1.0),
    "elevation": (-1293.1241777089112, 3932.278919318495),
    "slope": (-10.40472091071138, 32.66962715925299),
    "temperature_2m": (111.9509175478781, 319.23315761257714),
    "total_precipitation": (-0.14784790519146407, 0.46678188392605946),
    "def": (-750.6836131024303, 2816.0034782230828),
    "soil": (-1157.8940457005976, 3700.0464505625723),
    "aet": (-343.7054725750826, 1812.9736089114313),
    "avg_rad": (-13.46132874826197, 30.052080683331273),
    "population": (-2120.980666851603, 4618.367651320241),
    **dict.fromkeys((band for group in ("DW", "WC") for band in GROUPS[group]), (0.0, 1.0)),
    **dict.fromkeys((band for group in ("DW_static", "WC_static") for band in GROUPS[group]), (0.0, 1.0)),
  }

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    bands: Mapping[str, Band],
    place: bool = False,
    layer_size: int = 128,
    n_layers: int = 4,
    num_heads: int = 8,
    feedforward_size: int = 512,
    patch_size: int = 4,
    resolution: float = 10.0,
    max_steps: int = 24,
    drop_path: float = 0.1,
    use_months: bool = True,
    leave_out: tuple[str, ...] = (),
    weights: str = "",
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    # `bands` lacks the bands that are left out, `weights` reads the file, and months may come in any call.
    del leave_out, weights, use_months
    steps = shape[0] if len(shape) in (2, 4) else 0
    width = {"layer_size": layer_size, "parts": 16, "num_heads": num_heads}
    band_groups.check_sizes("galileo", steps, max_steps, **width)
    self.patch_size = _patch_size(patch_size, shape[-3:-1]) if len(shape) > 2 else 1
    found = band_groups.complete("galileo", {g: own for g, own in GROUPS.items() if g != PLACE}, bands)
    self.groups = tuple(g for g in GROUPS if g in found or (place and g == PLACE))
    self.embed = nnx.Dict({group: Embed(group, layer_size, rngs=rngs, dtype=dtype) for group in self.groups})
    normal = nnx.initializers.normal(0.02)
    self.vectors = nnx.Param(normal(rngs.params(), (len(self.groups), layer_size // 4)))  # of the groups
    block = lambda: Block(layer_size, num_heads, feedforward_size, drop_path, rngs=rngs, dtype=dtype)
    self.blocks = nnx.List([block() for _ in range(n_layers)])
    self.norm = layers.layer_norm(layer_size, rngs=rngs, dtype=dtype)
    self.bands, self.width, self.resolution, self.dtype = dict(bands), layer_size, resolution, dtype

  def __call__(
    self,
    x: jax.Array,
    *,
    months: jax.Array | None = None,
    place: jax.Array | None = None,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
    per_patch: bool = False,
  ) -> jax.Array:
    """Encodes values normalised by `BANDS`, NaN where missing.

    Args:
      x: `[B T C]`, `[B H W C]`, `[B T H W C]` or `[B C]`.
      months: `[B T]` int32, 0 is January, -1 unknown; None: all unknown.
      place: unit vector `[B 3]`, NaN if unknown; given if the backbone was built with `place`.
      train: whether to drop paths.
      present: not used, as samples do not influence each other.
      rngs: the stream `dropout`, in training.
      per_patch: whether to return a mean for each patch `[B H/p·W/p D]`. Tokens without space count in each.
    """
    steps = x.shape[1] if x.ndim in (3, 5) else 1
    space = x.shape[-3:-1] if x.ndim > 3 else (1, 1)
    x = x.reshape(x.shape[0], steps, *space, x.shape[-1])
    months = jnp.full(x.shape[:2], -1) if months is None else months
    tokens, there = zip(*(self._tokens(number, x, months, place) for number in range(len(self.groups))))
    flat = lambda a: a.reshape(a.shape[0], -1, *a.shape[3:])
    y, mask = (jnp.concatenate([flat(a) for a in parts], axis=1) for parts in (tokens, there))
    for block in self.blocks:
      y = block(y, mask, train=train, rngs=rngs)
    y = layers.widened(self.norm(y)) * mask[..., None]
    if not per_patch:
      return (y.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)).astype(self.dtype)
    total, count, begin = 0.0, 0, 0
    for part in there:  # sums over the steps, for each patch
      of = lambda a: a[:, begin : begin + part[0].size].reshape(*part.shape, *a.shape[2:]).sum(1)  # noqa: B023
      total, count, begin = total + of(y), count + of(mask), begin + part[0].size
    return (total / jnp.maximum(count, 1)[..., None]).astype(self.dtype)

  def _tokens(
    self, number: int, x: jax.Array, months: jax.Array, place: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """The tokens of a group, and which are there: `[B T P D]`, with T or P = 1 where it has no such axis."""
    group, quarter = self.groups[number], self.width // 4
    if group == PLACE:
      values = place[:, None, None, None]
    else:
      values = x[..., np.array([self.bands[name].position for name in GROUPS[group]])]
    known, kind = ~jnp.isnan(values).any(-1), KIND[group]
    values, known = _mean(values, known, AVERAGED[kind])
    size = self.patch_size if "space" in kind else 1
    values, known = _patches(values, known, size)
    y = self.embed[group](values, size)
    code = [jnp.broadcast_to(self.vectors[number].astype(self.dtype), (*y.shape[:3], quarter))]
    if "time" in kind:
      position = wave_table(np.arange(months.shape[1]), quarter)
      month = jnp.asarray(band_groups.month_table(quarter))[months]  # -1 is the last row, zeros
      moment = jnp.concatenate([jnp.broadcast_to(position, month.shape), month], axis=-1)
      code.append(jnp.broadcast_to(moment[:, :, None].astype(self.dtype), (*y.shape[:3], 2 * quarter)))
    else:
      code.append(jnp.zeros((*y.shape[:3], 2 * quarter), self.dtype))
    ground = np.zeros((1, quarter), np.float32)
    if "space" in kind:
      rows, columns = x.shape[2] // size, x.shape[3] // size
      ground = ground_table(rows, columns, self.resolution * size / 10, quarter)
    code.append(jnp.broadcast_to(jnp.asarray(ground, self.dtype), (*y.shape[:3], quarter)))
    return y + jnp.concatenate(code, axis=-1), known


class Embed(nnx.Module):
  """Embeds the values of a group: `kernel` is `[8 8 C D]` for kinds with space, else `[C D]`."""

  def __init__(self, group: str, width: int, *, rngs: nnx.Rngs, dtype):
    edges = (PATCH, PATCH) if "space" in KIND[group] else ()
    shape = (*edges, len(GROUPS[group]), width)
    init = layers.uniform_fan_in(int(np.prod(shape[:-1])))
    self.kernel, self.bias = nnx.Param(init(rngs.params(), shape)), nnx.Param(jnp.zeros(width))
    self.dtype = dtype

  def __call__(self, x: jax.Array, size: int) -> jax.Array:
    """Embeds patches of an edge of `size` pixels, `[B T P size·size·C]` to `[B T P D]`."""
    kernel = self.kernel[...]
    if kernel.ndim > 2:
      resize = jnp.asarray(kernel_resize(size), kernel.dtype)
      kernel = jnp.einsum("hwcd,hi,wj->ijcd", kernel, resize, resize) if size != PATCH else kernel
      kernel = kernel.reshape(-1, kernel.shape[-1])
    bias = layers.along_last_axis(self.bias[...].astype(self.dtype), x)
    return layers.product(x.astype(self.dtype), kernel.astype(self.dtype)) + bias


def _mean(values: jax.Array, known: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
  """The mean over axes of what is known, 0 where nothing is; the axes stay, with length 1."""
  values = jnp.where(known[..., None], values, 0.0)
  if not axes or all(values.shape[axis] == 1 for axis in axes):
    return values, known
  count = known.sum(axes, keepdims=True)
  mean = values.sum(axes, keepdims=True) / jnp.maximum(count, 1)[..., None]
  return mean.astype(values.dtype), count > 0


def _patches(values: jax.Array, known: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
  """Cuts `[B T H W C]` into patches `[B T P size·size·C]`, and tells which are known `[B T P]`."""
  batch, steps, rows, columns = known.shape
  cut = lambda a: a.reshape(batch, steps, rows // size, size, columns // size, size, *a.shape[4:])
  values, known = cut(values), cut(known)
  if size > 1:  # pixels that are missing are those of their patch
    mean, _ = _mean(values, known, (3, 5))
    values = jnp.where(known[..., None], values, mean)
  values = values.swapaxes(3, 4).reshape(batch, steps, -1, size * size * values.shape[-1])
  return values, known[:, :, :, 0, :, 0].reshape(batch, steps, -1)


def _patch_size(size: int, image: tuple[int, ...]) -> int:
  """The edge of the patches, if it divides the image; InputError otherwise."""
  allowed = [edge for edge in range(1, PATCH + 1) if not any(length % edge for length in image)]
  if size not in allowed:
    rows, columns = image
    raise InputError(
      f"encoder galileo: patch_size={size} is not allowed for images of {rows} x {columns} pixels; "
      f"one of: {', '.join(map(str, allowed))}"
    )
  return size


@functools.cache
def kernel_resize(size: int) -> np.ndarray:
  """The matrix `[8 size]` that resizes the kernel of a patch along one axis (Beyer et al. 2023, CVPR).

  It is the pseudo-inverse of the matrix that resizes an image of 8 pixels to `size`. That one interpolates
  with cubics (Keys 1981, a = -1/2), which are stretched by 8 / size against aliasing.
  """
  scale = PATCH / size
  centre = (np.arange(size) + 0.5) * scale - 0.5
  x = np.abs(np.arange(PATCH)[None] - centre[:, None]) / scale
  near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
  return np.linalg.pinv(weights / weights.sum(1, keepdims=True))


def wave_table(positions: np.ndarray, width: int) -> np.ndarray:
  """Sines, then cosines of positions `[P]`, p / 10000^(i / (2 width)) for i < width / 2: `[P width]`."""
  angle = np.multiply.outer(positions, 10000.0 ** (-np.arange(width // 2) / (2 * width)))
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)


def ground_table(rows: int, columns: int, step: float, width: int) -> np.ndarray:
  """Encoded positions of patches `[rows·columns width]`, `step` apart: of the column, then of the row."""
  of = lambda count: wave_table(step * np.arange(count), width // 2)
  shape = rows, columns, width // 2
  across, down = np.broadcast_to(of(columns)[None], shape), np.broadcast_to(of(rows)[:, None], shape)
  return np.concatenate([across, down], axis=-1).reshape(rows * columns, width)
