"""Loads the model of one sensor from the work directory of a finished training.

Only the parameters of this sensor are read. The result is a `deploy.model.Model`, which can also be exported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax import config as config_lib
from colearn_jax.data.modality import View
from colearn_jax.deploy.model import Model, chosen, sha256
from colearn_jax.encoders import BY_BAND
from colearn_jax.evaluation.results import Results
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Method
from colearn_jax.methods.configured import make_architecture, make_method
from colearn_jax.methods.predict import predict
from colearn_jax.nn import random
from colearn_jax.nn.convolution import outside_of_loops
from colearn_jax.nn.quantiles import QUANTILES
from colearn_jax.storage import models
from colearn_jax.storage.files import jsonable, read_json
from colearn_jax.types import CONTEXT, Description, InputError, Modality

_WHOLE = re.compile(r"seed\d+_fold\d+")  # the name of a run without an ablation


def load(workdir: str | Path, sensor: str, *, runs: Sequence[str] | None = None) -> Model:
  """Loads the model of one sensor from a work directory.

  Args:
    workdir: the work directory.
    sensor: the modality as configured in the training, e.g. `S2_S2Ind`.
    runs: names of the runs whose predictions are averaged, e.g. `["seed10_fold3"]`. Default: all runs except
      ablations.

  Raises:
    InputError: there is no such work directory, sensor or run; or the training is not finished.
  """
  workdir = Path(workdir).expanduser().absolute()
  if not (workdir / "results.json").is_file():
    raise InputError(f"{workdir} holds no finished training: there is no results.json")
  results = Results.read(workdir / "results.json")
  config = config_lib.restore(read_json(workdir / "config.json"))
  described = Description.from_json(read_json(workdir / "dataset.json"))
  task, sensors, context = described.task, described.sensors, described.context
  if sensor not in sensors:
    raise InputError(f"{workdir} has no modality {sensor!r}, have: {', '.join(sensors)}")
  method, architecture = make_method(config), make_architecture(config, task, described.modalities)
  if sensor not in (predictors := method.predictors(list(sensors))):
    names = ", ".join(predictors)
    raise InputError(
      f"{workdir} has no model of {sensor} alone: method {config.method} predicts with {names}"
    )
  function, part = one_sensor(method, architecture, sensor, quantiles=config.data.normalisation == "quantile")
  have = {path.name: path for path in sorted(workdir.glob("checkpoints/*"))}
  whole = [run for run in have if _WHOLE.fullmatch(run)]
  if runs is None and (lost := [run for run in results.runs if _WHOLE.fullmatch(run) and run not in have]):
    raise InputError(f"{workdir / 'checkpoints'} lacks the models of {', '.join(lost)}: {models.REMEDY}")
  paths = chosen(have, whole if runs is None else runs, workdir)
  if not paths:
    raise InputError(f"{workdir / 'checkpoints'} holds no finished run")
  restored = {run: models.restore(path, part) for run, path in paths.items()}
  about = {
    "method": results.method,
    "unit": task.unit or None,
    "metrics": results.scores.modalities.get(sensor, {}),
    "normalisation": {run: model["values"]["inputs"] for run, model in restored.items()},
    "dataset": {
      "name": results.dataset,
      "sha256": sha256((workdir / "dataset.json").read_bytes()),
      "samples": described.samples,
    },
    "configuration": config_lib.to_json(config),
  }
  about |= {"weights": results.weights[sensor]} if sensor in results.weights else {}
  weights = {run: flat(model) for run, model in restored.items()}
  views = _views(described, sensors[sensor])
  return Model(function, weights, sensors[sensor], task, context, jsonable(about), views)


def _views(described: Description, modality: Modality) -> dict[str, View] | None:
  """The views of a sensor and those that mask them; None if the training did not record them."""
  if described.views is None:
    return None
  views = {name: View.from_json(described.views[name]) for name in modality.views}
  masks = [view.fixed.mask for view in views.values() if view.fixed and view.fixed.mask]
  return views | {name: View.from_json(described.views[name]) for name in masks}


def one_sensor(
  method: Method, architecture: Architecture, sensor: str, *, quantiles: bool = False
) -> tuple[Callable[..., jax.Array], dict[str, Any]]:
  """Builds the prediction function of one sensor. It contains nothing of other sensors.

  With `quantiles` the inputs are normalised by quantiles, but those of encoders in `BY_BAND`.

  Returns:
    The function for `Model`, whose weights have the names that `flat` returns; and the part of a finished
    model that it needs, `{"params", "stats", "values"}`, with shapes and dtypes as leaves.
  """
  build = lambda: method.build(architecture, only=sensor, rngs=random.keys())
  graphdef, *arrays = nnx.split(nnx.eval_shape(build), nnx.Param, nnx.BatchStat)
  params, stats = map(nnx.to_pure_dict, arrays)
  names = [CONTEXT, sensor] if architecture.context else [sensor]
  width = {sensor: architecture.shapes[sensor][-1], CONTEXT: architecture.context}
  own = architecture.encoders[sensor]["model_type"] in BY_BAND

  def constants(m):
    bands = jax.ShapeDtypeStruct((width[m],), np.float32)
    more = {"quantiles": jax.ShapeDtypeStruct((QUANTILES, width[m]), np.float32)}
    return {"offset": bands, "scale": bands} | (more if quantiles and not (own and m == sensor) else {})

  part = {
    "params": params,
    "stats": stats,
    "values": {"inputs": {m: constants(m) for m in names}},
  }
  order, tree = list(flat(part)), jax.tree.structure(part)

  modality = architecture.modalities.get(sensor)
  months = modality is not None and modality.months

  def function(weights, x, *context):
    if months:  # a step without values is absent, whatever its month
      seen = ~jnp.isnan(x[..., :-1]).all(tuple(range(2, x.ndim)), keepdims=True)
      x = x.at[..., -1:].set(jnp.where(seen, x[..., -1:], jnp.nan))
    own = jax.tree.unflatten(tree, [weights[name] for name in order])
    model = nnx.merge(graphdef, own["params"], own["stats"])
    inputs = {sensor: x} | dict(zip((CONTEXT,), context))
    with outside_of_loops():
      predicted = predict(method, model, architecture.task.kind, own["values"]["inputs"], inputs)
    return predicted["prediction"][sensor]

  return function, part


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Flattens nested dicts. Keys are joined by `/`, in the order of `jax.tree.leaves`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
