"""Splits samples into training, validation and test parts, for each seed and fold.

The validation part decides about early stopping; the test part is scored. There are two protocols:

- `paper`, as in the released configurations: the test part is also the validation part. Its scores are
  optimistic. It is kept for comparison with published results.
- `clean`: the validation part is drawn from the training samples.

If groups are given (e.g. the sites of LFMC), folds and held-out validation parts never split a group.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

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
  folds: int | None,
  groups: np.ndarray | None = None,
  validation_fraction: float = 0.1,
  labelled: np.ndarray | None = None,
  unsupervised: bool = True,
) -> list[Run]:
  """All runs of a protocol, ordered by seed, then by fold.

  Only labelled samples are split; the data set's own test split is used whole, as its unlabelled samples are
  predicted. Other samples without a label are added to the training part of every run, except
  those whose group is in the run's validation or test part, and those in the data set's own validation or
  test split if that split is used.

  Args:
    protocol: one of `PROTOCOLS`.
    seeds: every seed gives a complete set of runs, with different folds and initial parameters.
    parts: rows of the data set's own splits, by name.
    folds: k for k-fold cross-validation over all rows; None uses the data set's own splits `train`, `test`
      and, if it has one, `validation`.
    groups: `[N]`, the group of each row. Rows of one group are never in two parts.
    validation_fraction: fraction of the training samples (of their groups, if groups are given) that `clean`
      holds out for validation. Not used with an official validation split.
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
    out = [_official(protocol, seed, own, groups, validation_fraction) for seed in seeds]
    out = [dataclasses.replace(run, test=parts["test"]) for run in out]
    return [_add_unlabelled(run, parts["train"], labelled, groups) for run in out] if unsupervised else out
  every = rows = np.sort(np.concatenate(list(parts.values())))
  if labelled is not None:
    rows = rows[labelled[rows]]
  units, unit = (len(rows), "samples") if groups is None else (len(np.unique(groups[rows])), "groups")
  if folds > units:
    raise InputError(f"protocol.folds: {folds} folds cannot be cut from {units} {unit}")
  out = []
  for seed in seeds:
    tests = _folds(rows, folds, groups, seed)
    for fold, test in enumerate(tests):
      rest = np.concatenate([t for i, t in enumerate(tests) if i != fold])
      train, validation = (rest, test)
      if protocol == "clean":
        train, validation = _hold_out(rest, groups, validation_fraction, seed, f"seed{seed}_fold{fold}")
      out.append(Run(seed, fold, train, validation, test))
  return [_add_unlabelled(run, every, labelled, groups) for run in out] if unsupervised else out


def _add_unlabelled(
  run: Run, rows: np.ndarray, labelled: np.ndarray | None, groups: np.ndarray | None
) -> Run:
  """The run with the unlabelled ones of `rows` added to its training part."""
  if labelled is None or labelled[rows].all():
    return run
  more = rows[~labelled[rows]]
  if groups is not None:
    more = more[~np.isin(groups[more], groups[np.concatenate([run.validation, run.test])])]
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
  protocol: str, seed: int, parts: Mapping[str, np.ndarray], groups: np.ndarray | None, fraction: float
) -> Run:
  """The run of a seed with the data set's own splits."""
  if "validation" in parts:
    return Run(seed, 0, parts["train"], parts["validation"], parts["test"])
  if protocol == "paper":
    return Run(seed, 0, parts["train"], parts["test"], parts["test"])
  train, validation = _hold_out(parts["train"], groups, fraction, seed, f"seed{seed}_fold0")
  return Run(seed, 0, train, validation, parts["test"])


def _folds(rows: np.ndarray, folds: int, groups: np.ndarray | None, seed: int) -> list[np.ndarray]:
  """The rows of each fold."""
  if groups is None:
    return np.array_split(np.random.RandomState(seed).permutation(rows), folds)
  splitter = GroupKFold(folds, shuffle=True, random_state=seed)
  return [rows[test] for _, test in splitter.split(rows, groups=groups[rows])]


def _hold_out(
  rows: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int, run: str
) -> tuple[np.ndarray, np.ndarray]:
  """Splits rows into the ones that are kept and the ones that are held out; never splits a group.

  Raises:
    InputError: there is too little for two parts; the message names the run.
  """
  units, unit = (len(rows), "samples") if groups is None else (len(np.unique(groups[rows])), "groups")
  if units < 2 or (groups is not None and math.ceil(fraction * units) >= units):
    raise InputError(
      f"{run}: protocol.name=clean cannot hold out a validation part ({fraction:g}) from {units} labelled "
      f"{unit} that are left for training; more folds, more {unit}, or protocol.name=paper"
    )
  if groups is None:
    shuffled = np.random.RandomState(seed).permutation(rows)
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    return shuffled[count:], shuffled[:count]
  splitter = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
  kept, held = next(splitter.split(rows, groups=groups[rows]))
  return rows[kept], rows[held]
