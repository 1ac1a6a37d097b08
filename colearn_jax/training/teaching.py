"""Makes the arrays of a method whose teacher reads the samples, see `Method.arrays`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from colearn_jax.data import splits
from colearn_jax.data.apart import Apart
from colearn_jax.data.dataset import Dataset, context_modality
from colearn_jax.data.reader import Index, Table, make_reader, read_table
from colearn_jax.data.splits import Run
from colearn_jax.methods.base import Method, Reads, Samples
from colearn_jax.types import CONTEXT, InputError


def make_arrays(
  config: ConfigDict,
  method: Method,
  dataset: Dataset,
  index: Index,
  table: Table | None,
  apart: Callable[[int], Apart],
) -> Callable[[Run], Mapping[str, np.ndarray]]:
  """Returns the function that makes the arrays of a run. Ablations share those of their seed and fold.

  Args:
    config: the configuration.
    method: the method.
    dataset: the data set.
    index: of all samples.
    table: the inputs of the model of all samples; None if they are not in memory.
    apart: returns the rules that keep the parts of the runs of a seed apart.
  """
  reads = method.reads
  if reads is None:
    return lambda run: {}
  if table is None:
    raise InputError(
      f"method={config.method}: its teacher needs the samples in memory; data.placement=device"
    )
  given = functools.cache(lambda: _inputs(config, reads, dataset, table))  # read once, by the first run
  known: dict[tuple[int, int], Mapping[str, np.ndarray]] = {}

  def arrays(run: Run) -> Mapping[str, np.ndarray]:
    if (key := (run.seed, run.fold)) not in known:
      rules, own = apart(run.seed), given()
      samples = Samples(
        own["inputs"],
        own["present"],
        index.target,
        index.labelled,
        dataset.task,
        folds=lambda rows, number, seed: splits.inner_folds(rows, number, rules, seed),
        balanced=config.loss.class_weights == "balanced",
      )
      seed = int(np.random.SeedSequence(key).generate_state(1)[0])
      try:
        known[key] = method.arrays(run.train, samples, seed)
      except InputError as error:
        raise InputError(f"{run.name}: {error}") from None
    return known[key]

  return arrays


def _inputs(config: ConfigDict, reads: Reads, dataset: Dataset, table: Table) -> Table:
  """The inputs of all samples that a teacher reads: those of the model, and others from the disk."""
  sensors = reads.sensors or tuple(config.data.modalities)
  more = [dataset.modality(name) for name in sensors if name not in table["inputs"]]
  names = tuple(dict.fromkeys([*config.data.context, *reads.context]))
  own = [*sensors, *[CONTEXT] * bool(config.data.context)]
  if reads.context:  # together with the model's own, which it contains
    more.append(context_modality(dataset, names, config.data.fourier))
  read = read_table(make_reader(dataset, more)) if more else {"inputs": {}, "present": {}}
  return {
    part: {name: table[part][name] for name in own if name in table[part]} | read[part] for part in read
  }
