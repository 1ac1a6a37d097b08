"""A trained model of one sensor, ready to predict. It needs only jax, numpy and flatbuffers.

model = load_model("model_s2/")                 # a folder that `export_sensor` wrote
probabilities = model.predict(x, dates=dates)   # raw values, NaN = missing
estimate = model.estimate(x, dates=dates)       # calibrated probabilities, or values with bounds
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Unpack

import jax
import numpy as np

from colearn_jax.data.modality import View
from colearn_jax.deploy import tensors, uncertainty
from colearn_jax.deploy.batches import as_numbers, narrow, padded, power_of_two, spread_of, store
from colearn_jax.deploy.raw import Given, Raw, ordered
from colearn_jax.types import InputError, Modality, Task

FORMAT = 3  # version of model.json
DESCRIPTION, FUNCTION, WEIGHTS = "model.json", "function.jax", "weights.safetensors"
_BATCH_BYTES, _BATCH_ROWS = 32 * 2**20, 4096  # limits of one batch of float32 inputs
# On a CPU, XLA asks for the memory of what it computes in between anew for each batch. With 1024 rows, new
# pages and arrays that leave the cache made most encoders take 1.5 to 2 times as long as with 16 MiB of it.
# 256 rows if it is not known how much a row takes.
_TEMPORARY_BYTES, _CPU_ROWS, _CPU_ROWS_OF_UNKNOWN = 16 * 2**20, (16, 1024), 256

T = TypeVar("T")


class Estimate(NamedTuple):
  """What `Model.estimate` returns; each array is `[N C]` float32, with NaN rows where the sensor is absent.

  Attributes:
    value: probabilities, calibrated if the model has a temperature; or values of the target.
    spread: standard deviation over the runs; NaN for a single run.
    lower: of the interval of a value, see `uncertainty`; None without intervals.
    upper: likewise.
  """

  value: np.ndarray
  spread: np.ndarray
  lower: np.ndarray | None = None
  upper: np.ndarray | None = None


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
    views: how the views of the sensor, and those that mask them, are stored and used; None if it is not
      known, so that values have to be in the layout of the function.

  Attributes:
    function, modality, task, context, about, views: the arguments.
    weights: the weights, on the default device.
    devices: the devices that share the batches.
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
    views: Mapping[str, View] | None = None,
  ):
    self.function, self.context, self.about = function, tuple(context), dict(about or {})
    self.modality, self.bands = modality, modality.bands
    self.task, self.outputs = task, task.outputs
    self.views = dict(views) if views else None
    self._raw = Raw(modality, views) if views else None
    self.weights, self.runs = {run: jax.device_put(dict(own)) for run, own in weights.items()}, list(weights)
    self.devices = jax.local_devices()
    self._placed: dict[jax.Device, Mapping] = {self.devices[0]: self.weights}
    # Integers are converted to float32 on the device, so that images are transferred as bytes.
    self._compiled = jax.jit(lambda weights, x, *more: function(weights, x.astype(np.float32), *more))
    sample = 4 * int(np.prod(modality.shape))
    most = self._cpu_rows() if self.devices[0].platform == "cpu" else _BATCH_ROWS
    self._batch_size = power_of_two(min(most, max(1, _BATCH_BYTES // sample)) + 1) // 2

  def predict(
    self,
    x: Any,
    context: np.ndarray | None = None,
    *,
    bands: Sequence[str] | None = None,
    dates: Any = None,
    date: Any = None,
    masks: Mapping[str, Any] | None = None,
    prepared: bool = False,
    batch_size: int | None = None,
  ) -> np.ndarray:
    """Predicts: the mean over the predictions of all runs.

    Values are prepared as training prepared those of its data set: sorted by date, hidden by masks, brought
    to one length or to the means of months.

    Args:
      x: raw values in the units of the data set, bands last: `[N T C]`, or a list of N series `[T C]` of
        different lengths; images and static values alike. NaN, infinite and masked values are missing; a
        sample that is None is absent. Any real dtype; float64 and integers of 32 bits or more are rounded to
        float32.
      context: `[N K]`, the columns `self.context`, NaN if unknown.
      bands: names of the bands of `x`, in any order; others than those of the model are ignored. Default:
        `self.bands`, without a last one `month`.
      dates: of the steps, of all samples alike or a list of those of each, in the forms of `dates.to_days`.
        They may be unsorted and repeated. Needed where training took means of months, or the encoder reads
        months; without them the steps are in the order of time.
      date: of the last step of each sample, needed where the encoder reads months that follow from it.
      masks: by name of the band the values of the masks that training used, percent or true and false, as `x`
        without its last axis. Bands of `x` may be masks, too.
      prepared: whether `x` is `[N *self.modality.shape]` already, as the function reads it. A last band
        `month` is the month of each step then: 0 is January, NaN unknown.
      batch_size: number of samples per batch. Default: as many as fit in 32 MiB, 4096 at most; on CPUs 16 to
        1024, so that what is computed in between takes 16 MiB. Batches are padded to powers of two, so that
        few programs are compiled.

    Returns:
      `[N C]` float32: probabilities, or the target in its unit. A row is NaN if the sensor is absent.

    Raises:
      InputError: the input has the wrong shape or is not numeric; bands, dates, masks or the context are
        missing or cannot be used.
    """
    given: Given = {"bands": bands, "dates": dates, "date": date, "masks": masks}
    return self.predict_runs(x, context, prepared=prepared, batch_size=batch_size, **given).mean(0)

  def spread(self, x: Any, context: np.ndarray | None = None, **how: Any) -> np.ndarray:
    """Standard deviation over the runs' predictions, `[N C]`. Divides by n - 1; NaN for a single run."""
    return spread_of(self.predict_runs(x, context, **how))

  def estimate(
    self, x: Any, context: np.ndarray | None = None, *, coverage: float | None = None, **how: Any
  ) -> Estimate:
    """Predicts with uncertainty: calibrated probabilities, or values with bounds; see `predict`.

    A model that was exported without uncertainty gives what `predict` and `spread` give, and no bounds.

    Args:
      x: see `predict`.
      context: see `predict`.
      coverage: the probability with which an interval holds the value, of each output by itself; None for
        0.9, and for models without intervals.
      **how: the other arguments of `predict`.

    Raises:
      InputError: as `predict`, and if this coverage is not possible.
    """
    fitted = self.about.get("uncertainty")
    width = self.half_widths(coverage)
    each = self.predict_runs(x, context, **how)
    if fitted:
      each = uncertainty.calibrate(self.task, fitted, each)
    value = each.mean(0)
    return Estimate(value, spread_of(each), *(() if width is None else (value - width, value + width)))

  def half_widths(self, coverage: float | None) -> np.ndarray | None:
    """Half widths `[C]` of the intervals with this coverage (None: 0.9); None if the model has no intervals.

    Raises:
      InputError: this coverage is not possible, or is given to a model without intervals.
    """
    fitted, values = self.about.get("uncertainty"), self.task.kind == "regression"
    if fitted and values:
      return uncertainty.half_widths(self.task, fitted, 0.9 if coverage is None else coverage)
    if coverage is not None:
      why = "was exported without uncertainty" if values else "predicts no values"
      raise InputError(f"coverage={coverage:g} has no effect: the model {why}, and has no intervals")
    return None

  def predict_runs(
    self,
    x: Any,
    context: np.ndarray | None = None,
    *,
    batch_size: int | None = None,
    runs: Sequence[str] | None = None,
    prepared: bool = False,
    **given: Unpack[Given],
  ) -> np.ndarray:
    """The prediction of each run, `[R N C]` in the order of `self.runs` or of `runs`; see `predict`."""
    x = as_numbers(self._prepared(x, prepared, given), "the input")
    if x.shape[1:] != self.modality.shape:
      raise InputError(
        f"modality {self.modality.name} reads samples of shape {self.modality.shape}, got {x.shape[1:]}; "
        f"the last axis is the bands {', '.join(self.bands)}"
      )
    inputs = [x, *self._checked_context(context, len(x))]
    size = self._batch_size if batch_size is None else batch_size
    if size < 1:
      raise InputError(f"batch_size={size} is not allowed; an integer >= 1")
    runs = self.runs if runs is None else runs
    out = np.empty((len(runs), len(x), len(self.outputs)), np.float32)
    pending: collections.deque[Any] = collections.deque()
    for number, start in enumerate(range(0, len(x), size)):
      device = self.devices[number % len(self.devices)]
      if device not in self._placed:
        self._placed[device] = jax.device_put(self.weights, device)
      rows = slice(start, min(start + size, len(x)))
      length = min(size, power_of_two(rows.stop - rows.start))
      batch = jax.device_put([padded(narrow(a[rows]), length) for a in inputs], device)
      pending.append((rows, [self._compiled(self._placed[device][run], *batch) for run in runs]))
      if len(pending) > len(self.devices):  # fetched late, so that no device waits for the host
        store(out, *pending.popleft())
    for rows, predicted in pending:
      store(out, rows, predicted)
    return out

  def _cpu_rows(self) -> int:
    """The largest batch for a CPU."""
    each = self.about.get("temporary_bytes")
    return int(np.clip(_TEMPORARY_BYTES // each, *_CPU_ROWS)) if each else _CPU_ROWS_OF_UNKNOWN

  def _prepared(self, x: Any, prepared: bool, given: Given) -> Any:
    """Values in the layout of the function."""
    if self._raw is not None and not prepared:
      return self._raw(x, **given)
    unused = [name for name, value in given.items() if value is not None]
    if not prepared and set(unused) <= {"bands"}:
      return ordered(x, given.get("bands"), self.bands)
    if unused:
      why = "`prepared` values are used as they are"
      if not prepared:
        why = "it is not known how the values of this model were made; export it again, from a new training"
      raise InputError(f"{', '.join(unused)} cannot be used: {why}")
    return x

  def _checked_context(self, context: np.ndarray | None, rows: int) -> list[np.ndarray]:
    if not self.context:
      if context is not None:
        raise InputError("this model takes no context")
      return []
    wanted = f"[{rows} {len(self.context)}], the columns {', '.join(self.context)}"
    if context is None:
      raise InputError(f"this model needs a context {wanted}")
    context = as_numbers(context, "the context")
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
    {name: View.from_json(tree) for name, tree in about.get("views", {}).items()},
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
