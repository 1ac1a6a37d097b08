import pickle

import jax
import numpy as np
import pytest

from colearn_jax import data, sharding
from colearn_jax.spec import InputError, Modality, Task
from data_builders import build

PLACE = sharding.by_example(sharding.make_mesh({"replica": 1, "data": -1, "fsdp": 1}, 16))
BANDS = Modality("m", ("m",), (3, 2), ("a", "b"))


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
  return data.open_dataset(build.build("synthetic", tmp_path_factory.mktemp("prepared")))


def test_a_prepared_data_set_describes_itself(fields):
  assert fields.name == "synthetic" and fields.task.kind == "multiclass"
  assert list(fields.sizes) == ["train", "validation", "test"]
  joined = fields.modality("S2_S2VI")
  assert joined.views == ("S2", "S2VI") and joined.shape == (12, 11) and len(joined.bands) == 11
  rows = np.concatenate(list(fields.parts.values()))
  np.testing.assert_array_equal(rows, np.arange(len(fields)))
  with pytest.raises(InputError, match="S1_terrain cannot join views"):
    fields.modality("S1_terrain")


def test_tables_and_streams_hold_the_same(fields):
  modalities = [fields.modality("S1"), fields.modality("S2_S2VI")]
  reader = pickle.loads(pickle.dumps(data.make_reader(fields, modalities)))
  index, inputs = data.read_index(fields), data.read_table(reader)["inputs"]
  rows = np.array([5, 3001, 4999, 17, 3])
  (batch,) = data.eval_batches(reader, data.labels(index), rows, batch_size=16, sharding=PLACE)
  assert batch["inputs"]["S1"].sharding == PLACE
  np.testing.assert_array_equal(batch["present"]["S1"], [1.0] * 5 + [0.0] * 11)
  for m in ("S1", "S2_S2VI"):
    np.testing.assert_array_equal(batch["inputs"][m][:5], inputs[m][rows])
  np.testing.assert_array_equal(batch["target"][:5], index.target[rows])
  np.testing.assert_array_equal(batch["labelled"], np.ones(16))
  views = fields.views
  np.testing.assert_array_equal(
    inputs["S2_S2VI"][..., : views["S2"][-1]],
    data.read_table(data.make_reader(fields, [fields.modality("S2")]))["inputs"]["S2"],
  )


def test_training_batches_see_every_row_once_an_epoch_and_go_on_from_their_state(fields):
  reader = data.make_reader(fields, [fields.modality("terrain")])
  rows, labels = np.arange(40), {"target": np.arange(len(fields), dtype=np.int32)}
  make = lambda seed=1: iter(
    data.train_batches(reader, labels, rows, batch_size=16, seed=seed, sharding=PLACE)
  )
  take = lambda batch: np.asarray(batch["target"])[np.asarray(batch["present"]["terrain"]) > 0].tolist()
  iterator = make()
  batches = [take(next(iterator)) for _ in range(3)]
  state = iterator.get_state()
  later = [take(next(iterator)) for _ in range(4)]
  assert sorted(sum(batches, [])) == rows.tolist() == sorted(sum(later[:3], []))
  assert batches != later[:3]
  resumed = make()
  resumed.set_state(state)
  assert [take(next(resumed)) for _ in range(4)] == later
  assert [take(b) for b in (next(make(seed=2)),)] != batches[:1]
  for it in (iterator, resumed):
    it.close()


def test_statistics_are_exact_and_skip_missing_values():
  rng = np.random.default_rng(0)
  x = rng.normal(3000.0, 5.0, size=(101, 3, 2)).astype(np.float32)
  x[::3, 1, 0] = np.nan
  pieces = [{"m": x[i : i + 7]} for i in range(0, 101, 7)]
  got = data.input_constants([BANDS], pieces)["m"]
  wide = x.astype(np.float64)
  np.testing.assert_allclose(got["offset"], np.nanmean(wide, (0, 1)), rtol=1e-7)
  np.testing.assert_allclose(got["scale"], np.nanstd(wide, (0, 1)), rtol=1e-6)
  assert got["scale"].dtype == np.float32


def test_constant_and_empty_bands():
  x = np.ones((4, 3, 2), np.float32)
  np.testing.assert_array_equal(data.input_constants([BANDS], [{"m": x}])["m"]["scale"], [1.0, 1.0])
  x[..., 1] = np.nan
  with pytest.raises(InputError, match="band b of modality m has no value in the training part"):
    data.input_constants([BANDS], [{"m": x}])


def test_constants_of_the_task():
  target = np.array([[1.0], [3.0]], np.float32)
  got = data.task_constants(Task("regression", ("y",)), target, "balanced")
  np.testing.assert_array_equal([got["mean"][0], got["std"][0]], [2.0, 1.0])
  label = np.array([0, 0, 0, 2], np.int32)
  task = Task("multiclass", ("a", "b", "c"))
  weights = data.task_constants(task, label, "balanced")["class_weights"]
  np.testing.assert_allclose(weights, [4 / 6, 1.0, 2.0])  # n / (k n_c) over the k = 2 classes that occur
  np.testing.assert_array_equal(data.task_constants(task, label, "none")["class_weights"], np.ones(3))


def test_prefetch_reaches_the_device_as_global_arrays(fields):
  reader = data.make_reader(fields, [fields.modality("S1")])
  labels = data.labels(data.read_index(fields))
  iterator = iter(data.train_batches(reader, labels, np.arange(64), batch_size=16, seed=0, sharding=PLACE))
  batch = next(iterator)
  assert all(isinstance(leaf, jax.Array) and leaf.sharding == PLACE for leaf in jax.tree.leaves(batch))
  iterator.close()


def test_a_sensor_is_there_where_any_of_its_values_is():
  samples = [
    {"views": {"a": np.ones((3, 1)), "b": np.full((3, 1), np.nan), "c": np.zeros((3, 1), np.uint8)}},
    {"views": {"a": np.full((3, 1), np.nan), "b": np.full((3, 1), np.nan), "c": np.ones((3, 1), np.uint8)}},
  ]
  samples[0]["present"], samples[1]["present"] = {"c": False}, {"c": True}
  modalities = [Modality(n, tuple(n.split("_")), (3, len(n.split("_"))), ()) for n in ("a_b", "b", "c")]
  table = data.read_table(data.Reader(samples, tuple(modalities)))
  assert {m: p.tolist() for m, p in table["present"].items()} == {"a_b": [1, 0], "b": [0, 0], "c": [0, 1]}


def test_what_has_no_label_is_told_apart_and_filled():
  none = np.empty(3)
  classes = data.Index(none, np.array([2, -1, 0], np.int32), {})
  columns = data.Index(none, np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]], np.float32), {})
  for index in (classes, columns):
    got = data.labels(index)
    np.testing.assert_array_equal(got["labelled"], [1.0, 0.0, 1.0])
    assert got["target"].dtype == index.target.dtype and not got["target"][1].any()
    np.testing.assert_array_equal(got["target"][[0, 2]], index.target[[0, 2]])
