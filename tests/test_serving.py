"""The example of a server, run as its first lines say. It needs LitServe, which no extra brings."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from colearn_jax import load_model
from colearn_jax.deploy.export import save_model
from colearn_jax.deploy.model import Model
from colearn_jax.types import Modality, Task

EXAMPLE = Path(__file__).parents[1] / "examples/serve_litserve.py"


def function(weights, x):
  return x.sum(1) * weights["factor"][None]


def post(address, content):
  request = urllib.request.Request(
    address, json.dumps(content).encode(), {"Content-Type": "application/json"}
  )
  with urllib.request.urlopen(request, timeout=60) as answer:
    return json.load(answer)


@pytest.mark.slow
def test_the_example_serves_predictions(tmp_path):
  pytest.importorskip("litserve")
  model = Model(
    function,
    {"seed10_fold0": {"factor": np.float32([1, 10])}},
    Modality("S2", ("S2",), (2, 2), ("red", "nir")),
    Task("regression", ("a", "b")),
  )
  folder = save_model(model, tmp_path / "model")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = [sys.executable, str(EXAMPLE), str(folder), f"--port={port}"]
  with subprocess.Popen(command, start_new_session=True) as server:
    try:
      address, x = f"http://127.0.0.1:{port}", [[[1.0, 2.0], [3.0, 4.0]], [[0.5, None], [1.0, 1.0]]]
      for _ in range(120):
        assert server.poll() is None
        try:
          urllib.request.urlopen(f"{address}/health", timeout=5)
          break
        except (urllib.error.URLError, OSError):
          time.sleep(1)
      got = post(f"{address}/predict", {"values": x})
      want = load_model(folder).predict(np.array(x, float))
      assert got["outputs"] == ["a", "b"] and got["value"][0] == want[0].tolist() == [4, 60]
      assert got["value"][1] == [1.5, None] and np.isnan(want[1, 1])
      swapped = post(f"{address}/predict", {"values": [x[0]], "bands": ["nir", "red"]})
      assert swapped["value"] == [[6, 40]]
      with pytest.raises(urllib.error.HTTPError) as error:
        post(f"{address}/predict", {"values": [x[0]], "bands": ["nir", "blue"]})
      assert error.value.code == 400 and "the model needs red as well" in error.value.read().decode()
    finally:
      os.killpg(server.pid, signal.SIGKILL)  # it and the processes that it started
