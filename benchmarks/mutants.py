"""Makes small wrong changes of the program, one at a time, and runs the tests that should notice.

    python -m benchmarks.mutants --sample=200 --seed=0 --keep=DIR

Prints every change with its outcome, then those that no test noticed (survivors) and the share noticed by
area. The same arguments give the same changes; a sample has of each area a share like its size. `--list` runs
nothing. In DIR stay the map of which tests run which lines and the outcomes, so that the same command goes on
after an interruption. An outcome is kept until the change has other tests.

`mutations.py` says what is changed, `covering.py` which tests run the changed line: they run, the fastest
first, until one fails. A time limit counts as a failure. First come the default tests for every change, then
those with the marker `long` for the survivors.

A process that has imported everything is forked for each change, see `forked.py`. mutmut 3 keeps all mutants
in one process and chooses them at run time: code that JAX has traced would not change.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import covering, equivalent
from benchmarks.forked import NO_TESTS, Change, load, run_tests
from benchmarks.mutations import Mutation, mutations, valid

ROOT = Path(__file__).parents[1]
# The files of the package that are changed.
AREAS = {
  "objectives": "objectives/*",
  "steps": "training/step training/epoch training/state training/optimizer training/conflicts training/mixup"
  " training/closed_form",
  "statistics": "data/statistics data/moments data/context data/labels",
  "protocols": "data/splits data/apart data/grouping",
  "layers": "nn/*",
  "feeds": "data/stream data/augment training/samples training/on_device training/streaming",
  "metrics": "evaluation/evaluate evaluation/metrics",
}
# The files of tests that may notice.
TESTS = {
  "objectives": "losses alignment distillation reversal scale",
  "steps": "steps samples closed_form conflicts mixup fixed_budget training nonfinite training_leakage",
  "statistics": "statistics normalisation context data_labels training_leakage",
  "protocols": "protocols data_labels mixup fixed_budget teacher",
  "layers": "nn by_band members reversal normalisation steps",
  "feeds": "data augment data_labels samples steps closed_form training training_leakage ahead parts",
  "metrics": "metrics evaluate",
}
MARKED = ("not slow and not long", "long and not slow")
SECONDS = dict(zip(MARKED, (90.0, 600.0)))  # of tests for one change


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What the tests said of a change: `noticed`, `survived`, or `equivalent`, which needs no test."""

  mutation: Mutation
  said: str
  seconds: float = 0.0


def files(area: str) -> list[str]:
  """The files of an area, relative to the repository."""
  patterns = [f"{pattern}.py" for pattern in AREAS[area].split()]
  found = sorted((ROOT / "colearn_jax").glob("*/*.py"))
  fits = lambda path: any(fnmatch.fnmatch("/".join(path.parts[-2:]), pattern) for pattern in patterns)
  return [path.relative_to(ROOT).as_posix() for path in found if fits(path) and path.name != "__init__.py"]


def every(area: str) -> list[Mutation]:
  """All changes of an area."""
  return [change for path in files(area) for change in mutations(ROOT, path)]


def drawn(changes: dict[str, list[Mutation]], sample: int, seed: int) -> list[Mutation]:
  """So many changes, of each area a share like its size, in random order; 0 for all."""
  total, rng = sum(map(len, changes.values())), random.Random(seed)
  parts = {area: round(sample * len(own) / total) if sample else len(own) for area, own in changes.items()}
  found = [change for area, own in changes.items() for change in rng.sample(own, min(parts[area], len(own)))]
  rng.shuffle(found)
  return [change for change in found if valid(ROOT, change)]


def copy(to: Path) -> None:
  """Copies the files that git knows."""
  listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
  for name in filter(None, listed.decode().split("\0")):
    if (ROOT / name).is_file():
      (to / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, to / name)


def map_of(place: Path, tests: Sequence[str], marked: str, keep: Path) -> covering.Map:
  """Which of these tests run which lines. What `keep` has of the same files is not run again."""
  source = [file for part in ("colearn_jax", "configs") for file in sorted((place / part).rglob("*.py"))]
  maps = []
  for file in tests:
    at = covering.digest([*source, place / file])
    maps.append(keep / f"map_{Path(file).stem}_{marked.replace(' ', '_')}_{at}.json")
    if not maps[-1].exists():
      began = time.monotonic()
      status = run_tests(place, [file], marked, 3600, map_to=maps[-1])
      if status not in (0, NO_TESTS):
        maps[-1].unlink(missing_ok=True)
        sys.exit(f"{file}: status {status} without a change\n{(place / 'said.txt').read_text()}")
      print(f"{file}, {marked}: {time.monotonic() - began:.0f} s as the program is", flush=True)
  return covering.Map.read(maps)


class Judge:
  """Runs the tests of a marker in `place`, a copy of the repository, with one change after another.

  `log` holds what was found before.
  """

  def __init__(self, place: Path, found: covering.Map, marked: str, log: Path):
    self._place, self._found, self._marked, self._log = place, found, marked, log
    lines = log.read_text().splitlines() if log.exists() else []
    self._known = {line["change"]: line for line in map(json.loads, lines)}

  def __call__(self, change: Mutation) -> Outcome:
    """What the tests say of a change."""
    if equivalent.reason(change):
      return Outcome(change, "equivalent")
    tests = covering.within(
      self._found.of(change.path, change.line, change.body), self._found.seconds, SECONDS[self._marked]
    )
    name = hashlib.sha256(repr((change.key, change.start, tests)).encode()).hexdigest()
    if name in self._known:
      return Outcome(change, self._known[name]["said"], self._known[name]["seconds"])
    began = time.monotonic()
    said = "survived" if self._passes(change, tests) else "noticed"
    outcome = Outcome(change, said, round(time.monotonic() - began, 1))
    with open(self._log, "a") as file:
      line = {"change": name, "said": said, "seconds": outcome.seconds, "tests": len(tests)}
      file.write(json.dumps(line | {"what": shown(change)}) + "\n")
    return outcome

  def _passes(self, change: Mutation, tests: list[str]) -> bool:
    """The first five tests alone, which need few files, then the others."""
    file = self._place / change.path
    text = file.read_bytes()
    applied = Change(file, text, change.applied(text))
    took = sum(self._found.seconds[test] for test in tests)
    try:
      file.write_bytes(applied.new)  # for processes that a test starts
      parts = filter(None, (tests[:5], tests[5:]))
      limit = 60 + 6 * took
      return all(run_tests(self._place, part, self._marked, limit, applied) == 0 for part in parts)
    finally:
      file.write_bytes(text)


def report(outcomes: list[Outcome]) -> str:
  """The survivors, and the share noticed by area and in all."""
  lines = ["", "survivors:"]
  for outcome in outcomes:
    if outcome.said == "survived":
      lines.append(shown(outcome.mutation))
  areas: dict[str, collections.Counter] = {area: collections.Counter() for area in (*AREAS, "all")}
  of = {path: area for area in AREAS for path in files(area)}
  for outcome in outcomes:
    for name in (of[outcome.mutation.path], "all"):
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
  """A change in one line: the line that was changed as it is with the change, and as it was."""
  return f"{change.path}:{change.line}: `{change.changed}` instead of `{change.source}`"


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.split("\n")[0])
  parser.add_argument("--sample", type=int, default=0, help="number of changes; 0 for all")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", default=",".join(AREAS), help="areas, with commas")
  parser.add_argument(
    "--keep", type=Path, help="folder of the map and the outcomes; default: a temporary one"
  )
  parser.add_argument("--long", action=argparse.BooleanOptionalAction, default=True, help="tests marked long")
  parser.add_argument("--list", action="store_true", help="only lists the changes")
  given = parser.parse_args()
  if unknown := [area for area in given.only.split(",") if area not in AREAS]:
    parser.error(f"--only={','.join(unknown)} is not allowed; of: {', '.join(AREAS)}")
  changes = {area: every(area) for area in given.only.split(",")}
  print(", ".join(f"{area} {len(own)}" for area, own in changes.items()) + " changes", flush=True)
  chosen = drawn(changes, given.sample, given.seed)
  tests = sorted({f"tests/test_{name}.py" for area in changes for name in TESTS[area].split()})
  if given.list:
    print("\n".join(map(shown, chosen)))
    return
  with tempfile.TemporaryDirectory() as scratch:
    place, keep = Path(scratch).resolve() / "copy", (given.keep or Path(scratch)).resolve()
    (keep / "programs").mkdir(parents=True, exist_ok=True)
    os.environ |= {"COLEARN_JAX_TEST_CACHE": str(keep / "programs"), "PYTHONDONTWRITEBYTECODE": "1"}
    copy(place)
    load(place, tests)
    outcomes: dict[Mutation, Outcome] = {}
    with contextlib.suppress(KeyboardInterrupt):  # reports what is known by then
      for marked in MARKED[: 1 + given.long]:
        found = map_of(place, tests, marked, keep)
        judge = Judge(place, found, marked, keep / "outcomes.jsonl")
        todo = [c for c in chosen if c not in outcomes or outcomes[c].said == "survived"]
        for number, change in enumerate(todo, 1):
          last = outcomes[change] = judge(change)
          said = f"{marked}: {number}/{len(todo)} {last.said}, {last.seconds:.0f} s"
          print(f"{said}: {shown(change)}", flush=True)
  print(report(list(outcomes.values())))


if __name__ == "__main__":
  main()
