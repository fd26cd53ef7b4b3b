"""Trains a tiny random model under several configs in one process: python -m tests.training.tiny_runs FOLDER < configs.

Each line of the standard input is JSON: {"recipe": …, "name": …, "keys": {dotted path: value}}. A run goes to
FOLDER/name. With "of": NAME it goes on from a copy of that run's folder without the last checkpoint.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jax

from jaxrl_llm import config
from jaxrl_llm.training.checkpoint import FOLDER
from jaxrl_llm.training.loop import train
from tests.policies import CONFIGS, save_character_model

KEYS = {
    "steps": 2,
    "data.prompts_per_step": 4,
    "data.samples_per_prompt": 4,
    "reward.answer_format": "first_number",
    "reward.wrong": 0.5,  # any number is worth something, a truncated completion nothing: a random model has a gradient
    "reward.truncated": 0.0,
    "sampling.max_tokens": 16,
    "training.mini_batches": 2,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup_steps": 0,
    "evaluation.every": 0,
    "checkpoint.every": 0,
    "log.tensorboard": False,
}


def _copy_but_for_the_last_checkpoint(done: Path, to: Path) -> None:
    shutil.copytree(done, to)
    shutil.rmtree(max((to / FOLDER).iterdir(), key=lambda checkpoint: int(checkpoint.name)))


def main(folder: Path) -> None:
    model = save_character_model(folder / "model")
    for line in sys.stdin:
        run = json.loads(line)
        if "of" in run:
            _copy_but_for_the_last_checkpoint(folder / run["of"], folder / run["name"])
        keys = KEYS | {"model.source": model, "run_dir": folder / run["name"]} | run["keys"]
        loaded = config.load(CONFIGS / f"{run['recipe']}.py", [f"{key}={value}" for key, value in keys.items()])
        settings = config.parse(loaded)
        config.check(settings, devices=jax.device_count())
        train(settings, config=loaded.to_dict())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
