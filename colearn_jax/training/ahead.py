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
  the device trains. On CPUs only, because the programs run once, which takes memory on a device; and not in
  jobs of several processes, which have to start programs in one order.
  """
  alone = jax.default_backend() == "cpu" and jax.process_count() == 1
  nothing = lambda: None
  with futures.ThreadPoolExecutor(1) as thread:
    samples = _samples(trainings[0])
    for training, following in zip(trainings, trainings[1:]):
      make = functools.partial(_next, following, training, samples, compiled=alone)
      begin = functools.cache(functools.partial(thread.submit, make))
      yield training, samples, begin if alone else nothing
      samples = begin().result() if alone else make()
    yield trainings[-1], samples, nothing


def _samples(training: Training, like: OnDevice | None = None) -> OnDevice | Streamed:
  data = training.dataset, training.modalities, training.index
  with phases.of_process().during("data"):
    return setup.make_samples(training.config, training.recipe, *data, like)


def _next(
  training: Training, other: Training, samples: OnDevice | Streamed, *, compiled: bool
) -> OnDevice | Streamed:
  """The samples of a training, with the table of those of another one if both read the same data.

  Args:
    training: whose samples.
    other: another training.
    samples: those of `other`.
    compiled: whether programs are compiled if nothing of the training was begun.
  """
  reads = lambda one: (one.config.data, one.modalities, one.recipe.mesh)
  alike = reads(training) == reads(other)
  own = _samples(training, samples if alike and isinstance(samples, OnDevice) else None)
  stack, todo = training.stacks[0], {run.name for run in work_directory.unfinished(training)}
  begun = models.latest(work_directory.of_training(training.workdir, stack)) >= 0
  solved = closed_form.needed(training.recipe) or not training.config.train.max_epochs
  if (
    compiled
    and isinstance(own, OnDevice)
    and not (begun or solved)
    and todo.issuperset(run.name for run in stack)
  ):
    own.check(stack)
    own.compile(stack, frozen=[training.frozen(run) for run in stack], pretrained=training.pretrained())
  return own
