"""MDiCo: multi-modal disentanglement for co-learning (Mena et al. 2025, Machine Learning 114(12):279)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax import encoders
from colearn_jax.nn import layers
from colearn_jax.objectives import losses
from colearn_jax.types import InputError

VARIANTS = ("paper", "released")
TERMS = ("main", "auxiliary", "contrastive", "discriminative")
ALONE = ("unique", "common", "shared", "heads")  # what a modality needs to predict, each by modality


@flax.struct.dataclass
class Outputs:
  """What the model computes of a batch, by modality; a head that was not built has no entries."""

  prediction: dict[str, jax.Array]  # ŷ_m [B C]: target units, or logits
  specific: dict[str, jax.Array]  # z_m^spe [B D/2]
  unused: dict[str, jax.Array]  # z_m^unu [B D/2]
  shared: dict[str, jax.Array]  # z_m^sha [B D/2]
  auxiliary_specific: dict[str, jax.Array]  # A(z_m^spe) [B C]
  auxiliary_shared: dict[str, jax.Array]  # A(z_m^sha) [B C]
  modality_specific: dict[str, jax.Array]  # D_spe(z_m^spe) [B M]
  modality_unused: dict[str, jax.Array]  # D_unu(z_m^unu) [B M]; of z_m^sha in the released variant
  # The model's modalities in their order, which numbers them; dicts lose theirs on the way through jit.
  modalities: tuple[str, ...] = flax.struct.field(pytree_node=False)


class Shared(nnx.Module):
  """The common encoder's output to the shared features, ReLU(BatchNorm(W c + b)): `[B D]` to `[B D/2]`."""

  def __init__(self, width: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    self.linear = layers.linear(width, width // 2, rngs=rngs, dtype=dtype)
    self.norm = layers.BatchNorm(width // 2, dtype=dtype)

  def __call__(self, c: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Projects common features."""
    return nnx.relu(self.norm(self.linear(c), train=train, present=present))


class Head(nnx.Module):
  """A predictive model: hidden layers (linear, ReLU, BatchNorm; none by default), then a linear layer."""

  def __init__(
    self, features: int, outputs: int, hidden: Sequence[int] = (), *, rngs: nnx.Rngs, dtype=jnp.float32
  ):
    widths = [features, *hidden]
    self.hidden = nnx.List([layers.linear(i, o, rngs=rngs, dtype=dtype) for i, o in zip(widths, hidden)])
    self.norms = nnx.List([layers.BatchNorm(width, dtype=dtype) for width in hidden])
    self.out = layers.linear(widths[-1], outputs, rngs=rngs, dtype=dtype)

  def __call__(self, z: jax.Array, *, train: bool, present: jax.Array | None) -> jax.Array:
    """Predicts from features `[B D]`."""
    for linear, norm in zip(self.hidden, self.norms):
      z = norm(nnx.relu(linear(z)), train=train, present=present)
    return self.out(z)


class MDiCo(nnx.Module):
  """One model per modality that learn from each other; each predicts alone.

  Per modality two encoders of one design: the unique one's output is half specific, half unused features; the
  common one's becomes the shared features. A modality's prediction is made of its specific and its shared
  features. Only while training do all modalities' features meet one auxiliary head, two modality heads, and
  each other.

  Args:
    shapes: the shape of one sample of each modality; their order numbers the modalities for the modality
      heads.
    settings: each modality's encoder settings, see `encoders.make_encoder`.
    outputs: C, of the task.
    emb_dim: D, the encoders' width.
    head_layers: widths of every head's hidden layers.
    variant: what the second modality head sees: the unused features (`paper`), or the shared ones
      (`released`).
    terms: the objectives that are wanted, of `TERMS`; the heads that only others need are not built.
    remat: whether training computes the encoders' inner values once more on the way back, and keeps none.
    dtype: of the encoders' computation; everything behind them is at least float32.

  Raises:
    InputError: emb_dim is odd, or see `encoders.make_encoder`.
  """

  def __init__(
    self,
    shapes: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Mapping[str, object]],
    outputs: int,
    *,
    emb_dim: int = 128,
    head_layers: Sequence[int] = (),
    variant: str = "paper",
    terms: Sequence[str] = TERMS,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if emb_dim % 2:
      raise InputError(f"emb_dim={emb_dim} is odd; half of the unique features are specific, half unused")
    half = emb_dim // 2
    encoder = lambda m: encoders.make_encoder(settings[m], shapes[m], emb_dim, rngs=rngs, dtype=dtype)
    wide = jnp.promote_types(dtype, jnp.float32)  # what comes behind the encoders is at least float32
    head = lambda width, outputs: Head(width, outputs, head_layers, rngs=rngs, dtype=wide)
    self.unique = nnx.Dict({m: encoder(m) for m in shapes})
    self.common = nnx.Dict({m: encoder(m) for m in shapes})
    self.shared = nnx.Dict({m: Shared(emb_dim, rngs=rngs, dtype=wide) for m in shapes})
    self.heads = nnx.Dict({m: head(2 * half, outputs) for m in shapes})
    self.auxiliary = head(half, outputs) if "auxiliary" in terms else None
    discriminative = "discriminative" in terms
    self.modality_specific = head(half, len(shapes)) if discriminative else None
    self.modality_unused = head(half, len(shapes)) if discriminative else None
    self.modalities, self.variant, self.remat = tuple(shapes), variant, remat

  def __call__(
    self,
    inputs: Mapping[str, jax.Array],
    *,
    train: bool = False,
    present: Mapping[str, jax.Array] | None = None,
    rngs: nnx.Rngs | None = None,
  ) -> Outputs:
    """Computes everything of the modalities in `inputs`, and nothing of any other.

    Args:
      inputs: `[B *shape]` for one or more modalities, normalised, NaN where a value is missing.
      train: whether batch statistics and dropout are those of training.
      present: `[B]` for each modality, 1.0 where the sample has it; all by default.
      rngs: gives the stream `dropout` in training.
    """
    out = {field: {} for field in Outputs.__dataclass_fields__ if field != "modalities"}
    encode = lambda encoder, x, present, rngs: encoder(x, train=train, present=present, rngs=rngs)
    if self.remat and train:
      encode = nnx.remat(encode)
    for m in filter(inputs.__contains__, self.modalities):
      mode = {"train": train, "present": None if present is None else present[m]}
      u = encode(self.unique[m], inputs[m], mode["present"], rngs)
      c = encode(self.common[m], inputs[m], mode["present"], rngs)
      specific, unused = jnp.split(u, 2, axis=-1)
      shared = self.shared[m](c, **mode)
      out["specific"][m], out["unused"][m], out["shared"][m] = specific, unused, shared
      out["prediction"][m] = self.heads[m](jnp.concatenate([specific, shared], axis=-1), **mode)
      if self.auxiliary is not None:
        out["auxiliary_specific"][m] = self.auxiliary(specific, **mode)
        out["auxiliary_shared"][m] = self.auxiliary(shared, **mode)
      if self.modality_specific is not None:
        second = shared if self.variant == "released" else unused
        out["modality_specific"][m] = self.modality_specific(specific, **mode)
        out["modality_unused"][m] = self.modality_unused(second, **mode)
    return Outputs(**out, modalities=self.modalities)


def objective(
  kind: str,
  outputs: Outputs,
  target: jax.Array,
  present: Mapping[str, jax.Array],
  constants: dict[str, jax.Array],
  weights: Mapping[str, float | jax.Array],
  *,
  temperature: float = 0.1,
  negatives: str = "both",
  labelled: jax.Array | None = None,
  contrastive: Callable[..., jax.Array] = losses.contrastive,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The co-learning objective L = Σ w_t L_t and every term of it by name.

  L_main, L_aux and L_mod are means over the modalities that have any sample in the batch (and each of them
  over its present samples); L_cont is the sum over ordered pairs, every pair twice. Samples without a label
  count in L_cont and L_mod alone.

  Args:
    kind: of the task.
    outputs: of the model.
    target: `[B K]` or `[B]`; finite, also where there is no label.
    present: `[B]` for each modality.
    constants: of the task's loss, see `losses.task_loss`.
    weights: of each of `TERMS` that is wanted; the others are not computed.
    temperature: τ of the contrastive term.
    negatives: of the contrastive term.
    labelled: `[B]`, 1.0 where the sample has a target; all by default.
    contrastive: the function of one pair, `losses.contrastive` or one of the same values.

  Returns:
    L and the terms: `main/<m>`, `auxiliary/<m>`, `discriminative/<m>`, `contrastive/<m>__<n>`, unweighted;
    `total/<term>`, weighted; `objective`.
  """
  names = [m for m in outputs.modalities if m in outputs.prediction]
  known = present if labelled is None else {m: present[m] * labelled for m in names}
  task = lambda output, m: losses.task_loss(kind, output, target, constants, known[m])
  parts: dict[str, dict[str, jax.Array]] = {term: {} for term in TERMS if term in weights}
  for position, m in enumerate(names):
    if "main" in parts:
      parts["main"][m] = task(outputs.prediction[m], m)
    if "auxiliary" in parts:
      specific, shared = task(outputs.auxiliary_specific[m], m), task(outputs.auxiliary_shared[m], m)
      parts["auxiliary"][m] = 0.5 * (specific + shared)
    if "discriminative" in parts:
      index = outputs.modalities.index(m)
      specific = losses.modality_loss(outputs.modality_specific[m], index, present[m])
      unused = losses.modality_loss(outputs.modality_unused[m], index, present[m])
      parts["discriminative"][m] = 0.5 * (specific + unused)
    if "contrastive" in parts:
      for n in names[position + 1 :]:
        pair = outputs.shared[m], outputs.shared[n]
        both = present[m] * present[n]
        parts["contrastive"][f"{m}__{n}"] = contrastive(*pair, temperature, both, negatives=negatives)
  total = {}
  for term, part in parts.items():
    if term == "contrastive":
      total[term] = weights[term] * 2.0 * sum(part.values(), jnp.zeros(()))
    else:
      rows = present if term == "discriminative" else known
      seen = {m: (rows[m].sum() > 0).astype(jnp.float32) for m in names}
      mean = sum(seen[m] * part[m] for m in names) / jnp.maximum(sum(seen.values()), 1.0)
      total[term] = weights[term] * mean
  loss = sum(total.values())
  terms = {f"{term}/{name}": value for term, part in parts.items() for name, value in part.items()}
  terms |= {f"total/{term}": value for term, value in total.items()}
  return loss, terms | {"objective": loss}
