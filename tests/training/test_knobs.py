"""Knobs that need more than a loss: each trains a tiny model, and its metric says that it was at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm.training import rollouts
from tests.policies import CONFIGS
from tests.training.test_run import CHEAP_FLAGS, LIMIT_SECONDS

# name -> recipe, keys under algorithm (or another section), metrics above 0 at the last step
RUNS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "greedy baseline": (
        "remax",
        {"length_penalty": "linear", "length_coefficient": 0.1},  # the greedy completion pays for its length too
        ("effect/baseline", "greedy_length"),
    ),
    "optimal token baseline": (
        "lite_ppo",
        {"baseline": "optimal_token", "scale": "none", "positive_nll_coefficient": 0.1},
        ("effect/baseline", "effect/positive_nll_coefficient"),
    ),
    "gap": (
        "lite_ppo",
        {"old_logprobs": "trainer", "correction": "truncate", "correction_level": "sequence", "correction_high": 2.0}
        | {"rejection": "k3", "rejection_level": "sequence_mean", "rejection_high": 0.1},
        ("gap/training_ppl", "gap/rollout_ppl"),
    ),
    "exact KL in the loss": (
        "lite_ppo",
        {"kl_placement": "loss", "kl_estimator": "exact", "kl_coefficient": 0.1, "sampling.top_p": 0.9}
        | {"training.tokens_per_pass": 64, "training.score_chunk": 32, "training.offload_reference": True}
        | {"group_filter": "zero_variance", "log.rollouts_every": 1}
        | {"data.prompts_per_step": 8, "data.samples_per_prompt": 2},  # many groups of two have equal rewards
        ("effect/kl_placement", "kl_ref", "saved/score/rows"),
    ),
    "exact KL in the reward": (
        "lite_ppo",
        {"kl_placement": "reward", "kl_estimator": "exact", "kl_coefficient": 0.1, "sampling.top_k": 20},
        ("effect/kl_placement", "kl_ref"),
    ),
    "running moments": (
        "lite_ppo",
        {"baseline": "running", "scale": "running", "length_penalty": "cosine", "length_coefficient": 0.1}
        | {"format_coefficient": 0.1, "repetition_coefficient": 0.5, "repetition_ngram": 1},
        ("effect/baseline", "effect/scale", "effect/length_penalty", "effect/repetition_coefficient"),
    ),
    "chosen tokens": (
        "lite_ppo",
        {"surrogate": "clip_cov", "cov_low": 0.0, "cov_high": 9.0, "cov_share": 0.2, "top_entropy_share": 0.5}
        | {"training.tokens_per_pass": 64},
        ("effect/cov_share", "effect/top_entropy_share"),
    ),
    "resampled groups": (
        "lite_ppo",
        {"group_filter": "zero_variance", "resample_rounds": 3}
        | {"data.prompts_per_step": 8, "data.samples_per_prompt": 2},
        ("effect/resample_rounds",),
    ),
    "sources": (
        "lite_ppo",
        {"scale": "batch", "batch_statistics": "source", "data.source_key": "set"},
        ("effect/batch_statistics", "source/odd/reward", "source/even/reward"),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All runs, one process."""
    folder = tmp_path_factory.mktemp("runs")
    mixed = folder / "mixed.jsonl"
    rows = [{"question": f"{i}+{i}=", "answer": 2 * i, "set": ("even", "odd")[i % 2]} for i in range(8)]
    mixed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = []
    for name, (recipe, changes, _) in RUNS.items():
        keys = {key if "." in key else f"algorithm.{key}": value for key, value in changes.items()}
        if "data.source_key" in keys:
            keys["data.source"] = f"jsonl:{mixed}"
        lines.append(json.dumps({"recipe": recipe, "name": name, "keys": keys}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.tiny_runs", str(folder)],
        input="\n".join(lines),
        env=os.environ | {"XLA_FLAGS": CHEAP_FLAGS},
        cwd=CONFIGS.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_with_the_knob_at_work(folder, name):
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["loss"] is not None and row["gradient_norm"] > 0, "a step that learns nothing tests nothing"
    for metric in RUNS[name][2]:
        assert rows[-1][metric] > 0, metric


def test_sampler_and_trainer_agree_in_a_run(folder):
    (first, _) = [json.loads(line) for line in (folder / "gap" / "metrics.jsonl").read_text().splitlines()]
    assert abs(first["gap/log_ppl_diff"]) < 2e-5 and first["effect/rejection"] == 0


def test_a_saved_rollout_has_the_scores_of_all_rows_also_of_those_that_the_step_did_not_score(folder):
    run = folder / "exact KL in the loss"
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        assert row["saved/score/rows"] == row["saved/update/rows"] > 0
        saved = rollouts.load(rollouts.path_of(run, row["step"]))
        assert (saved.ref_logprobs[saved.rollout.mask] < 0).all()


def test_the_cost_of_greedy_completions_stands_in_the_speed_log(folder):
    speed = [json.loads(line) for line in (folder / "greedy baseline" / "speed.jsonl").read_text().splitlines()]
    assert all(0 < row["greedy_seconds"] < row["seconds"] for row in speed)
