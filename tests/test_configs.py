"""Every file in configs/ loads, and the recipes are what their papers say."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm.training.pretrain import PretrainSettings
from jaxrl_llm.training.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py"))
RECIPES = ("reinforce", "grpo", "dapo", "lite_ppo")
PRETRAINED_HERE = "configs/models/tiny_base.py"  # of `jaxrl-llm pretrain`


def settings(name: str) -> Settings:
    return configs.parse(configs.load(ROOT / "configs" / f"{name}.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_config_loads_and_has_a_header(path):
    assert ast.get_docstring(ast.parse((ROOT / path).read_text())), f"{path} has no docstring"
    section = PretrainSettings if str(path) == PRETRAINED_HERE else Settings
    parsed = configs.parse(configs.load(ROOT / path, (), section), section)
    if isinstance(parsed, Settings):
        configs.check(parsed, devices=1)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_header_names_a_command_that_runs_this_file(path):
    header = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    if path.stem in ("base", "paper"):  # what the others start from
        assert "Command:" not in header
    else:
        assert f"--config {path}" in header
        assert "Hardware:" in header


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_under_25_lines_with_source_and_expectation(name):
    lines = (ROOT / "configs" / f"{name}.py").read_text().splitlines()
    assert len(lines) < 25
    for part in ("Source:", "Command:", "Hardware:", "Expected:"):
        assert any(part in line for line in lines), part


def test_no_two_configs_write_to_the_same_folder():
    folders = [settings(str(path.relative_to("configs").with_suffix(""))).run_dir for path in FILES if is_run(path)]
    assert len(set(folders)) == len(folders)


def is_run(path: Path) -> bool:
    return str(path) != PRETRAINED_HERE and path.stem != "paper"


PLAIN = {
    "baseline": "none",
    "scale": "none",
    "scale_ddof": 1,
    "scale_epsilon": 1e-6,
    "whiten": False,
    "advantage_clip": None,
    "surrogate": "ppo_clip",
    "ratio": "token",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "dual_clip": None,
    "kl_placement": "none",
    "kl_coefficient": 0.0,
    "entropy_coefficient": 0.0,
    "aggregation": "token_mean",
    "overlong_filter": False,
    "overlong_buffer": 0,
    "group_filter": "none",
    "resample_rounds": 1,
}


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        ("reinforce", {"surrogate": "reinforce"}),
        ("lite_ppo", {"baseline": "group", "scale": "batch"}),
        (
            "grpo",
            {
                "baseline": "group",
                "scale": "group",
                "aggregation": "sequence_mean",
                "kl_placement": "loss",
                "kl_estimator": "k3",
                "kl_coefficient": 0.04,
            },
        ),
        (
            "dapo",
            {
                "baseline": "group",
                "scale": "group",
                "clip_high": 0.28,
                "overlong_buffer": 9,
                "overlong_penalty": 1.0,
                "group_filter": "zero_variance",
                "resample_rounds": 10,
            },
        ),
    ],
)
def test_a_recipe_is_what_its_paper_says_and_nothing_else(name, differences):
    algorithm = settings(name).algorithm
    for key, value in (PLAIN | differences).items():
        assert getattr(algorithm, key) == value, key


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "reinforce"])
def test_a_recipe_with_a_clip_takes_several_steps_a_rollout_so_that_it_can_bind(name):
    training = settings(name).training
    assert training.epochs * training.mini_batches > 1


@pytest.mark.parametrize("name", ["quickstart", "quickstart_real", "gsm8k", "models/paper"])
def test_the_shipped_runs_are_lite_ppo(name):
    assert settings(name).algorithm == settings("lite_ppo").algorithm


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("qwen3_4b_base", "Qwen/Qwen3-4B-Base"),
        ("qwen3_8b_base", "Qwen/Qwen3-8B-Base"),
        ("qwen3_4b", "Qwen/Qwen3-4B"),
        ("qwen3_8b", "Qwen/Qwen3-8B"),
        ("llama3_8b", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_the_models_of_the_study_have_its_hyperparameters(name, source):
    s = settings(f"models/{name}")
    assert s.model.source == source
    assert (s.data.prompts_per_step, s.data.samples_per_prompt, s.data.max_prompt_tokens) == (128, 8, 1024)
    assert (s.sampling.max_tokens, s.sampling.temperature) == (8192, 0.99)
    assert (s.sampling.top_p, s.sampling.top_k) == (0.99, 100)
    assert (s.optimizer.learning_rate, s.optimizer.warmup_steps, s.optimizer.weight_decay) == (1e-6, 50, 0.0)
    assert (s.optimizer.clip_norm, s.training.epochs) == (1.0, 1)
    assert s.data.template == "chat"
    assert s.data.system == r"Please reason step by step, and put your final answer within \boxed{}."
    assert (s.reward.correct, s.reward.wrong, s.reward.verifier, s.reward.answer_format) == (1.0, 0.0, "math", "boxed")
