"""Makes the optimizer: update rule by name, learning rate schedule and factors, and weight averages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from colearn_jax.types import InputError

# For each optimizer, the optax transformation of gradients before they are multiplied by the learning rate.
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
SCHEDULES = ("constant", "coslog4", "cosine", "linear", "one_cycle")
RISING = ("coslog4", "one_cycle")  # these have a warm-up of their own
# Parameters without weight decay, as all vectors.
NOT_DECAYED = r"(^|/)(bias\w*|scale|before|behind|missing|table|token|query|vectors)$"


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """The update rule of parameters: -learning rate · factor · direction.

  Attributes:
    transform: converts gradients to directions: clipping, optimizer, weight decay.
    schedule: converts (step, steps per epoch) to the learning rate.
    factors: learning rate factors by a regular expression for the parameter's path, e.g.
      `unique/S1/backbone`. The first match is used. Parameters with factor 0 are frozen: they have no
      gradient, and batch statistics with such a path are not updated.
    depths: further factors of the same form, by which these are multiplied.
  """

  transform: optax.GradientTransformation
  schedule: Callable[[jax.Array, jax.Array], jax.Array]
  factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
  depths: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def factor(self, path: str) -> float:
    """The learning rate factor of the parameter at this path."""
    first = lambda factors: next((f for pattern, f in factors.items() if re.search(pattern, path)), 1.0)
    return first(self.factors) * first(self.depths)

  def trained(self, params: Any) -> Any:
    """Stops the gradients of frozen parameters."""
    frozen = lambda path, p: jax.lax.stop_gradient(p) if self.factor(path_name(path)) == 0 else p
    return jax.tree_util.tree_map_with_path(frozen, params)

  def moving(self, new: Any, old: Any) -> Any:
    """Selects the new statistics, but the old ones for frozen parts of the model."""
    pick = lambda path, n, o: o if self.factor(path_name(path)) == 0 else n
    return jax.tree_util.tree_map_with_path(pick, new, old)

  def update(self, grads: Any, opt_state: Any, params: Any, rate: jax.Array) -> tuple[Any, Any]:
    """Returns the new parameters and the new state of the optimizer."""
    directions, opt_state = self.transform.update(grads, opt_state, params)
    scaled = lambda path, d: -rate * d if (f := self.factor(path_name(path))) == 1 else -rate * f * d
    updates = jax.tree_util.tree_map_with_path(scaled, directions)
    return optax.apply_updates(params, updates), opt_state


def path_name(path: tuple) -> str:
  """Converts a key path of JAX to text, e.g. `unique/S1/linear/kernel`."""
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
  depths: Mapping[str, float] | None = None,
) -> Optimizer:
  """Makes the optimizer that the group `train` of a configuration describes.

  Args:
    name: one of `SCALINGS`.
    learning_rate: maximum of the schedule.
    max_epochs: number of epochs after which the schedule ends.
    momentum: momentum of `sgd` and `rmsprop`.
    weight_decay: decoupled weight decay (Loshchilov & Hutter 2019). Biases, norms, position tables and
      vectors have none.
    clip_norm: largest global norm of the gradient; 0 for no clipping.
    schedule: one of `SCHEDULES`.
    warmup: number of steps or epochs in which the rate increases linearly.
    schedule_unit: unit of `warmup`, `steps` or `epochs`.
    rates: see `Optimizer.factors`.
    depths: see `Optimizer.depths` and `layer_decay`.

  Raises:
    InputError: the warm-up is not shorter than the training; or a schedule that has its own warm-up is given
      another one.
  """
  if schedule in RISING and warmup:
    raise InputError(f"train.warmup: {schedule} has its own warm-up; use 0, or another train.schedule")
  if schedule_unit == "epochs" and warmup >= max_epochs > 0 and warmup:
    raise InputError(f"train.warmup: {warmup} epochs are not less than train.max_epochs={max_epochs}")
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
    depths=dict(depths or {}),
  )


def layer_decay(decay: float, blocks: Mapping[str, int]) -> dict[str, float]:
  """Learning rate factors that decrease towards the input of an encoder (Clark et al. 2020, ICLR).

  The last block has `decay`, the one before it its square, and so on; what is before the first block has one
  power more. The norm after the last block, and all that is no part of a backbone, have 1.

  Args:
    decay: the factor from one block to the one before it.
    blocks: number of blocks of each sensor's backbone.

  Returns:
    The factor by a regular expression for the parameter's path.
  """
  out: dict[str, float] = {}
  for sensor, count in blocks.items():
    backbone = rf"(^|/){re.escape(sensor)}/backbone/"
    out |= {f"{backbone}blocks/{i}/": decay ** (count - i) for i in range(count)}
    out |= {f"{backbone}norm/": 1.0, backbone: decay ** (count + 1)}
  return out


def decayed(params: Any) -> Any:
  """Which parameters have weight decay: matrices and convolution kernels."""
  kernel = lambda path, p: p.ndim >= 2 and not re.search(NOT_DECAYED, path_name(path))
  return jax.tree_util.tree_map_with_path(kernel, params)


def make_schedule(
  kind: str, rate: float, max_epochs: int, warmup: float = 0.0, unit: str = "epochs"
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Makes a learning rate schedule.

  `constant` stays at `rate`. `cosine` (Loshchilov & Hutter 2017) and `linear` decrease to 0 at the end of the
  last epoch. `one_cycle` (Smith & Topin 2019) increases from rate/25 in 30 % of the steps, then decreases to
  rate/250 000, both along a cosine. `coslog4` (Holzmüller et al. 2024, NeurIPS) is rate/2 (1 - cos(2 π
  log2(1 + 15 t))) at the share t of all steps: four waves from 0 to `rate` and back, each twice as long as
  the one before.

  Returns:
    A function of the step and the number of steps per epoch, which are scalars. Its result is float32.
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
    if kind == "coslog4":
      waves = jnp.log2(1.0 + 15.0 * step / (max_epochs * steps_per_epoch))
      return rate * 0.5 * (1.0 - jnp.cos(2.0 * jnp.pi * waves))
    first = warmup * (steps_per_epoch if unit == "epochs" else 1.0)
    rest = jnp.maximum(max_epochs * steps_per_epoch - first, 1.0)
    share = jnp.clip((step - first) / rest, 0.0, 1.0)
    shapes = {"constant": jnp.ones(()), "cosine": cosine(share), "linear": 1.0 - share}
    full = shapes[kind]
    warm = jnp.minimum((step + 1.0) / jnp.maximum(first, 1.0), 1.0) if warmup else jnp.ones(())
    return rate * full * warm * jnp.ones(())

  return schedule


@dataclasses.dataclass(frozen=True)
class Average:
  """An average of parameters and batch statistics over a training.

  Attributes:
    kind: `ema`, an exponential average over steps; or `swa`, the mean over the ends of the last epochs
      (Izmailov et al. 2018).
    decay: decay of `ema`. In the first steps, (1 + step) / (10 + step) is used if it is smaller.
    first_epoch: the first epoch (from 0) that `swa` includes.
  """

  kind: str
  decay: float = 0.999
  first_epoch: int = 0

  def after_step(self, average: Any, new: Any, step: jax.Array) -> Any:
    """The average after an optimizer step. `step` is the number of earlier steps."""
    if self.kind != "ema":
      return average
    decay = jnp.minimum(self.decay, (1.0 + step) / (10.0 + step))
    return _mixed(average, new, 1.0 - decay)

  def after_epoch(self, average: Any, new: Any, epoch: jax.Array) -> Any:
    """The average at the end of an epoch. `epoch` is the number of earlier epochs."""
    if self.kind != "swa":
      return average
    # Before `first_epoch`, the average is the current model.
    return _mixed(average, new, 1.0 / jnp.maximum(epoch - self.first_epoch + 1.0, 1.0))


def _mixed(old: Any, new: Any, share: jax.Array) -> Any:
  """Interpolates between old and new values. Integers (counters) are the new ones."""
  mix = lambda o, n: (o + share * (n - o)).astype(o.dtype) if jnp.issubdtype(o.dtype, jnp.floating) else n
  return jax.tree.map(mix, old, new)
