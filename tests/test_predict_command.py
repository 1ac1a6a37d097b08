"""`colearn_jax.predict`: samples in every format against `Model.estimate`, and what is refused."""

import numpy as np
import pytest

from colearn_jax import load_model
from colearn_jax import predict as command
from colearn_jax.data import context
from colearn_jax.deploy import predictions
from colearn_jax.types import TIME_COLUMN, UNIT_VECTOR, InputError, Task
from tests.cases.exported import CLASSES, COLUMNS, DAYS, make_model, rows, write_csv
from tests.cases.predict_files import FORMATS, IDS, as_parquet, steps_of, values


@pytest.fixture(scope="module")
def series(tmp_path_factory):
  """A model of series."""
  return make_model(tmp_path_factory.mktemp("model") / "m", (3, 2))


def numbers(found, names):
  return np.array([[float("nan") if row[n] in ("", None) else float(row[n]) for n in names] for row in found])


def check(folder, found, x, ids=IDS, given=None):
  want = load_model(folder).estimate(x, given)
  assert [row["id"] for row in found] == ids
  for what, array in (("probability", want.value), ("spread", want.spread)):
    np.testing.assert_allclose(
      numbers(found, [f"{what}_{name}" for name in CLASSES.outputs]), array, atol=1e-6
    )
  names = [None if np.isnan(p).any() else CLASSES.outputs[p.argmax()] for p in want.value]
  assert [row["prediction"] or None for row in found] == names and None in names


@pytest.mark.filterwarnings("ignore:The data type")  # of Zarr, whose texts have no specification yet
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_every_format(series, tmp_path, kind, out, capsys):
  path = FORMATS[kind](tmp_path)
  command.main([f"--model={series}", f"--input={path}", f"--out={tmp_path / out}", "--rows=4"])
  assert capsys.readouterr().out == f"11 predictions in {tmp_path / out}\n"
  check(series, rows(tmp_path / out), values(3, 2))
  assert {p.name for p in tmp_path.iterdir()} == {path.name, out}


def test_static_values_without_ids(tmp_path):
  folder = make_model(tmp_path / "m", (2,))
  x = values(2)
  cells = [["" if np.isnan(v) else repr(float(v)) for v in x[:, k]] for k in (0, 1)]
  path = write_csv(tmp_path / "a.csv", {"nir": cells[1], "red": cells[0]})
  path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets write it
  predictions.write(folder, path, tmp_path / "out.csv")
  check(folder, rows(tmp_path / "out.csv"), x, list(map(str, range(11))))


def test_images(tmp_path):
  folder = make_model(tmp_path / "m", (4, 5, 2))
  np.savez(tmp_path / "a.npz", values=values(4, 5, 2), id=IDS)
  predictions.write(folder, tmp_path / "a.npz", tmp_path / "out.csv", rows=4)
  check(folder, rows(tmp_path / "out.csv"), values(4, 5, 2))
  with pytest.raises(InputError, match=r"a.csv cannot hold images; they are read from .npz, .nc and .zarr"):
    predictions.write(folder, write_csv(tmp_path / "a.csv", {"red": [1], "nir": [1]}), tmp_path / "b.csv")


@pytest.mark.parametrize("columns", [COLUMNS, (*UNIT_VECTOR, TIME_COLUMN, "elevation")])
def test_context(tmp_path, columns):
  folder, x = make_model(tmp_path / "m", (2,), names=columns), values(2)
  known = {
    "date": ["20230701", "", *["2023-05-01"] * 9],
    "lat": np.linspace(-80, 80, 11),
    "lon": np.arange(11),
  }
  known |= {"elevation": np.linspace(0, 3, 11)}
  given = {"id": IDS, "red": x[:, 0], "nir": x[:, 1]} | known
  predictions.write(folder, write_csv(tmp_path / "a.csv", given), tmp_path / "out.csv", rows=4)
  dates = ["2023-07-01", "", *["2023-05-01"] * 9]
  places = np.stack([known["lat"], known["lon"]], 1)
  own = context.encode(columns, dates=dates, coordinates=places, static=known["elevation"][:, None])
  check(folder, rows(tmp_path / "out.csv"), x, IDS, own)
  for name in ("date", "lat", "elevation"):
    path = write_csv(tmp_path / "a.csv", {k: v for k, v in given.items() if k != name})
    with pytest.raises(InputError, match=f"a.csv lacks {name}, which the model needs"):
      predictions.write(folder, path, tmp_path / "out.csv")


def test_bounds_of_values(tmp_path):
  fitted = {"coverage": [k / 100 for k in range(1, 100)], "half_width": {"height": list(range(1, 100))}}
  task = Task("regression", ("height",), "m")
  folder = make_model(tmp_path / "m", (2,), task, runs=1, uncertainty=fitted | {"samples": 500})
  x = values(2)
  path = write_csv(tmp_path / "a.csv", {"red": x[:, 0], "nir": x[:, 1]})
  predictions.write(folder, path, tmp_path / "out.csv", coverage=0.8)
  found = rows(tmp_path / "out.csv")
  assert list(found[0]) == ["id", "prediction_height", "lower_height", "upper_height"]
  got = numbers(found, list(found[0])[1:])
  np.testing.assert_allclose(got[:, 1:], np.repeat(got[:, :1], 2, 1) + [-80, 80], atol=1e-4)
  np.testing.assert_allclose(got[:, 0], load_model(folder).predict(x)[:, 0], atol=1e-6)
  plain = make_model(tmp_path / "plain", (2,), task, runs=1)
  with pytest.raises(
    InputError, match="coverage=0.8 has no effect: the model was exported without uncertainty"
  ):
    predictions.write(plain, path, tmp_path / "plain.csv", coverage=0.8)
  assert not list(tmp_path.glob("*plain.csv*"))


def test_labels(tmp_path):
  task = Task("multilabel", ("oak", "pine", "beech"))
  folder = make_model(tmp_path / "m", (2,), task, uncertainty={"kind": "temperature", "temperature": 2.0})
  x = values(2)
  predictions.write(
    folder, write_csv(tmp_path / "a.csv", {"red": x[:, 0], "nir": x[:, 1]}), tmp_path / "o.csv"
  )
  want = load_model(folder).estimate(x).value
  for row, p in zip(rows(tmp_path / "o.csv"), want):
    named = [name for name, own in zip(task.outputs, p) if own >= 0.5]
    assert row["prediction"] == ("" if np.isnan(p).any() else ";".join(named))
    assert row["probability_oak"] == "" or float(row["probability_oak"]) == pytest.approx(p[0], abs=1e-6)


STEPS = [f"_{day}" for day in DAYS]
WRONG = {
  "no bands": (
    "a.csv",
    lambda p: write_csv(p, {"id": [1], "b1": [2]}),
    r"lacks the bands red, nir, each .* b1",
  ),
  "a step less": (
    "a.csv",
    lambda p: write_csv(p, {k: v for k, v in steps_of(STEPS).items() if k != "nir_2023-05-13"}),
    r"a.csv lacks nir_2023-05-13",
  ),
  "text": (
    "a.csv",
    lambda p: write_csv(p, steps_of(STEPS) | {"red_2023-05-13": ["low"] * 11}),
    r"cannot read .*a.csv: .*'low'",
  ),
  "two columns of a name": (
    "a.csv",
    lambda p: p.write_text("red_1,red_1\n1,2\n"),
    "has two columns named red_1",
  ),
  "no samples": ("a.csv", lambda p: p.write_text(",".join(steps_of(STEPS)) + "\n"), "a.csv has no samples"),
  "cut off": (
    "a.parquet",
    lambda p: p.write_bytes(as_parquet(p.parent).read_bytes()[:300]),
    "cannot read .*a.parquet",
  ),
  "two steps": (
    "a.csv",
    lambda p: write_csv(p, steps_of(STEPS[:2])),
    r"reads samples of shape \(3, 2\), got \(2, 2\)",
  ),
  "no names": (
    "a.npz",
    lambda p: np.savez(p, values=np.zeros((2, 3, 3))),
    r"the last axis is the bands red, nir",
  ),
  "other arrays": (
    "a.npz",
    lambda p: np.savez(p, red=np.zeros((2, 3))),
    r"a.npz lacks the bands nir; it has: red",
  ),
  "of two shapes": (
    "a.npz",
    lambda p: np.savez(p, red=np.zeros((2, 3)), nir=np.zeros((2, 4))),
    r"red has shape \(2, 3\), nir \(2, 4\)",
  ),
  "other kind": ("a.xlsx", lambda p: p.touch(), "has to end with one of .csv, .parquet, .npz, .nc, .zarr"),
  "nothing": ("a.csv", lambda p: None, "there is no such file"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_samples_end_in_one_line(series, tmp_path, kind):
  name, make, message = WRONG[kind]
  make(tmp_path / name)
  (tmp_path / "out.csv").write_text("old")
  with pytest.raises(InputError, match=message) as e:
    command.main([f"--model={series}", f"--input={tmp_path / name}", f"--out={tmp_path / 'out.csv'}"])
  assert "\n" not in str(e.value) and (tmp_path / "out.csv").read_text() == "old"
  assert {p.name for p in tmp_path.iterdir()} <= {name, "out.csv"}


def test_values_in_other_units_are_noticed(tmp_path):
  normalisation = {"seed10_fold0": {"S2": {"offset": [0.2, 0.3], "scale": [0.1, 0.1]}}}
  folder = make_model(tmp_path / "m", (2,), normalisation=normalisation)
  path = write_csv(tmp_path / "a.csv", {"red": [0.2], "nir": [3000]})
  with pytest.raises(InputError, match="band nir has values around 3000, training had 0.3 .*--any-values"):
    predictions.write(folder, path, tmp_path / "out.csv")
  assert predictions.write(folder, path, tmp_path / "out.csv", any_values=True) == 1


@pytest.mark.parametrize("quantiles", [True, False])
def test_a_date_outside_of_the_training_is_refused_where_the_time_is_read(tmp_path, quantiles):
  """The training had dates from 2015 to 2018."""
  columns = (*UNIT_VECTOR, TIME_COLUMN)
  times = context.encode_times(["2015-01-01", "2018-12-31"])[:, 0]
  own = {"offset": [0, 0, 0, float(times.mean())], "scale": [1, 1, 1, float(np.ptp(times)) / 6]}
  if quantiles:  # None as in columns that are not normalised
    own |= {"quantiles": [[None, None, None, float(time)] for time in times]}
  folder = make_model(tmp_path / "m", (2,), names=columns, normalisation={"seed10_fold0": {"context": own}})

  def predict(date, **how):
    cells = {"red": [0.1, 0.1], "nir": [0.2, 0.2], "date": ["2016-07-01", date], "lat": [1, 1], "lon": [2, 2]}
    path = write_csv(tmp_path / "a.csv", cells)
    return predictions.write(folder, path, tmp_path / "out.csv", **how)

  for date in ("2014-08-01", "2019-06-01", ""):
    assert predict(date) == 2
  (tmp_path / "out.csv").unlink()
  for date in ("2014-06-01", "2019-08-01"):
    message = f"{date} is outside .* from about 2015-01-01 to 2018-12-31; .*; --any-values accepts it"
    with pytest.raises(InputError, match=message):
      predict(date)
    assert not (tmp_path / "out.csv").exists()
  assert predict("2030-01-01", any_values=True) == 2
