"""What a configuration asks for: the prepared data, the trainings, their recipe, and what feeds them."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.data import dataset as data
from colearn_jax.data import splits as protocols
from colearn_jax.data.augment import make_augment
from colearn_jax.data.splits import Run
from colearn_jax.data.statistics import make_normalisation
from colearn_jax.datasets import build
from colearn_jax.methods import mdico
from colearn_jax.parallel import processes as distributed
from colearn_jax.parallel import sharding
from colearn_jax.training import steps
from colearn_jax.training.feed import OnDevice, Streamed
from colearn_jax.types import InputError, Modality, Task
from colearn_jax.weights import imagenet as images


def prepare(config: ConfigDict) -> Path:
  """The prepared data set, which the first process builds if need be."""
  data_dir = config.data.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  make = functools.partial(build.build, config.data.name, data_dir, manual_dir=config.data.manual_dir or None)
  prepared = make() if distributed.first() else None
  distributed.wait("data")
  return prepared or make()  # for the others it is there by now


def make_runs(config: ConfigDict, dataset: data.Dataset, index: data.Index) -> list[Run]:
  """The trainings that the protocol asks for.

  Raises:
    InputError: the data set has no such group or split, or is too small for the folds.
  """
  group_by = config.protocol.group_by
  if group_by and group_by not in dataset.groups:
    have = ", ".join(dataset.groups) or "none"
    raise InputError(f"protocol.group_by: {dataset.name} has no group {group_by!r}, have: {have}")
  # Samples without a label are there for the terms that need none; without those they would only cost.
  unsupervised = config.method != "individual" and config.loss.contrastive + config.loss.discriminative > 0
  settings = ("",) if config.method == "individual" else ("", *config.loss.ablations)
  runs = protocols.runs(
    config.protocol.name,
    config.protocol.seeds,
    dataset.parts,
    labelled=index.labelled,
    unsupervised=unsupervised,
    folds=config.protocol.folds if config.protocol.split == "kfold" else None,
    groups=index.groups[group_by] if group_by else None,
    validation_fraction=config.protocol.validation_fraction,
  )
  return [dataclasses.replace(run, setting=setting) for setting in settings for run in runs]


def weights(config: ConfigDict, setting: str = "") -> dict[str, float]:
  """The weight of every term of the objective, in a setting of `loss.ablations`."""
  own = {term: config.loss[term] for term in mdico.TERMS} | (config_lib.ablation(setting) if setting else {})
  return own | (dict.fromkeys(mdico.TERMS[1:], 0.0) if config.method == "individual" else {})


def wanted_terms(config: ConfigDict) -> tuple[str, ...]:
  """The terms of the objective that count in any setting."""
  settings = ("",) if config.method == "individual" else ("", *config.loss.ablations)
  return tuple(t for t in mdico.TERMS if any(weights(config, setting)[t] > 0 for setting in settings))


def make_recipe(
  config: ConfigDict, task: Task, modalities: list[Modality], *, main_only: bool = False
) -> steps.Recipe:
  """The training that a configuration describes; `main_only` leaves out what predicting does not need."""
  terms = wanted_terms(config) if not main_only else ("main",)
  settings = {m.name: config_lib.encoder_settings(config, m.name) for m in modalities}
  build_model = functools.partial(
    mdico.MDiCo,
    {m.name: m.shape for m in modalities},
    settings,
    len(task.outputs),
    emb_dim=config.model.emb_dim,
    head_layers=tuple(config.model.head_layers),
    variant=config.model.variant,
    terms=terms,
    remat=config.model.remat,
    dtype=jnp.dtype(config.model.dtype),
  )
  optimizer = optax.adam(config.train.learning_rate)
  if config.train.clip_norm > 0:
    optimizer = optax.chain(optax.clip_by_global_norm(config.train.clip_norm), optimizer)
  size, parts = config.train.batch_size, config.train.microbatches
  if main_only:  # wherever it was trained, it predicts on one device
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.local_devices()[:1])
  else:
    if size % parts:
      raise InputError(f"train.microbatches: {parts} parts of train.batch_size={size} would not be equal")
    mesh = sharding.make_mesh(config.mesh.to_dict(), size // parts)
  return steps.Recipe(
    build=lambda rngs: build_model(rngs=rngs),
    task=task,
    temperature=config.loss.temperature,
    negatives=config.loss.negatives,
    similarity=_similarity(config, mesh),
    optimizer=optimizer,
    batch_size=size,
    microbatches=parts,
    patience=config.train.patience,
    min_delta=config.train.min_delta,
    mesh=mesh,
    augment=make_augment(config.augment.to_dict()),
  )


def _similarity(config: ConfigDict, mesh: jax.sharding.Mesh) -> str:
  """`loss.similarity`, or what suits the batch: a ring pays once the whole matrix, [2B 2B], is large."""
  if config.loss.similarity != "auto":
    return config.loss.similarity
  split = mesh.shape["data"] * mesh.shape["fsdp"] > 1
  return "ring" if split and config.train.batch_size >= 4096 else "dense"


def load_pretrained(config: ConfigDict, modalities: list[Modality]) -> dict:
  """What encoders begin with that was trained elsewhere, for `steps.init`; a modality's two alike."""
  out = {"params": {"unique": {}, "common": {}}, "stats": {"unique": {}, "common": {}}}
  for m in modalities:
    for kind, backbone in images.load(config_lib.encoder_settings(config, m.name), m.shape).items():
      for branch in out[kind].values():
        branch[m.name] = {"backbone": backbone}
  return out


def make_feed(
  config: ConfigDict,
  recipe: steps.Recipe,
  dataset: data.Dataset,
  modalities: list[Modality],
  index: data.Index,
) -> OnDevice | Streamed:
  """Places the samples on the device if they fit there, else streams them."""
  wanted = wanted_terms(config)
  options = {
    "class_weights": config.loss.class_weights,
    "weights": lambda run: {term: w for term, w in weights(config, run.setting).items() if term in wanted},
    "normalisation": make_normalisation(
      config.data.normalisation, config.data.fixed.to_dict(), dataset, modalities
    ),
  }
  reader = data.make_reader(dataset, modalities)
  small = data.table_bytes(reader) <= config.data.device_bytes
  if config.data.placement == "device" or (config.data.placement == "auto" and small):
    return OnDevice(recipe, modalities, data.read_table(reader), index, **options)
  if config.train.replicas:
    raise InputError(
      "train.replicas: trainings beside each other need their samples on the device; "
      "data.placement=device, or train.replicas=False"
    )
  return Streamed(recipe, modalities, dataset, index, workers=config.data.workers, **options)
