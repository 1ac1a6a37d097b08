"""The training script: trains and evaluates all runs of a configuration, and writes the work directory.

`run` is the entry point of the command line. `train` handles one method, `fit` one stack of runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax import schema
from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import describe, read_index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, results
from colearn_jax.evaluation.results import Results
from colearn_jax.methods.configured import make_method
from colearn_jax.parallel import processes
from colearn_jax.storage import files, models
from colearn_jax.training import checkpoint, closed_form, faults, preemption, setup, work_directory
from colearn_jax.training.history import Clock, History
from colearn_jax.training.log import Log, Progress
from colearn_jax.training.on_device import OnDevice
from colearn_jax.training.state import TrainState, Tree, finished_model
from colearn_jax.training.streaming import Streamed
from colearn_jax.types import InputError


def run(config: ConfigDict, workdir: str | Path) -> Results:
  """Trains a configuration and its baseline, prints the table, and returns the results.

  Calling it again in the work directory of an interrupted run resumes the run. Parameters and results are
  then the same, bit for bit, as without interruption.

  Raises:
    InputError: the configuration does not fit the data, the work directory holds another run, or the disk is
      full.
  """
  workdir = Path(workdir).expanduser().absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  work_directory.use_compilation_cache(config.train.compilation_cache, workdir)
  with files.telling(workdir), work_directory.locked(workdir):
    baseline = None
    trained = train(config, workdir)
    if config.baseline and config.method != "individual":
      baseline = train(schema.with_method(config, "individual"), workdir / "individual")
  if processes.first():
    print(results.table(trained, baseline))
    print(f"\nEverything is in {workdir}")
  return trained


def train(config: ConfigDict, workdir: Path) -> Results:
  """Trains and evaluates every seed, fold and ablation of one method, and writes all files."""
  began = time.monotonic()
  begun = files.read_json(workdir / "config.json") if (workdir / "config.json").is_file() else None
  config_lib.validate(config, begun=begun is not None)
  config = config_lib.with_sizes(config, begun)
  work_directory.claim(config, workdir)

  # The data: prepared if necessary, indexed, and split into runs.
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  modalities = setup.make_modalities(config, dataset)
  index = read_index(dataset)
  runs = setup.make_runs(config, dataset, index)
  work_directory.describe(workdir, describe(dataset, modalities, index), tuple(make_method(config).requires))

  # Methods that must be trained first, in the same runs.
  teachers = {name: schema.with_method(config, name) for name in make_method(config).requires}
  for name, teacher in teachers.items():
    train(teacher, workdir / "teachers" / name)
  frozen = functools.partial(_frozen, workdir, tuple(teachers))

  # The model, its programs, and its samples.
  networks = {
    name: setup.make_network(teacher, dataset.task, modalities) for name, teacher in teachers.items()
  }
  recipe = setup.make_recipe(config, dataset.task, modalities, networks)
  weights = work_directory.keep_weights(workdir, recipe.network.architecture.encoders)
  samples = setup.make_samples(config, recipe, dataset, modalities, index)

  # Training of all unfinished runs: all at once, or one after another.
  stacks = [runs] if config.train.replicas else [[run] for run in runs]
  if len(stacks[0]) % recipe.mesh.shape["replica"]:
    raise InputError(_uneven(config, len(stacks[0]), recipe.mesh.shape["replica"]))
  _remove_damaged(workdir, runs, stacks)
  finished = {run.name: models.progress(_model(workdir, run)) for run in runs}
  samples.check([run for run in runs if finished[run.name] is None])
  pretrained = functools.cache(lambda: setup.load_pretrained(recipe.network))  # read once, if at all
  with Log(workdir, _positions(workdir, stacks, finished), enabled=processes.first()) as log:
    for stack in stacks:
      if any(finished[run.name] is None for run in stack):
        finished |= fit(config, samples, stack, workdir, log, frozen, pretrained)

  # Predictions for the test part, with the kept model.
  predictions = [samples.predict(models.restore(_model(workdir, run)), run.test) for run in runs]
  samples.check_source()
  predictors = recipe.method.predictors(config.data.modalities)
  scores, of_ablations = evaluate.write(
    workdir / "predictions", dataset.task, index, runs, predictions, predictors
  )
  summary = Results(
    dataset=dataset.name,
    task=dataset.task.kind,
    method=config.method,
    scores=scores,
    ablations=of_ablations,
    variant=config.loss.get("variant"),
    protocol=config.protocol.name,
    split=config.protocol.split,
    group_by=config.protocol.group_by,
    seeds=tuple(config.protocol.seeds),
    folds=len({run.fold for run in runs}),
    weights=weights,
    timing={"seconds": time.monotonic() - began, "runs": finished},
  )
  if processes.first():
    summary.write(workdir / "results.json")
  processes.wait("results")
  return summary


def fit(
  config: ConfigDict,
  samples: OnDevice | Streamed,
  runs: Sequence[Run],
  workdir: Path,
  log: Log,
  frozen: Callable[[Run], Tree],
  pretrained: Callable[[], Tree],
) -> dict[str, dict]:
  """Trains a stack of runs until they finish, starting from their last checkpoint if there is one.

  Args:
    config: the configuration.
    samples: the samples to train on.
    runs: the runs of the stack.
    workdir: the work directory.
    log: the log of all epochs.
    frozen: returns the arrays of a run's teachers.
    pretrained: returns pretrained variables of the encoders.

  Returns:
    For each run by name: seed, fold, ablation, epochs, best epoch, best objective (None without a validation
    part) and seconds.
  """
  directory, first, max_epochs = _training(workdir, runs), processes.first(), config.train.max_epochs
  clock = Clock(60 * config.checkpoint.every_minutes)
  begins = models.latest(directory) < 0
  state = samples.init(runs, frozen=[frozen(run) for run in runs], pretrained=pretrained() if begins else {})
  if begins and closed_form.needed(samples.recipe):
    state = samples.begin(runs, state)
  with (
    models.open_manager(directory) as manager,
    Progress(_title(runs), max_epochs, enabled=first) as progress,
  ):

    def fault(k: int) -> None:
      """Stops at a step of a run that was not finite, unless such steps are skipped."""
      if samples.recipe.nonfinite == "stop":
        faults.stop(samples, runs[k], samples.pick(state, k), workdir)

    history, begun, partial = History(runs, log, progress, fault), 0, None
    if (saved := models.progress(directory)) is not None:
      state = checkpoint.restore(manager, state)
      begun, partial = saved.get("epoch", manager.latest_step()), saved.get("partial")
      history.resume(jax.device_get(samples.status(state)["done"]), saved["seconds"])

    def save(state: TrainState, epoch: int, partial: dict | None = None) -> None:
      samples.check_source()
      progress = {"seconds": history.seconds.tolist(), "epoch": epoch, "partial": partial}
      checkpoint.save(manager, samples.number(runs, epoch, partial), state, progress)
      clock.reset()

    def pause(now: TrainState, partial: Callable[[], dict]) -> None:
      """Between two steps of an epoch: saves if it is time to, and ends if that is asked for."""
      nonlocal state
      asked = preemption.requested()
      if asked or (clock.over and jax.process_count() == 1):
        state = now  # the one before is donated
        with jax.transfer_guard("allow"):
          history.fetch()
          if not history.over:
            save(state, epoch - 1, partial())
        if asked:
          raise preemption.Preempted

    # Metrics are fetched one epoch late, so that the device never waits for the host. One more epoch is
    # started after the last one. It changes nothing, because finished runs are masked out.
    with samples.epochs(runs, state, partial, pause) as train_epoch, preemption.deferred():
      for epoch in range(begun + 1, max_epochs + 1):
        began = time.monotonic()
        # Everything lies on the devices by now; what is sent there in an epoch is sent by name.
        with jax.transfer_guard("disallow"):
          state, terms = train_epoch(state)
        history.fetch()
        if history.over:
          break
        history.pending = epoch, began, terms, samples.status(state)
        asked = preemption.requested()
        if asked or epoch % config.checkpoint.every_epochs == 0:
          history.fetch()  # log before saving: a resumed run logs only epochs after the checkpoint
          if history.over:
            break
          save(state, epoch)
          if asked:
            raise preemption.Preempted
      history.fetch()

  samples.check_source()
  # Save the kept model of each run, then delete the checkpoints for resuming.
  status, ended = jax.device_get(samples.status(state)), {}
  for k, run in enumerate(runs):
    ended[run.name] = {"seed": run.seed, "fold": run.fold, "ablation": run.ablation}
    reached = {name: status[name][k].item() for name in ("epoch", "best_epoch", "best_objective")}
    ended[run.name] |= files.jsonable(reached)  # without a validation part there is no best objective
    ended[run.name] |= {"seconds": float(history.seconds[k])}
    models.save(_model(workdir, run), samples.pick(finished_model(state), k), ended[run.name])
  checkpoint.remove(directory)
  return ended


def _remove_damaged(workdir: Path, runs: Sequence[Run], stacks: Sequence[Sequence[Run]]) -> None:
  """Removes damaged models and checkpoints, with a warning for each. What is missing is trained again."""
  if processes.first():
    for run in runs:
      models.remove_damaged(_model(workdir, run), "its run is trained anew")
    for stack in stacks:
      models.remove_damaged(_training(workdir, stack), "the training begins anew")
  processes.wait("damaged")


def _frozen(workdir: Path, teachers: Sequence[str], run: Run) -> Tree:
  """The arrays of a run's teachers. Ablations use the same teachers as the configuration itself."""
  own = f"seed{run.seed}_fold{run.fold}"
  read = lambda name: models.restore(workdir / "teachers" / name / "checkpoints" / own)
  return {name: {part: read(name)[part] for part in ("params", "stats")} for name in teachers}


def _model(workdir: Path, run: Run) -> Path:
  """Directory of a run's finished model."""
  return workdir / "checkpoints" / run.name


def _training(workdir: Path, runs: Sequence[Run]) -> Path:
  """Directory of the checkpoints of a stack during training."""
  return workdir / "training" / ("stack" if len(runs) > 1 else runs[0].name)


def _title(runs: Sequence[Run]) -> str:
  return runs[0].name if len(runs) == 1 else f"{len(runs)} runs"


def _positions(workdir: Path, stacks: Sequence[Sequence[Run]], finished: Mapping) -> dict[str, float]:
  """The last epoch of each run whose log lines are kept: that of its checkpoint; all, if it is finished."""
  out: dict[str, float] = {}
  for runs in stacks:
    directory = _training(workdir, runs)
    saved = (models.progress(directory) or {}).get("epoch", models.latest(directory))
    out |= {run.name: saved if finished[run.name] is None else float("inf") for run in runs}
  return out


def _uneven(config: ConfigDict, runs: int, replicas: int) -> str:
  if not config.train.replicas:
    return f"mesh.replica: {replicas} needs runs that are trained at the same time; train.replicas=True"
  sizes = ", ".join(str(n) for n in range(1, runs + 1) if runs % n == 0)
  return f"mesh.replica: {runs} runs cannot be divided over {replicas} replicas; one of: {sizes}"
