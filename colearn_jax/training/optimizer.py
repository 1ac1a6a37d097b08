"""The optimizer by name, the schedule and the factors of the learning rate, and averages of the weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from colearn_jax.types import InputError

# What optax's optimizers do to a gradient before it is multiplied with the learning rate.
SCALINGS: dict[str, Callable[[float], optax.GradientTransformation]] = {
  "adam": lambda momentum: optax.scale_by_adam(),
  "adamw": lambda momentum: optax.scale_by_adam(),
  "lamb": lambda momentum: optax.scale_by_adam(),
  "lion": lambda momentum: optax.scale_by_lion(),
  "nadam": lambda momentum: optax.scale_by_adam(nesterov=True),
  "radam": lambda momentum: optax.scale_by_radam(),
  "rmsprop": lambda momentum: optax.chain(optax.scale_by_rms(), optax.trace(momentum)),
  "sgd": lambda momentum: optax.trace(momentum),
}
SCHEDULES = ("constant", "cosine", "linear", "one_cycle")
NOT_DECAYED = r"(^|/)(bias\w*|scale|table|token|query|vectors)$"  # of these and of vectors no weight decay


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How parameters are updated: by -rate · factor · direction.

  Attributes:
    transform: from gradients to directions: clipping, the optimizer by name, weight decay.
    schedule: (step, steps of an epoch) to the learning rate.
    factors: by regular expression of a parameter's path, e.g. `unique/S1/backbone`, what its learning rate is
      multiplied with; the first that matches holds. 0 freezes: no gradient is computed, and statistics below
      such a path stay.
  """

  transform: optax.GradientTransformation
  schedule: Callable[[jax.Array, jax.Array], jax.Array]
  factors: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def factor(self, path: str) -> float:
    """The factor of the parameter at this path."""
    return next((f for pattern, f in self.factors.items() if re.search(pattern, path)), 1.0)

  def trained(self, params: Any) -> Any:
    """The parameters, of which the frozen ones have no gradient."""
    frozen = lambda path, p: jax.lax.stop_gradient(p) if self.factor(path_name(path)) == 0 else p
    return jax.tree_util.tree_map_with_path(frozen, params) if self.factors else params

  def moving(self, new: Any, old: Any) -> Any:
    """Statistics, of which those of frozen parts stay as they were."""
    pick = lambda path, n, o: o if self.factor(path_name(path)) == 0 else n
    return jax.tree_util.tree_map_with_path(pick, new, old) if self.factors else new

  def update(self, grads: Any, opt_state: Any, params: Any, rate: jax.Array) -> tuple[Any, Any]:
    """The new parameters and the optimizer's new state."""
    directions, opt_state = self.transform.update(grads, opt_state, params)
    scaled = lambda path, d: -rate * d if (f := self.factor(path_name(path))) == 1 else -rate * f * d
    updates = jax.tree_util.tree_map_with_path(scaled, directions)
    return optax.apply_updates(params, updates), opt_state


def path_name(path: tuple) -> str:
  """A key path of JAX as text, e.g. `unique/S1/linear/kernel`."""
  return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def make_optimizer(
  name: str,
  *,
  learning_rate: float,
  max_epochs: int,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  schedule: str = "constant",
  warmup: float = 0.0,
  schedule_unit: str = "epochs",
  rates: Mapping[str, float] | None = None,
) -> Optimizer:
  """The optimizer that a configuration's group `train` describes.

  Args:
    name: one of `SCALINGS`.
    learning_rate: the highest one of the schedule.
    max_epochs: where the schedule ends.
    momentum: of `sgd` and `rmsprop`.
    weight_decay: decoupled (Loshchilov & Hutter 2019), not for biases, norms, position tables and vectors.
    clip_norm: the gradient's largest norm; 0 does not clip.
    schedule: one of `SCHEDULES`.
    warmup: steps or epochs in which the rate rises linearly from 0.
    schedule_unit: of `warmup`, `steps` or `epochs`.
    rates: see `Optimizer.factors`.

  Raises:
    InputError: a warm-up that is not shorter than the training; `one_cycle` with a warm-up, which it has
      itself.
  """
  if schedule == "one_cycle" and warmup:
    raise InputError("train.warmup: one_cycle begins with a warm-up of its own; 0, or another train.schedule")
  if schedule_unit == "epochs" and warmup >= max_epochs > 0 and warmup:
    raise InputError(f"train.warmup: {warmup} epochs are not below train.max_epochs={max_epochs}")
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
  parts.append(SCALINGS[name](momentum))
  if weight_decay:
    parts.append(optax.add_decayed_weights(weight_decay, decayed))
  if name == "lamb":
    parts.append(optax.scale_by_trust_ratio())
  return Optimizer(
    transform=optax.chain(*parts),
    schedule=make_schedule(schedule, learning_rate, max_epochs, warmup, schedule_unit),
    factors=dict(rates or {}),
  )


def decayed(params: Any) -> Any:
  """Which parameters weight decay is for: matrices and convolution kernels."""
  kernel = lambda path, p: p.ndim >= 2 and not re.search(NOT_DECAYED, path_name(path))
  return jax.tree_util.tree_map_with_path(kernel, params)


def make_schedule(
  kind: str, rate: float, max_epochs: int, warmup: float = 0.0, unit: str = "epochs"
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A learning rate by step.

  `constant`; `cosine` (Loshchilov & Hutter 2017) and `linear` fall to 0 at the end of the last epoch;
  `one_cycle` (Smith & Topin 2019) rises along a cosine from rate/25 within 30 % of the steps, and falls along
  a cosine to rate/250 000.

  Returns:
    A function of the step and of the number of steps in an epoch, scalars; its result is float32.
  """
  if kind not in SCHEDULES:
    raise InputError(f"train.schedule: {kind!r} is not allowed; one of: {', '.join(SCHEDULES)}")
  cosine = lambda share: 0.5 * (1.0 + jnp.cos(jnp.pi * share))

  def schedule(step, steps_per_epoch):
    step, steps_per_epoch = jnp.float32(step), jnp.float32(steps_per_epoch)
    if kind == "one_cycle":
      share = step / (max_epochs * steps_per_epoch)
      rising = rate / 25.0 + (rate - rate / 25.0) * (1.0 - cosine(share / 0.3))
      falling = rate / 25e4 + (rate - rate / 25e4) * cosine(jnp.minimum((share - 0.3) / 0.7, 1.0))
      return jnp.where(share < 0.3, rising, falling)
    first = warmup * (steps_per_epoch if unit == "epochs" else 1.0)
    rest = jnp.maximum(max_epochs * steps_per_epoch - first, 1.0)
    share = jnp.clip((step - first) / rest, 0.0, 1.0)
    full = {"constant": 1.0, "cosine": cosine(share), "linear": 1.0 - share}[kind]
    rising = jnp.minimum((step + 1.0) / jnp.maximum(first, 1.0), 1.0) if warmup else 1.0
    return rate * full * rising * jnp.ones(())

  return schedule


@dataclasses.dataclass(frozen=True)
class Average:
  """An average of parameters and statistics over a training.

  Attributes:
    kind: `ema`, after every step, or `swa`, the plain mean over the ends of the last epochs (Izmailov et al.
      2018).
    decay: of `ema`; in the first steps it is (1 + step) / (10 + step) where that is less.
    first_epoch: the first epoch (from 0) whose end `swa` takes.
  """

  kind: str
  decay: float = 0.999
  first_epoch: int = 0

  def after_step(self, average: Any, new: Any, step: jax.Array) -> Any:
    """The average after an optimizer step; `step` counts those before it."""
    if self.kind != "ema":
      return average
    decay = jnp.minimum(self.decay, (1.0 + step) / (10.0 + step))
    return _mixed(average, new, 1.0 - decay)

  def after_epoch(self, average: Any, new: Any, epoch: jax.Array) -> Any:
    """The average at the end of an epoch; `epoch` counts those before it."""
    if self.kind != "swa":
      return average
    # Until the first epoch that counts, the average is the model itself.
    return _mixed(average, new, 1.0 / jnp.maximum(epoch - self.first_epoch + 1.0, 1.0))


def _mixed(old: Any, new: Any, share: jax.Array) -> Any:
  """Old and new values mixed; counters are the new ones."""
  mix = lambda o, n: (o + share * (n - o)).astype(o.dtype) if jnp.issubdtype(o.dtype, jnp.floating) else n
  return jax.tree.map(mix, old, new)
