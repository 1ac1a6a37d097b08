"""Writes the shards of a data set with Apache Beam, on as many machines as there are.

The machines see the same files, those of the source and those that are prepared, and have this package. Which
machine writes which shard is Beam's choice; a shard is the same on any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from colearn_jax.storage.files import write_json
from colearn_jax.types import InputError

if TYPE_CHECKING:
  from colearn_jax.datasets.shards import Shard

FAILED = ".failed"  # the suffix of a JSON file beside a shard that could not be written


def _module():
  try:
    import apache_beam
  except ImportError:
    raise InputError("this build wants Apache Beam: pip install 'colearn_jax[beam]'") from None
  return apache_beam


def options(flags: str):
  """Beam's options from `name=value,name=value`, as `tfds build` has them."""
  _module()
  from apache_beam.options.pipeline_options import PipelineOptions

  return PipelineOptions([f"--{flag}" for flag in flags.split(",")])


def write_shards(shards: Sequence[Shard], options: Any, runner: Any = None) -> list[dict]:
  """Writes the shards that are not complete yet; see `shards.write_shards`.

  Args:
    shards: of a data set.
    options: Beam's.
    runner: Beam's; None: as the options say.

  Raises:
    InputError: a sample cannot be read and its shard does not `skip` it, or a machine could not do its work.
  """
  beam = _module()
  todo = [shard for shard in shards if shard.written() is None]
  for shard in shards:
    shard.path.with_suffix(FAILED).unlink(missing_ok=True)
  if todo:
    try:
      with beam.Pipeline(runner=runner, options=options) as pipeline:
        pipeline | beam.Create(todo, reshuffle=True) | beam.Map(_write)
    except Exception as error:  # of many types; Beam puts the traceback of a worker into the message
      last = str(error).strip().splitlines() or [type(error).__name__]
      raise InputError(f"Apache Beam stopped: {last[-1]}") from error
  reports = []
  for shard in tqdm(shards, desc="Checking", unit=" files", disable=None):
    failed = shard.path.with_suffix(FAILED)
    if failed.exists():
      why = json.loads(failed.read_text(encoding="utf-8"))["error"]
      failed.unlink()
      raise InputError(why)
    if (report := shard.written()) is None:
      raise InputError(f"{shard.path} was not written, or a file of its samples changed meanwhile")
    reports.append(report)
  return reports


def _write(shard: Shard) -> None:
  """Writes a shard, or beside it why not. An exception would be tried again, and end in a long traceback."""
  if any(shard.path.parent.glob(f"*{FAILED}")):
    return
  try:
    shard.write()
  except InputError as error:
    write_json(shard.path.with_suffix(FAILED), {"error": str(error)})
