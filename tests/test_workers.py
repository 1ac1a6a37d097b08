"""Processes of one core: jobs and answers, processes that end, and what remains if the first process dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

from colearn_jax.parallel import workers
from colearn_jax.parallel.cores import cores

# A worker that loads nothing else, and a program that starts it and waits.
WORKER = """
import os, signal, time
from colearn_jax.parallel import workers

def do(job):
  print("no answer", flush=True)
  if job.get("fail"):
    raise ValueError("bad")
  if job.get("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(job.get("sleep", 0))
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
  return {"pid": os.getpid(), "cores": cores, "flags": os.environ["XLA_FLAGS"], "is": job["is"]}

if __name__ == "__main__":
  workers.serve(do)
"""
PROGRAM = """
from colearn_jax.parallel.workers import Workers

with Workers("small_worker", 2) as pool:
  for answer in pool.each([{"is": 0}, {"is": 1}, {"is": 2, "sleep": 600}]):
    if answer is not None:
      print(answer.content["pid"], flush=True)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
  (tmp_path / "small_worker.py").write_text(WORKER)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def answers(jobs, number=2, **options):
  with workers.Workers("small_worker", number, **options) as pool:
    return {answer.job: answer for answer in pool.each(jobs, every=0.02) if answer is not None}


def test_processes_take_one_job_after_another_on_a_core_each():
  got = answers([{"is": k, "sleep": 0.05} for k in range(6)])
  assert [got[k].content["is"] for k in range(6)] == list(range(6))
  assert len({answer.content["pid"] for answer in got.values()}) == 2
  own = {tuple(answer.content["cores"]) for answer in got.values()}
  assert own <= {(core,) for core in cores()} | {()} and len(own) == min(2, len(cores()))
  assert all(answer.content["flags"].endswith(workers.XLA_FLAGS) for answer in got.values())


def test_each_job_may_have_a_process_of_its_own():
  got = answers([{"is": k} for k in range(3)], reuse=False)
  assert len({answer.content["pid"] for answer in got.values()}) == 3


def test_a_process_that_ends_is_an_answer_and_the_other_jobs_are_done():
  got = answers([{"is": 0, "killed": True}, {"is": 1, "fail": True}, {"is": 2}, {"is": 3}])
  assert [got[k].content and got[k].content["is"] for k in range(4)] == [None, None, 2, 3]
  assert got[0].status == -signal.SIGKILL and got[1].status == 1


def test_after_terminate_no_job_is_begun():
  with workers.Workers("small_worker", 1) as pool:
    seen = []
    for answer in pool.each([{"is": 0}, {"is": 1, "sleep": 60}, {"is": 2}]):
      if answer is not None:
        seen.append(answer)
        pool.terminate()
  assert [(answer.job, answer.content is None) for answer in seen] in ([(0, False)], [(0, False), (1, True)])


def test_workers_end_with_the_process_that_started_them():
  program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
  pids = [int(program.stdout.readline()) for _ in range(2)]
  program.kill()
  program.communicate()
  deadline = time.monotonic() + 60
  while any(map(alive, pids)) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not any(map(alive, pids))


def alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  try:
    with open(f"/proc/{pid}/stat") as stat:
      return stat.read().rpartition(")")[2].split()[0] != "Z"  # nobody has asked for its status
  except FileNotFoundError:
    return False
