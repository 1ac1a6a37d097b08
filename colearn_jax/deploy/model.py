"""A trained model of one sensor, ready to predict. Needs jax, numpy and flatbuffers, and nothing else.

model = load_model("model_s2/")      # a folder that `export_sensor` wrote
probabilities = model.predict(x)     # x: [N *model.modality.shape], raw values, NaN where one is missing
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from colearn_jax.types import InputError, Modality, Task

FORMAT = 1  # of model.json; a program reads this version and older ones
DESCRIPTION, FUNCTION, WEIGHTS = "model.json", "function.jax", "weights.npz"
_BATCH_BYTES, _BATCH_ROWS = 32 * 2**20, 4096  # upper bounds of one batch of inputs, as float32


class Model:
  """Predicts from one sensor with the models of one or several runs (folds and seeds).

  Args:
    function: `(weights, x)` or, with context, `(weights, x, context)` to `[B C]`: raw float32 `[B *shape]`
      to probabilities or values, a row of NaN where the sensor is absent (all values NaN).
    weights: of each run, by its name: a flat dict of arrays. They are placed on the default device once.
    modality: the sensor: name, shape of one sample, bands in their order.
    task: kind and names of the outputs.
    context: names of the columns of the context, if the model takes one.
    about: further content of model.json: method, normalisation, provenance.

  Attributes:
    function, modality, task, context, about: as given.
    weights: as given, on the device.
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
    # Integers become float32 on the device: images stay bytes until then.
    self._compiled = jax.jit(lambda weights, x, *more: function(weights, x.astype(np.float32), *more))
    sample = 4 * int(np.prod(modality.shape))
    self._batch_size = _power_of_two(min(_BATCH_ROWS, max(1, _BATCH_BYTES // sample)) + 1) // 2

  def predict(
    self, x: np.ndarray, context: np.ndarray | None = None, *, batch_size: int | None = None
  ) -> np.ndarray:
    """The mean of the runs' predictions.

    Args:
      x: `[N *shape]`, raw values in the data set's units and order of bands. NaN, or a masked value, is
        missing. Any real dtype; float64 and integers of 32 bits or more are rounded to float32.
      context: `[N K]`, the columns `self.context`, NaN where unknown.
      batch_size: samples at a time; by default as many as fit in 32 MiB, 4096 at most. Batches are padded
        to powers of two, so that few programs are compiled.

    Returns:
      `[N C]` float32: probabilities, or the target in its unit; NaN where the sensor is absent.

    Raises:
      InputError: an input of another shape, or that is not numbers; context missing or not wanted.
    """
    return self.predict_runs(x, context, batch_size=batch_size).mean(0)

  def spread(
    self, x: np.ndarray, context: np.ndarray | None = None, *, batch_size: int | None = None
  ) -> np.ndarray:
    """The standard deviation of the runs' predictions, `[N C]`, with n - 1; NaN for a single run."""
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


def load_model(path: str | Path, sensor: str | None = None, *, runs: Sequence[str] | None = None) -> Model:
  """Loads the model of one sensor.

  Args:
    path: a folder that `export_sensor` wrote, or the work directory of a finished training. The latter needs
      the whole package.
    sensor: the modality, for a work directory, e.g. `S2_S2VI`.
    runs: whose predictions are averaged, e.g. `["seed10_fold3"]`; by default all that are no ablations.

  Raises:
    InputError: there is no model, or it has no such sensor or run; a file is missing, was altered, or is of a
      newer format.
  """
  path = Path(path).expanduser()
  if not (path / DESCRIPTION).is_file():
    if sensor is None:
      raise InputError(f"{path} holds no exported model: there is no {DESCRIPTION}")
    from colearn_jax.deploy.predictor import load  # here: an exported model does not need the package

    return load(path, sensor, runs=runs)
  about = _description(path)
  function = _deserialised(path, about)
  with np.load(io.BytesIO(_checked(path, WEIGHTS, about)), allow_pickle=False) as arrays:
    weights = {run: {} for run in about["runs"]}
    for name in arrays.files:
      run, _, own = name.partition("/")
      weights[run][own] = arrays[name]
  modality, task = about["modality"], about["task"]
  if sensor not in (None, modality["name"]):
    raise InputError(f"{path} is the model of modality {modality['name']!r}, not of {sensor!r}")
  return Model(
    function,
    chosen(weights, runs, path),
    Modality(modality["name"], *(tuple(modality[k]) for k in ("views", "shape", "bands"))),
    Task(task["kind"], tuple(task["outputs"])),
    about["context"],
    about,
  )


def chosen(models: Mapping[str, dict], runs: Sequence[str] | None, path: Path) -> dict[str, dict]:
  """The models of these runs, of all by default; InputError if there is none of that name."""
  for run in runs or ():
    if run not in models:
      raise InputError(f"{path} has no run {run!r}, have: {', '.join(models)}")
  return {run: models[run] for run in (models if runs is None else runs)}


def sha256(data: bytes) -> str:
  """The checksum of a file, in hexadecimal digits."""
  return hashlib.sha256(data).hexdigest()


def digest_of(description: Mapping) -> str:
  """The digest of model.json: of everything in it but the digest itself."""
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
  if digest != digest_of(about):
    raise InputError(f"{file} was altered, its checksum differs: export or copy the model again")
  return about


def _checked(path: Path, name: str, about: Mapping) -> bytes:
  """The content of a file of the folder, whose checksum is right."""
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
  except Exception as error:  # jax tells a version that it cannot read by many types
    reason = str(error).strip().split("\n")[0]
    raise InputError(
      f"{path / FUNCTION}, exported with jax {about['versions']['jax']}, cannot be read by "
      f"jax {jax.__version__}: {reason}"
    ) from None


def _numbers(x: np.ndarray, what: str) -> np.ndarray:
  """An array of numbers; masked values are NaN."""
  if isinstance(x, np.ma.MaskedArray):
    x = x.astype(np.result_type(x.dtype, np.float32)).filled(np.nan)
  x = np.asarray(x)
  if x.dtype.kind not in "biuf" and x.dtype.name != "bfloat16":
    raise InputError(f"{what} has dtype {x.dtype}, needed: real numbers")
  if x.ndim == 0:
    raise InputError(f"{what} is a single number, needed: one row for each sample")
  return x


def _narrow(x: np.ndarray) -> np.ndarray:
  """The same values, in float32 where the dtype has more bits than a device takes as they are."""
  if x.dtype.itemsize < 4 or x.dtype == np.float32:
    return x
  with np.errstate(over="ignore"):  # too large a float64 is an infinity, as everywhere
    return x.astype(np.float32)


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
  """The array with rows of zeros after its own; each row is predicted by itself, and these are dropped."""
  if len(x) == rows:
    return x
  out = np.zeros((rows, *x.shape[1:]), x.dtype)
  out[: len(x)] = x
  return out


def _store(out: np.ndarray, rows: slice, predicted: Sequence[jax.Array]) -> None:
  for run, values in enumerate(jax.device_get(predicted)):
    out[run, rows] = values[: rows.stop - rows.start]


def _power_of_two(n: int) -> int:
  """The least power of two that is `n` or more."""
  return 1 << max(n - 1, 0).bit_length()
