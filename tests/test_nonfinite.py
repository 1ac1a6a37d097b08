"""Steps whose loss or gradient is not finite: the training stops, or skips them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import settings

from colearn_jax.training import faults, run, step
from colearn_jax.types import InputError

pytestmark = pytest.mark.usefixtures("alone")


def poisoned(monkeypatch, at, where="loss"):
  """Makes the loss, or only its gradient, NaN in the steps `at`."""
  forward = step._in_training

  def wrapper(recipe, params, state, given):
    stats, outputs = forward(recipe, params, state, given)
    hit = sum(state.step == number for number in at) > 0
    bad = lambda x: x * jnp.where(hit, jnp.nan, 1.0) if where == "loss" else spoiled(x, hit)
    return stats, jax.tree.map(bad, outputs)

  monkeypatch.setattr(step, "_in_training", wrapper)


@jax.custom_jvp
def spoiled(x, hit):
  return x


@spoiled.defjvp
def _(primals, tangents):
  x, hit = primals
  return x, jnp.where(hit, jnp.nan, 1.0) * tangents[0]


@pytest.mark.long
@pytest.mark.parametrize(
  ("placement", "poison", "said"),
  [
    ("device", "loss", "main.*, objective.* of its loss is"),
    ("stream", "gradient", "its gradient, but not its loss, is"),
  ],
)
def test_a_step_that_is_not_finite_stops_and_can_be_repeated(
  where, tmp_path, monkeypatch, placement, poison, said
):
  """Step 3 of 3 in the first epoch; the file holds its samples, and repeating it gives the same terms."""
  poisoned(monkeypatch, [2], poison)
  config = settings(where, data__placement=placement, train__nonfinite="stop")
  with pytest.raises(
    InputError, match=f"seed10_fold0 diverged: {said} not finite in step 3, epoch 1"
  ) as error:
    run.run(config, tmp_path)
  file = tmp_path / "diverged_seed10_fold0.npz"
  assert "\n" not in str(error.value) and str(file) in str(error.value)
  with np.load(file, allow_pickle=False) as arrays:
    rows, ids, params = arrays["batch/row"], arrays["ids"], arrays["state/step"]
    assert all(np.isfinite(arrays[name]).all() for name in arrays.files if "/params/" in name) and params == 2
  assert len(ids) == (rows >= 0).sum() and all(f"{name}" in str(error.value) for name in ids[:5])
  terms = faults.replay(tmp_path, file)
  assert np.isnan(terms["objective"]) == (poison == "loss")
  assert not (tmp_path / "checkpoints").exists()


@pytest.mark.long
@pytest.mark.parametrize("placement", ["device", "stream"])
def test_steps_that_are_not_finite_are_skipped_and_counted(where, tmp_path, monkeypatch, placement):
  poisoned(monkeypatch, [1, 4])
  config = settings(where, data__placement=placement, train__nonfinite="skip")
  run.run(config, tmp_path)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  skipped = [line["train/skipped"] for line in lines if line["run"] == "seed10_fold0"]
  assert skipped == [1.0, 1.0, 0.0] and all(np.isfinite(line["train/objective"]) for line in lines)


@pytest.mark.long
def test_steps_that_are_all_skipped_end_the_training(where, tmp_path, monkeypatch):
  poisoned(monkeypatch, range(3))
  with pytest.raises(InputError, match="diverged: its train objective is nan in epoch 1"):
    run.run(settings(where, train__nonfinite="skip"), tmp_path)
