"""Makes small wrong changes of the program, one at a time, and runs the tests that should notice.

    python -m benchmarks.mutants --sample=200 --seed=0

Prints every change with its outcome, then those that no test noticed (survivors) and the share noticed. The
same arguments give the same changes. `--only=objectives` takes one area, `--list` runs nothing.

`mutations.py` says what is changed; `TESTS` below which tests should notice. First their default tests run
with every change, then those with the marker `long` with the survivors. Ctrl-C ends with a report of what was
tried.

A process that has imported the libraries is forked for each change, which saves their import. mutmut 3 keeps
all mutants in one process and chooses them at run time: code that JAX has traced would not change.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import fnmatch
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import equivalent
from benchmarks.mutations import Mutation, files, mutations

ROOT = Path(__file__).parents[1]
# The files of each area, and the tests that should notice. The first pattern that fits a file counts.
TESTS = {
  "objectives": {
    "alignment": "test_alignment",
    "distillation": "test_distillation",
    "orthogonality": "test_reversal",
    "ring": "test_scale",
    "*": "test_losses",
  },
  "training": {
    "closed_form": "test_closed_form",
    "conflicts": "test_conflicts",
    "mixup": "test_mixup",
    "optimizer": "test_steps",
    "step": "test_training test_steps",
    "epoch": "test_steps test_fixed_budget",
    "state": "test_steps",
    "on_device": "test_training test_closed_form",
    "streaming": "test_steps test_training",
    "samples": "test_data_labels test_training",
  },
  "data": {
    "apart": "test_protocols",
    "augment": "test_augment",
    "context": "test_context",
    "grouping": "test_protocols test_mixup",
    "labels": "test_data_labels",
    "moments": "test_statistics",
    "splits": "test_protocols test_data_labels",
    "statistics": "test_statistics test_normalisation test_context",
    "stream": "test_data test_steps",
  },
  "nn": {
    "attention": "test_by_band",
    "members": "test_members",
    "reversal": "test_reversal",
    "quantiles": "test_normalisation",
    "*": "test_nn",
  },
  "evaluation": {"evaluate": "test_evaluate", "metrics": "test_metrics test_evaluate"},
}
IMPORTED = (
  "jax flax.nnx optax grain tensorflow_datasets orbax.checkpoint chex sklearn.metrics sklearn.model_selection"
  " scipy.special scipy.stats pytest ml_collections tensorboardX pyarrow absl.flags"
).split()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What the tests said of a change: `noticed`, `survived`, or `equivalent`, which needs no test."""

  mutation: Mutation
  said: str
  seconds: float = 0.0


def tests_of(path: str) -> list[str]:
  """The test files that should notice a change of a file; none if it is not looked at."""
  area, name = Path(path).parts[-2:]
  for pattern, tests in TESTS[area].items():
    if fnmatch.fnmatch(name, f"{pattern}.py"):
      return [f"tests/{test}.py" for test in tests.split()]
  return []


def every(areas: list[str]) -> list[Mutation]:
  """All changes of the files of these areas."""
  paths = [path for area in areas for path in files(ROOT, f"colearn_jax/{area}") if tests_of(path)]
  return [change for path in paths for change in mutations(ROOT, path)]


def copy(to: Path) -> None:
  """Copies the files that git knows."""
  listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
  for name in filter(None, listed.decode().split("\0")):
    if (ROOT / name).is_file():
      (to / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, to / name)


class _Cached:
  """A plugin of pytest that keeps every compiled program: most are the same with most changes."""

  def pytest_sessionstart(self) -> None:
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def run_tests(place: Path, tests: list[str], marked: str, limit: float) -> int | None:
  """Runs tests in a forked process in a folder; the exit status of pytest, None after so many seconds."""
  child = os.fork()
  if not child:
    os.setpgid(0, 0)
    os.chdir(place)
    sys.path[:] = [str(place), *(p for p in sys.path if p not in ("", str(ROOT)))]
    for name in [
      name for name in sys.modules if name.split(".")[0] in ("benchmarks", "colearn_jax", "tests")
    ]:
      del sys.modules[name]
    os.dup2(os.open(place / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    import pytest

    arguments = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", marked, "--no-header", "--tb=line"]
    status = 3
    with contextlib.suppress(BaseException):
      status = int(pytest.main([*arguments, *tests], plugins=[_Cached()]))
    os._exit(status)
  ends = time.monotonic() + limit
  while time.monotonic() < ends:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.05)
  os.killpg(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return None


MARKED = ("not slow and not long", "long and not slow")
NO_TESTS = 5  # pytest's status


class Judge:
  """Runs the tests of changes in `place`, a copy of the repository."""

  def __init__(self, place: Path):
    self._place = place
    self._took: dict[tuple[str, str], float] = {}

  def _seconds(self, tests: str, marked: str) -> float:
    """Seconds of a test file as the program is, when it is first needed; 0 without such tests."""
    if (key := (tests, marked)) not in self._took:
      began = time.monotonic()
      status = run_tests(self._place, [tests], marked, 3600)
      if status not in (0, NO_TESTS):
        said = (self._place / "said.txt").read_text()
        sys.exit(f"{tests}, {marked}: status {status} without a change\n{said}")
      self._took[key] = time.monotonic() - began if status == 0 else 0.0
      print(f"{tests}, {marked}: {self._took[key]:.0f} s as the program is", flush=True)
    return self._took[key]

  def __call__(self, change: Mutation, marked: str) -> Outcome:
    """Runs the tests of a marker with a change until some fail; a time limit counts as a failure."""
    if change.key in equivalent.REASONS:
      return Outcome(change, "equivalent")
    began = time.monotonic()
    for tests in tests_of(change.path):
      if (took := self._seconds(tests, marked)) and not self._passes(change, tests, marked, 60 + 6 * took):
        return Outcome(change, "noticed", time.monotonic() - began)
    return Outcome(change, "survived", time.monotonic() - began)

  def _passes(self, change: Mutation, tests: str, marked: str, limit: float) -> bool:
    file = self._place / change.path
    text = file.read_bytes()
    try:
      file.write_bytes(change.applied(text))
      return run_tests(self._place, [tests], marked, limit) == 0
    finally:
      file.write_bytes(text)


def report(outcomes: list[Outcome]) -> str:
  """The survivors, and the share noticed by area and in all."""
  lines = ["", "survivors:"]
  for outcome in outcomes:
    if outcome.said == "survived":
      lines.append(shown(outcome.mutation))
  areas: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for outcome in outcomes:
    for name in (Path(outcome.mutation.path).parts[-2], "all"):
      areas[name][outcome.said] += 1
  lines += [
    "",
    "| | changes | equivalent | noticed | survived | share noticed |",
    "|---|---|---|---|---|---|",
  ]
  for name, counts in areas.items():
    share = counts["noticed"] / max(counts["noticed"] + counts["survived"], 1)
    numbers = [counts.total(), *(counts[said] for said in ("equivalent", "noticed", "survived"))]
    lines.append(f"| {name} | " + " | ".join(map(str, numbers)) + f" | {share:.1%} |")
  return "\n".join(lines)


def shown(change: Mutation) -> str:
  """A change in one line."""
  old = (ROOT / change.path).read_bytes()[change.start : change.end].decode()
  one = lambda text: " ".join(text.split())
  return f"{change.path}:{change.line}: {one(old)!r} -> {one(change.new)!r} in `{change.source}`"


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.split("\n")[0])
  parser.add_argument("--sample", type=int, default=0, help="number of changes; 0 for all")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", default=",".join(TESTS), help="areas, with commas")
  parser.add_argument("--files", default="", help="only files whose paths contain one of these, with commas")
  parser.add_argument("--long", action=argparse.BooleanOptionalAction, default=True, help="tests marked long")
  parser.add_argument("--list", action="store_true", help="only lists the changes")
  given = parser.parse_args()
  if unknown := [area for area in given.only.split(",") if area not in TESTS]:
    parser.error(f"--only={','.join(unknown)} is not allowed; of: {', '.join(TESTS)}")
  names = given.files.split(",")
  chosen = [c for c in every(given.only.split(",")) if any(name in c.path for name in names)]
  print(f"{len(chosen)} changes", flush=True)
  if given.sample:
    chosen = random.Random(given.seed).sample(chosen, min(given.sample, len(chosen)))
  if given.list:
    print("\n".join(map(shown, chosen)))
    return
  for name in IMPORTED:
    importlib.import_module(name)
  with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as cache:
    os.environ |= {"COLEARN_JAX_TEST_CACHE": cache, "PYTHONDONTWRITEBYTECODE": "1"}
    copy(Path(place))
    subprocess.run([sys.executable, "-m", "compileall", "-q", place], check=True)
    judge, outcomes = Judge(Path(place)), {}
    with contextlib.suppress(KeyboardInterrupt):  # reports what is known by then
      for marked in MARKED[: 1 + given.long]:
        todo = [c for c in chosen if c not in outcomes or outcomes[c].said == "survived"]
        for number, change in enumerate(todo, 1):
          last = outcomes[change] = judge(change, marked)
          said = f"{marked}: {number}/{len(todo)} {last.said}, {last.seconds:.0f} s"
          print(f"{said}: {shown(change)}", flush=True)
  print(report(list(outcomes.values())))


if __name__ == "__main__":
  main()
