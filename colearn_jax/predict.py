"""Predicts samples of a file: `python -m colearn_jax.predict --model=DIR --input=FILE --out=FILE`.

DIR is a folder that `colearn_jax.export` wrote. The input is a CSV, Parquet, NPZ, NetCDF or Zarr file whose
columns, arrays or variables have the names of the bands; others are ignored. The output is CSV or Parquet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from colearn_jax.parallel import memory
from colearn_jax.types import InputError


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line. InputError if an argument is wrong."""
  parser = argparse.ArgumentParser(prog="python -m colearn_jax.predict", description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--model", required=True, help="folder of an exported model")
  add("--input", required=True, help="samples: .csv, .parquet, .npz, .nc or .zarr")
  add("--out", required=True, help="file to write: .csv or .parquet")
  add("--coverage", type=float, help="of the intervals of values; default: 0.9")
  add("--nodata", help="stored number that means nothing is known, or none; default: what the file says")
  add("--scale", type=float, help="a value is stored number * scale + offset; default: what the file says")
  add("--offset", type=float, help="see --scale")
  add("--rows", type=int, default=8192, help="samples that are in memory at a time; default: 8192")
  add("--any-values", action="store_true", help="accept values and years far from those of the training")
  given = parser.parse_args(argv)
  from colearn_jax.deploy import predictions, stored  # imported here: loads JAX; --help is quick

  with memory.telling("a smaller --rows"):
    number = predictions.write(
      given.model,
      given.input,
      given.out,
      coverage=given.coverage,
      rows=given.rows,
      any_values=given.any_values,
      decoding=stored.decoding(given.nodata, given.scale, given.offset),
    )
  print(f"{number} predictions in {given.out}")


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    sys.exit(str(error))
