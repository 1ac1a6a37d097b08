"""The benchmarks can be imported, and what they share runs; their figures are not looked at."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

import benchmarks
from benchmarks import measure
from colearn_jax import config as config_lib
from colearn_jax.types import Modality, Task

MODULES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_imported(name):
  flags_before = set(flags.FLAGS)
  try:
    importlib.import_module(f"benchmarks.{name}")
  except ModuleNotFoundError as error:
    if error.name != "torch":
      raise
    pytest.skip("PyTorch is not installed")
  finally:
    for flag in set(flags.FLAGS) - flags_before:  # several benchmarks have flags of the same name
      delattr(flags.FLAGS, flag)


@pytest.mark.long
def test_a_step_is_compiled_and_epochs_of_it_are_timed():
  values = {"train.batch_size": 8, "model.emb_dim": 8}
  values |= {"model.encoder.layer_size": 4, "model.encoder.n_layers": 1}
  config = config_lib.load("configs/lfmc.py:released", values)
  modalities = [Modality("S1", ("S1",), (4, 3), tuple("abc")), Modality("S2", ("S2",), (4, 2), tuple("de"))]
  recipe, state, table = measure.example(config, Task("regression", ("y",)), modalities, rows=20)
  assert jax.tree.map(len, table["inputs"]) == {"S1": 20, "S2": 20}

  costs = measure.step_costs(measure.compiled_step(recipe, state, table))
  assert costs["flops"] > 0 and costs["peak_bytes"] > 0

  first, times = measure.epoch_seconds(recipe, state, table, epochs=2)
  assert len(times) == 2
  assert first > 3 * min(times) > 0  # 3 steps an epoch; `times` are of one step


def test_bytes_of_collectives_are_counted_once_each():
  program = """
    a = f32[4,8]{1,0} all-reduce(f32[4,8]{1,0} b), replica_groups={}
    c = (bf16[2,3]{1,0}, pred[5]{0}) all-gather-start(d, e)
    f = f32[100]{0} add(g, h)
  """
  assert measure.collective_bytes(program) == 4 * 8 * 4 + 2 * 3 * 2 + 5


def test_a_lookup_finds_shifted_series_and_never_the_sample_itself():
  from benchmarks.neighbour_lookup import looked_up

  long = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
  series = np.stack([long[:4], long[1:5], long[2:], -long[:4]])
  target = np.array([1.0, 2.0, 4.0, 8.0])
  found = looked_up(series, target, np.array([0, 1, 3]), np.arange(4))
  assert np.isnan(found[3]).all() and np.isnan(found[:3, 3]).all()
  np.testing.assert_array_equal(found[0], [np.nan, np.nan, np.nan, np.nan, 2.0, np.nan, np.nan])
  np.testing.assert_array_equal(found[2], [np.nan, 1.0, 2.0, np.nan, np.nan, np.nan, np.nan])


def test_models_and_scenes_of_the_benchmark_of_deployment(tmp_path):
  rasterio = pytest.importorskip("rasterio")
  from benchmarks import deploy
  from colearn_jax import load_model

  model = load_model(deploy.make("scene", tmp_path / "model"))
  files, bands = deploy.generate(tmp_path, 40)
  assert model.bands == bands and len(files) == model.modality.shape[0] == 12
  with rasterio.open(files[3]) as file:
    assert file.shape == (40, 40) and file.descriptions == bands
    pixels = file.read()[:, 0].T  # a row of pixels
  x = np.repeat(pixels[:, None], 12, 1)
  np.testing.assert_allclose(model.predict(x).sum(1), np.ones(40), atol=1e-5)
  calls = []
  took = deploy.race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, 1e-9)
  assert [len(own) for own in took.values()] == [3, 3] and calls[-6:] == ["a", "b"] * 3


@pytest.mark.slow
def test_a_map_is_measured_beside_reading(tmp_path, capsys):
  pytest.importorskip("rasterio")
  from benchmarks import deploy

  deploy.measure_map(tmp_path, 64, 600)
  said = capsys.readouterr().out
  assert "scene of 64 x 64 pixels, 12 dates, 10 bands" in said
  for what in ("read", "mapped"):
    assert f"{what}: 4,096 of 4,096 pixels in" in said and "stopped" not in said


@pytest.mark.slow
def test_a_short_soak_is_flat(tmp_path):
  """Memory, open files and threads of a streamed training, after the first half of 90 seconds."""
  from benchmarks import soak

  seen = soak.soak(soak.build(tmp_path, 1000), 1.5, every=5)
  later = seen[len(seen) // 2 :]
  assert len(later) >= 3
  for name, most in (("MiB", 1.05), ("files", 1.0), ("threads", 1.0)):
    values = [row[name] for row in later]
    assert max(values) <= most * min(values), (name, values)


@pytest.mark.long
def test_changes_of_a_program_are_valid_and_of_code_alone(tmp_path):
  from benchmarks import mutants, mutations

  source = (
    '"""A text with 1 < 2."""\n\n\ndef f(x: int = 3, y: int | None = None) -> int:\n'
    '  """One + one."""\n  if x < 2 and y is not None:\n    raise ValueError(f"{x} < 2" + "no")\n'
    "  return jnp.where(x > 0, -x, stop_gradient(y)).sum(-1) + 1.5\n"
  )
  (tmp_path / "a.py").write_text(source)
  found = mutations.mutations(tmp_path, "a.py")
  changed = [change.applied(source.encode()).decode() for change in found]
  assert len(set(changed)) == len(changed) == 16
  for new in ("x <= 2", "2 or y", "y is None", "x: int = 4", "not (x < 2 and", "x > 1", "x >= 0", "x, stop"):
    assert any(new in text for text in changed), new
  for new in (
    "stop_gradient(y), -x",
    "where(x > 0, -x, (y))",
    ".mean(-1)",
    ".sum(1)",
    ".sum(-2)",
    "- 1.5",
    "3.0",
  ):
    assert any(new in text for text in changed), new
  assert all('raise ValueError(f"{x} < 2" + "no")' in text and "1 < 2." in text for text in changed)

  by_area = {area: mutants.every(area) for area in mutants.AREAS}
  every = [change for own in by_area.values() for change in own]
  assert len(every) > 2000 and {change.path for change in every} > {"colearn_jax/objectives/task.py"}
  for patterns in mutants.AREAS.values():
    for pattern in patterns.split():
      assert list((mutants.ROOT / "colearn_jax").glob(f"{pattern}.py")), pattern
  assert mutants.TESTS.keys() == mutants.AREAS.keys()
  for name in " ".join(mutants.TESTS.values()).split():
    assert (mutants.ROOT / f"tests/test_{name}.py").is_file(), name
  keys = {change.key for change in every}
  for path, lines in mutants.equivalent.REASONS.items():
    gone = {line for line in lines if (f"colearn_jax/{path}", line) not in keys}
    assert not gone, f"equivalent changes of {path} are none any more"
  excused = [change for change in every if mutants.equivalent.reason(change)]
  assert 0 < len(excused) < 0.15 * len(every)
  some = mutants.drawn(by_area, 100, 3)
  assert some == mutants.drawn(by_area, 100, 3) != mutants.drawn(by_area, 100, 4)
  assert abs(len(set(some)) - 100) < len(by_area) and {c.path for c in some} & {
    c.path for c in by_area["layers"]
  }


CODE = """ONE = 1


def twice(x):
  return x * (
    ONE + 1
  )


def untested(x):
  return -x
"""
TESTED = """
import pytest
from colearn_jax.code import twice, untested

@pytest.fixture(scope="module")
def given():
  return twice(2)

def test_one(given):
  assert given == 4

def test_other(given):
  pass

def test_third():
  untested(0)
"""
SCRIPT = """
import json
from pathlib import Path
from benchmarks import covering, forked, mutants, mutations
place = mutants.ROOT = Path.cwd()
forked.load(place, ["test_code.py"])
marked = mutants.MARKED[0]
forked.run_tests(place, ["test_code.py"], marked, 60, map_to=place / "map.json")
found = covering.Map.read([place / "map.json"])
judge = mutants.Judge(place, found, marked, place / "log.jsonl")
every = mutations.mutations(place, "colearn_jax/code.py")
print(json.dumps([judge(change).said for change in every]))
"""


@pytest.mark.long
def test_changes_are_noticed_by_the_tests_that_run_them(tmp_path):
  """What a fixture of a module runs counts for all its tests; lines outside of functions for the file's."""
  from benchmarks import covering

  (tmp_path / "colearn_jax").mkdir()  # takes the place of the package
  (tmp_path / "colearn_jax/__init__.py").touch()
  (tmp_path / "colearn_jax/code.py").write_text(CODE)
  (tmp_path / "test_code.py").write_text(TESTED)
  env = os.environ | {"PYTHONPATH": str(Path(benchmarks.__path__[0]).parent)}
  said = subprocess.run(
    [sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True, capture_output=True, env=env, text=True
  ).stdout
  # ONE, the product, the sum and its 1; then a function of which no test looks at the result.
  assert json.loads(said.splitlines()[-1]) == ["noticed"] * 4 + ["survived"]
  assert (tmp_path / "colearn_jax/code.py").read_text() == CODE
  found = covering.Map.read([tmp_path / "map.json"])
  every = {f"test_code.py::test_{name}" for name in ("one", "other", "third")}
  assert found.seconds.keys() == every
  assert set(found.of("colearn_jax/code.py", 6, 5)) == every
  assert found.of("colearn_jax/code.py", 11, 11) == ["test_code.py::test_third"]
  assert set(found.of("colearn_jax/code.py", 1, 0)) == every and found.of("colearn_jax/code.py", 20, 20) == []
  assert covering.within(list("abc"), {"a": 1.0, "b": 2.0, "c": 3.0}, 3.5) == ["a", "b"]
  assert covering.within(["a"], {"a": 9.0}, 3.5) == ["a"]
