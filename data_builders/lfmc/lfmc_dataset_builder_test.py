import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from colearn_jax.datasets.build import build
from colearn_jax.datasets.lfmc import lfmc_dataset_builder as lfmc
from colearn_jax.datasets.lfmc.dummy import write_dummy
from tensorflow_datasets.core.download.checksums import UrlInfo

from colearn_jax.types import InputError

DUMMY = Path(__file__).parent / "dummy_data" / lfmc.FILE


def edited(directory, edit):
  """A directory with the dummy file after `edit`, which changes its cells in place or returns text."""
  table = [line.split(",") for line in DUMMY.read_text().splitlines()]
  text = edit(table)
  if text is None:
    text = "\n".join(",".join(row) for row in table) + "\n"
  directory.mkdir(exist_ok=True)
  (directory / lfmc.FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
  return directory


def cell(line, column, value):
  """The edit that puts a value in one cell; `line` counts from 1, the header's."""

  def edit(table):
    table[line - 1][table[0].index(column)] = value

  return edit


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  return build("lfmc", tmp_path_factory.mktemp("data"), manual_dir=DUMMY.parent)


def test_dummy_file_is_what_the_script_writes(tmp_path):
  write_dummy(tmp_path / "again.csv")
  assert (tmp_path / "again.csv").read_text() == DUMMY.read_text()


def test_samples_hold_the_cells_of_the_file_in_its_order(prepared):
  header, *rows = (line.split(",") for line in DUMMY.read_text().splitlines())
  of = lambda row, *names: np.array([row[header.index(name)] for name in names], np.float32)
  source = tfds.builder_from_directory(prepared).as_data_source(split="train")
  assert len(source) == len(rows) == 8
  steps = ("t-3", "t-2", "t-1", "t")
  optical = ("red", "green", "blue", "swir", "nir", "ndvi", "ndwi", "nirv")
  series = {
    "S1": ("vv", "vh"),
    "S1Ind": ("vh_vv",),
    "S2": optical[:5],
    "S2Ind": optical[5:],
    "S1_S2": [f"{sar}_{band}" for sar in ("vv", "vh") for band in optical],
  }
  static = {"soil": ("silt", "sand", "clay"), "DEM": ("elevation", "slope"), "LIDAR": ("canopy_height",)}
  for sample, row in zip(source, rows, strict=True):
    assert sample["id"].decode() == row[0]
    assert sample["date"].decode() == row[header.index("date")]
    assert sample["groups"]["site"].decode() == row[header.index("site")]
    np.testing.assert_array_equal(sample["target"], of(row, "percent(t)"), strict=True)
    assert sample["coordinates"].dtype == np.float64
    assert sample["coordinates"].tolist() == [
      float(row[header.index("latitude")]),
      float(row[header.index("longitude")]),
    ]
    views = sample["views"]
    assert set(views) == {*series, *static, "landcover"}
    for view, bands in series.items():
      expected = np.stack([of(row, *(f"{band}({step})" for band in bands)) for step in steps])
      np.testing.assert_array_equal(views[view], expected, strict=True)
    for view, bands in static.items():
      np.testing.assert_array_equal(views[view], of(row, *(f"{band}(t)" for band in bands)), strict=True)
    assert views["landcover"].sum() == 1 and views["landcover"].shape == (12,)
    assert list(lfmc.LANDCOVER)[views["landcover"].argmax()] == of(row, "forest_cover(t)")


def test_metadata_describes_task_views_and_sources(prepared):
  info = tfds.builder_from_directory(prepared).info
  metadata = info.metadata
  assert metadata["task"] == {"kind": "regression", "outputs": ["LFMC"], "unit": "%"}
  assert metadata["sources"] == {lfmc.FILE: hashlib.sha256(DUMMY.read_bytes()).hexdigest()}
  assert metadata["views"]["S2Ind"]["bands"] == ["ndvi", "ndwi", "nirv"]
  for name, feature in info.features["views"].items():
    assert len(metadata["views"][name]["bands"]) == feature.shape[-1]
    assert metadata["views"][name]["description"]
  assert "Live fuel" in info.description or "live fuel" in info.description
  assert "Rao" in info.citation


def test_the_order_of_columns_and_unknown_columns_do_not_matter(tmp_path):
  def turned(table):
    for row in table:
      row[1:] = row[:0:-1] + ["more"]

  there = edited(tmp_path / "turned", turned)
  old, new = lfmc.read_samples(DUMMY), lfmc.read_samples(there / lfmc.FILE)
  for name in old["views"]:
    np.testing.assert_array_equal(old["views"][name], new["views"][name])
  assert [old[key] for key in ("id", "date", "site")] == [new[key] for key in ("id", "date", "site")]


def test_bom_windows_lines_and_blank_lines_are_read(tmp_path):
  there = edited(tmp_path, lambda _: b"\xef\xbb\xbf" + DUMMY.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
  np.testing.assert_array_equal(
    lfmc.read_samples(there / lfmc.FILE)["target"], lfmc.read_samples(DUMMY)["target"]
  )


def without(*names):
  def edit(table):
    for name in names:
      at = table[0].index(name)
      for row in table:
        del row[at]

  return edit


ERRORS = {
  "empty": (lambda t: "", "is empty"),
  "header alone": (lambda t: ",".join(t[0]) + "\n", "has a header and no rows"),
  "columns": (without("vv(t-2)", "site"), r"lacks 2 columns after the index: vv\(t-2\), site"),
  "no index": (
    lambda t: [row.pop(0) for row in t] and None,
    r"lacks 1 columns .*: percent\(t\)",
  ),
  "column twice": (lambda t: [row.append(row[-1]) for row in t] and None, "more than once: site"),
  "index twice": (lambda t: t[6].__setitem__(0, t[2][0]), "index '103' on line 3 and again on line 7"),
  "index empty": (lambda t: t[4].__setitem__(0, ""), "line 5: the index is empty"),
  "text": (cell(5, "vh(t-1)", "n/a"), r"line 5, column 'vh\(t-1\)': 'n/a' is not a finite number"),
  "infinite": (cell(3, "ndvi(t)", "-inf"), r"line 3, column 'ndvi\(t\)': '-inf' is not a finite number"),
  "underscore": (cell(3, "ndvi(t)", "1_0"), r"line 3, column 'ndvi\(t\)': '1_0' is not a finite number"),
  "ragged": (lambda t: t[5].append("1"), r"line 6: 122 cells where the header has 121"),
  "land cover": (
    cell(7, "forest_cover(t)", "71"),
    "line 7, .*'71' is not a known GlobCover class, have: 14, 20",
  ),
  "latitude": (cell(7, "latitude", "91"), "line 7, column 'latitude': '91' is out of range"),
  "no cell": (cell(5, "vh(t-1)", ""), r"line 5, column 'vh\(t-1\)': '' is not a finite number"),
  "nan target": (
    cell(5, "percent(t)", "nan"),
    r"line 5, column 'percent\(t\)': 'nan' is not a finite number",
  ),
  "moment": (
    cell(8, "date", "2015-06-30T10:00:00"),
    "line 8, column 'date': '2015-06-30T10:00:00' is not a da",
  ),
  "date": (cell(8, "date", "6/30/15"), "line 8, column 'date': '6/30/15' is not a date YYYY-MM-DD"),
  "code of a missing target (B24)": (
    cell(4, "percent(t)", "-9999"),
    r"line 4, column 'percent\(t\)': '-9999' is negative; the moisture content is 0 or more %",
  ),
  "binary": (lambda t: b"\xff\xfe\x00\x01", "cannot read .* as comma-separated UTF-8 text"),
}


@pytest.mark.parametrize("edit, message", ERRORS.values(), ids=ERRORS)
def test_a_malformed_file_is_an_error_of_one_line_B43(tmp_path, edit, message):
  there = edited(tmp_path / "manual", edit)
  with pytest.raises(InputError, match=message) as error:
    build("lfmc", tmp_path / "data", manual_dir=there)
  assert "\n" not in str(error.value)
  assert lfmc.FILE in str(error.value)
  assert {path.name for path in (tmp_path / "data" / "lfmc").iterdir()} == {".lock"}


@pytest.mark.parametrize("there", ["nowhere", "empty"])
def test_a_manual_dir_without_the_file_is_an_error_and_no_download(tmp_path, there, monkeypatch):
  (tmp_path / "empty").mkdir()
  monkeypatch.setattr(lfmc.Builder, "_download", lambda *_: pytest.fail("tried to download"))
  with pytest.raises(InputError, match=f"no file {lfmc.FILE} in manual_dir .*{there}; get .* --config.data"):
    build("lfmc", tmp_path / "data", manual_dir=tmp_path / there)
  assert not (tmp_path / "data").exists()


def test_an_unknown_data_set_names_those_there_are(tmp_path):
  with pytest.raises(InputError, match="unknown data set 'lfcm', have: .*lfmc.*synthetic"):
    build("lfcm", tmp_path)


def test_a_data_dir_that_cannot_be_written_is_an_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot build lfmc in .*file"):
    build("lfmc", tmp_path / "file", manual_dir=DUMMY.parent)


def test_another_source_file_than_the_prepared_one_is_an_error(prepared, tmp_path):
  root = prepared.parents[1]
  before = os.stat(prepared / "metadata.json").st_mtime_ns
  assert build("lfmc", root, manual_dir=DUMMY.parent) == build("lfmc", root) == prepared
  assert os.stat(prepared / "metadata.json").st_mtime_ns == before
  other = edited(tmp_path, cell(2, "percent(t)", "1"))
  with pytest.raises(InputError, match="was made from another .*remove .* or give another data_dir") as error:
    build("lfmc", root, manual_dir=other)
  assert str(prepared) in str(error.value) and str(other) in str(error.value)


def test_a_damaged_data_set_is_an_error_without_its_sources(tmp_path):
  path = build("lfmc", tmp_path, manual_dir=DUMMY.parent)
  next(path.glob("*.array_record*")).unlink()
  with pytest.raises(InputError, match="is damaged: No such file .*: remove .*2.1.0 to build it again"):
    build("lfmc", tmp_path)
  (path / "manifest.json").unlink()  # as an earlier version built it
  with pytest.raises(InputError, match="2.1.0 is damaged"):
    build("lfmc", tmp_path, manual_dir=DUMMY.parent)
  (path / "dataset_info.json").write_text("{")
  with pytest.raises(InputError, match="2.1.0 is damaged"):
    build("lfmc", tmp_path, manual_dir=DUMMY.parent)


def test_a_killed_build_is_built_anew_and_leaves_nothing(tmp_path):
  for left in ("incomplete.ABCDEF_2.1.0", "incomplete.GHIJKL_2.1.0"):
    (tmp_path / "lfmc" / left).mkdir(parents=True)
    (tmp_path / "lfmc" / left / "lfmc-train.array_record-00000-of-00001").write_text("half")
  (tmp_path / "lfmc" / ".lock").write_text("")
  path = build("lfmc", tmp_path, manual_dir=DUMMY.parent)
  assert {left.name for left in path.parent.iterdir()} == {".lock", "2.1.0"}


def test_two_processes_build_once(tmp_path):
  command = [sys.executable, "-m", "data_builders.build", "lfmc", f"--data_dir={tmp_path}"]
  command += [f"--manual_dir={DUMMY.parent}"]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  root = Path(__file__).parents[2]
  processes = [subprocess.Popen(command, cwd=root, **pipes) for _ in range(2)]
  for process in processes:
    out, said = process.communicate(timeout=60)
    assert out == f"{tmp_path}/lfmc/2.1.0\n"
    assert all(line.startswith("lfmc: view landcover: ") for line in said.splitlines())
  assert len(tfds.builder_from_directory(tmp_path / "lfmc/2.1.0").as_data_source(split="train")) == 8


def test_the_command_line_ends_in_one_line(tmp_path):
  command = [sys.executable, "-m", "data_builders.build", "lfmc", f"--data_dir={tmp_path}"]
  ran = subprocess.run(
    [*command, f"--manual_dir={tmp_path}"], cwd=Path(__file__).parents[2], capture_output=True, text=True
  )
  assert ran.returncode == 1 and ran.stdout == ""
  assert ran.stderr.startswith(f"no file {lfmc.FILE} in manual_dir") and ran.stderr.count("\n") == 1


@pytest.fixture
def server(monkeypatch):
  """The dummy file served on this machine in the place of its public source."""

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  handler = functools.partial(Handler, directory=DUMMY.parent)
  with http.server.ThreadingHTTPServer(("localhost", 0), handler) as served:
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    monkeypatch.setattr(lfmc, "URL", f"http://localhost:{served.server_port}/{lfmc.FILE}")
    yield
    served.shutdown()
    thread.join()


def known(monkeypatch, checksum):
  info = UrlInfo(size=DUMMY.stat().st_size, checksum=checksum, filename=lfmc.FILE)
  monkeypatch.setattr(lfmc.Builder, "url_infos", {lfmc.URL: info})


def test_downloads_what_the_checksum_says(server, monkeypatch, tmp_path):
  checksum = hashlib.sha256(DUMMY.read_bytes()).hexdigest()
  known(monkeypatch, checksum)
  path = build("lfmc", tmp_path)
  info = tfds.builder_from_directory(path).info
  assert info.splits["train"].num_examples == 8
  assert info.metadata["sources"] == {lfmc.FILE: checksum}


def test_a_download_with_another_checksum_is_an_error(server, monkeypatch, tmp_path):
  known(monkeypatch, "0" * 64)
  for _ in range(2):  # what the first left does not change the second
    with pytest.raises(InputError, match=f"has changed: its sha256 is not {'0' * 64}"):
      build("lfmc", tmp_path)
  assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_a_download_that_does_not_exist_is_an_error(server, monkeypatch, tmp_path):
  monkeypatch.setattr(lfmc, "URL", lfmc.URL + ".gone")
  with pytest.raises(InputError, match=f"cannot download {lfmc.FILE}.*HTTPError.*--manual_dir=DIR"):
    build("lfmc", tmp_path)


def test_no_network_is_an_error_that_says_where_to_get_the_file(monkeypatch, tmp_path):
  monkeypatch.setattr(lfmc, "URL", "http://localhost:9/nothing.csv")  # the discard port: refused
  with pytest.raises(InputError, match="cannot download .*ConnectionError.*get .* from https://raw.*=DIR"):
    build("lfmc", tmp_path)


def test_the_public_file_has_its_checksum():
  (url,) = lfmc.Builder.url_infos
  assert url == lfmc.URL
  assert lfmc.Builder.url_infos[url].checksum.startswith("8c92ec21ce6c")
  assert lfmc.Builder.url_infos[url].size == 3_766_288
