"""Training: from a configuration to a work directory, as one straight script."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from colearn_jax import checkpoint, data, evaluate, mdico, protocols, results, sharding, steps
from colearn_jax import config as config_lib
from colearn_jax.feed import OnDevice, Streamed
from colearn_jax.log import Log, Progress
from colearn_jax.protocols import Run
from colearn_jax.spec import InputError, Modality, Task
from data_builders import build


def run(config: ConfigDict, workdir: str | Path) -> dict:
  """Trains what a configuration says, its baseline beside it, and prints the table; returns the results.

  Going on in a work directory that was stopped ends with the same parameters and results, bit for bit, as if
  it had not been.

  Raises:
    InputError: the configuration does not fit the data, or the work directory holds another run.
  """
  workdir = Path(workdir).expanduser().absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  with _alone(workdir):
    alone = None
    trained = train(config, workdir)
    if config.baseline and config.method != "individual":
      alone = train(individual(config), workdir / "individual")
  if jax.process_index() == 0:
    print(results.table(trained, alone))
    print(f"\nEverything is in {workdir}")
  return trained


def individual(config: ConfigDict) -> ConfigDict:
  """The same configuration for each sensor by itself: the main loss alone."""
  config = ConfigDict(config.to_dict())
  config.method, config.baseline = "individual", False
  return config


def train(config: ConfigDict, workdir: Path) -> dict:
  """Trains every seed and fold, evaluates, and leaves the work directory complete; returns results.json."""
  began = time.monotonic()
  config_lib.validate(config)
  _claim(config, workdir)

  # The data: built if need be, indexed, and cut into trainings.
  data_dir = config.data.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  prepared = build.build(config.data.name, data_dir, manual_dir=config.data.manual_dir or None)
  dataset = data.open_dataset(prepared)
  modalities = [dataset.modality(name) for name in config.data.modalities]
  index = data.read_index(dataset)
  runs = make_runs(config, dataset, index)
  results.write_results(workdir / "dataset.json", data.describe(dataset, modalities))

  # The model, its programs, and where its samples come from.
  recipe = make_recipe(config, dataset.task, modalities)
  feed = make_feed(config, recipe, dataset, modalities, index)

  # Every training that is not over yet.
  directory = lambda run: workdir / "checkpoints" / run.name
  saved = {run.name: checkpoint.progress(directory(run)) for run in runs}
  position = lambda at: 0 if at is None else float("inf") if at["finished"] else at["epoch"]
  with Log(workdir, {name: position(at) for name, at in saved.items()}) as log:
    for run in runs:
      if saved[run.name] is None or not saved[run.name]["finished"]:
        saved[run.name] = fit(config, recipe, feed, run, directory(run), log)

  # Every sensor alone, with the best epoch's parameters, on the test part.
  predictions = [feed.predict(checkpoint.restore_model(directory(run)), run.test) for run in runs]
  evaluate.write_predictions(workdir / "predictions", dataset.task, index, runs, predictions)
  summary = {
    "dataset": dataset.name,
    "task": dataset.task.kind,
    "method": config.method,
    "variant": config.model.variant,
    "protocol": config.protocol.name,
    "split": config.protocol.split,
    "group_by": config.protocol.group_by,
    "seeds": list(config.protocol.seeds),
    "folds": len(runs) // len(config.protocol.seeds),
    **evaluate.evaluate(dataset.task, index, runs, predictions),
    "timing": {"seconds": time.monotonic() - began, "runs": saved},
  }
  results.write_results(workdir / "results.json", summary)
  return summary


def fit(
  config: ConfigDict, recipe: steps.Recipe, feed: OnDevice | Streamed, run: Run, directory: Path, log: Log
) -> dict:
  """One training to its early stop, from its last checkpoint if it has one; returns its progress record."""
  constants = feed.constants(run.train, config.loss.class_weights)
  state = feed.init(jax.random.fold_in(jax.random.key(run.seed), run.fold), constants)
  epochs = feed.epochs(run)
  seconds, fetched = 0.0, 0.0
  pending = None
  record = lambda finished: {
    "seed": run.seed,
    "fold": run.fold,
    "epoch": int(state.epoch),
    "finished": finished,
    "best_epoch": int(state.best.epoch),
    "best_objective": float(state.best.objective),
    "seconds": seconds,
  }

  with (
    checkpoint.open_manager(directory) as manager,
    Progress(run.name, config.train.max_epochs, enabled=jax.process_index() == 0) as progress,
  ):
    if manager.latest_step() is not None:
      seconds = checkpoint.progress(directory)["seconds"]
      like = checkpoint.abstract(state, sharding.whole(recipe.mesh))
      state = checkpoint.restore(manager, like, epochs.iterator)

    def fetch() -> bool:
      """Waits for the pending epoch, writes down what it gave, and says whether it was the last."""
      nonlocal pending, seconds, fetched
      epoch, began, *arrays = pending
      pending = None
      terms, done, best = jax.device_get(arrays)
      took, fetched = time.monotonic() - max(began, fetched), time.monotonic()
      seconds += took
      for part in ("train", "validation"):
        if not np.isfinite(terms[part]["objective"]):
          raise InputError(
            f"{run.name} diverged: its {part} objective is {terms[part]['objective']} in epoch {epoch}; "
            f"a train.learning_rate below {config.train.learning_rate} may help"
          )
      scalars = {f"{part}/{name}": float(v) for part, named in terms.items() for name, v in named.items()}
      rate = len(run.train) / took
      scalars |= {"learning_rate": config.train.learning_rate, "samples_per_second": rate}
      log.write(run.name, epoch, scalars)
      progress.update(epoch, scalars["validation/objective"], float(best), rate)
      return bool(done)

    # Metrics are fetched one epoch late, so that the device never waits for the host. The epoch that is
    # begun after the last one changes nothing: a state that is done stays as it is.
    for epoch in range(int(state.epoch) + 1, config.train.max_epochs + 1):
      began = time.monotonic()
      state, terms = epochs.run(state)
      if pending is not None and fetch():
        break
      # Copies, for the next epoch takes the state's own buffers.
      pending = epoch, began, terms, jnp.copy(state.stop.done), jnp.copy(state.best.objective)
      if epoch % config.checkpoint.every_epochs == 0:
        if fetch():  # what is saved is also logged: a resumed run writes down only what comes after
          break
        checkpoint.save(manager, state, record(finished=False), epochs.iterator)
    if pending is not None:
      fetch()
    if epochs.iterator is not None:
      epochs.iterator.close()
    finished = record(finished=True)
    checkpoint.save_finished(manager, state, finished)
  return finished


def make_runs(config: ConfigDict, dataset: data.Dataset, index: data.Index) -> list[Run]:
  """The trainings that the protocol asks for.

  Raises:
    InputError: the data set has no such group or split, or is too small for the folds.
  """
  group_by = config.protocol.group_by
  if group_by and group_by not in dataset.groups:
    have = ", ".join(dataset.groups) or "none"
    raise InputError(f"protocol.group_by: {dataset.name} has no group {group_by!r}, have: {have}")
  # Samples without a label are there for the terms that need none; without those they would only cost.
  unsupervised = config.method != "individual" and config.loss.contrastive + config.loss.discriminative > 0
  return protocols.runs(
    config.protocol.name,
    config.protocol.seeds,
    dataset.parts,
    labelled=index.labelled,
    unsupervised=unsupervised,
    folds=config.protocol.folds if config.protocol.split == "kfold" else None,
    groups=index.groups[group_by] if group_by else None,
    validation_fraction=config.protocol.validation_fraction,
  )


def make_recipe(
  config: ConfigDict, task: Task, modalities: list[Modality], *, main_only: bool = False
) -> steps.Recipe:
  """The training that a configuration describes; `main_only` leaves out what predicting does not need."""
  weights = {term: config.loss[term] for term in mdico.TERMS}
  if main_only or config.method == "individual":
    weights |= dict.fromkeys(mdico.TERMS[1:], 0.0)
  settings = {m.name: config_lib.encoder_settings(config, m.name) for m in modalities}
  build_model = functools.partial(
    mdico.MDiCo,
    {m.name: m.shape for m in modalities},
    settings,
    len(task.outputs),
    emb_dim=config.model.emb_dim,
    head_layers=tuple(config.model.head_layers),
    variant=config.model.variant,
    terms=tuple(term for term, weight in weights.items() if weight > 0),
    dtype=jnp.dtype(config.model.dtype),
  )
  return steps.Recipe(
    build=lambda rngs: build_model(rngs=rngs),
    task=task,
    weights=weights,
    temperature=config.loss.temperature,
    negatives=config.loss.negatives,
    optimizer=optax.adam(config.train.learning_rate),
    batch_size=config.train.batch_size,
    patience=config.train.patience,
    min_delta=config.train.min_delta,
    mesh=sharding.make_mesh(config.train.batch_size),
  )


def make_feed(
  config: ConfigDict,
  recipe: steps.Recipe,
  dataset: data.Dataset,
  modalities: list[Modality],
  index: data.Index,
) -> OnDevice | Streamed:
  """Places the samples on the device if they fit there, else streams them."""
  reader = data.make_reader(dataset, modalities)
  small = data.table_bytes(dataset, modalities) <= config.data.device_bytes
  if config.data.placement == "device" or (config.data.placement == "auto" and small):
    return OnDevice(recipe, modalities, data.read_table(reader), index)
  return Streamed(recipe, modalities, reader, index)


@contextlib.contextmanager
def _alone(workdir: Path):
  """Holds the work directory's lock, which dies with the process."""
  with open(workdir / ".lock", "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(f"another run is at work in {workdir}") from None
    yield


def _claim(config: ConfigDict, workdir: Path) -> None:
  """Writes config.json, or checks that the one there is of the same run."""
  workdir.mkdir(parents=True, exist_ok=True)
  path, wanted = workdir / "config.json", config_lib.to_json(config)
  if path.exists():
    if differences := config_lib.differences(results.read_results(path), wanted):
      raise InputError(
        f"{workdir} holds a run with another configuration ({'; '.join(differences)}): "
        "take another workdir, or these values"
      )
  else:
    results.write_results(path, wanted)
