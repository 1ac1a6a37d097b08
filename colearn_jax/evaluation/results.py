"""Reads and writes results.json, writes predictions as CSV files, and formats the table that a run prints.

`Results` is the content of results.json. `summarise` computes means and standard deviations over runs.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colearn_jax.evaluation.metrics import HEADLINE, LOWER_IS_BETTER
from colearn_jax.storage.files import jsonable, read_json, replacing, write_json
from colearn_jax.types import InputError, Task


@dataclasses.dataclass(frozen=True)
class Scores:
  """Statistics over the runs of one setting, in the form that `summarise` returns.

  Attributes:
    modalities: statistics of each predictor that needs one sensor, by name.
    combinations: statistics of each predictor that needs several sensors, by name, e.g. `S1+S2`.
    ensemble: statistics of the mean of the predictors of one sensor.
    auxiliary: statistics of every further head of each predictor, e.g. `{"S1": {"specific": ...}}`.
  """

  modalities: dict[str, dict]
  combinations: dict[str, dict] = dataclasses.field(default_factory=dict)
  ensemble: dict = dataclasses.field(default_factory=dict)
  auxiliary: dict[str, dict[str, dict]] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict:
    """The scores as a part of results.json. `combinations` is left out if it is empty."""
    out = {"modalities": self.modalities, "combinations": self.combinations}
    out |= {"ensemble": self.ensemble, "auxiliary": self.auxiliary}
    return jsonable({name: value for name, value in out.items() if name != "combinations" or value})

  @classmethod
  def from_json(cls, tree: Mapping) -> Scores:
    """Reads the scores from a part of results.json. Other keys are ignored."""
    fields = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: tree[name] for name in fields if name in tree})


@dataclasses.dataclass(frozen=True)
class Results:
  """The content of results.json.

  Attributes:
    dataset: name of the data set.
    task: kind of the task, one of `types.KINDS`.
    method: name of the method.
    scores: scores of the configured runs.
    variant: variant of the method, if it has several.
    protocol: name of the protocol.
    split: `kfold`, or the data set's own.
    group_by: the group whose samples stay in one fold; empty for none.
    seeds: random seeds of the runs.
    folds: number of folds; 0 if the models were imported and not evaluated.
    ablations: scores of each ablation, by name.
    weights: `file` and `sha256` of the pretrained weights that each sensor's encoder started from.
    timing: `seconds` of the program, and `runs`: final epoch, best epoch and seconds of each run.
    imported: source file of each imported run.
  """

  dataset: str
  task: str
  method: str
  scores: Scores
  variant: str | None = None
  protocol: str = ""
  split: str = ""
  group_by: str = ""
  seeds: tuple[int, ...] = ()
  folds: int = 0
  ablations: dict[str, Scores] = dataclasses.field(default_factory=dict)
  weights: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  timing: dict = dataclasses.field(default_factory=dict)
  imported: dict[str, str] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict:
    """Converts to JSON types. Left out if they are empty: `variant`, `ablations`, `weights`, `imported`."""
    out: dict[str, Any] = {
      "dataset": self.dataset,
      "task": self.task,
      "method": self.method,
      "variant": self.variant,
    }
    out |= {"protocol": self.protocol, "split": self.split, "group_by": self.group_by}
    out |= {"seeds": list(self.seeds), "folds": self.folds, **self.scores.to_json()}
    out |= {"ablations": {name: scores.to_json() for name, scores in self.ablations.items()}}
    out |= {"weights": self.weights, "timing": self.timing, "imported": self.imported}
    optional = ("variant", "ablations", "weights", "imported")
    return jsonable({name: value for name, value in out.items() if name not in optional or value})

  @classmethod
  def from_json(cls, tree: Mapping) -> Results:
    """Reads the content of results.json.

    Raises:
      InputError: a required key is missing.
    """
    if missing := [key for key in ("dataset", "task", "method", "modalities") if key not in tree]:
      raise InputError(f"these are no results: {', '.join(missing)} missing")
    ablations = {name: Scores.from_json(part) for name, part in tree.get("ablations", {}).items()}
    own = [f.name for f in dataclasses.fields(cls) if f.name not in ("scores", "ablations", "seeds")]
    facts = {name: tree[name] for name in own if name in tree}
    seeds = tuple(tree.get("seeds", ()))
    return cls(scores=Scores.from_json(tree), ablations=ablations, seeds=seeds, **facts)

  @property
  def runs(self) -> tuple[str, ...]:
    """The names of all runs, with those of ablations."""
    return tuple(self.timing.get("runs", {}) or self.imported)

  def write(self, path: str | os.PathLike) -> None:
    """Writes results.json, atomically."""
    write_json(path, self.to_json(), sealed=True)

  @classmethod
  def read(cls, path: str | os.PathLike) -> Results:
    """Reads results.json.

    Raises:
      InputError: there is no such file, or it contains no results.
    """
    if not Path(path).exists():
      raise InputError(f"no results at {path}: train first, or use another work directory")
    try:
      return cls.from_json(read_json(path, "run the training's command again, which writes it anew"))
    except InputError as error:
      raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def summarise(per_run: Sequence[Mapping]) -> dict:
  """Summarises the scores of several runs (folds and seeds).

  Args:
    per_run: for each run the same nested dict, whose leaves are numbers or confusion matrices.

  Returns:
    The same nested dict. A number becomes `{"mean", "std", "per_fold"}`. A run whose score is undefined is
    left out of mean and std, and is `None` in `per_fold`. `std` divides by n - 1, and is `None` if fewer than
    two runs have the score. Confusion matrices are summed. The result has JSON types, with `None` instead of
    NaN.

  Raises:
    InputError: there are no runs, or their scores have different names.
  """
  if not per_run:
    raise InputError("no runs to summarise")
  odd = set().union(*per_run) - set.intersection(*map(set, per_run))
  if odd:
    raise InputError(f"runs have different scores, not in all of them: {', '.join(sorted(odd))}")
  out = {}
  for key, first in per_run[0].items():
    values = [run[key] for run in per_run]
    if isinstance(first, Mapping):
      out[key] = summarise(values)
    elif isinstance(first, list | np.ndarray):
      out[key] = np.sum(values, axis=0).tolist()
    else:
      out[key] = _statistics(np.array(values, np.float64))
  return jsonable(out)


def _statistics(values: np.ndarray) -> dict:
  known = values[np.isfinite(values)]
  mean = known.mean() if known.size else None
  std = known.std(ddof=1) if known.size > 1 else None
  return {"mean": mean, "std": std, "per_fold": values}


def write_predictions(
  path: str | os.PathLike,
  ids: Sequence,
  seeds: np.ndarray | Sequence[int] | int,
  folds: np.ndarray | Sequence[int] | int,
  target: np.ndarray,
  prediction: np.ndarray,
  task: Task,
) -> None:
  """Writes the predictions of one predictor as a CSV file, atomically.

  The first columns are `id,seed,fold`. Regression adds `target_<name>` and `prediction_<name>`. Binary and
  multiclass add `target` and `prediction` (class names; empty if the probabilities are NaN) and
  `probability_<class>`. Multilabel adds `target_<name>` and `probability_<name>`. Targets of unlabelled
  samples (-1, or NaN) are empty. Floats are written with the fewest digits that reproduce the number exactly.

  Args:
    path: the file.
    ids: `[N]`, id of each sample: str, bytes or int.
    seeds: `[N]`, or one value for all samples.
    folds: `[N]`, or one value for all samples.
    target: see `metrics.scores`.
    prediction: see `metrics.scores`.
    task: determines the columns.

  Raises:
    InputError: the arrays have different lengths.
  """
  target, prediction, n = np.asarray(target), np.asarray(prediction), len(ids)
  sizes = {"ids": n, "target": len(target), "prediction": len(prediction)}
  sizes |= {k: np.size(v) for k, v in (("seeds", seeds), ("folds", folds)) if np.ndim(v)}
  if len(set(sizes.values())) != 1:
    raise InputError(f"{path}: every array needs one row per sample, have: {sizes}")
  names = np.array([name.replace("\r", " ") for name in task.outputs])  # the csv module leaves \r unquoted
  header = ["id", "seed", "fold"]
  columns: list[Iterable] = [[i.decode() if isinstance(i, bytes) else str(i) for i in ids]]
  columns += [np.broadcast_to(seeds, n).astype(str), np.broadcast_to(folds, n).astype(str)]
  if task.one_class:
    header += ["target", "prediction"]
    columns += [
      np.where(target < 0, "", names[target]),
      np.where(np.isnan(prediction).any(1), "", names[prediction.argmax(1)]),
    ]
  else:
    header += [f"target_{name}" for name in names]
    known = np.isfinite(target)
    written = target if task.kind == "regression" else np.where(known, target, 0).astype(np.int64)
    columns += list(np.where(known, written.astype(str), "").T)
  header += [f"{'prediction' if task.kind == 'regression' else 'probability'}_{name}" for name in names]
  columns += list(prediction.astype(str).T)
  with replacing(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))


def table(results: Results, baseline: Results | None = None) -> str:
  """Formats the table that a run prints: predictors, ensemble, ablations, and auxiliary heads.

  Args:
    results: results of the method.
    baseline: results of each sensor trained alone. If given, there is one block per metric, with both results
      side by side and their difference. Otherwise the metrics are the columns of one block.

  Returns:
    Plain text without a newline at the end.
  """
  metrics = HEADLINE[results.task]
  facts = ("dataset", "task", "method", "variant", "protocol", "folds")
  lines = [", ".join(f"{k} {getattr(results, k)}" for k in facts if getattr(results, k))]
  rows = _rows(results.scores)
  if baseline is None:
    lines += aligned(
      "", metrics, {name: [cell_text(row.get(m)) for m in metrics] for name, row in rows.items()}
    )
  else:
    others = _rows(baseline.scores)
    for metric in metrics:
      cells = {}
      for name, row in rows.items():
        ours, theirs = row.get(metric) or {}, others.get(name, {}).get(metric) or {}
        known = None not in (ours.get("mean"), theirs.get("mean"))
        change = f"{ours['mean'] - theirs['mean']:+z.3f}" if known else "-"
        cells[name] = [cell_text(ours), cell_text(theirs), change]
      title = f"{metric} (lower is better)" if metric in LOWER_IS_BETTER else metric
      lines += aligned(title, ("co-learned", "by itself", "difference"), cells)
  if results.ablations:
    every = {"all as configured": results.scores, **results.ablations}
    names = [name for name in rows if name != "ensemble"]
    cells = {
      name: [cell_text(_rows(one).get(m, {}).get(metrics[0])) for m in names] for name, one in every.items()
    }
    lines += aligned(f"{metrics[0]}, ablations", names, cells)
  heads = {f"{m} {head}": row for m, parts in results.scores.auxiliary.items() for head, row in parts.items()}
  if heads:
    cells = {name: [cell_text(row.get(m)) for m in metrics] for name, row in heads.items()}
    lines += aligned("auxiliary head on", metrics, cells)
  if any("±" in line for line in lines):
    lines[0] += "; mean ± std"
  return "\n".join(lines)


def _rows(scores: Scores) -> dict[str, dict]:
  ensemble = {"ensemble": scores.ensemble} if scores.ensemble else {}
  return {**scores.modalities, **scores.combinations, **ensemble}


def cell_text(stats: Mapping | None) -> str:
  """Mean and deviation of a score for a table, e.g. `0.712 ± 0.020`; a dash if it is undefined."""
  if not stats or stats["mean"] is None:
    return "-"
  return f"{stats['mean']:z.3f}" + ("" if stats["std"] is None else f" ± {stats['std']:.3f}")


def aligned(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
  """Formats a blank line, a heading and the rows. Names are aligned left, cells right."""
  every = {title: list(columns), **rows}
  left = max(map(len, every))
  width = [max(len(cells[k]) for cells in every.values()) for k in range(len(columns))]
  return [""] + [
    f"{name:<{left}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, width, strict=True))
    for name, cells in every.items()
  ]
