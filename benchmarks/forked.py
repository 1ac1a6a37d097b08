"""Runs tests with a changed function, in processes that are forked after everything was imported.

`load` imports the tests and all that they import, and compiles nothing. Each process then gives the functions
of the changed file their new code. For a change outside of functions everything is imported again.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks import covering

NO_TESTS = 5  # pytest's status
ARGUMENTS = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--tb=line")


class Cached:
  """A plugin of pytest that keeps every compiled program: most are the same with most changes."""

  def pytest_sessionstart(self) -> None:
    """Sets what `conftest.py` sets otherwise."""
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@dataclasses.dataclass(frozen=True)
class Change:
  """The text of a file, and what it is to be."""

  path: Path
  old: bytes
  new: bytes


def load(place: Path, files: Sequence[str]) -> None:
  """Imports test files of a copy of the repository, where this process then is."""
  root = str(Path(__file__).parents[1])
  sys.path[:] = [str(place), *(path for path in sys.path if path not in ("", root))]
  os.chdir(place)
  said = os.dup(1), os.dup(2)
  _speak(place / "loaded.txt")
  status = pytest.main([*ARGUMENTS, "--collect-only", "-m", "not slow", *files])
  for number, stream in enumerate(said, 1):
    os.dup2(stream, number)
  from jax._src import xla_bridge

  if xla_bridge.backends_are_initialized():  # its threads do not survive a fork
    sys.exit("a test file uses JAX when it is imported")
  if status:
    sys.exit((place / "loaded.txt").read_text())


def run_tests(
  place: Path,
  tests: Sequence[str],
  marked: str,
  limit: float,
  change: Change | None = None,
  map_to: Path | None = None,
) -> int | None:
  """Runs tests in a forked process; the exit status of pytest, None after so many seconds.

  Args:
    place: see `load`.
    tests: files, or names of tests.
    marked: the expression of `pytest -m`.
    limit: in seconds.
    change: what is changed meanwhile.
    map_to: a file for what `covering.Watched` finds.
  """
  child = os.fork()
  if not child:
    status = 3
    try:
      os.setpgid(0, 0)
      _speak(place / "said.txt")
      if change is not None and not _swapped(change):
        _forget(place)
      plugins = [Cached(), *([covering.Watched(place / "colearn_jax", map_to)] if map_to else [])]
      status = int(pytest.main([*ARGUMENTS, "-m", marked, *tests], plugins=plugins))
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(status)
  ends = time.monotonic() + limit
  while time.monotonic() < ends:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.02)
  os.killpg(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return None


def _speak(to: Path) -> None:
  """What is printed from now on is written to a file."""
  os.dup2(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
  os.dup2(1, 2)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
  """A code object and those in it."""
  yield code
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _codes(constant)


def _swapped(change: Change) -> bool:
  """Gives the functions of the file their new code; whether there was one to change."""
  pairs = zip(*(_codes(compile(text, change.path, "exec")) for text in (change.old, change.new)))
  changed = {old: new for old, new in pairs if old != new}
  own = lambda one: isinstance(one, types.FunctionType) and one.__code__.co_filename == str(change.path)
  found = [one for one in gc.get_objects() if own(one) and one.__code__ in changed]
  for function in found:
    function.__code__ = changed[function.__code__]
  return bool(found)


def _forget(place: Path) -> None:
  """Makes everything in the copy be imported again."""
  for name, module in list(sys.modules.items()):
    if str(getattr(module, "__file__", None) or "").startswith(str(place)) or name.split(".")[0] in OWN:
      del sys.modules[name]


OWN = ("colearn_jax", "tests")
