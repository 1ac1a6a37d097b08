"""Trains all arms of a study: `python -m colearn_jax.study --config=NAME --workdir=DIR [--config.KEY=VALUE]`.

NAME is a study file, or a name in configs/studies. The same command resumes a study that was interrupted:
finished arms are skipped. Values of `--config.KEY` are set in every arm, e.g. `--config.data.manual_dir=DIR`.
"""

from __future__ import annotations

import fnmatch
import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from colearn_jax import main as command_line
from colearn_jax.plan import Study
from colearn_jax.types import InputError

OWN = ("workdir", "only", "list", "workers")


class Command(NamedTuple):
  """A parsed command line: the study file, values for every arm, and the other flags."""

  spec: str
  given: Mapping[str, str | bool]
  flags: flags.FlagValues


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags other than `--config`."""
  flags.DEFINE_string("workdir", None, "Work directory of the study.", flag_values=values)
  only = "Names or patterns of cells and arms to train, e.g. site/bands or '*/trees'."
  flags.DEFINE_list("only", [], only, flag_values=values)
  flags.DEFINE_bool("list", False, "Print the arms of the plan and their state, and end.", flag_values=values)
  workers = "Number of processes, each with one core and one arm at a time. 1: this process, with all cores."
  default = "Default: the number of cores, or 1 with a GPU or TPU."
  flags.DEFINE_integer("workers", None, f"{workers} {default}", lower_bound=1, flag_values=values)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> Command:
  """Parses a command line. With `--help`, prints the help and exits.

  Raises:
    InputError: a flag is not allowed or missing.
  """
  if any(word in ("--help", "-help", "-h", "--helpfull", "--helpshort") for word in argv[1:]):
    print("\n".join([__doc__ or "", "flags:", *(f"  --{name}\n      {values[name].help}" for name in OWN)]))
    sys.exit(0)
  try:
    specs, given, others = command_line.split(list(argv[1:]))
    rest = values([argv[0], *others])[1:]
  except flags.Error as error:
    raise InputError(" ".join(str(error).split())) from None
  if rest:
    raise InputError(f"unexpected argument {rest[0]!r}; options begin with -- and lists have no spaces")
  if not specs or not specs[-1]:
    raise InputError(
      "--config is missing; a study file, or a name in configs/studies, e.g. --config=synthetic"
    )
  if not values.workdir and not values.list:
    raise InputError("--workdir is missing; the directory of the study")
  command_line.quieten(values)
  return Command(specs[-1], dict(given), values)


def wanted(study: Study, only: Sequence[str]) -> list[str]:
  """The names `cell/arm` that match a pattern; all without patterns.

  Raises:
    InputError: a pattern matches nothing.
  """
  every = [f"{cell.name}/{arm.name}" for cell in study.cells for arm in cell.arms]
  matches = lambda name, pattern: fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}/")
  for pattern in only:
    if not any(matches(name, pattern) for name in every):
      cells = ", ".join(cell.name for cell in study.cells)
      raise InputError(f"--only={pattern}: there is no such cell or arm; cells: {cells}")
  return [name for name in every if not only or any(matches(name, pattern) for pattern in only)]


def main(command: Command) -> None:
  """Trains the arms that are wanted and not finished, and says what failed."""
  from colearn_jax.studies import (
    arms,
    folds,
    plans,
    schedule,
    summary,
  )  # loads JAX; errors in flags come first

  values, spec = command.flags, command.spec
  study = plans.load(spec)
  names = wanted(study, values.only)
  workdir = Path(values.workdir).expanduser().absolute() if values.workdir else None
  if values.list:
    print(summary.listing(study, names, workdir))
    return
  assert workdir is not None
  shown = plans.claim(study, command.given, workdir)
  metrics = {cell["name"]: cell["metric"] for cell in shown["cells"]}
  every = [schedule.Job(cell, arm, metrics[cell.name]) for cell in study.cells for arm in cell.arms]
  every = [job for job in every if job.name in names]
  todo = [job for job in every if not arms.is_finished(workdir / job.name)]
  workers = min(values.workers or schedule.default_workers(), max(len(todo), 1))
  say = functools.partial(print, file=sys.stderr, flush=True)
  progress = schedule.Progress(workdir, every, workers, say)
  if len(todo) < len(every):
    say(f"{len(every) - len(todo)} of {len(every)} arms are finished already")
  if workers == 1:
    errors = schedule.here(todo, progress, command.given)
  else:
    errors = schedule.in_processes(todo, progress, command.given, spec)
  print(summary.table(shown, workdir))
  print(f"\nEverything is in {workdir}")
  lines = []
  if errors:
    again = ["--config=" + spec, "--workdir=" + str(values.workdir), "--only=" + ",".join(errors)]
    again += [f"--config.{key}={value}" for key, value in command.given.items()]
    lines = [f"{len(errors)} of {len(every)} arms failed:"]
    lines += [f"  {name}: {error}" for name, error in errors.items()]
    lines += ["rerun them: python -m colearn_jax.study " + shlex.join(again)]
  for cell in study.cells:
    try:
      folds.check(workdir / cell.name, [arm.name for arm in cell.arms])
    except InputError as error:
      lines.append(str(error))
  if lines:
    sys.exit("\n".join(lines))


if __name__ == "__main__":
  define()
  try:
    app.run(main, flags_parser=parse)
  except InputError as error:
    sys.exit(str(error))
  except KeyboardInterrupt:
    print("interrupted; the same command resumes", file=sys.stderr)
    sys.exit(130)
