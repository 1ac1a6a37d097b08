"""The training script: trains and evaluates all runs of a configuration, and writes the work directory.

`run` is the entry point of the command line. `train` handles one method: `begin`, the trainings, `finish`.
`fit` trains one stack of runs, here or in a process of its own (`side_by_side`).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax import schema
from colearn_jax.data.dataset import Dataset, open_dataset
from colearn_jax.data.reader import Index, describe, read_index
from colearn_jax.data.splits import Run
from colearn_jax.evaluation import evaluate, results
from colearn_jax.evaluation.results import Results
from colearn_jax.methods.configured import make_method
from colearn_jax.parallel import memory, processes
from colearn_jax.storage import files, models
from colearn_jax.training import (
  ahead,
  checkpoint,
  closed_form,
  faults,
  phases,
  preemption,
  setup,
  side_by_side,
  work_directory,
)
from colearn_jax.training.history import Clock, History
from colearn_jax.training.log import Log, Progress
from colearn_jax.training.on_device import OnDevice
from colearn_jax.training.state import Recipe, TrainState, Tree, finished_model
from colearn_jax.training.streaming import Streamed
from colearn_jax.types import InputError, Modality


@memory.telling()
def run(config: ConfigDict, workdir: str | Path) -> Results:
  """Trains a configuration and its baseline, prints the table, and returns the results.

  Calling it again in the work directory of an interrupted run resumes the run. Parameters and results are
  then the same, bit for bit, as without interruption.

  Raises:
    InputError: the configuration does not fit the data, the work directory holds another run, or the disk or
      the memory is full.
  """
  workdir = Path(workdir).expanduser().absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  work_directory.use_compilation_cache(config.train.compilation_cache, workdir)
  with files.telling(workdir), work_directory.locked(workdir):
    trainings = [begin(config, workdir)]
    if config.baseline and config.method != "individual":
      trainings.append(begin(schema.with_method(config, "individual"), workdir / "individual"))
    side_by_side.fit(trainings)
    trained, *baseline = [finish(*turn) for turn in ahead.turns(trainings)]
  if processes.first():
    print(results.table(trained, *baseline))
    print(f"\nEverything is in {workdir}")
  return trained


@memory.telling()
def train(config: ConfigDict, workdir: Path) -> Results:
  """Trains and evaluates every seed, fold and ablation of one method, and writes all files."""
  training = begin(config, workdir)
  side_by_side.fit([training])
  (turn,) = ahead.turns([training])
  return finish(*turn)


@dataclasses.dataclass
class Training:
  """The parts of the training of one method that are the same for all its runs.

  Attributes:
    config: the configuration.
    workdir: the work directory.
    began: when it began, in seconds of the monotonic clock.
    dataset: the data set.
    modalities: the sensors, and the context if there is one.
    index: index of all samples.
    runs: every seed, fold and ablation.
    recipe: the recipe.
    teachers: configurations of the methods that must be trained first, by name.
    weights: the files of pretrained weights, see `work_directory.keep_weights`.
  """

  config: ConfigDict
  workdir: Path
  began: float
  dataset: Dataset
  modalities: Sequence[Modality]
  index: Index
  runs: Sequence[Run]
  recipe: Recipe
  teachers: Mapping[str, ConfigDict]
  weights: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

  @property
  def stacks(self) -> list[list[Run]]:
    """The runs that are trained at the same time, as one program: all of them, or each by itself."""
    return [list(self.runs)] if self.config.train.replicas else [[run] for run in self.runs]

  @functools.cached_property
  def pretrained(self) -> Callable[[], Tree]:
    """Returns pretrained variables of the encoders, which are read once, if at all."""
    return functools.cache(lambda: setup.load_pretrained(self.recipe.network))

  def frozen(self, run: Run) -> Tree:
    """The arrays of a run's teachers. Ablations use the same teachers as the configuration itself."""
    own = f"seed{run.seed}_fold{run.fold}"
    read = lambda name: models.restore(self.workdir / "teachers" / name / "checkpoints" / own)
    return {name: {part: read(name)[part] for part in ("params", "stats")} for name in self.teachers}


def open_training(config: ConfigDict, workdir: Path) -> Training:
  """Opens the data of a configuration, which is prepared if necessary, and makes its model and its runs."""
  began = time.monotonic()
  dataset = open_dataset(setup.prepare(config), config_lib.series_settings(config))
  modalities = setup.make_modalities(config, dataset)
  index = read_index(dataset)
  runs = setup.make_runs(config, dataset, index)
  teachers = {name: schema.with_method(config, name) for name in make_method(config).requires}
  networks = {
    name: setup.make_network(teacher, dataset.task, modalities) for name, teacher in teachers.items()
  }
  recipe = setup.make_recipe(config, dataset.task, modalities, networks)
  return Training(config, workdir, began, dataset, modalities, index, runs, recipe, teachers)


def begin(config: ConfigDict, workdir: Path) -> Training:
  """Checks a configuration, its data and its work directory; trains the methods that it requires."""
  begun = files.read_json(workdir / "config.json") if (workdir / "config.json").is_file() else None
  config_lib.validate(config, begun=begun is not None)
  config = config_lib.with_sizes(config, begun)
  work_directory.claim(config, workdir)
  with phases.of_process().during("data"):
    training = open_training(config, workdir)
  described = describe(training.dataset, training.modalities, training.index)
  work_directory.describe(workdir, described, tuple(training.teachers))
  for name, teacher in training.teachers.items():
    train(teacher, workdir / "teachers" / name)
  stack, replicas = training.stacks[0], training.recipe.mesh.shape["replica"]
  if len(stack) % replicas:
    raise InputError(_uneven(config, len(stack), replicas))
  training.weights = work_directory.keep_weights(workdir, training.recipe.network.architecture.encoders)
  work_directory.remove_damaged(training)
  return training


def finish(training: Training, samples: OnDevice | Streamed, compiled: Callable[[], object]) -> Results:
  """Trains the runs that are not finished, predicts and scores the test parts, and writes the results.

  Args:
    training: what is trained.
    samples: its samples.
    compiled: see `fit`.
  """
  config, workdir, runs = training.config, training.workdir, training.runs
  dataset, recipe = training.dataset, training.recipe

  # Training of all unfinished runs: all at once, or one after another.
  todo = work_directory.unfinished(training)
  samples.check(todo)
  names = {run.name for run in todo}
  with Log(workdir, work_directory.positions(training), enabled=processes.first()) as log:
    for stack in training.stacks:
      if not names.isdisjoint(run.name for run in stack):
        fit(config, samples, stack, workdir, log, training.frozen, training.pretrained, compiled=compiled)

  # Predictions for the test part, with the kept model.
  finished = {run.name: models.progress(work_directory.of_model(workdir, run)) for run in runs}
  kept = [models.restore(work_directory.of_model(workdir, run)) for run in runs]
  predictions = [samples.predict(model, run.test) for model, run in zip(kept, runs)]
  samples.check_source()
  predictors = recipe.method.predictors(config.data.modalities)
  scores, of_ablations = evaluate.write(
    workdir / "predictions", dataset.task, training.index, runs, predictions, predictors
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
    weights=training.weights,
    timing={
      "seconds": time.monotonic() - training.began,
      "phases": phases.of_process().take(),
      "runs": finished,
    },
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
  bar: bool = True,
  compiled: Callable[[], object] = lambda: None,
) -> None:
  """Trains a stack of runs until they finish, starting from their last checkpoint if there is one.

  Args:
    config: the configuration.
    samples: the samples to train on.
    runs: the runs of the stack.
    workdir: the work directory.
    log: the log of all epochs.
    frozen: returns the arrays of a run's teachers.
    pretrained: returns pretrained variables of the encoders.
    bar: whether a terminal shows the progress as a bar.
    compiled: is called in each epoch, when its program is compiled and begun.
  """
  directory, max_epochs = work_directory.of_training(workdir, runs), config.train.max_epochs
  clock = Clock(60 * config.checkpoint.every_minutes)
  begins = models.latest(directory) < 0
  state = samples.init(runs, frozen=[frozen(run) for run in runs], pretrained=pretrained() if begins else {})
  if begins and closed_form.needed(samples.recipe):
    state = samples.begin(runs, state)
  with (
    models.open_manager(directory) as manager,
    Progress(_title(runs), max_epochs, enabled=processes.first(), bar=bar) as progress,
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
        compiled()
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
  # Save the kept model of each run with what came of it, then delete the checkpoints for resuming.
  status = jax.device_get(samples.status(state))
  for k, run in enumerate(runs):
    ended = {"seed": run.seed, "fold": run.fold, "ablation": run.ablation}
    reached = {name: status[name][k].item() for name in ("epoch", "best_epoch", "best_objective")}
    ended |= files.jsonable(reached)  # without a validation part there is no best objective
    ended |= {"seconds": float(history.seconds[k])}
    models.save(work_directory.of_model(workdir, run), samples.pick(finished_model(state), k), ended)
  checkpoint.remove(directory)


def _title(runs: Sequence[Run]) -> str:
  return runs[0].name if len(runs) == 1 else f"{len(runs)} runs"


def _uneven(config: ConfigDict, runs: int, replicas: int) -> str:
  if not config.train.replicas:
    return f"mesh.replica: {replicas} needs runs that are trained at the same time; train.replicas=True"
  sizes = ", ".join(str(n) for n in range(1, runs + 1) if runs % n == 0)
  return f"mesh.replica: {runs} runs cannot be divided over {replicas} replicas; one of: {sizes}"
