"""results.json, the predictions as CSV files, and the table that a run prints."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from colearn_jax.evaluation.metrics import HEADLINE
from colearn_jax.storage.files import jsonable, read_json, replacing, write_json
from colearn_jax.types import InputError, Task

_LOWER_IS_BETTER = ("rmse", "mae")


@dataclasses.dataclass(frozen=True)
class Scores:
  """The scores of the runs of one setting. Every `dict` of statistics is what `summarise` returns.

  Attributes:
    modalities: statistics of each predictor that needs one sensor, by name.
    combinations: statistics of each predictor that needs several sensors, by name, e.g. `S1+S2`.
    ensemble: statistics of the mean of the predictors of one sensor.
    auxiliary: for each predictor the statistics of each further head, e.g. `{"S1": {"specific": ...}}`.
  """

  modalities: dict[str, dict]
  combinations: dict[str, dict] = dataclasses.field(default_factory=dict)
  ensemble: dict = dataclasses.field(default_factory=dict)
  auxiliary: dict[str, dict[str, dict]] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict:
    """The scores as they are in results.json; `combinations` only where there are any."""
    out = {"modalities": self.modalities, "combinations": self.combinations}
    out |= {"ensemble": self.ensemble, "auxiliary": self.auxiliary}
    return jsonable({name: value for name, value in out.items() if name != "combinations" or value})

  @classmethod
  def from_json(cls, tree: Mapping) -> Scores:
    """The scores from a part of results.json; other keys are ignored."""
    fields = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: tree[name] for name in fields if name in tree})


@dataclasses.dataclass(frozen=True)
class Results:
  """The content of results.json.

  Attributes:
    dataset: name of the data set.
    task: kind of the task, one of `types.KINDS`.
    method: name of the method.
    scores: of the runs as configured.
    variant: of the method, where it has several.
    protocol: name of the protocol.
    split: `kfold`, or the data set's own.
    group_by: the group whose samples stay together; empty for none.
    seeds: of the runs.
    folds: number of folds; 0 for models that were imported and not evaluated.
    ablations: the scores of each ablation, by name.
    timing: `seconds` of the program, and under `runs` where each run ended.
    imported: for each imported run the file that it is from.
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
  timing: dict = dataclasses.field(default_factory=dict)
  imported: dict[str, str] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict:
    """The results as plain JSON; `variant`, `ablations` and `imported` only where there are any."""
    out = {"dataset": self.dataset, "task": self.task, "method": self.method, "variant": self.variant}
    out |= {"protocol": self.protocol, "split": self.split, "group_by": self.group_by}
    out |= {"seeds": list(self.seeds), "folds": self.folds, **self.scores.to_json()}
    out |= {"ablations": {name: scores.to_json() for name, scores in self.ablations.items()}}
    out |= {"timing": self.timing, "imported": self.imported}
    optional = ("variant", "ablations", "imported")
    return jsonable({name: value for name, value in out.items() if name not in optional or value})

  @classmethod
  def from_json(cls, tree: Mapping) -> Results:
    """The results from the content of results.json.

    Raises:
      InputError: a key that is always there is missing.
    """
    if missing := [key for key in ("dataset", "task", "method", "modalities") if key not in tree]:
      raise InputError(f"these are no results: {', '.join(missing)} missing")
    ablations = {name: Scores.from_json(part) for name, part in tree.get("ablations", {}).items()}
    own = [f.name for f in dataclasses.fields(cls) if f.name not in ("scores", "ablations", "seeds")]
    facts = {name: tree[name] for name in own if name in tree}
    seeds = tuple(tree.get("seeds", ()))
    return cls(scores=Scores.from_json(tree), ablations=ablations, seeds=seeds, **facts)

  def write(self, path: str | os.PathLike) -> None:
    """Writes results.json, atomically."""
    write_json(path, self.to_json())

  @classmethod
  def read(cls, path: str | os.PathLike) -> Results:
    """Reads results.json.

    Raises:
      InputError: there is no such file, or it holds no results.
    """
    if not Path(path).exists():
      raise InputError(f"no results at {path}: train first, or name another work directory")
    try:
      return cls.from_json(read_json(path))
    except InputError as error:
      raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def summarise(per_run: Sequence[Mapping]) -> dict:
  """Statistics over several runs (folds and seeds) of the scores of each.

  Args:
    per_run: for each run the same nested dict; its leaves are numbers or confusion matrices.

  Returns:
    The same nesting. A number becomes `{"mean", "std", "per_fold"}`. Runs in which the score is undefined
    are left out of both and are `None` in `per_fold`. `std` divides by n - 1 and is `None` where fewer than
    two runs have the score. Confusion matrices are added up. The result is ready for JSON: `None`, never NaN.

  Raises:
    InputError: no runs, or runs with different scores.
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
  seeds: Sequence[int] | int,
  folds: Sequence[int] | int,
  target: np.ndarray,
  prediction: np.ndarray,
  task: Task,
) -> None:
  """Writes one predictor's predictions as CSV, atomically: `id,seed,fold`, targets, predictions.

  Regression has `target_<name>` and `prediction_<name>`; binary and multiclass have `target` and
  `prediction` (class names; no prediction where the probabilities are NaN) and `probability_<class>`;
  multilabel has `target_<name>` and `probability_<name>`. Floats have the fewest digits that read
  back as the same number of the array's dtype.

  Args:
    path: of the file.
    ids: `[N]` of each sample, str, bytes or int.
    seeds: `[N]`, or one for all samples.
    folds: `[N]`, or one for all samples.
    target: as `metrics.scores` takes it.
    prediction: as `metrics.scores` takes it.
    task: what the columns are.

  Raises:
    InputError: arrays of different lengths.
  """
  target, prediction, n = np.asarray(target), np.asarray(prediction), len(ids)
  sizes = {"ids": n, "target": len(target), "prediction": len(prediction)}
  sizes |= {k: len(v) for k, v in (("seeds", seeds), ("folds", folds)) if np.ndim(v)}
  if len(set(sizes.values())) != 1:
    raise InputError(f"{path}: every array needs one row for each sample, have: {sizes}")
  names = np.array([name.replace("\r", " ") for name in task.outputs])  # the csv module leaves \r unquoted
  header = ["id", "seed", "fold"]
  columns = [[i.decode() if isinstance(i, bytes) else str(i) for i in ids]]
  columns += [np.broadcast_to(seeds, n).astype(str), np.broadcast_to(folds, n).astype(str)]
  if task.one_class:
    header += ["target", "prediction"]
    columns += [names[target], np.where(np.isnan(prediction).any(1), "", names[prediction.argmax(1)])]
  else:
    header += [f"target_{name}" for name in names]
    columns += list((target if task.kind == "regression" else target.astype(np.int64)).astype(str).T)
  header += [f"{'prediction' if task.kind == 'regression' else 'probability'}_{name}" for name in names]
  columns += list(prediction.astype(str).T)
  with replacing(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))


def table(results: Results, baseline: Results | None = None) -> str:
  """The table that a run prints: each predictor, the ensemble, the ablations, and the auxiliary heads.

  Args:
    results: of the run.
    baseline: of each sensor trained by itself. With it there is one block for each metric, which has both
      results side by side and their difference. Without it the metrics are the columns of one block.

  Returns:
    Lines of plain text without a newline at the end.
  """
  metrics = HEADLINE[results.task]
  facts = ("dataset", "task", "method", "variant", "protocol", "folds")
  lines = [", ".join(f"{k} {getattr(results, k)}" for k in facts if getattr(results, k))]
  rows = _rows(results.scores)
  if baseline is None:
    lines += _aligned("", metrics, {name: [_cell(row.get(m)) for m in metrics] for name, row in rows.items()})
  else:
    others = _rows(baseline.scores)
    for metric in metrics:
      cells = {}
      for name, row in rows.items():
        ours, theirs = row.get(metric), others.get(name, {}).get(metric)
        known = ours and theirs and None not in (ours["mean"], theirs["mean"])
        cells[name] = [_cell(ours), _cell(theirs), f"{ours['mean'] - theirs['mean']:+.3f}" if known else "-"]
      title = f"{metric} (less is better)" if metric in _LOWER_IS_BETTER else metric
      lines += _aligned(title, ("co-learned", "by itself", "difference"), cells)
  if results.ablations:
    every = {"all as configured": results.scores, **results.ablations}
    names = [name for name in rows if name != "ensemble"]
    cells = {
      name: [_cell(_rows(one).get(m, {}).get(metrics[0])) for m in names] for name, one in every.items()
    }
    lines += _aligned(f"{metrics[0]}, ablations", names, cells)
  heads = {f"{m} {head}": row for m, parts in results.scores.auxiliary.items() for head, row in parts.items()}
  if heads:
    cells = {name: [_cell(row.get(m)) for m in metrics] for name, row in heads.items()}
    lines += _aligned("auxiliary head on", metrics, cells)
  if any("±" in line for line in lines):
    lines[0] += "; mean ± std"
  return "\n".join(lines)


def _rows(scores: Scores) -> dict[str, dict]:
  ensemble = {"ensemble": scores.ensemble} if scores.ensemble else {}
  return {**scores.modalities, **scores.combinations, **ensemble}


def _cell(stats: Mapping | None) -> str:
  if not stats or stats["mean"] is None:
    return "-"
  return f"{stats['mean']:.3f}" + ("" if stats["std"] is None else f" ± {stats['std']:.3f}")


def _aligned(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
  """A blank line, a heading and the rows: names to the left, cells to the right."""
  every = {title: list(columns), **rows}
  left = max(map(len, every))
  width = [max(len(cells[k]) for cells in every.values()) for k in range(len(columns))]
  return [""] + [
    f"{name:<{left}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, width, strict=True))
    for name, cells in every.items()
  ]
