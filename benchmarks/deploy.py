"""Exported models: size, cold start, throughput of a core, and a scene mapped within bounded memory.

    python -m benchmarks.deploy [--rounds=9] [--starts=5] [--scene=1024] [--models=lfmc,scene] [--minutes=20]

The models have random values. A cold start is the time from the first line of a new process to the first
prediction. Throughput is that of `Model.predict` on one core, with preparation, for batches of raw values. If
PyTorch is installed, the forward pass of the same architecture (`torch_encoders.py`: normalisation, encoder,
head) is timed with one thread in the same run, in turns. The scene has 12 dates of 10 bands, a GeoTIFF each;
reading it alone is the floor of a map's time. With `--minutes` both are stopped after so long, and what was
done until then is counted. Where others use the machine, seconds of the processor tell more than the clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from colearn_jax import load_model, methods
from colearn_jax.deploy import blocks
from colearn_jax.deploy.export import save_model
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.predictor import flat, one_sensor
from colearn_jax.methods.architecture import Architecture
from colearn_jax.types import Modality, Task

try:
  import torch

  from benchmarks import torch_encoders
except ModuleNotFoundError as error:
  if error.name != "torch":
    raise
  torch_encoders = None

CLASSES = lambda n: Task("multiclass", tuple(f"class{k}" for k in range(n)))
MODELS = {  # shape of a sample, encoder, task, samples in a batch
  "lfmc": ((4, 8), "gru", Task("regression", ("LFMC",), "%"), 1024),
  "cropharvest": ((12, 12), "tempcnn", CLASSES(9), 1024),
  "treesat_ts": ((146, 6, 6, 12), "pse_ltae", Task("multilabel", CLASSES(15).outputs), 16),
  "scene": ((12, 10), "mlp", CLASSES(9), 4096),
}
WIDTH = 128
DAYS = [str(np.datetime64("2023-01-15") + np.timedelta64(30 * k, "D")) for k in range(12)]

START = """
import time
began = time.perf_counter()
import sys
import numpy as np
from colearn_jax import load_model
imported = time.perf_counter()
model = load_model(sys.argv[1])
loaded = time.perf_counter()
model.predict(np.zeros((1, *model.modality.shape), np.float32))
print(imported - began, loaded - imported, time.perf_counter() - loaded)
"""

READ = """
import os, sys
os.environ.setdefault("GDAL_CACHEMAX", "128")  # as the command does
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.deploy import blocks, scenes
from colearn_jax.deploy.stacks import Window
scene = scenes.open_scene(sys.argv[2:], tuple(sys.argv[1].split(",")), Decoding())
done = 0
size, grid = blocks.size(12, 10), scene.grid
for row in range(0, grid.height, size):
  for column in range(0, grid.width, size):
    window = Window(row, column, min(size, grid.height - row), min(size, grid.width - column))
    scene.read(window)
    done += window.height * window.width
    print(done, flush=True)
"""


def make(name: str, out: Path) -> Path:
  """Exports a model with random values."""
  shape, encoder, task, _ = MODELS[name]
  architecture = Architecture({"S2": shape}, {"S2": {"model_type": encoder}}, task, emb_dim=WIDTH)
  method = methods.METHODS["individual"]()
  _, params, stats = nnx.split(method.build(architecture, rngs=nnx.Rngs(0)), nnx.Param, nnx.BatchStat)
  constants = {"offset": np.zeros(shape[-1], np.float32), "scale": np.ones(shape[-1], np.float32)}
  whole = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
  weights = flat(whole | {"values": {"inputs": {"S2": constants}}})
  modality = Modality("S2", ("S2",), shape, tuple(f"b{k}" for k in range(shape[-1])))
  function, _ = one_sensor(method, architecture, "S2")
  return save_model(Model(function, {"seed10_fold0": weights}, modality, task), out)


def cold_starts(folder: Path, number: int) -> list[list[float]]:
  """Seconds of imports, loading and the first prediction, in each of several new processes."""
  command = [sys.executable, "-c", START, str(folder)]
  run = lambda: subprocess.run(command, check=True, capture_output=True, text=True).stdout
  return [list(map(float, run().split())) for _ in range(number)]


def theirs(name: str, x: np.ndarray) -> Callable[[], object]:
  """The forward pass in PyTorch with one thread."""
  shape, encoder, task, _ = MODELS[name]
  torch.set_num_threads(1)
  module = torch_encoders.make(encoder, shape[0], shape[-1], WIDTH)
  module = torch.nn.Sequential(module, torch.nn.Linear(WIDTH, len(task.outputs))).eval()
  offset, scale = torch.zeros(shape[-1]), torch.ones(shape[-1])

  def forward():
    with torch.inference_mode():
      return module(torch.nan_to_num((torch.from_numpy(x) - offset) / scale))

  return forward


def race(calls: dict[str, Callable[[], object]], rounds: int, seconds: float = 0.5) -> dict[str, list[float]]:
  """Seconds of one call of each program in each round; they take turns."""
  counts = {}
  for who, call in calls.items():
    call(), call()
    began = time.perf_counter()
    call()
    counts[who] = max(1, round(seconds / (time.perf_counter() - began)))
  out: dict[str, list[float]] = {who: [] for who in calls}
  for _ in range(rounds):
    for who, call in calls.items():
      began = time.perf_counter()
      for _ in range(counts[who]):
        call()
      out[who].append((time.perf_counter() - began) / counts[who])
  return out


def measure(name: str, folder: Path, rounds: int, starts: int) -> list[str]:
  """A line of the table."""
  make(name, folder)
  size = sum(path.stat().st_size for path in folder.iterdir())
  each = np.array(cold_starts(folder, starts))
  imports, load, first = each[each.sum(1).argmin()]
  model, (shape, encoder, _, batch) = load_model(folder), MODELS[name]
  x = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
  calls = {"jax": lambda: model.predict(x)} | ({"torch": theirs(name, x)} if torch_encoders else {})
  took = race(calls, rounds)
  rate = {who: batch / min(own) for who, own in took.items()}
  cells = [name, encoder, f"{size / 1e6:.2f}", f"{imports + load + first:.2f}", f"{imports:.2f}"]
  cells += [f"{load:.2f}", f"{first:.2f}", f"{rate['jax']:,.0f}"]
  if torch_encoders:
    ratios = sorted(t / j for j, t in zip(took["jax"], took["torch"]))
    cells += [f"{rate['torch']:,.0f}", f"{ratios[len(ratios) // 2]:.2f}"]
  return cells


def generate(folder: Path, size: int) -> tuple[list[str], tuple[str, ...]]:
  """Writes a scene of 12 dates and 10 bands, a tiled GeoTIFF each; its files and its bands.

  It has fields of 16 x 16 pixels with noise, of two fifths of their size when compressed. All dates are
  copies of the first one, if they are not there already.
  """
  import rasterio

  bands, rng = MODELS["scene"][0][-1], np.random.default_rng(0)
  named = tuple(f"b{k}" for k in range(bands))
  profile = {"driver": "GTiff", "height": size, "width": size, "count": bands, "dtype": "int16", "nodata": -1}
  profile |= {
    "tiled": True,
    "blockxsize": 256,
    "blockysize": 256,
    "compress": "deflate",
    "interleave": "pixel",
  }
  profile |= {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 600000, 0, -10, 5300000)}
  fields = np.kron(rng.integers(0, 3000, (bands, 16, 16), dtype=np.int16), np.ones((1, 16, 16), np.int16))
  tile = fields + rng.integers(0, 4, (bands, 256, 256), dtype=np.int16)
  files = [folder / f"S2_{day}.tif" for day in DAYS]
  if not files[-1].exists():
    with rasterio.open(files[0], "w", **profile) as file:
      for _, window in file.block_windows(1):
        file.write(tile[:, : window.height, : window.width], window=window)
      file.descriptions = named
    for other in files[1:]:
      shutil.copyfile(files[0], other)
  return list(map(str, files)), named


@dataclasses.dataclass(frozen=True)
class Spent:
  """Seconds of the clock and of the processor, greatest memory in MiB, and output of a command."""

  seconds: float
  processor: float
  memory: float
  output: str
  finished: bool


def spent(command: list[str], limit: float) -> Spent:
  """Runs a command, which is stopped after so many seconds."""
  began, stopped = time.perf_counter(), False
  with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
    process = subprocess.Popen(command, stdout=out, stderr=err)
    while not (found := os.wait4(process.pid, os.WNOHANG))[0]:
      time.sleep(0.05)
      if not stopped and time.perf_counter() - began > limit:
        stopped = True
        process.kill()
    _, status, usage = found
    process.returncode = os.waitstatus_to_exitcode(status)
    out.seek(0), err.seek(0)
    if process.returncode and not stopped:
      raise RuntimeError(err.read())
    used = usage.ru_utime + usage.ru_stime
    return Spent(time.perf_counter() - began, used, usage.ru_maxrss / 1024, out.read(), not stopped)


def measure_map(folder: Path, size: int, limit: float) -> None:
  """Prints what a map of a scene takes, beside reading the scene alone."""
  files, bands = generate(folder, size)
  model, megabytes = make("scene", folder / "model"), sum(map(os.path.getsize, files)) / 1e6
  print(f"\nscene of {size} x {size} pixels, 12 dates, 10 bands, {megabytes:.0f} MB", flush=True)

  def tell(what: str, own: Spent, pixels: int) -> None:
    print(
      f"{what}: {pixels:,} of {size * size:,} pixels in {own.seconds:.0f} s, {own.processor:.0f} s of the "
      f"processor; {pixels / own.seconds:,.0f} a second, {pixels / own.processor:,.0f} a second of the "
      f"processor; at most {own.memory:.0f} MiB" + ("" if own.finished else "; stopped"),
      flush=True,
    )

  read = spent([sys.executable, "-c", READ, ",".join(bands), *files], limit)
  tell("read", read, int(read.output.split()[-1]))
  command = [sys.executable, "-m", "colearn_jax.map", f"--model={model}", "--input", *files]
  mapped = spent([*command, f"--out={folder / 'map.tif'}", "--any-values"], limit)
  side = blocks.size(12, 10)
  done = len(list(folder.glob(".map.tif.blocks/block*.npz"))) * side * side
  tell("mapped", mapped, size * size if mapped.finished else min(done, size * size))
  written = {path.name: path.stat().st_size for path in sorted(folder.glob("map*")) if path.is_file()}
  print(", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in written.items()), flush=True)


def main() -> None:
  """Prints the table, a line as soon as it is measured, then the scene."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--models", default=",".join(MODELS), help="some of them; default: all")
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--starts", type=int, default=5)
  parser.add_argument("--scene", type=int, default=1024, help="rows and columns; 0: no scene")
  parser.add_argument("--minutes", type=float, default=1e6, help="stop reading and mapping after so long")
  parser.add_argument("--folder", type=Path, help="for the scene, which is kept; default: a temporary one")
  given = parser.parse_args()
  cores = os.sched_getaffinity(0)
  print(f"{len(cores)} cores, load {os.getloadavg()[0]:.1f} before the run; jax {jax.__version__}\n")
  header = ["model", "encoder", "MB", "cold start s", "imports", "load", "first", "samples/s a core"]
  header += ["PyTorch", "ratio"] if torch_encoders else []
  line = lambda cells: print("| " + " | ".join(cells) + " |", flush=True)
  names = [name for name in given.models.split(",") if name]
  if names:
    line(header)
    line(["---"] * 2 + ["---:"] * (len(header) - 2))
  with tempfile.TemporaryDirectory() as folder:
    os.sched_setaffinity(0, {min(cores)})  # before JAX counts them
    for name in names:
      line(measure(name, Path(folder) / name, given.rounds, given.starts))
    os.sched_setaffinity(0, cores)
    if given.scene:
      measure_map(given.folder or Path(folder), given.scene, 60 * given.minutes)


if __name__ == "__main__":
  main()
