"""Maps: scenes in every form, against predictions of single pixels; interruption; what is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from colearn_jax import load_model
from colearn_jax import map as command
from colearn_jax.deploy import mapping, maps, names, tiles
from colearn_jax.deploy.export import save_model
from colearn_jax.deploy.model import Model
from colearn_jax.types import DATE_COLUMNS, TIME_COLUMN, UNIT_VECTOR, InputError, Modality, Task
from tests.cases.exported import BANDS, DAYS, ORIGIN, cube, expected, function, read, scene, write

rasterio = pytest.importorskip("rasterio")
CLASSES = Task("multiclass", ("crop", "tree", "water"))
VALUES = Task("regression", ("height", "mass"), "m")
RUNS = ("seed10_fold0", "seed10_fold1")
UTM = rasterio.Affine(*ORIGIN)
PLACE = {"driver": "GTiff", "crs": "EPSG:32632", "transform": UTM}


def make_model(path, shape, task=CLASSES, context=(), about=None, runs=RUNS):
  rng = np.random.default_rng(3)
  size = int(np.prod(shape))
  draw = lambda n: rng.normal(size=(n, len(task.outputs))).astype(np.float32) / n
  weights = {run: {"kernel": draw(size), "context": draw(len(context))} for run in runs}
  modality = Modality("S2", ("S2",), shape, BANDS)
  return save_model(Model(function, weights, modality, task, context, about), path)


def dated(folder, x):
  """One GeoTIFF a date; the bands are in another order in the last one, and one more is there."""
  for day, image in zip(DAYS, x):
    write(folder / f"S2_{day}.tif", image)
  write(
    folder / f"S2_{DAYS[-1]}.tif", np.dstack([x[-1, ..., ::-1], x[-1, ..., :1] * 9]), ("nir", "red", "blue")
  )
  return folder / "S2_*.tif"


@pytest.fixture(scope="module")
def series(tmp_path_factory):
  """A model of series of pixels."""
  return make_model(tmp_path_factory.mktemp("model") / "m", (3, 2))


def check_classes(folder, x, out):
  want = expected(folder, x)
  got, about = read(out)
  lacking = np.isnan(want).any(-1)
  assert lacking[-6:, -10:].all() and not lacking[:-6].any()
  np.testing.assert_array_equal(got[0], np.where(lacking, 255, np.nan_to_num(want).argmax(-1)))
  share, _ = read(out.with_name(f"{out.stem}_confidence.tif"))
  np.testing.assert_allclose(share[0][~lacking], 100 * want.max(-1)[~lacking], atol=0.51)
  assert (share[0][lacking] == 255).all()
  return about


def test_a_map_of_one_file_a_date(series, tmp_path, capsys):
  x, out = scene(), tmp_path / "out/map.tif"
  out.parent.mkdir()
  command.main([f"--model={series}", "--input", str(dated(tmp_path / "in", x)), f"--out={out}", "--block=16"])
  named = [out, out.with_name("map_confidence.tif"), out.with_name("map.png")]
  assert capsys.readouterr().out.split() == list(map(str, named))
  about = check_classes(series, x, out)
  assert (about["crs"], about["transform"], about["nodata"]) == (PLACE["crs"], UTM, 255)
  assert about["tags"]["CLASS_1"] == "tree" and "S2_2023-05-01.tif" in about["tags"]["INPUT"]
  with rasterio.open(out) as file:
    assert file.colormap(1)[1][:3] == (86, 180, 233)
    assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
  assert "<Category>tree</Category>" in out.with_name("map.tif.aux.xml").read_text()
  left = {path.name for path in out.parent.iterdir()}
  assert left == {"map.tif", "map.tif.aux.xml", "map_confidence.tif", "map.png"}


def one_file(folder, x):
  """All dates in one GeoTIFF, in no order."""
  every = [(f"{band}_{day}", x[t, ..., k]) for t, day in enumerate(DAYS) for k, band in enumerate(BANDS)]
  every = [every[i] for i in (3, 0, 5, 1, 4, 2)]
  return write(folder / "all.tif", np.dstack([image for _, image in every]), [name for name, _ in every])


def numbered(folder, x):
  """The same with numbers, whole numbers with a scale, and a nodata value of the file."""
  names = [f"{band}(t{t - 2 or ''})" for t in range(3) for band in BANDS]
  image = np.moveaxis(np.round(x * 100), 0, 2).reshape(*x.shape[1:3], -1)
  image = np.where(np.isnan(image), -999, image).astype(np.int16)
  path = write(folder / "all.tif", image, names, nodata=-999)
  with rasterio.open(path, "r+") as file:
    file.scales = [0.01] * 6
  return path


def items(folder, x):
  """STAC items: a file for each band, of which nir has pixels twice as large."""
  features = []
  for day, image in zip(reversed(DAYS), x[::-1]):
    write(folder / f"{day} red.tif", image[..., :1], ("Red",))
    coarse = rasterio.Affine(20, 0, 600000, 0, -20, 5300000)
    write(folder / f"{day} n.tif", image[::2, ::2, 1:], (None,), transform=coarse)
    assets = {"B4": {"href": f"./{day}%20red.tif", "eo:bands": [{"name": "red"}]}}
    assets |= {"nir": {"href": f"{day}%20n.tif"}, "preview": {"href": "p.jpg"}}
    properties = {"datetime": f"{day}T10:20:31Z"}
    features.append({"type": "Feature", "id": day, "properties": properties, "assets": assets})
  (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
  return folder / "items.json"


FORMS = {
  "one file": one_file,
  "numbers": numbered,
  "zarr": lambda folder, x: cube(folder, x, ".zarr"),
  "netcdf": lambda folder, x: cube(folder, x, ".nc"),
  "stac": items,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_scene(series, tmp_path, form):
  x = scene(36, 52)
  if form == "stac":
    x[..., 1] = np.repeat(np.repeat(x[:, ::2, ::2, 1], 2, 1), 2, 2)
  if form == "numbers":
    x = (np.round(x * 100) * np.float32(0.01)).astype(np.float32)
  (tmp_path / "in").mkdir()
  maps.make(series, [str(FORMS[form](tmp_path / "in", x))], tmp_path / "map.tif", maps.Settings(block=20))
  about = check_classes(series, x, tmp_path / "map.tif")
  assert about["crs"] == PLACE["crs"] and about["transform"].almost_equals(UTM)


def test_a_map_of_values_with_bounds(tmp_path):
  half = {name: [k + 0.5] * 99 for k, name in enumerate(VALUES.outputs)}
  fitted = {"coverage": [k / 100 for k in range(1, 100)], "half_width": half, "samples": 500}
  folder, x = make_model(tmp_path / "m", (3, 2), VALUES, about={"uncertainty": fitted}), scene()
  maps.make(folder, [str(one_file(tmp_path / "in", x))], tmp_path / "map.tif", maps.Settings(block=30))
  want = load_model(folder).estimate(np.moveaxis(x, 0, 2).reshape(-1, 3, 2))
  got, about = read(tmp_path / "map.tif")
  flat = lambda array: array.reshape(len(array), -1).T
  np.testing.assert_allclose(flat(got), want.value, atol=1e-5)
  assert (about["names"], about["units"], np.isnan(about["nodata"])) == (("height", "mass"), ("m", "m"), True)
  got, about = read(tmp_path / "map_confidence.tif")
  assert about["names"] == tuple(f"{what}_{name}" for what in ("lower", "upper", "spread") for name in half)
  np.testing.assert_allclose(flat(got), np.hstack([want.lower, want.upper, want.spread]), atol=1e-5)


@pytest.mark.parametrize(
  ("settings", "reason"),
  [
    ({"workers": 0}, "--workers=0 is not allowed; an integer >= 1"),
    (
      {"workers": 2, "scheduler": "tcp://127.0.0.1:1"},
      "--workers=2 is not allowed; nothing with --scheduler",
    ),
    ({"coverage": 0.8}, "coverage=0.8 has no effect: the model predicts no values, and has no intervals"),
  ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path, settings, reason):
  folder = make_model(tmp_path / "m", (2,), Task("multilabel", ("oak", "pine")), runs=RUNS[:1])
  path = write(tmp_path / "a.tif", scene(20, 30, 1)[0])
  with pytest.raises(InputError, match=reason):
    maps.make(folder, [str(path)], tmp_path / "map.tif", maps.Settings(**settings))
  assert not list(tmp_path.glob("*map*"))


def test_a_map_of_labels(tmp_path):
  task = Task("multilabel", ("oak", "pine"))
  folder, x = make_model(tmp_path / "m", (2,), task, runs=RUNS[:1]), scene(20, 30, 1)
  maps.make(folder, [str(write(tmp_path / "a.tif", x[0]))], tmp_path / "map.tif", maps.Settings())
  want = expected(folder, x)
  got, about = read(tmp_path / "map.tif")
  lacking = np.isnan(want).any(-1)
  assert about["names"] == ("oak", "pine")
  np.testing.assert_array_equal(got[:, ~lacking], (want >= 0.5)[~lacking].T)
  assert (got[:, lacking] == 255).all() and lacking.any()


@pytest.mark.parametrize("shape", [(8, 8, 2), (3, 6, 10, 2)])
def test_a_map_by_tiles_that_overlap(tmp_path, shape):
  """Each pixel is the mean over all tiles that hold it, weighted by a pyramid; blocks leave no seam."""
  folder, x = make_model(tmp_path / "m", shape, VALUES), scene(21, 34, shape[0] if len(shape) == 4 else 1)
  model, (high, wide) = load_model(folder), shape[-3:-1]
  total, count = np.zeros((21, 34, 2)), np.zeros((21, 34, 1))
  slope = lambda n: 1 - np.abs((np.arange(n) + 0.5) / n * 2 - 1)
  weight = (slope(high)[:, None] * slope(wide))[..., None]
  for row in sorted({*range(0, 21 - high, high // 2), 21 - high}):
    for column in sorted({*range(0, 34 - wide, wide // 2), 34 - wide}):
      own = x[:, row : row + high, column : column + wide]
      value = model.predict((own if len(shape) == 4 else own[0])[None])[0]
      if np.isfinite(value).all():
        total[row : row + high, column : column + wide] += weight * value
        count[row : row + high, column : column + wide] += weight
  with np.errstate(invalid="ignore"):
    want = np.where(np.isfinite(x).any((0, 3))[..., None], total / count, np.nan)
  path = write(tmp_path / "a.tif", x[0]) if len(shape) == 3 else one_file(tmp_path, x)
  for block in (9, 512):
    maps.make(folder, [str(path)], tmp_path / "map.tif", maps.Settings(block=block))
    got, _ = read(tmp_path / "map.tif")
    np.testing.assert_allclose(np.moveaxis(got, 0, -1), want, atol=2e-5)
  assert np.isnan(want).any()


def test_a_scene_that_is_smaller_than_a_tile(tmp_path):
  folder, x = make_model(tmp_path / "m", (8, 8, 2)), scene(5, 30, 1)
  x[:] = 1
  maps.make(folder, [str(write(tmp_path / "a.tif", x[0]))], tmp_path / "map.tif", maps.Settings())
  padded = np.full((1, 8, 8, 2), np.nan, np.float32)
  padded[:, :5] = 1
  got, _ = read(tmp_path / "map.tif")
  assert (got == load_model(folder).predict(padded).argmax()).all()


@pytest.mark.parametrize(
  "how, constants, refused, accepted",
  [
    (
      "quantile",
      {"offset": [16.5], "scale": [0.5], "quantiles": [[16.0], [17.0]]},
      ("2015-05-01", "2017-08-01"),
      ("2015-08-01", "2017-05-01"),
    ),
    (
      "minmax",
      {"offset": [16.0], "scale": [1.0]},
      ("2015-05-01", "2017-08-01"),
      ("2015-08-01", "2017-05-01"),
    ),
    (
      "zscore",
      {"offset": [16.5], "scale": [0.5]},
      ("2014-06-01", "2019-01-01"),
      ("2014-08-01", "2018-06-01"),
    ),
    ("max", {"offset": [0.0], "scale": [17.0]}, ("2017-08-01",), ("1999-01-01", "2017-05-01")),
    ("fixed", {"offset": [0.0], "scale": [1.0]}, (), ("1990-01-01", "2030-07-01")),
  ],
)
def test_a_map_of_another_year_than_the_training_is_refused_where_the_time_is_read(
  tmp_path, how, constants, refused, accepted
):
  """`max` does not tell the first year of the training, and `fixed` no year."""
  about = {
    "normalisation": {"seed10_fold0": {"context": constants}},
    "configuration": {"data": {"normalisation": how}},
  }
  folder, x = make_model(tmp_path / "m", (2,), context=(TIME_COLUMN,), about=about), scene(12, 17, 1)
  path, out = str(write(tmp_path / "a.tif", x[0])), tmp_path / "map.tif"
  for date in refused:
    with pytest.raises(InputError, match=f"{date} is outside of its training.* about 20.*--any-values"):
      maps.make(folder, [path], out, maps.Settings(date=date))
    assert not out.exists()
  for date, any_values in [*((date, False) for date in accepted), *((date, True) for date in refused)]:
    maps.make(folder, [path], out, maps.Settings(date=date, any_values=any_values))
    assert out.exists()


@pytest.mark.parametrize("columns", [(*DATE_COLUMNS, *UNIT_VECTOR), (*UNIT_VECTOR, TIME_COLUMN)])
def test_the_context_is_that_of_each_pixel(tmp_path, columns):
  columns = (*columns, "elevation")
  folder, x = make_model(tmp_path / "m", (2,), context=columns), scene(12, 17, 1)
  height = np.arange(12 * 17, dtype=np.float32).reshape(12, 17, 1) / 50
  static = write(tmp_path / "dem.tif", height, ("elevation",))
  settings = maps.Settings(block=7, date="20230701", static=(str(static),))
  maps.make(folder, [str(write(tmp_path / "a.tif", x[0]))], tmp_path / "map.tif", settings)
  from rasterio.warp import transform

  from colearn_jax.data import context

  row, column = np.divmod(np.arange(12 * 17), 17)
  x_of, y_of = 600000 + 10 * (column + 0.5), 5300000 - 10 * (row + 0.5)
  longitude, latitude = transform(PLACE["crs"], "EPSG:4326", x_of, y_of)
  known = {"coordinates": np.stack([latitude, longitude], 1), "static": height.reshape(-1, 1)}
  own = context.encode(columns, dates=["2023-07-01"] * 204, **known)
  want = load_model(folder).predict(x.reshape(-1, 2), own)
  lacking = np.isnan(want).any(1)
  got, _ = read(tmp_path / "map.tif")
  np.testing.assert_array_equal(got.ravel(), np.where(lacking, 255, np.nan_to_num(want).argmax(1)))
  for changed, message in (
    ({"date": ""}, "--date says it"),
    ({"static": ()}, "--static=FILE with elevation"),
  ):
    with pytest.raises(InputError, match=message):
      maps.make(
        folder, [str(tmp_path / "a.tif")], tmp_path / "b.tif", dataclasses.replace(settings, **changed)
      )


def test_an_interrupted_map_is_continued(series, tmp_path, monkeypatch, capsys):
  x, inner, computed = scene(), mapping.compute, []
  path = str(one_file(tmp_path / "in", x))
  maps.make(series, [path], tmp_path / "whole.tif", maps.Settings(block=16))

  def compute(job, block, *rest):
    if len(computed) == 5:
      raise KeyboardInterrupt
    computed.append(block)
    return inner(job, block, *rest)

  monkeypatch.setattr(mapping, "compute", compute)
  with pytest.raises(KeyboardInterrupt):
    maps.make(series, [path], tmp_path / "map.tif", maps.Settings(block=16))
  assert {p.name for p in tmp_path.iterdir()} & {"map.tif", "map_confidence.tif", "map.png"} == set()
  again = []
  monkeypatch.setattr(
    mapping, "compute", lambda job, block, *rest: again.append(block) or inner(job, block, *rest)
  )
  maps.make(series, [path], tmp_path / "map.tif", maps.Settings(block=16))
  assert len(again) == 12 - 5 and not set(again) & set(computed)
  for name in ("{}.tif", "{}_confidence.tif"):
    one, two = (tmp_path / name.format(stem) for stem in ("whole", "map"))
    np.testing.assert_array_equal(read(one)[0], read(two)[0])
  computed.clear()
  monkeypatch.setattr(mapping, "compute", compute)
  with pytest.raises(KeyboardInterrupt):
    maps.make(series, [path], tmp_path / "map.tif", maps.Settings(block=16))
  again.clear()
  monkeypatch.setattr(
    mapping, "compute", lambda job, block, *rest: again.append(block) or inner(job, block, *rest)
  )
  maps.make(series, [path], tmp_path / "map.tif", maps.Settings(block=19))
  assert len(again) == 6 and "starts anew" in capsys.readouterr().err


def cut(path):
  data = path.read_bytes()
  path.write_bytes(data[: len(data) * 2 // 3])


WRONG = {
  "cut off": (lambda f, x: cut(f / "S2_2023-05-13.tif"), r"cannot read .*S2_2023-05-13.tif: "),
  "other size": (
    lambda f, x: write(f / "S2_2023-05-13.tif", x[1, :-1]),
    r"S2_2023-05-13.tif has 36 x 53 pixels, S2_2023-05-01.tif 37 x 53",
  ),
  "other projection": (
    lambda f, x: write(f / "S2_2023-05-13.tif", x[1], crs="EPSG:32633"),
    r"S2_2023-05-13.tif has another projection than S2_2023-05-01.tif",
  ),
  "elsewhere": (
    lambda f, x: write(
      f / "S2_2023-05-13.tif", x[1], transform=rasterio.Affine(10, 0, 600010, 0, -10, 5300000)
    ),
    r"S2_2023-05-13.tif lies elsewhere",
  ),
  "no names": (
    lambda f, x: write(f / "S2_2023-05-13.tif", x[1], ()),
    r"S2_2023-05-13.tif lacks the bands red, nir; it has: b1, b2",
  ),
  "lacks a band": (
    lambda f, x: write(f / "S2_2023-05-13.tif", x[1], ("red", "NIR")),
    r"S2_2023-05-13.tif lacks the bands nir; it has: red, NIR",
  ),
  "one date less": (lambda f, x: (f / "S2_2023-05-13.tif").unlink(), r"reads 3 steps, the scene has 2"),
  "two of one date": (
    lambda f, x: write(f / "S2_20230513_b.tif", x[1]),
    r"S2_2023-05-13.tif and S2_20230513_b.tif are of one date",
  ),
  "no date": (lambda f, x: write(f / "S2_b.tif", x[1]), r"S2_b.tif has no date in its name, as 4 files need"),
  "nothing known": (
    lambda f, x: [write(f / f"S2_{day}.tif", x[0] * np.nan) for day in DAYS],
    r"no pixel of S2_2023-05-01.tif has a value",
  ),
  "unclear": (
    lambda f, x: write(f / "S2_2023-05-13.tif", np.where(x[1] > 0, x[1], -9999), nodata=None),
    r"S2_2023-05-13.tif holds -9999: a value, or nodata\?; --nodata=NUMBER says it",
  ),
  "no picture": (
    lambda f, x: [p.rename(p.with_suffix(".jpg")) for p in f.glob("*.tif")],
    "there is no such file",
  ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_scenes_end_in_one_line(series, tmp_path, kind):
  x, out = scene(), tmp_path / "map.tif"
  pattern, (damage, message) = dated(tmp_path / "in", x), WRONG[kind]
  damage(tmp_path / "in", x)
  with pytest.raises(InputError, match=message) as e:
    command.main([f"--model={series}", f"--input={pattern}", f"--out={out}"])
  assert "\n" not in str(e.value)
  assert not [p for p in tmp_path.iterdir() if p.name.startswith(("map", ".map.part"))]


def test_other_wrong_arguments(series, tmp_path):
  path = str(one_file(tmp_path / "in", scene()))
  run = lambda *more, out=tmp_path / "map.tif": command.main(
    [f"--model={series}", f"--input={path}", f"--out={out}", *more]
  )
  for more, message in (
    (["--bands=red,nir"], r"has 6 bands, and 2 are named: red, nir"),
    (["--nodata=nothing"], "--nodata=nothing is not allowed; a number, or none"),
    (["--block=0"], "--block=0 is not allowed"),
    (["--static=dem.tif"], "has no static layers in its context"),
  ):
    with pytest.raises(InputError, match=message):
      run(*more)
  with pytest.raises(InputError, match="ends with .tif"):
    run(out=tmp_path / "map.png")
  (tmp_path / "m").mkdir()
  for file in series.iterdir():
    (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
  (tmp_path / "m/weights.safetensors").write_bytes(b"0" + (series / "weights.safetensors").read_bytes()[1:])
  with pytest.raises(InputError, match=r"weights.safetensors was altered, its checksum differs"):
    run(f"--model={tmp_path / 'm'}")


def test_values_in_other_units_are_noticed(tmp_path):
  normalisation = {RUNS[0]: {"S2": {"offset": [0.2, 0.3], "scale": [0.1, 0.1]}}}
  folder = make_model(tmp_path / "m", (2,), about={"normalisation": normalisation})
  path = [str(write(tmp_path / "a.tif", np.full((4, 5, 2), 2500, np.uint16), nodata=0))]
  with pytest.raises(InputError, match=r"band red has values around 2500, training had 0.2 .* --scale"):
    maps.make(folder, path, tmp_path / "map.tif", maps.Settings())
  maps.make(folder, path, tmp_path / "map.tif", maps.Settings(scale=1e-4))
  maps.make(folder, path, tmp_path / "map.tif", maps.Settings(any_values=True))


def test_names_of_steps():
  found = names.steps(["B2_2", "B2_1", "B8_1", "x", "B8_2"], ("B8", "B2"), "a.csv")
  assert found == names.Steps((("B8_1", "B2_1"), ("B8_2", "B2_2")), None)
  found = names.steps(["B2(t)", "B2(t-1)"], ("B2",), "a.csv")
  assert found.names == (("B2(t-1)",), ("B2(t)",))
  found = names.steps(["B2_20230502", "B2_2023-05-01"], ("B2",), "a.csv")
  assert found.days == (19478, 19479) and found.names[0] == ("B2_2023-05-01",)
  assert names.steps(["B2", "B8"], ("B2", "B8"), "a.csv") is None
  for wrong, message in (
    (["B2_1", "B2_3", "B8_1", "B8_3"], "the steps 1, 3 of its bands leave some out"),
    (["B2_1", "B2_2", "B8_1"], "a.csv lacks B8_2"),
    (["B2_1", "B2(t)", "B8_1"], r"B2_1 and B2\(t\) name their steps in different ways"),
    (["B2_1", "B2_01"], "B2_1 and B2_01 are of one step"),
    (["B2_20231301"], "20231301"),
  ):
    with pytest.raises(InputError, match=message):
      names.steps(wrong, ("B2", "B8"), "a.csv")


def test_tiles_cover_everything():
  for length, tile in ((10, 4), (4, 4), (3, 4), (9, 1), (21, 8)):
    starts = tiles.starts(length, tile)
    assert starts[0] == 0 and starts[-1] == max(0, length - tile) and sorted(set(starts)) == starts
    assert all(b - a <= max(1, tile // 2) for a, b in zip(starts, starts[1:]))
    want = [s for s in starts if s < 3 and s + tile > 2]
    assert tiles.touching(length, tile, 2, 3) == want


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits_though_a_worker_is_killed(series, tmp_path):
  """Two worker processes of a real Dask cluster, of which one is killed after the first blocks."""
  psutil = pytest.importorskip("psutil")
  pytest.importorskip("distributed")
  path = str(one_file(tmp_path / "in", scene(150, 200)))
  line = [sys.executable, "-m", "colearn_jax.map", f"--model={series}", f"--input={path}", "--block=16"]
  subprocess.run([*line, f"--out={tmp_path / 'one.tif'}"], check=True)
  running = subprocess.Popen([*line, f"--out={tmp_path / 'map.tif'}", "--workers=2"])
  killed = None
  while running.poll() is None and killed is None:
    time.sleep(0.05)
    if len(list(tmp_path.glob(".map.tif.blocks/*.npz"))) >= 3:
      below = psutil.Process(running.pid).children(recursive=True)
      workers = [p for p in below if "spawn_main" in " ".join(p.cmdline())]
      killed = workers[-1].pid
      os.kill(killed, signal.SIGKILL)
  assert running.wait(600) == 0 and killed is not None
  for name in ("{}.tif", "{}_confidence.tif"):
    one, two = (tmp_path / name.format(stem) for stem in ("one", "map"))
    np.testing.assert_array_equal(read(one)[0], read(two)[0])
