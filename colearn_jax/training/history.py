"""What each epoch of a stack of runs gave: logged one epoch late, and which runs are still active."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from colearn_jax.data.splits import Run
from colearn_jax.training import phases
from colearn_jax.training.log import Log, Progress
from colearn_jax.types import InputError


class Clock:
  """Tells when so many seconds are over since the last checkpoint; never with 0 seconds."""

  def __init__(self, seconds: float):
    self._seconds, self._since = seconds, time.monotonic()

  @property
  def over(self) -> bool:
    """Whether the time is over."""
    return 0 < self._seconds <= time.monotonic() - self._since

  def reset(self) -> None:
    """Begins anew."""
    self._since = time.monotonic()


class History:
  """Logs the epochs of a stack of runs, and keeps track of active runs.

  If a run had a step that was not finite, `fault` is called with the number of the run.

  Attributes:
    seconds: training time of each run.
    pending: the last epoch that was started: its number, start time, terms, and the status of the runs after
      it.
  """

  def __init__(self, runs: Sequence[Run], log: Log, progress: Progress, fault: Callable[[int], None]):
    self._fault = fault
    self.seconds = np.zeros(len(runs))
    self.pending: tuple[int, float, Any, Any] | None = None
    self._runs, self._log, self._progress = runs, log, progress
    self._active, self._fetched = np.ones(len(runs), bool), 0.0

  @property
  def over(self) -> bool:
    """Whether all runs are finished."""
    return not self._active.any()

  def resume(self, done: np.ndarray, seconds: Sequence[float]) -> None:
    """Sets the state of a checkpoint."""
    self._active, self.seconds = ~done, np.array(seconds)

  def fetch(self) -> None:
    """Waits for the pending epoch, if there is one, and logs it.

    Raises:
      InputError: an objective is not finite.
    """
    if self.pending is None:
      return
    epoch, began, *arrays = self.pending
    self.pending = None
    terms, status = jax.device_get(arrays)
    took, self._fetched = time.monotonic() - max(began, self._fetched), time.monotonic()
    self.seconds = self.seconds + took * self._active
    phases.of_process().first("first_epoch", took)
    active = [(k, run) for k, run in enumerate(self._runs) if self._active[k]]
    for k, run in active:
      if status["fault"][k] >= 0:
        self._fault(k)
      scalars = {f"{part}/{name}": float(v[k]) for part in terms for name, v in terms[part].items()}
      for part in terms:
        if not np.isfinite(objective := scalars[f"{part}/objective"]):
          raise InputError(
            f"{run.name} diverged: its {part} objective is {objective} in epoch {epoch}; a lower "
            "train.learning_rate, or train.clip_norm, may help; train.nonfinite=stop names the step"
          )
      scalars["learning_rate"] = scalars.pop("train/learning_rate")
      self._log.write(run.name, epoch, scalars | {"samples_per_second": len(run.train) / took})
    if active:
      rate = sum(len(run.train) for _, run in active) / took
      mean = lambda values: float(values[self._active].mean())
      if "validation" in terms:
        objective, best = terms["validation"]["objective"], status["best_objective"]
        self._progress.update(epoch, mean(objective), mean(best), rate)
      else:
        self._progress.update(epoch, mean(terms["train"]["objective"]), None, rate)
    self._active = ~status["done"]
