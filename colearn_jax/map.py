"""Maps a scene: `python -m colearn_jax.map --model=DIR --input='S2_2023*.tif' --out=map.tif`.

DIR is a folder that `colearn_jax.export` wrote. The map is a cloud-optimised GeoTIFF of classes or values.
Beside it are their confidence (`map_confidence.tif`) and a picture (`map.png`). The same command continues a
map that was interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from colearn_jax.parallel import memory
from colearn_jax.types import InputError


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line. InputError if an argument is wrong."""
  parser = argparse.ArgumentParser(prog="python -m colearn_jax.map", description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--model", required=True, help="folder of an exported model")
  inputs = "GeoTIFFs, one a date or one with all; STAC items (.json); or one cube (.zarr, .nc); also patterns"
  add("--input", required=True, nargs="+", help=inputs)
  add("--out", required=True, help="GeoTIFF to write, with .tif")
  add(
    "--bands",
    help="names of the bands in each file, in order, e.g. B2,B3,B4; replaces the names in the files",
  )
  add("--nodata", help="stored number that means nothing is known, or none; default: what the files say")
  add("--scale", type=float, help="a value is stored number * scale + offset; default: what the files say")
  add("--offset", type=float, help="see --scale")
  add("--date", default="", help="day that the map is for, if the model needs it, e.g. 2023-07-01")
  add("--static", nargs="+", help="files of the same pixels with the static layers that the model needs")
  add("--coverage", type=float, help="of the intervals of values; default: 0.9")
  add(
    "--block", type=int, help="rows and columns that are computed at once; default: by the memory they need"
  )
  add("--workers", type=int, default=1, help="processes of a local Dask cluster; default: 1, without Dask")
  add("--scheduler", help="address of a Dask scheduler whose workers see the same files")
  add("--any-values", action="store_true", help="accept values and years far from those of the training")
  given = parser.parse_args(argv)
  # Read by GDAL when it is first used: its cache would take a twentieth of the memory.
  os.environ.setdefault("GDAL_CACHEMAX", "128")
  from colearn_jax.deploy import maps  # imported here: loads JAX; --help is quick

  listed = lambda text: tuple(text.split(",")) if text else ()
  settings = maps.Settings(
    bands=listed(given.bands),
    nodata=given.nodata,
    scale=given.scale,
    offset=given.offset,
    date=given.date,
    static=tuple(given.static or ()),
    coverage=given.coverage,
    block=given.block,
    workers=given.workers,
    scheduler=given.scheduler,
    any_values=given.any_values,
  )
  with memory.telling("a smaller --block"):
    for path in maps.make(given.model, given.input, given.out, settings):
      print(path)


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    sys.exit(str(error))
