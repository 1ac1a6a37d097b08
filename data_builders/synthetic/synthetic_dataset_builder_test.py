import numpy as np
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets.build import build
from colearn_jax.datasets.synthetic import simulator
from sklearn.ensemble import ExtraTreesClassifier

from colearn_jax.types import InputError

CROPS = list(simulator.CROPS)


@pytest.fixture(scope="module")
def fields():
  return simulator.simulate()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  return build("synthetic", tmp_path_factory.mktemp("data"))


def test_samples_are_the_simulated_fields(prepared, fields):
  builder = tfds.builder_from_directory(prepared)
  first, regions = 0, set()
  for split, count in (("train", 3000), ("validation", 600), ("test", 1400)):
    source = builder.as_data_source(split=split)
    assert len(source) == count
    here = set()
    for i in range(0, count, 50):
      sample, field = source[i], first + i
      assert sample["id"].decode() == f"field_{field:05d}"
      assert sample["target"] == fields["target"][field]
      here.add(sample["groups"]["region"].decode())
      assert sample["groups"]["region"].decode() == f"region_{fields['region'][field]:02d}"
      assert set(sample["views"]) == set(fields["views"])
      for name, view in sample["views"].items():
        np.testing.assert_array_equal(view, fields["views"][name][field], strict=True)
      for name, value in sample["latent"].items():
        assert np.float32(value) == fields["latent"][name][field]
    assert len(here) == count // 100 and not here & regions
    regions |= here
    first += count


def test_metadata_describes_task_views_and_latents(prepared, fields):
  info = tfds.builder_from_directory(prepared).info
  metadata = info.metadata
  assert metadata["task"] == {"kind": "multiclass", "outputs": CROPS, "unit": "crop"}
  assert metadata["sources"] == {}
  assert info.features["target"].names == CROPS
  assert {name: feature.shape for name, feature in info.features["views"].items()} == {
    "S1": (12, 2),
    "S2": (12, 10),
    "S2VI": (12, 1),
    "weather": (12, 2),
    "terrain": (2,),
  }
  for name, feature in info.features["views"].items():
    assert len(metadata["views"][name]["bands"]) == feature.shape[-1]
  assert set(metadata["latent"]) == set(fields["latent"])


def test_the_same_seed_gives_the_same_fields_and_another_gives_others(fields):
  again, other = simulator.simulate(), simulator.simulate(seed=1)
  for group in ("views", "latent"):
    for name, values in fields[group].items():
      np.testing.assert_array_equal(values, again[group][name])
      assert not np.array_equal(values, other[group][name])
  np.testing.assert_array_equal(fields["target"], again["target"])


def test_values_are_physical(fields):
  views = fields["views"]
  s2, s1 = views["S2"], views["S1"]
  clouded = np.isnan(s2).any(axis=-1)
  np.testing.assert_array_equal(clouded, np.isnan(s2).all(axis=-1))
  np.testing.assert_array_equal(clouded, np.isnan(views["S2VI"][..., 0]))
  assert 0.15 < clouded.mean() < 0.35
  assert 0 < np.nanmin(s2) and np.nanmax(s2) < 1
  assert -35 < s1.min() and s1.max() < 5 and (s1[..., 0] > s1[..., 1]).mean() > 0.95
  ndvi = (s2[..., 6] - s2[..., 2]) / (s2[..., 6] + s2[..., 2])
  np.testing.assert_allclose(views["S2VI"][..., 0], ndvi, atol=1e-5)
  assert all(np.isfinite(views[name]).all() for name in ("S1", "weather", "terrain"))
  summer, winter = views["weather"][:, 6, 0], views["weather"][:, 0, 0]
  assert (summer > winter).all()


def test_leaf_area_is_half_of_its_peak_at_the_given_days():
  start, end, rate, peak = (np.array([value]) for value in (100.0, 250.0, 0.1, 4.0))
  lai = simulator.leaf_area(np.array([100.0, 175, 250]), start, end, rate, rate, peak)
  np.testing.assert_allclose(lai, [[2, 4, 2]], atol=0.01)


def test_canopy_reflectance_goes_from_soil_to_leaf():
  one = np.ones((1, 1))
  args = {"dead": 0 * one, "pale": np.zeros(1), "moisture": 0 * one, "brightness": np.ones(1)}
  np.testing.assert_allclose(simulator.canopy_reflectance(0 * one, **args)[0, 0], simulator.DRY_SOIL)
  np.testing.assert_allclose(simulator.canopy_reflectance(99 * one, **args)[0, 0], simulator.GREEN_LEAF)
  half = simulator.canopy_reflectance(np.log(2) / 0.5 * one, **args)[0, 0]
  np.testing.assert_allclose(half, (simulator.DRY_SOIL + simulator.GREEN_LEAF) / 2)


def test_backscatter_of_bare_soil_follows_its_moisture_and_of_a_canopy_its_structure():
  field = {"roughness": np.zeros(1), "incidence": np.array([37.5]), "row_direction": np.array([45.0])}

  def of(water, moisture, structure):
    series = {"water": np.array([[water]]), "moisture": np.array([[moisture]])}
    return 10 * np.log10(simulator.backscatter(**series, **field, structure=np.array([structure]))[0, 0])

  np.testing.assert_allclose(of(0.0, 0.5, 0.0), [-11.0, -21.5], atol=1e-6)  # -17 + 12 m and -26 + 9 m
  np.testing.assert_allclose(of(0.0, 0.5, 2.0), of(0.0, 0.5, 0.0))
  dense = [of(50.0, m, s) for m, s in ((0.1, 0.0), (0.9, 0.0), (0.1, 1.0))]
  np.testing.assert_allclose(dense[0], dense[1], atol=1e-3)  # no soil is seen
  np.testing.assert_allclose(dense[2] - dense[0], [-1.2, 1.2], atol=1e-3)


def test_the_crop_decides_no_more_factors_than_said(fields):
  """Nuisance has the same mean in every crop, within 5 standard errors; what the crop decides has not."""
  for name, (_, from_target, _) in simulator.LATENTS.items():
    values = fields["latent"][name].astype(np.float64)
    groups = [values[fields["target"] == crop] for crop in range(len(CROPS))]
    far = max(abs(g.mean() - values.mean()) / (values.std() / np.sqrt(len(g))) for g in groups)
    assert (far > 20) if from_target else (far < 5), name


def test_each_sensor_tells_most_crops_and_both_tell_more(fields):
  views, target, region = fields["views"], fields["target"], fields["region"]
  train, test = region < 30, region >= 36

  def confusion(*names):
    x = np.concatenate([views[name].reshape(len(target), -1) for name in names], axis=1)
    x = np.where(np.isnan(x), np.nanmean(x[train], axis=0), x)
    trees = ExtraTreesClassifier(60, min_samples_leaf=2, random_state=0).fit(x[train], target[train])
    table = np.zeros((len(CROPS), len(CROPS)))
    np.add.at(table, (target[test], trees.predict(x[test])), 1)
    return table

  accuracy = lambda table: np.trace(table) / table.sum()

  def apart(table, *pair):
    rows = [CROPS.index(crop) for crop in pair]
    return accuracy(table[np.ix_(rows, rows)])

  cereals, summer, roots = CROPS[:2], CROPS[2:4], CROPS[4:]
  radar, optical, both = confusion("S1"), confusion("S2", "S2VI"), confusion("S1", "S2", "S2VI")
  assert 0.70 < accuracy(radar) < 0.88 and 0.70 < accuracy(optical) < 0.88
  assert accuracy(both) > max(accuracy(radar), accuracy(optical)) + 0.05
  assert apart(radar, *cereals) > 0.85 > 0.7 > apart(optical, *cereals)
  assert apart(optical, *summer) > 0.85 > 0.7 > apart(radar, *summer)
  assert min(apart(sensor, *roots) for sensor in (radar, optical)) > 0.9


def test_a_manual_dir_is_not_asked_for(tmp_path):
  with pytest.raises(InputError, match="synthetic reads no files: leave manual_dir out"):
    build("synthetic", tmp_path / "data", manual_dir=tmp_path)
