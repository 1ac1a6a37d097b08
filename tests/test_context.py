import csv

import numpy as np
import pytest
from colearn_jax.datasets import build
from colearn_jax.datasets.lfmc.dummy import write_dummy

from colearn_jax.data import context, statistics
from colearn_jax.data.dataset import context_modality, open_dataset
from colearn_jax.data.reader import make_reader, read_table
from colearn_jax.types import (
  CONTEXT,
  DATE_COLUMNS,
  TIME_COLUMN,
  InputError,
  context_layout,
  place_columns,
)


@pytest.fixture(scope="module")
def lfmc(tmp_path_factory):
  """The prepared data set, and the rows of its file."""
  root = tmp_path_factory.mktemp("lfmc")
  write_dummy(root / "training_features.csv", rows=20)
  with open(root / "training_features.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  return open_dataset(build.build("lfmc", root / "prepared", manual_dir=root)), rows


def test_dates_are_parts_of_their_year():
  got = context.encode_dates(["2019-01-01", "2019-07-02", "2020-12-31", ""])
  angle = 2 * np.pi * np.array([0, 182 / 365, 365 / 366])
  np.testing.assert_allclose(got[:3], np.stack([np.sin(angle), np.cos(angle)], -1), atol=1e-6)
  assert got.dtype == np.float32 and np.isnan(got[3]).all()
  with pytest.raises(InputError, match="not in the form"):
    context.encode_dates(["yesterday"])


def test_places_are_unit_vectors_and_waves():
  places = np.array([[0.0, 0.0], [0.0, 90.0], [90.0, 17.0], [-30.0, -120.0], [np.nan, 3.0]])
  got = context.encode_places(places, 2)
  assert got.shape == (5, len(place_columns(2))) and np.isnan(got[4]).all()
  np.testing.assert_allclose(got[:3, :3], [[1, 0, 0], [0, 1, 0], [0, 0, 1]], atol=1e-6)
  expected = []
  for scale in (1, 2):
    for angle in (scale * np.pi * -120 / 180, scale * np.pi * -30 / 90):
      expected += [np.sin(angle), np.cos(angle)]
  np.testing.assert_allclose(got[3, 3:], expected, atol=1e-6)
  assert np.isfinite(context.encode_places([[-90.0, -180.0], [90.0, 180.0]])).all()
  for place in ([120.0, 30.0], [-90.5, 0.0], [0.0, 180.5]):
    with pytest.raises(InputError, match="latitude .* then longitude"):
      context.encode_places([place])
  for shape in ((2,), (4, 3), (2, 2, 2)):
    with pytest.raises(InputError, match="coordinates have shape .* not .N, 2.: latitude, longitude"):
      context.encode_places(np.zeros(shape))


def test_a_context_is_read_normalised_and_encoded_the_same_for_deployment(lfmc):
  dataset, rows = lfmc
  assert dataset.context == ("date", "location", "time", "soil", "DEM", "LIDAR", "landcover")
  modality = context_modality(dataset, ("soil", "location", "date"), 1)
  assert modality.name == CONTEXT and modality.views == ("date", "location", "soil")
  assert modality.bands == (
    *("date_sin", "date_cos", "place_x", "place_y", "place_z"),
    *("place_lon_sin_1", "place_lon_cos_1", "place_lat_sin_1", "place_lat_cos_1", "silt", "sand", "clay"),
  )
  table = read_table(make_reader(dataset, [dataset.modality("S1"), modality]))
  assert list(table["present"]) == ["S1"]
  got = table["inputs"][CONTEXT]
  number = lambda *names: np.array([[float(row[name]) for name in names] for row in rows])
  expected = context.encode(
    modality.bands,
    dates=[row["date"] for row in rows],
    coordinates=number("latitude", "longitude"),
    static=number("silt(t)", "sand(t)", "clay(t)"),
  )
  np.testing.assert_array_equal(got, expected)
  longitude = np.degrees(np.arctan2(got[:, 3], got[:, 2]))
  np.testing.assert_allclose(longitude, number("longitude")[:, 0], rtol=1e-5)

  some = np.arange(5, 17)
  for found in (statistics.of_table(table, some), statistics.of_dataset(dataset, [modality], some)):
    constants = statistics.Normalisation().constants(modality, found[CONTEXT])
    np.testing.assert_array_equal(constants["offset"][:9], np.zeros(9))
    np.testing.assert_array_equal(constants["scale"][:9], np.ones(9))
    np.testing.assert_allclose(constants["offset"][9:], got[some, 9:].mean(0), rtol=1e-5)
    np.testing.assert_allclose(constants["scale"][9:], got[some, 9:].std(0), rtol=1e-5)


def test_static_columns_have_fixed_constants_where_all_are_fixed(lfmc):
  modality = context_modality(lfmc[0], ("date", "soil"))
  fixed = {"soil": {"offset": [1.0, 2.0, 3.0], "scale": 10.0}}
  got = statistics.make_normalisation("fixed", fixed, lfmc[0], [modality]).constants(modality, None)
  np.testing.assert_array_equal(got["offset"], [0, 0, 1, 2, 3])
  np.testing.assert_array_equal(got["scale"], [1, 1, 10, 10, 10])
  with pytest.raises(InputError, match="data.fixed: it needs an offset and a scale of soil"):
    statistics.make_normalisation("fixed", {}, lfmc[0], [modality])


def test_a_static_band_without_a_value_is_an_error_of_the_statistics(lfmc):
  """Beside the date: the columns of the date have no such rule."""
  modality = context_modality(lfmc[0], ("date", "soil"))
  x = np.full((5, *modality.shape), np.nan, np.float32)
  x[:, 3:] = 1.0
  with pytest.raises(InputError, match=f"band {modality.bands[2]} of modality context has no value"):
    statistics.Normalisation().constants(modality, statistics.moments(x))


def test_unknown_dates_are_no_error_of_the_statistics(lfmc):
  modality = context_modality(lfmc[0], ("date",))
  found = statistics.moments(np.full((4, 2), np.nan, np.float32))
  got = statistics.Normalisation().constants(modality, found)
  np.testing.assert_array_equal([got["offset"], got["scale"]], [[0, 0], [1, 1]])


def test_what_a_context_consists_of_is_known_from_its_columns():
  date, place, time = DATE_COLUMNS, place_columns, (TIME_COLUMN,)
  assert context_layout(()) == (0, 0, 0, ())
  assert context_layout(("elevation", *time)) == (0, 0, 0, ("elevation", *time))
  for first in ((), date):
    for where in ((), place(0), place(1), place(3)):
      for when in ((), time):
        for last in ((), ("elevation", "slope")):
          layout = context_layout((*first, *where, *when, *last))
          assert layout == (len(first), len(where), len(when), last)
          assert layout.scaled == len(first) + len(where)
          assert layout.dated == bool(first or when)


def test_a_view_with_the_name_of_a_part_of_the_context_is_refused_where_it_is_named():
  views = {"time": ("hours",), "DEM": ("elevation",)}
  assert context.columns(("DEM", "date"), 0, views) == (*DATE_COLUMNS, "elevation")
  with pytest.raises(InputError, match="data.context: 'time' may be the time of a sample or a view; rename"):
    context.columns(("DEM", "time"), 0, views)


def test_the_time_is_a_number_of_years_that_is_normalised(lfmc):
  dataset, rows = lfmc
  modality = context_modality(dataset, ("DEM", "time", "date"))
  assert modality.bands == (*DATE_COLUMNS, TIME_COLUMN, *dataset.bands["DEM"])
  assert modality.views == ("date", "time", "DEM")
  got = read_table(make_reader(dataset, [modality]))["inputs"]["context"]
  days = np.array([row["date"] for row in rows], "datetime64[D]") - np.datetime64("2000-01-01")
  np.testing.assert_allclose(got[:, 2], days.astype(int) / 365.2425, rtol=1e-6)
  times = context.encode_times(["2000-01-01", "2001-01-01", ""])
  np.testing.assert_allclose(times[:, 0], [0.0, 366 / 365.2425, np.nan], rtol=1e-6)
  alone = context_modality(dataset, ("time",))
  only = read_table(make_reader(dataset, [alone]))["inputs"]["context"]
  np.testing.assert_array_equal(only, got[:, 2:3])
  constants = statistics.Normalisation().constants(alone, statistics.moments(times))
  assert constants["offset"][0] == constants["scale"][0] == pytest.approx(183 / 365.2425)
  fixed = {"time": {"offset": 10.0, "scale": 2.0}, "DEM": {"offset": 1.0, "scale": 1.0}}
  both = context_modality(dataset, ("date", "time", "DEM"))
  made = statistics.make_normalisation("fixed", fixed, dataset, [both]).constants(both, None)
  np.testing.assert_array_equal(made["offset"], [0, 0, 10, 1, 1])
  np.testing.assert_array_equal(made["scale"], [1, 1, 2, 1, 1])


def test_a_part_of_a_context_has_one_row_a_sample_and_all_columns():
  bands = (*DATE_COLUMNS, "elevation", "slope")
  dates = np.array(["2020-01-01", "2020-07-01"])
  assert context.encode(bands, dates=dates, static=np.ones((2, 2))).shape == (2, 4)
  for static in (np.ones((2, 1)), np.ones((2, 3)), np.ones((3, 2)), np.ones(2), np.ones((2, 2, 1))):
    with pytest.raises(InputError, match="as many static values: elevation, slope, .N 2., not"):
      context.encode(bands, dates=dates, static=static)
