"""Task losses: squared error, cross entropy and binary cross entropy over masked rows.

All are pure functions of arrays and return a float32 scalar (float64 for float64 inputs). `mask` is `[B]`:
1.0 for rows that count, 0.0 for rows that do not (padding, absent sensor, no label). If no row counts, the
loss is 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class LossOptions:
  """How the task's loss treats targets that may be wrong; the defaults change nothing.

  Attributes:
    huber: δ, the error of a regression from which its square becomes linear, in standard deviations of the
      target; 0 for squares everywhere.
    label_smoothing: ε, the part of a class's or label's target that is spread over all of them.
  """

  huber: float = 0.0
  label_smoothing: float = 0.0


PLAIN = LossOptions()


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `values` `[B]` weighted by `mask` `[B]`. Values of rows with weight 0 may be NaN."""
  return jnp.where(mask > 0, values * mask, 0.0).sum() / jnp.maximum(mask.sum(), 1e-12)


def squared_error(
  prediction: jax.Array,
  target: jax.Array,
  mean: jax.Array,
  std: jax.Array,
  mask: jax.Array,
  huber: float = 0.0,
) -> jax.Array:
  """Mean squared error of the standardised target, r² for r = (p - mean) / std - (y - mean) / std.

  With δ = `huber` > 0, 2 δ |r| - δ² takes the place of r² for |r| > δ. This is twice the loss of Huber
  (1964), so that small errors count as without it.

  Args:
    prediction: `[B K]`, in the unit of the target.
    target: `[B K]`.
    mean: `[K]`, mean of the targets of the training part.
    std: `[K]`, standard deviation of the targets of the training part.
    mask: `[B]`.
    huber: δ; 0 for squares everywhere.
  """
  standardised = lambda y: (y - mean[None]) / std[None]
  error = standardised(prediction) - standardised(target)
  penalty = 2.0 * optax.huber_loss(error, delta=huber) if huber else jnp.square(error)
  return masked_mean(penalty.mean(-1), mask)


def cross_entropy(
  logits: jax.Array, label: jax.Array, class_weights: jax.Array, mask: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """Class-weighted cross entropy, Σ_b w[y_b] nll_b / Σ_b w[y_b].

  With ε = `smoothing`, nll_b is the cross entropy of the probabilities (1 - ε) [c = y_b] + ε / C (Szegedy et
  al. 2016, CVPR).

  Args:
    logits: `[B C]`.
    label: `[B]` int.
    class_weights: w, `[C]`.
    mask: `[B]`.
    smoothing: ε.
  """
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  if smoothing:
    nll = (1.0 - smoothing) * nll - smoothing * jax.nn.log_softmax(logits).mean(-1)
  return masked_mean(nll, mask * class_weights[label])


def binary_cross_entropy(
  logits: jax.Array, target: jax.Array, mask: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """Binary cross entropy of logits, mean over rows and labels.

  With ε = `smoothing`, targets are (1 - ε) y + ε / 2.

  Args:
    logits: `[B K]`.
    target: `[B K]` of 0 and 1.
    mask: `[B]`.
    smoothing: ε.
  """
  if smoothing:
    target = (1.0 - smoothing) * target + smoothing / 2
  return masked_mean(optax.sigmoid_binary_cross_entropy(logits, target).mean(-1), mask)


def task_loss(
  kind: str,
  output: jax.Array,
  target: jax.Array,
  constants: Mapping[str, jax.Array],
  mask: jax.Array,
  options: LossOptions = PLAIN,
) -> jax.Array:
  """The loss that fits a kind of task, ℓ in the formulas of the methods.

  Args:
    kind: one of `types.KINDS`.
    output: output of a prediction head, `[B outputs]`.
    target: `[B K]` float for regression and multi-label tasks, `[B]` int for classes.
    constants: computed from the training part: `mean` and `std` of the target for regression,
      `class_weights` for classes. See `data.statistics.task_constants`.
    mask: `[B]`.
    options: see `LossOptions`.
  """
  if kind == "regression":
    return squared_error(output, target, constants["mean"], constants["std"], mask, options.huber)
  if kind == "multilabel":
    return binary_cross_entropy(output, target, mask, options.label_smoothing)
  return cross_entropy(output, target, constants["class_weights"], mask, options.label_smoothing)
