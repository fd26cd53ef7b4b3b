"""Small runs that the engines lab and train both make, and what `train` writes of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import pytest

from jaxrl_llm import config
from jaxrl_llm.sharding import make_mesh
from jaxrl_llm.study import plan
from jaxrl_llm.study.lab import engine
from jaxrl_llm.training import loop, setup
from jaxrl_llm.training.settings import Settings
from tests.policies import CONFIGS

LAB = CONFIGS / "studies" / "lab.py"
# Everything that a lane does: refilled groups, several optimizer steps, a KL to a reference, shaped rewards.
SMALL = {
    "steps": 3,
    "data.tier": "easy",
    "data.prompts_per_step": 4,
    "data.samples_per_prompt": 2,  # many groups are all right or all wrong
    "sampling.max_tokens": 11,
    "reward.truncated": -0.5,
    "algorithm.scale": "batch",
    "algorithm.clip_low": 0.01,
    "algorithm.clip_high": 0.02,
    "algorithm.overlong_buffer": 3,
    "algorithm.overlong_penalty": 0.5,
    "algorithm.kl_placement": "loss",
    "algorithm.kl_estimator": "k3",
    "algorithm.kl_coefficient": 0.05,
    "algorithm.group_filter": "zero_variance",
    "algorithm.resample_rounds": 3,
    "training.mini_batches": 2,
    "training.pack": False,  # one shape of passes to compile
    "training.skip_rows": False,  # the rows that train leaves out count in no metric of its policy
    "optimizer.warmup_steps": 2,
    "evaluation.tier": "easy",
    "evaluation.every": 2,
    "evaluation.problems": 6,
    "evaluation.samples": 2,
    "evaluation.texts": 2,
}


def settings(**keys: object) -> Settings:
    changes = SMALL | {key.replace("__", "."): value for key, value in keys.items()}
    return config.parse(config.load(LAB, [f"{key}={value}" for key, value in changes.items()]))


def planned(run: Settings) -> engine.Planned:
    return engine.Planned(plan.Job("cell", "arm", run.seed), run, None, "")


def lines_of_train(run: Settings, folder: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", functools.partial(make_mesh, devices=jax.devices()[:1]))  # compiles faster
        loop.train(dataclasses.replace(run, run_dir=str(folder / "run")), config={"test": True})
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
