"""The work directory of a run: its lock, its configuration, and the description of its samples."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.parallel import processes
from colearn_jax.storage import files
from colearn_jax.types import Description, InputError
from colearn_jax.weights import pretrained

WEIGHTS = "weights.json"  # in a work directory: the files of pretrained weights and their digests


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


def keep_description(workdir: Path, described: Description) -> None:
  """Writes dataset.json, or checks that the samples are the same as when the run was started."""
  path = workdir / "dataset.json"
  if path.exists():
    begun = Description.from_json(files.read_json(path))
    if begun.samples not in (None, described.samples):
      raise InputError(
        f"{workdir} was started with other samples than data set {described.name} has now: "
        "restore them, or use another workdir"
      )
  processes.wait("samples")
  if processes.first():
    files.write_json(path, described.to_json())


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
    files.write_json(path, found)
  return found


def claim(config: ConfigDict, workdir: Path) -> None:
  """Writes config.json, or checks that an existing one has the same values."""
  path, wanted = workdir / "config.json", config_lib.to_json(config)
  if path.exists():
    if differences := config_lib.differences(files.read_json(path), wanted):
      raise InputError(
        f"{workdir} holds a run with another configuration ({'; '.join(differences)}): "
        "use another workdir, or its values"
      )
  processes.wait("configuration")
  if processes.first() and not path.exists():
    files.write_json(path, wanted)
  processes.wait("work directory")
