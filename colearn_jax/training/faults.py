"""A step whose loss or gradients are not finite: what is said and written about it, and how to repeat it.

The train step itself notices it, see `step.train_step`. With `train.nonfinite=stop` the state stays as it was
before that step, so that the step can be repeated from a file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from colearn_jax import config as config_lib
from colearn_jax import schema
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.splits import Run
from colearn_jax.methods.configured import make_method
from colearn_jax.parallel import processes
from colearn_jax.storage import files
from colearn_jax.training import setup
from colearn_jax.training.samples import SamplesOf
from colearn_jax.training.state import Recipe, TrainState, Tree, init
from colearn_jax.training.step import train_step
from colearn_jax.types import InputError

_LISTED = 5  # samples that the message names


def stop(samples: SamplesOf, run: Run, state: TrainState, workdir: Path) -> NoReturn:
  """Writes the first step of a run that was not finite to a file, and says what was not finite.

  Args:
    samples: the samples of the run.
    run: the run.
    state: its state, which is that before the step.
    workdir: the work directory, where the file is written as `diverged_<run>.npz`.

  Raises:
    InputError: always.
  """
  state = dataclasses.replace(state, epoch=state.faults.epoch)
  batch = samples.batch(run, state)
  terms = _terms(samples.recipe, state, batch)
  bad = [name for name, value in terms.items() if not np.isfinite(value)]
  batch = processes.fetch(batch)
  rows = np.asarray(batch["row"])
  ids = samples.index.ids[rows[rows >= 0]]
  path = workdir / f"diverged_{run.name}.npz"
  if processes.first():
    host = jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key)))
    arrays: dict[str, Any] = {f"state/{name}": value for name, value in _named(host).items()}
    arrays |= {f"batch/{name}": value for name, value in _named(batch).items()}
    with files.replacing(path, binary=True) as file:
      np.savez(file, ids=np.asarray(ids, str), **arrays)
  listed = ", ".join(map(str, ids[:_LISTED])) + (f" and {len(ids) - _LISTED} more" * (len(ids) > _LISTED))
  what = f"{', '.join(bad)} of its loss" if bad else "its gradient, but not its loss,"
  where = f"step {int(state.step) + 1}, epoch {int(state.epoch) + 1}"
  raise InputError(
    f"{run.name} diverged: {what} is not finite in {where}, with the samples {listed}; {path} repeats the "
    "step; a lower train.learning_rate, or train.clip_norm, may help, and train.nonfinite=skip leaves such "
    "steps out"
  )


def replay(workdir: str | Path, file: str | Path) -> dict[str, float]:
  """Repeats the step that `stop` wrote. Returns all terms of its loss.

  Args:
    workdir: the work directory, for its configuration. The data set must be there.
    file: `diverged_<run>.npz`.
  """
  config = config_lib.restore(files.read_json(Path(workdir) / "config.json"))
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  modalities = setup.make_modalities(config, dataset)
  needed = {name: schema.with_method(config, name) for name in make_method(config).requires}
  networks = {name: setup.make_network(own, dataset.task, modalities) for name, own in needed.items()}
  recipe = setup.make_recipe(config, dataset.task, modalities, networks)
  with np.load(file, allow_pickle=False) as arrays:
    named = {name: arrays[name] for name in arrays.files}
  state, batch = _nested(named)["state"], _nested(named)["batch"]
  values = {"inputs": {}, "task": {}, "weights": {}, "arrays": {}} | state["values"]
  frozen = state.get("frozen", {})
  like = jax.eval_shape(lambda: init(recipe, jax.random.key(0), values, frozen=frozen))
  fill = lambda path, leaf: _like(named[f"state/{_name(path)}"], leaf)
  return _terms(recipe, jax.tree_util.tree_map_with_path(fill, like), batch)


def _terms(recipe: Recipe, state: TrainState, batch: Tree) -> dict[str, float]:
  terms = jax.jit(functools.partial(train_step, recipe))(state, batch)[1]
  return {name: float(value) for name, value in jax.device_get(terms).items()}


def _like(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """An array as a leaf of a state; random keys are stored as their data."""
  is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return jax.random.wrap_key_data(jnp.asarray(array)) if is_key else jnp.asarray(array, leaf.dtype)


def _name(path: tuple) -> str:
  part = lambda key: next(getattr(key, at) for at in ("key", "name", "idx") if hasattr(key, at))
  return "/".join(str(part(key)) for key in path)


def _named(tree: Any) -> dict[str, Any]:
  """The leaves of a tree, by the names on their paths joined by `/`."""
  return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _nested(named: Mapping[str, np.ndarray]) -> Tree:
  """The inverse of `_named` for nested dicts."""
  out: Tree = {}
  for name, leaf in named.items():
    *above, last = name.split("/")
    below = functools.reduce(lambda tree, key: tree.setdefault(key, {}), above, out)
    below[last] = leaf
  return out
