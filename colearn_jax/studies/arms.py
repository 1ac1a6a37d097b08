"""Trains one arm of a study in its work directory."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

from colearn_jax.plan import Arm, Cell
from colearn_jax.storage import files
from colearn_jax.studies import choice, nested, plans, trees
from colearn_jax.training import run, work_directory
from colearn_jax.types import InputError


def train(study_dir: Path, cell: Cell, arm: Arm, metric: str, given: Mapping[str, str | bool]) -> None:
  """Trains an arm until `results.json` exists. Goes on where an interrupted training stopped.

  Args:
    study_dir: the work directory of the study.
    cell: the cell.
    arm: the arm.
    metric: the score that is used for choices.
    given: values of the command line, see `plans.configuration`.

  Raises:
    InputError: the configuration does not fit the data, or another process is training this arm.
  """
  directory = study_dir / cell.name / arm.name
  directory.mkdir(parents=True, exist_ok=True)
  configure = lambda more: plans.configuration(cell, arm, given, more)
  config = configure({})
  # One cache for all arms; `auto` is the parent of a work directory.
  work_directory.use_compilation_cache(config.train.compilation_cache, study_dir / cell.name)
  with work_directory.locked(directory):
    if arm.kind != "network":
      trees.train(config, directory, kind=arm.kind, trees=arm.trees, metric=metric)
    elif arm.choose is None:
      run.train(config, directory)
    else:
      chosen = choice.choose(arm.choose, metric, directory, configure)
      values = [one["values"] for one in chosen["candidates"]]
      if arm.choose.per == "run":
        again = arm.choose.validation_fraction > 0
        nested.finish(config, directory, chosen["chosen"], [configure(one) for one in values], again=again)
      else:
        run.train(configure(values[chosen["chosen"]]), directory)


def attempt(study_dir: Path, cell: Cell, arm: Arm, metric: str, given: Mapping[str, str | bool]) -> str:
  """Trains an arm as `train`. Returns an error in one line, or nothing, and keeps it in `error.txt`."""
  path = study_dir / cell.name / arm.name / "error.txt"
  try:
    train(study_dir, cell, arm, metric, given)
  except Exception as error:  # other arms must not be lost
    known = isinstance(error, InputError)
    text = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())}"
    with files.replacing(path) as file:
      file.write(text + "\n" + ("" if known else f"\n{traceback.format_exc()}"))
    return text
  path.unlink(missing_ok=True)
  return ""


def is_finished(directory: Path) -> bool:
  """Whether an arm is finished."""
  return (directory / "results.json").is_file()


def seconds(directory: Path) -> float | None:
  """How long a finished arm took, with its candidates; None if it is not finished."""
  if not is_finished(directory):
    return None
  timing = files.read_json(directory / "results.json").get("timing", {})
  of_runs = [one.get("seconds") or 0.0 for one in timing.get("runs", {}).values()]
  path = directory / "chosen.json"
  chosen = files.read_json(path) if path.is_file() else {}
  searched = chosen.get("seconds", 0.0)
  # `seconds` is the time since the last interruption. Runs that were candidates are a part of the search.
  own = [timing.get("seconds") or 0.0] + ([] if searched and chosen["per"] == "run" else [sum(of_runs)])
  return max(own) + searched


def runs_so_far(directory: Path) -> int:
  """Number of runs of an arm that are finished, those of candidates included."""
  return sum(
    len(list(directory.glob(pattern)))
    for pattern in (
      "checkpoints/seed*",
      "candidates/*/checkpoints/seed*",
      "again/*/checkpoints/seed*",
      "training/seed*.npz",
    )
  )
