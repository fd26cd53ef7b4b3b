"""Claims of jobs: one worker has a job, a dead one loses it, a living one does not."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxrl_llm.study.claims import Claims


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_job_is_taken_once_and_again_after_it_was_given_back(tmp_path):
    first = Claims().take(tmp_path / "job")
    assert first is not None and first.beat()
    assert Claims().take(tmp_path / "job") is None
    assert f"process {os.getpid()} on " in Claims().holder(tmp_path / "job")
    first.release()
    second = Claims().take(tmp_path / "job")
    assert second is not None and second.beat()
    assert not first.beat(), "what was given back is no longer one's own"
    second.clear()
    assert files(tmp_path / "job") == []
    assert Claims().holder(tmp_path / "job") == ""


def test_of_workers_that_reach_for_the_same_jobs_at_once_each_job_has_exactly_one(tmp_path):
    jobs, workers = 200, 4
    together = threading.Barrier(workers)

    def take_all(_: int) -> list[int]:
        claims = Claims()
        together.wait()
        return [job for job in range(jobs) if claims.take(tmp_path / str(job))]

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        taken = list(pool.map(take_all, range(workers)))
    assert sorted(itertools.chain(*taken)) == list(range(jobs))


def test_the_job_of_a_process_that_died_on_this_machine_is_free_at_once(tmp_path):
    program = "import sys, pathlib; from jaxrl_llm.study.claims import Claims; Claims().take(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    (claim,) = tmp_path.iterdir()
    if not json.loads(claim.read_text())["place"]:
        pytest.skip("this system does not tell which processes live")
    assert Claims().take(tmp_path) is not None
    assert Claims().take(tmp_path) is None


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A job that a worker on another machine has."""
    claim = Claims().take(tmp_path)
    assert claim is not None
    claim.path.write_text(json.dumps({"host": "far", "process": 1, "place": "another boot", "started": "1"}))
    return tmp_path


def test_the_job_of_a_silent_worker_elsewhere_is_taken_over_and_one_that_is_touched_is_not(elsewhere):
    claims = Claims(stale_seconds=0.2)
    assert claims.take(elsewhere) is None, "first seen now"
    for _ in range(4):
        time.sleep(0.1)
        os.utime(elsewhere / "claim.0")
        assert claims.take(elsewhere) is None
    time.sleep(0.3)
    late = Claims(stale_seconds=0.2)
    assert late.take(elsewhere) is None, "another worker has not looked on for long enough"
    taken = claims.take(elsewhere)
    assert taken is not None and taken.path.name == "claim.1"
    assert late.take(elsewhere) is None


def test_clocks_of_other_machines_do_not_matter(elsewhere):
    for wrong in (0, time.time() + 1e6):
        os.utime(elsewhere / "claim.0", (wrong, wrong))
        assert Claims(stale_seconds=60).take(elsewhere) is None


def test_a_claim_whose_worker_has_not_written_it_yet_is_respected(tmp_path):
    (tmp_path / "claim.0").touch()
    assert Claims().take(tmp_path) is None
    assert Claims().holder(tmp_path) == ""
