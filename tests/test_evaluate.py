import numpy as np

from colearn_jax.data.dataset import Index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, metrics
from colearn_jax.types import Task

TASK = Task("multiclass", ("a", "b", "c"))
TARGET = np.array([0, 1, 2, 0, 1, 2], np.int32)
NONE = np.empty(0, int)


def runs():
  return [Run(0, fold, NONE, NONE, rows) for fold, rows in enumerate((np.arange(3), np.arange(3, 6)))]


def probabilities(rows, seed, absent=()):
  p = np.random.default_rng(seed).dirichlet(np.ones(3), len(rows)).astype(np.float32)
  p[list(absent)] = np.nan
  return p


def test_a_sensor_is_scored_on_what_it_has_seen():
  index = Index(np.arange(6).astype(str), TARGET, {})
  predictions = []
  for k, run in enumerate(runs()):
    absent = {
      "always": (),
      "some": (1,) if k == 0 else (),
      "once": range(3) if k == 0 else (),
      "never": range(3),
    }
    one = {m: probabilities(run.test, i + 10 * k, gone) for i, (m, gone) in enumerate(absent.items())}
    predictions.append({"prediction": one, "specific": {}, "shared": {}})
  got = evaluate.evaluate(TASK, index, runs(), predictions)
  assert got["modalities"]["never"] == {}
  some, once = got["modalities"]["some"], got["modalities"]["once"]
  assert some["samples"]["per_fold"] == [2, 3] and got["ensemble"]["samples"]["per_fold"] == [3, 3]
  want = metrics.scores(TASK, predictions[0]["prediction"]["some"][[0, 2]], TARGET[[0, 2]])
  assert some["accuracy"]["per_fold"][0] == want["accuracy"]
  assert once["accuracy"]["per_fold"][0] is None and once["samples"]["per_fold"] == [0, 3]
  second = metrics.scores(TASK, predictions[1]["prediction"]["once"], TARGET[3:])
  assert once["f1_macro"]["mean"] == second["f1_macro"]
  assert once["confusion_matrix"] == second["confusion_matrix"]
