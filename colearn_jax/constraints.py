"""Rules of a configuration that involve several keys, but not the data."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from colearn_jax.rules import Setting
from colearn_jax.values import check, refuse


def check_together(config: ConfigDict, known: Mapping[str, Setting]) -> None:
  """Checks the rules that involve several keys.

  Args:
    config: the configuration, whose values are allowed one by one.
    known: all settings of its method and encoder, by dotted key.

  Raises:
    InputError: values do not go together.
  """
  from colearn_jax import methods

  terms = methods.find(config.method).terms
  for name, weights in config.loss.ablations.items():
    for term, weight in weights.items():
      if term not in terms:
        refuse(f"loss.ablations.{name}", term, f"a loss term of {config.method}: {', '.join(terms)}")
      check(f"loss.ablations.{name}.{term}", weight, known[f"loss.{term}"].rule)
  if config.data.fourier and "location" not in config.data.context:
    refuse("data.fourier", config.data.fourier, "0, or location among the names of data.context")
  if config.loss.group_balance and not config.protocol.group_by:
    refuse("loss.group_balance", config.loss.group_balance, "0 without protocol.group_by")
  _check_validation(config)
  _check_ridge(config, known)
  _check_teacher(config)
  for modality in config.model.encoders:
    if modality not in config.data.modalities:
      refuse("model.encoders", modality, f"a configured modality: {', '.join(config.data.modalities)}")


def _check_teacher(config: ConfigDict) -> None:
  """Checks that every prediction is learnt from something, and that a teacher's inputs have a teacher."""
  from colearn_jax.methods.configured import ablations, make_method, weights

  for name in ablations(config):
    own = weights(config, name)
    if own["main"] == 0 and not own.get("distillation", 0.0):
      key = f"loss.ablations.{name}.main" if name else "loss.main"
      refuse(key, 0, "a number > 0, or 0 with loss.distillation > 0")
  for key in ("teacher_context", "teacher_sensors"):
    if config.loss.get(key) and make_method(config).reads is None:
      refuse(f"loss.{key}", config.loss[key], "(), for there is no teacher: loss.distillation=0")


def _check_ridge(config: ConfigDict, known: Mapping[str, Setting]) -> None:
  """Checks that heads which begin in closed form have one, and that anything is trained at all."""
  from colearn_jax import methods

  train, model = config.train, config.model
  if model.members > 1 and not model.projection:
    refuse("model.projection", False, f"True with model.members={model.members}")
  if train.group_effect and not (train.group_effect_of or config.protocol.group_by):
    allowed = "0 without protocol.group_by or train.group_effect_of"
    refuse("train.group_effect", train.group_effect, allowed)
  if train.group_effect_of and not train.group_effect:
    refuse("train.group_effect_of", train.group_effect_of, "empty without train.group_effect")
  if not train.ridge:
    if train.group_effect:
      refuse("train.group_effect", train.group_effect, "0; more only with train.ridge")
    if not train.max_epochs:
      refuse("train.max_epochs", 0, "an integer >= 1; 0 only with train.ridge")
    encoders = {"encoder": model.encoder} | {f"encoders.{m}": own for m, own in model.encoders.items()}
    for name, own in encoders.items():
      if own.get("metric_rounds"):
        refuse(f"model.{name}.metric_rounds", own.metric_rounds, "0; more only with train.ridge")
    return
  augment = config.augment.to_dict()
  random = [f"augment.{key}" for key, value in augment.items() if value != known[f"augment.{key}"].default]
  if not train.max_epochs and (random or train.mixup):
    key = random[0] if random else "train.mixup"
    refuse(key, augment[key.partition(".")[2]] if random else train.mixup, "its default without epochs")
  solved = ", ".join(name for name, method in methods.METHODS.items() if method.closed_form)
  for key, value, other, allowed in (
    ("method", config.method, methods.find(config.method).closed_form, f"a method of: {solved}"),
    ("model.head_layers", model.head_layers, not model.head_layers, "()"),
    ("model.members", model.members, model.members == 1, "1"),
    ("loss.huber", config.loss.huber, not config.loss.huber, "0"),
    ("train.patience", train.patience, train.max_epochs > 0 or not train.patience, "0 without epochs"),
    ("train.keep", train.keep, train.max_epochs > 0 or train.keep == "last", "last without epochs"),
  ):
    if not other:
      refuse(key, value, f"{allowed}; train.ridge={train.ridge} solves linear heads in closed form")


def _check_validation(config: ConfigDict) -> None:
  """Checks that there is a validation part if anything is chosen by it."""
  own, train = config.protocol, config.train
  if own.scored == "validation" and own.name != "clean":
    refuse("protocol.scored", "validation", "test; only protocol.name=clean holds out a validation part")
  if own.validation_fraction == 0:
    for key, other in (
      ("protocol.scored=validation", own.scored == "validation"),
      (f"protocol.name={own.name}", own.name != "clean"),
      (f"train.patience={train.patience}", train.patience > 0),
      (f"train.keep={train.keep}", train.keep != "last"),
    ):
      if other:
        allowed = f"a fraction > 0, as {key} needs a validation part; without one: protocol.name=clean, "
        refuse("protocol.validation_fraction", 0, f"{allowed}train.patience=0 and train.keep=last")
