"""What a run tells while it trains: metrics.jsonl, TensorBoard events, and its progress."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Self, TextIO

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tqdm import tqdm

from colearn_jax.evaluation.results import jsonable, replacing
from colearn_jax.types import InputError


class Log:
  """Scalars of every epoch, to `metrics.jsonl` and to TensorBoard events under `tensorboard/<run>/`.

  To leave what an undisturbed run leaves, write an epoch's scalars before its checkpoint is saved: a line
  that is too much is dropped at the resumption, one that is missing is not written again.
  The event files are written here rather than by tensorboardX's writer, which keeps two threads a run and
  loses at a kill what they have not yet written.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    resume_at: Mapping[str, float] | None = None,
    enabled: bool = True,
  ):
    """Opens the log, and drops what is later than the checkpoint that the program goes on from.

    Args:
      workdir: is made where it does not exist.
      resume_at: for each run the last epoch that its checkpoint holds (`math.inf` for one that has
        ended); lines of a run that is not named are all dropped. None: a fresh start.
      enabled: False on all processes but the first; then nothing is read or written.

    Raises:
      InputError: a line of metrics.jsonl, other than a cut last one, that is none of ours.
    """
    self._path, self._events = Path(workdir) / "metrics.jsonl", Path(workdir) / "tensorboard"
    self._resume_at = dict(resume_at or {})
    self._writers: dict[str, BinaryIO] = {}
    self._lines: TextIO | None = None
    self._enabled = enabled
    if enabled:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._keep(lambda run, epoch: epoch <= self._resume_at.get(run, -1))

  def write(self, run: str, epoch: int, scalars: Mapping) -> None:
    """Adds one epoch of one run, on disk when it returns.

    Args:
      run: e.g. `seed10_fold0`.
      epoch: counts from 0 or 1, as the caller likes.
      scalars: floats (also 0-d arrays) by name, e.g. `train/main/S1`; the names of inner dicts are
        joined with `/`. What is not finite is null in metrics.jsonl.
    """
    if not self._enabled:
      return
    flat = dict(_flat(scalars))
    self._lines.write(json.dumps(jsonable({"run": run, "epoch": epoch, **flat}), allow_nan=False) + "\n")
    if run not in self._writers:
      self._writers[run] = self._open_events(run)
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in flat.items()]
    _write_event(self._writers[run], Event(step=epoch, summary=Summary(value=values)))

  def rewind(self, run: str, epoch: float) -> None:
    """Drops the lines of one run after `epoch` (-1: all of them), and such points in TensorBoard."""
    if not self._enabled:
      return
    self._resume_at[run] = epoch
    if run in self._writers:
      self._writers.pop(run).close()
    self._keep(lambda r, e: r != run or e <= epoch)

  def close(self) -> None:
    """Closes all files."""
    for file in (*self._writers.values(), *([self._lines] if self._lines else [])):
      file.close()
    self._writers = {}

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def _keep(self, wanted: Callable[[str, int], bool]) -> None:
    """Rewrites metrics.jsonl with the lines whose run and epoch are wanted, and opens it for more."""
    if self._lines:
      self._lines.close()
    lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
    with replacing(self._path) as file:
      for number, line in enumerate(lines, 1):
        try:
          row = json.loads(line)
          keep = wanted(row["run"], row["epoch"])
        except (ValueError, KeyError, TypeError):
          if number < len(lines):
            raise InputError(f"{self._path}:{number}: not a line of this program's log") from None
          continue  # empty after the last newline, or cut by a kill
        if keep:
          file.write(line.decode() + "\n")
    self._lines = open(self._path, "a", encoding="utf-8", buffering=1)  # each line goes out with its newline

  def _open_events(self, run: str) -> BinaryIO:
    """A new event file, which tells TensorBoard to forget the points it will get again."""
    folder = self._events / run
    folder.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in folder.iterdir())  # two files of one second must differ, and keep their order
    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{number:04d}"
    file = open(folder / name, "xb", buffering=0)
    after = int(max(self._resume_at.get(run, -1), -1)) + 1
    _write_event(file, Event(step=after, file_version="brain.Event:2"))
    _write_event(file, Event(step=after, session_log=SessionLog(status=SessionLog.START)))
    return file


def _write_event(file: BinaryIO, event: Event) -> None:
  """One TFRecord: length, its checksum, the event, its checksum."""
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
  monitor_interval = 0  # no watching thread: epochs come steadily enough


class Progress:
  """How far one run is: a bar where standard error is a terminal, else a plain line every few seconds."""

  def __init__(
    self,
    run: str,
    max_epochs: int,
    *,
    enabled: bool = True,
    every: float = 5.0,
    stream: TextIO | None = None,
  ):
    """Shows nothing before the first update.

    Args:
      run: its name.
      max_epochs: where it ends unless it stops early.
      enabled: False on all processes but the first.
      every: seconds between plain lines, at least; the run's last line always appears.
      stream: where to, standard error by default.
    """
    self._run, self._max_epochs, self._every = run, max_epochs, every
    self._stream = stream or sys.stderr
    self._enabled, self._terminal = enabled, self._stream.isatty()
    self._bar: tqdm | None = None
    self._shown, self._pending = -float("inf"), None

  def update(self, epoch: int, objective: float, best: float, samples_per_second: float) -> None:
    """Tells that `epoch` epochs are done, the last and the best validation objective, and the speed."""
    if not self._enabled:
      return
    figures = f"objective {objective:.4f}  best {best:.4f}  {samples_per_second:,.0f} samples/s"
    if self._terminal:
      if self._bar is None:
        self._bar = _Bar(
          desc=self._run,
          total=self._max_epochs,
          initial=epoch - 1,  # a resumed run has not done the earlier ones just now
          unit="epoch",
          file=self._stream,
          dynamic_ncols=True,
        )
      self._bar.set_postfix_str(figures, refresh=False)
      self._bar.update(epoch - self._bar.n)
      return
    self._pending = f"{self._run}  epoch {epoch}/{self._max_epochs}  {figures}"
    if time.monotonic() - self._shown >= self._every:
      self._print()

  def close(self) -> None:
    """Shows the run's last state."""
    if self._bar is not None:
      self._bar.refresh()
      self._bar.close()
      self._bar = None
    if self._pending:
      self._print()

  def _print(self) -> None:
    print(self._pending, file=self._stream, flush=True)
    self._shown, self._pending = time.monotonic(), None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exc) -> None:
    self.close()
