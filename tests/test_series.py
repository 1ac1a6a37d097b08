import numpy as np
import pytest

from colearn_jax.data import fixed_length
from colearn_jax.data import reader as readers
from colearn_jax.types import InputError, Modality

SHAPES = {"S2": (None, 6, 6, 2), "S2mask": (None, 6, 6, 2), "S1": (None, 6, 6, 1), "aerial": (8, 8, 4)}
DESCRIBED = {
  "S2": {"bands": ["red", "nir"], "mask": "S2mask"},
  "S2mask": {"bands": ["snow", "cloud"], "mask": "S2mask"},
  "S1": {"bands": ["VV"]},
  "aerial": {"bands": list("abcd")},
}
LONGEST = {"S2": 9, "S2mask": 9, "S1": 5}


def fixed(method="pad", lengths=(), masked_above=()):
  settings = fixed_length.Settings(method, dict(lengths), dict(masked_above))
  return fixed_length.fixed_lengths(settings, SHAPES, DESCRIBED, LONGEST)


def days(*dates):
  return np.array(dates, "datetime64[D]").astype(np.int32)


def test_the_last_steps_are_kept_and_missing_ones_stand_in_front():
  x = np.arange(6, dtype=np.uint16).reshape(3, 2)
  np.testing.assert_array_equal(fixed_length.pad(x, 2), x[1:])
  np.testing.assert_array_equal(fixed_length.pad(x, 5), [[np.nan] * 2, [np.nan] * 2, *x.tolist()])
  assert fixed_length.pad(x, 5).dtype == np.float32
  assert (
    np.isnan(fixed_length.pad(x[:0], 2, fill=0.0)[0, 0]) == 0 and np.isnan(fixed_length.pad(x[:0], 2)).all()
  )


def test_months_are_means_of_what_was_seen_in_whatever_year():
  rng = np.random.default_rng(0)
  dates = days("2019-01-02", "2018-01-30", "2018-03-01", "2018-03-31", "2018-12-31")
  x = rng.normal(3000, 100, (5, 2, 3)).astype(np.float32)
  x[0, 0, 0] = x[2:4, 1, 1] = np.nan
  got = fixed_length.monthly(x, dates)
  assert got.shape == (12, 2, 3) and got.dtype == np.float32
  with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="empty"):
    expected = {0: np.nanmean(x[:2], 0), 2: np.nanmean(x[2:4], 0), 11: x[4]}
  for month in range(12):
    np.testing.assert_allclose(got[month], expected.get(month, np.full((2, 3), np.nan)), rtol=1e-6)
  assert np.isnan(fixed_length.monthly(x[:0], dates[:0])).all()


def test_every_view_gets_a_length():
  assert {view: r.shape for view, r in fixed().items()} == {
    "S2": (9, 6, 6, 2),
    "S2mask": (9, 6, 6, 2),
    "S1": (5, 6, 6, 1),
  }
  assert fixed(lengths={"S2": 4})["S2mask"].shape[0] == 4  # a mask is as long as what it masks
  assert {r.shape[0] for r in fixed("month", lengths={"S2": 4}).values()} == {12}
  with pytest.raises(InputError, match=r"data.lengths: 'aerial' is not allowed; .*: S2, S2mask, S1"):
    fixed(lengths={"aerial": 4})
  undated = DESCRIBED | {"S1": {"bands": ["VV"], "dated": False}}
  fixed_length.fixed_lengths(fixed_length.Settings("pad"), SHAPES, undated, LONGEST)
  with pytest.raises(InputError, match=r"data.series: 'month' is not allowed; pad, for view S1 has no dates"):
    fixed_length.fixed_lengths(fixed_length.Settings("month"), SHAPES, undated, LONGEST)
  with pytest.raises(InputError, match=r"data.masked_above: 'fog' is not allowed; .*: snow, cloud"):
    fixed(masked_above={"fog": 4})


def sample(steps=4):
  """A cloud over all of step 1 and over one pixel of step 2."""
  rng = np.random.default_rng(1)
  views = {"S2": rng.normal(size=(4, 6, 6, 2)).astype(np.float32), "S2mask": np.zeros((4, 6, 6, 2))}
  views["S2mask"][1, ..., 1], views["S2mask"][2, 0, 0, 1] = 80, 60
  views["S2mask"][3, ..., 0] = 90
  dates = days("2018-05-01", "2018-05-02", "2018-05-03", "2018-07-01")[:steps]
  views = {view: x[:steps] for view, x in views.items()}
  return {"id": b"a", "views": views, "dates": {"S2": dates, "S2mask": dates}}


def test_hidden_pixels_are_missing_and_hidden_steps_left_out():
  given = sample()
  got, kept = fixed(lengths={"S2": 5}, masked_above={"cloud": 50})["S2"].apply(given["views"], given["dates"])
  np.testing.assert_array_equal(kept, given["dates"]["S2"][[0, 2, 3]])
  expected = given["views"]["S2"][[0, 2, 3]]
  expected[1, 0, 0] = np.nan
  np.testing.assert_array_equal(got[2:], expected)
  assert np.isnan(got[:2]).all()
  month, _ = fixed("month", masked_above={"cloud": 50, "snow": 89})["S2"].apply(
    given["views"], given["dates"]
  )
  np.testing.assert_array_equal(month[4, 0, 0], given["views"]["S2"][0, 0, 0])
  np.testing.assert_allclose(month[4, 1], given["views"]["S2"][[0, 2], 1].mean(0), rtol=1e-6)
  assert np.isnan(month[6]).all()


def reader(given, modality, **settings):
  views = modality.split("_")
  return readers.Reader([given], (Modality(modality, tuple(views), (), ()),), fixed(**settings))(0)


def test_joined_views_stay_aligned_and_masks_are_padded_with_zeros():
  given = sample()
  got = reader(given, "S2_S2mask", lengths={"S2": 6}, masked_above={"cloud": 50})
  cube = got["inputs"]["S2_S2mask"]
  assert cube.shape == (6, 6, 6, 4) and cube.dtype == np.float32
  np.testing.assert_array_equal(cube[3:, 5, 5, 2:], given["views"]["S2mask"][[0, 2, 3], 5, 5])
  assert np.isnan(cube[:3, ..., :2]).all() and not cube[:3, ..., 2:].any()
  assert np.isnan(cube[4, 0, 0]).all()
  assert got["present"] == {"S2_S2mask": 1}
  gone = reader(sample(0), "S2_S2mask")
  assert np.isnan(gone["inputs"]["S2_S2mask"]).all() and gone["present"] == {"S2_S2mask": 0}


def test_series_of_other_dates_join_by_month_alone():
  given = sample()
  given["views"]["S1"] = np.ones((4, 6, 6, 1), np.float32)
  given["dates"]["S1"] = given["dates"]["S2"] + 1
  told = "S2_S1 cannot join S2 and S1, whose dates differ in sample a; data.series=month"
  with pytest.raises(InputError, match=told):
    reader(given, "S2_S1", lengths={"S2": 5, "S1": 5})
  assert reader(given, "S2_S1", method="month")["inputs"]["S2_S1"].shape == (12, 6, 6, 3)
