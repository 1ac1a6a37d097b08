"""Splits samples into training, validation and test parts, for each seed and fold.

The validation part decides about early stopping; the test part is scored. There are two protocols:

- `paper`, as in the released configurations: the test part is also the validation part. Its scores are
  optimistic. It is kept for comparison with published results.
- `clean`: the validation part is drawn from the training samples by seed and fold, so that the draws of the
  folds of a seed are independent.

Folds follow the groups of one feature (e.g. the sites of LFMC) or of several. With several, the groups of
each feature are divided into parts, and a fold is a block: the samples that are in one part of every feature.
`apart.Apart` has the rules that keep the parts of a run apart. Samples that break a rule do not train.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from colearn_jax.data.apart import Apart
from colearn_jax.data.grouping import EACH, parts_of_features
from colearn_jax.types import InputError

PROTOCOLS = ("paper", "clean")


@dataclasses.dataclass(frozen=True)
class Run:
  """One training of one seed and fold: the rows of its three parts, and the name of its ablation if any."""

  seed: int
  fold: int
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  ablation: str = ""

  @property
  def name(self) -> str:
    """Its name in the work directory, e.g. `seed10_fold3`, or `seed10_fold3_contrastive_off`."""
    return f"seed{self.seed}_fold{self.fold}" + f"_{self.ablation}" * bool(self.ablation)


def runs(
  protocol: str,
  seeds: Sequence[int],
  parts: Mapping[str, np.ndarray],
  *,
  folds: int | str | tuple[int | str, ...] | None,
  apart: Apart = Apart(),  # noqa: B008, it is frozen
  validation_fraction: float = 0.1,
  min_samples: int = 1,
  labelled: np.ndarray | None = None,
  unsupervised: bool = True,
) -> list[Run]:
  """All runs of a protocol, ordered by seed, then by fold.

  Only labelled samples are split; the data set's own test split is used whole, as its unlabelled samples are
  predicted. Other samples without a label are added to the training part of every run, except those that
  break a rule of `apart` beside the run's validation or test part, and those in the data set's own validation
  or test split if that split is used.

  The test parts of a seed have no sample in common. Together they hold all labelled samples, except those of
  folds that `min_samples` leaves out.

  Args:
    protocol: one of `PROTOCOLS`.
    seeds: every seed gives a complete set of runs, with different folds and initial parameters.
    parts: rows of the data set's own splits, by name.
    folds: `protocol.folds`, for cross-validation over all rows, see `grouping.parts_of_features`. None uses
      the data set's own splits `train`, `test` and, if it has one, `validation`.
    apart: what keeps the parts of a run apart. Folds are cut by its groups. Of the data set's own splits,
      groups only divide training and validation part; the other rules hold for all parts.
    validation_fraction: fraction of the training samples (of the groups of each feature, if there are any)
      that `clean` holds out for validation. 0: none, the validation part is empty. Not used with an official
      validation split.
    min_samples: smallest number of labelled samples in a test part and in a drawn validation part. Smaller
      folds are left out; their samples only train.
    labelled: `[N]` bool, which samples have a label; all by default.
    unsupervised: whether samples without a label are used in training.

  Raises:
    InputError: there are fewer samples or groups than the protocol needs, a required split is missing, or a
      part that needs labels has none.
  """
  if folds is None:
    if missing := [name for name in ("train", "test") if name not in parts]:
      raise InputError(
        "protocol.split: 'official' needs the data set's own splits train and test; "
        f"it has no {missing[0]!r}, only {', '.join(sorted(parts))}"
      )
    own = parts if labelled is None else {name: rows[labelled[rows]] for name, rows in parts.items()}
    _check_official(protocol, own)
    rules = _HoldOut(apart, validation_fraction, min_samples)
    out = [_official(protocol, seed, own, parts["test"], rules) for seed in seeds]
    return [_add_unlabelled(run, parts["train"], labelled, apart) for run in out] if unsupervised else out
  every = rows = np.sort(np.concatenate(list(parts.values())))
  if labelled is not None:
    rows = rows[labelled[rows]]
  out, rules = [], _HoldOut(apart, validation_fraction, min_samples)
  for seed in seeds:
    tests = _folds(rows, folds, apart.groups, seed)
    scored = [i for i, test in enumerate(tests) if len(test) >= min_samples]
    if not scored:
      raise InputError(f"protocol.min_samples: no fold has {min_samples} labelled samples; fewer folds")
    for fold, at in enumerate(scored):
      name, test = f"seed{seed}_fold{fold}", tests[at]
      rest = np.concatenate([t for i, t in enumerate(tests) if i != at])
      train = _train(rest, test, apart, name)
      validation = test
      if protocol == "clean":
        train, validation = rules(train, seed, fold, name)
      out.append(Run(seed, fold, train, validation, test))
  return [_add_unlabelled(run, every, labelled, apart) for run in out] if unsupervised else out


def _train(rows: np.ndarray, held: np.ndarray, apart: Apart, run: str) -> np.ndarray:
  """Those of the labelled `rows` that may train beside the held-out ones; InputError if none may."""
  allowed = apart.allowed(rows, held)
  if not len(allowed):
    broken = apart.conflicts(rows, held).items()
    why = ", ".join(f"{mask.sum()} {rule}" for rule, mask in broken if mask.any())
    raise InputError(
      f"{run}: no labelled sample is left for training; of {len(rows)} outside of the held-out part, {why}"
    )
  return allowed


def _add_unlabelled(run: Run, rows: np.ndarray, labelled: np.ndarray | None, apart: Apart) -> Run:
  """The run with the unlabelled ones of `rows` added to its training part."""
  if labelled is None or labelled[rows].all():
    return run
  more = apart.allowed(rows[~labelled[rows]], np.concatenate([run.validation, run.test]))
  return dataclasses.replace(run, train=np.concatenate([run.train, more]))


def _check_official(protocol: str, labelled: Mapping[str, np.ndarray]) -> None:
  """Raises InputError if a split that has to have labels has none; `labelled` gives the rows with one."""
  needed = [
    "train",
    *(["validation"] if "validation" in labelled else ["test"] if protocol == "paper" else []),
  ]
  for name in needed:
    if not len(labelled[name]):
      instead = "; or protocol.name=clean" if name == "test" else ""
      raise InputError(
        f"protocol.split: no sample of the split {name!r} has a label, which "
        f"{'training' if name == 'train' else 'early stopping'} needs; label some of it, move "
        f"labelled samples into it, or protocol.split=kfold{instead}"
      )


def _official(
  protocol: str, seed: int, labelled: Mapping[str, np.ndarray], test: np.ndarray, hold_out: _HoldOut
) -> Run:
  """The run of a seed with the data set's own splits; `labelled` has their rows with a label."""
  name, train = f"seed{seed}_fold0", labelled["train"]
  distances = dataclasses.replace(hold_out.apart, groups={})
  train = _train(train, test, distances, name)
  if "validation" in labelled:
    return Run(seed, 0, _train(train, labelled["validation"], distances, name), labelled["validation"], test)
  if protocol == "paper":
    return Run(seed, 0, train, labelled["test"], test)
  return Run(seed, 0, *hold_out(train, seed, 0, name), test)


def _folds(
  rows: np.ndarray, folds: int | str | tuple[int | str, ...], groups: Mapping[str, np.ndarray], seed: int
) -> list[np.ndarray]:
  """The rows of each fold; of several features, of each block that has any."""
  numbers = parts_of_features(folds, tuple(groups))
  if not groups:
    if (number := int(numbers[0])) > len(rows):
      raise InputError(f"protocol.folds: {number} folds cannot be cut from {len(rows)} samples")
    return np.array_split(np.random.RandomState(seed).permutation(rows), number)
  every = [
    _divided(rows, of[rows], name, number, seed) for (name, of), number in zip(groups.items(), numbers)
  ]
  blocks = [rows[np.logical_and.reduce(parts)] for parts in itertools.product(*every)]
  return [block for block in blocks if len(block)]


def _divided(
  rows: np.ndarray, groups: np.ndarray, name: str, number: int | str, seed: int
) -> list[np.ndarray]:
  """Which of `rows` are in each part of a feature, `[len(rows)]` bool; no group is divided."""
  own = np.unique(groups)
  if number == EACH:
    if len(own) < 2:
      raise InputError(f"protocol.folds: 'each' needs two groups of {name}, there is one, {own[0]!r}")
    return [groups == one for one in own]
  if int(number) > len(own):
    raise InputError(
      f"protocol.folds: {number} folds cannot be cut from {len(own)} groups of {name}; fewer, or each"
    )
  from sklearn.model_selection import GroupKFold  # slow to load

  at = np.arange(len(rows))
  splitter = GroupKFold(int(number), shuffle=True, random_state=seed)
  return [np.isin(at, test) for _, test in splitter.split(rows, groups=groups)]


def inner_folds(
  rows: np.ndarray, number: int, apart: Apart, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Cuts the rows of a training part into folds again, by the rules that keep the parts of runs apart.

  Args:
    rows: to be cut, with or without a label.
    number: of folds; of several features, of parts of each. There are never more parts than groups.
    apart: see `runs`.
    seed: of the draw.

  Returns:
    For each fold the rows that may be used for the held-out rows, and the held-out rows. Each of `rows` is
    held out once.

  Raises:
    InputError: there are fewer than two samples, or than two groups of a feature.
  """
  sizes = {f"groups of {name}": len(np.unique(of[rows])) for name, of in apart.groups.items()}
  for unit, size in (sizes or {"samples": len(rows)}).items():
    if size < 2:
      raise InputError(f"folds of a training part need two {unit}, it has {size}")
  numbers = tuple(min(number, size) for size in (sizes or {"samples": len(rows)}).values())
  return [
    (apart.allowed(np.setdiff1d(rows, held), held), held)
    for held in _folds(rows, numbers, apart.groups, seed)
  ]


@dataclasses.dataclass(frozen=True)
class _HoldOut:
  """Divides labelled rows into those that train and the validation part; see `runs` for the attributes."""

  apart: Apart
  fraction: float
  least: int

  def __call__(self, rows: np.ndarray, seed: int, fold: int, run: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows that train, and those that are held out.

    Raises:
      InputError: there is too little for two parts; the message names the run.
    """
    if self.fraction == 0:
      return rows, rows[:0]
    # The streams of a SeedSequence of both do not depend on each other, nor on the version of NumPy.
    draw = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, fold))))
    groups = {name: np.unique(of[rows], return_inverse=True) for name, of in self.apart.groups.items()}
    sizes = {f"groups of {name}": len(own) for name, (own, _) in groups.items()} or {"samples": len(rows)}
    for unit, size in sizes.items():
      if size < 2 or (groups and math.ceil(self.fraction * size) >= size):
        raise InputError(self._too_few(run, size, unit))
    if groups:
      held = self._by_groups([of.reshape(-1) for _, of in groups.values()], list(sizes.values()), draw)
      kept, validation = rows[~held], rows[held]
    else:
      shuffled = draw.permutation(rows)
      count = min(max(self.least, round(self.fraction * len(rows))), len(rows) - 1)
      kept, validation = shuffled[count:], shuffled[:count]
    if len(validation) < self.least:
      raise InputError(self._too_few(run, len(rows), "samples", f" of protocol.min_samples={self.least}"))
    return _train(kept, validation, self.apart, run), validation

  def _by_groups(
    self, groups: Sequence[np.ndarray], sizes: Sequence[int], draw: np.random.RandomState
  ) -> np.ndarray:
    """Which rows are held out: those in a random fraction of the groups of each feature.

    With fewer than `least` rows, the fraction grows group by group, until one group of each feature is left.
    """
    orders = [draw.permutation(size) for size in sizes]
    number = [math.ceil(self.fraction * size) for size in sizes]
    while True:
      chosen = [np.isin(of, order[:n]) for of, order, n in zip(groups, orders, number)]
      held = np.logical_and.reduce(chosen)
      growing = [i for i, (n, size) in enumerate(zip(number, sizes)) if n < size - 1]
      if held.sum() >= self.least or not growing:
        return held
      number[min(growing, key=lambda i: number[i] / sizes[i])] += 1

  def _too_few(self, run: str, size: int, unit: str, least: str = "") -> str:
    """The error text if labelled rows cannot be divided."""
    return (
      f"{run}: protocol.name=clean cannot hold out a validation part{least} ({self.fraction:g}) from {size} "
      f"labelled {unit} that are left for training; more folds, more {unit}, or protocol.name=paper"
    )
