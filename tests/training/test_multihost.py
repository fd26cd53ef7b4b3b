"""Two processes of four devices as one run: killed and started again, against one process of eight devices."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.policies import CONFIGS, save_character_model
from tests.training.test_run import CHEAP_FLAGS, LIMIT_SECONDS, exported, finish, lines

STEPS = 5
HEARTBEAT_SECONDS = 10


class Runs:
    """`jaxrl-llm train` in one process of eight devices or in two of four, which share what they compile."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = save_character_model(folder / "model")

    def start(
        self, run: str, *changes: str, process: str | None = None, cwd: Path = CONFIGS.parent
    ) -> subprocess.Popen:
        keys = {
            "model.source": self.model,
            "run_dir": self.folder / run,
            "steps": STEPS,
            "data.tier": "easy",
            "data.prompts_per_step": 4,
            "data.samples_per_prompt": 4,
            "reward.answer_format": "first_number",
            "reward.wrong": 0.5,  # any number is worth something: a random model has a gradient
            "sampling.max_tokens": 16,
            "training.mini_batches": 2,
            "training.skip_rows": False,  # fewer shapes to compile
            "optimizer.learning_rate": 1e-2,
            "evaluation.every": 2,
            "evaluation.problems": 4,
            "evaluation.tier": "easy",
            "checkpoint.every": 2,
            "log.rollouts_every": STEPS,
            "log.tensorboard": False,
            "distributed.heartbeat_seconds": HEARTBEAT_SECONDS,
            "distributed.start_seconds": 60,
        }
        command = [sys.executable, "-m", "jaxrl_llm.cli", "train", "--config", str(CONFIGS / "lite_ppo.py")]
        command += [f"--config.{key}={value}" for key, value in keys.items()]
        command += [f"--config.{change}" for change in changes]
        if process is not None:
            command.append(f"--distributed={process}")
        devices = 8 if process is None else 4
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {CHEAP_FLAGS}",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(CONFIGS.parent),
        }
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
        )

    def start_two(self, run: str) -> list[subprocess.Popen]:
        return [self.start(run, process=process) for process in two_places()]


def two_places() -> list[str]:
    """What --distributed says to each of two processes; the port is free."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return [f"localhost:{free.getsockname()[1]},{process}/2" for process in range(2)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("multihost"))


def wait_for_lines(file: Path, count: int, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(lines(file)) < count:
        alive = all(process.poll() is None for process in processes)
        assert alive and time.monotonic() < deadline, [process.communicate() for process in processes]
        time.sleep(0.02)


def test_two_processes_that_are_stopped_and_then_lose_one_end_as_one_process_does(runs, tmp_path):
    finish(runs.start("one"))
    one, two = runs.folder / "one", runs.folder / "two"

    both = runs.start_two("two")
    wait_for_lines(two / "starts.jsonl", 1, both)  # then the first step compiles, and the signal gets around
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        _, told = process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == 2 and "stopped by SIGTERM after step" in told
    assert 1 <= len(lines(two / "speed.jsonl")) < 3

    survivor, killed = both = runs.start_two("two")
    wait_for_lines(two / "speed.jsonl", 3, both)  # a step after a checkpoint, before the last
    killed.send_signal(signal.SIGKILL)
    _, told = survivor.communicate(timeout=HEARTBEAT_SECONDS + 20)
    killed.communicate()
    assert survivor.returncode != 0
    assert "error: process 0 of 2" in told or "Terminating process" in told
    assert len(lines(two / "speed.jsonl")) < STEPS, "the run ended before a process was killed"

    first, second = [finish(process) for process in runs.start_two("two")]
    assert "going on after step" in first and "report: " in first
    assert "step" not in second and "report" not in second, "one process speaks"
    for name in ("samples.jsonl", "evaluations.jsonl"):
        assert (two / name).read_bytes() == (one / name).read_bytes(), "the same texts"
    for line, wanted in zip(lines(two / "metrics.jsonl"), lines(one / "metrics.jsonl"), strict=True):
        got, expected = json.loads(line), json.loads(wanted)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            # gloo adds float32 in another order; KLs of on-policy tokens are rounding noise, below 1e-6
            assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    wanted = exported(one, tmp_path / "one")
    for name, leaf in exported(two, tmp_path / "two").items():
        # measured: 1e-7; Adam has moved the parameters by about 1e-2 a step
        np.testing.assert_allclose(leaf, wanted[name], rtol=0, atol=1e-5, err_msg=name)


def test_processes_that_have_other_data_refuse_to_start_and_say_which(runs, tmp_path):
    """Each looks for the same relative path in a folder of its own."""
    processes = []
    for answer, place in enumerate(two_places()):
        folder = tmp_path / str(answer)
        folder.mkdir()
        (folder / "data.jsonl").write_text(json.dumps({"question": "1+1=", "answer": answer}) + "\n")
        processes.append(runs.start("other_data", "data.source=jsonl:data.jsonl", process=place, cwd=folder))
    for process in processes:
        _, told = process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == 2
        assert f"process 1 on {socket.gethostname()} differs from process 0" in told and "data.source is" in told
        assert "Traceback" not in told
    assert not (runs.folder / "other_data").exists()
