"""Exports the model of one sensor to a folder that can be used without the rest of the package.

    model.json            inputs and how they are prepared, outputs, normalisation, uncertainty, origin,
                          checksums of the files
    weights.safetensors   the arrays of each run, named `<run>/<name>`
    model.onnx            the same function with the mean of all runs, if it is asked for
    function.jax          the prediction function (weights, prepared values) as StableHLO (jax.export), for
                          any batch size

`deploy.load.load_model` reads the folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from jax import export

from colearn_jax.deploy import tensors
from colearn_jax.deploy.model import DESCRIPTION, FORMAT, FUNCTION, WEIGHTS, Model, digest_of, sha256
from colearn_jax.deploy.predictor import load
from colearn_jax.deploy.uncertainty import HeldBack, fit
from colearn_jax.types import InputError

ONNX = "model.onnx"
PLATFORMS = ("cpu", "cuda", "tpu")
PACKAGES = ("colearn_jax", "jax", "flax", "numpy")  # their versions are written to model.json


def export_sensor(
  workdir: str | Path,
  sensor: str,
  out: str | Path,
  runs: Sequence[str] | None = None,
  held_back: Callable[[Model], HeldBack] | None = None,
  *,
  onnx: bool = False,
) -> Path:
  """Exports the model of one sensor from the work directory of a finished training.

  Args:
    workdir: the work directory.
    sensor: the modality, e.g. `S2_S2VI`.
    out: the folder to write, which must not exist.
    runs: names of the runs to export, e.g. `["seed10_fold3"]`. Default: all runs except ablations.
    held_back: predicts samples that the runs held back from training. From these the uncertainty is fitted,
      see `uncertainty`. Default: the model has no uncertainty.
    onnx: whether the folder also gets the model as ONNX, see `onnx`.

  Returns:
    The folder.

  Raises:
    InputError: there is no such work directory, sensor or run; the folder exists or cannot be written; or the
      model cannot be converted.
  """
  out = _new(out)
  model = load(workdir, sensor, runs=runs)
  if held_back is not None:
    model.about["uncertainty"] = fit(model.task, held_back(model))
  return save_model(model, out, onnx=onnx)


def _temporary_bytes(
  function: Callable[..., jax.Array],
  weights: dict[str, jax.ShapeDtypeStruct],
  inputs: Sequence[jax.ShapeDtypeStruct],
) -> int:
  """The bytes that a row takes for what is computed in between, by XLA's count for 64 rows; 0 if unknown."""
  few = [jax.ShapeDtypeStruct((64, *one.shape[1:]), one.dtype) for one in inputs]
  found = jax.jit(function).lower(weights, *few).compile().memory_analysis()
  return 0 if found is None else found.temp_size_in_bytes // 64


def _new(out: str | Path) -> Path:
  out = Path(out).expanduser().absolute()
  if out.exists():
    raise InputError(f"{out} exists already; use another folder, or remove it")
  return out


def save_model(model: Model, out: str | Path, *, onnx: bool = False) -> Path:
  """Writes a model as a folder. The folder appears complete or not at all.

  Args:
    model: the model. The weights of all its runs must have the same names, shapes and dtypes.
    out: the folder to write, which must not exist.
    onnx: see `export_sensor`.

  Returns:
    The folder.

  Raises:
    InputError: the folder exists or cannot be written, the weights of the runs have different shapes, or the
      model cannot be converted.
  """
  out = _new(out)
  weights, context = jax.device_get(model.weights), model.context
  specs = {
    run: {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in own.items()}
    for run, own in weights.items()
  }
  first = next(iter(specs.values()))
  if odd := [run for run, one in specs.items() if one != first]:
    raise InputError(f"{', '.join(odd)}: weights have other names, shapes or dtypes than {next(iter(specs))}")
  (rows,) = export.symbolic_shape("rows")
  shapes = [(rows, *model.modality.shape), *([(rows, len(context))] if context else [])]
  inputs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
  exported = export.export(jax.jit(model.function), platforms=PLATFORMS)(first, *inputs)
  named = {f"{run}/{name}": a for run, own in weights.items() for name, a in own.items()}
  files = {FUNCTION: bytes(exported.serialize()), WEIGHTS: tensors.to_bytes(named)}
  if onnx:
    from colearn_jax.deploy.onnx import convert

    files[ONNX] = convert(model)
  description = {
    **model.about,
    "format": FORMAT,
    "modality": model.modality.to_json() | {"dtype": "float32"},
    "task": dataclasses.asdict(model.task),
    "context": list(context),
    "views": {name: view.to_json() for name, view in (model.views or {}).items()},
    "runs": model.runs,
    "temporary_bytes": _temporary_bytes(model.function, first, inputs),
    "versions": {name: metadata.version(name) for name in PACKAGES},
    "files": {name: sha256(data) for name, data in files.items()},
  }
  description = json.loads(
    json.dumps(description, allow_nan=False)
  )  # the digest is that of JSON, where tuples are lists
  description["sha256"] = digest_of(description)
  files[DESCRIPTION] = json.dumps(description, indent=2, ensure_ascii=False).encode()
  part = out.with_name(f".{out.name}.part")
  try:
    part.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
      with open(part / name, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    part.replace(out)
  except OSError as error:
    shutil.rmtree(part, ignore_errors=True)
    raise InputError(f"{out} cannot be written: {error.strerror}") from None
  return out
