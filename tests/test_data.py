import os
import pickle

import jax
import numpy as np
import pytest
from colearn_jax.datasets import build

from colearn_jax.data import reader as readers
from colearn_jax.data import stream
from colearn_jax.data.dataset import context_modality, open_dataset
from colearn_jax.data.fixed_length import FixedLength
from colearn_jax.parallel import sharding
from colearn_jax.training.epoch import batched
from colearn_jax.types import InputError, Modality


def place():
  return sharding.by_example(sharding.make_mesh({"replica": 1, "data": -1, "fsdp": 1}, 16))


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
  return open_dataset(build.build("synthetic", tmp_path_factory.mktemp("prepared")))


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
  reader = pickle.loads(pickle.dumps(readers.make_reader(fields, modalities)))
  index, inputs = readers.read_index(fields), readers.read_table(reader)["inputs"]
  rows = np.array([5, 3001, 4999, 17, 3])
  (batch,) = stream.eval_batches(reader, readers.labels(index), rows, size=16, sharding=place())
  assert batch["inputs"]["S1"].sharding == place()
  np.testing.assert_array_equal(batch["present"]["S1"], [1.0] * 5 + [0.0] * 11)
  for m in ("S1", "S2_S2VI"):
    np.testing.assert_array_equal(batch["inputs"][m][:5], inputs[m][rows])
  np.testing.assert_array_equal(batch["target"][:5], index.target[rows])
  np.testing.assert_array_equal(batch["labelled"], np.ones(16))
  views = fields.views
  np.testing.assert_array_equal(
    inputs["S2_S2VI"][..., : views["S2"][-1]],
    readers.read_table(readers.make_reader(fields, [fields.modality("S2")]))["inputs"]["S2"],
  )


def test_batches_are_the_same_in_pieces_of_any_size(fields, monkeypatch):
  """A work item of a thread is a piece of a batch; a piece has at least one sample."""
  modalities = [fields.modality("S1")]
  reader = readers.make_reader(fields, modalities)
  index, inputs = readers.read_index(fields), readers.read_table(reader)["inputs"]
  rows = np.array([5, 3001, 4999, 17, 3, 8, 9, 10])
  for piece in (1, 4 * reader.nbytes, 2**22):
    monkeypatch.setattr(stream, "PIECE", piece)
    (batch,) = stream.eval_batches(reader, readers.labels(index), rows, size=8, sharding=place())
    np.testing.assert_array_equal(batch["inputs"]["S1"], inputs["S1"][rows])
    np.testing.assert_array_equal(batch["target"], index.target[rows])
  one = sharding.by_example(sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1]))
  each = list(stream.eval_batches(reader, readers.labels(index), rows, size=1, sharding=one))
  np.testing.assert_array_equal(np.concatenate([b["target"] for b in each]), index.target[rows])


def order(rows, size, seed=0):
  words = np.asarray(jax.random.key_data(jax.random.key(seed)))
  return stream.Order(words, batched(rows, size))


def test_training_batches_see_every_row_once_an_epoch_and_resume_from_a_batch(fields):
  reader = readers.make_reader(fields, [fields.modality("terrain")])
  rows, labels = np.arange(40), {"target": np.arange(len(fields), dtype=np.int32)}
  make = lambda seed=1, start=0: iter(
    stream.train_batches(reader, labels, order(rows, 16, seed), start=start, sharding=place())
  )
  take = lambda batch: np.asarray(batch["target"])[np.asarray(batch["present"]["terrain"]) > 0].tolist()
  iterator = make()
  batches = [take(next(iterator)) for _ in range(3)]
  later = [take(next(iterator)) for _ in range(4)]
  assert sorted(sum(batches, [])) == rows.tolist() == sorted(sum(later[:3], []))
  assert batches != later[:3]
  resumed = make(start=3)
  assert [take(next(resumed)) for _ in range(4)] == later
  assert [take(next(make(seed=2)))] != batches[:1]
  assert len(order(rows, 16)) > 2**60  # there is no last batch
  for it in (iterator, resumed):
    it.close()


def test_the_index_is_read_once(fields, monkeypatch):
  index = readers.read_index(fields)
  monkeypatch.setattr(readers, "_read_index", None)
  again = readers.read_index(fields)
  np.testing.assert_array_equal(index.ids, again.ids, strict=True)
  np.testing.assert_array_equal(index.target, again.target, strict=True)
  for group, values in index.groups.items():
    np.testing.assert_array_equal(values, again.groups[group], strict=True)
  labels = sorted(fields.path.glob("dataset_info.json"))
  os.utime(labels[0], ns=(0, 0))
  with pytest.raises(TypeError):  # the data set may have been rebuilt: it is read again
    readers.read_index(fields)


def test_prefetch_reaches_the_device_as_global_arrays(fields):
  reader = readers.make_reader(fields, [fields.modality("S1")])
  labels = readers.labels(readers.read_index(fields))
  iterator = iter(stream.train_batches(reader, labels, order(np.arange(64), 16), sharding=place()))
  batch = next(iterator)
  assert all(isinstance(leaf, jax.Array) and leaf.sharding == place() for leaf in jax.tree.leaves(batch))
  np.testing.assert_array_equal(batch["row"], [order(np.arange(64), 16)[k] for k in range(16)])  # the first
  iterator.close()


def test_a_sensor_is_there_where_any_of_its_values_is():
  ones, nothing = np.ones((3, 1)), np.full((3, 1), np.nan)
  byte = lambda value: np.full((3, 1), value, np.uint8)
  samples = [
    {"views": {"a": ones, "b": nothing, "c": byte(0), "d": byte(5)}, "present": {"c": False}},
    {"views": {"a": nothing, "b": nothing, "c": byte(1), "d": byte(5)}, "present": {"c": True}},
    {"views": {"a": nothing, "b": nothing, "c": byte(0), "d": byte(5)}, "present": {"c": False}},
  ]
  names = ("a_b", "b", "c", "a_c", "c_d", "d_d")
  modalities = [Modality(n, tuple(n.split("_")), (3, len(n.split("_"))), ()) for n in names]
  reader = readers.Reader(samples, tuple(modalities))
  table = readers.read_table(reader)
  assert {m: p.tolist() for m, p in table["present"].items()} == {
    "a_b": [1, 0, 0],
    "b": [0, 0, 0],
    "c": [0, 1, 0],
    "a_c": [1, 1, 0],
    "c_d": [1, 1, 1],
    "d_d": [1, 1, 1],
  }
  first = {m: x[:, 0].tolist() for m, x in table["inputs"].items()}  # the first step
  np.testing.assert_array_equal(first["a_c"], [[1, np.nan], [np.nan, 1], [np.nan, np.nan]])
  np.testing.assert_array_equal(first["c_d"], [[np.nan, 5], [1, 5], [np.nan, 5]])
  whole = {"c": np.uint8, "d_d": np.uint8}  # as they are stored: one view, or none that a sample may lack
  for row in range(3):
    types = {m: x.dtype for m, x in reader(row)["inputs"].items()}
    assert types == {m: whole.get(m, np.float32) for m in types}


def test_a_joined_view_that_a_sample_lacks_fits_all_steps():
  """A mask hides a step of the other view; the filler of an absent view has no steps to compare."""
  fixed = FixedLength("a", (3, 1), "pad", np.nan, "mask", ((0, 50),), dated=False)
  hidden = np.array([[0], [100], [0]], np.uint8)
  views = {"a": np.arange(3.0)[:, None], "mask": hidden, "c": np.zeros((3, 1), np.uint8)}
  modality = Modality("a_c", ("a", "c"), (3, 2), ())
  reader = readers.Reader([{"views": views, "present": {"c": False}}], (modality,), {"a": fixed})
  want = [[np.nan, np.nan], [0, np.nan], [2, np.nan]]
  np.testing.assert_array_equal(reader(0)["inputs"]["a_c"], want)


def test_what_has_no_label_is_told_apart_and_filled():
  none = np.empty(3)
  classes = readers.Index(none, np.array([2, -1, 0], np.int32), {})
  columns = readers.Index(none, np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]], np.float32), {})
  for index in (classes, columns):
    got = readers.labels(index)
    np.testing.assert_array_equal(got["labelled"], [1.0, 0.0, 1.0])
    assert got["target"].dtype == index.target.dtype and not got["target"][1].any()
    np.testing.assert_array_equal(got["target"][[0, 2]], index.target[[0, 2]])


def test_a_table_is_read_by_threads_in_the_order_of_its_rows(fields):
  reader = readers.make_reader(fields, [fields.modality("weather")])
  table = readers.read_table(reader)
  for row in (0, 63, 64, 3000, 4999):
    np.testing.assert_array_equal(table["inputs"]["weather"][row], reader(row)["inputs"]["weather"])


def test_a_data_set_says_what_it_has_for_a_context(fields):
  assert fields.context == ("terrain",)
  with pytest.raises(InputError, match="'location' is not allowed; synthetic has .*: terrain"):
    context_modality(fields, ("location",))
  with pytest.raises(InputError, match="'S1' is not allowed"):
    context_modality(fields, ("S1",))
