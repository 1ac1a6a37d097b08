"""Keeps the score of every run of a study in one small table, and compares its arms with one of them.

    python -m benchmarks.kept_scores keep --workdir=W --table=benchmarks/results/methods_lfmc.csv
    python -m benchmarks.kept_scores compare --table=benchmarks/results/methods_lfmc.csv

A study of many hours can be trained in parts, on several days or machines, and its figures can be computed
again without it. `keep` adds the finished arms of a work directory, of a study with one cell, and replaces
those of the same name. `compare` prints the mean and standard deviation of every arm and predictor, and the
corrected resampled t-test of its difference to `--against` in the same runs, as `colearn_jax.report` does,
with Holm's correction for all pairs of an arm and a predictor that both have. `--predictors` names those that
are compared, by default all.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from colearn_jax.reporting import statistics, study, tables
from colearn_jax.storage import files

COLUMNS = ("arm", "predictor", "seed", "fold", "score")
Scores = dict[tuple[str, str], dict[tuple[int, int], float]]


def read(path: Path) -> Scores:
  """The score of each run, `{(arm, predictor): {(seed, fold): score}}`."""
  out: Scores = {}
  if path.is_file():
    with path.open(newline="", encoding="utf-8") as file:
      for row in csv.DictReader(file):
        of_arm = out.setdefault((row["arm"], row["predictor"]), {})
        of_arm[int(row["seed"]), int(row["fold"])] = float(row["score"])
  return out


def finished(workdir: Path) -> Scores:
  """The same of the finished arms of a work directory."""
  (cell,) = study.read(workdir).cells
  out: Scores = {}
  for name, arm in cell.arms.items():
    for predictor in arm.rows:
      out[name, predictor] = dict(zip(arm.runs, arm.per_run(predictor, cell.metric).tolist(), strict=True))
  return out


def write(path: Path, scores: Scores) -> None:
  """Writes the table."""
  with files.replacing(path) as file:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(COLUMNS)
    for (arm, predictor), runs in scores.items():
      rows.writerows([arm, predictor, *run, f"{score:.5f}"] for run, score in runs.items())


def compared(scores: Scores, against: str) -> list[dict]:
  """For each arm and predictor its mean score and deviation, and its difference to `against`."""
  out, folds = [], 1 + max(fold for runs in scores.values() for _, fold in runs)
  for (arm, predictor), runs in scores.items():
    own = np.array(list(runs.values()))
    row = {"arm": arm, "predictor": predictor, "runs": len(own), "mean": own.mean(), "std": own.std(ddof=1)}
    base = scores.get((against, predictor), {})
    if arm != against and (both := [run for run in runs if run in base]):
      factor = statistics.repeated_kfold_factor(folds, len(both) // folds)
      found = statistics.paired([runs[run] for run in both], [base[run] for run in both], factor)
      row |= {"difference": found.mean, "p": found.p}
    out.append(row)
  tested = [row for row in out if "p" in row]
  for row, p in zip(tested, statistics.holm([row["p"] for row in tested]), strict=True):
    row["holm"] = p
  return out


def table(rows: Iterable[Mapping]) -> str:
  """The rows in Markdown."""
  header = ("arm", "predictor", "runs", "score", "difference", "p", "p, Holm")
  fields = [
    [
      row["arm"],
      row["predictor"],
      str(row["runs"]),
      tables.spread(row["mean"], row["std"]),
      tables.number(row.get("difference"), sign="+"),
      *(tables.probability(row.get(name, float("nan"))) for name in ("p", "holm")),
    ]
    for row in rows
  ]
  return tables.markdown(tables.table("", header, fields))


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("what", choices=("keep", "compare"))
  parser.add_argument("--table", type=Path, required=True)
  parser.add_argument("--workdir", type=Path)
  parser.add_argument("--against", default="individual")
  parser.add_argument("--predictors", type=lambda text: text.split(","))
  given = parser.parse_args()
  if given.what == "keep":
    if given.workdir is None:
      parser.error("keep needs --workdir, the directory of a study")
    write(given.table, read(given.table) | finished(given.workdir))
  scores = read(given.table)
  arms, predictors = ({key[at] for key in scores} for at in (0, 1))
  for flag, named, known in (
    ("--against", {given.against}, arms),
    ("--predictors", set(given.predictors or ()), predictors),
  ):
    if named - known:
      parser.error(
        f"{flag}: {given.table} has no {', '.join(named - known)}, only {', '.join(sorted(known))}"
      )
  chosen = set(given.predictors or predictors)
  scores = {key: runs for key, runs in scores.items() if key[1] in chosen}
  print(table(compared(scores, given.against)))


if __name__ == "__main__":
  main()
