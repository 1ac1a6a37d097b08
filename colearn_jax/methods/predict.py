"""Predicts probabilities, or targets in their unit, from a model and raw inputs.

Training and deployment both use `predict`, so that they normalise inputs and detect absent sensors alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colearn_jax.methods.base import Method, Predictions
from colearn_jax.nn import layers
from colearn_jax.nn.quantiles import normal_scores
from colearn_jax.types import CONTEXT


def normalise(
  inputs: Mapping[str, jax.Array], constants: Mapping[str, Mapping[str, jax.Array]]
) -> dict[str, Any]:
  """Normalises inputs: (x - offset) / scale on the last axis, or by quantiles.

  Args:
    inputs: raw values `[B *shape]` by sensor, float or integer, NaN or infinite = missing; also the context
      `[B K]` with the name `context`, if there is one.
    constants: `offset` and `scale` `[C]` of each input; or also `quantiles` `[Q C]`, see
      `quantiles.normal_scores`.

  Returns:
    For each sensor the normalised values; with a context, the pair of these values and the context. NaN stays
    NaN.
  """
  scaled = {}
  for m, x in inputs.items():
    x = layers.widened(x)
    x = jnp.where(jnp.isinf(x), jnp.nan, x)  # as builders do, so that every array is read alike
    if "quantiles" in constants[m]:
      scaled[m] = normal_scores(x, constants[m]["quantiles"])
    else:
      offset, scale = (layers.along_last_axis(constants[m][name], x) for name in ("offset", "scale"))
      scaled[m] = (x - offset) / scale
  context = scaled.pop(CONTEXT, None)
  return scaled if context is None else {m: (x, context) for m, x in scaled.items()}


def has_values(x: jax.Array) -> jax.Array:
  """Which samples of raw `[B *shape]` are present, `[B]`: those with at least one finite value."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.ones(x.shape[0], jnp.float32)
  return jnp.isfinite(x).any(tuple(range(1, x.ndim))).astype(jnp.float32)


def mean_prediction(kind: str, output: jax.Array) -> jax.Array:
  """The output `[B C]` whose activation is the mean of the members' activations.

  Of classes this is the logarithm of the mean probability, of labels the logit of the mean probability, of a
  regression the mean.

  Args:
    kind: one of `types.KINDS`.
    output: `[B K C]` of K members, before the activation; `[B C]` is returned as it is.
  """
  if output.ndim == 2:
    return output
  if kind == "regression":
    return output.mean(1)
  log_mean = lambda logs: jax.nn.logsumexp(logs, axis=1) - jnp.log(logs.shape[1])
  if kind == "multilabel":
    return log_mean(jax.nn.log_sigmoid(output)) - log_mean(jax.nn.log_sigmoid(-output))
  return log_mean(jax.nn.log_softmax(output))


def activate(kind: str, output: jax.Array) -> jax.Array:
  """Converts a head's output `[B C]` to probabilities. Regression outputs are returned unchanged."""
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
  """Predicts with every head and every predictor whose sensors are in `inputs`.

  Args:
    method: the method of the model.
    model: the whole model, or the part for one predictor, see `Method.build`.
    kind: kind of the task.
    constants: `offset` and `scale` of each sensor, see `normalise`.
    inputs: raw inputs, see `normalise`.
    present: `[B]` by sensor. Default: samples with at least one value that is not NaN.

  Returns:
    `{head: {predictor: [B C]}}`. A row is NaN if a sensor that the predictor needs is absent.
  """
  sensors = [m for m in inputs if m != CONTEXT]
  present = present or {m: has_values(inputs[m]) for m in sensors}
  outputs = method.forward(model, normalise(inputs, constants), present)
  needs = method.predictors(sensors)

  def known(predictor, output):
    there = jnp.stack([present[m] for m in needs[predictor]]).min(0) > 0
    return jnp.where(there[:, None], activate(kind, mean_prediction(kind, output)), jnp.nan)

  return {
    head: {predictor: known(predictor, output) for predictor, output in named.items()}
    for head, named in method.predict(outputs).items()
  }
