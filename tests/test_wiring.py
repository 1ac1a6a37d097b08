"""Every key of a configuration changes what a training uses.

`WIRING` names each key once, with another value than the default and with what shows its effect. A new key of
the schema has to be added there. The training is begun for real, and stopped before its first epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import types
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from colearn_jax.datasets import build
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax import effects, rules, schema
from colearn_jax.data import dataset as datasets
from colearn_jax.data.augment import Augment
from colearn_jax.data.reader import Index, labels
from colearn_jax.training import run, setup, side_by_side, work_directory
from colearn_jax.training.epoch import end_epoch
from colearn_jax.training.state import Best, Stop, TrainState, init
from colearn_jax.training.step import train_step
from colearn_jax.types import InputError, Task

NEEDED = {"data.name": "lfmc", "data.modalities": ("S1_S1Ind", "S2_S2Ind"), "protocol.folds": 3}
SMALL = {"model.emb_dim": 8, "model.encoder.layer_size": 4, "model.encoder.n_layers": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A small prepared LFMC."""
  manual, made = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("prepared")
  write_dummy(manual / "training_features.csv", rows=72, sites=12)
  return build.build("lfmc", made, manual_dir=manual)


def configuration(values):
  """A configuration with these values by dotted key, and the defaults of their method and encoder."""
  encoder = values.get("model.encoder.model_type", schema.ENCODER)
  config = schema.defaults(encoder, values["method"])
  with config.ignore_type():  # protocol.folds is a number or text
    for key, value in values.items():
      *groups, name = key.split(".")
      inner = functools.reduce(lambda node, part: node[part], groups, config)
      if name in inner:  # another encoder lacks some of the small sizes
        inner[name] = schema.group(value) if rules.is_group(value) else value
  return config.lock()


class Begun(Exception):
  """Stops a training before its first epoch."""


class Training(NamedTuple):
  """What a training uses.

  Attributes:
    config: of the training.
    built: what the data set was built with: name, data_dir, manual_dir.
    series: how series get one length.
    dataset: that was opened.
    runs: all of them.
    stack: the runs that are trained first, at the same time.
    samples: of the training, with the recipe.
    processes: number of processes that would train side by side.
  """

  config: Any
  built: tuple
  series: Any
  dataset: Any
  runs: list
  stack: list
  samples: Any
  processes: int

  @property
  def recipe(self):
    """The recipe."""
    return self.samples.recipe

  @property
  def values(self):
    """What the first run's state holds as `values`."""
    return self.samples._values(self.runs[0])


def begin(config, prepared, workdir) -> Training:
  """Begins a training, and stops it where its first run would be trained."""
  seen = {}

  def built(name, data_dir, manual_dir=None):
    seen["built"] = name, data_dir, manual_dir
    return prepared

  def opened(path, series):
    seen["series"] = series
    seen["dataset"] = datasets.open_dataset(path)
    return seen["dataset"]

  def fit(config, samples, stack, *_, **__):
    seen["samples"], seen["stack"] = samples, stack
    raise Begun

  make_runs, number = setup.make_runs, side_by_side.number

  def runs(config, dataset, index):
    if config.protocol.split == "official":  # LFMC has one split; let the last rows be another
      dataset = dataclasses.replace(dataset, sizes={"train": 48, "test": 24})
    seen["runs"] = make_runs(config, dataset, index)
    return seen["runs"]

  def one_process(trainings, runs):
    seen["processes"] = number(trainings, runs)
    return 1

  with pytest.MonkeyPatch.context() as patch:
    # Some values belong to other data sets; each passes its own rule.
    patch.setattr(run.config_lib, "validate", lambda *_, **__: None)
    patch.setattr(run, "Log", lambda *_, **__: contextlib.nullcontext())
    patch.setattr(build, "build", built)
    patch.setattr(run, "open_dataset", opened)
    patch.setattr(setup, "make_runs", runs)
    patch.setattr(run, "fit", fit)
    patch.setattr(side_by_side, "number", one_process)
    with pytest.raises(Begun):
      run.train(config, workdir)
  return Training(config, **seen)


# What shows the effect of a key: functions of a training, whose results are compared.


def field(path):
  """An attribute, e.g. `recipe.batch_size`."""
  return lambda training: functools.reduce(getattr, path.split("."), training)


def program(training):
  """The text of the train step that is compiled."""
  recipe, rows, size = training.recipe, training.samples.table, training.recipe.batch_size
  values = training.values
  like = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), tree)
  batch = like({**rows, **labels(training.samples.index)}) | {"row": jax.ShapeDtypeStruct((size,), np.int32)}
  state = jax.eval_shape(functools.partial(init, recipe), jax.random.key(0), values)
  text = str(jax.make_jaxpr(functools.partial(train_step, recipe))(state, batch))
  return re.sub(r"0x[0-9a-f]+", "", text)


def refused(training):
  """Why the model cannot be built, if it cannot."""
  try:
    return training.recipe.network.graphdef and "built"
  except InputError as error:
    return str(error)


def rates(training):
  """The learning rate of some steps, of 10 steps an epoch."""
  steps = (0, 5, 15, 300, 1500, 1990)
  return [float(training.recipe.optimizer.schedule(step, 10.0)) for step in steps]


def updates(training):
  """Parameters after two updates with a large gradient, and what the optimizer remembers."""
  optimizer, params = training.recipe.optimizer, {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
  state = optimizer.transform.init(params)
  for grad in (3.0, 1.0):
    grads = jax.tree.map(lambda p, grad=grad: jnp.full_like(p, grad), params)
    params, state = optimizer.update(grads, state, params, 0.1)
  return str(jax.tree.structure(state)), [leaf.tolist() for leaf in jax.tree.leaves(params)]


def average(training):
  """A running average of numbers: after each step, and after each epoch."""
  kept, number = training.recipe.average, lambda value: {"w": jnp.float32(value)}
  if kept is None:
    return None
  steps, epochs = [number(0.0)], [number(0.0)]
  for i in range(1, 200):
    steps.append(kept.after_step(steps[-1], number(i), 1000 + i))
    epochs.append(kept.after_epoch(epochs[-1], number(i), i))
  return float(steps[-1]["w"]), float(epochs[-1]["w"])


def ends(training):
  """For each epoch of a course of objectives: the epochs waited, whether it is over, what is kept."""
  zero, inf, model = jnp.zeros((), jnp.int32), jnp.float32(jnp.inf), {"w": jnp.zeros(())}
  stop, best = Stop(inf, zero, jnp.zeros((), bool)), Best(inf, zero, model, {})
  state = TrainState(zero, zero, model, {}, {}, {}, (), zero, {}, stop, best)
  course = []
  for objective in (5.0, 4.95, 4.9, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5):
    state = end_epoch(training.recipe, state, jnp.float32(objective))
    course.append((int(state.stop.wait), bool(state.stop.done), int(state.best.epoch)))
  return course


def rows(training):
  """The rows of each part of each run."""
  parts = ("train", "validation", "test")
  return [(r.name, [getattr(r, part).tolist() for part in parts]) for r in training.runs]


def unlabelled_rows(training):
  """The training rows of each run, if every fifth sample has no label."""
  old = training.samples.index
  index = Index(old.ids, np.where(np.arange(72)[:, None] % 5, old.target, np.nan), old.groups)
  return [run.train.tolist() for run in setup.make_runs(training.config, training.dataset, index)]


def constants(training):
  """The normalisation of each sensor."""
  return jax.tree.map(lambda a: np.asarray(a).tolist(), training.values["inputs"])


def term(name):
  """The weight of a loss term in the first run."""
  return lambda training: float(training.values["weights"].get(name, 0.0))


def teacher(training):
  """What the teacher says of each sample, rounded: scikit-learn's threads add in any order."""
  return np.nan_to_num(training.values["arrays"]["teacher"]).round(2).tolist()


def balance(training):
  """The weight of each sample, if they have one."""
  return np.asarray(training.values.get("balance", ())).tolist()


def groups(training):
  """The group of each sample that has an effect of its own."""
  return np.asarray(training.values.get("groups", ())).tolist()


def ablated(training):
  """The weights of loss terms in every run."""
  return [(r.name, training.samples._values(r)["weights"]) for r in training.runs]


def class_weights(training):
  """The weights of three unequal classes."""
  config, old = training.config, training.samples.index
  classes = np.minimum(np.arange(72) % 6, 2).astype(np.int32)
  recipe = setup.make_recipe(config, Task("multiclass", ("a", "b", "c")), training.samples.modalities)
  index = Index(old.ids, classes, old.groups)
  samples = setup.make_samples(config, recipe, training.dataset, training.samples.modalities, index)
  return samples._values(training.runs[0])["task"]["class_weights"].tolist()


def command(training):
  """What the command trains, and where its compiled programs are kept."""
  trained, kept, workdir = [], {}, Path("/nowhere/work")
  fake = types.SimpleNamespace(jax_compilation_cache_dir=None, update=kept.__setitem__)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(work_directory, "jax", types.SimpleNamespace(config=fake))
    patch.setattr(run.Path, "mkdir", lambda *_, **__: None)
    patch.setattr(work_directory, "locked", lambda _: contextlib.nullcontext())
    patch.setattr(run, "begin", lambda config, where: trained.append((config.method, where)))
    patch.setattr(side_by_side, "fit", lambda _: None)
    patch.setattr(run.ahead, "turns", lambda trainings: [(one,) for one in trainings])
    patch.setattr(run, "finish", lambda _: None)
    patch.setattr(run.results, "table", lambda *_: "")
    run.run(training.config, workdir)
  return trained, kept


def saved(training, epoch=lambda: None):
  """The epochs of checkpoints, in a training whose epochs compute nothing but what is given."""
  one, epochs = np.ones(1), []
  status = {
    "done": np.zeros(1, bool),
    "fault": -one,
    **dict.fromkeys(("epoch", "best_epoch", "best_objective"), one),
  }
  terms = {"train": {"objective": one, "learning_rate": one}, "validation": {"objective": one}}
  manager = types.SimpleNamespace(latest_step=lambda: None)
  samples = types.SimpleNamespace(
    recipe=training.recipe,
    init=lambda *_, **__: None,
    status=lambda _: status,
    pick=lambda *_: None,
    check_source=lambda: None,
    number=lambda runs, epoch, partial: epoch,
    epochs=lambda *_: contextlib.nullcontext(lambda state: (epoch(), terms)),
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run.models, "open_manager", lambda _: contextlib.nullcontext(manager))
    patch.setattr(run.models, "save", lambda *_: None)
    patch.setattr(run, "finished_model", lambda _: None)
    patch.setattr(run.checkpoint, "save", lambda manager, epoch, *_: epochs.append(epoch))
    patch.setattr(run.checkpoint, "remove", lambda _: None)
    log = types.SimpleNamespace(write=lambda *_: None)
    nothing = lambda *_: {}
    run.fit(training.config, samples, training.runs[:1], Path("/nowhere"), log, nothing, nothing)
  return epochs


def clocked(training):
  """The seconds after which a checkpoint is made within an epoch."""
  given, clock = [], run.Clock
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, "Clock", lambda seconds: (given.append(seconds), clock(seconds))[1])
    saved(training)
  return given


def augmented(name):
  """A setting of what happens to inputs."""
  return lambda training: getattr(training.recipe.augment or Augment(), name)


class Key(NamedTuple):
  """How a key is tested.

  Attributes:
    value: other than the default.
    effect: of a training, see above.
    base: values of other keys with which it has an effect; or of this one, to compare with.
  """

  value: Any
  effect: Any
  base: dict = {}


STREAM = {"data.placement": "stream"}
VIEWS = ("S1", "S1Ind", "S2", "S2Ind")
TAUGHT = {"loss.distillation": 1.0, "loss.trees": 2}
GROUPED = {"train.ridge": 0.5, "train.group_effect": 0.1, "protocol.group_by": "site"}
FIXED = dict.fromkeys(VIEWS, {"offset": 1.0, "scale": 2.0})
WIRING = {
  "method": Key("individual", lambda t: type(t.recipe.method)),
  "baseline": Key(True, command),
  "data.name": Key("other", field("built")),
  "data.data_dir": Key("/elsewhere", field("built")),
  "data.manual_dir": Key("/", field("built")),
  "data.modalities": Key(("S1",), lambda t: [m.name for m in t.samples.modalities]),
  "data.context": Key(("date",), field("recipe.network.architecture.context")),
  "data.fourier": Key(2, field("recipe.network.architecture.context"), {"data.context": ("location",)}),
  "data.placement": Key("stream", lambda t: type(t.samples)),
  "data.device_bytes": Key(10, lambda t: type(t.samples)),
  "data.workers": Key(2, lambda t: t.samples._batches["workers"], STREAM),
  "data.series": Key("month", field("series")),
  "data.lengths": Key({"S2": 5}, field("series")),
  "data.masked_above": Key({"cloud": 50}, field("series")),
  "data.normalisation": Key("minmax", constants),
  "data.fixed": Key(
    dict.fromkeys(VIEWS, {"offset": 1.0, "scale": 5.0}),
    constants,
    {"data.normalisation": "fixed", "data.fixed": FIXED},
  ),
  "mesh.replica": Key(2, lambda t: dict(t.recipe.mesh.shape), {"train.replicas": True, "protocol.folds": 4}),
  "mesh.data": Key(4, lambda t: dict(t.recipe.mesh.shape), {"mesh.fsdp": -1, "mesh.data": 8}),
  "mesh.fsdp": Key(2, lambda t: dict(t.recipe.mesh.shape)),
  "protocol.name": Key("clean", rows),
  "protocol.split": Key("official", rows),
  "protocol.folds": Key(4, rows),
  "protocol.seeds": Key((1, 2), rows),
  "protocol.group_by": Key("site", rows),
  "protocol.block_km": Key(500.0, rows, {"protocol.group_by": "block", "protocol.block_km": 2000.0}),
  "protocol.purge": Key(30, rows, {"protocol.group_by": "year"}),
  "protocol.buffer_km": Key(90.0, rows),
  "protocol.min_samples": Key(15, rows, {"protocol.group_by": "year", "protocol.folds": "each"}),
  "protocol.validation_fraction": Key(0.4, rows, {"protocol.name": "clean"}),
  "protocol.scored": Key("validation", rows, {"protocol.name": "clean"}),
  "model.emb_dim": Key(12, program),
  "model.projection": Key(False, refused),
  "model.head_layers": Key((5,), program),
  "model.members": Key(2, program),
  "model.standardised": Key(True, program),
  "model.dtype": Key("bfloat16", program),
  "model.remat": Key(True, program),
  "model.encoder.model_type": Key("gru", program),
  "model.encoder.layer_size": Key(6, program),
  "model.encoder.n_layers": Key(3, program),
  "model.encoder.kernel_size": Key(3, program),
  "model.encoder.dropout": Key(0.5, program),
  "model.encoder.use_norm": Key("layer", program),
  "model.encoder.seq_len": Key(3, refused),
  "model.encoder.num_features": Key(3, refused),
  "model.encoders": Key({"S1_S1Ind": {"layer_size": 6}}, program),
  "loss.main": Key(2.0, term("main")),
  "loss.auxiliary": Key(2.0, term("auxiliary")),
  "loss.contrastive": Key(2.0, term("contrastive")),
  "loss.discriminative": Key(2.0, term("discriminative")),
  "loss.temperature": Key(0.5, program),
  "loss.negatives": Key("cross", program),
  "loss.similarity": Key("ring", program),
  "loss.backbones": Key("one", program),
  "loss.alignment": Key("mmd", program),
  "loss.unused_features": Key(False, program),
  "loss.weighting": Key("uncertainty", program),
  "loss.variant": Key("released", program),
  "loss.distillation": Key(2.0, term("distillation"), {"loss.trees": 2}),
  "loss.learners": Key(("svm",), teacher, TAUGHT),
  "loss.teacher_sensors": Key(("S1",), teacher, TAUGHT),
  "loss.teacher_context": Key(("date",), teacher, TAUGHT),
  "loss.teacher_folds": Key(3, teacher, TAUGHT),
  "loss.teacher_temperature": Key(3.0, field("recipe.method.teacher_temperature"), TAUGHT),
  "loss.trees": Key(3, teacher, TAUGHT),
  "loss.tree_leaf": Key(9, teacher, TAUGHT),
  "loss.class_weights": Key("none", class_weights),
  "loss.huber": Key(0.5, program),
  "loss.label_smoothing": Key(0.1, field("recipe.loss")),
  "loss.group_balance": Key(1.0, balance, {"protocol.group_by": "site"}),
  "loss.ablations": Key({"more": {"main": 3.0}}, ablated),
  "augment.flip": Key(True, augmented("flip")),
  "augment.quarter_turns": Key(True, augmented("quarter_turns")),
  "augment.crop": Key(0.5, augmented("crop")),
  "augment.time_shift": Key(1, augmented("time_shift")),
  "augment.time_dropout": Key(0.5, augmented("time_dropout")),
  "augment.noise": Key(0.5, program),
  "train.batch_size": Key(16, field("recipe.batch_size")),
  "train.unlabelled": Key(False, unlabelled_rows),
  "train.microbatches": Key(2, program),
  "train.replicas": Key(True, lambda t: [r.name for r in t.stack]),
  "train.workers": Key(2, field("processes")),
  "train.ridge": Key(0.5, field("recipe.ridge")),
  "train.group_effect": Key(0.2, field("recipe.group_effect"), GROUPED),
  "train.group_effect_of": Key("year", groups, GROUPED),
  "train.max_epochs": Key(7, lambda t: (ends(t), saved(t)), {"train.patience": 0}),
  "train.learning_rate": Key(0.1, rates),
  "train.mixup": Key(0.2, program),
  "train.optimizer": Key("lion", updates),
  "train.momentum": Key(0.5, updates, {"train.optimizer": "sgd"}),
  "train.weight_decay": Key(0.5, updates),
  "train.clip_norm": Key(0.5, updates, {"train.optimizer": "sgd"}),
  "train.gradients": Key("pcgrad", program),
  "train.schedule": Key("cosine", rates),
  "train.warmup": Key(3.0, rates),
  "train.schedule_unit": Key("steps", rates, {"train.warmup": 3.0}),
  "train.rates": Key({"bias": 0.0}, updates),
  "train.average": Key("ema", average),
  "train.average_decay": Key(0.5, average, {"train.average": "ema"}),
  "train.average_start": Key(0.25, average, {"train.average": "swa"}),
  "train.patience": Key(2, ends),
  "train.min_delta": Key(0.2, ends),
  "train.keep": Key("last", ends),
  "train.nonfinite": Key("skip", program),
  "train.compilation_cache": Key("/elsewhere", command),
  "checkpoint.every_epochs": Key(7, saved),
  "checkpoint.every_minutes": Key(3.0, clocked),
}
BEGUN: dict[str, tuple[Training, dict]] = {}  # trainings that are compared with, and effects seen in them
OF_METHODS = {method: schema.settings(method, "tempcnn") for method in ("mdico", "individual")}


def test_every_key_is_in_the_table():
  known = set().union(*OF_METHODS.values())
  known -= {"train.layer_decay"}  # needs an encoder with blocks: tests/test_pretrained.py
  assert known - WIRING.keys() == set(), "keys of the schema without a test of their effect"
  assert WIRING.keys() - known == set(), "keys that the schema does not have"


@pytest.mark.parametrize(
  ("method", "key"),
  [
    pytest.param(
      method, key, marks=() if method == "mdico" or key not in OF_METHODS["mdico"] else pytest.mark.long
    )
    for method, settings in OF_METHODS.items()
    for key in WIRING
    # The baseline is this method itself; it has one term, which needs labels.
    if key in settings and not (method == "individual" and key in ("method", "baseline", "train.unlabelled"))
  ],
)
def test_every_key_has_its_effect(prepared, tmp_path, method, key):
  wired, setting = WIRING[key], OF_METHODS[method][key]
  assert setting.rule.ok(wired.value) and wired.value != setting.default
  values = NEEDED | SMALL | {"method": method} | wired.base
  unchanged = str(sorted(values.items()))
  if unchanged not in BEGUN:
    BEGUN[unchanged] = begin(configuration(values), prepared, tmp_path / "before"), {}
  training, effects = BEGUN[unchanged]
  if wired.effect not in effects:
    effects[wired.effect] = wired.effect(training)
  after = wired.effect(begin(configuration(values | {key: wired.value}), prepared, tmp_path / "after"))
  assert effects[wired.effect] != after, f"{key} changes nothing"


# LFMC has no images and no classes.
NEEDS = {key: set(setting.needs) for key, setting in schema.settings().items() if setting.needs}
LFMC = build.describe("lfmc")
FACTS = effects.facts(configuration(NEEDED | SMALL | {"method": "mdico"}), LFMC)
LACKING = {fact for fact, true in FACTS.items() if not true}


@pytest.mark.parametrize(
  "key", [key for key, needs in NEEDS.items() if key in WIRING and not needs & LACKING]
)
def test_a_key_that_has_its_effect_is_not_refused(key):
  config = configuration(NEEDED | SMALL | {"method": "mdico"} | WIRING[key].base | {key: WIRING[key].value})
  assert effects.without_effect(config, [key], LFMC) == {}


def test_an_epoch_may_not_send_arrays_to_the_devices_unasked(prepared, tmp_path):
  training = begin(configuration(NEEDED | SMALL | {"method": "mdico"}), prepared, tmp_path)
  double, numbers = jax.jit(lambda x: 2 * x), np.arange(3.0)
  assert saved(training, lambda: double(jax.device_put(numbers)))
  with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
    saved(training, lambda: double(numbers))
