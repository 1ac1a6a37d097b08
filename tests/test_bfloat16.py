"""Computation in bfloat16: which parts stay in float32, and how far the results are from float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax.encoders import resnet
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Batch, Values
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.types import Task
from tests.helpers import SMALL_SHAPES, TINY_RESNETS, make, series, split

HALF, SINGLE = jnp.dtype("bfloat16"), jnp.dtype("float32")
# For each encoder the settings whose results are compared first, then settings with its other options. The
# types are checked for all of them, which needs no compilation.
CASES = {
  "convtran": [
    {"position": "tape", "relative_position": "erpe"},
    {"position": "sinusoidal", "relative_position": "vector"},
    {"position": "learned", "relative_position": "none"},
    {"position": "none", "relative_position": "vector"},
  ],
  "gru": [{"bidirectional": True, "output": "last_state"}, {"bidirectional": False, "output": "last_output"}],
  "lstm": [
    {"bidirectional": False, "output": "last_state"},
    {"bidirectional": True, "output": "last_output"},
  ],
  "ltae": [{"mask_nans": True}, {"mask_nans": False}],
  "mlp": [{"batchnorm": True, "use_norm": "batch"}, {"batchnorm": False}],
  "pse_ltae": [{}],
  "resnet": [{"depth": 10}, {"depth": 14, "use_norm": "layer"}],
  "rnn": [{"bidirectional": False, "output": "last_output"}, {"bidirectional": True, "output": "last_state"}],
  "tae": [{"mask_nans": False}, {"mask_nans": True}],
  "tempcnn": [{"use_norm": "none"}, {"use_norm": "layer"}, {"use_norm": "batch"}],
  "transformer": [
    {"position": "sinusoidal", "activation": "relu"},
    {"position": "none", "activation": "gelu", "embed": False, "layer_size": 3, "num_heads": 1},
  ],
}


KINDS = ("convtran", "gru", "ltae", "resnet", "tempcnn")  # one encoder of each kind, tested by default


def cases(*marks):
  """Parametrises a test by encoder and settings. Marks apply to all but the first settings of `KINDS`."""
  return pytest.mark.parametrize(
    "name, settings",
    [
      pytest.param(
        name,
        given,
        id="-".join(map(str, (name, *given.values()))),
        marks=() if i == 0 and name in KINDS else marks,
      )
      for name, each in CASES.items()
      for i, given in enumerate(each)
    ],
  )


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  for depth, stages in TINY_RESNETS.items():
    monkeypatch.setitem(resnet.STAGES, depth, stages)


def given(name, settings, seed=0):
  """Makes a batch, with missing values for encoders that mask them."""
  x = series(8, *((8, 8, 3) if name == "resnet" else SMALL_SHAPES[name]), seed=seed)
  return x.at[0, 2].set(jnp.nan) if name == "pse_ltae" or settings.get("mask_nans") else x


def differentiable(name, settings, shape, dtype, train):
  """Returns parameters, and a function of them and a batch to a sum of the outputs, (outputs, statistics)."""
  graphdef, params, stats = split(make(name, shape=shape, dtype=dtype, **settings))
  weights = series(8, 4, seed=1)

  def loss(params, x):
    module = nnx.merge(graphdef, params, stats)
    y = module(x, train=train)
    return (weights * y).sum(), (y, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))

  return params, loss


def equations(jaxpr):
  """Yields every operation of a program, including those of inner programs."""
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from equations(inner)


def read_by(operations, program):
  """Returns the types of the operands of these operations.

  Products with a vector are left out: the gradient of a LayerNorm has its sums as such, in float32.
  """
  found = [eqn for eqn in equations(program.jaxpr) if eqn.primitive.name in operations]
  sums = lambda eqn: eqn.primitive.name == "dot_general" and any(v.aval.ndim == 1 for v in eqn.invars)
  return {operand.aval.dtype for eqn in found if not sums(eqn) for operand in eqn.invars}


PRODUCTS = "dot_general", "conv_general_dilated"
# Operations of softmax, means, variances and losses, but not of gates and activations (logistic, tanh, erf).
PRECISE = "exp", "log", "log1p", "rsqrt", "sqrt", "reduce_sum", "reduce_max", "cumsum"


@pytest.mark.parametrize("name", CASES)
def test_what_is_computed_in_which_type(name):
  """Reads the traced programs; nothing is compiled."""
  context = series(8, 3, seed=2)
  for settings in [*CASES[name], CASES[name][0] | {"context": 3}]:
    for train in (False, True) if settings is CASES[name][0] else (True,):
      x = given(name, settings)
      params, loss = differentiable(name, settings, x.shape[1:], jnp.bfloat16, train)
      batch = (x, context) if "context" in settings else x
      assert {p.dtype for p in jax.tree.leaves(params)} == {SINGLE}
      forward, (_, (y, stats)) = jax.make_jaxpr(loss, return_shape=True)(params, batch)
      backward, (grads, _) = jax.make_jaxpr(jax.grad(loss, has_aux=True), return_shape=True)(params, batch)
      assert y.dtype == SINGLE
      assert {a.dtype for a in jax.tree.leaves((stats, grads))} <= {SINGLE, jnp.dtype("int32")}
      assert read_by(PRODUCTS, forward) == read_by(PRODUCTS, backward) == {HALF}
      # The backward pass has others: a bias gets a sum of bfloat16, and GELU's derivative is an exp.
      assert HALF not in read_by(PRECISE, forward)


def test_what_a_model_computes_in_which_type():
  """After the encoders everything is float32: features, heads, terms of the objective."""
  settings = {"model_type": "tempcnn", "layer_size": 8}
  sensors = ("S1", "S2")
  task = Task("multiclass", ("a", "b", "c"))
  architecture = Architecture(
    dict.fromkeys(sensors, (6, 3)), dict.fromkeys(sensors, settings), task, emb_dim=8, dtype=jnp.bfloat16
  )
  method = MDiCo(similarity="dense")
  build = lambda: method.build(architecture, rngs=nnx.Rngs(0))
  graphdef, params, stats = split(nnx.eval_shape(build))
  rows = jax.ShapeDtypeStruct((8,), SINGLE)

  def loss(params, stats, x, target, here):
    present = dict.fromkeys(sensors, here)
    model = nnx.merge(graphdef, params, stats)
    outputs = method.forward(model, x, present, train=True, rngs=nnx.Rngs(0))
    batch = Batch(inputs=x, present=present, target=target, labelled=here, row=target)
    constants, weights = {"class_weights": jnp.ones(3)}, dict.fromkeys(method.terms[:4], 1.0)
    values = Values(constants=constants, weights=weights, arrays={}, progress=jnp.zeros(()), task=task)
    return method.loss(outputs, batch, values)[0], outputs

  inputs = dict.fromkeys(sensors, jax.ShapeDtypeStruct((8, 6, 3), SINGLE))
  given = stats, inputs, jax.ShapeDtypeStruct((8,), jnp.int32), rows
  forward, (value, outputs) = jax.make_jaxpr(loss, return_shape=True)(params, *given)
  assert {a.dtype for a in jax.tree.leaves((value, outputs))} == {SINGLE}
  assert read_by(PRODUCTS, forward) == {HALF, SINGLE} and HALF not in read_by(PRECISE, forward)
  products = [eqn for eqn in equations(forward.jaxpr) if eqn.primitive.name in PRODUCTS]
  wide = [eqn for eqn in products if eqn.invars[0].aval.dtype == SINGLE]
  # For each sensor: shared features, its head, the auxiliary head twice, the modality heads twice. And one
  # pair.
  assert len(wide) == 2 * (1 + 1 + 2 + 2) + 1
  grads, _ = jax.eval_shape(jax.grad(loss, has_aux=True), params, *given)
  assert {g.dtype for g in jax.tree.leaves(grads)} == {SINGLE}


# Allowed median relative differences. bfloat16 keeps 8 bits, so that one rounding changes a value by up to
# 0.004.
BOUNDS = {"evaluation": 0.03, "outputs": 0.03, "statistics": 0.01, "gradients": 0.1}
DEEP = {"gradients": 0.25}  # ResNets: their gradients pass through many norms of few values


@cases(pytest.mark.slow)
def test_results_are_near_those_of_float32(name, settings):
  """Compares medians over batches: single gradients jump where rounding moves a ReLU's input across 0."""

  def results(x):
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
      both = [differentiable(name, settings, x.shape[1:], dtype, train) for train in (False, True)]
      (params, evaluate), (_, train) = both
      grads, (outputs, stats) = jax.grad(train, has_aux=True)(params, x)
      stats = [s for s in jax.tree.leaves(stats) if jnp.issubdtype(s.dtype, jnp.floating)]
      evaluated = evaluate(params, x)[1][0]
      found.append({"evaluation": evaluated, "outputs": outputs, "statistics": stats, "gradients": grads})
    return found

  xs = jnp.stack([given(name, settings, seed) for seed in range(12)])
  full, half = jax.jit(lambda xs: jax.lax.map(results, xs))(xs)
  flat = lambda tree: np.concatenate([np.reshape(a, (len(xs), -1)) for a in jax.tree.leaves(tree)], axis=1)
  for what, bound in (BOUNDS | (DEEP if name == "resnet" else {})).items():
    if jax.tree.leaves(full[what]):
      a, b = flat(full[what]), flat(half[what])
      difference = np.median(np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1))
      assert 1e-6 < difference < bound, what
