"""Recurrent encoders: RNN (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997), GRU (Cho et al. 2014)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax import layers
from colearn_jax.spec import InputError


class Direction(nnx.Module):
  """The weights of one layer in one direction of time; its gates stand side by side on the last axis."""

  def __init__(self, features: int, width: int, gates: int, *, rngs: nnx.Rngs):
    init = layers.uniform_fan_in(width)
    weights = lambda *shape: nnx.Param(init(rngs.params(), shape))
    self.kernel_input, self.kernel_hidden = weights(features, gates * width), weights(width, gates * width)
    self.bias_input, self.bias_hidden = weights(gates * width), weights(gates * width)


class Recurrent(nnx.Module):
  """Layers of a recurrent unit, series `[B T C]` to `[B layer_size]`; a subclass says which unit.

  Each layer is one scan over time; what its gates get of the input is one matrix product before it. With two
  directions a layer's output is both side by side, the top layer's is their mean.

  `output` says what is returned: `last_output`, the top layer's at the last time step, or `last_state`, what
  its directions end with, the backward one at the first time step. As in the authors' program, the state is
  the mean over directions by their number among all layers' directions: with several layers that is the top
  layer's backward state and, beside it, the one that stands as many places before it as there are layers.
  """

  mask_nans = False
  gates = 1  # of the unit
  states = 1  # arrays that the unit carries from one time step to the next, its output first

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    layer_size: int = 128,
    n_layers: int = 2,
    dropout: float = 0.2,
    bidirectional: bool = False,
    output: str = "last_output",
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    name = type(self).__name__.lower()
    if len(shape) != 2:
      raise InputError(f"encoder {name} reads series of shape (T, C), got {shape}")
    if output not in ("last_output", "last_state"):
      raise InputError(f"output={output!r} of encoder {name}: have last_output, last_state")
    directions = 1 + bidirectional
    widths = [shape[1], *[directions * layer_size] * (n_layers - 1)]
    one = lambda features: Direction(features, layer_size, self.gates, rngs=rngs)
    self.layers = nnx.List([nnx.List([one(features) for _ in range(directions)]) for features in widths])
    self.drop = layers.Dropout(dropout)
    self.width, self.output, self.dtype = layer_size, output, dtype

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    present: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Encodes `[B T C]`; dropout is between layers."""
    ends = []
    for number, layer in enumerate(self.layers):
      if number > 0:
        x = self.drop(x, train=train, rngs=rngs)
      outputs, last = self._run(layer, x)
      x = jnp.concatenate(outputs, axis=-1)
      ends += last
    if self.output == "last_output":
      returned = [output[:, -1] for output in outputs]
    else:
      returned = ends[len(self.layers) - 1 :: len(self.layers)]
    return (sum(returned) / len(returned)).astype(self.dtype)

  def _run(self, layer: nnx.List, x: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """One layer over time: each direction's outputs `[B T D]` and what it ends with `[B D]`."""
    cast = lambda weight: weight[...].astype(self.dtype)
    flipped = lambda i, a: a if i == 0 else a[::-1]  # time is the first axis within a layer
    # Gates are cut apart before the scan: slices of the slice of a time step keep XLA from vectorising the
    # unit on the CPU, which then takes longer than the matrix products.
    cut = lambda gates: jnp.split(gates, self.gates, axis=-1)
    x = x.astype(self.dtype).transpose(1, 0, 2)
    project = lambda d: layers.product(x, cast(d.kernel_input)) + cast(d.bias_input)
    projected = [cut(flipped(i, project(d))) for i, d in enumerate(layer)]
    kernels, biases = [cast(d.kernel_hidden) for d in layer], [d.bias_hidden[...] for d in layer]

    def step(carries, projected):  # both directions run in the same scan
      hidden = [cut(c[0].astype(self.dtype) @ k + b) for c, k, b in zip(carries, kernels, biases)]
      carries = [self.unit(p, h, *c) for p, h, c in zip(projected, hidden, carries)]
      return carries, [c[0] for c in carries]

    zeros = layers.widened(jnp.zeros((x.shape[1], self.width), self.dtype))
    last, outputs = jax.lax.scan(step, [(zeros,) * self.states for _ in layer], projected)
    return [flipped(i, o).transpose(1, 0, 2) for i, o in enumerate(outputs)], [c[0] for c in last]

  def unit(
    self, projected: list[jax.Array], hidden: list[jax.Array], *states: jax.Array
  ) -> tuple[jax.Array, ...]:
    """The states after a time step: from what each gate gets of input and old output, and the old states."""
    raise NotImplementedError


class RNN(Recurrent):
  """The plain recurrent unit, h' = tanh(W x + U h)."""

  def unit(self, projected, hidden, h):
    """See `Recurrent`."""
    return (jnp.tanh(projected[0] + hidden[0]),)


class GRU(Recurrent):
  """The gated recurrent unit, h' = (1 - z) n + z h with n = tanh(W x + b + r (U h + c)); gates r, z, n."""

  gates = 3

  def unit(self, projected, hidden, h):
    """See `Recurrent`."""
    (pr, pz, pn), (hr, hz, hn) = projected, hidden
    r, z = nnx.sigmoid(pr + hr), nnx.sigmoid(pz + hz)
    n = jnp.tanh(pn + r * hn)
    return ((1 - z) * n + z * h,)


class LSTM(Recurrent):
  """Long short-term memory, c' = f c + i g and h' = o tanh(c'); gates i, f, g, o."""

  gates = 4
  states = 2

  def unit(self, projected, hidden, h, c):
    """See `Recurrent`."""
    i, f, g, o = (p + h for p, h in zip(projected, hidden))
    c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
    return nnx.sigmoid(o) * jnp.tanh(c), c
