"""Checks of the labels of a training part, before anything is trained."""

from __future__ import annotations

import numpy as np

from colearn_jax.data.reader import Index
from colearn_jax.data.splits import Run
from colearn_jax.storage.files import warn
from colearn_jax.types import InputError, Task


def check(task: Task, index: Index, run: Run) -> None:
  """Checks the labels of a run's training part. Warns of classes that it lacks.

  Args:
    task: the task of the data set.
    index: index of all samples.
    run: the run.

  Raises:
    InputError: a label is not one of the task's, or all labels are the same, so that nothing can be learned.
  """
  rows = run.train[index.labelled[run.train]]
  target, last = index.target[rows], len(task.outputs) - 1
  if not len(rows):
    return  # said by `statistics.task_constants`
  if task.kind == "regression":
    constant = (target == target[:1]).all(0)
    if constant.any():
      at = int(np.argmax(constant))
      raise InputError(
        f"{run.name}: the target {task.outputs[at]} is {target[0, at]:g} in all {len(rows)} labelled samples "
        "of the training part, so nothing can be learned; cut other parts, see protocol.folds and "
        "protocol.group_by"
      )
    return
  known = np.isin(target, (0, 1)) if task.kind == "multilabel" else target <= last
  if not known.all():
    row = int(np.argmin(known.reshape(len(rows), -1).all(1)))
    numbers = f"0 to {last}, the numbers of {', '.join(task.outputs)}"
    allowed = "0 and 1" if task.kind == "multilabel" else numbers
    raise InputError(f"sample {index.ids[rows[row]]} has the label {target[row]}; allowed are {allowed}")
  if task.kind == "multilabel":
    return
  absent = [name for number, name in enumerate(task.outputs) if not (target == number).any()]
  if len(absent) == last:
    (only,) = (name for name in task.outputs if name not in absent)
    raise InputError(
      f"{run.name}: all {len(rows)} labelled samples of the training part have the class {only}, so nothing "
      "can be learned; cut other parts, see protocol.folds and protocol.group_by"
    )
  if absent and not run.ablation:
    warn(f"{run.name}: no labelled sample of the training part has the class {', '.join(absent)}")
