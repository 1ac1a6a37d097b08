import numpy as np
import pytest
from colearn_jax.datasets.build import build
from colearn_jax.datasets.shared_fields.shared_fields_dataset_builder import named
from colearn_jax.datasets.synthetic import simulator

from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import read_index
from colearn_jax.types import InputError

FEW = {"regions": 20, "fields_per_region": 50}


def test_labels_are_taken_from_the_training_split_only(tmp_path):
  dataset = open_dataset(build("shared_fields/s050_n300", tmp_path))
  index, parts = read_index(dataset), dataset.parts
  labelled = {name: index.labelled[rows].sum() for name, rows in parts.items()}
  assert labelled == {"train": 300, "validation": 600, "test": 1400}
  truth = simulator.simulate()["target"]
  np.testing.assert_array_equal(index.target[index.labelled], truth[index.labelled])


def test_sharedness_couples_the_traits_and_changes_nothing_else():
  none, some, full = (simulator.simulate(**FEW, sharedness=s) for s in (0.0, 0.6, 1.0))
  default = simulator.simulate(**FEW)
  for name, view in default["views"].items():
    np.testing.assert_array_equal(view, none["views"][name])
  for name in set(default["latent"]) - {"structure", "pigment"}:
    np.testing.assert_array_equal(default["latent"][name], full["latent"][name])
  np.testing.assert_array_equal(default["target"], full["target"])
  np.testing.assert_allclose(full["latent"]["structure"], full["latent"]["pigment"], rtol=1e-6)

  wheat, barley, maize, sunflower = (default["target"] == crop for crop in range(4))
  apart = lambda fields, trait, one, two: np.diff([fields["latent"][trait][c].mean() for c in (one, two)])[0]
  for fields, s in ((none, 0.0), (some, 0.6), (full, 1.0)):
    assert abs(apart(fields, "structure", wheat, barley) - 2) < 0.2
    assert abs(apart(fields, "pigment", wheat, barley) - 2 * s) < 0.2
    assert abs(apart(fields, "structure", maize, sunflower) - 2 * s) < 0.2
    both = [fields["latent"][trait][wheat] for trait in ("pigment", "structure")]
    assert abs(np.corrcoef(both)[0, 1] - s) < 0.15


def test_a_manual_dir_is_not_asked_for(tmp_path):
  assert named(0.25, 1000) == "s025_n1000"
  with pytest.raises(InputError, match="shared_fields reads no files: leave manual_dir out"):
    build("shared_fields/s000_n100", tmp_path / "data", manual_dir=tmp_path)
