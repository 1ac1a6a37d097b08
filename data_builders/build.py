"""Builds a data set: converts its source files into a TFDS directory that training reads.

    python -m data_builders.build NAME --data_dir=DIR [--manual_dir=SOURCE_FILES]

Unlike `tfds build`, it does not need TensorFlow. `describe` reports what a data set contains before a build.
A data set with several configurations has a name for each, e.g. `cropharvest/binary`, `cropharvest/multi`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging
from colearn_jax.datasets import beam
from colearn_jax.datasets.intact import damage

from colearn_jax.data import context
from colearn_jax.storage import files, manifest
from colearn_jax.types import InputError, Task


def names() -> list[str]:
  """The data sets that can be built, as `folder` or `folder/configuration`."""
  folders = sorted(path.parent.name for path in Path(__file__).parent.glob("*/*_dataset_builder.py"))
  return [name for folder in folders for name in _configured(folder)]


def find(
  name: str, manual_dir: str | Path | None = None
) -> tuple[type[tfds.core.DatasetBuilder], str | tfds.core.BuilderConfig | None]:
  """The TFDS builder class of a data set, and its configuration.

  Args:
    name: one of `names()`.
    manual_dir: directory with the source files. Of `folder`, each directory is a configuration.

  Raises:
    InputError: the name is unknown, or a user's own directory is malformed or not given.
  """
  folder, _, config = name.partition("/")
  if not _file(folder).is_file() or name not in _configured(folder):
    raise InputError(f"unknown data set {name!r}, have: {', '.join(names())}")
  builder = _builder(folder)
  return builder, builder.configure(manual_dir) if _holds_own_data(builder) else config or None


@dataclasses.dataclass(frozen=True)
class Described:
  """What is known about a data set before it is built.

  Attributes:
    task: what is predicted. For some data sets the build may change the outputs.
    shapes: shape of one sample of each view; None for a length that differs between samples.
    views: for each view its `bands`; its `mask`, the name of a view, if it has one; `dated` if days are
      stored with its values: True for dates, False for step numbers; and `units` and `steps` if they are
      known, see `colearn_jax.data.modality`.
    groups: names of the groups that folds can keep together.
    dated: whether samples have a date.
    located: whether samples have coordinates.
  """

  task: Task
  shapes: Mapping[str, tuple[int | None, ...]]
  views: Mapping[str, Mapping]
  groups: tuple[str, ...]
  dated: bool
  located: bool

  @property
  def context(self) -> tuple[str, ...]:
    """The names that `data.context` may contain: date, location, time, and the static views."""
    static = [view for view, shape in self.shapes.items() if len(shape) == 1]
    return context.available(self.dated, self.located, static)


def describe(name: str, manual_dir: str | Path | None = None) -> Described:
  """Describes a data set without building it.

  A user's own directory is listed anew by every call; its files are read again if one has changed.

  Args:
    name: one of `names()`.
    manual_dir: directory with the source files.

  Raises:
    InputError: the name is unknown, or a user's own directory is malformed or not given.
  """
  folder, _, config = name.partition("/")
  if not _file(folder).is_file() or name not in _configured(folder):
    raise InputError(f"unknown data set {name!r}, have: {', '.join(names())}")
  builder = _builder(folder)
  said = builder.describe(manual_dir, config) if config else builder.describe(manual_dir)
  shapes = {view: tuple(facts["shape"]) for view, facts in said["views"].items()}
  views = {
    view: {key: facts[key] for key in ("bands", "mask", "units", "steps") if facts.get(key) is not None}
    | ({"dated": not facts.get("numbered", False)} if facts.get("dated") else {})
    for view, facts in said["views"].items()
  }
  task, groups = Task.from_json(said["task"]), tuple(said["groups"])
  return Described(task, shapes, views, groups, bool(said["date"]), bool(said["coordinates"]))


def _holds_own_data(builder: type[tfds.core.DatasetBuilder]) -> bool:
  """Whether this is the builder of users' own directories, each of which is a configuration."""
  return hasattr(builder, "configure")


def _file(folder: str) -> Path:
  return Path(__file__).parent / folder / f"{folder}_dataset_builder.py"


def _builder(folder: str) -> type[tfds.core.DatasetBuilder]:
  return importlib.import_module(f"colearn_jax.datasets.{folder}.{folder}_dataset_builder").Builder


def _configured(folder: str) -> list[str]:
  return [f"{folder}/{config}" for config in _builder(folder).builder_configs] or [folder]


@dataclasses.dataclass(eq=False)
class Config(tfds.download.DownloadConfig):
  """TFDS's settings of a build, and two of our own: `workers` and `unreadable`, see `build`."""

  workers: int | None = None
  unreadable: str = "fail"


def build(
  name: str,
  data_dir: str | Path,
  *,
  manual_dir: str | Path | None = None,
  workers: int | None = None,
  unreadable: str = "fail",
  beam_pipeline_options: str | None = None,
) -> Path:
  """Builds a data set if it does not exist yet, and returns its prepared directory.

  Several processes may call it at the same time: one builds, the others wait. A build that was killed leaves
  nothing that disturbs the next one.

  Args:
    name: one of `names()`.
    data_dir: parent of the prepared directories, which are `data_dir/name/version`.
    manual_dir: directory with the source files. Without it they are downloaded, if the builder can do so.
    workers: number of processes that read samples, for data sets with many files; None: one per core.
    unreadable: what to do if a file of a sample cannot be read: `fail`, or `skip` to leave the sample out.
    beam_pipeline_options: of Apache Beam, `name=value,name=value`, for data sets of many files: its workers,
      which see the same directories, read the samples instead of `workers` processes here.

  Returns:
    The prepared directory, for `data.dataset.open_dataset` or `tfds.builder_from_directory`.

  Raises:
    InputError: the name is unknown, an argument has no effect for the data set, a source file is missing or
      malformed, a directory cannot be written, or the existing data set was built from other
      source files than those in `manual_dir`, or is damaged and there is no `manual_dir` to build it from.
  """
  try:
    root = Path(data_dir).expanduser().absolute()
  except RuntimeError:  # a container without a home directory
    raise InputError(f"{data_dir}: there is no home directory; give data.data_dir") from None
  if unreadable not in ("fail", "skip"):
    raise InputError(f"unreadable={unreadable!r} is not allowed; one of: fail, skip")
  if workers is not None and workers < 1:
    raise InputError(f"workers={workers} is not allowed; 1 or more")
  builder, form = find(name, manual_dir)
  many = {"workers": workers, "beam_pipeline_options": beam_pipeline_options}
  many["unreadable"] = None if unreadable == "fail" else unreadable
  given = [argument for argument, value in many.items() if value]
  if given and issubclass(builder, tfds.core.GeneratorBasedBuilder):
    raise InputError(f"{given[0]} is not allowed: {name} has few files, and one process builds it")
  if workers and beam_pipeline_options:
    raise InputError("workers is not allowed with beam_pipeline_options: Beam's workers read the samples")
  place = name if form is None or isinstance(form, str) else f"{name}/{form.name}"
  path = root / place / str(builder.VERSION)
  sources, own, generated = None, _holds_own_data(builder), getattr(builder, "generated", False)
  if manual_dir:
    manual_dir = Path(manual_dir).expanduser().absolute()
    sources = form.sources if own else builder.sources(manual_dir)
  # A damaged directory is not built again from other files.
  possible = lambda: generated or own or (sources is not None and _made_from(path) in (None, sources))
  damaged = lambda: damage(path, rebuild=possible()) if path.exists() else ""
  is_current = lambda: path.exists() and (not own or _made_from(path) == sources) and not damaged()
  with _quiet_tfds():
    if not is_current():
      try:
        (root / place).mkdir(parents=True, exist_ok=True)
        with _locked(root, place):
          if not is_current():  # another process may have built it while this one waited
            if why := damaged():
              files.warn(f"{why}; {path} is built again")
            shutil.rmtree(path, ignore_errors=True)  # damaged, or an outdated build of a user's own directory
            config = Config(
              manual_dir=manual_dir,
              force_checksums_validation=True,
              try_download_gcs=False,  # TFDS would first ask Google's servers for a prepared copy
              workers=workers,
              unreadable=unreadable,
              beam_options=beam.options(beam_pipeline_options) if beam_pipeline_options else None,
            )
            made = builder(data_dir=root, config=form)
            # TFDS writes beside the prepared directory and renames at the end.
            made.download_and_prepare(download_config=config)
            manifest.write(path)
      except OSError as error:
        if not path.exists():  # without file locks another process may have built it at the same time
          raise InputError(f"cannot build {name} in {root}: {error}") from error
    _check(path, sources, manual_dir)
  return path


class _OnStderr:
  """A stdout that forwards the output of builders to stderr, without the two lines that TFDS prints."""

  _TFDS = re.compile(r"(\x1b\[1m)?(Downloading and preparing dataset |Dataset \S+ downloaded and prepared )")

  def __init__(self):
    self._skipped = False

  def write(self, text: str) -> int:
    skip = bool(self._TFDS.match(text)) or (self._skipped and not text.strip())
    self._skipped = skip and text.strip() != ""  # the line break is written by a call of its own
    return len(text) if skip else sys.stderr.write(text)

  def flush(self) -> None:
    sys.stderr.flush()


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
  """Hides the output and logs of TFDS, and its progress bars unless stderr is a terminal."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(_OnStderr()):
      yield
  finally:
    logging.set_verbosity(verbosity)
    tfds.enable_progress_bar()


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
  """Holds the lock of a data set, and removes unfinished directories before and after the block."""
  with files.lock(root / name / ".lock"):
    try:
      _remove_unfinished(root, name)
      yield
    finally:
      _remove_unfinished(root, name)


def _remove_unfinished(root: Path, name: str):
  """Removes the directories of unfinished TFDS builds and downloads. Call it with the lock held."""
  for stale in [*(root / name).glob("incomplete.*"), *(root / "downloads" / name).glob("*.tmp.*")]:
    shutil.rmtree(stale, ignore_errors=True)


def _check(path: Path, sources: dict[str, str] | None, manual_dir: Path | None):
  """Raises InputError if the prepared directory cannot be read or was built from other files."""
  made_from = _made_from(path)
  if made_from is None:
    raise InputError(f"{path} is damaged or not a prepared data set: remove it to build it again")
  if sources is not None and sources != made_from:
    raise InputError(
      f"{path} was made from another {', '.join(made_from)} than the one in {manual_dir}: "
      "remove the prepared directory, or give another data_dir"
    )


def _made_from(path: Path) -> dict[str, str] | None:
  """The digests of a prepared directory's source files; None if one of its own is missing or damaged."""
  try:
    info = tfds.builder_from_directory(path).info
    whole = all(Path(file).is_file() for split in info.splits.values() for file in split.filepaths)
    return info.metadata["sources"] if whole and info.splits else None
  except Exception:  # the type depends on which file is damaged, and how
    return None


def main():
  """The command line: prints the prepared directory, or an error of one line."""
  parser = argparse.ArgumentParser(description="Builds a data set.")
  parser.add_argument("name", help=f"one of: {', '.join(names())}")
  parser.add_argument("--data_dir", required=True, help="parent of the output, DATA_DIR/NAME/VERSION")
  parser.add_argument("--manual_dir", help="directory with the source files; default: download them")
  parser.add_argument("--workers", type=int, help="number of reading processes; default: one per core")
  parser.add_argument("--unreadable", default="fail", help="unreadable files: fail, or skip the sample")
  parser.add_argument("--beam_pipeline_options", help="read on Apache Beam: name=value,name=value")
  args = parser.parse_args()
  try:
    print(build(**vars(args)))
  except InputError as error:
    sys.exit(str(error))


if __name__ == "__main__":
  main()
