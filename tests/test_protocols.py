import numpy as np
import pytest

from colearn_jax.data import grouping, splits
from colearn_jax.data.apart import Apart, nearest_days, nearest_km
from colearn_jax.types import InputError
from tests.helpers import kilometres, sites

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
  apart = Apart({"site": groups} if grouped else {})
  runs = splits.runs("clean", (0,), ALL, folds=5, apart=apart, validation_fraction=0.2)
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


@pytest.mark.parametrize("group_by", ["", "site", "year", "block", "site,year"])
def test_validation_parts_of_two_folds_are_as_different_as_of_two_seeds(group_by):
  site, dates, places, _ = sites(0, 1000)
  groups = grouping.features(group_by, {"site": site}, dates=dates, places=places, block_km=2000, seed=0)
  every, apart = {"train": np.arange(1000)}, Apart(groups)
  make = lambda: splits.runs("clean", range(8), every, folds=4, apart=apart, validation_fraction=0.3)
  runs = make()
  held = [set(run.validation) for run in runs]
  assert len({frozenset(one) for one in held}) > 8
  overlaps = {True: [], False: []}
  for k, run in enumerate(runs):
    for j, other in enumerate(runs[:k]):
      overlaps[run.seed == other.seed].append(len(held[k] & held[j]) / len(held[k]))
  assert np.mean(overlaps[True]) < 1.2 * np.mean(overlaps[False])
  for run, again in zip(runs, make()):
    np.testing.assert_array_equal(run.validation, again.validation)


def test_official_splits():
  parts = {"train": np.arange(60), "test": np.arange(60, 100)}
  (paper,) = splits.runs("paper", (3,), parts, folds=None)
  np.testing.assert_array_equal(paper.validation, paper.test)
  (clean,) = splits.runs("clean", (3,), parts, folds=None)
  assert sorted(np.concatenate([clean.train, clean.validation])) == list(range(60))
  # What a seed holds out stays the same: published figures depend on it.
  assert clean.validation.tolist() == [25, 34, 24, 23, 57, 1]
  own = parts | {"validation": np.arange(100, 110)}
  for name in splits.PROTOCOLS:
    (run,) = splits.runs(name, (3,), own, folds=None)
    np.testing.assert_array_equal(run.validation, own["validation"])
    assert run.fold == paper.fold == clean.fold == 0 and run.name == "seed3_fold0"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"folds": 101}, "101 folds cannot be cut from 100 samples"),
    (
      {"folds": 5, "apart": Apart({"site": np.repeat("a", 100)})},
      "5 folds cannot be cut from 1 groups of site",
    ),
    ({"folds": None}, "has no 'test', only train"),
    (
      {"folds": 2, "apart": Apart({"side": np.repeat(["north", "south"], 50)})},
      "^seed0_fold0: protocol.name=clean cannot hold out a validation part .0.1. from 1 labelled groups",
    ),
    (
      {"folds": 2, "apart": Apart({"site": np.arange(100) // 20}), "validation_fraction": 0.9},
      "^seed0_fold0: protocol.name=clean cannot hold out a validation part .0.9. from [23] labelled groups",
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
  for run in splits.runs("clean", (0,), ALL, folds=5, apart=Apart({"site": groups}), labelled=labelled):
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


PROTOCOLS = {  # protocol.group_by, protocol.folds and the other rules
  "year": ("year", "each", {"purge": 40}),
  "site and year": ("site,year", "4,each", {"purge": 20}),
  "two numbers": ("season,site", (2, 5), {}),
  "blocks": ("block", 4, {"buffer_km": 900.0}),
  "site, blocks and time": ("site,block", (3, 2), {"buffer_km": 300.0, "purge": 1}),
}


@pytest.mark.parametrize("name", splits.PROTOCOLS)
@pytest.mark.parametrize("case", PROTOCOLS)
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_keep_every_rule_for_all_pairs(seed, case, name):
  group_by, folds, rules = PROTOCOLS[case]
  site, dates, places, labelled = sites(seed)
  groups = grouping.features(group_by, {"site": site}, dates=dates, places=places, block_km=2000, seed=seed)
  apart = Apart(groups, dates=dates, places=places, **rules)
  every = {"train": np.arange(len(site))}
  runs = splits.runs(
    name, (seed,), every, folds=folds, apart=apart, labelled=labelled, validation_fraction=0.15
  )
  assert sorted(np.concatenate([run.test for run in runs])) == np.flatnonzero(labelled).tolist()
  assert [run.fold for run in runs] == list(range(len(runs)))
  unlabelled = 0
  for run in runs:
    pairs = [(run.train, run.test)]
    if name == "clean":
      pairs += [(run.train, run.validation), (run.validation, run.test)]
    for a, b in pairs:
      assert len(a) and len(b) and not set(a) & set(b)
      for of in groups.values():
        assert not set(of[a]) & set(of[b])
      if "purge" in rules:
        gap = np.abs((dates[a][:, None] - dates[b][None]).astype(int))
        assert gap.min() >= rules["purge"]
      if "buffer_km" in rules:
        assert kilometres(places[a], places[b]).min() >= rules["buffer_km"]
    held = np.concatenate([run.validation, run.test])
    assert labelled[held].all()
    # No sample is left out without a reason: each one outside breaks a rule beside a held-out sample.
    outside = np.setdiff1d(np.arange(len(site)), np.concatenate([run.train, held]))
    broken = np.zeros(len(outside), bool)
    for of in groups.values():
      broken |= np.isin(of[outside], of[held])
    if "purge" in rules:
      gap = np.abs((dates[outside][:, None] - dates[held][None]).astype(int))
      broken |= (gap < rules["purge"]).any(1)
    if "buffer_km" in rules:
      broken |= (kilometres(places[outside], places[held]) < rules["buffer_km"]).any(1)
    assert broken.all()
    unlabelled += (~labelled[run.train]).sum()
  assert unlabelled


def test_each_leaves_one_group_out_and_small_folds_only_train():
  years = np.repeat(["2015", "2016", "2017", "2018", "2019"], [30, 30, 20, 15, 5])
  make = lambda name, least: splits.runs(
    name, (0, 1), ALL, folds="each", apart=Apart({"year": years}), min_samples=least
  )
  assert [set(years[run.test]) for run in make("paper", 1)] == 2 * [{year} for year in np.unique(years)]
  some = make("paper", 15)
  assert [set(years[run.test]) for run in some] == 2 * [{year} for year in np.unique(years)[:4]]
  assert all("2019" in years[run.train] for run in some)
  assert [run.name for run in some[:4]] == [f"seed0_fold{k}" for k in range(4)]
  half = np.repeat(["2015", "2016"], 50)
  assert len(splits.runs("paper", (0,), ALL, folds="each", apart=Apart({"year": half}))) == 2
  validation = [len(run.validation) for run in make("clean", 15)]
  assert min(validation) >= 15 > min(len(run.validation) for run in make("clean", 1))


def test_rules_hold_beside_official_splits():
  dates = np.datetime64("2020-01-01") + np.arange(100).astype("timedelta64[D]")
  (run,) = splits.runs("clean", (0,), OWN, folds=None, apart=Apart(dates=dates, purge=30))
  np.testing.assert_array_equal(run.train, np.arange(31))
  np.testing.assert_array_equal(run.validation, OWN["validation"])


def test_calendar_parts_of_dates():
  days = ["2015-12-31", "2016-01-01", "2016-05-31", "2016-06-01", "2016-11-30", "1969-12-01"]
  make = lambda name, own=(): grouping.features(
    name, dict(own), dates=np.array(days, "datetime64[D]"), places=None, block_km=0, seed=0
  )
  assert make("year")["year"].tolist() == ["2015", "2016", "2016", "2016", "2016", "1969"]
  assert make("month")["month"].tolist() == ["12", "01", "05", "06", "11", "12"]
  assert make("season")["season"].tolist() == ["DJF", "DJF", "MAM", "JJA", "SON", "DJF"]
  own = np.array(list("abcdef"))
  assert list(make("site, year", {"site": own})) == ["site", "year"]
  assert make("year", {"year": own})["year"] is own  # the data set's own group comes first
  with pytest.raises(InputError, match="no group 'block', have: site, year, month, season"):
    make("block", {"site": own})


def test_a_validation_part_grows_until_one_group_is_left():
  """Of four groups of ten, 25 rows are asked for: three groups, although the fraction says one."""
  site = np.repeat(list("abcde"), 10)
  parts = {"train": np.arange(40), "test": np.arange(40, 50)}
  make = lambda least: splits.runs(
    "clean",
    (0,),
    parts,
    folds=None,
    apart=Apart({"site": site}),
    validation_fraction=0.1,
    min_samples=least,
  )
  (run,) = make(25)
  assert len(run.validation) == 30 and len(set(site[run.train])) == 1
  with pytest.raises(InputError, match="cannot hold out a validation part of protocol.min_samples=31"):
    make(31)


def test_of_two_features_the_one_with_the_smaller_share_of_groups_grows():
  """One of 10 sites and one of 4 years give 5 rows; 15 are asked for: of sites, 0.2 is below 0.25, too."""
  site, year = np.repeat(np.arange(10), 20), np.tile(np.repeat(np.arange(4), 5), 10)
  parts = {"train": np.arange(200), "test": np.array([], int)}
  apart = Apart({"site": site, "year": year})
  (run,) = splits.runs("clean", (0,), parts, folds=None, apart=apart, validation_fraction=0.1, min_samples=15)
  assert (len(set(site[run.validation])), len(set(year[run.validation]))) == (3, 1)


def test_blocks_of_a_seed_stay_the_same():
  """The folds of a published figure are cut by them."""
  places = np.array([[0.0, 0.0], [51.3, 12.4], [-33.9, 151.2], [89.9, -180.0]])
  assert grouping.blocks(places, 100, seed=7).tolist() == ["100_200", "157_133", "62_306", "200_0"]
  along = np.stack([np.full(8, 10.0), np.linspace(-180, 179.9, 8)], axis=1)
  assert grouping.blocks(along, 100, seed=7).tolist() == [
    f"111_{cell}" for cell in (0, 57, 113, 169, 225, 282, 338, 0)
  ]


def test_a_row_of_blocks_around_a_pole_has_one_cell():
  """Where it is cut to less than half of its height by the draw of the seed."""
  pole = np.array([[90.0, -179.0], [90.0, -60.0], [90.0, 0.0], [90.0, 60.0], [90.0, 179.0]])
  assert min(len(set(grouping.blocks(pole, 500, seed))) for seed in range(20)) == 1


def test_blocks_have_equal_areas_and_move_with_the_seed():
  rng = np.random.default_rng(0)
  places = np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, 40_000))), rng.uniform(-180, 180, 40_000)], 1)
  cells = grouping.blocks(places, 1000, seed=3)
  _, counts = np.unique(cells, return_counts=True)
  whole = 4 * np.pi * 6371.0088**2 / 1000**2
  assert whole < len(counts) < 1.2 * whole
  assert np.median(counts) == pytest.approx(40_000 / whole, rel=0.1)
  most = max(
    kilometres(places[cells == cell], places[cells == cell]).max() for cell in np.unique(cells)[::40]
  )
  assert 1000 < most < 1.7 * 1000
  assert (grouping.blocks(places, 1000, seed=3) == cells).all()
  same = lambda a: (a[:-1] == a[1:]).sum()
  near = np.array([[40.0, -100.0], [40.0, -99.0]])
  assert len({same(grouping.blocks(near, 200, seed)) for seed in range(20)}) == 2


@pytest.mark.parametrize(
  ("folds", "rules", "message"),
  [
    ("each", Apart(), "'each' leaves one group out at a time and needs protocol.group_by"),
    ((2, 3), Apart(), "2 numbers for 0 features in protocol.group_by"),
    ("each", Apart({"year": np.repeat("2015", 100)}), "'each' needs two groups of year, there is one"),
    (
      5,
      Apart(purge=30, dates=np.repeat(np.datetime64("2020-01-01"), 100)),
      "^seed0_fold0: no labelled sample is left for training; of 80 outside of the held-out part, 80 are "
      "nearer in time than protocol.purge=30 days",
    ),
  ],
)
def test_rules_that_leave_nothing_are_refused(folds, rules, message):
  with pytest.raises(InputError, match=message):
    splits.runs("paper", (0,), ALL, folds=folds, apart=rules)


def test_the_rules_that_leave_nothing_are_named():
  """Beside the first sample one of the others has its site, and one its year; none is near in time."""
  dates = np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "datetime64[D]")
  apart = Apart({"site": np.array([0, 0, 1]), "year": np.array([0, 1, 0])}, purge=30, dates=dates)
  two = "^seed0_fold0: .* of 2 outside of the held-out part, 1 share a site, 1 share a year$"
  with pytest.raises(InputError, match=two):
    splits.runs("paper", (0,), {"train": np.arange(3)}, folds="each", apart=apart)


def test_a_rule_counts_where_it_is_in_use():
  """Dates and places alone are no rule, and what is exactly at the distance of a buffer may train."""
  dates, places = np.array(["2020-01-01"] * 2, "datetime64[D]"), np.array([[51.0, 12.0], [51.5, 12.5]])
  rows, held = np.array([0]), np.array([1])
  assert Apart(dates=dates, places=places).conflicts(rows, held) == {}
  km = float(nearest_km(places, rows, held)[0])
  assert Apart(places=places, buffer_km=km).allowed(rows, held).tolist() == [0]
  assert Apart(places=places, buffer_km=km * 1.001).allowed(rows, held).tolist() == []


def test_what_folds_can_be_cut_by_is_what_the_data_set_has():
  have = lambda dated, located, km: grouping.available(("site",), dated=dated, located=located, block_km=km)
  calendar = ["year", "month", "season"]
  assert have(True, True, 100) == ["site", *calendar, "block"]
  assert have(False, True, 100) == ["site", "block"]
  assert have(True, False, 100) == ["site", *calendar] == have(True, True, 0)
  for dates, places, words in (
    (None, np.zeros((1, 2)), "site, block"),
    (np.zeros(1, "datetime64[D]"), None, "site, year, month, season"),
  ):
    with pytest.raises(InputError, match=f"have: {words}$"):
      grouping.features("region", {"site": np.zeros(1)}, dates=dates, places=places, block_km=100.0, seed=0)


def test_one_number_of_folds_is_that_of_each_feature():
  assert grouping.parts_of_features(4, ()) == grouping.parts_of_features(4, ("site",)) == (4,)
  assert grouping.parts_of_features("4", ("site", "year")) == (4, 4)
  assert grouping.parts_of_features("4,each", ("site", "year")) == (4, "each")


def test_small_folds_and_small_validation_parts_are_refused():
  with pytest.raises(InputError, match="protocol.min_samples: no fold has 26 labelled samples"):
    splits.runs("paper", (0,), ALL, folds=4, min_samples=26)
  make = lambda least: splits.runs(
    "clean", (0,), {"train": np.arange(100), "test": ALL["train"][:0]}, folds=None, min_samples=least
  )
  assert len(make(99)[0].validation) == 99
  with pytest.raises(InputError, match="^seed0_fold0: .* a validation part of protocol.min_samples=100 "):
    make(100)
  apart = Apart({"site": np.repeat(np.arange(50), 2).astype(str)})
  with pytest.raises(InputError, match="^seed0_fold0: .* a validation part of protocol.min_samples=49 "):
    splits.runs("clean", (0,), ALL, folds=2, apart=apart, min_samples=49)


def test_a_rule_needs_the_dates_and_places_of_all_samples():
  dates = np.array(["2020-01-01", ""], "datetime64[D]")
  with pytest.raises(InputError, match="^protocol.purge: 1 of 2 samples have no date"):
    grouping.known(dates, "date", "protocol.purge")
  with pytest.raises(InputError, match="^protocol.buffer_km: the samples of this data set have no coord"):
    grouping.known(None, "coordinates", "protocol.buffer_km")


def test_the_other_side_of_the_earth_is_half_of_its_circumference_away():
  """The chord between the points of the second pair is rounded to more than the diameter."""
  for latitude, longitude in ((0.0, -180.0), (-12.55, -21.25)):
    places = np.array([[latitude, longitude], [-latitude, longitude + 180]])
    assert nearest_km(places, np.array([0]), np.array([1])) == pytest.approx(np.pi * 6371.0088)


def test_nearest_distances_are_the_least_of_all_pairs():
  rng = np.random.default_rng(0)
  places = np.stack([rng.uniform(-90, 90, 300), rng.uniform(-180, 180, 300)], axis=1)
  places[100:200] = places[:100] + rng.normal(0, 0.001, (100, 2))
  places[:3], places[3:6] = np.nan, [[80.0, 179.99], [80.0, -179.99], [90.0, 12.0]]
  dates = np.datetime64("2000-02-29") + rng.integers(-9000, 9000, 300).astype("timedelta64[D]")
  dates[6:9] = np.datetime64("NaT", "D")
  rows, others, code = np.arange(0, 300, 2), np.arange(1, 300, 2), rng.integers(0, 9, 300)
  expected = np.nan_to_num(kilometres(places[rows], places[others]), nan=np.inf).min(1)
  np.testing.assert_allclose(nearest_km(places, rows, others), expected, rtol=1e-9, atol=1e-6)
  number = dates.astype(float)
  number[np.isnat(dates)] = np.nan
  gap = np.nan_to_num(np.abs(number[rows][:, None] - number[others][None]), nan=np.inf)
  np.testing.assert_array_equal(nearest_days(dates, rows, others), gap.min(1))
  gap[code[rows][:, None] != code[others][None]] = np.inf
  np.testing.assert_array_equal(nearest_days(dates, rows, others, code), gap.min(1))
  for nothing in (np.array([], int), np.array([1])):
    assert np.isinf(nearest_km(places, rows, nothing)).all()
  assert np.isinf(nearest_days(dates, rows, np.array([7]))).all()
  apart = Apart(buffer_km=2.0, places=places)
  assert set(apart.allowed(rows, others)) == set(rows[expected >= 2.0])
