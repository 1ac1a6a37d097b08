"""The samples of trainings that follow each other. The programs of the next one are compiled meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import TYPE_CHECKING

import jax

from colearn_jax.storage import models
from colearn_jax.training import closed_form, phases, setup, work_directory
from colearn_jax.training.on_device import OnDevice
from colearn_jax.training.streaming import Streamed

if TYPE_CHECKING:
  from colearn_jax.training.run import Training


Turn = tuple["Training", OnDevice | Streamed, Callable[[], object]]


def turns(trainings: Sequence[Training]) -> Iterator[Turn]:
  """Yields each training with its samples, in order, and a function to call when its programs are compiled.

  From then on a thread makes the samples of the next training and compiles its programs: Python traces while
  the device trains. Jobs of several processes do without, because they have to start programs in one order.
  """
  if jax.process_count() > 1:
    yield from ((training, _samples(training), lambda: None) for training in trainings)
    return
  with futures.ThreadPoolExecutor(1) as thread:
    samples = _samples(trainings[0])
    for k, training in enumerate(trainings[:-1]):
      begin = functools.cache(
        functools.partial(thread.submit, _compiled, trainings[k + 1], training, samples)
      )
      yield training, samples, begin
      samples = begin().result()
    yield trainings[-1], samples, lambda: None


def _samples(training: Training, like: OnDevice | None = None) -> OnDevice | Streamed:
  data = training.dataset, training.modalities, training.index
  with phases.of_process().during("data"):
    return setup.make_samples(training.config, training.recipe, *data, like)


def _compiled(training: Training, other: Training, samples: OnDevice | Streamed) -> OnDevice | Streamed:
  """The samples of a training, with the same table as those of another one if both read the same data."""
  alike = training.config.data == other.config.data and training.recipe.mesh == other.recipe.mesh
  own = _samples(training, samples if alike and isinstance(samples, OnDevice) else None)
  stack, todo = training.stacks[0], {run.name for run in work_directory.unfinished(training)}
  begun = models.latest(work_directory.of_training(training.workdir, stack)) >= 0
  solved = closed_form.needed(training.recipe) or not training.config.train.max_epochs
  if isinstance(own, OnDevice) and not (begun or solved) and todo.issuperset(run.name for run in stack):
    own.check(stack)
    own.compile(stack, frozen=[training.frozen(run) for run in stack], pretrained=training.pretrained())
  return own
