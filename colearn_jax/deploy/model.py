"""A trained model of one sensor, ready to predict. It needs only jax, numpy and flatbuffers.

model = load_model("model_s2/")      # a folder that `export_sensor` wrote
probabilities = model.predict(x)     # x: [N *model.modality.shape], raw values, NaN = missing
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from colearn_jax.deploy import tensors
from colearn_jax.types import InputError, Modality, Task

FORMAT = 2  # version of model.json
DESCRIPTION, FUNCTION, WEIGHTS = "model.json", "function.jax", "weights.safetensors"
_BATCH_BYTES, _BATCH_ROWS = 32 * 2**20, 4096  # limits of one batch of float32 inputs

T = TypeVar("T")


class Model:
  """Predicts from one sensor with the models of one or several runs (folds and seeds).

  Args:
    function: called as `(weights, x)` or, with context, `(weights, x, context)`. It maps raw float32 values
      `[B *shape]` to probabilities or target values `[B C]`. A row is NaN if the sensor is absent (all values
      of the sample are NaN).
    weights: a flat dict of arrays for each run, by name of the run. They are copied to the default device
      once.
    modality: the sensor: name, shape of one sample, names of the bands.
    task: kind of the task and names of the outputs.
    context: names of the columns of the context, if the model has a context.
    about: further content of model.json: method, normalisation, origin.

  Attributes:
    function, modality, task, context, about: the arguments.
    weights: the weights, on the device.
    runs: names of the runs.
    bands: names of the bands, in the order of the last axis of the input.
    outputs: names of the classes, labels or target columns, in the order of the output's columns.
  """

  def __init__(
    self,
    function: Callable[..., jax.Array],
    weights: Mapping[str, Mapping[str, np.ndarray]],
    modality: Modality,
    task: Task,
    context: Sequence[str] = (),
    about: Mapping | None = None,
  ):
    self.function, self.context, self.about = function, tuple(context), dict(about or {})
    self.modality, self.bands = modality, modality.bands
    self.task, self.outputs = task, task.outputs
    self.weights, self.runs = {run: jax.device_put(dict(own)) for run, own in weights.items()}, list(weights)
    # Integers are converted to float32 on the device, so that images are transferred as bytes.
    self._compiled = jax.jit(lambda weights, x, *more: function(weights, x.astype(np.float32), *more))
    sample = 4 * int(np.prod(modality.shape))
    self._batch_size = _power_of_two(min(_BATCH_ROWS, max(1, _BATCH_BYTES // sample)) + 1) // 2

  def predict(
    self, x: np.ndarray, context: np.ndarray | None = None, *, batch_size: int | None = None
  ) -> np.ndarray:
    """Predicts: the mean over the predictions of all runs.

    Args:
      x: `[N *shape]`, raw values in the units and the band order of the data set. NaN, infinite or masked
        values are missing. A last band `month` is the month of each step: 0 is January, NaN unknown. Any real
        dtype; float64 and integers of 32 bits or more are rounded to float32.
      context: `[N K]`, the columns `self.context`, NaN if unknown.
      batch_size: number of samples per batch. Default: as many as fit in 32 MiB, 4096 at most. Batches are
        padded to powers of two, so that few programs are compiled.

    Returns:
      `[N C]` float32: probabilities, or the target in its unit. A row is NaN if the sensor is absent.

    Raises:
      InputError: the input has the wrong shape or is not numeric, or the context is missing or not expected.
    """
    return self.predict_runs(x, context, batch_size=batch_size).mean(0)

  def spread(
    self, x: np.ndarray, context: np.ndarray | None = None, *, batch_size: int | None = None
  ) -> np.ndarray:
    """Standard deviation over the runs' predictions, `[N C]`. Divides by n - 1; NaN for a single run."""
    each = self.predict_runs(x, context, batch_size=batch_size)
    return each.std(0, ddof=1) if len(each) > 1 else np.full_like(each[0], np.nan)

  def predict_runs(
    self, x: np.ndarray, context: np.ndarray | None = None, *, batch_size: int | None = None
  ) -> np.ndarray:
    """The prediction of each run, `[R N C]` in the order of `self.runs`; see `predict`."""
    x = _numbers(x, "the input")
    if x.shape[1:] != self.modality.shape:
      raise InputError(
        f"modality {self.modality.name} reads samples of shape {self.modality.shape}, got {x.shape[1:]}; "
        f"the last axis is the bands {', '.join(self.bands)}"
      )
    inputs = [x, *self._checked_context(context, len(x))]
    size = self._batch_size if batch_size is None else batch_size
    if size < 1:
      raise InputError(f"batch_size={size} is not allowed; an integer >= 1")
    out = np.empty((len(self.runs), len(x), len(self.outputs)), np.float32)
    pending = None
    for start in range(0, len(x), size):
      rows = slice(start, min(start + size, len(x)))
      padded = min(size, _power_of_two(rows.stop - rows.start))
      batch = jax.device_put([_padded(_narrow(a[rows]), padded) for a in inputs])
      predicted = [self._compiled(weights, *batch) for weights in self.weights.values()]
      if pending is not None:  # fetched one batch late, so that the device does not wait for the host
        _store(out, *pending)
      pending = rows, predicted
    if pending is not None:
      _store(out, *pending)
    return out

  def _checked_context(self, context: np.ndarray | None, rows: int) -> list[np.ndarray]:
    if not self.context:
      if context is not None:
        raise InputError("this model takes no context")
      return []
    wanted = f"[{rows} {len(self.context)}], the columns {', '.join(self.context)}"
    if context is None:
      raise InputError(f"this model needs a context {wanted}")
    context = _numbers(context, "the context")
    if context.shape != (rows, len(self.context)):
      raise InputError(f"the context has shape {list(context.shape)}, needed: {wanted}")
    with np.errstate(over="ignore"):
      return [context.astype(np.float32)]


def read_exported(path: Path, sensor: str | None = None, *, runs: Sequence[str] | None = None) -> Model:
  """Reads a folder that `export.export_sensor` wrote; see `load.load_model`."""
  about = _description(path)
  function = _deserialised(path, about)
  weights: dict[str, dict[str, np.ndarray]] = {run: {} for run in about["runs"]}
  for name, array in tensors.from_bytes(_checked(path, WEIGHTS, about)).items():
    run, _, own = name.partition("/")
    weights[run][own] = array
  modality, task = about["modality"], about["task"]
  if sensor not in (None, modality["name"]):
    raise InputError(f"{path} is the model of modality {modality['name']!r}, not of {sensor!r}")
  return Model(
    function,
    chosen(weights, runs, path),
    Modality.from_json(modality),
    Task.from_json(task),
    about["context"],
    about,
  )


def chosen(models: Mapping[str, T], runs: Sequence[str] | None, path: Path) -> dict[str, T]:
  """Selects the models of these runs. Default: all. InputError if there is no such run."""
  for run in runs or ():
    if run not in models:
      raise InputError(f"{path} has no run {run!r}, have: {', '.join(models)}")
  return {run: models[run] for run in (models if runs is None else runs)}


def sha256(data: bytes) -> str:
  """The checksum of a file, in hexadecimal digits."""
  return hashlib.sha256(data).hexdigest()


def digest_of(description: Mapping) -> str:
  """The digest of model.json, computed from all its content except the digest itself."""
  rest = {name: value for name, value in description.items() if name != "sha256"}
  return sha256(json.dumps(rest, sort_keys=True).encode())


def _description(path: Path) -> dict:
  file = path / DESCRIPTION
  try:
    about = json.loads(file.read_text(encoding="utf-8"))
    version, digest = about["format"], about["sha256"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"{file} is damaged ({type(error).__name__}): export or copy the model again") from None
  if isinstance(version, int) and version > FORMAT:
    raise InputError(
      f"{path} has format {version}, this version of colearn_jax reads up to {FORMAT}: update colearn_jax"
    )
  if version != FORMAT:
    raise InputError(f"{path} has format {version}, which is no longer read: export the model again")
  if digest != digest_of(about):
    raise InputError(f"{file} was altered, its checksum differs: export or copy the model again")
  return about


def _checked(path: Path, name: str, about: Mapping) -> bytes:
  """Reads a file of the folder and checks its checksum."""
  try:
    data = (path / name).read_bytes()
  except OSError as error:
    raise InputError(f"{path / name} cannot be read: {error.strerror}") from None
  if sha256(data) != about["files"][name]:
    raise InputError(f"{path / name} was altered, its checksum differs: export or copy the model again")
  return data


def _deserialised(path: Path, about: Mapping) -> Callable[..., jax.Array]:
  from jax import export

  data = _checked(path, FUNCTION, about)
  try:
    return export.deserialize(bytearray(data)).call
  except Exception as error:  # for versions that it cannot read, jax raises exceptions of many types
    reason = str(error).strip().split("\n")[0]
    raise InputError(
      f"{path / FUNCTION}, exported with jax {about['versions']['jax']}, cannot be read by "
      f"jax {jax.__version__}: {reason}"
    ) from None


def _numbers(x: np.ndarray, what: str) -> np.ndarray:
  """Checks that an array is numeric. Masked values become NaN; also those in a list of masked arrays."""
  if isinstance(x, list | tuple):
    try:
      # np.asarray would ignore the masks of arrays in a list.
      x = np.ma.stack(x) if any(isinstance(one, np.ma.MaskedArray) for one in x) else np.asarray(x)
    except ValueError:
      raise InputError(
        f"{what} has samples of different shapes, needed: one shape; bring series to one length first"
      ) from None
  mask = np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else None
  x = np.asarray(x)
  if x.dtype.kind not in "biuf" and x.dtype.name != "bfloat16":
    raise InputError(f"{what} has dtype {x.dtype}, needed: real numbers")
  if x.ndim == 0:
    raise InputError(f"{what} is a single number, needed: one row for each sample")
  if mask is not None:
    x = np.where(mask, np.nan, x.astype(np.result_type(x.dtype, np.float32)))
  return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))  # the device knows one byte order


def _narrow(x: np.ndarray) -> np.ndarray:
  """Converts dtypes of 32 bits or more to float32. Narrower ones are converted on the device."""
  if x.dtype.itemsize < 4 or x.dtype == np.float32:
    return x
  with np.errstate(over="ignore"):  # float64 values that are too large become infinite
    return x.astype(np.float32)


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
  """Appends rows of zeros. Their predictions are dropped; they do not affect the other rows."""
  if len(x) == rows:
    return x
  out = np.zeros((rows, *x.shape[1:]), x.dtype)
  out[: len(x)] = x
  return out


def _store(out: np.ndarray, rows: slice, predicted: Sequence[jax.Array]) -> None:
  for run, values in enumerate(jax.device_get(predicted)):
    out[run, rows] = values[: rows.stop - rows.start]


def _power_of_two(n: int) -> int:
  """The smallest power of two that is at least `n`."""
  return 1 << max(n - 1, 0).bit_length()
