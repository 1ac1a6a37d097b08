import pytest
from colearn_jax.datasets import build
from colearn_jax.datasets.folder.dummy import write_dummy

from colearn_jax.storage.files import lock, replacing
from colearn_jax.types import InputError, Task


@pytest.mark.parametrize("name", build.names())
def test_a_data_set_is_described_as_its_builder_makes_it(name, tmp_path):
  manual_dir = None
  if name == "folder":
    manual_dir = tmp_path / "own"
    write_dummy(manual_dir)
  build.describe.cache_clear()
  got = build.describe(name, manual_dir)
  builder, form = build.find(name, manual_dir)
  info = builder(data_dir=tmp_path / "nothing", config=form).info
  features, metadata = info.features, info.metadata
  assert got.shapes == {view: tuple(feature.shape) for view, feature in features["views"].items()}
  assert got.groups == tuple(features["groups"]) and got.task == Task.from_json(metadata["task"])
  assert (got.dated, got.located) == ("date" in features, "coordinates" in features)
  for view, facts in metadata["views"].items():
    assert got.views[view] == {k: v for k, v in facts.items() if k != "description"}
  assert build.describe(name, manual_dir) is got  # once in a process


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
