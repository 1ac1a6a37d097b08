"""The report of a study and of a single run: what is read, compared and written."""

import csv
import json
import shutil

import numpy as np
import pytest

from benchmarks import kept_scores
from colearn_jax import report
from colearn_jax.reporting import comparisons, study, tables
from colearn_jax.storage import files
from colearn_jax.types import InputError
from tests.report_files import NOISE, write_arm, write_study


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
  return write_study(tmp_path_factory.mktemp("study"))


def rows_of(path):
  return list(csv.DictReader(path.read_text().splitlines()))


def test_fixed_comparisons_and_their_correction(planned):
  found = comparisons.fixed(study.read(planned))
  assert [(one.cell.name, one.arm, one.against, one.predictor) for one in found] == [
    ("site/bands", "co", "alone", "S1"),
    ("site/bands", "co", "alone", "S2"),
    ("site/bands", "co", "context", "S1"),
    ("site/all", "co", "fusion", "S1"),
  ]
  first = found[0]
  np.testing.assert_allclose(first.paired.mean, 0.1025)
  # Two seeds of three folds: 1/(3·2) + 1/(3 - 1).
  np.testing.assert_allclose(first.paired.factor, 1 / 6 + 1 / 2)
  np.testing.assert_allclose(first.adjusted, 4 * first.paired.p)  # the smallest of four
  # The second smallest, which is third in the plan. The other two have no p-value.
  assert first.paired.p < found[2].paired.p and np.isnan([found[1].paired.p, found[3].adjusted]).all()
  np.testing.assert_allclose(found[2].adjusted, max(3 * found[2].paired.p, first.adjusted))
  assert found[3].paired is None and found[3].note == "fusion is not finished" and np.isnan(found[3].adjusted)
  # `context` has one predictor, which is compared with that of each sensor.
  np.testing.assert_allclose(found[2].paired.mean, 0.0525)


def test_what_cannot_be_compared_is_said(planned, tmp_path):
  values = np.full(6, 0.5)
  write_arm(tmp_path, "mdico", {"S1": values})
  write_arm(tmp_path / "individual", "individual", {"S1": values}, samples=29)
  assert comparisons.fixed(study.read(tmp_path))[0].note == "not the same test samples"
  write_arm(tmp_path / "individual", "individual", {"S1": values}, group_by="")
  assert comparisons.fixed(study.read(tmp_path))[0].note == "other group_by"
  # Runs of both, matched by seed and fold whatever their order: here the baseline lacks a seed.
  runs = {f"{f}": {"seed": 11, "fold": f, "ablation": ""} for f in (2, 1, 0)}
  facts = {"timing": {"runs": runs}, "seeds": (11,)}
  write_arm(tmp_path, "mdico", {"S1": np.arange(6.0)})
  write_arm(tmp_path / "individual", "individual", {"S1": np.array([3.0, 2.0, 1.0])}, **facts)
  pair = comparisons.fixed(study.read(tmp_path))[0].paired
  assert (pair.n, pair.mean) == (3, np.mean([5 - 3, 4 - 2, 3 - 1]))


def test_others_are_compared_with_the_baseline_and_not_marked(planned):
  read = study.read(planned)
  fixed = comparisons.fixed(read)
  rest = comparisons.others(read.cells[0], fixed)
  assert {(one.arm, one.predictor) for one in rest} == {
    ("co", "ensemble"),
    ("trees", "S1"),
    ("trees", "S2"),
    ("context", "S1"),
    ("context", "S2"),
  } | {("context", "ensemble")}
  assert all(np.isnan(one.adjusted) for one in rest)


def test_ranks(planned):
  """`fusion` is not finished everywhere and has no predictor of one sensor, so that it is not ranked."""
  found = comparisons.ranks(study.read(planned))
  assert found.blocks == 3 and list(found.ranks) == ["co", "alone", "trees", "context"]
  assert found.ranks["co"] == 1.0 and found.ranks["trees"] == 4.0


def test_files_of_a_study(planned, tmp_path):
  paths = report.report(planned, tmp_path)
  text = (tmp_path / "report.md").read_text()
  assert text.startswith("# a study\n\n4 comparisons were fixed beforehand: after Holm's correction ")
  assert "1 have no result yet" in text and "the fusion (too few samples)" in text
  assert "| the co | **0.4" in text and "| the context | 0.3" in text
  assert "Friedman test" in text and "The 3 cells come from 1 data set (lfmc), so" in text
  assert text.count("Bouckaert") == 1
  numbers = rows_of(tmp_path / "comparisons.csv")
  assert [row["fixed"] for row in numbers[:5]] == ["1", "1", "1", "1", "0"]
  np.testing.assert_allclose(float(numbers[0]["difference"]), 0.1025)
  score = rows_of(tmp_path / "scores.csv")[0]
  assert (score["cell"], score["arm"], score["predictor"], score["metric"]) == (
    "site/bands",
    "co",
    "S1",
    "r2",
  )
  assert (score["runs"], score["seconds"]) == ("6", "75.0")
  np.testing.assert_allclose(float(score["mean"]), np.mean(0.4025 + NOISE[0]))
  latex = (tmp_path / "report.tex").read_text()
  assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") > 6
  assert r"R$^2$" in latex and r"\textbf{" in latex
  assert {path.name for path in paths} >= {"report.md", "report.tex", "scores.csv", "comparisons.csv"}


def test_one_run_has_no_deviation(tmp_path):
  runs = {"timing": {"runs": {"a": {"seed": 1, "fold": 0}}}, "seeds": (1,), "folds": 1, "split": "official"}
  write_arm(tmp_path, "mdico", {"S1": [0.5]}, **runs)
  write_arm(tmp_path / "individual", "individual", {"S1": [0.4]}, **runs)
  report.report(tmp_path)
  text = (tmp_path / "report/report.md").read_text().partition("## How to read")[0]
  assert "±" not in text and "| mdico | **0.500** |" in text and "+0.100" in text
  assert "All runs have the same test part" in text


def test_nothing_to_report(tmp_path):
  with pytest.raises(InputError, match="no study and no finished run"):
    report.report(tmp_path)
  (tmp_path / "study.json").write_text('{"name": "x", "cells": []}')
  with pytest.raises(InputError, match="missing or wrong entry 'comparisons'"):
    report.report(tmp_path)


def test_texts_of_numbers():
  assert [tables.number(v) for v in (0.12345, 12.345, 123.45, -0.5, None, float("nan"))] == [
    *("0.123", "12.35", "123.5", "-0.500", "-", "-")
  ]
  assert tables.number(0.02, sign="+") == "+0.020"
  assert [tables.duration(v) for v in (1.23, 42, 200, 3900, None)] == [
    *("1.2 s", "42 s", "3 min 20 s", "1 h 05 min", "-")
  ]
  assert [tables.probability(p) for p in (0.00001, 0.0321)] == ["<0.001", "0.032"]


def test_special_characters():
  own = tables.table("a_b", ["x|y", "n"], [["<b>&_%", tables.Entry("1 ± 2", True)]], ["see #1"])
  assert r"| \<b\>&\_% | **1 ± 2** |" in tables.markdown(own) and r"| x\|y | n |" in tables.markdown(own)
  assert r"$<$b$>$\&\_\% & \textbf{1 $\pm$ 2} \\" in tables.latex(own) and r"see \#1" in tables.latex(own)
  assert "&lt;b&gt;&amp;_%" in tables.as_html(own) and "<strong>1 ± 2</strong>" in tables.as_html(own)


def test_kept_scores_give_the_tests_of_the_report(planned, tmp_path):
  """A study that is trained in two parts, from one table of the scores of all runs."""
  plan = files.read_json(planned / "study.json")
  cell, table = plan["cells"][0], tmp_path / "kept.csv"
  for part in (["co", "trees"], ["co", "alone"]):
    for arm in part:
      shutil.copytree(planned / cell["name"] / arm, tmp_path / part[1] / cell["name"] / arm)
    own = [arm for arm in cell["arms"] if arm["name"] in part]
    whole = plan | {"cells": [cell | {"arms": own}], "comparisons": []}
    (tmp_path / part[1] / "study.json").write_text(json.dumps(whole))
    kept_scores.write(table, kept_scores.read(table) | kept_scores.finished(tmp_path / part[1]))
  rows = kept_scores.compared(kept_scores.read(table), "alone")
  assert len(rows) == 8 and [row["runs"] for row in rows] == [6] * 8
  tested = {(row["arm"], row["predictor"]): row for row in rows if "p" in row}
  assert set(tested) == {("co", "S1"), ("co", "S2"), ("co", "ensemble"), ("trees", "S1"), ("trees", "S2")}
  for (arm, predictor), row in tested.items():
    want = comparisons.compare(study.read(planned).cells[0], arm, "alone", predictor).paired
    np.testing.assert_allclose(row["difference"], want.mean, atol=1e-5)
    if arm == "trees":  # the other differences are nearly constant
      np.testing.assert_allclose(row["p"], want.p, rtol=0.01)
  assert kept_scores.table(rows).splitlines()[2].startswith("| co | S1 | 6 | 0.4")
