"""SIGTERM, which schedulers send before they stop a job: the training saves a checkpoint and ends.

While a run is trained, its current step is finished first (`deferred`, `requested`). At any other time the
program ends at once, as everything that it writes is complete or absent. A second SIGTERM always ends it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax

EXIT_STATUS = 75  # EX_TEMPFAIL: the same command goes on


class Preempted(BaseException):
  """The program was asked to end. Not an `Exception`, so that no handler of errors takes it for one."""


class _Signal:
  """Whether SIGTERM came, and whether it is handled later."""

  requested = False
  deferred = False


@contextlib.contextmanager
def watch() -> Iterator[None]:
  """Handles SIGTERM during the block, but not in a job of several processes: these have to save together."""
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
  """Whether SIGTERM came. The caller saves and raises `Preempted`."""
  return _Signal.requested


def _on_signal(*_: object) -> None:
  again, _Signal.requested = _Signal.requested, True
  if again or not _Signal.deferred:
    raise Preempted
