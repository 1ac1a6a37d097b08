"""Imports settings and checkpoints of the released PyTorch program, and exports our models to it.

    python -m colearn_jax.interop.released config FILE.yaml OUT.py
    python -m colearn_jax.interop.released checkpoint FILE.yaml FILE.ckpt WORKDIR --statistics=FILE.json
    python -m colearn_jax.interop.released export WORKDIR OUT.npz --run=seed10_fold0

PyTorch is not needed. `README.md` in this folder describes the files, and how to load an exported model in
PyTorch.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax import encoders
from colearn_jax.datasets import build
from colearn_jax.evaluation.results import Results, Scores
from colearn_jax.interop.state_dict import UNUSED_HEAD, fill, state_dict
from colearn_jax.interop.yaml_settings import Released, config_text, make_config, read_yaml
from colearn_jax.methods.configured import make_network
from colearn_jax.nn import random
from colearn_jax.storage import models
from colearn_jax.storage.files import read_json, replacing, write_json
from colearn_jax.types import Description, InputError, Modality, Task, join_views, resolve_views
from colearn_jax.weights import torch_file

KINDS = {
  "mse": "regression", "norm-mse": "regression", "ce": "multiclass", "cross-entropy": "multiclass",
  "crossentropy": "multiclass", "bce": "multilabel",
}  # fmt: skip
PREFIX = "modality_encoders_unique."  # every state dict has tensors with this prefix


def convert_config(yaml_path: str | Path, out: str | Path, ignore: Collection[str] = ()) -> list[str]:
  """Writes the configuration file `out` and returns notes for the user.

  Raises:
    InputError: the settings are unknown, or the configuration is not valid.
  """
  released = read_yaml(yaml_path, ignore)
  config_lib.validate(make_config(released))
  with replacing(out) as file:
    file.write(config_text(released, Path(yaml_path).name))
  return released.notes


def read_state_dict(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int, list[str]]:
  """Reads the tensors of a Lightning checkpoint, or of a file with a state dict alone.

  Returns:
    The model's tensors by their PyTorch names; tensors outside of the model (`criteria.weight`); the epoch, 0
    if unknown; notes for the user.

  Raises:
    InputError: see `torch_file.read`; or the file has no model of the released program.
  """
  content = torch_file.read(path)
  epoch, notes = 0, []
  if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
    epoch = int(content.get("epoch") or 0)
    content = content["state_dict"]
  if not isinstance(content, dict) or not all(isinstance(a, np.ndarray) for a in content.values()):
    raise InputError(f"{path} holds no state dict: a tensor for each name, alone or under 'state_dict'")
  prefix = next((name.split(PREFIX)[0] for name in content if PREFIX in name), None)
  if prefix is None:
    raise InputError(f"{path} holds no model of the released program: no tensor's name has {PREFIX}")
  own, extra = {}, {}
  for name, tensor in content.items():
    if name.endswith("criteria.weight"):
      extra["criteria.weight"] = tensor
    elif "awl.params" in name:
      notes.append(f"{name} is dropped: learnt weights of the loss terms are needed in training only")
    else:
      if name.startswith(f"{prefix}{UNUSED_HEAD}."):
        notes.append(f"{name} is dropped: no output depends on it")
      own[name.removeprefix(prefix)] = tensor
  return own, extra, epoch, notes


def _modalities(released: Released) -> tuple[list[Modality], Task | None]:
  """The sensors; and the task, if the data set is one of ours, else None."""
  name, out = str(released.values.get("data.name", "")), []
  known = build.describe(name) if name in build.names() else None
  for m in released.values["data.modalities"]:
    said = released.shapes[m]
    if known is not None:
      views = resolve_views(m, known.shapes)
      shape = join_views(m, known.shapes, views)
      bands = tuple(band for view in views for band in known.views[view]["bands"])
    elif "num_features" in said:
      views = (m,)
      shape = tuple(said[size] for size in encoders.SIZES if size in said)
      bands = tuple(f"band {i + 1}" for i in range(shape[-1]))
    else:
      raise InputError(
        f"modality {m}: its time steps and bands are unknown; data set {name!r} is none of "
        f"{', '.join(build.names())}, so the settings need T and bands in the group of its encoder"
      )
    if any(said.get(size, n) != n for size, n in zip(encoders.SIZES, (shape[0], shape[-1]))):
      raise InputError(f"modality {m}: the settings say {said}, data set {name} has shape {shape}")
    out.append(Modality(m, views, shape, bands))
  return out, known and known.task


def _task(released: Released, known: Task | None, outputs: Sequence[str] | None, count: int) -> Task:
  if known:
    kind, names = known.kind, known.outputs
  else:
    name = str(released.values.get("loss name", "")).lower()
    if name not in KINDS:
      raise InputError(f"loss: {name!r} is not allowed for an unknown data set; one of: {', '.join(KINDS)}")
    kind, names = KINDS[name], tuple(f"output {i + 1}" for i in range(count))
  names = tuple(outputs) if outputs else names
  if len(names) != count:
    raise InputError(
      f"the checkpoint has {count} outputs, not {len(names)}: {', '.join(names)}; set --outputs"
    )
  return Task(kind, names, known.unit if known else "")


def read_statistics(path: str | Path, modalities: Sequence[Modality]) -> dict[str, dict[str, np.ndarray]]:
  """Reads the normalisation of the inputs from JSON, `{modality or view: {"mean": [...], "std": [...]}}`.

  Returns:
    `{m: {"offset": [C], "scale": [C]}}`.

  Raises:
    InputError: the file cannot be read; numbers of a modality are missing, or not one per band; or a standard
      deviation is not positive.
  """
  try:
    given = json.loads(Path(path).read_text(encoding="utf-8"))
    given = {
      m: {k: np.asarray(s[k], np.float32).reshape(-1) for k in ("mean", "std")} for m, s in given.items()
    }
  except OSError as error:
    raise InputError(f"{path} cannot be read: {error.strerror}") from None
  except (ValueError, TypeError, KeyError, AttributeError):
    form = '{"S1": {"mean": [...], "std": [...]}}, one number per band'
    raise InputError(f"{path} is not of the form {form}") from None
  out = {}
  for m in modalities:
    views = resolve_views(m.name, given) if m.name not in given else (m.name,)
    mean, std = (np.concatenate([given[view][k] for view in views]) for k in ("mean", "std"))
    if not len(mean) == len(std) == len(m.bands):
      raise InputError(
        f"{path}: {m.name} has {len(mean)} means and {len(std)} deviations, {len(m.bands)} bands"
      )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
      raise InputError(f"{path}: {m.name} needs finite means and deviations above 0")
    out[m.name] = {"offset": mean, "scale": std}
  return out


def _task_constants(task: Task, released: Released, extra: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Constants of the task's loss, see `objectives.task.task_loss`. Prediction does not use them."""
  count = len(task.outputs)
  if task.kind == "regression":
    number = lambda key, default: np.full(count, released.values.get(key, default), np.float32)
    return {"mean": number("loss mean", 0.0), "std": number("loss std", 1.0)}
  if task.kind == "multilabel":
    return {}
  weights = np.asarray(extra.get("criteria.weight", np.ones(count)), np.float32)
  if weights.shape != (count,):
    raise InputError(f"criteria.weight has shape {weights.shape}, there are {count} classes")
  return {"class_weights": weights}


def import_checkpoint(
  yaml_path: str | Path,
  path: str | Path,
  workdir: str | Path,
  statistics: str | Path,
  *,
  run: str = "seed10_fold0",
  outputs: Sequence[str] | None = None,
  ignore: Collection[str] = (),
) -> list[str]:
  """Converts a `.ckpt` or `.pt` file to a finished run in a work directory, which `load_model` reads.

  Several folds can be imported into one work directory, each as one run. Training there with the same
  configuration treats them as finished and evaluates them.

  Args:
    yaml_path: the settings that the model was trained with.
    path: the checkpoint file.
    workdir: a new directory, or one with imported checkpoints of the same settings.
    statistics: see `read_statistics`. The released program stores them outside of the checkpoint.
    run: name of the run, `seed<number>_fold<number>`.
    outputs: names of the model's outputs in order, if it differs from the data set's.
    ignore: see `read_yaml`.

  Returns:
    Notes for the user.

  Raises:
    InputError: the files do not fit each other or the work directory. Nothing is written then.
  """
  numbers = re.fullmatch(r"seed(\d+)_fold(\d+)", run)
  if not numbers:
    raise InputError(f"run {run!r} is not allowed; seed<number>_fold<number>, as in seed10_fold0")
  workdir = Path(workdir).expanduser().absolute()
  released = read_yaml(yaml_path, ignore)
  config = make_config(released)
  if config.data.name in build.names():
    config_lib.validate(config)
  tensors, extra, epoch, notes = read_state_dict(path)
  modalities, known = _modalities(released)
  heads = [
    t for n, t in tensors.items() if re.fullmatch(r"modality_prediction_heads\..*linear_layer\.bias", n)
  ]
  task = _task(released, known, outputs, len(heads[0]) if heads else 0)
  inputs = read_statistics(statistics, modalities)

  network = make_network(config, task, modalities)
  model = nnx.eval_shape(lambda: network.method.build(network.architecture, rngs=random.keys()))
  fill(model, tensors)
  _, *arrays = nnx.split(model, nnx.Param, nnx.BatchStat)
  params, stats = map(nnx.to_pure_dict, arrays)
  values = {"inputs": inputs, "task": _task_constants(task, released, extra)}

  described = Description(config.data.name, task, tuple(modalities))
  imported = _claim(workdir, config, described, run)
  record: dict[str, Any] = {"seed": int(numbers[1]), "fold": int(numbers[2]), "epoch": epoch}
  record |= {"best_epoch": epoch, "best_objective": None, "seconds": 0.0}
  finished = {"params": params, "stats": stats, "values": values}
  models.save(workdir / "checkpoints" / run, finished, record)
  Results(
    dataset=config.data.name,
    task=task.kind,
    method=config.method,
    scores=Scores({}),
    variant=config.loss.variant,
    imported=imported | {run: str(path)},
  ).write(workdir / "results.json")
  return released.notes + notes


def _claim(workdir: Path, config: ConfigDict, described: Description, run: str) -> dict:
  """Writes config.json and dataset.json, or compares them with existing ones; returns the imported runs."""
  wanted = config_lib.to_json(config)
  if (workdir / "results.json").exists():
    summary = Results.read(workdir / "results.json")
    if not summary.imported:
      raise InputError(f"{workdir} holds a training; use another work directory")
    if different := config_lib.differences(read_json(workdir / "config.json"), wanted):
      raise InputError(f"{workdir} holds checkpoints of other settings ({'; '.join(different)})")
    if Description.from_json(read_json(workdir / "dataset.json")) != described:
      raise InputError(f"{workdir} holds checkpoints of other sensors or outputs; see its dataset.json")
    if run in summary.imported:
      raise InputError(f"{workdir} holds {run} already; set another --run, or use another work directory")
    return summary.imported
  if (workdir / "config.json").exists():
    raise InputError(f"{workdir} holds a training; use another work directory")
  write_json(workdir / "config.json", wanted, sealed=True)
  write_json(workdir / "dataset.json", described.to_json(), sealed=True)
  return {}


def export(workdir: str | Path, out: str | Path, run: str) -> dict[str, np.ndarray]:
  """Writes the state dict of a trained model with the released program's names, and its statistics.

  Args:
    workdir: work directory with finished or imported runs.
    out: the `.npz` file. The statistics go to the same name with `.json`, in the format of `read_statistics`.
    run: name of the run, e.g. `seed10_fold0`.

  Returns:
    The state dict.

  Raises:
    InputError: there is no such run, or the released program has no such encoder.
  """
  workdir, out = Path(workdir).expanduser().absolute(), Path(out)
  if not (workdir / "results.json").is_file():
    raise InputError(f"{workdir} holds no finished runs: there is no results.json")
  config = config_lib.restore(read_json(workdir / "config.json"))
  described = Description.from_json(read_json(workdir / "dataset.json"))
  directory = workdir / "checkpoints" / run
  if not directory.is_dir():
    have = ", ".join(sorted(path.name for path in (workdir / "checkpoints").glob("*"))) or "none"
    raise InputError(f"{workdir} has no run {run!r}, have: {have}")
  if out.suffix != ".npz":
    raise InputError(f"{out} is not allowed; a file name that ends in .npz")
  model = models.restore(directory)
  network = make_network(config, described.task, described.modalities)
  tensors = state_dict(network.model(model["params"], model["stats"]))
  if described.task.one_class:
    tensors["criteria.weight"] = np.asarray(model["values"]["task"]["class_weights"])
  try:
    with replacing(out, binary=True) as file:
      np.savez(file, **tensors)  # type: ignore[arg-type]  # no tensor is named allow_pickle
  except OSError as error:
    raise InputError(f"{out} cannot be written: {error.strerror}") from None
  bands = {m: {"mean": c["offset"], "std": c["scale"]} for m, c in model["values"]["inputs"].items()}
  write_json(out.with_suffix(".json"), bands)
  return tensors


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(prog="colearn_jax.interop.released", description=__doc__.split("\n")[0])
  commands = parser.add_subparsers(dest="command", required=True)
  listed = lambda text: [name.strip() for name in text.split(",") if name.strip()]
  config = commands.add_parser("config", help="converts a YAML file to a configuration file")
  ckpt = commands.add_parser("checkpoint", help="converts a .ckpt or .pt file to a finished run")
  back = commands.add_parser("export", help="converts a finished run to a state dict for PyTorch")
  for command in (config, ckpt):
    command.add_argument("yaml", help="the released program's settings")
    command.add_argument("--ignore", type=listed, default=[], help="settings to skip: a.b,c")
  config.add_argument("out", help="configuration file to write, a .py file for --config=")
  ckpt.add_argument("checkpoint", help="a .ckpt file of Lightning, or a .pt file with a state dict")
  ckpt.add_argument("workdir", help="work directory to write to, for colearn_jax.load_model")
  ckpt.add_argument(
    "--statistics",
    help='JSON file with the statistics of the inputs, {"S1": {"mean": [...], "std": [...]}}; the checkpoint '
    "does not have them, the released program stores them in stats/ with the data",
  )
  ckpt.add_argument("--run", default="seed10_fold0", help="seed and fold of the checkpoint")
  ckpt.add_argument("--outputs", type=listed, help="names of the outputs in the model's order, if it differs")
  back.add_argument("workdir", help="work directory of finished runs")
  back.add_argument("out", help=".npz file to write; statistics go to the same name with .json")
  back.add_argument("--run", required=True, help="e.g. seed10_fold0")
  args = parser.parse_args(argv)
  try:
    notes: list[str] = []
    if args.command == "config":
      notes, where = convert_config(args.yaml, args.out, args.ignore), args.out
    elif args.command == "checkpoint":
      if not args.statistics:
        raise InputError(f"--statistics is missing; {ckpt._option_string_actions['--statistics'].help}")
      names = {"run": args.run, "outputs": args.outputs, "ignore": args.ignore}
      notes = import_checkpoint(args.yaml, args.checkpoint, args.workdir, args.statistics, **names)
      where = f"{args.workdir}/checkpoints/{args.run}"
    else:
      export(args.workdir, args.out, args.run)
      where = args.out
  except InputError as error:
    sys.exit(str(error))
  print(*notes, where, sep="\n")


if __name__ == "__main__":
  main()
