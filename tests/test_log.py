import io
import json
import math
import struct
import threading

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from colearn_jax.training.log import Log, Progress, arrange
from colearn_jax.types import InputError


def train(log, run, epochs):
  for epoch in epochs:
    log.write(run, epoch, {"train": {"main": {"S1": epoch / 4}}, "validation/objective": np.float32(epoch)})


def lines(path):
  return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def events(path, run):
  """For every event file of the run, in TensorBoard's order: its events."""
  out = []
  for file in sorted((path / "tensorboard" / run).iterdir()):
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
      (size,) = struct.unpack("<Q", data[at : at + 8])
      found.append(Event.FromString(data[at + 12 : at + 12 + size]))
      at += size + 16
    out.append(found)
  return out


def points(path, run, tag):
  """What TensorBoard shows: a start forgets the steps from its own on."""
  shown = []
  for event in sum(events(path, run), []):
    if event.session_log.status == SessionLog.START:
      shown = [p for p in shown if p[0] < event.step]
    shown += [(event.step, v.simple_value) for v in event.summary.value if v.tag == tag]
  return shown


def test_a_line_and_an_event_an_epoch(tmp_path):
  threads = threading.active_count()
  with Log(tmp_path / "new") as log:
    log.write("seed10_fold0", 1, {"train": {"main": {"S1": np.float32(0.5)}}, "lr": 1e-3, "bad": math.nan})
    first = (tmp_path / "new" / "metrics.jsonl").read_text()  # there before the log is closed
    log.write("seed10_fold1", 1, {"lr": np.zeros(())})
    assert threading.active_count() == threads
  assert first == '{"run": "seed10_fold0", "epoch": 1, "train/main/S1": 0.5, "lr": 0.001, "bad": null}\n'
  assert lines(tmp_path / "new")[1] == {"run": "seed10_fold1", "epoch": 1, "lr": 0.0}
  assert points(tmp_path / "new", "seed10_fold0", "train/main/S1") == [(1, 0.5)]
  assert events(tmp_path / "new", "seed10_fold1")[0][0].file_version == "brain.Event:2"
  with pytest.raises(ValueError, match="closed"):
    log.write("seed10_fold1", 2, {"lr": 0.0})


def test_event_files_have_right_checksums(tmp_path):
  with Log(tmp_path) as log:
    train(log, "a", [1])
  crc32c_table = []
  for n in range(256):
    for _ in range(8):
      n = (n >> 1) ^ 0x82F63B78 if n & 1 else n >> 1
    crc32c_table.append(n)

  def masked(data):
    c = 0xFFFFFFFF
    for byte in data:
      c = crc32c_table[(c ^ byte) & 255] ^ (c >> 8)
    c ^= 0xFFFFFFFF
    return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF

  data = next((tmp_path / "tensorboard" / "a").iterdir()).read_bytes()
  size, check = struct.unpack("<QI", data[:12])
  assert check == masked(data[:8])
  assert struct.unpack("<I", data[12 + size : 16 + size]) == (masked(data[12 : 12 + size]),)


@pytest.mark.parametrize("cut", [0, 1, 20, "all but the newline"])
def test_a_resumed_log_equals_an_undisturbed_one(tmp_path, cut):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  with Log(whole) as log:
    train(log, "fold0", range(1, 4))
    train(log, "fold1", range(1, 5))
  with Log(killed) as log:  # killed in epoch 4 of fold1, its last checkpoint is of epoch 2
    train(log, "fold0", range(1, 4))
    train(log, "fold1", range(1, 5))
  path = killed / "metrics.jsonl"
  data = path.read_bytes()
  path.write_bytes(data[: len(data) - (1 if isinstance(cut, str) else cut)])
  with Log(killed, {"fold0": math.inf, "fold1": 2}) as log:
    assert [(row["run"], row["epoch"]) for row in lines(killed)][-2:] == [("fold1", 1), ("fold1", 2)]
    train(log, "fold1", range(3, 5))
  assert path.read_text() == (whole / "metrics.jsonl").read_text()
  for run in ("fold0", "fold1"):
    tag = "validation/objective"
    assert points(killed, run, tag) == points(whole, run, tag)
  assert len(events(killed, "fold1")) == 2  # also within one second


def test_a_whole_line_without_its_newline_is_kept(tmp_path):
  with Log(tmp_path) as log:
    train(log, "a", [1, 2])
  path = tmp_path / "metrics.jsonl"
  data = path.read_text()
  path.write_text(data[:-1])
  Log(tmp_path, {"a": 2}).close()
  assert path.read_text() == data


def test_a_fresh_start_forgets_everything(tmp_path):
  for _ in range(2):
    with Log(tmp_path) as log:
      train(log, "a", [1, 2])
  assert [row["epoch"] for row in lines(tmp_path)] == [1, 2]
  assert points(tmp_path, "a", "validation/objective") == [(1, 1.0), (2, 2.0)]


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
  with Log(tmp_path) as log:
    train(log, "a", [1])
    train(log, "b", [1])
  Log(tmp_path, {"a": 1}).close()
  assert lines(tmp_path) == [{"run": "a", "epoch": 1, "train/main/S1": 0.25, "validation/objective": 1.0}]


def test_a_foreign_file_is_refused_and_left(tmp_path):
  text = '{"run": "a", "epoch": 1}\nnotes\n{"run": "a", "epoch": 2}\n'
  (tmp_path / "metrics.jsonl").write_text(text)
  with pytest.raises(InputError, match="metrics.jsonl:2: not a line"):
    Log(tmp_path, {"a": 1})
  assert (tmp_path / "metrics.jsonl").read_text() == text
  assert len(list(tmp_path.iterdir())) == 1


def test_other_processes_write_nothing(tmp_path):
  with Log(tmp_path / "w", enabled=False) as log:
    train(log, "a", [1])
  assert not (tmp_path / "w").exists()
  stream = io.StringIO()
  with Progress("a", 3, enabled=False, stream=stream) as progress:
    progress.update(1, 1.0, 1.0, 1.0)
  assert stream.getvalue() == ""


def test_plain_lines_are_few_and_end_with_the_last():
  stream = io.StringIO()
  with Progress("seed10_fold0", 100, every=1e9, stream=stream) as progress:
    for epoch in range(1, 38):
      progress.update(epoch, 1 / epoch, 0.01, 7700.4)
  assert stream.getvalue().splitlines() == [
    "seed10_fold0  epoch 1/100  objective 1.0000  best 0.0100  7,700 samples/s",
    "seed10_fold0  epoch 37/100  objective 0.0270  best 0.0100  7,700 samples/s",
  ]
  stream = io.StringIO()
  with Progress("a", 2, every=0, stream=stream) as progress:
    progress.update(1, 1.0, 1.0, 1.0)
    progress.update(2, math.nan, 1.0, 1.0)
  assert len(stream.getvalue().splitlines()) == 2  # the last one once


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_gets_a_bar():
  threads, stream = threading.active_count(), Terminal()
  with Progress("seed10_fold0", 8, stream=stream) as progress:
    progress.update(5, 2.0, 1.5, 7700.0)  # resumed after 4
    progress.update(6, 2.5, 1.5, 7700.0)
    assert threading.active_count() == threads
  last = stream.getvalue().rstrip("\n").split("\r")[-1]
  assert last.startswith("seed10_fold0:  75%") and "6/8" in last
  assert "objective 2.5000  best 1.5000  7,700 samples/s" in last


def test_several_processes_append_and_their_lines_are_put_in_order(tmp_path):
  """Each keeps what is there; afterwards the file is as if the runs had been trained one after another."""
  with Log(tmp_path) as alone:
    for run in ("b", "a"):
      for epoch in (1, 2):
        alone.write(run, epoch, {"x": epoch / 3})
  wanted = (tmp_path / "metrics.jsonl").read_bytes()
  Log(tmp_path).close()
  assert (tmp_path / "metrics.jsonl").read_bytes() == b""
  with Log(tmp_path, {"a": 0}, append=True) as first, Log(tmp_path, {"b": 0}, append=True) as second:
    for epoch in (1, 2):
      first.write("a", epoch, {"x": epoch / 3})
      second.write("b", epoch, {"x": epoch / 3})
  arrange(tmp_path, ["b", "a"])
  assert (tmp_path / "metrics.jsonl").read_bytes() == wanted


def test_without_a_bar_a_terminal_shows_lines():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  shown = {}
  for bar in (True, False):
    with Progress("a", 3, every=0.0, stream=Terminal(), bar=bar) as progress:
      progress.update(1, 2.0, 2.0, 10.0)
      shown[bar] = progress._stream.getvalue()
  assert shown[False] == "a  epoch 1/3  objective 2.0000  best 2.0000  10 samples/s\n"
  assert "\r" in shown[True]
