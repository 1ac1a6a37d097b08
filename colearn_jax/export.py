"""Exports the model of one sensor: `python -m colearn_jax.export --workdir=W --modality=S2 --out=DIR`.

The folder predicts with jax and numpy alone, see `deploy/model.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from colearn_jax.types import InputError


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; InputError for whatever is wrong with its arguments."""
  parser = argparse.ArgumentParser(prog="python -m colearn_jax.export", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", required=True, help="work directory of a finished training")
  parser.add_argument("--modality", required=True, help="the sensor, as configured there, e.g. S2_S2VI")
  parser.add_argument("--out", required=True, help="the folder to write, which must not exist")
  parser.add_argument(
    "--runs", help="e.g. seed10_fold0,seed10_fold3; by default all that are no ablations, averaged"
  )
  given = parser.parse_args(argv)
  from colearn_jax.deploy.export import export_sensor  # here: it loads JAX, and --help should be quick

  runs = given.runs.split(",") if given.runs else None
  print(f"exported to {export_sensor(given.workdir, given.modality, given.out, runs)}")


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    sys.exit(str(error))
