import numpy as np
import pytest

from colearn_jax.data import splits
from colearn_jax.types import InputError

ALL = {"train": np.arange(100)}
OWN = {"train": np.arange(60), "validation": np.arange(60, 80), "test": np.arange(80, 100)}


def test_paper_folds_are_the_published_ones():
  order = np.arange(100)
  np.random.RandomState(10).shuffle(order)
  runs = splits.runs("paper", (10,), ALL, folds=10)
  for fold, (run, test) in enumerate(zip(runs, np.array_split(order, 10))):
    assert (run.seed, run.fold, run.name) == (10, fold, f"seed10_fold{fold}")
    np.testing.assert_array_equal(run.test, test)
    np.testing.assert_array_equal(run.validation, test)
    assert sorted(np.concatenate([run.train, run.test])) == list(range(100))


def test_seeds_repeat_with_other_folds():
  runs = splits.runs("paper", (1, 2), ALL, folds=4)
  assert [(r.seed, r.fold) for r in runs] == [(s, f) for s in (1, 2) for f in range(4)]
  assert set(runs[0].test) != set(runs[4].test)


@pytest.mark.parametrize("grouped", [False, True])
def test_clean_parts_are_disjoint_and_keep_groups(grouped):
  groups = np.random.default_rng(0).integers(0, 20, 100).astype(str) if grouped else None
  runs = splits.runs("clean", (0,), ALL, folds=5, groups=groups, validation_fraction=0.2)
  assert sorted(np.concatenate([r.test for r in runs])) == list(range(100))
  for run in runs:
    parts = [run.train, run.validation, run.test]
    assert sorted(np.concatenate(parts)) == list(range(100))
    assert all(len(part) for part in parts)
    if grouped:
      a, b, c = (set(groups[part]) for part in parts)
      assert not (a & b or a & c or b & c)
    else:
      assert len(run.validation) == 16


def test_official_splits():
  parts = {"train": np.arange(60), "test": np.arange(60, 100)}
  (paper,) = splits.runs("paper", (3,), parts, folds=None)
  np.testing.assert_array_equal(paper.validation, paper.test)
  (clean,) = splits.runs("clean", (3,), parts, folds=None)
  assert sorted(np.concatenate([clean.train, clean.validation])) == list(range(60))
  own = parts | {"validation": np.arange(100, 110)}
  for name in splits.PROTOCOLS:
    (run,) = splits.runs(name, (3,), own, folds=None)
    np.testing.assert_array_equal(run.validation, own["validation"])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"folds": 101}, "101 folds cannot be cut from 100 samples"),
    ({"folds": 5, "groups": np.repeat("a", 100)}, "5 folds cannot be cut from 1 groups"),
    ({"folds": None}, "has no 'test', only train"),
    (
      {"folds": 2, "groups": np.repeat(["north", "south"], 50)},
      "^seed0_fold0: protocol.name=clean cannot hold out a validation part .0.1. from 1 labelled groups",
    ),
    ({"folds": 2, "labelled": np.arange(100) < 3}, "^seed0_fold0: .* from 1 labelled samples"),
    ({"folds": None, "parts": OWN, "labelled": np.arange(100) >= 60}, "no sample of the split 'train' has a"),
    (
      {"folds": None, "parts": OWN, "labelled": np.arange(100) < 60},
      "no sample of the split 'validation' has",
    ),
  ],
)
def test_what_cannot_be_cut_is_refused(arguments, message):
  with pytest.raises(InputError, match=message):
    splits.runs("clean", (0,), **({"parts": ALL} | arguments))


def test_a_test_split_without_labels_cannot_stop_the_training():
  parts, labelled = {"train": np.arange(60), "test": np.arange(60, 100)}, np.arange(100) < 60
  with pytest.raises(InputError, match="split 'test' has a label, .* or protocol.name=clean"):
    splits.runs("paper", (0,), parts, folds=None, labelled=labelled)
  (run,) = splits.runs("clean", (0,), parts, folds=None, labelled=labelled)
  assert len(run.test) == 40 and labelled[run.validation].all()


def test_samples_without_a_label_only_train_and_never_beside_their_group():
  labelled, groups = np.arange(100) % 4 > 0, np.repeat(np.arange(20), 5).astype(str)
  for run in splits.runs("clean", (0,), ALL, folds=5, groups=groups, labelled=labelled):
    assert labelled[run.validation].all() and labelled[run.test].all()
    free = set(groups[~labelled]) - set(groups[run.validation]) - set(groups[run.test])
    assert free and free == set(groups[run.train][~labelled[run.train]])
  plain = splits.runs("paper", (0,), ALL, folds=5, labelled=labelled)
  assert all(set(np.flatnonzero(~labelled)) <= set(run.train) for run in plain)
  assert sorted(np.concatenate([run.test for run in plain])) == np.flatnonzero(labelled).tolist()
  without = splits.runs("paper", (0,), ALL, folds=5, labelled=labelled, unsupervised=False)
  assert all(labelled[run.train].all() for run in without)
  (own,) = splits.runs(
    "paper", (0,), {"train": np.arange(60), "test": np.arange(60, 100)}, folds=None, labelled=labelled
  )
  assert len(own.train) == 60 and labelled[own.validation].all() and len(own.validation) == 30
  assert len(own.test) == 40  # those without a label are predicted
