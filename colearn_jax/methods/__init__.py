"""Co-learning methods: each defines a model, its loss, and its predictions.

Every method has its own file and an entry in `METHODS`. `base.Method` is the interface. The code for
training, data and deployment uses this interface only.
"""

from __future__ import annotations

from colearn_jax.methods.base import Method
from colearn_jax.methods.decur import Decoupling
from colearn_jax.methods.discom_kd import DisCoMKD
from colearn_jax.methods.distill import TreeDistillation
from colearn_jax.methods.dml import MutualLearning
from colearn_jax.methods.dsensd import DecisionDropout
from colearn_jax.methods.esensi import SensorCodes
from colearn_jax.methods.fusion import Fusion
from colearn_jax.methods.individual import Individual
from colearn_jax.methods.isensd import InputFusion
from colearn_jax.methods.kd import Distillation
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.methods.shaspec import ShaSpec
from colearn_jax.rules import Setting, settings_of
from colearn_jax.types import InputError

METHODS: dict[str, type[Method]] = {
  "decur": Decoupling,
  "discom_kd": DisCoMKD,
  "distill": TreeDistillation,
  "dml": MutualLearning,
  "dsensd": DecisionDropout,
  "esensi": SensorCodes,
  "fusion": Fusion,
  "individual": Individual,
  "isensd": InputFusion,
  "kd": Distillation,
  "mdico": MDiCo,
  "shaspec": ShaSpec,
}


def find(name: str) -> type[Method]:
  """The class of a method. InputError if there is no method of this name."""
  if name not in METHODS:
    raise InputError(f"unknown method {name!r}, have: {', '.join(sorted(METHODS))}")
  return METHODS[name]


def settings(name: str) -> dict[str, Setting]:
  """The settings of a method: the keys of the configuration's group `loss`. Weights of terms come first."""
  own = settings_of(find(name))
  return {term: own[term] for term in find(name).terms} | own
