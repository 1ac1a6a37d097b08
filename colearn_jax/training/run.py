"""Training: from a configuration to a work directory, as one straight script."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax.data import dataset as data
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, results
from colearn_jax.parallel import processes as distributed
from colearn_jax.training import checkpoint, steps
from colearn_jax.training import setup as plan
from colearn_jax.training.feed import OnDevice, Streamed
from colearn_jax.training.log import Log, Progress
from colearn_jax.types import InputError


def run(config: ConfigDict, workdir: str | Path) -> dict:
  """Trains what a configuration says, its baseline beside it, and prints the table; returns the results.

  Going on in a work directory that was stopped ends with the same parameters and results, bit for bit, as if
  it had not been.

  Raises:
    InputError: the configuration does not fit the data, or the work directory holds another run.
  """
  workdir = Path(workdir).expanduser().absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  _keep_programs(config.train.compilation_cache, workdir)
  with _alone(workdir):
    alone = None
    trained = train(config, workdir)
    if config.baseline and config.method != "individual":
      alone = train(individual(config), workdir / "individual")
  if distributed.first():
    print(results.table(trained, alone))
    print(f"\nEverything is in {workdir}")
  return trained


def individual(config: ConfigDict) -> ConfigDict:
  """The same configuration for each sensor by itself: the main loss alone."""
  config = ConfigDict(config.to_dict())
  config.method, config.baseline, config.loss.ablations = "individual", False, ()
  return config


def train(config: ConfigDict, workdir: Path) -> dict:
  """Trains every seed and fold, evaluates, and leaves the work directory complete; returns results.json."""
  began = time.monotonic()
  config_lib.validate(config, begun=(workdir / "config.json").is_file())
  _claim(config, workdir)

  # The data: built if need be, indexed, and cut into trainings.
  dataset = data.open_dataset(plan.prepare(config), config_lib.series_settings(config))
  modalities = [dataset.modality(name) for name in config.data.modalities]
  index = data.read_index(dataset)
  runs = plan.make_runs(config, dataset, index)
  _keep_description(workdir, data.describe(dataset, modalities), data.fingerprint(dataset, index))

  # The model, its programs, and where its samples come from.
  recipe = plan.make_recipe(config, dataset.task, modalities)
  feed = plan.make_feed(config, recipe, dataset, modalities, index)

  # Every training that is not over yet: all at once, or one after another.
  stacks = [runs] if config.train.replicas else [[run] for run in runs]
  if len(stacks[0]) % recipe.mesh.shape["replica"]:
    raise InputError(_uneven(config, len(stacks[0]), recipe.mesh.shape["replica"]))
  models = lambda run: workdir / "checkpoints" / run.name
  finished = {run.name: checkpoint.progress(models(run)) for run in runs}
  pretrained = functools.cache(lambda: plan.load_pretrained(config, modalities))  # read once, if at all
  with Log(workdir, _positions(workdir, stacks, finished), enabled=distributed.first()) as log:
    for stack in stacks:
      if any(finished[run.name] is None for run in stack):
        finished |= fit(config, recipe, feed, stack, workdir, log, pretrained)

  # Every sensor alone, with the best epoch's parameters, on the test part.
  predictions = [feed.predict(checkpoint.restore_model(models(run)), run.test) for run in runs]
  summary = {
    "dataset": dataset.name,
    "task": dataset.task.kind,
    "method": config.method,
    "variant": config.model.variant,
    "protocol": config.protocol.name,
    "split": config.protocol.split,
    "group_by": config.protocol.group_by,
    "seeds": list(config.protocol.seeds),
    "folds": len({run.fold for run in runs}),
    **evaluate.write(workdir / "predictions", dataset.task, index, runs, predictions),
    "timing": {"seconds": time.monotonic() - began, "runs": finished},
  }
  if distributed.first():
    results.write_results(workdir / "results.json", summary)
  distributed.wait("results")
  return summary


def fit(
  config: ConfigDict,
  recipe: steps.Recipe,
  feed: OnDevice | Streamed,
  runs: Sequence[Run],
  workdir: Path,
  log: Log,
  pretrained: Callable[[], dict],
) -> dict[str, dict]:
  """Trains a stack of runs, each to its early stop, from their last checkpoint if they have one.

  Args:
    config: of the training.
    recipe: what it describes.
    feed: of the samples.
    runs: of the stack.
    workdir: where checkpoints are.
    log: of every epoch.
    pretrained: gives what encoders begin with, if they begin.

  Returns:
    Where each of them ended, by name.
  """
  directory = _training(workdir, runs)
  state = feed.init(runs, pretrained() if checkpoint.latest(directory) < 0 else {})
  seconds, active = np.zeros(len(runs)), np.ones(len(runs), bool)
  begun, fetched, pending = 0, 0.0, None

  with (
    checkpoint.open_manager(directory) as manager,
    Progress(_called(runs), config.train.max_epochs, enabled=distributed.first()) as progress,
  ):
    if manager.latest_step() is not None:
      begun, seconds = manager.latest_step(), np.array(checkpoint.progress(directory)["seconds"])
      state = checkpoint.restore(manager, state)
      active = ~jax.device_get(feed.watch(state)["done"])

    def fetch() -> bool:
      """Waits for the pending epoch, writes down what it gave, and says whether it was the last."""
      nonlocal pending, seconds, fetched, active
      epoch, began, *arrays = pending
      pending = None
      terms, now = jax.device_get(arrays)
      took, fetched = time.monotonic() - max(began, fetched), time.monotonic()
      seconds = seconds + took * active
      for k in np.flatnonzero(active):
        scalars = {f"{part}/{name}": float(v[k]) for part in terms for name, v in terms[part].items()}
        for part in ("train", "validation"):
          if not np.isfinite(objective := scalars[f"{part}/objective"]):
            raise InputError(
              f"{runs[k].name} diverged: its {part} objective is {objective} in epoch {epoch}; "
              f"a train.learning_rate below {config.train.learning_rate} may help"
            )
        scalars |= {"learning_rate": config.train.learning_rate}
        log.write(runs[k].name, epoch, scalars | {"samples_per_second": len(runs[k].train) / took})
      if active.any():
        rate = sum(len(runs[k].train) for k in np.flatnonzero(active)) / took
        objective = terms["validation"]["objective"][active].mean()
        progress.update(epoch, objective, now["best_objective"][active].mean(), rate)
      active = ~now["done"]
      return not active.any()

    # Metrics are fetched one epoch late, so that the device never waits for the host. The epoch that is
    # begun after the last one changes nothing: a state that is done stays as it is.
    with feed.epochs(runs, state) as one_epoch:
      for epoch in range(begun + 1, config.train.max_epochs + 1):
        began = time.monotonic()
        state, terms = one_epoch(state)
        if pending is not None and fetch():
          break
        pending = epoch, began, terms, feed.watch(state)
        if epoch % config.checkpoint.every_epochs == 0:
          if fetch():  # what is saved is also logged: a resumed run writes down only what comes after
            break
          checkpoint.save(manager, epoch, state, {"seconds": seconds.tolist()})
      if pending is not None:
        fetch()

  # What predicts is left, a directory a run; what going on needed can go.
  now, ended = jax.device_get(feed.watch(state)), {}
  for k, run in enumerate(runs):
    ended[run.name] = {"seed": run.seed, "fold": run.fold, "setting": run.setting, "seconds": seconds[k]}
    ended[run.name] |= {name: now[name][k].item() for name in ("epoch", "best_epoch", "best_objective")}
    model = feed.pick(checkpoint.best_model(state), k)
    checkpoint.save_model(workdir / "checkpoints" / run.name, model, ended[run.name])
  checkpoint.remove(directory)
  return ended


def _training(workdir: Path, runs: Sequence[Run]) -> Path:
  """Where the checkpoints of a stack stand while it trains."""
  return workdir / "training" / ("stack" if len(runs) > 1 else runs[0].name)


def _called(runs: Sequence[Run]) -> str:
  return runs[0].name if len(runs) == 1 else f"{len(runs)} trainings"


def _positions(workdir: Path, stacks: Sequence[Sequence[Run]], finished: Mapping) -> dict[str, float]:
  """The last epoch of each run whose log is to be kept: all of one that ended, else up to its checkpoint."""
  out = {}
  for runs in stacks:
    saved = checkpoint.latest(_training(workdir, runs))
    out |= {run.name: saved if finished[run.name] is None else float("inf") for run in runs}
  return out


def _uneven(config: ConfigDict, runs: int, replicas: int) -> str:
  if not config.train.replicas:
    return f"mesh.replica: {replicas} is of no use to trainings one after another; train.replicas=True"
  sizes = ", ".join(str(n) for n in range(1, runs + 1) if runs % n == 0)
  return f"mesh.replica: {runs} trainings do not divide over {replicas} replicas; {sizes} would"


def _keep_programs(cache: str, workdir: Path) -> None:
  """Turns on the cache of compiled programs, unless JAX was told of one already."""
  if cache != "off" and not jax.config.jax_compilation_cache_dir:
    directory = workdir.parent / ".jax_cache" if cache == "auto" else Path(cache).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(directory))


@contextlib.contextmanager
def _alone(workdir: Path):
  """Holds the work directory's lock, which dies with the process; the first process does it for all."""
  if not distributed.first():
    yield
    return
  with open(workdir / ".lock", "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(f"another run is at work in {workdir}") from None
    yield


def _keep_description(workdir: Path, described: Mapping, samples: Mapping) -> None:
  """Writes dataset.json, or checks that the samples are still those that the run was begun with."""
  path = workdir / "dataset.json"
  if path.exists() and results.read_results(path).get("samples", samples) != samples:
    raise InputError(
      f"{workdir} was begun with other samples than data set {described['name']} has now: "
      "put them back, or take another workdir"
    )
  distributed.wait("samples")
  if distributed.first():
    results.write_results(path, {**described, "samples": samples})


def _claim(config: ConfigDict, workdir: Path) -> None:
  """Writes config.json, or checks that the one there is of the same run."""
  path, wanted = workdir / "config.json", config_lib.to_json(config)
  if path.exists():
    if differences := config_lib.differences(results.read_results(path), wanted):
      raise InputError(
        f"{workdir} holds a run with another configuration ({'; '.join(differences)}): "
        "take another workdir, or these values"
      )
  distributed.wait("configuration")
  if distributed.first() and not path.exists():
    workdir.mkdir(parents=True, exist_ok=True)
    results.write_results(path, wanted)
  distributed.wait("work directory")
