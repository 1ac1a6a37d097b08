"""Recurrent encoders: RNN (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997), GRU (Cho et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.nn import layers
from colearn_jax.types import InputError


class Direction(nnx.Module):
  """The weights of one layer in one direction of time, with the gates side by side on the last axis."""

  def __init__(self, features: int, width: int, gates: int, *, rngs: nnx.Rngs):
    init = layers.uniform_fan_in(width)
    weights = lambda *shape: nnx.Param(init(rngs.params(), shape))
    self.kernel_input, self.kernel_hidden = weights(features, gates * width), weights(width, gates * width)
    self.bias_input, self.bias_hidden = weights(gates * width), weights(gates * width)


class Recurrent(nnx.Module):
  """Layers of a recurrent unit, series `[B T C]` to `[B layer_size]`. Subclasses define the unit.

  Each layer is one scan over time. The product of all inputs with the layer's weights is computed before
  the scan. With two directions, the output of a layer is both side by side, and that of the top layer is
  their mean.

  `output` is `last_output`, the top layer's output at the last time step, or `last_state`, the state in
  which the scans end (that of the backward direction belongs to the first time step). With two directions
  `last_state` reproduces a peculiarity of the released program: of the 2L states in the order (layer,
  direction) it averages those of index L-1 and 2L-1, instead of the two of the top layer.
  """

  mask_nans = False
  context_joins = "features"
  gates = 1  # number of gates of the unit
  states = 1  # number of arrays that the unit carries to the next time step; the first is its output

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
    """Encodes `[B T C]`, with dropout between layers."""
    ends = []
    for number, layer in enumerate(self.layers):
      if number > 0:
        x = self.drop(x, train=train, rngs=rngs)
      outputs, last = self._run(layer, x, 1 if train else _sub_batches(x.shape[0]))
      x = jnp.concatenate(outputs, axis=-1)
      ends += last
    if self.output == "last_output":
      returned = [output[:, -1] for output in outputs]
    else:
      returned = ends[len(self.layers) - 1 :: len(self.layers)]
    return (sum(returned) / len(returned)).astype(self.dtype)

  def _run(self, layer: nnx.List, x: jax.Array, sub_batches: int) -> tuple[list[jax.Array], list[jax.Array]]:
    """Runs one layer; returns the outputs `[B T D]` and last states `[B D]` of each direction."""
    cast = lambda weight: weight[...].astype(self.dtype)
    flipped = lambda i, a: a if i == 0 else a[::-1]  # time is the first axis within a layer
    split = lambda a: jnp.moveaxis(a.reshape(len(a), -1, sub_batches, a.shape[-1]), 2, 0)
    join = lambda parts: jnp.stack(parts, -2).reshape(*parts[0].shape[:-2], -1, self.width)
    x = x.astype(self.dtype).transpose(1, 0, 2)
    projected = []
    for i, d in enumerate(layer):
      # Gates are split before the scan. If they were slices of one time step's array, XLA would not vectorise
      # the unit on a CPU, and it would take longer than the matrix products.
      gates = _cut(layers.product(x, cast(d.kernel_input)) + cast(d.bias_input)[None, None], self.gates)
      gates = self.add_bias(gates, [bias[None, None] for bias in _cut(cast(d.bias_hidden), self.gates)])
      projected.append(list(zip(*[split(flipped(i, gate)) for gate in gates])))
    zeros = layers.widened(jnp.zeros((x.shape[1] // sub_batches, self.width), self.dtype))
    begin = [[(zeros,) * self.states] * sub_batches] * len(layer)
    last, outputs = _over_time(self.unit, [cast(d.kernel_hidden) for d in layer], projected, begin)
    outputs = [flipped(i, join(parts)).transpose(1, 0, 2) for i, parts in enumerate(outputs)]
    return outputs, [join([states[0] for states in parts]) for parts in last]

  def add_bias(self, projected: list[jax.Array], bias: list[jax.Array]) -> list[jax.Array]:
    """Adds the biases of the recurrent products; the result is the input of `unit`.

    Args:
      projected: for each gate the product of the inputs with its weights, `[T B D]`.
      bias: for each gate the bias of its product with the old output, `[1 1 D]`.

    Returns:
      Arrays `[T B D]`. The first ones, one for each gate, are those that `unit` gets with the gate's
      recurrent product added. `unit` gets any further arrays as they are.
    """
    return [p + b for p, b in zip(projected, bias)]

  def unit(self, given: list[jax.Array], *states: jax.Array) -> tuple[jax.Array, ...]:
    """Computes the states after a time step.

    Args:
      given: the arrays of `add_bias` at this step, `[B D]`, with the recurrent products added.
      *states: the states before the step, `[B D]`.
    """
    raise NotImplementedError


def _cut(gates: jax.Array, number: int) -> list[jax.Array]:
  return jnp.split(gates, number, axis=-1)


def _sub_batches(rows: int) -> int:
  """Number of sub-batches that are evaluated side by side in one scan.

  XLA runs the small product of one time step on a single core of a CPU. It shares out independent operations
  among the cores if there are more than eight of them.
  """
  return 16 if rows % 64 == 0 and jax.default_backend() == "cpu" else 1


def _scan(
  unit: Callable, kernels: list[jax.Array], projected: list[list], begin: list[list[tuple]]
) -> tuple[list[list[tuple]], list[list[jax.Array]]]:
  """Scans over time, several directions and sub-batches side by side.

  Args:
    unit: see `Recurrent.unit`.
    kernels: for each direction the weights of the old output, `[D gates*D]`.
    projected: for each direction and sub-batch the arrays of `add_bias`, `[T B D]`.
    begin: for each direction and sub-batch the states before the first step, `[B D]`.

  Returns:
    For each direction and sub-batch the states after the last step `[B D]`, and the outputs of all steps
    `[T B D]`.
  """

  def one(kernel, given, states):
    products = _cut(states[0].astype(kernel.dtype) @ kernel, kernel.shape[1] // kernel.shape[0])
    sums = [layers.widened(g) + p for g, p in zip(given, products)]
    return unit([*sums, *map(layers.widened, given[len(sums) :])], *states)

  def step(states, given):
    states = [[one(k, *of) for of in zip(*parts)] for k, *parts in zip(kernels, given, states)]
    return states, [[s[0] for s in parts] for parts in states]

  return jax.lax.scan(step, begin, projected)


# The gradient is written by hand. It computes a kernel's gradient as one product after the scan. The gradient
# that JAX derives adds to it in every time step, which makes the backward pass half as long again.
_over_time = jax.custom_vjp(_scan, nondiff_argnums=(0,))


def _forward(unit, kernels, projected, begin):
  run = lambda projected, begin: _scan(unit, kernels, projected, begin)
  (last, outputs), back = jax.vjp(run, projected, begin)
  return (last, outputs), (back, kernels, begin, outputs)


def _backward(unit, residuals, cotangents):
  back, kernels, begin, outputs = residuals
  of_projected, of_begin = back(cotangents)

  def of_kernel(kernel, projected, begin, outputs):
    """A gate's recurrent product has the same gradient as the array that it is added to."""
    old = jnp.concatenate([begin[0][None], outputs[:-1]]).astype(kernel.dtype)
    gates = jnp.concatenate(projected[: kernel.shape[1] // kernel.shape[0]], axis=-1)
    return old.reshape(-1, old.shape[-1]).T @ gates.reshape(-1, gates.shape[-1])

  directions = zip(kernels, of_projected, begin, outputs)
  of_kernels = [sum(of_kernel(k, *of) for of in zip(*parts)) for k, *parts in directions]
  return of_kernels, of_projected, of_begin


_over_time.defvjp(_forward, _backward)


def _with_slopes(function: Callable) -> Callable:
  """Gives an elementwise function a gradient that multiplies by its partial derivatives.

  The forward pass computes and keeps them, one array for each argument. The gradient that JAX derives keeps
  more arrays, and computes more in each step of the backward scan: an LSTM trains a tenth slower with it.
  """
  with_slopes = jax.custom_vjp(function)

  def forward(*arguments):
    y, back = jax.vjp(function, *arguments)
    return y, back(jnp.ones_like(y))

  with_slopes.defvjp(forward, lambda slopes, d: tuple(slope * d for slope in slopes))
  return with_slopes


class RNN(Recurrent):
  """The plain recurrent unit, h' = tanh(W x + U h)."""

  def unit(self, given, h):
    """See `Recurrent.unit`."""
    return (_tanh(given[0]),)


_tanh = _with_slopes(jnp.tanh)


class GRU(Recurrent):
  """The gated recurrent unit, h' = (1 - z) n + z h with n = tanh(W x + b + r (U h + c)); gates r, z, n."""

  gates = 3

  def add_bias(self, projected, bias):
    """See `Recurrent`. The product of n is kept apart from its input, because r multiplies it alone."""
    (r, z, n), (r_bias, z_bias, n_bias) = projected, bias
    return [r + r_bias, z + z_bias, jnp.broadcast_to(n_bias, n.shape), n]

  def unit(self, given, h):
    """See `Recurrent.unit`."""
    return (_new_state(*given, h),)


@_with_slopes
def _new_state(r, z, hidden, n, h):
  z = nnx.sigmoid(z)
  return (1 - z) * jnp.tanh(n + nnx.sigmoid(r) * hidden) + z * h


class LSTM(Recurrent):
  """Long short-term memory, c' = f c + i g and h' = o tanh(c'); gates i, f, g, o."""

  gates = 4
  states = 2

  def unit(self, given, h, c):
    """See `Recurrent.unit`."""
    i, f, g, o = given
    c = _new_cell(i, f, g, c)
    return _output(o, c), c


@_with_slopes
def _new_cell(i, f, g, c):
  return nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)


@_with_slopes
def _output(o, c):
  return nnx.sigmoid(o) * jnp.tanh(c)
