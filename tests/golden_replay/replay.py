"""Computes the arrays of a golden case with our implementation: an encoder, a loss, a model, or train steps.

It uses `interop.names` and `training.step`, in float32, or in float64 to distinguish mistakes from rounding
errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax.encoders import ltae
from colearn_jax.interop import names
from colearn_jax.interop.state_dict import entries
from colearn_jax.nn import layers
from colearn_jax.objectives.contrastive import contrastive
from colearn_jax.objectives.task import task_loss
from colearn_jax.types import InputError
from tests.golden_replay import replay_model
from tests.golden_replay.golden import Arrays, Case


def replay(case: Case, dtype=np.float32) -> Arrays:
  """Computes a case's arrays from its settings, inputs and parameters.

  Args:
    case: the case.
    dtype: float32 or float64, for the whole computation.

  Returns:
    Arrays by the case's keys, `<family>/<name>`.

  Raises:
    InputError: settings are missing, unknown, or contradict each other.
  """
  kinds = {"module": _module, "loss": _loss, "model": replay_model.replay_model}
  kinds["trajectory"] = replay_model.replay_trajectory
  if case["kind"] not in kinds:
    raise InputError(f"case {case.name}: kind={case['kind']!r}, have {', '.join(kinds)}")
  # By default, accelerators round the operands of matrix products.
  with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("float32"):
    families = kinds[case["kind"]](case, dtype)
    return {f"{name}/{key}": np.asarray(a) for name, family in families.items() for key, a in family.items()}


class Program(NamedTuple):
  """The compiled functions of a module.

  `run(params, stats, x, train)` returns the outputs by name and the batch statistics after them.
  `derivatives(params, stats, x, train)` returns the gradient of a random weighted sum of all these.
  """

  run: Callable
  derivatives: Callable


_programs: dict[tuple, Program] = {}  # by settings, shared by cases that differ only in their arrays


def _begin(case: Case, dtype):
  """Returns a case's program, graph definition, parameters, statistics and inputs."""
  if case["kind"] == "module":
    module = _without_dropout(names.load_encoder(case.spec, case.family("param"), dtype=dtype))
    given, x = replay_model.split(module, dtype), jnp.asarray(case.given("x"), dtype)
    apply = _encode
  else:
    model, state, batch = replay_model.begin(case, dtype)
    network = model.recipe.network
    kind, run = network.architecture.task.kind, network.method.forward
    given, x = (network.graphdef, state.params, state.stats), batch["inputs"]
    apply = lambda m, x, train: replay_model.name_outputs(kind, run(m, x, train=train, rngs=nnx.Rngs(0)))
  settings = json.dumps([case["constructor"], case.spec.get("variant")], sort_keys=True)
  return _programs.setdefault((settings, dtype), _program(given[0], apply)), *given, x


def _program(graphdef: nnx.GraphDef, apply: Callable) -> Program:
  @jax.jit(static_argnums=3)
  def run(params, stats, x, train):
    module = nnx.merge(graphdef, params, stats)
    return apply(module, x, train), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

  def everything(*args):
    total, rng = 0.0, np.random.default_rng(0)
    for leaf in jax.tree.leaves(run(*args)):
      if jnp.issubdtype(leaf.dtype, jnp.floating):
        total += jnp.vdot(leaf, rng.normal(size=leaf.shape).astype(leaf.dtype))
    return total

  return Program(run, jax.jit(jax.grad(everything), static_argnums=3))


def _encode(module: nnx.Module, x: jax.Array, train: bool) -> dict[str, jax.Array]:
  if isinstance(module, ltae.LTAE | ltae.TAE):
    rep, attention = module.attend(x, train=train)
    return {"rep": rep, "attention": attention.transpose(1, 0, 2)}
  return {"rep": module(x, train=train)}


def _module(case: Case, dtype) -> dict[str, Arrays]:
  program, graphdef, params, stats, x = _begin(case, dtype)
  args = names.encoder_settings(case["constructor"]["class"], case["constructor"]["args"])
  case.agree("the series' length", x.shape[1], args.get("seq_len", x.shape[1]))
  train_out, after = program.run(params, stats, x, True)
  return {
    "out": program.run(params, stats, x, False)[0],
    "train_out": train_out,
    "train_buf": names.state_dict(nnx.merge(graphdef, params, after)),
    "const": replay_model.tables(case),
  }


def silent(case: Case) -> dict[str, int]:
  """Counts, for each parameter of a module or model, the values that no output of the case depends on.

  Their derivatives are exactly zero, for example after a ReLU that is zero for every sample. Batch statistics
  are not checked, because they are outputs of training themselves.
  """
  with jax.default_matmul_precision("float32"):
    program, graphdef, params, stats, x = _begin(case, np.float32)
    zero = jax.tree.map(lambda p: np.ones(p.shape, bool), params)
    for train in (False, True):  # training mode only if some values are still undecided
      if any(z.any() for z in jax.tree.leaves(zero)):
        derivatives = program.derivatives(params, stats, x, train)
        zero = jax.tree.map(lambda z, d: z & (np.asarray(d) == 0), zero, derivatives)
  module = nnx.merge(graphdef, zero, jax.tree.map(lambda s: np.zeros(s.shape, bool), stats))
  read = {e.name: e.read() for e in entries(module) if isinstance(e.value, nnx.Variable)}
  return {key: zeros for key, z in read.items() if (zeros := int(z.sum()))}


def _loss(case: Case, dtype) -> dict[str, Arrays]:
  settings, kind = case["constructor"], case["loss"]
  given = lambda *names: replay_model.cast({name: case.given(name) for name in names}, dtype)
  if kind == "contrastive":
    moving = given("x_q", "x_v")
    everywhere = jnp.ones(len(moving["x_q"]), dtype)
    loss = lambda moving: contrastive(*moving.values(), settings["temperature"], everywhere)
  elif kind in replay_model.KINDS:
    name = "pred" if "in/pred" in case.arrays else "logits"
    moving, kind = given(name), replay_model.KINDS[kind]
    everywhere, outputs = jnp.ones(len(moving[name]), dtype), moving[name].shape[-1]
    target = replay_model.read_target(case, kind, dtype)
    constants = replay_model.task_constants(case, settings, kind, outputs, dtype)
    loss = lambda moving: task_loss(kind, moving[name], target, constants, everywhere)
  else:
    raise InputError(f"loss={kind!r}, have contrastive, {', '.join(replay_model.KINDS)}")
  value, grads = jax.jit(jax.value_and_grad(loss))(moving)
  return {"out": {"value": value}, "grad": grads}


def _without_dropout(module: nnx.Module) -> nnx.Module:
  """Switches dropout off, as it was when the cases were made."""
  for _, layer in nnx.iter_modules(module):
    if isinstance(layer, layers.Dropout):
      layer.rate = 0.0
  return module
