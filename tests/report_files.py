"""Results of a study that nobody trained, for the tests of reports."""

import json

import numpy as np

from colearn_jax.evaluation import results
from colearn_jax.evaluation.results import Results, Scores

FOLDS, SEEDS = 3, (10, 11)
NOISE = np.random.default_rng(0).normal(0, 0.02, (2, len(SEEDS) * FOLDS))


def write_arm(directory, method, scores, *, samples=30, **facts):
  """Writes results.json of an arm, as `{predictor: score of each run}` of R²."""
  stats = lambda values: results.summarise(
    [{"r2": float(v), "rmse": 1 - float(v), "mae": 0.5, "samples": samples} for v in values]
  )
  rows = {name: stats(values) for name, values in scores.items() if name != "ensemble"}
  ensemble = stats(scores["ensemble"]) if "ensemble" in scores else {}
  runs = {f"seed{s}_fold{f}": {"seed": s, "fold": f, "ablation": ""} for s in SEEDS for f in range(FOLDS)}
  known = {"protocol": "clean", "split": "kfold", "group_by": "site", "seeds": SEEDS, "folds": FOLDS}
  known |= {"timing": {"seconds": 75.0, "runs": runs}} | facts
  Results("lfmc", "regression", method, Scores(rows, ensemble=ensemble), **known).write(
    directory / "results.json"
  )


CELLS = {"site/bands": 0.0, "year/bands": 0.1, "site/all": 0.2}


def write_study(workdir):
  """Writes a study of three cells; `fusion` failed in the last one."""
  cells = []
  for name, level in CELLS.items():
    near, far = level + 0.3 + NOISE
    gain = 0.1 + 0.001 * np.arange(6)
    write_arm(workdir / name / "co", "mdico", {"S1": near + gain, "S2": far + 0.01, "ensemble": far + 0.2})
    write_arm(workdir / name / "alone", "individual", {"S1": near, "S2": far, "ensemble": far + 0.1})
    write_arm(workdir / name / "trees", "trees", {"S1": near - 0.1, "S2": far + 0.1 * NOISE[0]})
    write_arm(workdir / name / "context", "context", {"context": near + 0.05})
    if name != "site/all":
      write_arm(workdir / name / "fusion", "fusion", {"S1+S2": far + 0.3})
    kinds = {"co": "network", "alone": "network", "fusion": "network", "trees": "trees", "context": "context"}
    arms = [{"name": arm, "title": f"the {arm}", "kind": kind} for arm, kind in kinds.items()]
    facts = {"name": name, "title": name.replace("/", ", "), "task": "regression", "metric": "r2"}
    cells.append(facts | {"sensors": ["S1", "S2"], "arms": arms})
  (workdir / "site/all/fusion").mkdir()
  (workdir / "site/all/fusion/error.txt").write_text("too few\nsamples\n")
  fixed = [
    {"cell": "site/bands", "arm": "co", "against": "alone", "predictors": ["S1", "S2"]},
    {"cell": "site/bands", "arm": "co", "against": "context", "predictors": ["S1"]},
    {"cell": "site/all", "arm": "co", "against": "fusion", "predictors": ["S1"]},
  ]
  plan = {"name": "a study", "digest": "abc", "cells": cells, "comparisons": fixed}
  (workdir / "study.json").write_text(json.dumps(plan))
  return workdir
