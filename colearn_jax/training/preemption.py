"""SIGTERM, which schedulers send before they stop a job: the training saves a checkpoint and ends.

While a run is trained, its current step is finished first (`deferred`, `requested`). At any other time the
program ends at once, as everything that it writes is complete or absent. A second SIGTERM always ends it.

In a job of several processes JAX's preemption service has the signal: one that any of them gets is told to
all, and all stop after the same step. It is kept until the next training if it comes at another time.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75  # EX_TEMPFAIL: the same command goes on


class Preempted(BaseException):
  """The program was asked to end. Not an `Exception`, so that no handler of errors takes it for one."""


class _Signal:
  """Whether SIGTERM came, and whether it is handled later."""

  requested = False
  deferred = False
  asked = 0  # how often a job of several processes has asked


@contextlib.contextmanager
def watch() -> Iterator[None]:
  """Handles SIGTERM during the block; in a job of several processes JAX does so from the start."""
  if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, _on_signal)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
    _Signal.requested = False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Keeps SIGTERM until the block asks for it, see `requested`."""
  _Signal.deferred = True
  try:
    yield
  finally:
    _Signal.deferred = False


def requested() -> bool:
  """Whether SIGTERM came. The caller saves and raises `Preempted`.

  All processes of a job have to ask after the same steps. All get the same answer, a second or more after the
  signal.
  """
  if jax.process_count() > 1 and not _Signal.requested:
    _Signal.asked += 1
    _Signal.requested = multihost_utils.reached_preemption_sync_point(_Signal.asked)
  return _Signal.requested


def _on_signal(*_: object) -> None:
  again, _Signal.requested = _Signal.requested, True
  if again or not _Signal.deferred:
    raise Preempted
