"""Labels that nothing can be learned from, or that are none of the task's."""

import dataclasses

import numpy as np
import pytest

from colearn_jax.data.labels import check
from colearn_jax.data.reader import Index
from colearn_jax.data.splits import Run
from colearn_jax.types import InputError, Task

RUN = Run(seed=1, fold=0, train=np.arange(6), validation=np.arange(0), test=np.arange(6, 8))
LABELS = Task("multilabel", ("a", "b"))
CLASSES = Task("multiclass", ("oak", "elm", "ash"))


def index(target):
  return Index(np.array([f"s{k}" for k in range(8)]), np.asarray(target), {})


def column(*values):
  return np.array(values, np.float32)[:, None]


def test_a_constant_target_is_refused():
  task = Task("regression", ("moisture",))
  constant = column(7, 7, np.nan, 7, 7, 7, 1, 2)
  with pytest.raises(InputError, match="seed1_fold0: the target moisture is 7 in all 5 label") as error:
    check(task, index(constant), RUN)
  assert "\n" not in str(error.value)
  check(task, index(column(7, 7, 7, 7, 7, 7.5, 1, 2)), RUN)
  both = Task("regression", ("a", "b"))
  with pytest.raises(InputError, match="the target b is 3 in all 6"):
    check(both, index(np.stack([np.arange(8.0), np.full(8, 3.0)], 1)), RUN)


@pytest.mark.parametrize(
  ("task", "target", "message"),
  [
    (
      CLASSES,
      [0, 1, 2, 3, 0, 0, 0, 0],
      "sample s3 has the label 3; allowed are 0 to 2, the numbers of oak,",
    ),
    (CLASSES, [1, 1, -1, 1, 1, 1, 0, 2], "all 5 labelled samples of the training part have the class elm"),
    (
      LABELS,
      [[0, 1], [1, 2]] * 4,
      r"sample s1 has the label .1. 2..; allowed are 0 and 1",
    ),
  ],
)
def test_wrong_labels_are_refused(task, target, message):
  target = np.array(target, np.float32 if task.kind == "multilabel" else np.int32)
  with pytest.raises(InputError, match=message):
    check(task, index(target), RUN)


def test_a_class_that_is_absent_is_said_once(capsys):
  target = np.array([0, 1, 0, 1, 0, 1, 2, 2], np.int32)
  check(CLASSES, index(target), RUN)
  check(CLASSES, index(target), dataclasses.replace(RUN, ablation="without"))
  said = capsys.readouterr().err
  assert said == "warning: seed1_fold0: no labelled sample of the training part has the class ash\n"
  check(CLASSES, index(target), dataclasses.replace(RUN, train=np.arange(8)))
  assert not capsys.readouterr().err
