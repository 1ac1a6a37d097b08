"""The loss functions: pure, of arrays, float32 scalars out (float64 of float64).

`mask` is `[B]` with 1.0 for rows that count and 0.0 for rows that do not (padding, absent sensors); a loss
over no row at all is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from colearn_jax.nn.layers import widened


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  return jnp.where(mask > 0, values * mask, 0.0).sum() / jnp.maximum(mask.sum(), 1e-12)


def squared_error(
  prediction: jax.Array, target: jax.Array, mean: jax.Array, std: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean squared error of the standardised target, ((p - mean) / std - (y - mean) / std)².

  Args:
    prediction: `[B K]`, in the target's unit.
    target: `[B K]`.
    mean: `[K]`, of the training part's target.
    std: `[K]`, the same.
    mask: `[B]`.
  """
  error = (prediction - mean) / std - (target - mean) / std
  return _mean(jnp.square(error).mean(-1), mask)


def cross_entropy(
  logits: jax.Array, label: jax.Array, class_weights: jax.Array, mask: jax.Array
) -> jax.Array:
  """Class-weighted cross entropy, Σ_b w[y_b] nll_b / Σ_b w[y_b].

  Args:
    logits: `[B C]`.
    label: `[B]` int.
    class_weights: `[C]`.
    mask: `[B]`.
  """
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  return _mean(nll, mask * class_weights[label])


def binary_cross_entropy(logits: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
  """Binary cross entropy on logits, mean over rows and labels.

  Args:
    logits: `[B K]`.
    target: `[B K]` of 0 and 1.
    mask: `[B]`.
  """
  return _mean(optax.sigmoid_binary_cross_entropy(logits, target).mean(-1), mask)


def task_loss(
  kind: str, output: jax.Array, target: jax.Array, constants: dict[str, jax.Array], mask: jax.Array
) -> jax.Array:
  """The loss ℓ of METHOD's objectives for a task of this kind.

  Args:
    kind: one of `spec.KINDS`.
    output: `[B outputs]`, what a head returns.
    target: `[B K]` float for regression and multi-label, `[B]` int for classes.
    constants: `mean`, `std` of a regression's target, `class_weights` of classes; of the training part.
    mask: `[B]`.
  """
  if kind == "regression":
    return squared_error(output, target, constants["mean"], constants["std"], mask)
  if kind == "multilabel":
    return binary_cross_entropy(output, target, mask)
  return cross_entropy(output, target, constants["class_weights"], mask)


def contrastive(
  za: jax.Array, zb: jax.Array, temperature: float, mask: jax.Array, *, negatives: str = "both"
) -> jax.Array:
  """NT-Xent between two modalities' features of the same samples (Chen et al. 2020, eq. 1).

  Of the 2B rows of both, with s_ij = cos(z_i, z_j) / τ and p(i) the same sample's row of the other modality:
  mean_i -log( exp s_ip(i) / Σ_{j ≠ i} exp s_ij ). With `negatives="cross"` the sum runs over the other
  modality's rows alone, as in CLIP (Radford et al. 2021). A row of zeros has cosine 0 with every row.

  Args:
    za: `[B D]`.
    zb: `[B D]`.
    temperature: τ.
    mask: `[B]`, the samples that both modalities saw; the others are neither anchors nor negatives.
    negatives: `both` modalities' rows, or only those `cross` the pair.
  """
  z = widened(jnp.concatenate([za, zb]))
  z = z * jax.lax.rsqrt(jnp.maximum(jnp.square(z).sum(-1, keepdims=True), 1e-24))
  similarity = (z @ z.T) / temperature
  rows, batch = jnp.arange(z.shape[0]), za.shape[0]
  positive = similarity[rows, (rows + batch) % (2 * batch)]
  mask = jnp.concatenate([mask, mask])
  counted = (mask > 0)[None, :] & ~jnp.eye(2 * batch, dtype=bool)
  if negatives == "cross":
    counted &= (rows < batch)[:, None] != (rows < batch)[None, :]
  # An absent row's own sum may be over nothing; it counts for nothing, but must not make a NaN gradient.
  counted |= (mask == 0)[:, None]
  total = jax.nn.logsumexp(jnp.where(counted, similarity, -jnp.inf), axis=-1)
  return _mean(total - positive, mask)


def modality_loss(logits: jax.Array, modality: int, mask: jax.Array) -> jax.Array:
  """Cross entropy of a modality head, the label being the modality's own index for every row.

  Args:
    logits: `[B M]`.
    modality: the index m.
    mask: `[B]`.
  """
  return _mean(-jax.nn.log_softmax(logits)[:, modality], mask)
