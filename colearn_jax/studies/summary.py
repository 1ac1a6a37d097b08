"""The texts that the study command prints: the arms of a plan, and a table of the main scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from colearn_jax.evaluation.results import Results, aligned, cell_text
from colearn_jax.plan import Study
from colearn_jax.studies import arms
from colearn_jax.types import CONTEXT


def listing(study: Study, names: Sequence[str], workdir: Path | None) -> str:
  """The arms with their kind, and their state if there is a work directory."""
  rows = {}
  for cell in study.cells:
    for arm in cell.arms:
      if (name := f"{cell.name}/{arm.name}") in names:
        rows[name] = [arm.kind, *([] if workdir is None else [_state(workdir / name)]), arm.title]
  columns = ["kind", *([] if workdir is None else ["state"]), "title"]
  return "\n".join(aligned(f"study {study.name}", columns, rows)[1:])


def _state(directory: Path) -> str:
  if arms.is_finished(directory):
    return "finished"
  if (directory / "error.txt").is_file():
    return "failed"
  return "begun" if directory.is_dir() else "-"


def table(shown: Mapping, workdir: Path) -> str:
  """The mean and deviation of the main score of each cell, finished arm and sensor.

  Args:
    shown: the content of `study.json`.
    workdir: the work directory of the study.
  """
  lines = []
  for cell in shown["cells"]:
    rows = {}
    for arm in cell["arms"]:
      path = workdir / cell["name"] / arm["name"] / "results.json"
      if path.is_file():
        found = Results.read(path).scores.modalities
        of_sensors = [found.get(sensor, found.get(CONTEXT, {})) for sensor in cell["sensors"]]
        rows[arm["title"]] = [cell_text(scores.get(cell["metric"])) for scores in of_sensors]
    if rows:
      lines += aligned(f"{cell['title']}: {cell['metric']}", cell["sensors"], rows)
  return "\n".join(lines[1:])
