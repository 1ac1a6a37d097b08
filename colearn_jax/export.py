"""Exports the model of one sensor: `python -m colearn_jax.export --workdir=W --modality=S2 --out=DIR`.

The exported folder can be used with jax, numpy and flatbuffers alone, see `deploy/model.py`. Its uncertainty
is fitted on the validation parts of the runs, which are read again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from colearn_jax.types import InputError


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line. InputError if an argument is wrong."""
  parser = argparse.ArgumentParser(prog="python -m colearn_jax.export", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", required=True, help="work directory of a finished training")
  parser.add_argument(
    "--modality", required=True, help="the sensor as configured in the training, e.g. S2_S2VI"
  )
  parser.add_argument("--out", required=True, help="folder to write, which must not exist")
  parser.add_argument(
    "--runs", help="runs to average, e.g. seed10_fold0,seed10_fold3; default: all except ablations"
  )
  parser.add_argument(
    "--no-uncertainty", action="store_true", help="do not read the data again to fit the uncertainty"
  )
  parser.add_argument("--onnx", action="store_true", help="also write the model as ONNX")
  given = parser.parse_args(argv)
  from colearn_jax.deploy.export import export_sensor  # imported here: loads JAX; --help is quick

  runs, held_back = given.runs.split(",") if given.runs else None, None
  if not given.no_uncertainty:
    from colearn_jax.training.held_back import held_back as predict

    def held_back(model):
      try:
        return predict(given.workdir, model)
      except InputError as error:
        raise InputError(f"{error}; --no-uncertainty exports without calibration and intervals") from None

  out = export_sensor(given.workdir, given.modality, given.out, runs, held_back, onnx=given.onnx)
  print(f"exported to {out}")


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    sys.exit(str(error))
