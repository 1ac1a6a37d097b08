"""The model of MDiCo and DisCoM-KD: shared, specific and unused features of each sensor, and their heads."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.architecture import Architecture, encode
from colearn_jax.nn import layers
from colearn_jax.nn.reversal import reverse_gradient
from colearn_jax.types import InputError


@flax.struct.dataclass
class Outputs:
  """The outputs of the model by sensor. Heads that were not built have no entries."""

  prediction: dict[str, jax.Array]  # ŷ_m [B C]: target units, or logits
  specific: dict[str, jax.Array]  # z_m^spe [B D/2]; [B D] without unused features
  unused: dict[str, jax.Array]  # z_m^unu [B D/2]
  shared: dict[str, jax.Array]  # z_m^sha [B D/2]; [B D] without unused features
  auxiliary_specific: dict[str, jax.Array]  # A(z_m^spe) [B C]
  auxiliary_shared: dict[str, jax.Array]  # A(z_m^sha) [B C]
  modality_specific: dict[str, jax.Array]  # D_spe(z_m^spe) [B M]
  modality_unused: dict[str, jax.Array]  # D_unu(z_m^unu) [B M]; of z_m^sha in the released variant
  adversary: dict[str, jax.Array]  # D(z_m^sha) [B M] behind a gradient reversal, with alignment=grl
  weighting: dict[str, jax.Array]  # the learned weight of each term, by term, repeated for each row [B]
  # The sensors of the model, in the order of their numbers. jit does not keep the order of dicts.
  sensors: tuple[str, ...] = flax.struct.field(pytree_node=False)


class Shared(nnx.Module):
  """Projects common features `[B D]` to shared features `[B width]`: ReLU(BatchNorm(W c + b))."""

  def __init__(self, features: int, width: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    self.linear = layers.linear(features, width, rngs=rngs, dtype=dtype)
    self.norm = layers.BatchNorm(width, dtype=dtype)

  def __call__(self, c: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Projects common features `[B D]` to `[B width]`."""
    return nnx.relu(self.norm(self.linear(c), train=train, present=present))


class Model(nnx.Module):
  """The modules: two encoders, a shared layer and a head per sensor; three heads for training.

  Half of the unique encoder's output are the specific features, half are unused. The shared layer projects
  the common encoder's output to the shared features. Without unused features all of the unique encoder's
  output is specific, and shared features are as many.

  Args:
    architecture: the architecture of the sensors.
    auxiliary: whether the auxiliary head is built.
    discriminative: whether the two modality heads are built.
    variant: what the second modality head reads: the unused features (`paper`) or the shared ones
      (`released`).
    one_backbone: whether the two encoders of a sensor have one backbone. The common encoder is then only a
      projection of its features.
    unused: whether half of the unique features are unused.
    adversary: whether the head is built from which shared features hide their sensor.
    weighting: initial values of the learned weights, by loss term.
    rngs: random numbers, with the stream `params`.

  Raises:
    InputError: emb_dim is odd; or see `encoders.make_encoder`.
  """

  def __init__(
    self,
    architecture: Architecture,
    *,
    auxiliary: bool = True,
    discriminative: bool = True,
    variant: str = "paper",
    one_backbone: bool = False,
    unused: bool = True,
    adversary: bool = False,
    weighting: Mapping[str, float] = types.MappingProxyType({}),
    rngs: nnx.Rngs,
  ):
    a, sensors = architecture, architecture.sensors
    if a.emb_dim % 2:
      raise InputError(f"emb_dim={a.emb_dim} is odd; half of the unique features are specific, half unused")
    width = a.emb_dim // 2 if unused else a.emb_dim
    self.unique = nnx.Dict({m: a.encoder(m, rngs=rngs) for m in sensors})
    common = lambda m: (
      a.second_projection(self.unique[m], m, rngs=rngs) if one_backbone else a.encoder(m, rngs=rngs)
    )
    self.common = nnx.Dict({m: common(m) for m in sensors})
    self.shared = nnx.Dict({m: Shared(a.emb_dim, width, rngs=rngs, dtype=a.wide) for m in sensors})
    self.heads = nnx.Dict({m: a.head(2 * width, rngs=rngs) for m in sensors})
    tells = lambda built: a.head(width, len(sensors), rngs=rngs) if built else None
    self.auxiliary = a.head(width, rngs=rngs) if auxiliary else None
    self.modality_specific = tells(discriminative)
    self.modality_unused = tells(discriminative and (unused or variant == "released"))
    self.adversary = tells(adversary)
    self.weighting = nnx.Dict({term: nnx.Param(jnp.full((), value)) for term, value in weighting.items()})
    self.sensors, self.variant, self.one_backbone, self.remat = sensors, variant, one_backbone, a.remat
    self.unused = unused


def run(
  model: Any,
  inputs: Mapping[str, Any],
  present: Mapping[str, jax.Array] | None,
  *,
  train: bool,
  reversal: jax.Array | float = 1.0,
  rngs: nnx.Rngs | None,
) -> Outputs:
  """Runs all modules of the model, see `Method.forward`. `reversal` is a factor of gradients."""
  fields = (field.name for field in dataclasses.fields(Outputs))
  out: dict[str, dict[str, jax.Array]] = {name: {} for name in fields if name != "sensors"}
  for m in filter(inputs.__contains__, model.sensors):
    mode: dict[str, Any] = {"train": train, "present": None if present is None else present[m]}
    if model.one_backbone:
      features = encode(model, model.unique[m], inputs[m], rngs=rngs, features=True, **mode)
      u, c = (branch[m].project(features, **mode) for branch in (model.unique, model.common))
    else:
      u = encode(model, model.unique[m], inputs[m], rngs=rngs, **mode)
      c = encode(model, model.common[m], inputs[m], rngs=rngs, **mode)
    shared = model.shared[m](c, **mode)
    specific, unused = jnp.split(u, 2, axis=-1) if model.unused else (u, None)
    out["specific"][m], out["shared"][m] = specific, shared
    if unused is not None:
      out["unused"][m] = unused
    out["prediction"][m] = model.heads[m](jnp.concatenate([specific, shared], axis=-1), **mode)
    if model.auxiliary is not None:
      out["auxiliary_specific"][m] = model.auxiliary(specific, **mode)
      out["auxiliary_shared"][m] = model.auxiliary(shared, **mode)
    if model.modality_specific is not None:
      out["modality_specific"][m] = model.modality_specific(specific, **mode)
    if model.modality_unused is not None:
      second = shared if model.variant == "released" else unused
      out["modality_unused"][m] = model.modality_unused(second, **mode)
    if model.adversary is not None:
      out["adversary"][m] = model.adversary(reverse_gradient(shared, reversal), **mode)
    # All outputs have a row for each sample, also those that are the same for all.
    out["weighting"] = {t: jnp.broadcast_to(s[...], (len(shared),)) for t, s in model.weighting.items()}
  return Outputs(**out, sensors=model.sensors)
