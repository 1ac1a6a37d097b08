"""Codes, labels and dates that can be read in two ways: right, or refused in one line."""

import datetime

import numpy as np
import pyarrow
import pytest
from colearn_jax.datasets.folder.folder import read_folder, survey_folder
from colearn_jax.datasets.folder.report import report

from colearn_jax import dates
from colearn_jax.types import InputError
from tests.cases.folders import DAY, describe, examples, parquet, refused, table

COLUMNS = {  # of target_oak and target_pine: the kind of task, or the message
  "spreadsheet": (["TRUE,FALSE", "FALSE,FALSE"], "multilabel"),
  "proportions": (["12.5,87.5", "100,0"], "regression"),
  "CheXpert: -1 is unknown": (["1,-1", "0,1"], "the targets are 0, 1 and -1, which may mean that a label is"),
  "rasters: 255 is unknown": (["1,255", "0,1"], "the targets are 0, 1 and 255, which may mean"),
  "codes of crops": (["7,0", "3,1"], "several columns of whole numbers such as 3 may be amounts, or classes"),
  "Kobo: x": (["x,", "x,x"], "the columns oak, pine have to hold numbers"),
}


@pytest.mark.parametrize("rows, expected", COLUMNS.values(), ids=COLUMNS)
def test_several_target_columns(tmp_path, rows, expected):
  there = table(tmp_path, "ab")
  rows = [f"s{i},{row}" for i, row in enumerate(rows)]
  (there / "samples.csv").write_text("\n".join(["id,target_oak,target_pine", *rows]))
  if " " in expected:
    refused(there, expected)
  else:
    assert read_folder(there).table.task["kind"] == expected


def test_counts_of_several_columns_can_be_amounts(tmp_path):
  there = describe(table(tmp_path, "ab"), task={"kind": "regression"})
  (there / "samples.csv").write_text("id,target_oak,target_pine\ns0,7,0\ns1,3,31\n")
  assert [e["target"].tolist() for e in examples(there)] == [[7, 0], [3, 31]]


LABELS = {  # the labels, or the message
  "capitals": (["Oak;pine", "oak"], "'Oak' and 'oak' are two classes that differ in capitals"),
  "R: NA among them": (["oak;NA", "oak"], "is 'NA' a class, or no label"),
  "zeros": (["01;02", "02;1"], "'01' and '1' are two classes that differ in capitals, blanks or zeros"),
  "other separators": (["oak;pine", "oak|pine"], r"'oak\|pine' may be one class or several"),
  "list of codes with 255": ([[3, 255], [7], [3]], "is the class 255 a class, or no label"),
  "list of codes with -1": ([[3], [-1], [3, 7]], "is the class -1 a class, or no label"),
  "list of names": ([["oak", None], ["pine"]], ["oak", "pine"]),
  "Arrow: view of lists": (
    pyarrow.array([["b", "a"], ["a"]], pyarrow.list_view(pyarrow.string())),
    ["a", "b"],
  ),
}


@pytest.mark.parametrize("targets, expected", LABELS.values(), ids=LABELS)
def test_labels(tmp_path, targets, expected):
  there = table(tmp_path, targets) if isinstance(targets[0], str) else parquet(tmp_path, targets)
  if isinstance(expected, str):
    refused(there, expected)
  else:
    assert read_folder(there).table.task["outputs"] == expected


UNLABELLED = {  # targets, codes: what is stored
  "text for numbers": ([0, 1, 255], ["255"], [0, 1, -1]),
  "number for text": (["a", "b", "255"], 255, [0, 1, -1]),
  "whole float": (["0", "1", "255.0"], [255], [0, 1, -1]),
  "one of the labels": ([["a", "NA"], ["b"], ["NA"]], ["NA"], [(1, 0), (0, 1), None]),
  "code among labels": ([[3, 255], [7], [255]], [255], [(1, 0), (0, 1), None]),
}


@pytest.mark.parametrize("targets, codes, stored", UNLABELLED.values(), ids=UNLABELLED)
def test_codes_of_unlabelled_samples(tmp_path, targets, codes, stored):
  there = table(tmp_path, targets) if isinstance(targets[0], str) else parquet(tmp_path, targets)
  found = read_folder(describe(there, task={"unlabelled": codes})).table
  got = [sample.target for sample in found.samples]
  assert [None if t != t or isinstance(t, tuple) and t[0] != t[0] else t for t in got] == stored
  assert not found.unseen


def test_a_code_that_does_not_occur_is_mentioned(tmp_path):
  folder = read_folder(describe(table(tmp_path, ["a", "b", "Unknown"]), task={"unlabelled": ["unknown", 7]}))
  assert "unlabelled: no target is unknown, 7" in report(folder, survey_folder(folder), {"train": 3}, {})


def test_codes_with_points_keep_their_zeros(tmp_path):
  targets = ["1.1", "1.10", "2.0"] * 4
  there = table(tmp_path, targets)
  refused(there, "'1.1' and '1.10' are one number, or two codes; .*regression or multiclass")
  describe(there, task={"kind": "multiclass"})
  assert read_folder(there).table.task["outputs"] == ["1.1", "1.10", "2.0"]
  describe(there, task={"kind": "regression"})
  assert [e["target"].tolist() for e in examples(there)][:3] == [[np.float32(1.1)], [np.float32(1.1)], [2.0]]


MOMENTS = {
  "ECMWF: hours": [2018011510],
  "ECMWF: hours as text": ["2018011523"],
  "WRF: minutes": [201801151030],
  "seconds": [20180115103021],
  "several": [2018011500, 2018011523],
  "end of a day": ["2018-01-14T24:00:00"],
  "NumPy: nanoseconds as text": ["2018-01-15T10:30:00.000000000"],
  "midnight in milliseconds": [DAY * 86_400_000],
  "float32 of milliseconds": np.array([DAY * 86_400_000], np.float32),
}


@pytest.mark.parametrize("given", MOMENTS.values(), ids=MOMENTS)
def test_moments_in_one_number(given):
  assert set(dates.to_days(given, "here").tolist()) == {DAY}


DOUBTFUL = {
  "float32 of 20180117": (np.array([20180117], np.float32), "float32, which cannot hold .* exactly"),
  "float16": (np.array([DAY], np.float16), "float16, which cannot hold"),
  "hour 25": (["2018-01-15T25:00:00"], "no days such as"),
  "minute 61": (["2018-01-15T10:61"], "no days such as"),
  "NumPy: months": (np.array(["2018-01"], "datetime64[M]"), "years, months or weeks, such as 2018-01"),
  "NumPy: years": (np.array(["2018"], "datetime64[Y]"), "years, months or weeks, such as 2018"),
  "days of two years": ([300, 316, 400], "days since a day that is not given"),
  "days before and after": ([-20, 0, 20], "days since a day that is not given"),
  "Excel: 1988": ([32_200, 32_216], "days since 1970 or since 1900"),
  "year and month": ([201801, 201802], "outside of 1900 to 2100"),
  "Julian day": ([2458134], "outside of 1900 to 2100"),
  "interval": (["2018-01-15/2018-02-14"], "no days such as"),
}


@pytest.mark.parametrize("given, message", DOUBTFUL.values(), ids=DOUBTFUL)
def test_numbers_that_may_be_other_days(given, message):
  with pytest.raises(InputError, match=f"^here: .*{message}"):
    dates.to_days(given, "here")


def test_periods_and_gaps_of_pandas():
  pandas = pytest.importorskip("pandas")
  period = lambda text, unit: np.array([pandas.Period(text, unit)], object)
  assert dates.to_days(period("2018-01-15", "D"), "here").tolist() == [DAY]
  for given, message in (
    (period("2018-01", "M"), "a period of many days"),
    ([pandas.NA], "a date is missing"),
  ):
    with pytest.raises(InputError, match=message):
      dates.to_days(np.array(given, object), "here")


def test_days_of_arrow_are_days(tmp_path):
  moments = [datetime.date(2018, 1, 15), None]
  for kind in (pyarrow.date32(), pyarrow.date64(), pyarrow.timestamp("s"), pyarrow.timestamp("ns")):
    there = parquet(tmp_path, ["a", "b"], date=pyarrow.array(moments, pyarrow.date32()).cast(kind))
    assert [e["date"] for e in examples(there)] == ["2018-01-15", ""]
