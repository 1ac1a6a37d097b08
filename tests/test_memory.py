"""Sizes that no machine has room for: one line, not a traceback, a hang or all of the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colearn_jax import config, map, predict
from colearn_jax.deploy import maps, predictions
from colearn_jax.nn import random
from colearn_jax.parallel import memory
from colearn_jax.training import run, worker
from colearn_jax.types import InputError


def test_full_memory_is_one_line():
  with pytest.raises(InputError, match=r"^out of memory \(.*bytes.*\); fewer rows needs less$") as caught:
    with memory.telling("fewer rows"):
      jnp.zeros((2**40, 2**10)).block_until_ready()
  assert "\n" not in str(caught.value)
  with pytest.raises(InputError, match=r"^out of memory.*; a smaller train.batch_size"), memory.telling():
    raise MemoryError


def test_other_errors_are_not_taken_for_full_memory():
  with pytest.raises(RuntimeError, match="^odd$"), memory.telling():
    raise RuntimeError("odd")


def full(*_, **__):
  raise MemoryError


@pytest.mark.parametrize(
  ("command", "room", "work", "flags", "less"),
  [
    (predict, predictions, "write", ["--model=m", "--input=a.csv", "--out=b.csv"], "--rows"),
    (map, maps, "make", ["--model=m", "--out=b.tif", "--input", "a.tif"], "--block"),
  ],
)
def test_commands_say_what_needs_less(monkeypatch, command, room, work, flags, less):
  monkeypatch.setattr(room, work, full)
  with pytest.raises(InputError, match=f"^out of memory; a smaller {less} needs less$"):
    command.main(flags)


def test_a_worker_returns_it_as_its_error(monkeypatch, tmp_path):
  monkeypatch.setattr(worker, "_opened", full)
  answer = worker.train({"workdir": str(tmp_path), "run": "a", "config": {}, "cache": None, "after": 0})
  assert answer["error"].startswith("out of memory; a smaller train.batch_size")


@pytest.mark.parametrize(
  ("key", "allowed"),
  [
    ("data.fourier", "an integer from 0 to 30"),
    ("data.workers", "a number of processes from 0 to 1024"),
    ("loss.trees", "an integer from 1 to 100000"),
    ("model.emb_dim", "an even integer from 2 to 1000000"),
    ("model.encoder.kernel_size", "an integer from 1 to 1000"),
    ("model.encoder.layer_size", "an integer from 1 to 1000000"),
    ("model.encoder.n_layers", "an integer from 1 to 1000"),
    ("model.members", "an integer from 1 to 1000"),
    ("train.workers", "a number of processes from 0 to 1024"),
  ],
)
def test_a_slip_of_the_keyboard_builds_nothing(key, allowed):
  preset = "configs/synthetic.py:method=distill" if key == "loss.trees" else "configs/synthetic.py"
  with pytest.raises(InputError, match=f"{key}: 1000000000 is not allowed; {allowed}$"):
    config.load(preset, {key: 10**9})


@pytest.mark.long
def test_a_model_that_does_not_fit_is_one_line(tmp_path):
  """Its kernels have more values than 32 bits can count."""
  keys = {"model.encoder.layer_size": 10**6, "train.max_epochs": 1, "data.data_dir": str(tmp_path / "data")}
  chosen = config.load("configs/synthetic.py:individual", keys)
  with pytest.raises(InputError, match="^out of memory"):
    run.run(chosen, tmp_path / "run")
  assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_bits_of_arrays_beyond_32_bits_repeat():
  shape = jax.eval_shape(lambda key: random.hashed_bits(key, (3, 10**6, 10**6)), jax.random.key(0))
  assert shape.shape == (3, 10**6, 10**6) and shape.dtype == np.uint32
