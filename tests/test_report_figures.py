"""What the figures of a report show: the values of their artists are the right ones."""

import json

import numpy as np
import pytest

from colearn_jax.reporting import charts, drawing, figures, overview, predictions
from colearn_jax.reporting.comparisons import fixed, ranks
from colearn_jax.reporting.document import Figure
from colearn_jax.reporting.predictions import Predicted
from colearn_jax.reporting.statistics import Paired, Ranking
from colearn_jax.reporting.study import Arm, Cell, read
from colearn_jax.types import Task
from tests.report_files import write_arm, write_study

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
  return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
  """The axes of every figure that is finished, by caption, before it is closed."""
  kept = {}

  def finish(plt, figure, caption):
    kept[caption] = figure.axes
    figure.canvas.draw()  # so that ticks have their labels
    plt.close(figure)
    return Figure(caption, "<svg></svg>")

  monkeypatch.setattr(charts, "finish", finish)
  with drawing.style(drawing.library()):
    yield kept


def lines(ax):
  return [np.array(line.get_xydata()) for line in ax.lines if len(line.get_xydata())]


def texts(ax):
  return [text.get_text() for text in ax.texts]


def test_learning_curves(drawn):
  train, validation = np.array([3.0, 2.0, 1.0]), np.array([4.0, np.nan, 2.5])
  charts.learning_curve(plt, {"S1": (train, validation)}, "main", "c")
  ax = drawn["c"][0]
  solid, dashed = ax.lines
  np.testing.assert_array_equal(solid.get_xydata(), np.column_stack([[1, 2, 3], train]))
  np.testing.assert_array_equal(dashed.get_ydata(), validation)
  assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
  assert solid.get_color() == dashed.get_color() and ax.get_legend().get_texts()[0].get_text() == "S1"


def test_the_log_is_averaged_over_the_runs_of_an_epoch():
  """A run that stopped earlier has no part in later epochs, and runs of an ablation have their own curves."""
  row = lambda run, epoch, value: json.dumps(
    {
      "run": run,
      "epoch": epoch,
      "train/main/S1": value,
      "validation/main/S1": value + 1,
      "train/objective": 9.0,
    }
  )
  log = [row("seed1_fold0", 1, 1.0), row("seed1_fold0", 2, 2.0), row("seed1_fold1", 1, 5.0)]
  log += [row("seed1_fold0_off", 1, 100.0)]
  found = figures.learning_curves("\n".join(log), "")
  assert list(found) == ["objective", "main"]
  np.testing.assert_array_equal(found["main"]["S1"], [[3.0, 2.0], [4.0, 3.0]])
  np.testing.assert_array_equal(figures.learning_curves("\n".join(log), "off")["main"]["S1"][0], [100.0])


def test_differences_of_the_study(planned, drawn):
  study = read(planned)
  compared = fixed(study)
  overview._whole(drawing.library(), study, compared)
  caption = next(name for name in drawn if name.startswith("Mean differences"))
  ax, known = drawn[caption][0], [one for one in compared if one.paired is not None]
  markers = [line for line in ax.lines if line.get_marker() == "o"]
  assert [(m.get_xdata()[0], m.get_ydata()[0]) for m in markers] == [
    (one.paired.mean, k) for k, one in enumerate(known)
  ]
  bars = [line.get_xdata() for line in ax.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2]
  intervals = [[one.paired.low, one.paired.high] for one in known if np.isfinite(one.paired.low)]
  np.testing.assert_allclose(bars[: len(intervals)], intervals)
  filled = [m.get_markerfacecolor() != "none" for m in markers]
  assert filled == [one.adjusted < 0.05 for one in known] and any(filled) and not all(filled)
  labels = [t.get_text() for t in ax.get_yticklabels()]
  assert (
    labels[0] == "site, bands, S1\nthe co − the alone" and ax.get_xlabel() == "" and "r2" in ax.get_title()
  )


def test_gains_along_the_axes_of_cells(planned, drawn, tmp_path):
  """Cells at 0 and 1 of the first axis, for two values of the second."""
  own = json.loads((planned / "study.json").read_text())
  first = own["cells"][0]
  places = {"a": (0.0, 100), "b": (1.0, 100), "c": (0.0, 300)}
  own["cells"] = [
    first | {"name": name, "axes": dict(zip(("share", "labels"), at))} for name, at in places.items()
  ]
  own["comparisons"] = [
    {"cell": name, "arm": "co", "against": "alone", "predictors": ["S1"]} for name in places
  ]
  (tmp_path / "study.json").write_text(json.dumps(own))
  for name, gain in zip(places, (0.1, 0.2, 0.3)):
    near = 0.5 + 0.01 * np.arange(6)
    write_arm(tmp_path / name / "co", "mdico", {"S1": near + gain + 0.001 * np.arange(6), "S2": near})
    write_arm(tmp_path / name / "alone", "individual", {"S1": near, "S2": near})
  compared = fixed(read(tmp_path))
  overview._whole(drawing.library(), read(tmp_path), compared)
  caption = "the co − the alone, S1: mean differences with corrected 95 % intervals"
  ax = drawn[caption][0]
  assert ax.get_xlabel() == "share" and ax.get_title() == "S1: difference in r2"
  assert [text.get_text() for text in ax.get_legend().get_texts()] == ["100 labels", "300 labels"]
  few, more = lines(ax)[:2]
  np.testing.assert_allclose(few[:, 0], [0, 1], atol=0.02)
  np.testing.assert_allclose(few[:, 1], [0.1025, 0.2025], atol=1e-6)
  np.testing.assert_allclose(more[:, 1], [0.3025], atol=1e-6)
  low, high = ax.collections[0].get_segments()[0][:, 1]
  pair = compared[0].paired
  np.testing.assert_allclose((low, high), (pair.low, pair.high))


def test_critical_differences(planned, drawn):
  study = read(planned)
  found = ranks(study)
  titles = {name: arm.title for name, arm in study.cells[0].arms.items()}
  charts.critical_differences(plt, found, titles, "c")
  ax = drawn["c"][0]
  dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
  assert dots == sorted(found.ranks.values())
  assert texts(ax)[0] == f"the co {found.ranks['co']:.2f}"
  assert texts(ax)[-1] == f"critical difference {found.distance:.2f}"
  scale = ax.lines[-1].get_xdata()
  np.testing.assert_allclose(scale[1] - scale[0], found.distance)


def test_bars_join_methods_that_are_not_told_apart(drawn):
  ranks_of = {"a": 1.0, "b": 1.5, "c": 3.5}
  found = Ranking(ranks_of, 5, 8.0, 0.01, 1.2)
  charts.critical_differences(plt, found, {name: name for name in ranks_of}, "c")
  bars = [line.get_xdata() for line in drawn["c"][0].lines if line.get_linewidth() == 3]
  assert len(bars) == 1 and bars[0][0] <= 1.0 and 1.5 <= bars[0][1] < 3.5


def test_a_difference_without_an_interval(drawn):
  pair = Paired(1, 0.5, *[float("nan")] * 7, 1.0)
  assert np.isnan(pair.low)
  charts.differences(plt, {"one": (pair, False)}, "t", "c")
  assert len(lines(drawn["c"][0])) == 2  # the zero and the dot


TASK = Task("multiclass", ("wheat", "maize", "a crop with a long name"))
TRUE = np.array([0, 0, 1, 1, 2, 2])
P = np.array(
  [[0.9, 0.1, 0.0], [0.4, 0.5, 0.1], [0.2, 0.7, 0.1], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]]
)


def test_confusion_has_the_truth_in_rows(drawn):
  counts = np.array([[5, 1, 0], [2, 7, 1], [0, 0, 0]])
  charts.confusion(plt, counts, TASK.outputs, "S1", "c")
  ax = drawn["c"][0]
  assert texts(ax) == ["5", "1", "0", "2", "7", "1", "0", "0", "0"]
  share = ax.collections[0].get_array().reshape(3, 3)
  np.testing.assert_allclose(share, [[5 / 6, 1 / 6, 0], [0.2, 0.7, 0.1], [0, 0, 0]])
  assert [t.get_text() for t in ax.get_yticklabels()] == ["wheat", "maize", "a crop with a…"]
  assert ax.get_ylabel() == "true" and ax.get_xlabel() == "predicted"
  assert ax.get_ylim() == (3.0, 0.0), "the first class is at the top"


def test_predicted_against_true(drawn):
  true, predicted = np.array([1.0, 2.0, 5.0]), np.array([1.5, 1.0, 6.0])
  charts.predicted_against_true(plt, true, predicted, "S1", "(%)", "c")
  ax = drawn["c"][0]
  np.testing.assert_array_equal(ax.collections[0].get_offsets(), np.column_stack([true, predicted]))
  np.testing.assert_array_equal(lines(ax)[0], [[1, 1], [6, 6]])
  assert (ax.get_xlabel(), ax.get_ylabel()) == ("true (%)", "predicted (%)")


def test_probabilities_and_reliability(drawn):
  found = Predicted(np.array(list("abcdef")), np.zeros(6, int), TRUE, P)
  p, event = predictions.certainty(TASK, found)
  np.testing.assert_allclose(p, P.max(1))
  np.testing.assert_array_equal(event, [True, False, True, True, True, False])
  charts.probabilities(plt, {"MDiCo": p}, "S1", "probability", "h")
  values, edges, _ = drawn["h"][0].patches[0].get_data()
  assert len(values) == 20 and values.sum() == pytest.approx(1.0)
  assert values[np.searchsorted(edges, 0.9, "right") - 1] == pytest.approx(1 / 6)
  mean, frequency, error = predictions.calibration(p, event)
  # Bins: 0.4 (hit), 0.5 (miss), 0.6 (miss), 0.7 (hit), 0.9 and 1.0 (hits).
  np.testing.assert_allclose(mean, [0.4, 0.5, 0.6, 0.7, 0.95])
  np.testing.assert_allclose(frequency, [1, 0, 0, 1, 1])
  assert error == pytest.approx((0.6 + 0.5 + 0.6 + 0.3 + 2 * 0.05) / 6)
  charts.reliability(plt, {"MDiCo": (mean, frequency, error)}, "S1", "probability", "r")
  np.testing.assert_allclose(lines(drawn["r"][0])[1], np.column_stack([mean, frequency]))
  assert f"error {error:.3f}" in drawn["r"][0].get_legend().get_texts()[0].get_text()


def test_scores_of_classes(drawn):
  charts.per_class(plt, {"A": np.array([0.1, np.nan, 0.9])}, TASK.outputs, "S1", "F1", "c")
  np.testing.assert_array_equal(lines(drawn["c"][0])[0], [[0.1, 0], [np.nan, 1], [0.9, 2]])


def test_maps_have_the_longitude_across(drawn):
  places, error = np.array([[48.0, 11.0], [50.0, 8.0]]), np.array([3.0, 1.0])
  charts.error_map(plt, places, error, "S1", "error", "c")
  points = drawn["c"][0].collections[0]
  np.testing.assert_array_equal(points.get_offsets(), [[8.0, 50.0], [11.0, 48.0]])  # large errors on top
  np.testing.assert_array_equal(points.get_array(), [1.0, 3.0])


def test_embeddings_keep_points_and_colours_together(drawn):
  points, labels = np.arange(8.0).reshape(4, 2), np.array(["b", "a", "b", "a"], object)
  charts.embedding(plt, points, labels, ["a", "b"], "t", "c")
  dots = drawn["c"][0].collections[0]
  of = {tuple(xy): tuple(color[:3]) for xy, color in zip(dots.get_offsets().tolist(), dots.get_facecolors())}
  colors = [tuple(np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255) for c in drawing.PALETTE[:2]]
  for xy, label in zip(points.tolist(), labels):
    np.testing.assert_allclose(of[tuple(xy)], colors[label == "b"], atol=1e-6)
  charts.embedding(plt, points, np.array([1.0, 2.0, 3.0, 4.0]), [], "t", "n")
  dots = drawn["n"][0].collections[0]
  np.testing.assert_array_equal(dots.get_offsets()[:, 0] / 2 + 1, dots.get_array())


def an_arm(tmp_path, name, p):
  """An arm with predictions of two seeds."""
  (tmp_path / name / "predictions").mkdir(parents=True)
  rows = ["id,seed,fold,target," + ",".join(f"probability_{c}" for c in TASK.outputs)]
  for seed in (1, 2):
    for k, (y, row) in enumerate(zip(TRUE, p)):
      rows.append(f"{k},{seed},0,{TASK.outputs[y]}," + ",".join(map(str, row)))
  (tmp_path / name / "predictions/S1.csv").write_text("\n".join(rows) + "\n")
  write_arm(tmp_path / name, "mdico", {"S1": np.full(6, 0.5)})
  return read(tmp_path / name).cells[0].arms["mdico"]


def test_figures_of_a_cell_read_the_predictions_of_their_own_arm(drawn, tmp_path):
  arms = {name: an_arm(tmp_path, name, p) for name, p in (("right", P), ("wrong", P[:, ::-1]))}
  named = {name: Arm(name, name, "network", arm.directory, arm.results) for name, arm in arms.items()}
  cell = Cell("c", "c", "r2", named, ("S1",))
  figures.sections(plt, cell, [], TASK, None)
  caption = next(name for name in drawn if name.startswith("Histogram"))
  assert [label.get_text() for label in drawn[caption][0].get_legend().get_texts()] == ["right", "wrong"]
  reliable = next(ax[0] for name, ax in drawn.items() if name.startswith("Reliability"))
  right, wrong = lines(reliable)[1:]
  np.testing.assert_allclose(right[:, 1], [1, 0, 0, 1, 1])
  # Turned round, the most probable class is right for one sample alone, the last but one is at 0.4.
  turned = P[:, ::-1].argmax(1) == TRUE
  assert wrong[:, 1].sum() < right[:, 1].sum() and turned.sum() < 4
