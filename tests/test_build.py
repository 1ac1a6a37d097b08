import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets import build, shards
from colearn_jax.datasets.folder.dummy import write_dummy
from colearn_jax.datasets.lfmc.dummy import write_dummy as write_lfmc
from tensorflow_datasets.proto import tf_example_pb2

from colearn_jax.data.dataset import open_dataset
from colearn_jax.storage.files import lock, replacing
from colearn_jax.types import InputError, Task


@pytest.mark.parametrize("name", build.names())
def test_a_data_set_is_described_as_its_builder_makes_it(name, tmp_path):
  manual_dir = None
  if name == "folder":
    manual_dir = tmp_path / "own"
    write_dummy(manual_dir)
  got = build.describe(name, manual_dir)
  builder, form = build.find(name, manual_dir)
  info = builder(data_dir=tmp_path / "nothing", config=form).info
  features, metadata = info.features, info.metadata
  assert got.shapes == {view: tuple(feature.shape) for view, feature in features["views"].items()}
  assert got.groups == tuple(features["groups"]) and got.task == Task.from_json(metadata["task"])
  assert (got.dated, got.located) == ("date" in features, "coordinates" in features)
  for view, facts in metadata["views"].items():
    assert got.views[view] == {k: v for k, v in facts.items() if k != "description"}


@pytest.mark.parametrize(
  ("name", "given", "reason"),
  [
    ("lfmc", {"workers": 2}, "workers is not allowed: lfmc has few files, and one process builds it"),
    ("synthetic", {"unreadable": "skip"}, "unreadable is not allowed: synthetic has few files"),
    (
      "synthetic",
      {"manual_dir": "/"},
      "synthetic reads no files: leave manual_dir out",
    ),
    (
      "treesat_ts",
      {"workers": 2, "beam_pipeline_options": "a=b"},
      "workers is not allowed with beam_pipeline",
    ),
  ],
)
def test_what_would_do_nothing_for_a_data_set_is_refused(tmp_path, name, given, reason):
  with pytest.raises(InputError, match=reason):
    build.build(name, tmp_path, **given)
  assert not list(tmp_path.iterdir())


def test_a_directory_of_the_users_own_is_refused_where_tfds_makes_the_builder(tmp_path):
  write_dummy(tmp_path / "own")
  builder, _ = build.find("folder", tmp_path / "own")
  with pytest.raises(InputError, match="python -m colearn_jax.datasets.build folder --data_dir"):
    builder(data_dir=tmp_path)


def test_a_format_without_access_to_single_samples_is_refused(tmp_path):
  write_lfmc(tmp_path / "training_features.csv")
  path = build.build("lfmc", tmp_path, manual_dir=tmp_path)
  assert tfds.builder_from_directory(path).info.file_format.value == "array_record"
  info = path / "dataset_info.json"
  info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
  with pytest.raises(InputError, match=f"tfds convert_format --dataset_version_dir={path} --out_file_format"):
    open_dataset(path)


def test_files_that_a_builder_writes_itself_have_one_format(tmp_path):
  write_dummy(tmp_path / "own")
  builder, form = build.find("folder", tmp_path / "own")
  made = builder(data_dir=tmp_path, config=form, file_format="tfrecord")
  with pytest.raises(InputError, match="folder is written as array_record only, not as tfrecord"):
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


def test_lines_of_builders_reach_stderr_and_those_of_tfds_do_not(capsys):
  with build._quiet_tfds():
    print("3 samples left out")
    print("Dataset x downloaded and prepared to /y. Subsequent calls will reuse this data.")
    print("\x1b[1mDownloading and preparing dataset Unknown size\x1b[0m")
  out, err = capsys.readouterr()
  assert (out, err) == ("", "3 samples left out\n")


def test_a_lock_is_held_by_one(tmp_path):
  with lock(tmp_path / "l"):
    with pytest.raises(InputError, match="busy here"), lock(tmp_path / "l", busy="busy here"):
      pass
  with lock(tmp_path / "l", busy="busy here"):
    pass


def test_binary_files_are_replaced_whole(tmp_path):
  (tmp_path / "a").write_bytes(b"old")
  with pytest.raises(RuntimeError), replacing(tmp_path / "a", binary=True) as file:
    file.write(b"ne")
    raise RuntimeError
  assert (tmp_path / "a").read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]
  with replacing(tmp_path / "a", binary=True) as file:
    file.write(b"new")
  assert (tmp_path / "a").read_bytes() == b"new"


def test_records_do_not_depend_on_the_process_that_writes_them():
  """Protobuf orders the features of a record by a number that each process draws."""
  one, two = (
    tf_example_pb2.Example(
      features={"feature": {name: {"bytes_list": {"value": [b"x"]}}}}
    ).SerializeToString()
    for name in ("views/S2", "id")
  )
  assert shards.in_order(one + two) == shards.in_order(two + one)
  assert set(tf_example_pb2.Example.FromString(shards.in_order(one + two)).features.feature) == {
    "id",
    "views/S2",
  }
