"""A work directory belongs to one run: one process at a time, one configuration, and the same samples."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.data.splits import Run
from colearn_jax.parallel import processes
from colearn_jax.storage import files, models
from colearn_jax.types import Description, InputError
from colearn_jax.weights import pretrained

if TYPE_CHECKING:
  from colearn_jax.training.run import Training

WEIGHTS = "weights.json"  # the files of pretrained weights and their digests


def use_compilation_cache(cache: str, workdir: Path) -> None:
  """Turns on the cache of compiled programs, unless JAX already has one."""
  if cache != "off" and not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
    directory = workdir.parent / ".jax_cache" if cache == "auto" else Path(cache).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(directory))


def locked(workdir: Path) -> contextlib.AbstractContextManager:
  """Locks the work directory. The first process does this for all."""
  if not processes.first():
    return contextlib.nullcontext()
  return files.lock(workdir / ".lock", busy=f"another process is training in {workdir}")


# What `data.reader.fingerprint` tells apart, for the message.
_PARTS = {
  "number": "their number",
  "builder": "their builder or its version",
  "metadata": "their bands, classes, units or splits",
  "values": "their values, dates, labels or groups",
}


def describe(workdir: Path, described: Description, teachers: Sequence[str]) -> None:
  """Writes dataset.json, or checks that the samples are the same as when the run was started.

  The models of teachers and of the baseline belong to the same samples, so theirs are checked too.
  """
  path = workdir / "dataset.json"
  below = [workdir / "individual", *(workdir / "teachers" / name for name in teachers)]
  for place in (workdir, *below):
    if (place / "dataset.json").exists():
      check_samples(place, described)
    else:
      _check_empty(place, "dataset.json")
  processes.wait("samples")
  if processes.first():
    files.write_json(path, described.to_json(), sealed=True)


def _check_empty(workdir: Path, missing: str) -> None:
  """Raises InputError if there are models, whose samples or settings the missing file would tell."""
  if any((workdir / name).exists() for name in ("checkpoints", "training")):
    raise InputError(
      f"{workdir} holds trained models but no {missing}: restore this file, or use another workdir"
    )


def check_samples(workdir: Path, described: Description) -> None:
  """Raises InputError if the work directory was started with other samples."""
  begun = Description.from_json(files.read_json(workdir / "dataset.json"))
  if begun.samples is None:  # imported models
    names = lambda of: (of.task.kind, of.task.outputs, {m.name: m.bands for m in of.modalities})
    if names(begun) != names(described):
      raise InputError(
        f"{workdir} holds imported models of other bands or outputs than data set {described.name} has: "
        "use another workdir"
      )
    return
  there, here = dict(begun.samples), dict(described.samples or {})
  if there.keys() != here.keys():
    raise InputError(
      f"{workdir} was started by another version of colearn_jax, which recorded its samples otherwise: "
      "use another workdir"
    )
  if different := [what for part, what in _PARTS.items() if there[part] != here[part]]:
    raise InputError(
      f"{workdir} was started with other samples than data set {described.name} has now: "
      f"{', '.join(different)} changed; restore them, or use another workdir"
    )


def claim(config: ConfigDict, workdir: Path) -> None:
  """Writes config.json, or checks that an existing one has the same values."""
  path, wanted = workdir / "config.json", config_lib.to_json(config)
  if path.exists():
    if differences := config_lib.differences(files.read_json(path), wanted):
      raise InputError(
        f"{workdir} holds a run with another configuration ({'; '.join(differences)}): "
        "use another workdir, or its values"
      )
  else:
    _check_empty(workdir, path.name)
  processes.wait("configuration")
  if processes.first() and not path.exists():
    files.write_json(path, wanted, sealed=True)
  processes.wait("work directory")


def keep_weights(workdir: Path, encoders: Mapping[str, Mapping]) -> dict[str, dict[str, str]]:
  """Writes weights.json, the files of pretrained weights and their digests; {} without any, and no file.

  A run that is resumed has to find the same files. It may find none, as they are read only at the start.
  """
  path = workdir / WEIGHTS
  begun: dict = files.read_json(path) if path.exists() else {}
  found = begun | pretrained.describe(encoders)
  if changed := [sensor for sensor in begun if begun[sensor]["sha256"] != found[sensor]["sha256"]]:
    raise InputError(
      f"{workdir} was started with other pretrained weights of {', '.join(changed)}: restore the file "
      f"{begun[changed[0]]['file']}, or use another workdir"
    )
  processes.wait("weights")
  if processes.first() and found and not begun:
    files.write_json(path, found, sealed=True)
  return found


def of_model(workdir: Path, run: Run) -> Path:
  """Directory of a run's finished model."""
  return workdir / "checkpoints" / run.name


def of_training(workdir: Path, runs: Sequence[Run]) -> Path:
  """Directory of the checkpoints of a stack during training."""
  return workdir / "training" / ("stack" if len(runs) > 1 else runs[0].name)


def remove_damaged(training: Training) -> None:
  """Removes damaged models and checkpoints, with a warning for each. What is missing is trained again."""
  if processes.first():
    for run in training.runs:
      models.remove_damaged(of_model(training.workdir, run), "its run is trained anew")
    for stack in training.stacks:
      models.remove_damaged(of_training(training.workdir, stack), "the training begins anew")
  processes.wait("damaged")


def unfinished(training: Training) -> list[Run]:
  """The runs without a finished model."""
  return [run for run in training.runs if models.latest(of_model(training.workdir, run)) < 0]


def positions(training: Training) -> dict[str, float]:
  """The last epoch of each run whose log lines are kept: that of its checkpoint; all, if it is finished."""
  out = {run.name: float("inf") for run in training.runs}
  todo = {run.name for run in unfinished(training)}
  for runs in training.stacks:
    directory = of_training(training.workdir, runs)
    saved = (models.progress(directory) or {}).get("epoch", models.latest(directory))
    out |= {run.name: saved for run in runs if run.name in todo}
  return out
