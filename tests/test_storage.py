"""Damaged files: a finished model, a checkpoint, predictions, a prepared data set, a cache of statistics."""

import logging
import random
import shutil

import numpy as np
import pytest
from colearn_jax.datasets import build
from small_runs import assert_same, settings

from colearn_jax.data import reader
from colearn_jax.data.dataset import open_dataset
from colearn_jax.deploy.load import load_model
from colearn_jax.evaluation.results import Results
from colearn_jax.reporting import predictions
from colearn_jax.reporting.study import Arm
from colearn_jax.storage import array_cache, files, manifest, models
from colearn_jax.training import run
from colearn_jax.types import InputError

pytestmark = pytest.mark.usefixtures("alone")

SENSOR = "S1_S1Ind"


@pytest.fixture(scope="module")
def finished(where, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  run.run(settings(where), workdir)
  return workdir


def damaged(content, how, rng):
  """A file's content that is cut, emptied, or has one other bit."""
  if how == "cut":
    return content[: len(content) // 2]
  if how == "emptied":
    return b""
  at = rng.randrange(len(content))
  return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def loaded(workdir):
  """What predictions depend on: arrays, names and shapes, as bytes and text."""
  model = load_model(workdir, SENSOR)
  arrays = {
    run: {name: np.asarray(a).tobytes() for name, a in own.items()} for run, own in model.weights.items()
  }
  return arrays, repr((model.modality, model.task, model.context, model.about["configuration"]))


@pytest.mark.long
def test_every_checkpoint_has_a_manifest_before_it_has_its_name(finished):
  for model in (finished / "checkpoints").iterdir():
    (step,) = (path for path in model.iterdir() if path.is_dir())
    listed = files.read_json(step / manifest.NAME)["files"]
    there = {path.relative_to(step).as_posix() for path in step.rglob("*") if path.is_file()}
    unlisted = {manifest.NAME, "commit_success.txt", "_CHECKPOINT_METADATA"}
    assert there - set(listed) <= unlisted and "progress/metadata" in listed


@pytest.mark.parametrize("flips", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_damaged_file_of_a_finished_run_is_refused_or_makes_no_difference(finished, tmp_path, flips):
  """Every file of one model and of the run itself: cut, emptied, and with one other bit at random places."""
  copy = tmp_path / "copy"
  shutil.copytree(finished, copy)
  shutil.rmtree(copy / "checkpoints/seed10_fold1")
  results = files.read_json(copy / "results.json")
  del results["timing"]["runs"]["seed10_fold1"]
  files.write_json(copy / "results.json", results, sealed=True)
  whole, outcomes = loaded(copy), {"refused": 0, "the same bits": 0}
  every = [
    *(copy / "checkpoints").rglob("*"),
    *(copy / f"{name}.json" for name in ("config", "dataset", "results")),
  ]
  rng = random.Random(flips)
  for path in sorted(path for path in every if path.is_file()):
    content = path.read_bytes()
    for how in ("cut", "emptied", *["flipped"] * flips):
      path.write_bytes(damaged(content, how, rng))
      try:
        same = loaded(copy) == whole
      except InputError as error:
        assert "\n" not in str(error) and str(copy) in str(error)
        outcomes["refused"] += 1
      else:
        assert same, f"{path} {how}"
        outcomes["the same bits"] += 1
    path.write_bytes(content)
  print(outcomes)
  assert outcomes["refused"] >= 20 * (2 + flips) * 0.7


@pytest.mark.long
def test_a_damaged_model_is_said_and_trained_anew(finished, where, tmp_path, capsys):
  copy = tmp_path / "copy"
  shutil.copytree(finished, copy)
  victim = next((copy / "checkpoints/seed10_fold0").glob("*/model/d/*"))
  victim.write_bytes(victim.read_bytes()[:-1])
  with pytest.raises(InputError, match=f"{victim} is damaged: .*; run the training's command again") as error:
    load_model(copy, SENSOR)
  assert "\n" not in str(error.value)
  shutil.rmtree(copy / "checkpoints/seed10_fold1")
  (copy / "checkpoints/seed10_fold1").mkdir()
  with pytest.raises(InputError, match="is damaged|no checkpoint"):
    load_model(copy, SENSOR)
  run.run(settings(where), copy)
  said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
  assert len(said) == 1 and str(victim) in said[0] and "its run is trained anew" in said[0]
  assert_same(copy, finished)


def test_a_lost_model_is_said(finished, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(finished, copy)
  shutil.rmtree(copy / "checkpoints/seed10_fold1")
  with pytest.raises(InputError, match="lacks the models of seed10_fold1: run the training's command again"):
    load_model(copy, SENSOR)
  assert load_model(copy, SENSOR, runs=["seed10_fold0"]).runs == ["seed10_fold0"]


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped"])
def test_of_two_checkpoints_the_good_one_is_used(tmp_path, capsys, how):
  rng, directory = random.Random(3), tmp_path / "run"
  value = lambda step: {"params": {"a": np.full(400, float(step)), "b": np.arange(9.0)}}
  with models.open_manager(directory) as manager:
    for step in (1, 2, 3):
      args = models.ocp.args
      items = {"model": args.PyTreeSave(value(step)), "progress": args.JsonSave({"epoch": step})}
      manager.save(step, args=args.Composite(**items))
  assert sorted(p.name for p in directory.iterdir() if p.is_dir()) == ["2", "3"]
  path = rng.choice(sorted((directory / "3/model").rglob("*.ocdbt")))
  path.write_bytes(damaged(path.read_bytes(), how, rng))
  with pytest.raises(InputError, match="is damaged"):
    models.restore(directory)
  models.remove_damaged(directory, "nothing is used")
  assert "an older one is used" in capsys.readouterr().err
  assert models.progress(directory) == {"epoch": 2}
  np.testing.assert_array_equal(models.restore(directory)["params"]["a"], value(2)["params"]["a"])
  for path in (directory / "2").rglob("*.ocdbt"):
    path.unlink()
  models.remove_damaged(directory, "nothing is used")
  assert "nothing is used" in capsys.readouterr().err and models.latest(directory) == -1


def test_damaged_predictions_are_not_reported(finished, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(finished, copy)
  task = load_model(copy, SENSOR, runs=["seed10_fold0"]).task
  arm = Arm("own", "own", "network", copy, Results.read(copy / "results.json"))
  assert len(predictions.read(arm, SENSOR, task).ids) > 60
  path = copy / f"predictions/{SENSOR}.csv"
  path.write_text(path.read_text().replace("1", "2", 1))
  with pytest.raises(InputError, match="S1_S1Ind.csv is damaged: .*; run the training's command again"):
    predictions.read(arm, SENSOR, task)


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped"])
def test_a_damaged_shard_is_built_again_from_its_sources(where, tmp_path, capsys, how):
  keys = where["data.manual_dir"]
  path = build.build("lfmc", tmp_path, manual_dir=keys)
  index = reader.read_index(open_dataset(path))
  for name in ("*.array_record*", "dataset_info.json", "metadata.json", "features.json"):
    (file,) = path.glob(name)
    content = file.read_bytes()
    file.write_bytes(damaged(content, how, random.Random(name)))
    with pytest.raises(InputError, match=f"{file} is damaged: .*: remove {path} to build it again"):
      build.build("lfmc", tmp_path)
    capsys.readouterr()
    assert build.build("lfmc", tmp_path, manual_dir=keys) == path
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(said) == 1 and str(file) in said[0] and "is built again" in said[0]
    assert reader.read_index(open_dataset(path)).digest == index.digest


@pytest.mark.parametrize("how", ["cut", "emptied"])
def test_a_shard_that_is_damaged_while_it_is_read_is_one_line(where, tmp_path, how):
  path = build.build("lfmc", tmp_path, manual_dir=where["data.manual_dir"])
  dataset = open_dataset(path)
  (file,) = path.glob("*.array_record*")
  file.write_bytes(damaged(file.read_bytes(), how, random.Random(0)))
  with pytest.raises(
    InputError, match=r"row \d+ of .* cannot be read .*: a file is damaged; remove"
  ) as error:
    reader.read_index(dataset)
  assert "\n" not in str(error.value)


def test_a_damaged_cache_is_computed_anew_with_a_warning(tmp_path, capsys):
  rng = np.random.default_rng(0)
  (tmp_path / "shard").write_bytes(b"x")
  at, arrays = array_cache.stamp(tmp_path), {"a": rng.normal(size=50), "b": np.array(["x", "yz"])}
  array_cache.write(tmp_path, at, {"what": "moments"}, arrays)
  (file,) = (tmp_path / "derived").iterdir()
  content, chance = file.read_bytes(), random.Random(1)
  for how in ("cut", "emptied", *["flipped"] * 300):
    file.write_bytes(damaged(content, how, chance))
    assert array_cache.read(tmp_path, at, {"what": "moments"}) is None
    assert f"{file} is damaged: it is computed anew" in capsys.readouterr().err
  file.write_bytes(content)
  np.testing.assert_array_equal(array_cache.read(tmp_path, at, {"what": "moments"})["a"], arrays["a"])


def test_a_sealed_file_that_was_altered_says_what_to_do(tmp_path):
  path = tmp_path / "config.json"
  files.write_json(path, {"a": 1, "b": {"c": "é"}}, sealed=True)
  assert files.read_json(path) == {"a": 1, "b": {"c": "é"}}
  text = path.read_text()
  path.write_text(text.replace("1", "2", 1))
  with pytest.raises(
    InputError, match="config.json was altered, .* restore this file .* remove its key sha256"
  ):
    files.read_json(path)
  path.write_text(text[:9])
  with pytest.raises(InputError, match="config.json is not JSON: .*; restore this file from a copy"):
    files.read_json(path)
  path.write_text('{"a": 2}')
  assert files.read_json(path) == {"a": 2}


@pytest.mark.parametrize(
  ("level", "path", "text", "shown"),
  [
    (logging.WARNING, "/x/orbax/manager.py", "Waiting for previous save to complete took %f seconds.", False),
    (logging.ERROR, "/x/orbax/writer.py", "a traceback", False),
    (logging.WARNING, "/x/orbax/manager.py", "something else", True),
    (logging.ERROR, "/x/other/writer.py", "a traceback", True),
  ],
)
def test_what_orbax_logs_is_not_shown_where_it_is_told_otherwise(level, path, text, shown):
  record = logging.LogRecord("absl", level, path, 1, text, (), None)
  assert models._without_orbax(record) == shown
