"""The command line: `python -m colearn_jax.main --config=NAME --workdir=DIR [--config.KEY=VALUE]`.

It reads flags, trains the runs of the configuration (`training/run.py`) and prints errors in one line. The
same command resumes a run that was interrupted.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict

import colearn_jax
from colearn_jax import config as config_lib
from colearn_jax import schema, schema_pages
from colearn_jax.types import InputError
from colearn_jax.values import assign, check, from_text, unknown

NO_CONFIG = "--config is missing; a preset or a configuration file, e.g. --config=synthetic"


class Command(NamedTuple):
  """A parsed command line: the configuration, checked and locked, and the other flags."""

  config: ConfigDict
  flags: flags.FlagValues


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags other than `--config`."""
  flags.DEFINE_string("workdir", None, "Work directory of the run.", flag_values=values)
  many = "of a job with several processes. SLURM, Open MPI and Cloud TPU set it automatically."
  flags.DEFINE_string("coordinator", None, f"host:port of process 0 {many}", flag_values=values)
  flags.DEFINE_integer("processes", None, f"Number of processes {many}", flag_values=values)
  flags.DEFINE_integer("process", None, f"Number of this process, from 0, {many}", flag_values=values)


def parse(
  argv: Sequence[str], values: flags.FlagValues = flags.FLAGS, about: str | None = __doc__
) -> Command:
  """Parses and checks a command line. With `--help`, prints the help and exits.

  Args:
    argv: the program's name and its arguments.
    values: the flags of the command, e.g. those of `define`. Their values are set. `--workdir` is required if
      it is one of them.
    about: the first lines of the help.

  Raises:
    InputError: a flag, a key or a value is not allowed.
  """
  try:
    words = flags.FLAGS.read_flags_from_files(list(argv[1:]))
    if any(word in ("--help", "-help", "-h", "--helpfull", "--helpshort") for word in words):
      print(help_text(values, about))
      sys.exit(0)
    specs, given, others = split(words)
    rest = values([argv[0], *others])[1:]
  except flags.Error as error:
    raise InputError(" ".join(str(error).split())) from None
  if rest:
    raise InputError(f"unexpected argument {rest[0]!r}; options begin with -- and lists have no spaces")
  if not specs or not specs[-1]:
    raise InputError(NO_CONFIG)
  _check_early(given)
  workdir = values.workdir if "workdir" in values else None
  if "workdir" in values and not workdir:
    raise InputError("--workdir is missing; the directory of the run")
  config = config_lib.read(specs[-1])
  known = config_lib.settings_of(config)
  for key, text in given:
    if key not in known and not key.startswith("model.encoders."):
      raise InputError(unknown(key, known))
    assign(config, known, key, _value(key, text, known))
  begun = workdir is not None and (Path(workdir).expanduser() / "config.json").is_file()
  # A run that an earlier version began with a key without an effect can be resumed.
  config_lib.validate(config, given=() if begun else [key for key, _ in given], begun=begun)
  quieten(values)
  return Command(config.lock(), values)


def quieten(values: flags.FlagValues) -> None:
  """Hides the logs and warnings of libraries in a command, unless the flag -v is given."""
  if values is flags.FLAGS and values["verbosity"].using_default_value:
    values.verbosity = logging.WARNING  # type: ignore[assignment]  # absl's flags are not typed
    if not sys.warnoptions:
      warnings.simplefilter("ignore")


def split(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str | bool]], list[str]]:
  """Splits the words of a command line into three groups.

  Returns:
    Values of `--config`; keys of `--config.KEY` with their text, or True and False for switches; all other
    words.

  Raises:
    InputError: `--noconfig.KEY` has a value.
  """
  specs: list[str] = []
  given: list[tuple[str, str | bool]] = []
  others: list[str] = []
  rest = list(words)
  while rest:
    word = rest.pop(0)
    dashed, equals, text = word.partition("=")
    name = dashed.removeprefix("-").removeprefix("-") if dashed.startswith("-") else ""
    key = name.partition(".")[2]
    if word == "--":
      return specs, given, [*others, word, *rest]
    if name == "config":
      specs.append(text if equals else rest.pop(0) if rest and not rest[0].startswith("--") else "")
    elif name.startswith("config."):
      switch = key in schema.SCHEMA and isinstance(schema.SCHEMA[key].default, bool)
      follows = not switch and bool(rest) and not rest[0].startswith("--")
      given.append((key, text if equals else rest.pop(0) if follows else True))
    elif name.startswith("noconfig."):
      if equals:
        raise InputError(f"{word} is not allowed; --config.{key}=False")
      given.append((key, False))
    else:
      others.append(word)
  return specs, given, others


def _check_early(given: Sequence[tuple[str, str | bool]]) -> None:
  """Checks keys and values that do not depend on the configuration file, before JAX is loaded."""
  groups = {key.partition(".")[0] for key in schema.SCHEMA if "." in key} - {"loss", "model"}
  for key, text in given:
    if key in schema.SCHEMA and key not in ("method", "model.encoders"):
      check(key, _value(key, text, schema.SCHEMA), schema.SCHEMA[key].rule)
    elif key.partition(".")[0] in groups:
      raise InputError(unknown(key, schema.SCHEMA))


def _value(key: str, text: str | bool, known: Mapping[str, schema.Setting]) -> object:
  """Parses the text of a flag for a key."""
  if key.startswith("model.encoders."):
    name = isinstance(text, str) and not text.lstrip().startswith("{")
    return text if name or isinstance(text, bool) else from_text(text, known["model.encoders"])
  if text is True and not isinstance(known[key].default, bool):
    raise InputError(f"--config.{key} has no value; {known[key].rule.allowed}")
  return text if isinstance(text, bool) else from_text(text, known[key])


def help_text(values: flags.FlagValues, about: str | None = __doc__) -> str:
  """The output of `--help`."""
  own = [f for f in ("workdir", "coordinator", "processes", "process", "ids", "json", "plots") if f in values]
  lines = [f"  --{name}\n      {values[name].help}" for name in own]
  return "\n".join([about or "", "flags:\n", *lines, "", schema_pages.help_text(schema.sections())])


def main(command: Command) -> None:
  """Creates the work directory and trains, see `training.run.run`."""
  values = command.flags
  try:
    Path(values.workdir).expanduser().mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"--workdir={values.workdir}: {error.strerror}; a directory to create") from None
  from colearn_jax.parallel import processes  # loads JAX; errors in flags come first

  processes.initialize(values.coordinator, values.processes, values.process)
  from colearn_jax.training import phases, preemption, run

  phases.of_process().add({"imports": time.monotonic() - colearn_jax.BEGAN})
  try:
    with processes.abort_all_on_error(but=preemption.Preempted), preemption.watch():
      run.run(command.config, values.workdir)
  except preemption.Preempted:
    print("stopped by SIGTERM; the same command resumes from the last checkpoint", file=sys.stderr)
    sys.exit(preemption.EXIT_STATUS)


if __name__ == "__main__":
  define()
  try:
    app.run(main, flags_parser=parse)
  except InputError as error:
    sys.exit(str(error))
  except KeyboardInterrupt:
    print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
    sys.exit(130)
