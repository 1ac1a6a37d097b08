"""Speed, memory and communication of train steps and of whole runs, as a Markdown table and as JSON.

    python -m benchmarks.suite --out=benchmarks/results/NAME

It runs on a CPU and on accelerators. There are these parts, of which `--only` chooses some:

- `steps`: train steps are timed on the devices of the machine, with several batch sizes and numbers of
  sensors. Each is compared with its roofline: XLA's count of FLOPs and bytes, at the rates of a large matrix
  product and of a copy, which are measured in the same run. XLA counts every operand of every operation as
  moved. The share of the copy's rate can therefore exceed 1 where operands are in a cache.
- `devices`: how computation and communication divide over several devices. This is counted in the compiled
  program for simulated CPU devices, in a process of its own, and is not timed.
- `runs`: ten folds of LFMC on generated rows: one after another, side by side, and as one program.
- `replicas`: ten folds with five seeds as one program. Not measured unless it is named.
- `ring`: steps of 8192 samples with similarities as one matrix, and in blocks. Not measured unless named.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from benchmarks import measure
from colearn_jax import config as config_lib
from colearn_jax.training import run as training
from colearn_jax.types import Modality, Task

OUT = flags.DEFINE_string("out", None, "Path of the table, without .md and .json.")
ONLY = flags.DEFINE_list("only", ["steps", "devices", "runs"], "Which parts are measured.")
EPOCHS = flags.DEFINE_integer("epochs", 10, "Timed epochs of a step case, and epochs of a whole run.")
LARGE = flags.DEFINE_bool("large", None, "Whether TreeSatAI-TS is timed; by default on accelerators.")
LARGE_BATCH = flags.DEFINE_integer("large_batch", 128, "Samples in a batch of TreeSatAI-TS.")
COUNT = flags.DEFINE_string("count", None, "For the program itself: one case of simulated devices.")

# `side by side` is `one after another` where there is one core or an accelerator.
WHOLE = ("one after another", "side by side", "one program")
series = lambda name, steps, bands: Modality(name, (name,), (steps, bands), tuple(map(str, range(bands))))
LFMC = (series("S1_S1Ind", 4, 3), series("S2_S2Ind", 4, 8))
CROPHARVEST = (series("S1", 12, 2), series("S2_S2VI", 12, 12))
TREESAT = (
  Modality("S2_S2mask", ("S2", "S2mask"), (146, 6, 6, 12), tuple(map(str, range(12)))),
  Modality("aerial", ("aerial",), (304, 304, 4), tuple("1234")),
)


@dataclasses.dataclass(frozen=True)
class Case:
  """A train step: its inputs, and its layout over devices.

  Attributes:
    name: in the table.
    modalities: sensors of the samples.
    task: what is predicted.
    values: values of the configuration that differ from the preset.
    rows: number of generated samples.
    config: the preset.
  """

  name: str
  modalities: tuple[Modality, ...]
  task: Task
  values: dict
  rows: int = 2320
  config: str = "configs/lfmc.py:released"

  def load(self):
    """The recipe, state and table of this case."""
    config = config_lib.load(self.config, self.values)
    return measure.example(config, self.task, self.modalities, self.rows)


REGRESSION, CLASSES = Task("regression", ("y",)), Task("multiclass", tuple("abcdefghij"))


def timed_cases() -> list[Case]:
  """The cases that are timed: the shapes of the data sets with several batch sizes and numbers of sensors."""
  size = lambda n: {"train.batch_size": n}
  more = [series(f"S{k}", 4, 8) for k in range(3, 5)]
  out = [Case("LFMC", LFMC, REGRESSION, size(n)) for n in (32, 128, 512)]
  out += [Case(f"LFMC, {2 + k} modalities", (*LFMC, *more[:k]), REGRESSION, size(128)) for k in (1, 2)]
  out += [Case("CropHarvest", CROPHARVEST, CLASSES, size(n)) for n in (128, 1024)]
  out += [Case("CropHarvest, bfloat16", CROPHARVEST, CLASSES, size(128) | {"model.dtype": "bfloat16"})]
  large = jax.default_backend() != "cpu" if LARGE.value is None else LARGE.value
  if large:
    labels = Task("multilabel", tuple(map(str, range(15))))
    values = size(LARGE_BATCH.value) | {"model.dtype": "bfloat16"}
    rows = 4 * LARGE_BATCH.value
    out += [Case("TreeSatAI-TS, bfloat16", TREESAT, labels, values, rows, "configs/treesat_ts.py:released")]
  return out


def ring_cases() -> list[Case]:
  """Steps of large batches, with both ways to compute similarities across devices."""
  values = lambda form: {"train.batch_size": 8192, "loss.similarity": form}
  return [Case(f"LFMC, {form}", LFMC, REGRESSION, values(form), rows=8192) for form in ("dense", "ring")]


def counted_cases() -> dict[str, tuple[int, Case]]:
  """Layouts over simulated devices by name: the number of devices, and the case."""
  layout = lambda **values: {f"mesh.{axis}": size for axis, size in values.items()}
  out = {f"data={n}": (n, Case("LFMC", LFMC, REGRESSION, {"train.batch_size": 128})) for n in (1, 2, 4, 8)}
  out["fsdp=8"] = 8, Case("LFMC", LFMC, REGRESSION, {"train.batch_size": 128} | layout(data=1, fsdp=8))
  return out | {
    f"data=8, {case.values['loss.similarity']}": (8, dataclasses.replace(case, name="LFMC"))
    for case in ring_cases()
  }


def time_step(case: Case) -> dict:
  """Times a case on the devices of the machine and compares it with its roofline."""
  recipe, state, table = case.load()
  dtype = case.values.get("model.dtype", "float32")
  compute, copy = measure.ceilings(dtype)
  costs = measure.step_costs(measure.compiled_step(recipe, state, table))
  first, times = measure.epoch_seconds(recipe, state, table, EPOCHS.value)
  step = float(np.median(times))
  bounds = {"FLOPs": costs["flops"] / compute, "bytes": costs["bytes"] / copy}
  return {
    "case": case.name,
    "batch": recipe.batch_size,
    "modalities": len(case.modalities),
    "samples_per_second": case.rows / -(-case.rows // recipe.batch_size) / step,
    "step_ms": 1e3 * step,
    "first_epoch_seconds": first,
    **costs,
    **{f"share_of_{name}": bound / step for name, bound in bounds.items()},
  }


def count(name: str) -> dict:
  """XLA's count for one device's part of a step, in a layout over simulated devices."""
  devices, case = counted_cases()[name]
  env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
  command = [sys.executable, "-m", "benchmarks.suite", f"--count={name}"]
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  if done.returncode:
    raise RuntimeError(done.stderr)
  batch = case.values["train.batch_size"]
  return {"case": case.name, "layout": name, "devices": devices, "batch": batch} | json.loads(done.stdout)


def whole_run(how: str, directory: Path, seeds: tuple[int, ...] = (10,)) -> dict:
  """Ten folds of LFMC's size for a fixed number of epochs: data, training, checkpoints and evaluation.

  Args:
    how: one of `WHOLE`.
    directory: new, for the data and the run.
    seeds: of the folds. Each adds ten.
  """
  from colearn_jax.datasets.lfmc.dummy import write_dummy

  directory.mkdir(parents=True)
  write_dummy(directory / "training_features.csv", rows=2578, sites=150)
  values = {
    "data.manual_dir": str(directory),
    "data.data_dir": str(directory / "data"),
    "protocol.seeds": seeds,
    "train.replicas": how == "one program",
    "train.workers": int(how == "one after another"),
    "train.max_epochs": EPOCHS.value,
    "train.patience": EPOCHS.value,
  }
  began = time.perf_counter()
  summary = training.run(config_lib.load("configs/lfmc.py:released", values), directory / "run")
  took = time.perf_counter() - began
  runs = summary.timing["runs"].values()
  epochs = sum(run["epoch"] for run in runs)
  in_training = (
    max(run["seconds"] for run in runs) if how == "one program" else sum(r["seconds"] for r in runs)
  )
  phases = summary.timing["phases"]
  return {
    "case": f"ten folds of LFMC{f' x {len(seeds)} seeds' if len(seeds) > 1 else ''}, {how}",
    "seconds": took,
    "training_seconds": in_training,
    "compilation_seconds": phases["tracing"] + phases["compilation"],
    "epochs": epochs,
    "samples_per_second": 2320 * epochs / took,
  }


def _table(rows: list[dict], columns: dict[str, tuple[str, str]]) -> list[str]:
  head = [title for title, _ in columns.values()]
  lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
  for row in rows:
    lines.append("| " + " | ".join(format(row[key], form) for key, (_, form) in columns.items()) + " |")
  return [*lines, ""]


def markdown(results: dict) -> str:
  """The tables."""
  counts = ("flops", "bytes", "peak_bytes", "temporary_bytes", "collective_bytes")
  mega = lambda rows: [row | {name: row[name] / 1e6 for name in counts} for row in rows]
  lines = [f"# {results['device']}", "", results["machine"], ""]
  cost = {"flops": ("MFLOP", ",.0f"), "bytes": ("MB moved", ",.0f"), "peak_bytes": ("MB held", ",.0f")}
  if results["steps"]:
    columns = {
      "case": ("train step", ""),
      "batch": ("batch", "d"),
      "samples_per_second": ("samples/s", ",.0f"),
      "step_ms": ("ms a step", ".2f"),
      **cost,
      "share_of_FLOPs": ("of the product's rate", ".0%"),
      "share_of_bytes": ("of the copy's rate", ".0%"),
    }
    lines += _table(mega(results["steps"]), columns)
  if results["devices"]:
    columns = {
      "case": ("a device's part, counted", ""),
      "layout": ("layout", ""),
      "batch": ("global batch", "d"),
      **cost,
      "temporary_bytes": ("MB of it temporary", ",.1f"),
      "collective_bytes": ("MB through collectives", ",.2f"),
    }
    lines += _table(mega(results["devices"]), columns)
  if results["runs"]:
    columns = {
      "case": ("whole run", ""),
      "epochs": ("epochs", "d"),
      "seconds": ("seconds, all", ".1f"),
      "training_seconds": ("of them training", ".1f"),
      "compilation_seconds": ("tracing and compilation", ".1f"),
      "samples_per_second": ("samples/s", ",.0f"),
    }
    lines += _table(results["runs"], columns)
  return "\n".join(lines)


def main(_) -> None:
  """Measures, prints the tables, and writes them if `--out` is given."""
  if COUNT.value:
    step = measure.compiled_step(*counted_cases()[COUNT.value][1].load())
    print(json.dumps(measure.step_costs(step)))
    return
  compute, copy = measure.ceilings()
  machine = (
    f"{jax.device_count()} device(s), {os.cpu_count()} processor cores ({platform.machine()}), jax "
    f"{jax.__version__}; {compute / 1e9:,.0f} GFLOP/s in float32 products, {copy / 1e9:,.0f} GB/s copying"
  )
  if jax.default_backend() != "cpu":
    machine += f", {measure.ceilings('bfloat16')[0] / 1e9:,.0f} GFLOP/s in bfloat16"
  results = {
    "device": jax.devices()[0].device_kind,
    "machine": machine,
    "steps": [],
    "devices": [],
    "runs": [],
  }
  if "steps" in ONLY.value:
    results["steps"] += [time_step(case) for case in timed_cases()]
  if "ring" in ONLY.value:
    results["steps"] += [time_step(case) for case in ring_cases()]
  if "devices" in ONLY.value:
    results["devices"] = [count(name) for name in counted_cases()]
  with tempfile.TemporaryDirectory() as directory:
    if "runs" in ONLY.value:
      results["runs"] += [whole_run(how, Path(directory) / how) for how in WHOLE]
    if "replicas" in ONLY.value:
      results["runs"].append(whole_run("one program", Path(directory) / "replicas", (10, 11, 12, 13, 14)))
  text = markdown(results)
  print(text)
  if OUT.value:
    Path(OUT.value).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{OUT.value}.md").write_text(text)
    Path(f"{OUT.value}.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
