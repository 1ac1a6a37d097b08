"""The settings that arms chose on validation parts, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from colearn_jax.reporting.study import Arm, Cell
from colearn_jax.reporting.tables import Entry, Table, number, table
from colearn_jax.storage.files import read_json


def content(arm: Arm) -> Mapping | None:
  """The content of an arm's `chosen.json`; None if it has none."""
  path = arm.directory / "chosen.json"
  return None if arm.ablation or not path.is_file() else read_json(path)


def tables(cell: Cell) -> list[Table]:
  """A table of the candidates of each arm that made a choice; those that were chosen are in bold."""
  out = []
  for arm in cell.arms.values():
    if (found := content(arm)) is not None:
      out.append(_of_trees(arm, found) if "runs" in found else _of_network(arm, found))
  return out


def _of_network(arm: Arm, found: Mapping) -> Table:
  """The candidates of a network, chosen for the cell or for each run and predictor."""
  metric, chosen, rows = found["metric"], found["chosen"], []
  if found["per"] == "cell":
    for k, one in enumerate(found["candidates"]):
      texts = settings(one["values"]), _score(one), "yes" if k == chosen else "no"
      rows.append([Entry(text, k == chosen) for text in texts])
    notes = ["Chosen for all runs, by the mean over them. Validation parts alone were scored."]
    return table(f"{arm.title}: settings", ["settings", f"validation {metric}", "chosen"], rows, notes)
  predictors = list(next(iter(chosen.values())))
  for k, one in enumerate(found["candidates"]):
    counts = [sum(own[p] == k for own in chosen.values()) for p in predictors]
    scores = [_mean([[own[p]] for own in one.get("runs", {}).values()], 0) for p in predictors]
    fields = [f"{score} ({count} of {len(chosen)} runs)" for score, count in zip(scores, counts)]
    if "error" in one:
      fields = [_score(one)] * len(predictors)
    bold = [any(counts), *(count > 0 for count in counts)]
    rows.append([Entry(t, b) for t, b in zip([settings(one["values"]), *fields], bold)])
  return table(f"{arm.title}: settings", ["settings", *predictors], rows, [_each(metric)])


def _score(one: Mapping) -> str:
  return number(one["score"]) if one["score"] is not None else f"failed: {one.get('error', 'no score')}"


def _of_trees(arm: Arm, found: Mapping) -> Table:
  """The learners of an arm of trees, chosen for each run and predictor."""
  runs = list(found["runs"].values())
  predictors = list(runs[0])
  rows = []
  for k, one in enumerate(found["candidates"]):
    counts = [sum(run[p]["chosen"] == k for run in runs) for p in predictors]
    scores = [_mean([run[p]["scores"] for run in runs], k) for p in predictors]
    name = settings({key: value for key, value in one.items() if key != "learner"})
    fields = [f"{score} ({count} of {len(runs)} runs)" for score, count in zip(scores, counts)]
    bold = [any(counts), *(count > 0 for count in counts)]
    rows.append([Entry(t, b) for t, b in zip([f"{one['learner']} {name}", *fields], bold)])
  return table(f"{arm.title}: settings", ["settings", *predictors], rows, [_each(found["metric"])])


def _each(metric: str) -> str:
  return (
    f"Mean {metric} on the validation parts, and how many runs chose the setting. Each run and predictor "
    "chooses its own."
  )


def _mean(scores: Sequence[Sequence[float | None]], k: int) -> str:
  """The mean score of candidate k over the runs that scored it."""
  known = [own[k] for own in scores if k < len(own) and own[k] is not None]
  return number(float(np.mean(known))) if known else "-"  # type: ignore[arg-type]  # without None


def settings(values: Mapping[str, object]) -> str:
  """Values by key in words, e.g. `train.learning_rate=0.001`."""
  show = lambda value: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
  return ", ".join(f"{key}={show(value)}" for key, value in values.items()) or "defaults"
