"""`tfds build` and the readers of TFDS, as users call them. They need the extras `tfds` and `raster`."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets import build
from colearn_jax.datasets.cropharvest.dummy import write_dummy as write_cropharvest
from colearn_jax.datasets.folder.dummy import write_dummy as write_folder
from colearn_jax.datasets.lfmc.dummy import write_dummy as write_lfmc
from colearn_jax.datasets.treesat_ts.dummy import random_names
from colearn_jax.datasets.treesat_ts.dummy import write_dummy as write_treesat

from colearn_jax.data.dataset import open_dataset
from colearn_jax.data.reader import read_index

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tensorflow", "h5py")),
    reason="needs the extras tfds and raster",
  ),
]

BUILDERS = Path(build.__file__).parent
# So many tiles that the builder starts several processes for them.
TILES = {"train": 260, "val": 2, "test": 3}


def call(*words, cwd=None):
  """Runs a program of this environment; returns its exit code and what it wrote."""
  program = Path(sys.executable).with_name(words[0])
  env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [program, *words[1:]], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
  )
  return done.returncode, done.stdout


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
  """The directories of source files, by the folder of the builder."""
  root = tmp_path_factory.mktemp("manual")
  (root / "lfmc").mkdir()
  write_lfmc(root / "lfmc" / "training_features.csv")
  write_cropharvest(root / "cropharvest")
  steps = dict.fromkeys(("asc", "des", "S2"), (1, 3))
  write_treesat(root / "treesat_ts", *random_names(TILES), steps=steps)
  write_folder(root / "folder")
  return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def built(manual, tmp_path_factory):
  """Runs `tfds build` once for each builder and returns what it wrote, by the name of the data set."""
  root, done = tmp_path_factory.mktemp("tfds"), {}

  def once(name):
    folder, _, config = name.partition("/")
    if name not in done:
      words = ["build", f"--data_dir={root}", *([f"--config={config}"] if config else [])]
      words += [f"--manual_dir={manual[folder]}"] if folder in manual else []
      done[name] = *call("tfds", *words, cwd=BUILDERS / folder), root
    return done[name]

  return once


def samples(path):
  """Type, shape and bytes of every value of every sample, by split. Records may hold them in any order."""
  info = tfds.builder_from_directory(path).info

  def plain(record):
    leaves = jax.tree_util.tree_leaves_with_path(info.features.deserialize_example_np(record))
    arrays = {key: np.asarray(leaf) for key, leaf in leaves}
    text = lambda x: x.tobytes() if x.dtype != object else x.tolist()
    return {key: (x.dtype, x.shape, text(x)) for key, x in arrays.items()}

  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  builder = tfds.builder_from_directory(path)
  return {
    split: [plain(record) for record in builder.as_data_source(split, deserialize_method=raw)]
    for split in info.splits
  }


NAMES = [name for name in build.names() if name != "folder"]


@pytest.mark.parametrize("name", NAMES)
def test_tfds_build_writes_what_our_build_writes(name, built, manual, tmp_path):
  code, output, root = built(name)
  assert code == 0, output
  manual_dir = manual.get(name.partition("/")[0])
  ours = build.build(name, tmp_path, manual_dir=manual_dir)
  theirs = build.build(name, root, manual_dir=manual_dir)  # finds it and checks what it was made from
  assert theirs == root / ours.relative_to(tmp_path)
  assert samples(ours) == samples(theirs)
  for file in ("features.json", "metadata.json"):
    assert json.loads((ours / file).read_text()) == json.loads((theirs / file).read_text())
  assert len(read_index(open_dataset(theirs)).ids) == len(open_dataset(ours))


# What docs/guides/data_sets.md says, and the samples of both compared.
READ = """
import sys
import numpy as np, tensorflow as tf, tensorflow_datasets as tfds
name, root, load = sys.argv[1:]
source = tfds.data_source(name, split="train", data_dir=root)
if load:
  samples = tfds.load(name, split="train", data_dir=root)
else:
  spec = source.dataset_info.features.get_tensor_spec()
  samples = tf.data.Dataset.from_generator(lambda: iter(source), output_signature=spec)
count = 0
for a, b in zip(tfds.as_numpy(samples), source, strict=True):
  tf.nest.assert_same_structure(a, b)
  for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
    x = np.asarray(x)  # NumPy scalars become Python's in the data source
    assert x == y if x.dtype.kind in "SO" else x.tobytes() == np.asarray(y, x.dtype).tobytes(), (x, y)
  count += 1
print("samples read:", count)
"""


def read_with_tensorflow(name, root, load=False):
  """The number of training samples that tf.data reads, once they are equal to those of TFDS's data source."""
  code, output = call("python", "-c", READ, name, root, "load" if load else "")
  assert code == 0, output
  return int(re.search(r"samples read: (\d+)", output)[1])


@pytest.mark.parametrize("name", build.names())
def test_tf_data_reads_what_our_build_writes(name, manual, tmp_path):
  path = build.build(name, tmp_path, manual_dir=manual.get(name.partition("/")[0]))
  place = "/".join(path.relative_to(tmp_path).parts[:-1])
  assert read_with_tensorflow(place, tmp_path) == open_dataset(path).sizes["train"]


def test_training_reads_what_tfds_build_wrote(built, manual, tmp_path):
  *_, root = built("lfmc")
  train = ["python", "-m", "colearn_jax.main", "--config=lfmc", f"--config.data.manual_dir={manual['lfmc']}"]
  small = ["--config.train.max_epochs=1", "--config.protocol.folds=2"]
  code, output = call(*train, *small, f"--config.data.data_dir={root}", f"--workdir={tmp_path / 'run'}")
  assert code == 0 and (tmp_path / "run" / "results.json").is_file(), output


def test_another_format_is_refused_in_one_line_whose_command_converts_it(manual, tmp_path):
  words = ["build", "--file_format=tfrecord", f"--manual_dir={manual['lfmc']}", f"--data_dir={tmp_path}"]
  code, output = call("tfds", *words, cwd=BUILDERS / "lfmc")
  assert code == 0, output
  train = ["python", "-m", "colearn_jax.main", "--config=lfmc", f"--config.data.manual_dir={manual['lfmc']}"]
  train += ["--config.train.max_epochs=1", "--config.protocol.folds=2"]
  train += [f"--config.data.data_dir={tmp_path}", f"--workdir={tmp_path / 'run'}"]
  code, output = call(*train)
  assert code == 1 and "Traceback" not in output, output
  command = re.search("`tfds (convert_format .*?)`", output.splitlines()[-1])[1]
  code, output = call("tfds", *command.split())
  assert code == 0, output
  code, output = call(*train)
  assert code == 0, output
  path = build.build("lfmc", tmp_path / "ours", manual_dir=manual["lfmc"])
  assert samples(path) == samples(tmp_path / "lfmc" / path.name)
  assert read_with_tensorflow("lfmc", tmp_path, load=True) == open_dataset(path).sizes["train"]


@pytest.mark.parametrize(
  ("folder", "flag", "line"),
  [
    ("folder", "--overwrite", "build it with `python -m colearn_jax.datasets.build folder "),
    ("treesat_ts", "--file_format=tfrecord", "treesat_ts is written as array_record only, not as tfrecord"),
  ],
)
def test_what_tfds_build_cannot_do_is_said_in_its_last_line(folder, flag, line, manual, tmp_path):
  words = ["build", flag, f"--manual_dir={manual[folder]}", f"--data_dir={tmp_path}"]
  code, output = call("tfds", *words, cwd=BUILDERS / folder)
  assert code != 0 and line in output.strip().splitlines()[-1], output
