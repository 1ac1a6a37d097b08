"""Names and units of bands, and the months of steps, for encoders that know what they read."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax import encoders
from colearn_jax.data import reader as readers
from colearn_jax.data.augment import make_augment
from colearn_jax.data.fixed_length import Settings, fixed_lengths
from colearn_jax.data.modality import Months, describe_steps, make_modality
from colearn_jax.data.statistics import make_normalisation
from colearn_jax.encoders import bands
from colearn_jax.types import InputError, Modality, is_steps


def test_bands_are_found_by_their_usual_names():
  own = list(encoders.ENCODERS["presto"].BANDS)
  given = ("B02", "green", "RED", "nir", "B8A", "B9", "t2m", "vv", "Total_Precipitation", "ndvi")
  found = bands.match("presto", own, given, leave_out=("B9", "B1"))
  names = ("B2", "B3", "B4", "B8", "B8A", "", "temperature_2m", "VV", "total_precipitation", "NDVI")
  assert {band.position: name for name, band in found.items()} == {
    at: name for at, name in enumerate(names) if name
  }
  with pytest.raises(InputError, match="presto does not know the bands B9, ndwi; it knows VV, VH, B2"):
    bands.match("presto", own, ("B9", "vv", "ndwi"))
  with pytest.raises(InputError, match="presto: nir and B08 are both B8"):
    bands.match("presto", own, ("nir", "B08"))
  with pytest.raises(InputError, match="t2m has the unit 'F', it reads: K, °C"):
    bands.match("presto", own, ("t2m",), ("F",))


@pytest.mark.parametrize(
  "band, unit, value, expected",
  [
    ("B2", "", 2500, 0.25),
    ("B2", "reflectance", 0.25, 0.25),
    ("t2m", "", 307.15, 1.0),
    ("t2m", "°C", 34.0, 1.0),
    ("rain", "mm", 15, 0.5),
    ("VV", "dB", -15, 0.4),
    ("elevation", "m", 500, 0.25),
  ],
)
def test_values_are_normalised_by_their_unit_as_the_encoder_was_trained(band, unit, value, expected):
  modality = Modality("S", ("S",), (2, 2), (band, "month"), (unit,) if unit else (), True)
  constants = encoders.normalisation({"model_type": "presto"}, modality)
  np.testing.assert_allclose((value - constants["offset"][0]) / constants["scale"][0], expected, rtol=1e-5)
  assert (constants["offset"][1], constants["scale"][1]) == (0, 1)
  assert encoders.normalisation({"model_type": "tempcnn"}, modality) is None


SHAPES = {"M": (4, 2), "D": (3, 1), "C": (14, 1), "R": (None, 1), "static": (2,), "plain": (4, 1)}
DESCRIBED = {
  "M": {"bands": ["VV", "VH"], "steps": "month", "units": ["dB", "dB"]},
  "D": {"bands": ["x"], "steps": "30 days"},
  "C": {"bands": ["x"], "steps": "calendar"},
  "R": {"bands": ["x"]},
  "static": {"bands": ["elevation", "slope"]},
  "plain": {"bands": ["x"]},
}
DAYS = np.array(["2018-11-30", "2018-12-01", "2019-02-28"], "datetime64[D]").astype(np.int32)


def months(view, date="2019-02-15", series="pad", length=5, days=DAYS, values=None):
  """The months that the reader appends, NaN as -1."""
  steps = describe_steps(SHAPES, DESCRIBED, dated=True)
  settings = Settings(series, {"R": length} if series == "pad" else {}, {}, ("R",))
  fixed = fixed_lengths(settings, SHAPES, DESCRIBED, {"R": 9})
  known = {name: ragged.shape for name, ragged in fixed.items()}
  modality = make_modality(view, SHAPES | known, DESCRIBED, steps=steps)
  assert modality.bands[-1] == "month" and modality.shape[-1] == SHAPES[view][-1] + 1
  stored = SHAPES[view][0] or len(days)
  values = np.ones((stored, SHAPES[view][1]), np.float32) if values is None else values
  sample = {"id": b"a", "date": date.encode(), "views": {view: values}, "dates": {"R": days}}
  own = {name: ragged for name, ragged in fixed.items() if name == view}
  reader = readers.Reader([sample], (modality,), own, {view: Months({view: steps[view]}, own)})
  got = reader(0)["inputs"][view]
  assert got.shape == modality.shape and got.dtype == np.float32
  return np.nan_to_num(got[..., -1], nan=-1).astype(int).tolist()


def test_months_of_steps():
  assert months("M") == [10, 11, 0, 1]
  assert months("M", date="") == [-1] * 4
  assert months("D", date="2021-02-01") == [10, 11, 0]  # 30 days each; those of the middles
  assert months("C") == [*range(12), 0, 1]
  assert months("R") == [-1, -1, 10, 11, 1]
  assert months("R", length=2) == [11, 1]
  assert months("R", series="month") == [-1, 1, *[-1] * 8, 10, 11]  # steps without values have no month
  assert months("R", days=DAYS[:0]) == [-1] * 5
  assert is_steps("month") and is_steps("16 days") and not is_steps("0 days") and not is_steps("week")


def test_a_step_without_values_has_no_month_and_a_static_view_no_band_for_it():
  values = np.ones((4, 2), np.float32)
  values[1], values[2, 0] = np.nan, np.nan
  assert months("M", values=values) == [10, -1, 0, 1]
  assert not make_modality("static", SHAPES, DESCRIBED, steps={}).months
  with pytest.raises(InputError, match="plain has no dates, and its steps are not described; .* calendar"):
    make_modality("plain", SHAPES, DESCRIBED, steps={"M": "month"})


def test_noise_leaves_months_alone():
  augment = make_augment({"noise": 1.0}, ["S"])
  x = jnp.full((3, 4, 2), 5.0)
  changed = augment(jax.random.key(0), {"S": x}, {"S": {"scale": jnp.ones(2)}})["S"] != x
  assert not changed[..., 1].any() and changed[..., 0].all()


def test_an_encoder_with_constants_of_its_own_needs_no_others():
  modality = Modality("S", ("S",), (2,), ("VV", "VH"))
  own = {"S": {"offset": np.zeros(2), "scale": np.ones(2)}}
  for how in ("zscore", "fixed"):
    assert make_normalisation(how, {}, None, [modality], own).constants(modality, None) == own["S"]


def test_json_of_modalities():
  plain = Modality("S1", ("S1",), (4, 2), ("vv", "vh"))
  assert plain.to_json() == {"name": "S1", "views": ["S1"], "shape": [4, 2], "bands": ["vv", "vh"]}
  known = dataclasses.replace(plain, units=("dB", ""), months=True)
  assert Modality.from_json(json.loads(json.dumps(known.to_json()))) == known
