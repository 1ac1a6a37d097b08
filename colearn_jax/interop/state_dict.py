"""Maps the variables of our modules to tensor names and layouts of the released PyTorch program.

There is one function for each class of ours. It lists the variables of a module with their names and layouts
in that program. `fill` (import) and `state_dict` (export) use the same functions, so a round trip is exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import convtran, ltae, mlp, recurrent, tempcnn, transformer
from colearn_jax.encoders.encoder import Projection
from colearn_jax.methods import disentangled
from colearn_jax.methods.architecture import Head
from colearn_jax.nn import convolution, layers, random
from colearn_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Layout:
  """Converts a tensor between PyTorch's layout and ours."""

  ours: Callable[[np.ndarray], np.ndarray]  # from PyTorch's layout to ours
  theirs: Callable[[np.ndarray], np.ndarray]  # from our layout to PyTorch's


SAME = Layout(lambda a: a, lambda a: a)
REVERSED = Layout(np.transpose, np.transpose)  # (out, in, k) and (k, in, out), or (out, in) and (in, out)


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor of a state dict: a variable of our module, or a constant table computed from the settings."""

  name: str
  value: nnx.Variable | np.ndarray
  layout: Layout = SAME

  def read(self) -> np.ndarray:
    """Returns the tensor in the layout of the released program."""
    if isinstance(self.value, np.ndarray):
      return self.value
    array = np.asarray(self.value[...])
    return np.array(self.layout.theirs(array), order="C")

  def write(self, tensor: np.ndarray) -> None:
    """Writes the tensor into the variable; checks a constant table against the computed values.

    Raises:
      InputError: the shape is wrong, or the table has other values.
    """
    tensor = np.asarray(tensor)
    shape = self.layout.theirs(np.empty(self.value.shape)).shape
    if tensor.shape != shape:
      raise InputError(f"tensor {self.name} has shape {tensor.shape}, the settings make it {shape}")
    if isinstance(self.value, nnx.Variable):
      self.value.set_value(jnp.asarray(self.layout.ours(tensor), self.value.dtype))
    elif not np.allclose(tensor, self.value, rtol=0, atol=1e-6):
      raise InputError(f"table {self.name} has other values than its settings give")


def _under(prefix: str, entries: Iterator[Entry]) -> Iterator[Entry]:
  return (dataclasses.replace(entry, name=f"{prefix}.{entry.name}") for entry in entries)


def _linear(name: str, linear: nnx.Linear, layout: Layout = REVERSED) -> Iterator[Entry]:
  yield Entry(f"{name}.weight", linear.kernel, layout)
  if linear.bias is not None:
    yield Entry(f"{name}.bias", linear.bias)


def _conv(name: str, conv: convolution.TemporalConv, layout: Layout = REVERSED) -> Iterator[Entry]:
  yield Entry(f"{name}.weight", conv.kernel, layout)
  yield Entry(f"{name}.bias", conv.bias)


def _norm(name: str, norm: layers.BatchNorm | nnx.LayerNorm, layout: Layout = SAME) -> Iterator[Entry]:
  yield Entry(f"{name}.weight", norm.scale, layout)
  yield Entry(f"{name}.bias", norm.bias, layout)
  if isinstance(norm, layers.BatchNorm):
    yield Entry(f"{name}.running_mean", norm.mean)
    yield Entry(f"{name}.running_var", norm.var)
    count = Layout(lambda a: a, lambda a: a.astype(np.int64))
    yield Entry(f"{name}.num_batches_tracked", norm.batches, count)


def _channels_first(steps: int) -> Layout:
  """Reorders the flattened first axis: (channels, steps) in PyTorch, (steps, channels) here."""
  swap = lambda a, first: np.moveaxis(a.reshape(first, -1, *a.shape[1:]), 0, 1).reshape(a.shape)
  return Layout(lambda a: swap(a, a.shape[0] // steps), lambda a: swap(a, steps))


def _then(first: Layout, second: Layout) -> Layout:
  return Layout(lambda a: second.ours(first.ours(a)), lambda a: first.theirs(second.theirs(a)))


def _tempcnn(m: tempcnn.TempCNN) -> Iterator[Entry]:
  for i, (conv, norm) in enumerate(zip(m.convs, m.norms)):
    yield from _conv(f"conv_layers.{i}.block.0", conv)
    yield from _norm(f"conv_layers.{i}.block.1", norm)
  steps = m.dense.kernel.shape[0] // m.convs[-1].bias.shape[0]
  yield from _linear("dense.block.0", m.dense, _then(REVERSED, _channels_first(steps)))
  yield from _norm("dense.block.1", m.dense_norm)


def _mlp(m: mlp.MLP) -> Iterator[Entry]:
  for i, linear in enumerate(m.linears):
    yield from _linear(f"layers.{i}.0", linear)
    if m.norms:
      yield from _norm(f"layers.{i}.2", m.norms[i])


def _recurrent(m: recurrent.Recurrent) -> Iterator[Entry]:
  for i, layer in enumerate(m.layers):
    for direction, suffix in zip(layer, ("", "_reverse")):
      yield Entry(f"rnn.weight_ih_l{i}{suffix}", direction.kernel_input, REVERSED)
      yield Entry(f"rnn.weight_hh_l{i}{suffix}", direction.kernel_hidden, REVERSED)
      yield Entry(f"rnn.bias_ih_l{i}{suffix}", direction.bias_input)
      yield Entry(f"rnn.bias_hh_l{i}{suffix}", direction.bias_hidden)


def _embedding(m: ltae.LTAE | ltae.TAE) -> Iterator[Entry]:
  width = m.embed.kernel.shape[1]
  together = Layout(lambda a: a.T.reshape(-1), lambda a: a.reshape(-1, width).T)
  pointwise = Layout(lambda a: a[..., 0].T, lambda a: a.T[..., None])
  yield from _norm("inlayernorm", m.bands_norm)
  yield from _linear("inconv.0", m.embed, pointwise)
  yield from _norm("inconv.1", m.embed_norm, together)


def _attention_tail(m: ltae.LTAE | ltae.TAE) -> Iterator[Entry]:
  for i, (linear, norm) in enumerate(zip(m.dense.linears, m.dense.norms)):
    yield from _linear(f"mlp.{3 * i}", linear)
    yield from _norm(f"mlp.{3 * i + 1}", norm)
  yield from _norm("outlayernorm", m.dense.out_norm)


def _steps(m: ltae.LTAE | ltae.TAE) -> int:
  return m.embed_norm.scale.shape[0] // m.embed.kernel.shape[1]


def _with_zero(table: Callable, steps: int, width: int, max_period: float) -> np.ndarray:
  """Prepends position 0, which the tables of the released program have although no time step uses it."""
  zero = np.tile([0.0, 1.0], width)[None, :width].astype(np.float32)
  return np.concatenate([zero, table(steps, width, max_period)])


def _ltae(m: ltae.LTAE) -> Iterator[Entry]:
  yield from _embedding(m)
  width = m.embed.kernel.shape[1] // m.num_heads
  table = _with_zero(ltae.positions, _steps(m), width, m.max_period)
  yield Entry("position_enc.weight", np.tile(table, m.num_heads))
  yield Entry("attention_heads.Q", m.query)
  yield from _linear("attention_heads.fc1_k", m.key)
  yield from _attention_tail(m)


def _tae(m: ltae.TAE) -> Iterator[Entry]:
  yield from _embedding(m)
  bands = m.embed.kernel.shape[0]
  yield Entry("position_enc.weight", _with_zero(ltae.positions, _steps(m), bands, m.max_period))
  yield from _linear("attention_heads.fc1_q", m.query)
  yield from _linear("attention_heads.fc1_k", m.key)
  yield from _norm("attention_heads.fc2.0", m.query_norm)
  yield from _linear("attention_heads.fc2.1", m.query_out)
  yield from _attention_tail(m)


def _transformer(m: transformer.Transformer) -> Iterator[Entry]:
  yield Entry("cls_token", m.token, Layout(lambda a: a[0, 0], lambda a: a[None, None]))
  if m.embed is not None:
    yield from _linear("embedding_layer.model", m.embed)
  for i, layer in enumerate(m.layers):
    name = f"tr_encoder.layers.{i}"
    yield Entry(f"{name}.self_attn.in_proj_weight", layer.project.kernel, REVERSED)
    yield Entry(f"{name}.self_attn.in_proj_bias", layer.project.bias)
    yield from _linear(f"{name}.self_attn.out_proj", layer.merge)
    yield from _linear(f"{name}.linear1", layer.dense)
    yield from _linear(f"{name}.linear2", layer.dense_out)
    yield from _norm(f"{name}.norm1", layer.norm)
    yield from _norm(f"{name}.norm2", layer.dense_norm)


def _convtran(m: convtran.ConvTran) -> Iterator[Entry]:
  over_time = Layout(lambda a: a[..., 0].T, lambda a: a.T[..., None])
  features = m.convs[-1].bias.shape[0]
  over_bands = Layout(
    lambda a: a[:, :, 0].T.reshape(-1, a.shape[0]),
    lambda a: a.reshape(-1, features, a.shape[1]).T[:, :, None],
  )
  for i, (conv, norm) in enumerate(zip(m.convs, m.norms)):
    yield from _conv(f"embed_layer.{3 * i}", conv, over_time)
    yield from _norm(f"embed_layer.{3 * i + 1}", norm)
  yield from _linear("embed_layer2.0", m.collapse, over_bands)
  yield from _norm("embed_layer2.1", m.collapse_norm)
  attention = m.attention
  if m.position != "none":
    stored = SAME if m.position == "learned" else Layout(lambda a: a[0], lambda a: a[None])
    yield Entry("Fix_Position.pe", m.table, stored)
  if attention.relative == "erpe":
    yield Entry("attention_layer.relative_bias_table", attention.bias)
    differences = np.subtract.outer(np.arange(m.steps), np.arange(m.steps)) + m.steps - 1
    yield Entry("attention_layer.relative_index", differences.reshape(-1, 1).astype(np.int64))
  elif attention.relative == "vector":
    yield Entry("attention_layer.Er", attention.vectors)
    yield Entry("attention_layer.mask", np.tri(m.steps, dtype=np.float32)[None, None])
  for name in ("key", "value", "query"):
    yield from _linear(f"attention_layer.{name}", getattr(attention, name))
  yield from _norm("attention_layer.to_out", attention.norm)
  yield from _norm("LayerNorm", m.norm)
  yield from _norm("LayerNorm2", m.dense_norm)
  yield from _linear("FeedForward.0", m.dense)
  yield from _linear("FeedForward.3", m.dense_out)


def _encoder(m: encoders.Encoder, projection: Projection | None = None) -> Iterator[Entry]:
  """The tensors of an encoder, or of its backbone with another projection."""
  if m.context:
    raise InputError("the released program has no encoders with a context (data.context)")
  last = m if projection is None else projection
  if last.members > 1:
    raise InputError("the released program has no ensembles (model.members)")
  yield from _under("pre_encoder", entries(m.backbone))
  yield from _linear("linear_layer", last.linear)
  if last.norm is not None:
    yield from _norm("norm_layer", last.norm)


def _head(m: Head) -> Iterator[Entry]:
  for i, (linear, norm) in enumerate(zip(m.hidden, m.norms)):
    yield from _linear(f"pre_decoder.layers.{i}.0", linear)
    yield from _norm(f"pre_decoder.layers.{i}.2", norm)
  yield from _linear("linear_layer", m.out)


def _mdico(m: disentangled.Model) -> Iterator[Entry]:
  for name in m.sensors:
    yield from _under(f"modality_encoders_unique.{name}", _encoder(m.unique[name]))
    # With one backbone the released program, which has two, gets it twice.
    common = _encoder(m.unique[name], m.common[name]) if m.one_backbone else _encoder(m.common[name])
    yield from _under(f"modality_encoders_common.{name}", common)
    yield from _linear(f"aux_common_layer.{name}.0", m.shared[name].linear)
    yield from _norm(f"aux_common_layer.{name}.1", m.shared[name].norm)
    yield from _under(f"modality_prediction_heads.{name}", _head(m.heads[name]))
  outputs, modalities = m.heads[m.sensors[0]].out.bias.shape[0], len(m.sensors)
  for name, head, width in (
    ("aux_prediction_head", m.auxiliary, outputs),
    (UNUSED_HEAD, None, modalities),
    ("modality_head_awr_inf", m.modality_specific, modalities),
    ("modality_head_awr_irr", m.modality_unused, modalities),
  ):
    yield from _under(name, _head(head or _zero_head(m, width)))


def _zero_head(m: disentangled.Model, outputs: int) -> Head:
  """A head of zeros. The released program always has this head; our model was built without it."""
  half = m.shared[m.sensors[0]].linear.bias.shape[0]
  hidden = [linear.bias.shape[0] for linear in m.heads[m.sensors[0]].hidden]
  head = nnx.eval_shape(lambda: Head(half, outputs, hidden, rngs=random.keys()))
  for entry in _head(head):
    entry.value.set_value(np.zeros(entry.value.shape, entry.value.dtype))
  return head


UNUSED_HEAD = "modality_head_adv"  # no output depends on it; ignored on import, zeros on export

TABLES = {
  encoders.Encoder: _encoder,
  disentangled.Model: _mdico,
  tempcnn.TempCNN: _tempcnn,
  mlp.MLP: _mlp,
  recurrent.RNN: _recurrent,
  recurrent.GRU: _recurrent,
  recurrent.LSTM: _recurrent,
  ltae.LTAE: _ltae,
  ltae.TAE: _tae,
  transformer.Transformer: _transformer,
  convtran.ConvTran: _convtran,
}


def entries(module: nnx.Module) -> Iterator[Entry]:
  """Lists every tensor of the released program's state dict for this module.

  Raises:
    InputError: the released program has no such module.
  """
  if type(module) not in TABLES:
    raise InputError(f"the released program has no {type(module).__name__}")
  return TABLES[type(module)](module)


def state_dict(module: nnx.Module) -> dict[str, np.ndarray]:
  """Returns the arrays of an encoder or a whole model with the released program's names and layouts.

  Heads that the model was built without are zeros.
  """
  return {entry.name: entry.read() for entry in entries(module)}


def fill(module: nnx.Module, params: Mapping[str, np.ndarray]) -> None:
  """Writes a state dict of the released program into a module, which may be abstract (`nnx.eval_shape`).

  Raises:
    InputError: a tensor is missing, unused, or of the wrong shape; or two tensors differ that are one
      variable of a model with one backbone.
  """
  table = {entry.name: entry for entry in entries(module)}
  missing, unused = [n for n in table if n not in params], [n for n in params if n not in table]
  if missing or unused:
    listed = lambda names: ", ".join(names) if names else "none"
    raise InputError(f"state dict does not fit: missing {listed(missing)}; not used {listed(unused)}")
  seen: dict[int, str] = {}
  for name, entry in table.items():
    first = seen.setdefault(id(entry.value), name)
    if not np.array_equal(params[first], params[name]):
      raise InputError(f"{first} and {name} differ, but the model has one backbone for both (loss.backbones)")
    entry.write(params[name])
