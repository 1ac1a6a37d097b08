"""Serves an exported model by HTTP with LitServe, a server that exists: `pip install colearn_jax litserve`.

    python examples/serve_litserve.py model_s2 --port=8000
    curl localhost:8000/predict -H 'Content-Type: application/json' \
        -d '{"values": [[[0.1, 0.4], [0.2, null]]], "dates": ["2023-05-01", "2023-05-13"]}'

The request has `values`, one entry for each sample, null being missing; and, where the model needs them,
the other arguments of `Model.predict`. The answer has for each sample a number for each output, or nulls.
"""

from __future__ import annotations

import argparse

import litserve
import numpy as np
from fastapi import HTTPException

import colearn_jax

ARGUMENTS = ("bands", "dates", "date", "context", "prepared")


def array(sample) -> np.ndarray | None:
  """Nested lists as numbers, in which null is missing."""
  return None if sample is None else np.array(sample, float)


class Sensor(litserve.LitAPI):
  """One exported model."""

  def __init__(self, folder: str):
    super().__init__()
    self.folder = folder

  def setup(self, device):
    """Loads the model, once in each process."""
    self.model = colearn_jax.load_model(self.folder)

  def predict(self, request: dict) -> dict:
    """Predicts the samples of a request; a mistake in it is told with status 400."""
    try:
      given = {name: request[name] for name in ARGUMENTS if name in request}
      if "masks" in request:
        given["masks"] = {band: list(map(array, own)) for band, own in request["masks"].items()}
      found = self.model.estimate(list(map(array, request["values"])), **given)
    except (KeyError, TypeError, ValueError) as error:  # InputError is a ValueError
      raise HTTPException(400, str(error)) from error
    tell = lambda values: np.where(np.isnan(values), None, values).tolist()
    return {"outputs": self.model.outputs, "value": tell(found.value), "spread": tell(found.spread)}


def main() -> None:
  """Serves until it is stopped."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("model", help="folder of an exported model")
  parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines, too")
  parser.add_argument("--port", type=int, default=8000)
  given = parser.parse_args()
  server = litserve.LitServer(Sensor(given.model), accelerator="cpu")
  server.run(host=given.host, port=given.port, generate_client_file=False)


if __name__ == "__main__":
  main()
