"""Runs our model and our train step on a golden case, for `replay`."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from colearn_jax.encoders import transformer
from colearn_jax.interop import names
from colearn_jax.methods import mdico
from colearn_jax.methods.base import Batch, Network, Values
from colearn_jax.methods.predict import activate, normalise
from colearn_jax.parallel import sharding
from colearn_jax.training.optimizer import Optimizer
from colearn_jax.training.state import Best, Recipe, Stop, TrainState
from colearn_jax.training.step import eval_step, train_step
from colearn_jax.types import InputError
from tests.golden_replay.golden import Arrays, Case

KINDS = {
  "mse": "regression",
  "norm-mse": "regression",
  "ce": "multiclass",
  "bce": "multilabel",
}  # of tasks, by the loss's name
OUTPUTS = {
  "prediction": "prediction",
  "aux_prediction/specific": "auxiliary_specific",
  "aux_prediction/shared": "auxiliary_shared",
  "rep/specific": "specific",
  "rep/shared": "shared",
  "rep/unused": "unused",
  "modality_discr/specific": "modality_specific",
  "modality_discr/unused": "modality_unused",
}


def cast(tree: dict, dtype) -> dict:
  """Converts the floating point arrays of a tree to a dtype."""
  floats = lambda a: jnp.issubdtype(a.dtype, jnp.floating)
  # Converted by NumPy, because JAX would compile a program for each shape.
  return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, dtype) if floats(a) else a), tree)


def split(module: nnx.Module, dtype) -> tuple[nnx.GraphDef, dict, dict]:
  """Splits a module into its structure, parameters and batch statistics, converted to a dtype."""
  graphdef, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  return graphdef, cast(nnx.to_pure_dict(params), dtype), cast(nnx.to_pure_dict(stats), dtype)


def tables(case: Case) -> Arrays:
  """Position tables, which are in no state dict. They are one longer than the series, for the class token."""
  tables = {}
  for key, table in case.family("const").items():
    if key.endswith("pos_encoder.position_encoding"):
      made = case["constructor"]
      for modality in made.get("modalities", ()):
        made = modality if f".{modality['name']}." in key else made
      tables[key] = transformer.positions(made["args"].get("len_max_seq", 0) + 1, table.shape[-1])[None]
  return tables


def read_target(case: Case, kind: str, dtype) -> jax.Array:
  """The target of a case, for `objectives.task.task_loss`."""
  target = case.given("target")
  return jnp.asarray(target.reshape(-1)) if kind == "multiclass" else jnp.asarray(target, dtype)


def task_constants(case: Case, loss: Mapping, kind: str, outputs: int, dtype) -> dict[str, jax.Array]:
  """The constants of `objectives.task.task_loss`, from the settings of a loss and the inputs of a case."""
  each = lambda value: jnp.full(outputs, value, dtype)
  if kind == "multiclass":
    weighted = "in/class_weight" in case.arrays
    return {"class_weights": jnp.asarray(case.given("class_weight"), dtype) if weighted else each(1.0)}
  return {"mean": each(loss.get("mean", 0.0)), "std": each(loss.get("std", 1.0))}


class Programs(NamedTuple):
  """The compiled functions of a model.

  Both functions take a state and a batch. `evaluate` returns outputs and loss terms by their names in the
  case. `train` returns the outputs in training mode, the state after a step, and the loss terms of that step.
  """

  recipe: Recipe
  evaluate: Callable
  train: Callable


@functools.cache
def _programs(settings: str, dtype) -> Programs:
  """Compiles the programs for the settings of a case. Cases with the same settings share them."""
  spec = json.loads(settings)
  made, given = spec["constructor"], spec.get("optimizer")
  kind = KINDS.get(made["loss"]["name"])
  if kind is None:
    raise InputError(f"loss={made['loss']['name']!r}, have {', '.join(KINDS)}")
  if given:
    betas = dict(zip(("b1", "b2"), given["betas"]))
    transform, rate = optax.scale_by_adam(**betas, eps=given["eps"]), given["lr"]
  else:  # parameters do not change, and the optimizer state is the gradients
    zeros = lambda grads: jax.tree.map(jnp.zeros_like, grads)
    transform = optax.GradientTransformation(lambda p: p, lambda grads, _, params: (zeros(grads), grads))
    rate = 0.0
  network = Network(
    # Heads of terms that are off are built, too: the cases hold their outputs.
    dataclasses.replace(names.make_method(spec), auxiliary=1.0, discriminative=1.0),
    names.make_architecture(spec, kind=kind, dropout=False, dtype=dtype),
  )
  recipe = Recipe(
    network=network,
    optimizer=Optimizer(transform, lambda step, steps_per_epoch: jnp.asarray(rate, dtype)),
    batch_size=made.get("batch", 1),
    max_epochs=1,
    mesh=sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1]),
  )

  # The outputs are computed as in the steps, so that XLA finds that it has them already.
  def forward(state, batch, *, train=False):
    inputs = normalise(batch["inputs"], state.values["inputs"])
    model = network.model(state.params, state.stats)
    return network.method.forward(model, inputs, batch["present"], train=train, rngs=nnx.Rngs(0))

  @jax.jit
  def evaluate(state, batch):
    outputs = forward(state, batch)
    terms = eval_step(recipe, state, batch)
    return name_outputs(kind, outputs), _terms(recipe, state, batch, outputs, terms)

  @jax.jit
  def train(state, batch):
    outputs = forward(state, batch, train=True)
    after, terms = train_step(recipe, state, batch)
    return name_outputs(kind, outputs), after, _terms(recipe, state, batch, outputs, terms)

  return Programs(recipe, evaluate, train)


def begin(case: Case, dtype) -> tuple[Programs, TrainState, dict]:
  """Returns the programs of a case, the state before the first step, and the batch."""
  settings = {key: case.spec[key] for key in ("constructor", "variant", "optimizer") if key in case.spec}
  programs = _programs(json.dumps(settings, sort_keys=True), dtype)
  made, order = case["constructor"], case["modality_order"]
  kind = programs.recipe.network.architecture.task.kind
  model = names.load_mdico(case.spec, case.family("param"))
  if tuple(order) != model.sensors:
    raise InputError(f"case {case.name}: modality_order is {order}, the modalities are {model.sensors}")
  target = read_target(case, kind, dtype)
  inputs = {m: jnp.asarray(case.given(f"x/{m}"), dtype) for m in order}
  for modality in made["modalities"]:
    shape = (len(target), modality["T"], modality["bands"])
    case.agree(f"the shape of in/x/{modality['name']}", inputs[modality["name"]].shape, shape)
  case.agree("the batch's size", len(target), made.get("batch", len(target)))
  every = jnp.ones(len(target), dtype)
  present = dict.fromkeys(order, every)
  batch = {"inputs": inputs, "target": target, "labelled": every, "present": present}
  batch["row"] = jnp.arange(len(target))
  as_they_are = {m: {"offset": jnp.zeros(1, dtype), "scale": jnp.ones(1, dtype)} for m in order}
  task = task_constants(case, made["loss"], kind, made["n_labels"], dtype)
  weights = {term: weight for term, weight in made["weights_loss"].items() if weight > 0}
  _, params, stats = split(model, dtype)
  zero, inf = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf)
  state = TrainState(
    step=zero,
    epoch=zero,
    params=params,
    stats=stats,
    average={},
    frozen={},
    opt_state=jax.jit(programs.recipe.optimizer.transform.init)(params),
    key=jax.random.key(0),
    values={
      "inputs": as_they_are,
      "task": task,
      "weights": weights,
      "arrays": {},
      "steps_per_epoch": jnp.ones(()),
    },
    stop=Stop(reference=inf, wait=zero, done=jnp.zeros((), bool)),
    best=Best(objective=inf, epoch=zero, params=params, stats=stats),
  )
  return programs, state, batch


def _terms(recipe: Recipe, state: TrainState, batch: dict, outputs: mdico.Outputs, terms: dict) -> dict:
  """Our loss terms by their names in the case.

  The contrastive term of a pair is symmetric, so it has two names. Terms with weight 0 are not computed by
  the step; their parts are computed here.
  """
  parts, task, method = terms, recipe.network.architecture.task, recipe.method
  published = method.terms[:4]  # without that of a teacher
  if state.values["weights"].keys() != set(published):
    every = Values(
      constants=state.values["task"],
      weights=dict.fromkeys(published, 1.0),
      arrays={},
      progress=jnp.zeros(()),
      task=task,
    )
    given = Batch(**{name: batch[name] for name in ("inputs", "present", "target", "labelled", "row")})
    everything = method.loss(outputs, given, every)[1]
    parts = {name: term for name, term in everything.items() if "/" in name and "total" not in name} | terms
  parts = {name: value for name, value in parts.items() if name != "learning_rate"}
  totals = dict.fromkeys((f"total_{term}" for term in published), jnp.zeros(()))
  pairs = [name.removeprefix("contrastive/").split("__") for name in parts if name.startswith("contrastive/")]
  mirrored = {f"contrastive/{n}__{m}": parts[f"contrastive/{m}__{n}"] for m, n in pairs}
  return totals | {name.replace("total/", "total_"): value for name, value in parts.items()} | mirrored


def name_outputs(kind: str, outputs: mdico.Outputs) -> dict[str, jax.Array]:
  """Renames our outputs to their names in the case."""
  families = {there: getattr(outputs, here) for there, here in OUTPUTS.items()}
  families["prediction_softmax" if kind == "multiclass" else "prediction_sigmoid"] = {
    m: activate(kind, logits) for m, logits in outputs.prediction.items()
  }
  return {f"{name}/{m}": value for name, values in families.items() for m, value in values.items()}


def replay_model(case: Case, dtype) -> dict[str, Arrays]:
  """Computes the arrays of a model in evaluation and in one train step, by family."""
  programs, state, batch = begin(case, dtype)
  out, eval_terms = programs.evaluate(state, batch)
  train_out, after, terms = programs.train(state, batch)
  return {
    "out": out,
    "eval_loss": eval_terms,
    "train_out": train_out,
    "loss": terms,
    "train_buf": names.state_dict(programs.recipe.network.model(after.params, after.stats)),
    "grad": names.state_dict(programs.recipe.network.model(after.opt_state, after.stats)),
    "const": tables(case),
  }


def replay_trajectory(case: Case, dtype) -> dict[str, Arrays]:
  """Computes the arrays of several train steps, by family."""
  given, made = case["optimizer"], case["constructor"]
  for setting in ("lr", "steps"):
    case.agree(setting, given[setting], made.get(setting, given[setting]))
  for setting in ("weight_decay", "amsgrad"):
    case.agree(setting, given.get(setting, 0), 0)
  programs, state, batch = begin(case, dtype)
  history = []
  for _ in range(given["steps"]):
    _, state, terms = programs.train(state, batch)
    history.append(terms)
  families = {
    "traj": {name: np.stack([terms[name] for terms in history]) for name in history[0]},
    "final": names.state_dict(programs.recipe.network.model(state.params, state.stats)),
    "const": tables(case),
  }
  # Rounding errors of the final parameters change the predictions too. The case's predictions are therefore
  # compared with ours for the case's own final parameters, which also checks that each of them is read.
  for suffix in ("", "64"):
    model = programs.recipe.network.model(state.params, state.stats)
    names.fill(model, case.family("final") | case.family(f"final{suffix}"))
    _, params, stats = split(model, dtype)
    families[f"final_out{suffix}"], _ = programs.evaluate(state.replace(params=params, stats=stats), batch)
  return families
