"""Evaluation protocols: which samples train, which stop the training, and which are scored.

`paper` is the protocol of the released configurations: the part that is scored also stops the training, a
flattering choice that is kept for comparison. `clean` draws a validation part of its own from what is left
for training, and keeps groups (such as the sites of LFMC) together in every cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from colearn_jax.types import InputError

PROTOCOLS = ("paper", "clean")


@dataclasses.dataclass(frozen=True)
class Run:
  """One training: its seed and fold, the rows of its three parts, and its ablation, if it is one."""

  seed: int
  fold: int
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  ablation: str = ""

  @property
  def name(self) -> str:
    """As in the work directory, e.g. `seed10_fold3`, or `seed10_fold3_contrastive_off`."""
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
  """All trainings of a protocol, seed by seed and fold by fold.

  Only labelled samples are cut into parts. The others join every training part, but for those whose group
  stands in another part of that run, or which the data set itself keeps for validation or test.

  Args:
    protocol: one of `PROTOCOLS`.
    seeds: each repeats the whole, with other folds and other initial values.
    parts: rows of the data set's own splits by name.
    folds: k, for k-fold cross validation over all rows; None takes the data set's own `train`, `test` and
      (where there is one) `validation`.
    groups: `[N]`, rows of one group never stand in two parts.
    validation_fraction: of what is left for training (its groups, where there are any) that `clean` draws
      for validation, where the data set has no such split.
    labelled: `[N]` bool, which samples have a target; all by default.
    unsupervised: whether samples without one take part.

  Raises:
    InputError: more folds than samples or groups; no such split.
  """
  if folds is None:
    if missing := [name for name in ("train", "test") if name not in parts]:
      raise InputError(
        "protocol.split: 'official' needs the data set's own splits train and test; "
        f"it has no {missing[0]!r}, only {', '.join(sorted(parts))}"
      )
    own = parts if labelled is None else {name: rows[labelled[rows]] for name, rows in parts.items()}
    out = [_official(protocol, seed, own, groups, validation_fraction) for seed in seeds]
    return [_joined(run, parts["train"], labelled, groups) for run in out] if unsupervised else out
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
        train, validation = _hold_out(rest, groups, validation_fraction, seed)
      out.append(Run(seed, fold, train, validation, test))
  return [_joined(run, every, labelled, groups) for run in out] if unsupervised else out


def _joined(run: Run, rows: np.ndarray, labelled: np.ndarray | None, groups: np.ndarray | None) -> Run:
  """The run with those of these rows that have no label in its training part."""
  if labelled is None or labelled[rows].all():
    return run
  more = rows[~labelled[rows]]
  if groups is not None:
    more = more[~np.isin(groups[more], groups[np.concatenate([run.validation, run.test])])]
  return dataclasses.replace(run, train=np.concatenate([run.train, more]))


def _official(protocol, seed, parts, groups, fraction) -> Run:
  if "validation" in parts:
    return Run(seed, 0, parts["train"], parts["validation"], parts["test"])
  if protocol == "paper":
    return Run(seed, 0, parts["train"], parts["test"], parts["test"])
  return Run(seed, 0, *_hold_out(parts["train"], groups, fraction, seed), parts["test"])


def _folds(rows: np.ndarray, folds: int, groups: np.ndarray | None, seed: int) -> list[np.ndarray]:
  if groups is None:
    return np.array_split(np.random.RandomState(seed).permutation(rows), folds)
  splitter = GroupKFold(folds, shuffle=True, random_state=seed)
  return [rows[test] for _, test in splitter.split(rows, groups=groups[rows])]


def _hold_out(rows: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int):
  """Rows without the held-out part, and that part; whole groups where there are groups."""
  if groups is None:
    shuffled = np.random.RandomState(seed).permutation(rows)
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    return shuffled[count:], shuffled[:count]
  splitter = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
  kept, held = next(splitter.split(rows, groups=groups[rows]))
  return rows[kept], rows[held]
