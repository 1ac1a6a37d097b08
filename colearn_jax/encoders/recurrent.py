"""Recurrent encoders: RNN (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997), GRU (Cho et al. 2014)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError


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
      outputs, last = self._run(layer, x, 1 if train else _pieces(len(x)))
      x = jnp.concatenate(outputs, axis=-1)
      ends += last
    if self.output == "last_output":
      returned = [output[:, -1] for output in outputs]
    else:
      returned = ends[len(self.layers) - 1 :: len(self.layers)]
    return (sum(returned) / len(returned)).astype(self.dtype)

  def _run(self, layer: nnx.List, x: jax.Array, pieces: int) -> tuple[list[jax.Array], list[jax.Array]]:
    """One layer over time: each direction's outputs `[B T D]` and what it ends with `[B D]`."""
    cast = lambda weight: weight[...].astype(self.dtype)
    flipped = lambda i, a: a if i == 0 else a[::-1]  # time is the first axis within a layer
    split = lambda a: jnp.moveaxis(a.reshape(len(a), -1, pieces, a.shape[-1]), 2, 0)
    join = lambda parts: jnp.stack(parts, -2).reshape(*parts[0].shape[:-2], -1, self.width)
    x = x.astype(self.dtype).transpose(1, 0, 2)
    projected = []
    for i, d in enumerate(layer):
      # Gates are cut apart before the scan: slices of the slice of a time step keep XLA from vectorising the
      # unit on the CPU, which then takes longer than the matrix products.
      gates = _cut(layers.product(x, cast(d.kernel_input)) + cast(d.bias_input), self.gates)
      gates = self.add_bias(gates, _cut(cast(d.bias_hidden), self.gates))
      projected.append(list(zip(*[split(flipped(i, gate)) for gate in gates])))
    zeros = layers.widened(jnp.zeros((x.shape[1] // pieces, self.width), self.dtype))
    begin = [[(zeros,) * self.states] * pieces] * len(layer)
    last, outputs = _over_time(self.unit, [cast(d.kernel_hidden) for d in layer], projected, begin)
    outputs = [flipped(i, join(parts)).transpose(1, 0, 2) for i, parts in enumerate(outputs)]
    return outputs, [join([states[0] for states in parts]) for parts in last]

  def add_bias(self, projected: list[jax.Array], bias: list[jax.Array]) -> list[jax.Array]:
    """What `unit` is given: first, for each gate, the array that its product with the old output is added to.

    Args:
      projected: what each gate gets of the inputs, `[T B D]`.
      bias: of each gate's product with the old output, `[D]`.
    """
    return [p + b for p, b in zip(projected, bias)]

  def unit(self, given: list[jax.Array], *states: jax.Array) -> tuple[jax.Array, ...]:
    """The states after a time step, of the old ones and of what there is of `add_bias` with the products."""
    raise NotImplementedError


def _cut(gates: jax.Array, number: int) -> list[jax.Array]:
  return jnp.split(gates, number, axis=-1)


def _pieces(rows: int) -> int:
  """How many pieces of a batch go through an evaluation's scan beside each other, each of every so many rows.

  XLA runs the product of one time step on a single core of a CPU; what is ready at the same time it shares
  out among the cores once that are more than eight things.
  """
  return 16 if rows % 64 == 0 and jax.default_backend() == "cpu" else 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_time(
  unit: Callable, kernels: list[jax.Array], projected: list[list], begin: list[list[tuple]]
) -> tuple[list[list[tuple]], list[list[jax.Array]]]:
  """Scans over time, several directions and pieces of the batch side by side.

  It has a gradient of its own, in which that of a kernel is one product behind the scan: the one that JAX
  derives would add to it in every step, which makes the way back half as long again.

  Args:
    unit: see `Recurrent`.
    kernels: of the old output, of each direction, `[D gates·D]`.
    projected: of each direction and piece what `add_bias` gives, `[T B D]` each.
    begin: of each direction and piece the states before the first step, `[B D]`.

  Returns:
    Of each direction and piece, the states after the last step and the outputs of all steps, `[T B D]`.
  """

  def one(kernel, given, states):
    products = _cut(states[0].astype(kernel.dtype) @ kernel, kernel.shape[1] // kernel.shape[0])
    sums = [layers.widened(g) + p for g, p in zip(given, products)]
    return unit([*sums, *given[len(sums) :]], *states)

  def step(states, given):
    states = [[one(k, *of) for of in zip(*pieces)] for k, *pieces in zip(kernels, given, states)]
    return states, [[s[0] for s in pieces] for pieces in states]

  return jax.lax.scan(step, begin, projected)


def _forward(unit, kernels, projected, begin):
  run = lambda projected, begin: _over_time.fun(unit, kernels, projected, begin)
  (last, outputs), back = jax.vjp(run, projected, begin)
  return (last, outputs), (back, kernels, begin, outputs)


def _backward(unit, kept, cotangents):
  back, kernels, begin, outputs = kept
  of_projected, of_begin = back(cotangents)

  def of_kernel(kernel, projected, begin, outputs):
    """What a gate's product is added to has the product's gradient."""
    old = jnp.concatenate([begin[0][None], outputs[:-1]]).astype(kernel.dtype)
    gates = jnp.concatenate(projected[: kernel.shape[1] // kernel.shape[0]], axis=-1)
    return old.reshape(-1, old.shape[-1]).T @ gates.reshape(-1, gates.shape[-1])

  directions = zip(kernels, of_projected, begin, outputs)
  of_kernels = [sum(of_kernel(k, *of) for of in zip(*pieces)) for k, *pieces in directions]
  return of_kernels, of_projected, of_begin


_over_time.defvjp(_forward, _backward)


class RNN(Recurrent):
  """The plain recurrent unit, h' = tanh(W x + U h)."""

  def unit(self, given, h):
    """See `Recurrent`."""
    return (jnp.tanh(given[0]),)


class GRU(Recurrent):
  """The gated recurrent unit, h' = (1 - z) n + z h with n = tanh(W x + b + r (U h + c)); gates r, z, n."""

  gates = 3

  def add_bias(self, projected, bias):
    """See `Recurrent`; the last one's product is not added to what it gets of the input."""
    (r, z, n), (r_bias, z_bias, n_bias) = projected, bias
    return [r + r_bias, z + z_bias, jnp.broadcast_to(n_bias, n.shape), n]

  def unit(self, given, h):
    """See `Recurrent`."""
    r, z, hidden, n = given
    r, z = nnx.sigmoid(r), nnx.sigmoid(z)
    n = jnp.tanh(n + r * hidden)
    return ((1 - z) * n + z * h,)


class LSTM(Recurrent):
  """Long short-term memory, c' = f c + i g and h' = o tanh(c'); gates i, f, g, o."""

  gates = 4
  states = 2

  def unit(self, given, h, c):
    """See `Recurrent`."""
    i, f, g, o = given
    c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
    return nnx.sigmoid(o) * jnp.tanh(c), c
