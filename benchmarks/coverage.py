"""Measures the uncertainty of exported models on test parts: coverage of intervals, error of probabilities.

    python -m benchmarks.coverage --workdir=W [--coverage=0.9]

W is the work directory of a finished training with protocol.name=clean. The uncertainty of each run is fitted
on its validation part, as the export does it, and measured on its test part, which nothing has seen.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from colearn_jax import load_model
from colearn_jax.deploy import uncertainty
from colearn_jax.storage.files import read_json
from colearn_jax.training.held_back import held_back
from colearn_jax.types import Description


def tested(workdir: Path, sensor: str, run: str, task) -> tuple[np.ndarray, np.ndarray]:
  """Target and prediction of the labelled test samples of a run, as the training wrote them."""
  what = "prediction" if task.kind == "regression" else "probability"
  with open(workdir / f"predictions/{sensor}.csv", encoding="utf-8", newline="") as file:
    rows = [row for row in csv.DictReader(file) if f"seed{row['seed']}_fold{row['fold']}" == run]
  numbers = lambda names: np.array([[float(row[name] or "nan") for name in names] for row in rows])
  predicted = numbers([f"{what}_{name}" for name in task.outputs])
  if task.one_class:
    target = np.array([task.outputs.index(row["target"]) if row["target"] else -1 for row in rows])
    known = target >= 0
  else:
    target = numbers([f"target_{name}" for name in task.outputs])
    known = np.isfinite(target).all(1)
  known &= np.isfinite(predicted).all(1)
  return target[known], predicted[known]


def measure(workdir: Path, coverage: float) -> None:
  """Prints a line for each sensor."""
  description = Description.from_json(read_json(workdir / "dataset.json"))
  task = description.task
  for sensor in description.sensors:
    found, sizes = [], []
    for run in load_model(workdir, sensor).runs:
      model = load_model(workdir, sensor, runs=[run])
      fitted = uncertainty.fit(task, held_back(workdir, model))
      target, predicted = tested(workdir, sensor, run, task)
      if task.kind == "regression":
        found.append(np.abs(predicted - target) <= uncertainty.half_widths(task, fitted, coverage))
      else:
        after = uncertainty.calibrate(task, fitted, predicted[None])[0]
        found.append([[uncertainty._calibration_error(task, p, target) for p in (predicted, after)]])
      sizes.append(fitted["samples"])
    each = np.array([np.mean(own, 0) for own in found])
    shown = f"{sensor}: {len(found)} runs, {np.mean(sizes):.0f} held-back samples each; "
    if task.kind == "regression":
      share = np.concatenate(found).mean(0)
      print(
        f"{shown}the intervals of {coverage:.0%} hold {', '.join(f'{s:.1%}' for s in share)} of the test "
        f"samples, by run {each.min():.1%} to {each.max():.1%}"
      )
    else:
      before, after = each.mean(0)
      print(f"{shown}calibration error {before:.3f}, with the temperature {after:.3f}")


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", required=True, type=Path)
  parser.add_argument("--coverage", type=float, default=0.9)
  given = parser.parse_args()
  measure(given.workdir.expanduser().absolute(), given.coverage)


if __name__ == "__main__":
  main()
