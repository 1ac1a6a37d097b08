"""Makes a map: opens the scene, computes all blocks, and writes the files."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from colearn_jax import dates
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.deploy import blocks, cluster, cog, mapping, preview, ranges, scenes, stored
from colearn_jax.deploy.mapping import CONFIDENCE, MAP, Job
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.pixels import Pixels
from colearn_jax.deploy.stacks import Window
from colearn_jax.types import InputError, context_layout


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a map is made; see the help of `colearn_jax.map`."""

  bands: tuple[str, ...] = ()
  nodata: str | None = None
  scale: float | None = None
  offset: float | None = None
  date: str = ""
  static: tuple[str, ...] = ()
  coverage: float | None = None
  block: int | None = None
  workers: int = 1
  scheduler: str | None = None
  any_values: bool = False


def make(model: str | Path, inputs: Sequence[str], out: str | Path, settings: Settings) -> list[Path]:
  """Makes a map.

  Args:
    model: folder of an exported model.
    inputs: files of the scene, or patterns of their names.
    out: the GeoTIFF to write.
    settings: how.

  Returns:
    The files that were written.

  Raises:
    InputError: the model or the scene cannot be read, do not fit each other, or have no values; or a file
      cannot be written. Then no file of the map has its final name; finished blocks are kept.
  """
  out = Path(out).expanduser().absolute()
  if out.suffix.lower() not in (".tif", ".tiff"):
    raise InputError(f"--out={out}: the name of a GeoTIFF ends with .tif")
  if settings.workers < 1 or (settings.scheduler and settings.workers > 1):
    allowed = "nothing with --scheduler" if settings.scheduler else "an integer >= 1"
    raise InputError(f"--workers={settings.workers} is not allowed; {allowed}")
  folder = str(Path(model).expanduser().absolute())
  loaded = mapping.opened(folder)
  job = _job(folder, loaded, inputs, out, settings)
  layouts = mapping.layouts(loaded, settings.coverage)
  if blocks.begin(job):
    print(f"starts anew: the blocks in {job.parts} were those of another map", file=sys.stderr)
  every, missing = len(job.blocks()), blocks.missing(job)
  if not settings.any_values and len(missing) == every:
    _check_values(loaded, job)
  with tqdm(total=every, initial=every - len(missing), unit="block", disable=None) as bar:
    done = lambda number: bar.update()
    if settings.scheduler or settings.workers > 1:
      cluster.run(job, missing, done, settings.scheduler, settings.workers)
    else:
      blocks.run(job, missing, done)
  written = _write(job, loaded, layouts, out)
  blocks.discard(job)
  return written


def _job(folder: str, model: Model, inputs: Sequence[str], out: Path, settings: Settings) -> Job:
  """Opens the scene and checks that the model can read it."""
  pixels = Pixels(model)
  decoding = stored.decoding(settings.nodata, settings.scale, settings.offset, len(settings.bands) or None)
  scene = scenes.open_scene(inputs, pixels.bands, decoding, settings.bands or None)
  scene.check()
  date = settings.date and str(np.datetime64(int(dates.to_days([settings.date], "--date")[0]), "D"))
  steps = len(scene.read(Window(0, 0, 1, 1)))
  pixels.check(steps, scene.days, date)
  static = _static(model, settings, decoding, scene)
  known = context_layout(model.context)
  if known.dated and not date:
    raise InputError("the context of the model has the date: --date says it, e.g. --date=2023-07-01")
  if date and not settings.any_values:
    ranges.check_time(model, np.array([date], "datetime64[D]"), "; --any-values accepts it")
  if known.place and not scene.grid.crs:
    raise InputError("the context of the model has the location, and the scene has no projection")
  block = blocks.size(steps, len(pixels.bands)) if settings.block is None else settings.block
  if block < 1:
    raise InputError(f"--block={block} is not allowed; an integer >= 1")
  parts = out.with_name(f".{out.name}.blocks")
  return Job(folder, scene, static, date, settings.coverage, block, str(parts))


def _static(model: Model, settings: Settings, decoding: Decoding, scene):
  """The scene of the static layers of the model's context, None without."""
  names = context_layout(model.context).static
  if not names:
    if settings.static:
      raise InputError("--static is not allowed: the model has no static layers in its context")
    return None
  if not settings.static:
    raise InputError(f"the context of the model has static layers: --static=FILE with {', '.join(names)}")
  static = scenes.open_scene(settings.static, names, decoding)
  if (len(static.read(Window(0, 0, 1, 1))), static.grid) != (1, scene.grid):
    raise InputError(f"--static={settings.static[0]} has other pixels than the scene, or several dates")
  return static


def _check_values(model: Model, job: Job) -> None:
  """Raises InputError if the values of the first block that has any are not in the units of the training."""
  for block in job.blocks():
    values, *_ = mapping.inputs(job, block)
    own = values[..., : Pixels(model).sensors]
    if np.isfinite(own).any():
      ranges.check(model, own, "; --scale and --offset convert them, --any-values accepts them")
      return
  raise InputError(f"no pixel of {Path(job.scene.files[0]).name} has a value in the bands of the model")


def _write(job: Job, model: Model, layouts, out: Path) -> list[Path]:
  """Writes all files under temporary names, then gives them their own; the map is the last one."""
  names = {MAP: out, CONFIDENCE: out.with_name(f"{out.stem}_confidence{out.suffix}")}
  picture = out.with_suffix(".png")
  part = lambda path: path.with_name(f".{path.stem}.part{path.suffix}")
  grid = job.scene.grid
  ready: dict[Path, Path] = {}
  title = f"{model.modality.name}, {model.task.kind}" + (f", {job.date}" if job.date else "")
  try:
    for name in [name for name in (CONFIDENCE, MAP) if name in layouts]:
      cog.write(part(names[name]), grid, layouts[name], blocks.finished(job, name), mapping.facts(model, job))
      ready |= {part(names[name]): names[name], cog.beside(part(names[name])): cog.beside(names[name])}
    preview.write(part(picture), part(out), grid, layouts[MAP], title)
    ready[part(picture)] = picture
    for temporary, final in sorted(ready.items(), key=lambda pair: pair[1] == out):
      final.unlink(missing_ok=True) if not temporary.exists() else os.replace(temporary, final)
  except OSError as error:
    raise InputError(f"{out} cannot be written: {error.strerror or error}") from None
  finally:
    for temporary in ready:
      temporary.unlink(missing_ok=True)
  return [path for path in (out, names[CONFIDENCE], picture) if path in ready.values()]
