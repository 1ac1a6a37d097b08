"""Distillation losses: the distance between the predictions of a student and a teacher."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from colearn_jax.objectives.task import masked_mean, squared_error


def distillation(
  kind: str,
  student: jax.Array,
  teacher: jax.Array,
  constants: Mapping[str, jax.Array],
  mask: jax.Array,
  temperature: float = 1.0,
) -> jax.Array:
  """The divergence of a student from a teacher, averaged over the rows of `mask`; 0 if they agree.

  - One class per sample: T² KL(softmax(t / T) ‖ softmax(s / T)) (Hinton et al. 2015, arXiv 1503.02531,
    section 2). T² keeps the size of the gradient.
  - Several labels per sample: T² times the mean over labels of KL(σ(t / T) ‖ σ(s / T)), the divergence of
    Bernoulli variables.
  - Regression: the mean squared difference, in standard deviations of the target. T is not used.

  Args:
    kind: one of `types.KINDS`.
    student: s, `[B C]`: logits, or for regression the prediction in the unit of the target.
    teacher: t, the same. No gradient flows to it. Rows outside of `mask` may be NaN.
    constants: see `task.task_loss`.
    mask: `[B]`, 1.0 for rows that count.
    temperature: T.
  """
  # NaN in a row that does not count would still make the gradient NaN.
  teacher = jax.lax.stop_gradient(jnp.where(mask[:, None] > 0, teacher, 0.0))
  if kind == "regression":
    return squared_error(student, teacher, constants["mean"], constants["std"], mask)
  s, t = student / temperature, teacher / temperature
  if kind == "multilabel":
    on = jax.nn.sigmoid(t) * (jax.nn.log_sigmoid(t) - jax.nn.log_sigmoid(s))
    off = jax.nn.sigmoid(-t) * (jax.nn.log_sigmoid(-t) - jax.nn.log_sigmoid(-s))
    divergence = (on + off).mean(-1)
  else:
    divergence = (jax.nn.softmax(t) * (jax.nn.log_softmax(t) - jax.nn.log_softmax(s))).sum(-1)
  return temperature**2 * masked_mean(divergence, mask)


def decoupled(
  student: jax.Array,
  teacher: jax.Array,
  label: jax.Array,
  mask: jax.Array,
  temperature: float,
  *,
  target_weight: float,
  rest_weight: float,
) -> jax.Array:
  """Decoupled distillation of classes (Zhao et al. 2022, CVPR, equation 7), averaged over the rows of `mask`.

  It is T² (α KL(b ‖ b') + β KL(q ‖ q')). b is the teacher's probability of the sample's class and that of all
  other classes together, q its probabilities of the other classes among themselves; b' and q' are those of
  the student. With α = 1 and β = 1 - b it is `distillation`. Of two classes the second part is 0.

  Args:
    student: logits `[B C]`.
    teacher: logits `[B C]`. No gradient flows to them. Rows outside of `mask` may be NaN.
    label: the class of each sample, `[B]` int.
    mask: `[B]`, 1.0 for rows that count.
    temperature: T.
    target_weight: α.
    rest_weight: β.
  """
  teacher = jax.lax.stop_gradient(jnp.where(mask[:, None] > 0, teacher, 0.0))
  own = jax.nn.one_hot(label, student.shape[-1], dtype=bool)

  def parts(logits):
    logits = logits / temperature
    logs = jax.nn.log_softmax(logits)
    of_class = jnp.where(own, logs, 0.0).sum(-1)
    of_rest = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logs), axis=-1)
    among = jax.nn.log_softmax(jnp.where(own, -jnp.inf, logits))
    return jnp.stack([of_class, of_rest], axis=-1), jnp.where(own, 0.0, among)

  (b, q), (own_b, own_q) = parts(teacher), parts(student)
  of_target = (jnp.exp(b) * (b - own_b)).sum(-1)
  of_others = (jnp.exp(q) * jnp.where(own, 0.0, q - own_q)).sum(-1)
  return temperature**2 * masked_mean(target_weight * of_target + rest_weight * of_others, mask)
