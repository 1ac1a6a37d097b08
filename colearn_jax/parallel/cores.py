"""Which CPU cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
  """Number of cores that this process may use; all cores if the system does not report a limit."""
  if hasattr(os, "process_cpu_count"):  # Python 3.13
    return os.process_cpu_count() or 1
  if hasattr(os, "sched_getaffinity"):  # Linux
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def cores() -> list[int]:
  """The numbers of the cores that this process may use."""
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(usable_cores()))
