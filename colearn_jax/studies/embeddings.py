"""Embeddings of pretrained encoders as they are published, as inputs of trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from colearn_jax import encoders
from colearn_jax.methods.configured import encoder_settings
from colearn_jax.methods.predict import normalise
from colearn_jax.types import CONTEXT, UNIT_VECTOR, InputError, Modality
from colearn_jax.weights import pretrained

BATCH = 256  # samples at a time


def embed(
  config: ConfigDict, modalities: Sequence[Modality], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The features of each sensor's backbone with the values of its file. Nothing is trained.

  Args:
    config: its encoders have `weights` and know bands.
    modalities: the sensors, and the context if there is one. The place is read if the context has it.
    inputs: raw values of all samples `[N *shape]` by modality.

  Returns:
    `[N D]` float32 by sensor. Rows of samples without the sensor mean nothing.

  Raises:
    InputError: an encoder has no weights or does not know bands, or its file does not fit.
  """
  columns: Sequence[str] = next((m.bands for m in modalities if m.name == CONTEXT), ())
  at = columns.index(UNIT_VECTOR[0]) if UNIT_VECTOR[0] in columns else None
  place = None if at is None else inputs[CONTEXT][:, at : at + len(UNIT_VECTOR)]
  sensors = [m for m in modalities if m.name != CONTEXT]
  return {m.name: _embed(config, m, inputs[m.name], place) for m in sensors}


def _embed(config: ConfigDict, modality: Modality, x: np.ndarray, place: np.ndarray | None) -> np.ndarray:
  settings = pretrained.sized(encoder_settings(config, modality.name, modality.shape))
  constants = encoders.normalisation(settings, modality)
  if constants is None or not settings["weights"]:
    raise InputError(
      f"trees on the embedding of {modality.name}: encoder {settings['model_type']} "
      f"{'does not know bands' if constants is None else 'has no weights'}; weights for one of: "
      f"{', '.join(encoders.BY_BAND)}"
    )
  fixed = {name: jnp.asarray(value) for name, value in constants.items()}
  known: dict[str, Any] = {} if place is None else {"context": len(UNIT_VECTOR), "place": 0}
  build = lambda: encoders.make_encoder(
    settings, modality.shape, 2, modality=modality, rngs=nnx.Rngs(0), **known
  )
  encoder = nnx.eval_shape(build)
  pretrained.load(settings, encoder.backbone)
  graphdef, state = nnx.split(encoder)
  unused = lambda a: np.zeros(a.shape, a.dtype) if isinstance(a, jax.ShapeDtypeStruct) else a
  values = jax.tree.map(unused, nnx.to_pure_dict(state))  # the projection behind the backbone is not read

  @jax.jit
  def run(values, x, place):
    encoder = nnx.merge(graphdef, values)
    scaled = normalise({modality.name: x}, {modality.name: fixed})[modality.name]
    return encoder.features(scaled if place is None else (scaled, place))

  parts = [slice(begin, begin + BATCH) for begin in range(0, len(x), BATCH)]
  pick = lambda a, part: None if a is None else jnp.asarray(a[part])
  return np.concatenate([np.asarray(run(values, pick(x, part), pick(place, part))) for part in parts])
