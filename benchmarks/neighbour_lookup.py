"""How far a look-up of overlapping training series takes a score on plain folds, by site, and by year.

    python -m benchmarks.neighbour_lookup --config=lfmc --config.data.manual_dir=DIR

For each sensor it fits scikit-learn's gradient boosting on the values of the sensor alone, and again with
further features: the mean target of the training samples whose series match that of the sample under a shift
of -3 to 3 steps. A training sample is not compared with itself. The features need no other input than the
one sensor. It prints R², mean and deviation over the folds.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from absl import app
from ml_collections import ConfigDict
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score

from colearn_jax import config as config_lib
from colearn_jax import main
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import make_reader, read_index, read_table
from colearn_jax.training import setup
from colearn_jax.types import InputError
from colearn_jax.values import assign

SHIFTS = 3
PROTOCOLS = {
  "plain": {"protocol.group_by": "", "protocol.folds": 10},
  "by site": {"protocol.group_by": "site", "protocol.folds": 10},
  "by year, purged": {
    "protocol.group_by": "year",
    "protocol.folds": "each",
    "protocol.purge": 93,
    "protocol.min_samples": 100,
  },
}


def looked_up(series: np.ndarray, target: np.ndarray, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """The mean target of matching training rows for each shift, `[len(rows) 2 * SHIFTS + 1]`; NaN without one.

  Args:
    series: `[N T C]`.
    target: `[N]`.
    train: rows whose targets are looked up.
    rows: rows that get the features; a row is not compared with itself.
  """
  columns, length = [], series.shape[1]
  for shift in range(-SHIFTS, SHIFTS + 1):
    window = length - abs(shift)
    if window < 1:
      continue
    early, late = slice(0, window), slice(length - window, length)
    ours, theirs = (late, early) if shift > 0 else (early, late)
    stored = defaultdict(list)
    for row in train:
      stored[series[row, theirs].tobytes()].append(row)
    found = [[r for r in stored.get(series[row, ours].tobytes(), ()) if r != row] for row in rows]
    columns.append([target[same].mean() if same else np.nan for same in found])
  return np.array(columns).T


def compare(config: ConfigDict) -> str:
  """The table, as Markdown.

  Raises:
    InputError: the task is no regression of one value, or a sensor is no series of plain values.
  """
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  index = read_index(dataset)
  sensors = [dataset.modality(name) for name in config.data.modalities]
  if index.target.ndim != 2 or index.target.shape[1] != 1 or any(len(m.shape) != 2 for m in sensors):
    raise InputError("this benchmark needs a regression of one value from series, such as lfmc")
  inputs, target = read_table(make_reader(dataset, sensors))["inputs"], index.target[:, 0]
  lines = [
    "| folds | " + " | ".join(f"{m.name} | with look-up" for m in sensors) + " |",
    "|---" * (1 + 2 * len(sensors)) + "|",
  ]
  known = config_lib.settings_of(config)
  for name, values in PROTOCOLS.items():
    for key, value in values.items():
      assign(config, known, key, value)
    runs = [run for run in setup.make_runs(config, dataset, index) if not run.ablation]
    cells: list[str] = []
    for m in sensors:
      series = np.ascontiguousarray(inputs[m.name])
      cells += [_cell([_score(series, target, run, look) for run in runs]) for look in (False, True)]
    lines.append(f"| {name} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def _score(series: np.ndarray, target: np.ndarray, run, look: bool) -> float:
  """R² on the test part of gradient boosting, with or without looked-up targets."""
  parts = {}
  for part, rows in (("train", run.train), ("test", run.test)):
    x = series[rows].reshape(len(rows), -1)
    parts[part] = np.concatenate([x, looked_up(series, target, run.train, rows)], 1) if look else x
  used = np.isfinite(parts["train"]).any(0)  # series are rarely equal without a shift
  parts = {part: x[:, used] for part, x in parts.items()}
  model = HistGradientBoostingRegressor(random_state=run.seed).fit(parts["train"], target[run.train])
  return r2_score(target[run.test], model.predict(parts["test"]))


def _cell(scores: Sequence[float]) -> str:
  return f"{np.mean(scores):.3f}" + (f" ± {np.std(scores):.3f}" if len(scores) > 1 else "")


if __name__ == "__main__":
  try:
    app.run(lambda command: print(compare(command.config)), flags_parser=main.parse)
  except InputError as error:
    sys.exit(str(error))
