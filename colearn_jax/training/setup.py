"""Makes the parts of a training from a configuration: prepared data, runs, recipe and samples."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from colearn_jax import encoders
from colearn_jax.data import grouping, splits
from colearn_jax.data.apart import Apart
from colearn_jax.data.augment import make_augment
from colearn_jax.data.dataset import Dataset, context_modality
from colearn_jax.data.reader import Index, check_unchanged, make_reader, read_table, table_bytes
from colearn_jax.data.splits import Run
from colearn_jax.data.statistics import make_normalisation
from colearn_jax.datasets import build
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Network
from colearn_jax.methods.configured import ablations, encoder_settings, make_method, make_network, weights
from colearn_jax.nn import random
from colearn_jax.objectives.task import LossOptions
from colearn_jax.parallel import processes, sharding
from colearn_jax.training import closed_form
from colearn_jax.training.on_device import OnDevice
from colearn_jax.training.optimizer import Average, layer_decay, make_optimizer
from colearn_jax.training.state import Recipe, Tree
from colearn_jax.training.streaming import Streamed
from colearn_jax.training.teaching import make_arrays
from colearn_jax.types import InputError, Modality, Task
from colearn_jax.weights import pretrained


def prepare(config: ConfigDict) -> Path:
  """The directory of the prepared data set. The first process builds it if necessary."""
  data_dir = config.data.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  make = functools.partial(build.build, config.data.name, data_dir, manual_dir=config.data.manual_dir or None)
  prepared = make() if processes.first() else None
  processes.wait("data")
  return prepared or make()  # the other processes find the finished data set


def make_modalities(config: ConfigDict, dataset: Dataset) -> list[Modality]:
  """The sensors of a configuration, followed by the context if there is one.

  Series have a band for the month if their encoder reads it.
  """
  months = lambda m: encoders.reads_months(encoder_settings(config, m.name, m.shape))
  plain = [dataset.modality(name) for name in config.data.modalities]
  sensors = [dataset.modality(m.name, months=True) if months(m) else m for m in plain]
  if not config.data.context:
    return sensors
  return [*sensors, context_modality(dataset, config.data.context, config.data.fourier)]


@functools.cache  # a method's teachers and its baseline use the same splits
def _mention_once(line: str) -> None:
  print(line, file=sys.stderr)


def make_groups(config: ConfigDict, index: Index, seed: int, key: str) -> dict[str, np.ndarray]:
  """The groups of all samples that a key names, by feature, see `grouping.features`."""
  return grouping.features(
    functools.reduce(getattr, key.split("."), config),
    index.groups,
    dates=index.dates,
    places=index.places,
    block_km=config.protocol.block_km,
    seed=seed,
    key=key,
  )


def make_apart(config: ConfigDict, index: Index, seed: int) -> Apart:
  """The rules that keep the parts of a seed's runs apart.

  Raises:
    InputError: the data set has no such group, or a sample lacks the date or the place that a rule needs.
  """
  own, dates, places = config.protocol, index.dates, index.places
  return Apart(
    groups=make_groups(config, index, seed, "protocol.group_by"),
    purge=own.purge,
    dates=grouping.known(dates, "date", "protocol.purge") if own.purge else None,
    buffer_km=own.buffer_km,
    places=grouping.known(places, "coordinates", "protocol.buffer_km") if own.buffer_km else None,
  )


def make_runs(config: ConfigDict, dataset: Dataset, index: Index) -> list[Run]:
  """Makes the runs of the protocol, for the configuration itself and for each ablation.

  Raises:
    InputError: the data set has no such group or split, is too small for the folds, or lacks labels.
  """
  protocol, kfold = config.protocol, config.protocol.split == "kfold"
  own = [name for name, rows in dataset.parts.items() if len(rows)]
  if kfold and len(own) > 1 and processes.first():
    _mention_once(
      f"the splits of {dataset.name} ({', '.join(own)}) are not used: protocol.split=kfold cuts folds "
      "from all its samples; protocol.split=official uses them"
    )
  # Samples without a label are used only if a loss term needs no labels.
  unsupervised = config.train.unlabelled and make_method(config).uses_unlabelled
  runs = []
  for seed in protocol.seeds:
    runs += splits.runs(
      protocol.name,
      (seed,),
      dataset.parts,
      labelled=index.labelled,
      unsupervised=unsupervised,
      folds=protocol.folds if kfold else None,
      apart=make_apart(config, index, seed),
      validation_fraction=protocol.validation_fraction,
      min_samples=protocol.min_samples,
    )
  if kfold and protocol.min_samples > 1 and processes.first():
    tested = sum(len(run.test) for run in runs if run.seed == runs[0].seed)
    if left := int(index.labelled.sum()) - tested:
      _mention_once(
        f"{left} of {index.labelled.sum()} labelled samples are not tested with seed {runs[0].seed}: their "
        f"folds have fewer than protocol.min_samples={protocol.min_samples}; they only train"
      )
  if protocol.scored == "validation":
    runs = [dataclasses.replace(run, test=run.validation) for run in runs]
  return [dataclasses.replace(run, ablation=ablation) for ablation in ablations(config) for run in runs]


def make_recipe(
  config: ConfigDict,
  task: Task,
  modalities: Sequence[Modality],
  teachers: Mapping[str, Network] | None = None,
) -> Recipe:
  """Makes the recipe of a training.

  Args:
    config: the configuration.
    task: task of the data set.
    modalities: the sensors, and the context if there is one.
    teachers: networks of the methods that this method requires, by name.

  Raises:
    InputError: the batch cannot be divided evenly over devices or microbatches.
  """
  train, size, parts = config.train, config.train.batch_size, config.train.microbatches
  if size % parts:
    raise InputError(f"train.microbatches: {parts} parts of train.batch_size={size} would not be equal")
  network = make_network(config, task, modalities)
  average = Average(train.average, train.average_decay, int(train.average_start * train.max_epochs))
  return Recipe(
    network=network,
    teachers=dict(teachers or {}),
    optimizer=make_optimizer(
      train.optimizer,
      learning_rate=train.learning_rate,
      max_epochs=train.max_epochs,
      momentum=train.momentum,
      weight_decay=train.weight_decay,
      clip_norm=train.clip_norm,
      schedule=train.schedule,
      warmup=train.warmup,
      schedule_unit=train.schedule_unit,
      rates=train.rates.to_dict(),
      depths=_depths(train.layer_decay, network.architecture),
    ),
    average=None if train.average == "none" else average,
    augment=make_augment(config.augment.to_dict(), [m.name for m in modalities if m.months]),
    mixup=train.mixup,
    loss=LossOptions(config.loss.huber, config.loss.label_smoothing),
    batch_size=size,
    microbatches=parts,
    max_epochs=train.max_epochs,
    patience=train.patience,
    min_delta=train.min_delta,
    keep_last=train.keep == "last",
    ridge=train.ridge,
    group_effect=train.group_effect,
    nonfinite=train.nonfinite,
    project_conflicts=train.gradients == "pcgrad",
    mesh=sharding.make_mesh(config.mesh.to_dict(), size // parts),
  )


def _depths(decay: float, architecture: Architecture) -> dict[str, float]:
  """The learning rate factors of train.layer_decay. InputError if no encoder has blocks."""
  if decay == 1:
    return {}
  nets = {m: nnx.eval_shape(functools.partial(_backbone, architecture, m)) for m in architecture.sensors}
  blocks = {m: len(net.blocks) for m, net in nets.items() if hasattr(net, "blocks")}
  if not blocks:
    raise InputError(
      f"train.layer_decay: {decay} needs an encoder with blocks: {', '.join(encoders.BY_BAND)}"
    )
  return layer_decay(decay, blocks)


def load_pretrained(network: Network) -> Tree:
  """Reads the pretrained variables of encoders with the argument `weights`, for `state.init`."""
  sensors = network.architecture
  out: Tree = {"params": {}, "stats": {}}
  if not any(settings.get("weights") for settings in sensors.encoders.values()):
    return out
  model = nnx.eval_shape(lambda: network.method.build(sensors, rngs=random.keys()))
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  for sensor in sensors.sensors:
    net = nnx.eval_shape(functools.partial(_backbone, sensors, sensor))
    for kind, backbone in pretrained.load(sensors.encoders[sensor], net).items():
      for group, named in params.items():
        if isinstance(named.get(sensor), dict) and "backbone" in named[sensor]:
          out[kind].setdefault(group, {})[sensor] = {"backbone": backbone}
  return out


def _backbone(architecture: Architecture, sensor: str) -> nnx.Module:
  return architecture.encoder(sensor, rngs=random.keys()).backbone


def table_fits(config: ConfigDict, dataset: Dataset, modalities: Sequence[Modality], copies: int = 1) -> bool:
  """Whether so many copies of all samples are small enough to be kept on the device."""
  return copies * table_bytes(make_reader(dataset, modalities)) <= config.data.device_bytes


def make_samples(
  config: ConfigDict,
  recipe: Recipe,
  dataset: Dataset,
  modalities: Sequence[Modality],
  index: Index,
  like: OnDevice | None = None,
) -> OnDevice | Streamed:
  """Copies the samples to the device if they fit there, else streams them from disk.

  Args:
    config: the configuration.
    recipe: the recipe.
    dataset: the data set.
    modalities: the sensors, and the context if there is one.
    index: index of all samples.
    like: those of another training that reads the same data, whose copy is shared.
  """
  wanted = [term for term in recipe.method.terms if getattr(recipe.method, term) > 0]
  stream = config.data.placement == "stream"
  on_device = config.data.placement == "device" or (not stream and table_fits(config, dataset, modalities))
  read = lambda: read_table(make_reader(dataset, modalities))
  table = None if not on_device else read() if like is None else like.table
  check_unchanged(dataset, index)  # a table is read once; batches are read later, see `Streamed`
  apart = functools.partial(make_apart, config, index)

  def balance(run: Run) -> np.ndarray:
    rows = run.train[index.labelled[run.train]]
    return grouping.balance(apart(run.seed).groups, rows, config.loss.group_balance)

  def groups(run: Run) -> np.ndarray:
    key = "train.group_effect_of" if config.train.group_effect_of else "protocol.group_by"
    return grouping.codes(make_groups(config, index, run.seed, key), run.train)

  settings = recipe.network.architecture.encoders
  own = {m.name: encoders.normalisation(settings[m.name], m) for m in modalities if m.name in settings}
  options = {
    "class_weights": config.loss.class_weights,
    "weights": lambda run: {term: weights(config, run.ablation)[term] for term in wanted},
    "arrays": make_arrays(config, recipe.method, dataset, index, table, apart),
    "balance": balance if config.loss.group_balance else None,
    "groups": groups if config.train.group_effect else None,
    "normalisation": make_normalisation(
      config.data.normalisation,
      config.data.fixed.to_dict(),
      dataset,
      modalities,
      {name: constants for name, constants in own.items() if constants is not None},
    ),
  }
  if table is not None:
    return OnDevice(
      recipe, modalities, table, index, device_table=like.device_table if like else None, **options
    )
  for key, value, why, other in (
    ("train.replicas", config.train.replicas, "runs that are trained together", False),
    ("train.ridge", config.train.ridge, "heads in closed form", 0),
    ("model.encoder", closed_form.needed(recipe), "encoders with landmarks", "another one"),
  ):
    if value:
      raise InputError(
        f"{key}: {why} need their samples on the device; data.placement=device, or {key}={other}"
      )
  return Streamed(recipe, modalities, dataset, index, workers=config.data.workers, **options)
