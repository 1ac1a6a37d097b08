"""Logs the scalars of every epoch to metrics.jsonl and TensorBoard, and prints progress to standard error."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self, TextIO

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tqdm import tqdm

from colearn_jax.storage.files import jsonable, replacing
from colearn_jax.types import InputError


class Log:
  """Writes scalars to `metrics.jsonl` and to TensorBoard events under `tensorboard/<run>/`.

  Write the scalars of an epoch before its checkpoint is saved. When a run is resumed, lines later than the
  checkpoint are dropped, but missing lines cannot be restored. In this order, a resumed run leaves the same
  file as an uninterrupted run.

  The event files are written without tensorboardX's own writer, because it keeps two threads per run and
  loses its queue when the process is killed.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    resume_at: Mapping[str, float] | None = None,
    enabled: bool = True,
    append: bool = False,
  ):
    """Opens the log, and drops lines that are later than the checkpoint of their run.

    Args:
      workdir: the work directory. It is created if it does not exist.
      resume_at: for each run the epoch of its last checkpoint (`math.inf` for a finished run). All lines of
        other runs are dropped. None: start with an empty log.
      enabled: whether to read and write files; True on the first process only.
      append: whether the lines that are there are kept, because several processes write to this log. Another
        `Log` has dropped the later ones.

    Raises:
      InputError: metrics.jsonl has a line that this class did not write. An incomplete last line is allowed.
    """
    self._path, self._events = Path(workdir) / "metrics.jsonl", Path(workdir) / "tensorboard"
    self._resume_at = dict(resume_at or {})
    self._writers: dict[str, BinaryIO] = {}
    self._lines: BinaryIO | None = None
    if enabled:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      if not append:
        keep = lambda row: row["epoch"] <= self._resume_at.get(row["run"], -1)
        _rewrite(self._path, lambda rows: filter(keep, rows))
      self._lines = open(self._path, "ab", buffering=0)  # a line is one write, also beside other processes

  def write(self, run: str, epoch: int, scalars: Mapping) -> None:
    """Writes the scalars of one epoch of one run. They are flushed to the file before it returns.

    Args:
      run: name of the run, e.g. `seed10_fold0`.
      epoch: number of the epoch.
      scalars: floats (or 0-d arrays) by name, e.g. `train/main/S1`. Names of nested dicts are joined by `/`.
        NaN and infinity become null in metrics.jsonl.
    """
    if self._lines is None:
      return
    flat = dict(_flat(scalars))
    self._lines.write(_line({"run": run, "epoch": epoch, **flat}).encode())
    if run not in self._writers:
      self._writers[run] = self._open_events(run)
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in flat.items()]
    _write_event(self._writers[run], Event(step=epoch, summary=Summary(value=values)))

  def close(self) -> None:
    """Closes all files."""
    for events in self._writers.values():
      events.close()
    if self._lines is not None:
      self._lines.close()
    self._writers = {}

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def _open_events(self, run: str) -> BinaryIO:
    """Opens a new event file. Its start event makes TensorBoard drop points after the checkpoint."""
    folder = self._events / run
    folder.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in folder.iterdir())  # files of the same second need different names, in order
    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{number:04d}"
    file = open(folder / name, "xb", buffering=0)
    after = int(max(self._resume_at.get(run, -1), -1)) + 1
    _write_event(file, Event(step=after, file_version="brain.Event:2"))
    _write_event(file, Event(step=after, session_log=SessionLog(status=SessionLog.START)))
    return file


def arrange(workdir: str | os.PathLike, runs: Sequence[str]) -> None:
  """Puts the lines of several processes into the order of runs that are trained one after another."""
  place = {run: at for at, run in enumerate(runs)}
  _rewrite(Path(workdir) / "metrics.jsonl", lambda rows: sorted(rows, key=lambda row: place[row["run"]]))


def _rewrite(path: Path, change: Callable[[list[dict]], Iterable[dict]]) -> None:
  """Changes the list of all lines of a log. An incomplete last line is dropped."""
  lines, rows = path.read_bytes().split(b"\n") if path.exists() else [], []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      row["epoch"] < 0, row["run"]  # noqa: B018, they have to be there
      rows.append(row)
    except (ValueError, KeyError, TypeError):
      if number < len(lines):
        raise InputError(f"{path}:{number}: not a line of this program's log") from None
      # Nothing after the last newline, or an incomplete line of a killed process.
  with replacing(path) as file:
    file.writelines(map(_line, change(rows)))


def _line(row: Mapping) -> str:
  return json.dumps(jsonable(row), allow_nan=False) + "\n"


def _write_event(file: BinaryIO, event: Event) -> None:
  """Writes one TFRecord: length, checksum of the length, event, checksum of the event."""
  event.wall_time = time.time()
  data = event.SerializeToString()
  length = struct.pack("<Q", len(data))
  checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
  file.write(length + checks[0] + data + checks[1])


def _flat(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{prefix}{key}/")
    else:
      yield prefix + key, float(value)


class _Bar(tqdm):
  monitor_interval = 0  # no monitor thread; it helps only if updates are very irregular


class Progress:
  """Shows the progress of one run: a bar on a terminal, otherwise a line every few seconds."""

  def __init__(
    self,
    run: str,
    max_epochs: int,
    *,
    enabled: bool = True,
    bar: bool = True,
    every: float = 5.0,
    stream: TextIO | None = None,
  ):
    """Prepares the display. Nothing is shown before the first update.

    Args:
      run: name of the run.
      max_epochs: largest number of epochs.
      enabled: whether to show anything; True on the first process only.
      bar: whether a terminal shows a bar. False where several processes write to it.
      every: minimum number of seconds between lines. The last update is always shown.
      stream: where to print. Default: standard error.
    """
    self._run, self._max_epochs, self._every = run, max_epochs, every
    self._enabled, self._bars, self._stream = enabled, bar, stream or sys.stderr
    self._bar: tqdm | None = None
    self._shown, self._pending = -float("inf"), ""

  def update(self, epoch: int, objective: float, best: float | None, samples_per_second: float) -> None:
    """Reports that `epoch` epochs are finished.

    Args:
      epoch: number of the epoch.
      objective: the last validation objective; without a validation part that of training.
      best: the best validation objective; None without a validation part.
      samples_per_second: training samples per second.
    """
    if not self._enabled:
      return
    if self._bar is None:
      self._bar = _Bar(
        desc=self._run,
        total=self._max_epochs,
        initial=epoch - 1,  # earlier epochs of a resumed run do not count for the speed
        unit="epoch",
        file=self._stream,
        dynamic_ncols=True,
        disable=None if self._bars else True,  # None: disabled if the stream is not a terminal
      )
    which, known = ("training ", "") if best is None else ("", f"  best {best:.4f}")
    text = f"{which}objective {objective:.4f}{known}  {samples_per_second:,.0f} samples/s"
    if not self._bar.disable:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(epoch - self._bar.n)
      return
    self._pending = f"{self._run}  epoch {epoch}/{self._max_epochs}  {text}"
    if time.monotonic() - self._shown >= self._every:
      self._print()

  def close(self) -> None:
    """Shows the last update."""
    if self._bar is not None:
      self._bar.refresh()
      self._bar.close()
    if self._pending:
      self._print()

  def _print(self) -> None:
    print(self._pending, file=self._stream, flush=True)
    self._shown, self._pending = time.monotonic(), ""

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exc) -> None:
    self.close()
