"""Targets of a folder: codes, names, lists, amounts."""

import datetime
import decimal

import numpy as np
import pytest
from colearn_jax.datasets.folder.folder import read_folder

from tests.cases.folders import NAN, describe, examples, parquet, refused, table

# Codes and names


def task(there):
  found = read_folder(there).table
  return found.task["kind"], found.task["outputs"], [sample.target for sample in found.samples]


LISTS = {
  "several labels": (["oak;pine", "pine", "beech;oak"], "multilabel", ["beech", "oak", "pine"]),
  "codes with zeros": (["01", "02", "11", "3"], "multiclass", ["01", "02", "11", "3"]),
  "EuroCrops": (["0301010100", "3301010200", "0301010100"], "binary", ["0301010100", "3301010200"]),
  "codes with exponents": (["1E5", "2E5", "A1"], "multiclass", None),
  "texts that begin like numbers": (["3a", "3b", "3a"], "binary", ["3a", "3b"]),
  "numbers with gaps": (["10", "20", "95", "10"], "multiclass", ["10", "20", "95"]),
  "amounts": (["1.5", "2", "-3e2"], "regression", ["target"]),
  "sparse classes": (["0", "1", "254", "255"] * 3, "multiclass", ["0", "1", "254", "255"]),
}


@pytest.mark.parametrize("targets, kind, outputs", LISTS.values(), ids=LISTS)
def test_codes_and_names(tmp_path, targets, kind, outputs):
  there = table(tmp_path, targets)
  if outputs is None:
    refused(there, "its target .* is not (text|a number), as most targets are; or say which in dataset.json")
    describe(there, task={"kind": kind})
    outputs = sorted(set(targets))
  assert task(there)[:2] == (kind, outputs)


PARQUET = {
  "lists of labels": ([["oak", "pine"], ["pine"], [], None], "multilabel", ["oak", "pine"]),
  "lists of codes": ([[3, 7], [7], [3]], "multilabel", ["3", "7"]),
  "multi-hot": ([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]], "multilabel", list("01234")),
  "multi-hot booleans": ([[True, False, False], [False, True, True]], "multilabel", list("012")),
  "multi-hot floats": ([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], "multilabel", list("012")),
  "vectors": ([[0.5, 1.0], [2.5, -1.0], None], "regression", list("01")),
  "decimals": ([decimal.Decimal("61.37"), decimal.Decimal("60.00")], "regression", ["target"]),
  "whole decimals": ([decimal.Decimal("1"), decimal.Decimal("2")], "binary", ["1", "2"]),
  "booleans": ([True, None, False], "binary", ["0", "1"]),
}


@pytest.mark.parametrize("targets, kind, outputs", PARQUET.values(), ids=PARQUET)
def test_columns_of_parquet_B01_B02_B14(tmp_path, targets, kind, outputs):
  there = parquet(tmp_path, targets)
  assert task(there)[:2] == (kind, outputs)
  assert len(examples(there)) == len(targets)


def test_multi_hot_lists_keep_their_values_and_take_names(tmp_path):
  there = parquet(tmp_path, [[0, 1, 1], [1, 0, 0]])
  describe(there, task={"outputs": ["oak", "pine", "beech"]})
  assert task(there) == ("multilabel", ["oak", "pine", "beech"], [(0, 1, 1), (1, 0, 0)])


@pytest.mark.parametrize("values", [(0, 1), (0.5, 1.5)])
def test_several_target_columns_reach_the_samples_B01(tmp_path, values):
  there = table(tmp_path, ["a", "b"])
  rows = [f"s{i},{values[i]},{values[1 - i]}" for i in range(2)]
  (there / "samples.csv").write_text("\n".join(["id,target_a,target_b", *rows]))
  np.testing.assert_array_equal([e["target"] for e in examples(there)], [values, values[::-1]])


TWELVE = [str(i) for i in range(20, 32)]
UNSURE = {
  "decimal commas": (["61,37", "60,00", "58,1"], "such as '61,37' have decimal commas"),
  "decimal commas among whole numbers": (["61,37", "60", "58,1"], "such as '61,37' have decimal commas"),
  "all different": (
    [f"text {i}" for i in range(12)],
    "12 different texts of 12 samples, such as 'text 0'; .*kind",
  ),
  "amounts": (TWELVE, "12 different whole numbers of 12 samples, such as 20; .*kind"),
  "-1": (["-1", "0", "1", "2"], 'is the class -1 a class, or no label.*"unlabelled": \\[-1\\]'),
  "255": (["0", "1", "255", "2"], "is the class 255 a class, or no label"),
  "-9999 among classes": (["1", "-9999", "2"], "is the class -9999 a class"),
  "-9999 among amounts": (["1.5", "-9999", "2"], "is -9999 of target an amount, or a sign"),
  "-3.4e38": (["1.5", "-3.4e38", "2"], "is -3.4e\\+38 of target an amount"),
  "capitals": (["oak", "Oak", "pine"], "'Oak' and 'oak' are two classes that differ in capitals"),
  "zeros": (["01", "02", "1"], "'01' and '1' are two classes that differ in .* zeros;"),
  "a list as text": (["['oak', 'pine']", "['oak']"], "is a list written as text; write oak;pine"),
}


@pytest.mark.parametrize("targets, message", UNSURE.values(), ids=UNSURE)
def test_what_can_be_read_in_two_ways_stops_the_build_B14_B15_B24(tmp_path, targets, message):
  refused(table(tmp_path, targets), message)


@pytest.mark.parametrize("targets", [[[0, 1], [1, 0]], [[3, 3, 7], [1, 2, 4]], [[0], [1]]])
def test_lists_that_can_be_read_in_two_ways_stop_the_build(tmp_path, targets):
  refused(
    parquet(tmp_path, targets), "may be codes of labels or one number for each output; give labels by name"
  )


def test_a_time_is_no_target(tmp_path):
  refused(
    parquet(tmp_path, [datetime.datetime(2018, 1, 15)] * 2),
    "sample s0: its target .* is no number, text or list",
  )


def test_unlabelled_codes(tmp_path):
  there = describe(table(tmp_path / "a", ["0", "1", "255", "-1"]), task={"unlabelled": [255, -1]})
  assert task(there) == ("binary", ["0", "1"], [0, 1, -1, -1])
  there = describe(table(tmp_path / "b", ["oak", "none", "pine"]), task={"unlabelled": "none"})
  assert task(there)[2] == [0, -1, 1]
  there = describe(table(tmp_path / "c", ["0.5", "-9999", "2"]), task={"unlabelled": -9999})
  np.testing.assert_array_equal(task(there)[2], [(0.5,), (NAN,), (2.0,)])
  there = describe(table(tmp_path / "d", ["0", "1", "255", "-1"]), task={"unlabelled": []})
  assert task(there)[1] == ["-1", "0", "1", "255"]


def test_numbers_of_named_classes_B13(tmp_path):
  outputs = ["oak", "pine", "beech"]
  there = describe(table(tmp_path, ["1", "2", "1"]), task={"outputs": outputs, "kind": "multiclass"})
  refused(there, 'numbers 1 to 2, which may count the 3 outputs from 0 or from 1; .*"1": "oak"')
  describe(there, task={"kind": "multiclass", "outputs": dict(zip("123", outputs))})
  assert task(there) == ("multiclass", outputs, [0, 1, 0])
  there = describe(table(tmp_path / "b", ["1", "3", "2"]), task={"outputs": outputs})
  assert task(there)[2] == [0, 2, 1]  # only from 1 do they fit
  there = describe(table(tmp_path / "c", ["0", "2", "1"]), task={"outputs": outputs})
  assert task(there)[2] == [0, 2, 1]
  there = describe(
    table(tmp_path / "d", ["10", "30", "20"]), task={"outputs": {"10": "a", "20": "b", "30": "a"}}
  )
  assert task(there) == ("binary", ["a", "b"], [0, 0, 1])
