"""An encoder for small tables and short series: a kernel at landmarks, then dense layers.

Sources: Williams & Seeger 2001, NeurIPS (Nyström features); Rasmussen & Williams 2006, equation 4.17 (Matérn
kernels); Radhakrishnan, Beaglehole, Pandit & Belkin 2024, Science 383 (a metric from gradients).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.linalg import solve_triangular

from colearn_jax.nn import layers
from colearn_jax.types import InputError

SQUARES = 128.0  # S, the sum of the squares of the features
NUGGET = 1e-3  # is added to the kernel of a landmark with itself, so that equal landmarks do no harm
EXACT = jax.lax.Precision.HIGHEST  # accelerators round the inputs of products by default
# By smoothness ν, Matérn kernels k(r) of the distance r.
MATERN = {
  0.5: lambda r: jnp.exp(-r),
  1.5: lambda r: (1.0 + math.sqrt(3.0) * r) * jnp.exp(-math.sqrt(3.0) * r),
  2.5: lambda r: (1.0 + math.sqrt(5.0) * r + 5.0 / 3.0 * jnp.square(r)) * jnp.exp(-math.sqrt(5.0) * r),
}


class Nystroem(nnx.Module):
  """Features of a Matérn kernel: its values at M landmarks, training samples: `[B F]` to `[B M]`.

  They are √S L⁻¹ k(Z, x), with the landmarks Z and L Lᵀ = k(Z, Z). The product of the features of two samples
  is S times their kernel, exactly if one of them is a landmark, and else its projection to the landmarks
  (Williams & Seeger 2001). S is 128, as of 128 inputs with variance 1, so that the learning rate does not
  depend on M. They are constants of a run. Before `fit` the landmarks are draws of a normal distribution.
  Distances are Euclidean after a product with the metric A, `[F F]`.

  Args:
    groups: of values that belong together, the number of values and their length scale ℓ. At first A is
      diagonal and divides each value by its ℓ.
    landmarks: M.
    smoothness: ν.
    some: first and end of the values that also have a kernel of their own.
    share: its share s. The kernel is (1 - s) k(r) + s k(r'), r being the distance of all values, r' of these.
    rngs: the stream `params`.
  """

  def __init__(
    self,
    groups: Sequence[tuple[int, float]],
    landmarks: int,
    *,
    smoothness: float,
    some: tuple[int, int] = (0, 0),
    share: float = 0.0,
    rngs: nnx.Rngs,
  ):
    self.groups, self.smoothness = tuple(groups), smoothness
    self.some, self.share = tuple(some), share
    scale = jnp.concatenate([jnp.full(size, 1.0 / lengthscale) for size, lengthscale in groups])
    # Kept as batch statistics are: without gradient and without a state of the optimizer.
    normal = layers.he_normal(2)  # with variance 1
    self.points = nnx.BatchStat(normal(rngs.params(), (landmarks, len(scale))))
    self.metric = nnx.BatchStat(jnp.diag(scale))
    self.whitening = nnx.BatchStat(jnp.zeros((landmarks, landmarks)))  # √S L⁻ᵀ
    self.fit(self.points[...])

  def fit(self, x: jax.Array) -> None:
    """Sets the landmarks, `[M F]`."""
    points = layers.widened(x)
    own = self._kernel(points, points, apart=1.0 - jnp.eye(len(points)))
    lower = jnp.linalg.cholesky(own + NUGGET * jnp.eye(len(points)))
    inverse = solve_triangular(lower, jnp.eye(len(points)), lower=True)
    self.points[...], self.whitening[...] = points, math.sqrt(SQUARES) * inverse.T

  def learn(self, gradients: jax.Array) -> None:
    """Sets the metric from a function's gradients, and the features at the same landmarks with it.

    Within each group AᵀA becomes proportional to (E[∇f ∇fᵀ])^½, with the trace that it had. So directions in
    which f changes more count more in distances, and the groups keep their weight. A group in which f does
    not change keeps its metric.

    Args:
      gradients: `[F F]`, a mean of ∇f ∇fᵀ by the values before the metric. Its scale does not matter.
    """
    first = 0
    for size, lengthscale in self.groups:
      at = slice(first, first + size)
      values, vectors = jnp.linalg.eigh(gradients[at, at])
      values = jnp.sqrt(jnp.maximum(values, 0.0))  # of (E[∇f ∇fᵀ])^½
      total = values.sum()
      values = values * size / (jnp.where(total > 0, total, 1.0) * lengthscale**2)
      learnt = jnp.matmul(vectors * jnp.sqrt(values)[None], vectors.T, precision=EXACT)
      self.metric[...] = self.metric[...].at[at, at].set(jnp.where(total > 0, learnt, self.metric[at, at]))
      first += size
    self.fit(self.points[...])

  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes the features of `[B F]`, at least float32."""
    return jnp.matmul(self._kernel(layers.widened(x), self.points[...]), self.whitening[...], precision=EXACT)

  def _kernel(self, a: jax.Array, b: jax.Array, apart: jax.Array | float = 1.0) -> jax.Array:
    a, b = (jnp.matmul(x, self.metric[...].astype(x.dtype), precision=EXACT) for x in (a, b))
    own = MATERN[self.smoothness](_distances(a, b, apart))
    if not self.share:
      return own
    some = slice(*self.some)
    of_some = _distances(a[:, some], b[:, some], apart)
    return (1.0 - self.share) * own + self.share * MATERN[self.smoothness](of_some)


def _distances(a: jax.Array, b: jax.Array, apart: jax.Array | float) -> jax.Array:
  """The Euclidean distances of rows `[M F]` and `[N F]`, 0 where `apart` is 0: `[M N]`."""
  lengths = jnp.square(a).sum(1)[:, None] + jnp.square(b).sum(1)[None]
  squares = jnp.maximum(lengths - 2.0 * jnp.matmul(a, b.T, precision=EXACT), 0.0) * apart
  # The derivative of a root at 0 is infinite: there the distance is a constant.
  return jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) * (squares > 0)


class Kernel(nnx.Module):
  """Features of a kernel of all values of a sample, then dense layers: `[B ...]` to `[B layer_sizes[-1]]`.

  One dense layer on many fixed features is close to a kernel machine. It is trained like any other network,
  yet overfits less on a few thousand samples than layers that are trained down to the values. Without dense
  layers and without a projection, a linear head with `train.ridge` is kernel ridge regression.

  Two samples have the squared distance Σ (Δx / lengthscale)² / F over the F values of the sensor, plus
  Σ (Δc / context_lengthscale)² / K over the K values of each part of the context: date, location, time, and
  all static values. The kernel begins to fall at distance 1. A missing value counts as 0, the mean.

  With `context_share` s the kernel is (1 - s) times that of all values, plus s times that of date, location
  and time alone. So what happened at a place and a time is known from measurements nearby, whatever the
  sensor saw, as in kriging.

  With `metric_rounds` the distance is learnt from the heads in closed form: each round solves them, and then
  weights the directions in the sensor's values, and those in each part of the context, by how much the
  outputs change along them (`Nystroem.learn`). So values that say nothing about the target do not blur the
  kernel.

  Args:
    shape: shape of one sample; with a context the number of all values.
    context_parts: the numbers of the last values that are the date, the location, the time, and static.
    landmarks: M, number of samples of the training part at which the kernel is evaluated.
    lengthscale: of the sensor's values, in their deviations after normalisation.
    context_lengthscale: of the context's values.
    context_share: s.
    smoothness: ν of the Matérn kernel, one of `MATERN`. 0.5 is the roughest.
    metric_rounds: how often the distance is learnt; needs `train.ridge`. 0 keeps the length scales.
    layer_sizes: widths of the dense layers, which have ReLU; () for none, which gives `[B M]`.
    dropout: of the features and after each layer.
    dtype: of the dense layers.
    rngs: the stream `params`.
  """

  mask_nans = False
  context_joins = "inputs"

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    context_parts: Sequence[int] = (),
    landmarks: int = 1024,
    lengthscale: float = 2.0,
    context_lengthscale: float = 1.0,
    context_share: float = 0.0,
    smoothness: float = 1.5,
    metric_rounds: int = 0,
    layer_sizes: Sequence[int] = (64,),
    dropout: float = 0.3,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if smoothness not in MATERN:
      raise InputError(f"smoothness={smoothness!r} of encoder kernel: have {', '.join(map(str, MATERN))}")
    values = math.prod(shape) - sum(context_parts)
    scales = [(values, lengthscale), *((size, context_lengthscale) for size in context_parts)]
    groups = [(size, scale * math.sqrt(size)) for size, scale in scales if size]
    when_and_where = values, values + sum(context_parts[:3])
    if context_share and not sum(context_parts[:3]):
      raise InputError("context_share of encoder kernel needs a date, a location or a time in data.context")
    self.samples, self.rounds = landmarks, metric_rounds
    self.landmarks = Nystroem(
      groups, landmarks, smoothness=smoothness, some=when_and_where, share=context_share, rngs=rngs
    )
    widths = [landmarks, *layer_sizes]
    self.linears = nnx.List(
      [layers.linear(i, o, rngs=rngs, dtype=dtype) for i, o in zip(widths, layer_sizes)]
    )
    self.drop, self.width = layers.Dropout(dropout), widths[-1]

  def fit(self, x: jax.Array) -> None:
    """Takes the landmarks, `[M ...]`."""
    self.landmarks.fit(x.reshape(x.shape[0], -1))

  def learn(self, gradients: jax.Array) -> None:
    """Learns the distance, see `Nystroem.learn`."""
    self.landmarks.learn(gradients)

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B ...]`."""
    del present  # no statistics of the batch
    x = self.drop(self.landmarks(x.reshape(x.shape[0], -1)), train=train, rngs=rngs)
    for linear in self.linears:
      x = self.drop(nnx.relu(linear(x)), train=train, rngs=rngs)
    return x
