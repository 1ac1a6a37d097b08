"""A small training for the tests of steps, epochs and arrangements of devices."""

import functools

import jax
import numpy as np
import optax

from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Network
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.parallel import sharding
from colearn_jax.training.optimizer import Optimizer
from colearn_jax.training.state import Recipe
from colearn_jax.types import Task

SHAPES = {"radar": (4, 2), "optical": (4, 3)}
N, BATCH = 40, 16
TRAIN, VALIDATION = np.arange(28), np.arange(28, 40)
ENCODER = {"model_type": "tempcnn", "layer_size": 4, "n_layers": 1}


def constant_rate(transform, rate=1.0):
  return Optimizer(transform, lambda step, steps_per_epoch: np.float32(rate))


# Not Adam: it makes whole steps out of the rounding noise in gradients that are exactly zero.
SGD = constant_rate(optax.identity(), 0.03)


def architecture(encoder=None, **changes):
  settings = dict.fromkeys(SHAPES, ENCODER | (encoder or {}))
  fields = {"emb_dim": 8, "task": Task("regression", ("y",))} | changes
  return Architecture(SHAPES, settings, **fields)


@functools.cache
def recipe(devices=8, replica=1, fsdp=1, method=None, encoder=None, remat=False, **changes):
  sizes = {"replica": replica, "data": -1, "fsdp": fsdp}
  mesh = sharding.make_mesh(sizes, BATCH, devices=jax.devices()[:devices])
  network = Network(method or MDiCo(), architecture(dict(encoder or ()), remat=remat))
  fields = {"optimizer": SGD, "batch_size": BATCH, "max_epochs": 100, "patience": 100, "min_delta": 0.01}
  return Recipe(network=network, mesh=mesh, **(fields | changes))


def table():
  rng = np.random.default_rng(0)
  inputs = {m: rng.normal(2.0, 3.0, size=(N, *shape)).astype(np.float32) for m, shape in SHAPES.items()}
  inputs["optical"][::5, 1] = np.nan
  target = inputs["radar"].mean((1, 2))[:, None]
  every = np.ones(N, np.float32)
  return {"inputs": inputs, "target": target, "labelled": every, "present": dict.fromkeys(SHAPES, every)}


VALUES = {
  "inputs": {
    m: {"offset": np.full(s[-1], 2.0, np.float32), "scale": np.full(s[-1], 3.0, np.float32)}
    for m, s in SHAPES.items()
  },
  "task": {"mean": np.ones(1, np.float32), "std": np.ones(1, np.float32)},
  "weights": dict.fromkeys(MDiCo.terms[:4], np.float32(1.0)),
  "arrays": {},
  "steps_per_epoch": np.float32(2.0),
}


def close(got, want, rtol=2e-4):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), got, want)
