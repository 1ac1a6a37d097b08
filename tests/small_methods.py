"""Small models, batches and values for the tests of methods."""

import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import nnx

from colearn_jax import methods
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Batch, Values
from colearn_jax.types import Task

SHAPES = {"radar": (3,), "optical": (4,), "thermal": (2,)}
ENCODER = {"model_type": "mlp", "layer_sizes": (6,), "dropout": 0.0}
KINDS = ("binary", "multiclass", "multilabel", "regression")
B = 6
# Settings with which every part of a method is built.
SETTINGS = {
  "fusion": {"sensor_dropout": 0.5},
  "discom_kd": {"reversal_schedule": "growing"},
  "distill": {"trees": 10, "teacher_folds": 2},
  "mdico": {"distillation": 0.5},
  "shaspec": {"complete": 0.0},
}
# Further settings that change what a model or a loss is made of: a method and any word.
VARIANTS = {
  "fusion mean": {"merge": "mean", "sensor_dropout": 0.5},
  "fusion gated": {"merge": "gated", "shown": "all"},
  "kd decoupled": {"form": "decoupled"},
  "mdico mmd": {"distillation": 0.5, "alignment": "mmd", "weighting": "corrected"},
  "mdico coral": {"distillation": 0.5, "alignment": "coral", "unused_features": False},
  "mdico grl": {"distillation": 0.5, "alignment": "grl", "weighting": "uncertainty"},
}


def make(name, **settings):
  own = SETTINGS.get(name, {}) if name not in VARIANTS else VARIANTS[name]
  return methods.find(name.partition(" ")[0])(**(own | settings))


def task(kind):
  return Task(kind, ("a", "b") if kind == "binary" else ("a", "b", "c"))


def architecture(kind="multiclass", names=tuple(SHAPES), head_layers=(5,), emb_dim=4, **more):
  shapes, encoders = {m: SHAPES[m] for m in names}, dict.fromkeys(names, ENCODER)
  return Architecture(shapes, encoders, task(kind), emb_dim=emb_dim, head_layers=head_layers, **more)


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def targets(kind, rows=B):
  draw = random(rows, 3, seed=1)
  if kind in ("binary", "multiclass"):
    return np.abs(draw[:, 0] * 10).astype(np.int32) % len(task(kind).outputs)
  return (draw > 0).astype(np.float32) if kind == "multilabel" else 5.0 + draw


def constants(kind):
  if kind == "regression":
    return {"mean": jnp.full(3, 5.0), "std": jnp.array([1.0, 2.0, 4.0])}
  return {"class_weights": jnp.arange(1.0, 1.0 + len(task(kind).outputs))}


def values(method, kind, progress=0.5, arrays=None, **weights):
  every = {term: getattr(method, term) for term in method.terms} | weights
  weights = {term: jnp.float32(weight) for term, weight in every.items() if weight > 0}
  return Values(constants(kind), weights, arrays or {}, jnp.float32(progress), task(kind))


def masks(rows=B, **absent):
  """Every sensor is present but in the rows that are named."""
  return {m: jnp.asarray(~np.isin(np.arange(rows), absent.get(m, ())), jnp.float32) for m in SHAPES}


def a_batch(kind, outputs=None, present=None, labelled=None, teachers=None, target=None):
  present = masks() if present is None else present
  labelled = jnp.ones(B) if labelled is None else jnp.asarray(labelled, jnp.float32)
  target = jnp.asarray(targets(kind) if target is None else target)
  return Batch({}, present, target, labelled, jnp.arange(len(target)), teachers or {})


def outputs_of(kind, seed):
  return {m: jnp.asarray(random(B, len(task(kind).outputs), seed=seed + k)) for k, m in enumerate(SHAPES)}


def filled(build):
  """A module with random values, made by NumPy: JAX would compile a program for each shape."""
  module, rng = nnx.eval_shape(build), np.random.default_rng(0)
  for path, variable in nnx.iter_graph(module):
    if isinstance(variable, nnx.Variable):
      value = rng.normal(size=variable.shape) * 0.5 + (path[-1] in ("scale", "var"))
      variable.set_value(jnp.asarray(np.abs(value) if path[-1] == "var" else value, variable.dtype))
  return module


def forward(method, model, inputs, present=None, *, seed=0, **mode):
  """What `Method.forward` returns, as one program."""
  rngs = lambda: nnx.Rngs(dropout=1, sensors=seed, method=3)
  run = lambda model, inputs, present: method.forward(model, inputs, present, rngs=rngs(), **mode)
  return nnx.jit(run)(model, inputs, present)


def distance(kind, student, teacher, rows, temperature=1.0):
  """The distance of a student from a teacher by SciPy, over some rows."""
  s, t = (np.asarray(a, np.float64)[rows] for a in (student, teacher))
  if kind == "regression":
    return (((s - t) / [1.0, 2.0, 4.0]) ** 2).mean()
  if kind == "multilabel":
    q, p = scipy.special.expit(s / temperature), scipy.special.expit(t / temperature)
    each = scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)
    return temperature**2 * each.mean()
  q, p = scipy.special.softmax(s / temperature, 1), scipy.special.softmax(t / temperature, 1)
  return temperature**2 * scipy.special.rel_entr(p, q).sum(1).mean()
