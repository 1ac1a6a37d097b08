"""The command line: `python -m colearn_jax.main --config=configs/NAME.py --workdir=DIR [--config.KEY=VALUE]`.

Flags and errors alone are here; the work is in `train.py`. The same command goes on with a run that stopped.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from colearn_jax import config
from colearn_jax.types import InputError


def define(values: flags.FlagValues = flags.FLAGS, argv: Sequence[str] | None = None) -> None:
  """Defines the flags, for a command line other than the program's own where `argv` is given."""
  help_string = "A configuration file, e.g. configs/lfmc.py or configs/lfmc.py:released."
  config_flags.DEFINE_config_file("config", None, help_string, flag_values=values, sys_argv=argv)
  flags.DEFINE_string("workdir", None, "The directory that the run is left in.", flag_values=values)
  many = "of a job of many processes; SLURM, Open MPI and Cloud TPU tell it by themselves."
  flags.DEFINE_string("coordinator", None, f"host:port of process 0 {many}", flag_values=values)
  flags.DEFINE_integer("processes", None, f"The number {many}", flag_values=values)
  flags.DEFINE_integer("process", None, f"The number of this one {many}", flag_values=values)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> flags.FlagValues:
  """Parses and checks a command line; InputError, in one line, for whatever is wrong with it."""
  config.parse(argv, values)
  if not values.workdir:
    raise InputError("--workdir is missing; the directory that the run is left in")
  begun = (Path(values.workdir).expanduser() / "config.json").is_file()
  config.validate(values.config, begun=begun)
  if values is flags.FLAGS and values["verbosity"].using_default_value:  # -v shows what libraries tell
    values.verbosity = logging.WARNING
    if not sys.warnoptions:
      warnings.simplefilter("ignore")
  return values


def main(values: flags.FlagValues) -> None:
  """Makes the work directory and trains, see `train.run`."""
  try:
    Path(values.workdir).expanduser().mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"--workdir={values.workdir}: {error.strerror}; a directory that can be made") from None
  from colearn_jax.parallel import (
    processes as distributed,  # here: these load everything, and wrong flags are to be told at once
  )

  distributed.initialize(values.coordinator, values.processes, values.process)
  from colearn_jax.training import run as train

  with distributed.together():
    train.run(values.config, values.workdir)


if __name__ == "__main__":
  define()
  try:
    app.run(main, flags_parser=parse)
  except InputError as error:
    sys.exit(str(error))
  except KeyboardInterrupt:
    print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    sys.exit(130)
