"""From a model and raw inputs to what a user reads: probabilities, or targets in their unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.base import Method, Predictions
from colearn_jax.nn import layers
from colearn_jax.types import CONTEXT


def normalise(
  inputs: Mapping[str, jax.Array], constants: Mapping[str, Mapping[str, jax.Array]]
) -> dict[str, Any]:
  """What encoders read: (x - offset) / scale on the last axis, with the context beside each sensor's values.

  Args:
    inputs: raw, `[B *shape]` by sensor, integers too, NaN where a value is missing; the context `[B K]` under
      the name `context`, if there is one.
    constants: `offset` and `scale` `[C]` of each.

  Returns:
    For each sensor its values, or the pair of its values and the context. NaN stays NaN.
  """
  scaled = {}
  for m, x in inputs.items():
    offset, scale = (layers.along_last_axis(constants[m][name], x) for name in ("offset", "scale"))
    scaled[m] = (layers.widened(x) - offset) / scale
  context = scaled.pop(CONTEXT, None)
  return scaled if context is None else {m: (x, context) for m, x in scaled.items()}


def has_values(x: jax.Array) -> jax.Array:
  """Which samples of raw `[B *shape]` a sensor has seen, `[B]`: those with any value that is not NaN."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.ones(x.shape[0], jnp.float32)
  return (~jnp.isnan(x)).any(tuple(range(1, x.ndim))).astype(jnp.float32)


def activate(kind: str, output: jax.Array) -> jax.Array:
  """A head's output `[B C]` as probabilities, or as the target in its unit for a regression."""
  if kind == "regression":
    return output
  return jax.nn.sigmoid(output) if kind == "multilabel" else jax.nn.softmax(output)


def predict(
  method: Method,
  model: nnx.Module,
  kind: str,
  constants: Mapping[str, Mapping[str, jax.Array]],
  inputs: Mapping[str, jax.Array],
  present: Mapping[str, jax.Array] | None = None,
) -> Predictions:
  """What every head predicts for every predictor whose sensors are in `inputs`.

  Args:
    method: of the model.
    model: the whole model, or the part for one predictor, see `Method.build`.
    kind: of the task.
    constants: `offset` and `scale` of each sensor, see `normalise`.
    inputs: raw, see `normalise`.
    present: `[B]` by sensor; by default a sensor is present where any of its values is.

  Returns:
    `{head: {predictor: [B C]}}`, NaN where a sensor that the predictor needs is absent.
  """
  sensors = [m for m in inputs if m != CONTEXT]
  present = present or {m: has_values(inputs[m]) for m in sensors}
  outputs = method.forward(model, normalise(inputs, constants), present)
  needs = method.predictors(sensors)

  def known(predictor, output):
    there = jnp.stack([present[m] for m in needs[predictor]]).min(0) > 0
    return jnp.where(there[:, None], activate(kind, output), jnp.nan)

  return {
    head: {predictor: known(predictor, output) for predictor, output in named.items()}
    for head, named in method.predict(outputs).items()
  }
