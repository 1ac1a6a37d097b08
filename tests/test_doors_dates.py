"""Dates in every convention, and options that need dates or masks, whatever the lengths of the series."""

import datetime

import numpy as np
import pytest

from colearn_jax import dates
from colearn_jax.types import InputError
from tests.cases.folders import DAY, NAN, describe, examples, table, used

# Dates


def moments(*days):
  return np.array(days, object)


DATES = {
  "ISO": ["2018-01-15"],
  "time": ["2018-01-15T10:30:00"],
  "blank": ["2018-01-15 10:30:00.123"],
  "UTC": ["2018-01-15T23:30:00Z"],
  "zone": ["2018-01-14T23:30:00-02:00"],
  "zone without colon": ["2018-01-16T01:30:00+0200"],
  "text of digits": ["20180115"],
  "Sentinel": ["20180115T103021"],
  "points": ["2018.01.15"],
  "slashes": ["2018/01/15"],
  "underscores": ["2018_01_15"],
  "one digit": ["2018-1-15"],
  "day of the year": ["2018-015"],
  "Landsat": ["2018015"],
  "PASTIS": [20180115],
  "int32": np.array([20180115], np.int32),
  "whole float": [20180115.0],
  "number of a day of the year": [2018015],
  "days": [DAY],
  "seconds": [DAY * 86400 + 5],
  "milliseconds of Earth Engine": [DAY * 86_400_000],
  "milliseconds as text": [str(DAY * 86_400_000)],
  "nanoseconds of pandas": [DAY * 86_400 * 10**9],
  "datetime64[D]": np.array(["2018-01-15"], "datetime64[D]"),
  "datetime64[ns]": np.array(["2018-01-15T10:00"], "datetime64[ns]"),
  "bytes": np.array([b"2018-01-15"]),
  "objects": moments(datetime.date(2018, 1, 15)),
  "objects with times": moments(datetime.datetime(2018, 1, 15, 23)),
  "objects with zones": moments(
    datetime.datetime(2018, 1, 15, 23, tzinfo=datetime.timezone(datetime.timedelta(hours=-1)))
    - datetime.timedelta(hours=2)
  ),
  "Python's texts": moments("2018-01-15"),
  "StringDType": np.array(["2018-01-15"], np.dtypes.StringDType()),
}


@pytest.mark.parametrize("given", DATES.values(), ids=DATES)
def test_dates_of_every_convention_are_the_same_day(given):
  np.testing.assert_array_equal(dates.to_days(given, "here"), np.array([DAY], np.int32), strict=True)


@pytest.mark.parametrize(
  "given, message",
  [
    (["15/01/2018"], "may mean two days"),
    (["01/15/2018"], "may mean two days"),
    (["15.01.18"], "may mean two days"),
    (["2018"], "no days such as"),
    (["2018-01"], "no days such as"),
    (["today"], "no days such as"),
    ([""], "no days such as"),
    (["2018-02-30"], "no days such as"),
    ([20180230], "no days such as"),
    (["2018-400"], "no days such as"),
    ([2016, 2017, 2018], "may be years"),
    ([15, 46, 74], "days of a year"),
    ([43115, 43146], "since 1970 or since 1900"),
    ([0.5], "no days such as"),
    ([NAN], "missing"),
    (np.array(["NaT"], "datetime64[D]"), "missing"),
    (["2150-01-01"], "outside of 1900 to 2100"),
    (np.array(["1850-01-01"], "datetime64[D]"), "outside of 1900 to 2100"),
    ([20180115, DAY], "outside of 1900 to 2100"),
    ([[DAY]], "shape"),
  ],
)
def test_dates_that_may_be_others_are_refused(given, message):
  with pytest.raises(InputError, match=f"^here: .*{message}"):
    dates.to_days(given, "here")


def test_units_and_calendars():
  pytest.importorskip("cftime")
  days = lambda values, units, calendar=None: dates.to_days(
    np.array(values), "here", units, calendar
  ).tolist()
  assert days([0, 31], "days since 2018-01-15") == [DAY, DAY + 31]
  assert days([36], "hours since 2018-01-14 00:00:00", "proleptic_gregorian") == [DAY]
  assert days([59], "days since 2020-01-01", "noleap") == days([60], "days since 2020-01-01")
  with pytest.raises(InputError, match="no days such as"):
    days([59], "days since 2018-01-01", "360_day")  # 30 February


@pytest.mark.parametrize("form", ["int", "text"])
def test_dates_of_pastis_and_their_months_B06(tmp_path, form):
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  for i in range(2):
    steps = [f"2018{m:02d}15" for m in range(1, 13 - i)]
    given = np.array(steps if form == "text" else list(map(int, steps)))
    np.savez(there / f"S2/s{i}.npz", values=np.repeat(np.arange(1.0, 13 - i)[:, None], 2, 1), dates=given)
  one, two = used(there, "S2", method="month")
  np.testing.assert_array_equal(one[:, 0], np.arange(1.0, 13))
  np.testing.assert_array_equal(two[:, 0], [*range(1, 12), NAN])


@pytest.mark.parametrize("version", [2, 3])
def test_texts_in_zarr_B54(tmp_path, version):
  zarr = pytest.importorskip("zarr")
  there = table(tmp_path, "ab")
  (there / "S2").mkdir()
  for i in range(2):
    group = zarr.open_group(str(there / f"S2/s{i}.zarr"), mode="w", zarr_format=version)
    group.create_array("values", shape=(3 - i, 2), dtype="f4")[:] = 1
    group.create_array("dates", shape=(3 - i,), dtype=str)[:] = np.array(
      [f"2018-0{m}-15" for m in range(1, 4 - i)], dtype=object
    )
  assert examples(there)[0]["dates"]["S2"].tolist() == [DAY, DAY + 31, DAY + 59]


# Options do not depend on lengths


def test_views_of_other_dates_do_not_join_B04(tmp_path):
  there = table(tmp_path, "ab")
  for view, shift in (("S1", 0), ("S2", 100)):
    (there / view).mkdir()
    for i in range(2):
      days = (np.arange(6) * 10 + 17_600 + shift).astype("datetime64[D]")
      np.savez(there / view / f"s{i}.npz", values=np.ones((6, 2), np.uint8), dates=days)
  with pytest.raises(InputError, match="S1_S2 cannot join S1 and S2, whose dates differ in sample s0"):
    used(there, "S1_S2")
  assert used(there, "S1_S2", method="month")[0].shape == (12, 4)
  assert used(there, "S1")[0].dtype == np.uint8  # nothing changes: it stays as it is stored
  np.testing.assert_array_equal(used(there, "S1", lengths={"S1": 8})[0][:2], np.full((2, 2), NAN))
  assert used(there, "S1", lengths={"S1": 4})[0].shape == (4, 2)


def masked(there, view="S2", shape=(6, 3)):
  (there / view).mkdir(parents=True)
  (there / "hidden").mkdir()
  table(there, "ab")
  for i in range(2):
    values, mask = (
      np.arange(np.prod(shape), dtype=np.float32).reshape(shape),
      np.zeros((*shape[:-1], 1), np.uint8),
    )
    mask[1] = 100
    np.save(there / view / f"s{i}.npy", values)
    np.save(there / "hidden" / f"s{i}.npy", mask)
  return describe(there, views={view: {"mask": "hidden"}, "hidden": {"bands": ["cloud"]}})


def test_masks_do_not_need_series_of_different_lengths_B05(tmp_path):
  there = masked(tmp_path)
  got = used(there, "S2", masked_above={"cloud": 50})[0]
  values = np.arange(18.0).reshape(6, 3)
  np.testing.assert_array_equal(got, [[NAN] * 3, values[0], *values[2:]])
  np.testing.assert_array_equal(used(there, "S2")[0], values)
  with pytest.raises(InputError, match="'fog' is not allowed; .*: cloud"):
    used(there, "S2", masked_above={"fog": 50})
  with pytest.raises(InputError, match="'cloud' is not allowed; .*: there is none here"):
    used(there, "x", masked_above={"cloud": 50})


def test_masks_of_images(tmp_path):
  image = used(masked(tmp_path, "photo", (4, 5, 3)), "photo", masked_above={"cloud": 50})[0]
  assert image.shape == (4, 5, 3) and np.isnan(image[1]).all() and not np.isnan(image[[0, 2, 3]]).any()


def test_months_need_dates_whatever_the_lengths(tmp_path):
  there = table(tmp_path, "ab")
  np.save(there / "S2.npy", np.arange(12.0).reshape(2, 3, 2))
  with pytest.raises(InputError, match="'month' is not allowed; pad, for view S2 has no dates"):
    used(there, "S2", method="month")
  assert used(there, "x", method="month")[0].shape == (3,)
  describe(there, views={"S2": {"dates": ["20180115", "2018-03-01", "2018-01-31"]}})
  got = used(there, "S2", method="month")[1]
  np.testing.assert_array_equal(got[:3], [[8, 9], [NAN, NAN], [8, 9]])


def test_a_sample_without_one_of_two_joined_views(tmp_path):
  there = table(tmp_path, "ab")
  for view, count in (("S1", 2), ("S2", 1)):
    (there / view).mkdir()
    for i in range(count):
      np.savez(there / view / f"s{i}.npz", values=np.ones((2, 1)), dates=[DAY, DAY + 1])
  got = used(there, "S1_S2")[1]
  np.testing.assert_array_equal(got, [[1, NAN], [1, NAN]])
