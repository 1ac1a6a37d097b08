"""Where the time of a start goes."""

import threading

import jax
import jax.numpy as jnp

from colearn_jax.training import phases


def test_what_is_traced_within_another_program_counts_once(monkeypatch):
  now, own = iter((3.0, 6.0, 8.0, 9.0)), phases.Phases()
  monkeypatch.setattr(phases.time, "monotonic", lambda: next(now))
  trace, compile_ = (name for name in phases._EVENTS if "trace" in name or "backend" in name)
  own.heard(trace, 1.0)  # 2 to 3, in the next one
  own.heard(trace, 5.0)  # 1 to 6
  own.heard(trace, 2.0)  # 6 to 8
  own.heard(compile_, 0.5)
  own.heard("another event", 100.0)
  own.add({"data": 1.5})
  own.first("first_epoch", 2.0), own.first("first_epoch", 7.0)
  assert own.take() == {"data": 1.5, "first_epoch": 2.0, "tracing": 7.0, "compilation": 0.5}
  assert own.take() == {}


def test_threads_do_not_hide_what_others_do_at_the_same_time(monkeypatch):
  now, own = iter((3.0, 6.0)), phases.Phases()
  monkeypatch.setattr(phases.time, "monotonic", lambda: next(now))
  (trace, *_) = phases._EVENTS
  own.heard(trace, 1.0)
  thread = threading.Thread(target=own.heard, args=(trace, 5.0))  # 1 to 6, but not around the other
  thread.start(), thread.join()
  assert own.take() == {"tracing": 6.0}


def test_jax_tells_how_long_it_traces_and_compiles():
  own = phases.of_process()
  own.take()
  jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) * 2.5)(jnp.ones(3)))
  seconds = own.take()
  assert seconds["tracing"] > 0 and seconds["compilation"] > 0
