"""Which tests run which lines of the program, and how long each takes.

Every test file runs once with `coverage`, each test in a context of its own. Before each test the programs
that JAX has compiled are forgotten, so that code which is traced once counts for every test that needs it.
What a fixture runs counts for all tests of its file.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest


class Watched:
  """A plugin of pytest that writes, as JSON, the lines that each test of a file runs, and its seconds."""

  def __init__(self, package: Path, to: Path):
    import coverage

    self._package, self._to = package, to
    self._coverage = coverage.Coverage(data_file=None, include=[f"{package}/*"], config_file=False)
    self._seconds: dict[str, float] = collections.defaultdict(float)
    self._coverage.set_option("run:disable_warnings", ["no-data-collected"])  # no test has the marker
    self._coverage.start()

  @pytest.hookimpl(tryfirst=True)
  def pytest_runtest_setup(self, item) -> None:
    """Fixtures of a test run next."""
    import jax

    jax.clear_caches()
    self._coverage.switch_context(f"{item.nodeid}|fixtures")

  @pytest.hookimpl(tryfirst=True)
  def pytest_runtest_call(self, item) -> None:
    """The test runs next."""
    self._coverage.switch_context(item.nodeid)

  @pytest.hookimpl(tryfirst=True)
  def pytest_runtest_teardown(self, item) -> None:
    """The ends of fixtures run next."""
    self._coverage.switch_context(f"{item.nodeid}|fixtures")

  def pytest_runtest_logreport(self, report) -> None:
    """Adds the seconds of fixtures and test."""
    self._seconds[report.nodeid] += report.duration

  def pytest_sessionfinish(self) -> None:
    """Writes what was found."""
    self._coverage.stop()
    data, lines = self._coverage.get_data(), {}
    for file in data.measured_files():
      by_line = {str(line): names for line, names in data.contexts_by_lineno(file).items()}
      lines[Path(file).relative_to(self._package.parent).as_posix()] = by_line
    self._to.write_text(json.dumps({"seconds": self._seconds, "lines": lines}))


@dataclasses.dataclass(frozen=True)
class Map:
  """What `Watched` found in several files of tests.

  Attributes:
    seconds: of each test.
    tests: by file and line, the tests that run it.
  """

  seconds: Mapping[str, float]
  tests: Mapping[str, Mapping[int, frozenset[str]]]

  @classmethod
  def read(cls, files: Iterable[Path]) -> Map:
    """Of what `Watched` wrote, one file for each test file."""
    seconds: dict[str, float] = {}
    tests: dict[str, dict[int, set[str]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for file in files:
      found = json.loads(file.read_text())
      seconds |= found["seconds"]
      for path, by_line in found["lines"].items():
        for line, contexts in by_line.items():
          for context in filter(None, contexts):  # the context without a name is the import
            name, _, fixtures = context.partition("|")
            tests[path][int(line)] |= set(found["seconds"]) if fixtures else {name}
    return cls(seconds, {path: {n: frozenset(own) for n, own in by.items()} for path, by in tests.items()})

  def of(self, path: str, line: int, body: int) -> list[str]:
    """The tests that run a line, the fastest first.

    Args:
      path: the file.
      line: from 1. If no test runs it as such, the line before counts, as an expression may have several.
      body: the first line of the function around it; 0 outside of functions, whose lines run with an import:
        there all tests of the file count.
    """
    by_line = self.tests.get(path, {})
    found = frozenset[str]()
    if body:
      found = next((by_line[n] for n in range(line, body - 1, -1) if n in by_line), found)
    elif by_line:
      found = frozenset().union(*by_line.values())
    return sorted(found, key=lambda test: (self.seconds[test], test))


def within(tests: Sequence[str], seconds: Mapping[str, float], limit: float) -> list[str]:
  """The first tests, which take so many seconds together; at least one, if there is any."""
  kept, total = [], 0.0
  for test in tests:
    total += seconds[test]
    if kept and total > limit:
      break
    kept.append(test)
  return kept


def digest(files: Iterable[Path]) -> str:
  """Of the content of files, to know whether a map is of these."""
  found = hashlib.sha256()
  for file in files:
    found.update(hashlib.sha256(file.read_bytes()).digest())
  return found.hexdigest()[:16]
