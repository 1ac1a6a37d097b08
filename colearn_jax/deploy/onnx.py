"""Converts a model to ONNX with jax2onnx, and checks the result in onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import jax
import numpy as np

from colearn_jax.deploy.model import Model
from colearn_jax.types import InputError

TOLERANCE = 1e-5  # of the check, of the greatest absolute prediction or 1
OPSET = 21
ROWS = 7  # samples of the check


def convert(model: Model) -> bytes:
  """The function of a model and the weights of all its runs as one ONNX model.

  Its inputs are `values`, `[rows *shape]` float32 as `Model.predict` takes them with `prepared=True`, and, if
  the model has one, `context`. Its output `prediction` is the mean over the runs, without calibration.

  Raises:
    InputError: the converter is not installed, does not know an operation of the encoder, or what it made
      predicts something else than the model.
  """
  try:
    with _quiet():
      import jax2onnx
      import onnxruntime
  except ImportError as error:
    raise InputError(f"--onnx needs {error.name or 'jax2onnx'}: pip install 'colearn_jax[onnx]'") from None
  weights = jax.device_get(model.weights)

  def predict(*inputs):
    every = [model.function(own, *inputs) for own in weights.values()]
    return sum(every[1:], every[0]) / len(every)

  names = ["values", *(["context"] if model.context else [])]
  shapes = [model.modality.shape, *([(len(model.context),)] if model.context else [])]
  try:
    # A file for all platforms has no use for what is faster on one of them.
    with mock.patch.object(jax.lax, "platform_dependent", _default), _quiet():
      made = jax2onnx.to_onnx(
        predict,
        [("rows", *shape) for shape in shapes],
        model_name=model.modality.name,
        opset=OPSET,
        input_names=names,
        output_names=["prediction"],
      ).SerializeToString()
      session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
  except Exception as error:  # of operations that it does not know, in many types
    reason = " ".join(str(error).split())[:200]
    raise InputError(
      f"--onnx: jax2onnx cannot convert the encoder of {model.modality.name}: {reason}"
    ) from None
  given = [_odd(shape, model) for shape in shapes]
  (got,) = session.run(None, dict(zip(names, given)))
  want = model.predict(*given, prepared=True)
  scale = max(1.0, float(np.nanmax(np.abs(want), initial=0)))
  if not np.allclose(got, want, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
    raise InputError(f"--onnx: what jax2onnx made of {model.modality.name} predicts something else")
  return made


def _default(*args, default, **platforms):
  return default(*args)


def _odd(shape: tuple[int, ...], model: Model) -> np.ndarray:
  """Values of some samples in the units of the training; one is absent, one has missing values."""
  every: dict[str, dict] = model.about.get("normalisation") or {}
  constants = next(iter(every.values()), {})
  own = constants.get(model.modality.name) if shape == model.modality.shape else None
  x = np.random.default_rng(0).normal(size=(ROWS, *shape))
  if own:
    x = x * np.array(own["scale"]) + np.array(own["offset"])
  x[1], x[2].flat[0] = np.nan, np.nan
  return x.astype(np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
  """Drops what the converter says of parts of its own that cannot be loaded, or are deprecated."""
  before = logging.root.manager.disable
  logging.disable(logging.CRITICAL)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    logging.disable(before)
