"""How long the parts of a start take: imports, data, tracing, compilation, and the whole first epoch.

JAX reports how long it traces and compiles. What is traced within another program counts once. What several
threads do at the same time counts for each of them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator, Mapping

import jax

_EVENTS = {
  "/jax/core/compile/jaxpr_trace_duration": "tracing",
  "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
  "/jax/core/compile/backend_compile_duration": "compilation",  # or reading it from the cache
}


class Phases:
  """Seconds by phase; of several processes their sum."""

  def __init__(self) -> None:
    self._seconds: dict[str, float] = {}
    self._spans: dict[tuple[str, int], list[tuple[float, float]]] = {}  # by phase and thread

  def add(self, seconds: Mapping[str, float]) -> None:
    """Adds what another process measured, or what this one did in another way."""
    for name, value in seconds.items():
      self._seconds[name] = self._seconds.get(name, 0.0) + value

  @contextlib.contextmanager
  def during(self, name: str) -> Iterator[None]:
    """Adds the time of the block to a phase."""
    began = time.monotonic()
    try:
      yield
    finally:
      self.add({name: time.monotonic() - began})

  def first(self, name: str, seconds: float) -> None:
    """Sets a phase unless it has a value."""
    self._seconds.setdefault(name, seconds)

  def heard(self, event: str, duration_secs: float, **_: str | int) -> None:
    """Listens to JAX. Events come at their ends, those within another one before it."""
    if name := _EVENTS.get(event):
      end, spans = time.monotonic(), self._spans.setdefault((name, threading.get_ident()), [])
      while spans and spans[-1][0] >= end - duration_secs:
        spans.pop()
      spans.append((end - duration_secs, end))

  def take(self) -> dict[str, float]:
    """The seconds of each phase since the last call."""
    spans, self._spans = self._spans, {}
    for (name, _), own in list(spans.items()):
      self.add({name: sum(end - began for began, end in own)})
    taken, self._seconds = self._seconds, {}
    return {name: round(seconds, 3) for name, seconds in taken.items()}


@functools.cache
def of_process() -> Phases:
  """The phases of this process, which begin with the first call."""
  phases = Phases()
  jax.monitoring.register_event_duration_secs_listener(phases.heard)
  return phases
