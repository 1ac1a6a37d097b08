"""Shows what a training would read: `python -m colearn_jax.inspect --config=NAME [--config.KEY=VALUE]`.

It builds and reads the data as training does, and trains nothing. It prints the task, the classes of each
part and group, each band's figures, and what the parts of a run have in common.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from colearn_jax import main as command_line
from colearn_jax.types import InputError


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags other than `--config`."""
  flags.DEFINE_list("ids", [], "Samples whose values are shown, e.g. s1,s2.", flag_values=values)
  flags.DEFINE_string("json", None, "File to write everything to, as JSON.", flag_values=values)
  flags.DEFINE_string("plots", None, "Directory to write plots to, as PNG.", flag_values=values)


def inspect(config, *, ids: Sequence[str] = (), json: str | None = None, plots: str | None = None) -> dict:
  """Reads the data of a configuration and reports on them.

  Args:
    config: of a training.
    ids: of samples whose values are included.
    json: a file to write the result to.
    plots: a directory to write plots to.

  Returns:
    The result, see `inspection.report.tree`.

  Raises:
    InputError: the configuration does not fit the data, or there is no such sample, library or place.
  """
  # Here, because these load JAX, and wrong flags are told before.
  import tensorflow_datasets as tfds

  from colearn_jax import config as config_lib
  from colearn_jax.data.dataset import open_dataset
  from colearn_jax.data.reader import read_index
  from colearn_jax.inspection import plots as plotting
  from colearn_jax.inspection import report
  from colearn_jax.inspection.scan import scan
  from colearn_jax.storage import files
  from colearn_jax.training import setup

  pyplot = plotting.library() if plots else None
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  modalities = setup.make_modalities(config, dataset)
  index = read_index(dataset)
  rows = report.find_rows(index, ids)
  every = setup.make_runs(config, dataset, index)
  runs = [run for run in every if (run.seed, run.ablation) == (every[0].seed, every[0].ablation)]
  # The groups by which folds are cut may be made of dates or places.
  cut = setup.make_apart(config, index, runs[0].seed).groups
  index = dataclasses.replace(index, groups={**index.groups, **cut})
  described = tfds.builder_from_directory(dataset.path).info.metadata["views"]
  dated = [view for view, facts in described.items() if facts.get("dated")]
  scanned = scan(dataset, modalities, dated)
  found = report.tree(dataset, described, modalities, index, runs, scanned, rows)
  try:
    if json:
      files.write_json(Path(json).expanduser(), found)
    if plots:
      plotting.write(pyplot, Path(plots).expanduser(), dataset, modalities, index, scanned)
  except OSError as error:
    raise InputError(f"cannot write {error.filename or json or plots}: {error.strerror}") from None
  return found


def main(command: command_line.Command) -> None:
  """Prints the report."""
  values = command.flags
  found = inspect(command.config, ids=values.ids, json=values.json, plots=values.plots)
  from colearn_jax.inspection import report

  print(report.text(found))


if __name__ == "__main__":
  define()
  try:
    app.run(main, flags_parser=functools.partial(command_line.parse, about=__doc__))
  except InputError as error:
    sys.exit(str(error))
  except BrokenPipeError:
    sys.exit(1)
