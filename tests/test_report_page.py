"""The page of a report: it parses, needs no other file, and its figures are what its tables say."""

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from colearn_jax import report
from colearn_jax.reporting import chosen, drawing, overview, study
from colearn_jax.storage.files import write_json
from tests.report_files import write_arm, write_study

VOID = {"meta", "link", "br", "img", "hr", "input"}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
  return write_study(tmp_path_factory.mktemp("study"))


class Checked(HTMLParser):
  """Collects the elements of a page, and what is not closed in order."""

  def __init__(self):
    super().__init__()
    self.open, self.wrong, self.tags, self.ids, self.links = [], [], [], [], []
    self.cells, self.resources = [], []

  def handle_starttag(self, tag, attrs):
    own = dict(attrs)
    self.tags.append(tag)
    if "id" in own:
      self.ids.append(own["id"])
    for name in ("href", "xlink:href", "src", "srcset", "data", "action", "poster"):
      if own.get(name):
        (self.links if own[name].startswith("#") else self.resources).append(own[name])
    self.resources += re.findall(r"url\((?!#)[^)]*\)", " ".join(str(v) for v in own.values()))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    if not self.open or self.open[-1] != tag:
      self.wrong.append((tag, list(self.open)))
    else:
      self.open.pop()


def parsed(page):
  checked = Checked()
  checked.feed(page)
  checked.close()
  return checked


def test_the_page_parses_and_needs_nothing_else(planned, tmp_path):
  pytest.importorskip("matplotlib")
  report.report(planned, tmp_path)
  page = (tmp_path / "report.html").read_text()
  found = parsed(page)
  assert not found.wrong and not found.open
  assert page.startswith("<!DOCTYPE html>") and found.tags.count("h1") == 1
  assert found.resources == ["data:,"], "the empty icon, which keeps browsers from asking for one"
  assert not {"script", "iframe", "object", "embed", "audio", "video"} & set(found.tags)
  assert "@import" not in page and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
  assert len(set(found.ids)) == len(found.ids), "names differ on the whole page"
  assert {link[1:] for link in found.links} <= set(found.ids)
  assert found.tags.count("svg") == found.tags.count("figure") >= 2
  assert "color-scheme: light dark" in page and 'name="viewport"' in page
  assert drawing.INK not in page, "text in figures has the colour of the page"


def test_text_of_users_is_no_code(tmp_path):
  write_arm(tmp_path / "individual", "individual", {"<b>": np.full(6, 0.4)})
  write_arm(tmp_path, "mdico", {"<b>": np.full(6, 0.5) + np.arange(6) / 100})
  report.report(tmp_path)
  page = (tmp_path / "report/report.html").read_text()
  assert not parsed(page).wrong and "<b>" not in page and "&lt;b&gt;" in page


def test_without_matplotlib_the_page_has_no_figures_and_one_line_says_so(
  planned, tmp_path, monkeypatch, capsys
):
  for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, "matplotlib", None)  # the import fails
  assert drawing.library() is None
  report.report(planned, tmp_path)
  assert capsys.readouterr().err == f"{drawing.INSTALL}\n"
  found = parsed((tmp_path / "report.html").read_text())
  assert "svg" not in found.tags and found.tags.count("table") > 6 and not found.wrong
  assert {"report.md", "report.tex", "scores.csv"} <= {path.name for path in tmp_path.iterdir()}


def cell_with(tmp_path, content):
  write_arm(tmp_path, "mdico", {"S1": np.full(6, 0.5)})
  write_json(tmp_path / "chosen.json", content)
  return study.read(tmp_path).cells[0]


def rows(table):
  return [[field.text for field in row] for row in table.rows], [row[0].bold for row in table.rows]


def test_chosen_settings_of_a_cell(tmp_path):
  tried = [
    {"values": {"train.learning_rate": 1e-3, "model.head_layers": [8, 4]}, "score": 0.25},
    {"values": {"train.learning_rate": 1e-2}, "score": None, "error": "diverged"},
    {"values": {}, "score": 0.5},
  ]
  content = {"metric": "r2", "per": "cell", "seconds": 1.0, "candidates": tried, "chosen": 2}
  cell = cell_with(tmp_path, content)
  (table,) = chosen.tables(cell)
  assert table.header == ("settings", "validation r2", "chosen")
  assert rows(table) == (
    [
      ["train.learning_rate=0.001, model.head_layers=8,4", "0.250", "no"],
      ["train.learning_rate=0.01", "failed: diverged", "no"],
      ["defaults", "0.500", "yes"],
    ],
    [False, False, True],
  )
  section = overview._cell(None, cell, ())[0]
  assert section.title == "Chosen settings" and section.tables == (table,)


def test_chosen_settings_of_each_run(tmp_path):
  run = lambda k: {"S1": k / 10, "S2": None if k == 1 else k / 5}
  tried = [{"values": {"a": k}, "score": k / 10, "runs": {n: run(k) for n in "xyz"}} for k in range(2)]
  tried.append({"values": {"a": 2}, "score": None, "error": "diverged"})
  of = lambda s1, s2: {"S1": s1, "S2": s2}
  content = {"metric": "r2", "per": "run", "candidates": tried}
  content["chosen"] = {"x": of(1, 0), "y": of(1, 0), "z": of(0, 0)}
  (table,) = chosen.tables(cell_with(tmp_path, content))
  assert table.header == ("settings", "S1", "S2")
  assert rows(table)[0] == [
    ["a=0", "0.000 (1 of 3 runs)", "0.000 (3 of 3 runs)"],
    ["a=1", "0.100 (2 of 3 runs)", "- (0 of 3 runs)"],
    ["a=2", "failed: diverged", "failed: diverged"],
  ]
  assert rows(table)[1] == [True, True, False]


def test_chosen_settings_of_trees(tmp_path):
  run = lambda s1, s2: {
    "S1": {"chosen": s1, "scores": [0.2, 0.4]},
    "S2": {"chosen": s2, "scores": [0.6, None]},
  }
  content = {"metric": "r2", "per": "run", "refit": True, "runs": {"x": run(1, 0), "y": run(1, 0)}}
  content["candidates"] = [{"learner": "extra_trees", "min_samples_leaf": 2}, {"learner": "boosting"}]
  (table,) = chosen.tables(cell_with(tmp_path, content))
  assert table.header == ("settings", "S1", "S2")
  assert rows(table)[0] == [
    ["extra_trees min_samples_leaf=2", "0.200 (0 of 2 runs)", "0.600 (2 of 2 runs)"],
    ["boosting defaults", "0.400 (2 of 2 runs)", "- (0 of 2 runs)"],
  ]
