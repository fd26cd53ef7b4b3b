"""`explain` says of a config what the config does, in every choice of every knob."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm import explain, schema
from jaxrl_llm.algorithm import Algorithm
from jaxrl_llm.rewards.combine import RewardSettings
from jaxrl_llm.training.settings import Settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def settings(name: str, *overrides: str) -> Settings:
    return configs.parse(configs.load(CONFIGS / f"{name}.py", overrides))


def rows(name: str, *overrides: str) -> dict[str, str]:
    return dict(explain.rows(settings(name, *overrides)))


def test_reinforce_is_minus_the_reward_times_the_log_probability():
    said = rows("reinforce")
    assert said["Advantage"] == "A_i = r_i, for every token of completion i"
    assert said["Mean"] == "none is taken from the reward; a reward of 0 gives no gradient"
    assert said["Std"] == "none divides it"
    assert said["Token loss"] == "ℓ_it = −A_i · log π(o_t); no ratio, no clip"
    assert not {"Ratio", "Clip", "Std ddof", "Std epsilon"} & said.keys()
    assert said["KL"] == "none: no reference model is kept"
    assert said["Filters"] == said["Entropy bonus"] == "none"


def test_grpo_divides_by_the_groups_std_and_adds_k3_to_the_loss():
    said = rows("grpo")
    assert said["Advantage"] == "A_i = (r_i − mean_g(r)) / (std_g(r) + 1e-06), for every token of completion i"
    assert said["Mean"] == "mean_g is over the samples of the same prompt (8 samples)"
    assert "over the samples of the same prompt (8 samples)" in said["Std"]
    assert said["Std ddof"] == "1: the variance divides by count − 1"
    assert said["Std epsilon"] == "1e-06, added to the std"
    assert said["Token loss"] == "ℓ_it = −min(ρ·A_i, clip(ρ, 0.8, 1.2)·A_i) + 0.04·k3"
    assert said["KL"].startswith("0.04 · k3, added to the token loss; k3 = exp(−x) + x − 1")
    assert "1/R Σ_i 1/|o_i| Σ_t ℓ_it (sequence_mean)" in said["Denominator"]


def test_dapo_clips_higher_penalizes_length_and_refills_the_batch():
    said = rows("dapo")
    assert said["Clip"] == "[1 − 0.2, 1 + 0.28] = [0.8, 1.28], the upper bound is its own (clip-higher)"
    assert "nothing up to 39 tokens, the whole penalty at 48" in said["Overlong penalty"]
    assert "groups whose rewards are all equal" in said["Filters"]
    assert "up to 10 rollouts a step until the batch is full" in said["Filters"]
    assert "(token_mean)" in said["Denominator"]
    assert said["KL"] == "none: no reference model is kept"


def test_lite_ppo_takes_the_groups_mean_and_the_batchs_std_of_raw_rewards():
    said = rows("lite_ppo")
    assert said["Advantage"] == "A_i = (r_i − mean_g(r)) / (std_b(r) + 1e-06), for every token of completion i"
    assert said["Std"].startswith("std_b is over the raw rewards of all completions of the step")
    assert said["Clip"] == "[1 − 0.2, 1 + 0.2] = [0.8, 1.2], symmetric"
    assert said["Denominator"].startswith("L = Σ_i Σ_t ℓ_it / Σ_i |o_i| (token_mean)")
    assert said["Filters"] == said["Entropy bonus"] == "none"
    assert said["KL"] == "none: no reference model is kept"


def test_one_optimizer_step_a_rollout_is_said_to_make_the_clip_void():
    void = "the ratio is 1 (up to rounding) and clipping cannot bind"
    assert void in rows("lite_ppo", "training.mini_batches=1")["Optimizer steps"]
    assert void not in rows("lite_ppo", "training.mini_batches=1", "training.epochs=2")["Optimizer steps"]
    assert void not in rows("lite_ppo")["Optimizer steps"]
    assert void not in rows("reinforce")["Optimizer steps"]
    assert "4 a rollout, of 32 completions each" in rows("lite_ppo")["Optimizer steps"]


def test_the_sampled_support_is_that_of_the_study():
    said = rows("models/qwen3_4b_base")
    assert "temperature 0.99, of the 100 likeliest tokens (top-k), then of the smallest set" in said["Sampling"]
    assert "mass 0.99 (top-p); sampler and trainer normalize over the same kept tokens" in said["Sampling"]
    assert "128 prompts × 8 samples = 1024 completions of at most 8192 tokens" in said["Rollout"]


@pytest.mark.parametrize(
    ("overrides", "heading", "part"),
    [
        (["algorithm.scale_ddof=0"], "Std ddof", "0: the variance divides by the count"),
        (["algorithm.scale_epsilon=0.001"], "Advantage", "+ 0.001)"),
        (["algorithm.whiten=true"], "Whitening", "over the tokens of the step"),
        (["algorithm.advantage_clip=2"], "Advantage clip", "[−2, 2]"),
        (["algorithm.dual_clip=3"], "Dual clip", "3 · |A_i|"),
        (["algorithm.entropy_coefficient=0.01"], "Token loss", "− 0.01·H"),
        (["algorithm.overlong_filter=true"], "Filters", "truncated completions get no gradient"),
        (["algorithm.aggregation=constant"], "Denominator", "1/(48·B)"),
        (["algorithm.aggregation=constant", "algorithm.aggregation_constant=100"], "Denominator", "1/(100·B)"),
        (["reward.truncated=-1"], "Reward", "a truncated completion is always -1"),
        (["optimizer.warmup_steps=5", "optimizer.schedule=linear"], "Optimizer", "5 steps of warm-up, then linear"),
        (["sampling.min_p=0.1"], "Sampling", "at least 0.1 × the likeliest (min-p)"),
    ],
)
def test_a_knob_that_is_on_is_said_with_its_value(overrides, heading, part):
    assert part in rows("lite_ppo", *overrides)[heading]


def choices(section: type) -> list[tuple[str, str]]:
    """(field, choice) of every field that takes one of a few words."""
    return [
        (name, choice)
        for name, kind in schema.fields(section).items()
        if typing.get_origin(kind) is typing.Literal
        for choice in typing.get_args(kind)
    ]


@pytest.mark.parametrize(("field", "choice"), choices(Algorithm) + choices(RewardSettings))
def test_every_choice_of_every_knob_changes_what_is_said(field, choice):
    base = settings("lite_ppo")
    if field == "kl_estimator" or (field, choice) == ("kl_placement", "reward"):
        placed = dataclasses.replace(base.algorithm, kl_placement="reward", kl_coefficient=0.1, kl_estimator="k2")
        base = dataclasses.replace(base, algorithm=placed)
    section = "algorithm" if field in schema.fields(Algorithm) else "reward"
    old = getattr(base, section)
    extra = {"kl_coefficient": 0.1} if (field, choice) == ("kl_placement", "loss") else {}
    new = dataclasses.replace(old, **{field: choice}, **extra)
    changed = explain.rows(dataclasses.replace(base, **{section: new})) != explain.rows(base)
    assert changed == (new != old)


def test_the_text_fits_the_terminal_and_loses_no_word():
    s = settings("dapo")
    text = explain.explain(s, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.split() == " ".join(f"{heading} {said}" for heading, said in explain.rows(s)).split()
