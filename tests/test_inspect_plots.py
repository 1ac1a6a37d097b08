"""What the plots of `inspect` show, read from the figures: values, axes, titles, legends."""

import types

import numpy as np
import pytest

from colearn_jax.data.reader import Index
from colearn_jax.inspection import plots
from colearn_jax.types import CONTEXT, Modality, Task

COUNT = 12
CLASSES = Task("multiclass", ("oak", "pine", "beech"))
TARGET = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, -1], np.int32)  # the last sample has no label


@pytest.fixture
def figures(monkeypatch, tmp_path):
  """A function that writes the plots of some inputs and returns the figures by name."""
  pytest.importorskip("matplotlib")
  plt = plots.library()

  def draw(task, target, inputs, bands, units=(), coordinates=None, absent=()):
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    modalities = [
      Modality(name, (name,), x.shape[1:], tuple(bands[name]), units if name != CONTEXT else ())
      for name, x in inputs.items()
    ]
    ids = np.array([f"s{i}" for i in range(COUNT)])
    present = {name: np.array([i not in absent for i in range(COUNT)], np.float32) for name in inputs}
    scan = types.SimpleNamespace(
      examples={"inputs": inputs, "present": present}, rows=np.arange(COUNT), coordinates=coordinates
    )
    files = plots.write(
      plt, tmp_path / "plots", types.SimpleNamespace(task=task), modalities, Index(ids, target, {}), scan
    )
    assert all(path.stat().st_size > 3000 for path in files) and len(files) == len(kept)
    return {path.stem: figure for path, figure in zip(files, kept)}

  yield draw
  monkeypatch.undo()
  plt.close("all")


def shown(figure):
  return [ax for ax in figure.axes if ax.get_visible()]


def test_histograms_count_the_values_of_each_band(figures):
  x = np.random.default_rng(0).normal(3, 1, (COUNT, 5, 2)).astype(np.float32)
  x[..., 1] = np.arange(COUNT)[:, None] % 4
  x[0, 0, 0], x[1, :, 0], x[2, 2, 0] = np.nan, np.nan, np.inf
  figure = figures(CLASSES, TARGET, {"S2": x}, {"S2": ["red", "count"]}, ("dB", ""), absent=(3,))[
    "histograms_S2"
  ]
  red, count = shown(figure)
  assert (red.get_title(), count.get_title()) == ("red (dB)", "count")
  there = np.delete(x, 3, 0)[..., 0]
  seen = there[np.isfinite(there)]
  heights, edges = np.histogram(seen, len(red.patches))
  assert [bar.get_height() for bar in red.patches] == heights.tolist()
  np.testing.assert_allclose([bar.get_x() for bar in red.patches], edges[:-1], rtol=1e-5)
  missing = 1 - len(seen) / there.size
  assert red.get_xlabel() == f"{seen.min():.5g} to {seen.max():.5g}, {missing:.1%} missing"
  assert count.get_xlabel() == "0 to 3"
  assert [bar.get_height() for bar in count.patches if bar.get_height()] == [15, 15, 15, 10]  # 3 is absent
  assert "number of values in 11 samples" in figure.get_suptitle() and figure.get_suptitle().startswith("S2")


def test_series_show_the_mean_of_each_class_and_name_it(figures):
  x = np.random.default_rng(1).normal(size=(COUNT, 6, 2)).astype(np.float32)
  x[0, 3] = np.nan
  figure = figures(CLASSES, TARGET, {"S2": x}, {"S2": ["red", "nir"]}, ("dB", "dB"))["series_S2"]
  assert [ax.get_title() for ax in shown(figure)] == ["red (dB)", "nir (dB)"]
  for band, ax in enumerate(shown(figure)):
    assert ax.get_xlabel() == "step"
    named = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert list(named) == ["oak", "pine", "beech"]
    for k, name in enumerate(named):
      np.testing.assert_array_equal(named[name].get_xdata(), [1, 2, 3, 4, 5, 6])
      np.testing.assert_allclose(named[name].get_ydata(), np.nanmean(x[TARGET == k, :, band], 0), rtol=1e-5)
      thin = [line for line in ax.lines if line.get_color() == named[name].get_color()]
      assert len(thin) == 1 + (TARGET == k).sum()  # few samples are all shown
    assert len({line.get_color() for line in named.values()}) == 3
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["oak", "pine", "beech"]
  assert figure.get_suptitle() == "S2: means of 12 samples (thick), examples (thin)"


def test_a_regression_is_shown_by_quarters(figures):
  x = np.random.default_rng(2).normal(size=(COUNT, 4, 1)).astype(np.float32)
  target = np.arange(COUNT, dtype=np.float32)[:, None] * 10
  target[5] = np.nan
  drawn = figures(
    Task("regression", ("moisture",), "%"), target, {"S1": x}, {"S1": ["VV"]}, coordinates=PLACES
  )
  (ax,) = shown(drawn["series_S1"])
  known = target[np.isfinite(target[:, 0]), 0]
  ends = np.quantile(known, [0, 0.25, 0.5, 0.75, 1])
  named = [line for line in ax.lines if not line.get_label().startswith("_")]
  assert [line.get_label() for line in named] == [
    f"quarter {k + 1} ({ends[k]:.4g} to {ends[k + 1]:.4g})" for k in range(4)
  ]
  first = np.flatnonzero(target[:, 0] < ends[1])
  np.testing.assert_allclose(named[0].get_ydata(), x[first, :, 0].mean(0), rtol=1e-5)
  axes = shown(drawn["map"])
  assert axes[1].get_ylabel() == "moisture %"  # the colour bar
  points = axes[0].collections[1]
  order = [PLACES[:, 1].tolist().index(longitude) for longitude in points.get_offsets()[:, 0]]
  assert 5 not in order and len(order) == COUNT - 1
  np.testing.assert_allclose(points.get_array(), target[order, 0])


PLACES = np.stack([np.linspace(47, 48, COUNT), np.linspace(5, 9, COUNT)], axis=1)  # latitude, longitude


def test_a_map_has_longitude_to_the_right_and_a_colour_for_each_class(figures):
  x = np.zeros((COUNT, 3), np.float32)
  places = PLACES.copy()
  places[2] = np.nan
  figure = figures(CLASSES, TARGET, {"soil": x}, {"soil": list("abc")}, coordinates=places)["map"]
  (ax,) = shown(figure)
  assert (ax.get_xlabel(), ax.get_ylabel()) == ("longitude", "latitude")
  assert ax.get_title() == "11 samples at 11 places"
  unlabelled, labelled, *_ = ax.collections
  np.testing.assert_allclose(unlabelled.get_offsets(), [[9, 48]])
  (legend,) = figure.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert names == ["oak", "pine", "beech", "unlabelled"]
  colour = {n: tuple(ax.collections[2 + k].get_facecolor()[0]) for k, n in enumerate(names)}
  assert len(set(colour.values())) == 4
  drawn = {}
  for (longitude, latitude), face in zip(labelled.get_offsets(), labelled.get_facecolors()):
    at = int(np.argmin(np.abs(np.nan_to_num(places[:, 1]) - longitude)))
    np.testing.assert_allclose(places[at], [latitude, longitude])
    assert tuple(face) == colour[CLASSES.outputs[TARGET[at]]]
    drawn[at] = True
  assert sorted(drawn) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]


def test_tiles_are_in_one_scale_and_show_what_is_missing(figures):
  x = np.random.default_rng(3).uniform(0, 100, (COUNT, 4, 5, 3)).astype(np.float32)
  x[0, 1, 2] = np.nan
  figure = figures(CLASSES, TARGET, {"photo": x}, {"photo": ["r", "g", "b"]})["tiles_photo"]
  axes = shown(figure)
  chosen = np.unique(np.linspace(0, COUNT - 1, plots.TILES).astype(int))
  labels = [(*CLASSES.outputs, "unlabelled")[TARGET[i]] for i in chosen]
  assert [ax.get_title() for ax in axes] == [f"s{i}: {label}" for i, label in zip(chosen, labels)]
  low, high = np.nanpercentile(x[chosen].reshape(-1, 3), [2, 98], axis=0)
  for ax, i in zip(axes, chosen):
    drawn = np.asarray(ax.images[0].get_array())
    seen = np.isfinite(x[i]).all(-1)
    np.testing.assert_array_equal(drawn[..., 3], seen)  # transparent where values are missing, over magenta
    np.testing.assert_allclose(
      drawn[seen][:, :3], np.clip((x[i] - low) / (high - low), 0, 1)[seen], atol=1e-5
    )
    assert ax.get_facecolor()[:3] == (1, 0, 1)
  assert "as red, green, blue; magenta: missing" in figure.get_suptitle()
  assert f"r {low[0]:.3g} to {high[0]:.3g}" in figure.get_suptitle()


def test_of_a_series_of_tiles_the_fullest_step_is_shown(figures):
  x = np.full((COUNT, 3, 4, 4, 1), np.nan, np.float32)
  x[:, 1] = np.arange(COUNT)[:, None, None, None]
  x[:, 2, 0] = 1
  drawn = figures(CLASSES, TARGET, {"S1": x}, {"S1": ["VV"]})
  ax = shown(drawn["tiles_S1"])[0]
  assert ax.get_title() == "s0, step 2: oak"
  assert np.asarray(ax.images[0].get_array()).shape == (4, 4)
  (series,) = shown(drawn["series_S1"])
  oak = next(line for line in series.lines if line.get_label() == "oak")
  np.testing.assert_allclose(oak.get_ydata(), [np.nan, 4.5, 1])  # means of pixels, then of samples 0, 3, 6, 9


def test_a_label_of_several_is_the_first_one(figures):
  task = Task("multilabel", ("oak", "pine"))
  target = np.array([[1, 1], [0, 1], [0, 0], [1, 0]] * 3, np.float32)
  x = np.random.default_rng(4).normal(size=(COUNT, 3, 1)).astype(np.float32)
  (ax,) = shown(figures(task, target, {"S1": x}, {"S1": ["VV"]})["series_S1"])
  named = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
  np.testing.assert_allclose(named["oak"], x[target[:, 0] > 0, :, 0].mean(0), rtol=1e-5)
  np.testing.assert_allclose(named["pine"], x[(target == [0, 1]).all(1), :, 0].mean(0), rtol=1e-5)


def test_what_a_figure_leaves_out_is_said(figures):
  task = Task("multiclass", tuple(f"class {k}" for k in range(8)))
  x = np.zeros((COUNT, 4, 20), np.float32)
  drawn = figures(task, np.arange(COUNT, dtype=np.int32) % 8, {"S2": x}, {"S2": [f"b{k}" for k in range(20)]})
  assert len(shown(drawn["series_S2"])) == len(shown(drawn["histograms_S2"])) == plots.BANDS
  assert drawn["series_S2"].get_suptitle().endswith("first 6 of 8 classes, first 16 of 20 bands")
  assert drawn["histograms_S2"].get_suptitle().endswith("first 16 of 20 bands")
