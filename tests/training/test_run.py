"""Whole runs through the command line, on a tiny random model: killed and resumed, exported, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl_llm.models import hub
from jaxrl_llm.training.export import convert
from tests.policies import CONFIGS, save_character_model

STEPS = 6
LIMIT_SECONDS = 240


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_character_model(tmp_path_factory.mktemp("model"))


def start(folder: Path, run_dir: Path, *changes: str, devices: int = 1) -> subprocess.Popen:
    """`jaxrl-llm train` on so many fake devices."""
    keys = {
        "model.source": folder,
        "run_dir": run_dir,
        "steps": STEPS,
        "data.tier": "easy",
        "data.prompts_per_step": 4,
        "data.samples_per_prompt": 4,
        "reward.answer_format": "first_number",
        "reward.wrong": 0.5,  # any number is worth something: a random model has a gradient
        "sampling.max_tokens": 16,
        "training.mini_batches": 2,
        "optimizer.learning_rate": 1e-2,
        "evaluation.every": 3,
        "evaluation.problems": 4,
        "evaluation.tier": "easy",
        "checkpoint.every": 2,
    }
    command = [sys.executable, "-m", "jaxrl_llm.cli", "train", "--config", str(CONFIGS / "lite_ppo.py")]
    command += [f"--config.{key}={value}" for key, value in keys.items()]
    command += [f"--config.{change}" for change in changes]
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CONFIGS.parent
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, err
    return out


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture(scope="module")
def whole_run(model_folder, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    out = finish(start(model_folder, run_dir))
    assert f"report: {run_dir / 'report.html'}" in out
    return run_dir


def exported(run_dir: Path, to: Path) -> dict[str, np.ndarray]:
    params = hub.load(str(convert(run_dir, to))).params
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}


def test_a_run_leaves_its_metrics_samples_config_events_and_report(whole_run):
    rows = [json.loads(line) for line in lines(whole_run / "metrics.jsonl")]
    assert [row["step"] for row in rows if "reward" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "eval/avg" in row] == [0, 3, 6]
    first = next(row for row in rows if row["step"] == 1 and "reward" in row)
    assert {"length", "entropy", "clip_fraction_low", "clip_fraction_high", "kl_sampler", "gradient_norm"} <= set(first)
    sample = json.loads(lines(whole_run / "samples.jsonl")[0])
    assert {"prompt", "completion", "reward", "outcome"} <= set(sample)
    assert json.loads((whole_run / "config.json").read_text())["steps"] == STEPS
    assert list((whole_run / "tensorboard").iterdir())
    speed = [json.loads(line) for line in lines(whole_run / "speed.jsonl")]
    assert len(speed) == STEPS and all(row["tokens_per_second"] > 0 for row in speed)


def test_a_run_learns_something_into_its_parameters(whole_run, model_folder, tmp_path):
    after = exported(whole_run, tmp_path / "export")
    before = hub.load(str(model_folder)).params
    for path, leaf in jax.tree_util.tree_leaves_with_path(before):
        assert (after[jax.tree_util.keystr(path)] != np.asarray(leaf)).any(), path


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(whole_run, model_folder, tmp_path):
    run_dir = tmp_path / "killed"
    process = start(model_folder, run_dir)
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(lines(run_dir / "speed.jsonl")) < 3:  # a step after the first checkpoint, before the last
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(lines(run_dir / "speed.jsonl")) < STEPS, "the run ended before it was killed"
    finish(start(model_folder, run_dir))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (run_dir / name).read_bytes() == (whole_run / name).read_bytes(), name
    whole, resumed = exported(whole_run, tmp_path / "a"), exported(run_dir, tmp_path / "b")
    for path, leaf in whole.items():
        np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)


def test_the_same_run_on_eight_devices_has_the_same_rewards_and_losses(whole_run, model_folder, tmp_path):
    finish(start(model_folder, tmp_path, "mesh.fsdp=4", "mesh.tensor=2", "steps=2", devices=8))

    def first_steps(run_dir: Path) -> list[dict]:
        rows = [json.loads(line) for line in lines(run_dir / "metrics.jsonl")]
        return [row for row in rows if "reward" in row and row["step"] <= 2]

    for got, wanted in zip(first_steps(tmp_path), first_steps(whole_run), strict=True):
        assert got["reward"] == wanted["reward"] and got["length"] == wanted["length"], "the same texts"
        for name in ("loss", "gradient_norm", "entropy"):  # float32 sums over eight devices
            assert got[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


def test_a_folder_that_holds_another_configs_run_is_not_touched(whole_run, model_folder):
    before = (whole_run / "metrics.jsonl").read_bytes()
    process = start(model_folder, whole_run, "seed=1")
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 2 and "seed (0 -> 1)" in err and "Traceback" not in err
    assert (whole_run / "metrics.jsonl").read_bytes() == before
