"""Which figures the sections of a report have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from colearn_jax.reporting import charts, predictions
from colearn_jax.reporting.comparisons import Compared
from colearn_jax.reporting.document import Figure, Section
from colearn_jax.reporting.predictions import Predicted
from colearn_jax.reporting.samples import Data
from colearn_jax.reporting.study import CONTEXT, Arm, Cell
from colearn_jax.reporting.tables import number, table
from colearn_jax.types import Task

MOST = 6  # arms that figures show; tables have all
EVENTS = {
  "binary": "probability of the class {}",
  "multiclass": "probability of the predicted class",
  "multilabel": "probability of a label",
}


def chosen(cell: Cell, fixed: Sequence[Compared]) -> list[Arm]:
  """The arms that figures show: those of the comparisons that were fixed beforehand, else the first ones."""
  named = [name for one in fixed if one.cell is cell for name in (one.arm, one.against)]
  arms = [cell.arms[name] for name in dict.fromkeys(named) if name in cell.arms]
  arms = arms or list(cell.arms.values())
  return [arm for arm in arms if arm.kind != CONTEXT][:MOST]


def sections(plt: Any, cell: Cell, fixed: Sequence[Compared], task: Task, data: Data | None) -> list[Section]:
  """The figures of a cell: predictions, classes, and for each arm its errors and learning curves."""
  arms = chosen(cell, fixed)
  found = {
    (arm.name, p): one
    for arm in arms
    for p in cell.predictors
    if (one := predictions.read(arm, p, task)) is not None
  }
  out = []
  if task.kind != "regression":
    out.append(_classes(plt, cell, arms, task))
    out.append(
      Section("Probabilities", figures=tuple(_certainties(plt, cell, arms, task, found)), folded=True)
    )
  for arm in arms:
    errors = tuple(_errors(plt, cell, arm, task, found, data))
    curves = tuple(_curves(plt, arm))
    below = [Section(f"{arm.title}: errors", figures=errors, folded=True)] if errors else []
    below += [Section(f"{arm.title}: learning curves", figures=curves, folded=True)] if curves else []
    out += below
  return [section for section in out if section.figures or section.tables]


def _classes(plt: Any, cell: Cell, arms: Sequence[Arm], task: Task) -> Section:
  """F1 of each class, as tables and as figures."""
  tables, drawn = [], []
  for predictor in cell.predictors:
    rows = {arm: f1 for arm in arms if (f1 := _f1(arm, predictor, task)) is not None}
    if not rows:
      continue
    fields = [[arm.title, *map(number, values.tolist())] for arm, values in rows.items()]
    tables.append(table(f"F1 of each class, {predictor}", ["method", *task.outputs], fields))
    if plt is not None:
      caption = f"F1 of each class, {predictor}, mean over the runs"
      by_title = {arm.title: values for arm, values in rows.items()}
      drawn.append(charts.per_class(plt, by_title, task.outputs, predictor, "F1", caption))
  return Section("Classes", tables=tuple(tables), figures=tuple(drawn), folded=True)


def _f1(arm: Arm, predictor: str, task: Task) -> np.ndarray | None:
  each = arm.row(predictor).get("per_class")
  if not each:
    return None
  mean = lambda name: (each.get(name, {}).get("f1") or {}).get("mean")
  return np.array([mean(name) for name in task.outputs], np.float64)  # None is NaN


def _certainties(
  plt: Any, cell: Cell, arms: Sequence[Arm], task: Task, found: Mapping[tuple[str, str], Predicted]
) -> Iterator[Figure]:
  if plt is None:
    return
  label = EVENTS[task.kind].format(task.outputs[-1])
  for predictor in cell.predictors:
    own = {
      arm.title: predictions.certainty(task, found[arm.name, predictor])
      for arm in arms
      if (arm.name, predictor) in found
    }
    if own:
      of = {name: p for name, (p, _) in own.items()}
      yield charts.probabilities(plt, of, predictor, label, f"Histogram of probabilities, {predictor}")
      lines = {name: predictions.calibration(p, event) for name, (p, event) in own.items()}
      caption = f"Reliability, {predictor}: frequency against probability; error: expected calibration error"
      yield charts.reliability(plt, lines, predictor, label, caption)


def _errors(
  plt: Any,
  cell: Cell,
  arm: Arm,
  task: Task,
  found: Mapping[tuple[str, str], Predicted],
  data: Data | None,
) -> Iterator[Figure]:
  if plt is None:
    return
  for predictor in cell.predictors:
    name = f"{arm.title}, {predictor}"
    if counts := arm.row(predictor).get("confusion_matrix"):
      caption = f"Confusion matrix, {name}: counts over all runs, colours are shares of the true class"
      yield charts.confusion(plt, np.array(counts), task.outputs, predictor, caption)
    one = found.get((arm.name, predictor))
    if one is None:
      continue
    first = one.of_first_seed()
    for k, output in enumerate(task.outputs if task.kind == "regression" else ()):
      title = predictor if len(task.outputs) == 1 else f"{predictor}, {output}"
      columns = (first.target[:, k], first.prediction[:, k])
      unit = f"({task.unit})" if task.unit else ""
      caption = f"Predicted against true, {name}, held-out samples of the first seed"
      yield charts.predicted_against_true(plt, *columns, title, unit, caption)
    if data is not None and data.coordinates is not None:
      yield _map(plt, task, one, data, data.coordinates, (predictor, name))


def _map(
  plt: Any, task: Task, found: Predicted, data: Data, coordinates: np.ndarray, names: tuple[str, str]
) -> Figure:
  """The mean error at each place."""
  predictor, name = names
  places, what = places_of(data, coordinates)
  rows = np.array([data.row_of[one] for one in found.ids])
  error, known = predictions.error(task, found), np.isfinite(coordinates[rows]).all(1)
  codes, where = np.unique(places[rows[known]], return_inverse=True)
  mean = lambda values: np.bincount(where, values) / np.bincount(where)
  at = np.stack([mean(column) for column in coordinates[rows[known]].T], 1)
  labels = {"regression": f"absolute error {task.unit}".strip(), "multilabel": "share of wrong labels"}
  caption = f"Mean error by {what}, {name}, {len(codes)} places, held-out samples of all runs"
  return charts.error_map(
    plt, at, mean(error[known]), predictor, labels.get(task.kind, "error rate"), caption
  )


def places_of(data: Data, coordinates: np.ndarray) -> tuple[np.ndarray, str]:
  """The place of each sample `[N]`, and what a place is: a group of the data set, or a location."""
  for name in dict.fromkeys((data.config.protocol.group_by, *data.index.groups)):
    if name in data.index.groups:
      groups = data.index.groups[name]
      extent = [np.ptp(coordinates[groups == g], axis=0).max() for g in np.unique(groups)[:50]]
      if np.nanmax(extent) < 1:  # degrees; samples of a year or of a country are not at one place
        return groups, name
  return np.array([f"{a:.3f} {b:.3f}" for a, b in coordinates]), "location"


def _curves(plt: Any, arm: Arm) -> Iterator[Figure]:
  path = arm.directory / "metrics.jsonl"
  if plt is None or not path.is_file():
    return
  for term, curves in learning_curves(path.read_text(encoding="utf-8"), arm.ablation).items():
    title = "sum of the weighted terms" if term == "objective" else term
    title = "weighted terms" if term == "total" else title
    caption = f"Learning curves, {arm.title}, {title}: mean over the runs that are still trained at an epoch"
    yield charts.learning_curve(plt, curves, title, caption)


def learning_curves(log: str, ablation: str) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
  """The content of metrics.jsonl as `{term: {sensor: (training [epochs], validation [epochs])}}`.

  Values are means over the runs of the configuration, or of one ablation. The weighted sums of all terms are
  under `total` if there are several, the loss itself is `objective`.
  """
  sums: dict[tuple[str, str, str], dict[int, list[float]]] = {}
  for line in log.splitlines():
    row = json.loads(line)
    if row["run"].split("_", 2)[2:] != ([ablation] if ablation else []):
      continue
    for key, value in row.items():
      part, _, rest = key.partition("/")
      if part in ("train", "validation") and value is not None:
        term, _, sensor = rest.partition("/")
        sums.setdefault((term, sensor or term, part), {}).setdefault(row["epoch"], []).append(value)
  out: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
  length = max((epoch for values in sums.values() for epoch in values), default=0)
  mean = lambda values, epoch: np.mean(values[epoch]) if epoch in values else np.nan
  series = lambda key: np.array([mean(sums.get(key, {}), epoch) for epoch in range(1, length + 1)])
  for term, sensor, part in sorted(sums, key=lambda key: (key[0] != "objective", key[0] != "total", key)):
    alone = term == "total" and len({name for t, name, _ in sums if t == "total"}) == 1  # it is the objective
    if part == "train" and not alone:
      out.setdefault(term, {})[sensor] = (
        series((term, sensor, "train")),
        series((term, sensor, "validation")),
      )
  return out
