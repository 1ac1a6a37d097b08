"""Makes the method, the architecture and the network that a configuration describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from colearn_jax import encoders, methods
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Method, Network
from colearn_jax.types import CONTEXT, UNIT_VECTOR, InputError, Modality, Task, context_layout


def make_method(config: ConfigDict) -> Method:
  """The method with its settings. Each loss term has the highest of its weights over all ablations."""
  names = methods.settings(config.method)
  plain = lambda value: value.to_dict() if isinstance(value, ConfigDict) else value
  method = methods.find(config.method)(**{name: plain(config.loss[name]) for name in names})
  every = [weights(config, ablation) for ablation in ablations(config)]
  return dataclasses.replace(method, **{term: max(w[term] for w in every) for term in method.terms})


def ablations(config: ConfigDict) -> tuple[str, ...]:
  """Names of all settings to train: "" for the configuration itself, then those in `loss.ablations`."""
  return ("", *config.loss.ablations)


def weights(config: ConfigDict, ablation: str = "") -> dict[str, float]:
  """The weight of every loss term in an ablation, or in the configuration itself."""
  own = {term: float(config.loss[term]) for term in methods.find(config.method).terms}
  return own | (dict(config.loss.ablations[ablation]) if ablation else {})


def make_architecture(config: ConfigDict, task: Task, modalities: Sequence[Modality]) -> Architecture:
  """The architecture of a configuration. `modalities` are the sensors, and the context if there is one."""
  if config.model.members > 1 and not methods.find(config.method).allows_members:
    have = ", ".join(name for name, method in methods.METHODS.items() if method.allows_members)
    raise InputError(f"model.members: method={config.method} has no members; 1, or a method of: {have}")
  sensors: Mapping[str, Modality] = {m.name: m for m in modalities if m.name != CONTEXT}
  columns: Sequence[str] = next((m.bands for m in modalities if m.name == CONTEXT), ())
  *encoded, static = context_layout(columns)
  return Architecture(
    shapes={name: m.shape for name, m in sensors.items()},
    encoders={name: encoder_settings(config, name, m.shape) for name, m in sensors.items()},
    task=task,
    emb_dim=config.model.emb_dim,
    projection=config.model.projection,
    head_layers=tuple(config.model.head_layers),
    members=config.model.members,
    standardised=config.model.standardised,
    context=len(columns),
    context_parts=(*encoded, len(static)) if columns else (),
    place=columns.index(UNIT_VECTOR[0]) if UNIT_VECTOR[0] in columns else None,
    modalities=sensors,
    remat=config.model.remat,
    dtype=jnp.dtype(config.model.dtype),
  )


def encoder_settings(
  config: ConfigDict, modality: str, shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
  """The settings of one modality's encoder, for `encoders.make_encoder`.

  The entry of the modality in `model.encoders` overrides `model.encoder`. If it sets another `model_type`,
  the arguments in `model.encoder` are not used. `auto` is replaced by the encoder for the shape. With
  `model.encoder.model_type=auto`, the other arguments in `model.encoder` are kept.

  Args:
    config: the configuration.
    modality: name of the modality.
    shape: shape of one sample; needed if the encoder is `auto`.

  Raises:
    InputError: `auto` has no encoder for this shape.
  """
  common, own = config.model.encoder.to_dict(), config.model.encoders.to_dict().get(modality, {})
  same = common["model_type"] in ("auto", own.get("model_type", common["model_type"]))
  arguments = common | own if same else own
  if arguments["model_type"] == "auto":
    arguments = arguments | {"model_type": encoders.automatic(shape or ())}
  return arguments


def make_network(config: ConfigDict, task: Task, modalities: Sequence[Modality]) -> Network:
  """The method and the architecture of a configuration."""
  return Network(make_method(config), make_architecture(config, task, modalities))
