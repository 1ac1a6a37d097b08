"""What a run leaves to be read: results.json, the predictions as CSV, and the table that it prints."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from colearn_jax.evaluation.metrics import HEADLINE
from colearn_jax.types import InputError, Task

_LOWER_IS_BETTER = ("rmse", "mae")


def summarise(per_run: Sequence[Mapping]) -> dict:
  """One dict of statistics from the scores of several trainings (folds and seeds).

  Args:
    per_run: for each training the same nested dict, numbers or confusion matrices at its leaves.

  Returns:
    The same nesting; a number becomes `{"mean", "std", "per_fold"}`, where `std` has n - 1 below
    (0 for a single training) and both leave out trainings in which the figure is undefined (`None` in
    `per_fold`); a matrix becomes the sum over the trainings. Ready for JSON: `None`, never NaN.

  Raises:
    InputError: no trainings, or trainings with different figures.
  """
  if not per_run:
    raise InputError("no trainings to summarise")
  odd = set().union(*per_run) - set.intersection(*map(set, per_run))
  if odd:
    raise InputError(f"trainings have different figures, not in all of them: {', '.join(sorted(odd))}")
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
  mean = known.mean() if known.size else np.nan
  std = known.std(ddof=1) if known.size > 1 else 0.0 * mean
  return {"mean": mean, "std": std, "per_fold": values}


def jsonable(tree: Any) -> Any:
  """The tree in what JSON has: str keys, lists, Python numbers, and `None` for NaN and infinities."""
  if isinstance(tree, Mapping):
    return {str(k): jsonable(v) for k, v in tree.items()}
  if isinstance(tree, np.ndarray | np.generic):
    return jsonable(tree.tolist())
  if isinstance(tree, list | tuple):
    return [jsonable(v) for v in tree]
  return None if isinstance(tree, float) and not math.isfinite(tree) else tree


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[TextIO]:
  """A text file to write that takes the place of `path` when the block ends well, and leaves no trace else.

  A reader, or a run that is killed, meets either the old file or the new one, never a part.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f".{path.name}.part")  # beside it: a rename is atomic within one file system only
  try:
    with open(part, "w", encoding="utf-8", newline="") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except BaseException:
    part.unlink(missing_ok=True)
    raise


def write_results(path: str | os.PathLike, results: Mapping) -> None:
  """Writes a nested dict as strict JSON (NaN and infinities become null), atomically."""
  text = json.dumps(jsonable(results), indent=2, allow_nan=False, ensure_ascii=False)
  with replacing(path) as file:
    file.write(text + "\n")


def read_results(path: str | os.PathLike) -> dict:
  """Reads what `write_results` wrote; InputError where there is no such file or it is not JSON."""
  try:
    return json.loads(Path(path).read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"no results at {path}: train first, or name another work directory") from None
  except ValueError as e:
    raise InputError(f"{path} is not JSON: {e}") from None


def write_predictions(
  path: str | os.PathLike,
  ids: Sequence,
  seeds: Sequence[int] | int,
  folds: Sequence[int] | int,
  target: np.ndarray,
  prediction: np.ndarray,
  task: Task,
) -> None:
  """Writes one sensor's predictions as CSV, atomically: `id,seed,fold`, target columns, prediction columns.

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
    raise InputError(f"{path}: one row a sample in every array is needed, have: {sizes}")
  names = np.array([name.replace("\r", " ") for name in task.outputs])  # the csv module leaves \r unquoted
  header = ["id", "seed", "fold"]
  columns = [[i.decode() if isinstance(i, bytes) else str(i) for i in ids]]
  columns += [np.broadcast_to(seeds, n).astype(str), np.broadcast_to(folds, n).astype(str)]
  if task.classes:
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


def table(results: Mapping, baseline: Mapping | None = None) -> str:
  """The table a run prints: each sensor alone, then the ensemble, then the auxiliary heads.

  Args:
    results: as `results.json` has them; `results["task"]` is the task's kind.
    baseline: the same of each sensor trained by itself; there is then one block a metric, with both
      beside each other and their difference. Otherwise the metrics are the columns of one block.

  Returns:
    Lines of plain text without a newline at the end.
  """
  metrics = HEADLINE[results["task"]]
  facts = ("dataset", "task", "method", "variant", "protocol", "folds")
  lines = [", ".join(f"{k} {results[k]}" for k in facts if results.get(k)) + "; mean ± std"]
  rows = _rows(results)
  if baseline is None:
    lines += _aligned("", metrics, {name: [_cell(row.get(m)) for m in metrics] for name, row in rows.items()})
  else:
    others = _rows(baseline)
    for metric in metrics:
      cells = {}
      for name, row in rows.items():
        ours, theirs = row.get(metric), others.get(name, {}).get(metric)
        known = ours and theirs and None not in (ours["mean"], theirs["mean"])
        cells[name] = [_cell(ours), _cell(theirs), f"{ours['mean'] - theirs['mean']:+.3f}" if known else "-"]
      title = f"{metric} (less is better)" if metric in _LOWER_IS_BETTER else metric
      lines += _aligned(title, ("co-learned", "by itself", "difference"), cells)
  if ablations := results.get("ablations"):
    every = {"all as configured": results, **ablations}
    names = list(results["modalities"])
    cells = {
      name: [_cell(one["modalities"][m].get(metrics[0])) for m in names] for name, one in every.items()
    }
    lines += _aligned(f"{metrics[0]}, other weights", names, cells)
  parts = results.get("auxiliary") or {}
  heads = {f"{name} {part}": parts[name][part] for name in parts for part in parts[name]}
  if heads:
    cells = {name: [_cell(row.get(m)) for m in metrics] for name, row in heads.items()}
    lines += _aligned("auxiliary head on", metrics, cells)
  return "\n".join(lines)


def _rows(results: Mapping) -> dict:
  return {**results["modalities"], **({"ensemble": results["ensemble"]} if results.get("ensemble") else {})}


def _cell(stats: Mapping | None) -> str:
  if not stats or stats["mean"] is None:
    return "-"
  return f"{stats['mean']:.3f} ± {stats['std']:.3f}"


def _aligned(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
  """A blank line, a heading and the rows: names to the left, cells to the right."""
  every = {title: list(columns), **rows}
  left = max(map(len, every))
  width = [max(len(cells[k]) for cells in every.values()) for k in range(len(columns))]
  return [""] + [
    f"{name:<{left}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, width, strict=True))
    for name, cells in every.items()
  ]
