"""Whole runs through the command line, on a tiny random model: killed and resumed, exported, refused.

The run is PPO with a critic of another architecture that warms up, an adaptive KL and an adaptive entropy, moments in
bfloat16 on the host: all that a run carries from step to step must come back after a kill.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl_llm.models import hub
from jaxrl_llm.report.effects import inert_of
from jaxrl_llm.training import rollouts
from jaxrl_llm.training.export import convert
from tests.compilation import CHEAP_FLAGS
from tests.policies import CONFIGS, save_character_model

STEPS = 6
WARMUP = 1  # rollout steps in which only the critic learns
LIMIT_SECONDS = 240


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """The policy's, and in it the critic's."""
    folder = save_character_model(tmp_path_factory.mktemp("model"))
    save_character_model(folder / "critic", family="llama", qk_norm=False, width=24, layers=2, heads=3, tied=False)
    return folder


def start(folder: Path, run_dir: Path, *changes: str, devices: int = 1, log_compiles: bool = False) -> subprocess.Popen:
    """`jaxrl-llm train` on so many fake devices."""
    keys = {
        "model.source": folder,
        "model.critic_source": folder / "critic",
        "run_dir": run_dir,
        "steps": STEPS,
        "data.tier": "easy",
        "data.prompts_per_step": 4,
        "data.samples_per_prompt": 4,
        "reward.answer_format": "first_number",
        "reward.wrong": 0.5,  # any number is worth something: a random model has a gradient
        "sampling.max_tokens": 16,
        "training.mini_batches": 2,
        "training.offload_reference": True,
        "optimizer.learning_rate": 1e-2,
        "optimizer.state_dtype": "bfloat16",
        "optimizer.offload": True,
        "algorithm.critic_learning_rate": 1e-2,
        "algorithm.critic_warmup": WARMUP,
        "algorithm.kl_placement": "loss",
        "algorithm.kl_estimator": "k3",
        "algorithm.kl_coefficient": 0.1,
        "algorithm.kl_target": 0.01,
        "algorithm.kl_horizon": 100,
        "algorithm.entropy_target": 3.0,
        "algorithm.entropy_step": 0.001,
        "evaluation.every": 3,
        "evaluation.problems": 4,
        "evaluation.tier": "easy",
        "checkpoint.every": 2,
        "log.rollouts_every": 3,
    }
    command = [sys.executable, "-m", "jaxrl_llm.cli", "train", "--config", str(CONFIGS / "ppo.py")]
    command += [f"--config.{key}={value}" for key, value in keys.items()]
    command += [f"--config.{change}" for change in changes]
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {CHEAP_FLAGS}"}
    # What one run compiled is there for the next one, as it is for a user; here all of it, however short it took.
    del environment["JAX_COMPILATION_CACHE_DIR"]
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment["JAX_LOG_COMPILES"] = "1" if log_compiles else "0"
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
    *_, report = out.splitlines()
    assert report == f"report: {run_dir / 'report.html'}"
    assert [line for line in out.splitlines() if line.startswith("algorithm.")] == inert_of(run_dir)
    return run_dir


def exported(run_dir: Path, to: Path) -> dict[str, np.ndarray]:
    params = hub.load(str(convert(run_dir, to))).params
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}


def test_a_run_leaves_its_metrics_samples_config_events_and_report(whole_run):
    rows = [json.loads(line) for line in lines(whole_run / "metrics.jsonl")]
    assert [row["step"] for row in rows if "reward" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "eval/avg" in row] == [0, 3, 6]
    first, second = [row for row in rows if "reward" in row][:2]
    of_policy = {"entropy", "effect/clip_low", "effect/clip_high", "kl_sampler", "gradient_norm", "kl_coefficient"}
    assert of_policy <= set(second) and not of_policy & set(first), (
        "the policy does not learn while the critic warms up"
    )
    assert {"value_error", "explained_variance", "critic_gradient_norm", "repeat_ratio", "length"} <= set(first)
    assert first["learning_rate"] == 0 < second["learning_rate"]
    evaluations = [json.loads(line) for line in lines(whole_run / "evaluations.jsonl")]
    by_step = {row["step"]: row["eval/avg"] for row in rows if "eval/avg" in row}
    assert {row["step"]: pytest.approx(np.mean(row["accuracy"])) for row in evaluations} == by_step
    assert all(row["problems"] == list(range(len(row["accuracy"]))) for row in evaluations)
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


def test_adaptive_coefficients_move_by_what_was_measured_and_the_critic_s_error_falls(whole_run):
    rows = [json.loads(line) for line in lines(whole_run / "metrics.jsonl")]
    rows = [row for row in rows if "kl_coefficient" in row]
    assert rows[0]["kl_coefficient"] == pytest.approx(0.1) and rows[0]["entropy_coefficient"] == 0
    for row, following in itertools.pairwise(rows):
        error = np.clip(row["kl_ref"] / 0.01 - 1, -0.2, 0.2)
        assert following["kl_coefficient"] == pytest.approx(row["kl_coefficient"] * (1 + error * 16 / 100), rel=1e-5)
        wanted = max(0.0, row["entropy_coefficient"] + (0.001 if row["entropy"] < 3 else -0.001))
        assert following["entropy_coefficient"] == pytest.approx(wanted, abs=1e-7)
    errors = [json.loads(line).get("value_error") for line in lines(whole_run / "metrics.jsonl")]
    errors = [error for error in errors if error is not None]
    assert errors[-1] < errors[0]


def test_saved_rollouts_hold_what_was_sampled_and_how_likely_it_became(whole_run):
    assert sorted(file.name for file in (whole_run / "rollouts").iterdir()) == ["step_000003.npz", "step_000006.npz"]
    saved = rollouts.load(rollouts.path_of(whole_run, 3))
    row = next(r for r in map(json.loads, lines(whole_run / "metrics.jsonl")) if r["step"] == 3 and "reward" in r)
    assert saved.step == 3 and saved.config["algorithm"]["baseline"] == "critic"
    assert saved.rewards.mean() == pytest.approx(row["reward"])
    assert saved.correct.mean() == pytest.approx(row["outcome/correct"])
    assert saved.parseable.mean() == pytest.approx(1 - row["outcome/unparseable"])
    assert saved.rollout.mask.sum(axis=1).mean() == pytest.approx(row["length"])
    mask = saved.rollout.mask
    np.testing.assert_array_equal(saved.old_logprobs, saved.rollout.sampler_logprobs)
    assert (saved.logprobs[mask] != saved.old_logprobs[mask]).mean() > 0.9, "after the update, not before"
    assert (saved.entropy[mask] > 0).all() and saved.ref_logprobs is not None


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
    _, log = start(model_folder, run_dir, log_compiles=True).communicate(timeout=LIMIT_SECONDS)
    loaded = set(re.findall(r"Persistent compilation cache hit for '(\w+)'", log))
    large = {"jit_begin", "jit_extend", "jit_scorer", "jit_batcher", "jit_gradients", "jit_apply"}
    assert large <= loaded, "what the whole run had compiled is compiled again"
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        assert (run_dir / name).read_bytes() == (whole_run / name).read_bytes(), name
    again, once = (rollouts.load(rollouts.path_of(folder, STEPS)) for folder in (run_dir, whole_run))
    np.testing.assert_array_equal(again.logprobs, once.logprobs)
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
        for name in ("value_error", "critic_gradient_norm", "loss", "gradient_norm", "entropy"):
            if name not in wanted:  # of the policy, while the critic warms up
                continue
            # float32 sums over eight devices
            assert got[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


def test_a_folder_that_holds_another_configs_run_is_not_touched(whole_run, model_folder):
    before = (whole_run / "metrics.jsonl").read_bytes()
    process = start(model_folder, whole_run, "seed=1")
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 2 and "seed (0 -> 1)" in err and "Traceback" not in err
    assert (whole_run / "metrics.jsonl").read_bytes() == before
