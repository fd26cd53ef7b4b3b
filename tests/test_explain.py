"""`explain` says of a config what the config does, in every choice of every knob."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm import explain, schema
from jaxrl_llm.knobs import Algorithm, levels
from jaxrl_llm.rewards.combine import RewardSettings
from jaxrl_llm.training.settings import Settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def settings(name: str, *overrides: str) -> Settings:
    return configs.parse(configs.load(CONFIGS / f"{name}.py", overrides))


def rows(name: str, *overrides: str) -> dict[str, str]:
    return dict(explain.rows(settings(name, *overrides)))


ALWAYS = {"Rollout", "Sampling", "Reward", "Denominator", "Optimizer steps", "Optimizer"}


def test_reinforce_is_minus_the_reward_times_the_log_probability():
    said = rows("reinforce")
    assert said["Advantage"] == "A_i = r_i, for every token of completion i; a reward of 0 gives no gradient"
    assert said["Token loss"] == "ℓ_it = −A · log π(o_t); no ratio, no clip"
    assert said.keys() == {*ALWAYS, "Advantage", "Token loss"}


def test_grpo_divides_by_the_groups_std_and_adds_k3_to_the_loss():
    said = rows("grpo")
    assert said["Advantage"] == "A_i = (r_i − mean_g(r)) / (std_g(r) + 1e-06), for every token of completion i"
    assert said["Mean"] == "mean_g is over the samples of the same prompt (8 samples)"
    assert "over the samples of the same prompt (8 samples)" in said["Std"]
    assert said["Std ddof"] == "1: the variance divides by count − 1"
    assert said["Std epsilon"] == "1e-06 is added to the std"
    assert said["Token loss"].startswith("ℓ_it = −min(ρ·A, clip(ρ, 0.8, 1.2)·A) + 0.04·k3; ")
    assert said["KL"].startswith("0.04 · k3, added to the token loss; k3 = exp(−x) + x − 1")
    assert "1/R Σ_i 1/|o_i| Σ_t ℓ_it (sequence_mean)" in said["Denominator"]


def test_dapo_clips_higher_penalizes_length_and_refills_the_batch():
    said = rows("dapo")
    assert said["Clip"] == "[1 − 0.2, 1 + 0.28] = [0.8, 1.28], the upper bound is its own (clip-higher)"
    assert "nothing up to 39 tokens, the whole penalty at 48" in said["Overlong penalty"]
    assert "groups whose rewards are all equal" in said["Filters"]
    assert "up to 10 rollouts a step until the batch is full" in said["Filters"]
    assert "(token_mean)" in said["Denominator"]
    assert "KL" not in said


def test_lite_ppo_takes_the_groups_mean_and_the_batchs_std_of_raw_rewards():
    said = rows("lite_ppo")
    assert said["Advantage"] == "A_i = (r_i − mean_g(r)) / (std_b(r) + 1e-06), for every token of completion i"
    assert said["Std"].startswith("std_b is over the raw rewards of all completions of the step")
    assert said["Clip"] == "[1 − 0.2, 1 + 0.2] = [0.8, 1.2], symmetric"
    assert said["Denominator"].startswith("L = Σ_i Σ_t ℓ_it / Σ_i |o_i| (token_mean)")
    assert not {"Filters", "Entropy bonus", "KL"} & said.keys()


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
        (["algorithm.whiten=true"], "Whitening", "over all tokens of the step"),
        (["algorithm.advantage_clip=2"], "Advantage clip", "[−2, 2]"),
        (["algorithm.dual_clip=3"], "Dual clip", "3 · |A|"),
        (["algorithm.entropy_coefficient=0.01"], "Token loss", "− 0.01·H"),
        (["algorithm.overlong_filter=true"], "Filters", "truncated completions get no gradient;"),
        (["algorithm.aggregation=constant"], "Denominator", "1/(48·B)"),
        (["algorithm.aggregation=constant", "algorithm.aggregation_constant=100"], "Denominator", "1/(100·B)"),
        (["reward.truncated=-1"], "Reward", "a truncated completion is always -1"),
        (
            ["reward.verifier=program", "reward.answer_format=code"],
            "Reward",
            "the last block of code; verifier: runs it on the problem's tests, in a sandbox of bubblewrap",
        ),
        (["optimizer.warmup_steps=5", "optimizer.schedule=linear"], "Optimizer", "5 steps of warm-up, then linear"),
        (["sampling.min_p=0.1"], "Sampling", "at least 0.1 × the likeliest (min-p)"),
    ],
)
def test_a_knob_that_is_on_is_said_with_its_value(overrides, heading, part):
    assert part in rows("lite_ppo", *overrides)[heading]


ADAPTER = ("lora.rank=16", "lora.alpha=32", "lora.rank_stabilized={}", "lora.targets={}")


@pytest.mark.parametrize(
    ("stabilized", "targets", "scale", "where"),
    [
        (False, "all-linear", "alpha / rank = 32 / 16 = 2, ", "every matrix of a layer but experts and their router"),
        (True, r".*\.(q|v)_proj", "alpha / √rank = 32 / √16 = 8, ", r"whose names .*\.(q|v)_proj matches;"),
    ],
)
def test_an_adapter_is_said_with_its_rank_scale_and_targets(stabilized, targets, scale, where):
    said = rows("lite_ppo", *(line.format(stabilized if "stabilized" in line else targets) for line in ADAPTER))
    assert said["Adapter"].startswith(f"y = x W + s · (x A) B with A [in, 16], B [16, out] and s = {scale}beside ")
    assert where in said["Adapter"]
    assert "Adapter" not in rows("lite_ppo")


CRITIC = {"baseline": "critic", "gae_lambda": 0.9, "gae_lambda_returns": 1.0, "critic_learning_rate": 1e-4}
CRITIC |= {"critic_warmup": 0}
NO_CLIP = {"clip_low": None, "clip_high": None}
SAPO = {"surrogate": "sapo", "sapo_temperature_positive": 1.0, "sapo_temperature_negative": 1.1, **NO_CLIP}
TOPR = {"surrogate": "topr", "topr_weight_positive": 1.0, "topr_weight_negative": 1.0, **NO_CLIP}
KIMI = {"surrogate": "kimi", "square_coefficient": 0.05, **NO_CLIP}
VESPO = {"surrogate": "vespo", "vespo_k_positive": 2.0, "vespo_lambda_positive": 3.0, **NO_CLIP}
VESPO |= {"vespo_k_negative": 2.5, "vespo_lambda_negative": 3.5}
DPPO = {"surrogate": "dppo", "dppo_by_sign": True, "square_coefficient": 0.01}
CLIP_COV = {"surrogate": "clip_cov", "cov_low": 1.0, "cov_high": 5.0, "cov_share": 2e-4}
KL_COV = {"surrogate": "kl_cov", "cov_share": 2e-4, "kl_cov_coefficient": 1.0, **NO_CLIP}
CORRECTION = {"correction": "truncate", "correction_level": "token", "correction_high": 2.0, "old_logprobs": "trainer"}
REJECTION = {"rejection": "k1", "rejection_level": "token", "rejection_high": 2.0, "old_logprobs": "trainer"}
KL = {"kl_placement": "loss", "kl_coefficient": 0.1, "kl_estimator": "k3"}
DIFFICULTY = {"group_filter": "difficulty", "difficulty_low": 0.1, "difficulty_high": 0.9}
LENGTH = {"length_penalty": "linear", "length_coefficient": 0.5}

# Knob -> what must be set before another value of it may be set; then that value, and what it needs beside it.
SITUATIONS: dict[str, list[tuple[dict, dict]]] = {
    "format_coefficient": [({}, {"format_coefficient": 0.1})],
    "overlong_buffer": [({}, {"overlong_buffer": 8, "overlong_penalty": 1.0})],
    "overlong_penalty": [({"overlong_buffer": 8, "overlong_penalty": 1.0}, {"overlong_penalty": 0.5})],
    "length_penalty": [({}, {**LENGTH, "length_penalty": level}) for level in ("linear", "group_relative", "cosine")],
    "length_coefficient": [(LENGTH, {"length_coefficient": 0.25})],
    "repetition_coefficient": [({}, {"repetition_coefficient": 0.1, "repetition_ngram": 3})],
    "repetition_ngram": [({"repetition_coefficient": 0.1, "repetition_ngram": 3}, {"repetition_ngram": 4})],
    "reward_combination": [({"format_coefficient": 0.1}, {"reward_combination": "separate"})],
    "baseline": [
        ({}, {"baseline": level})
        for level in ("none", "batch", "leave_one_out", "running", "length_weighted", "pass_at_k", "greedy")
    ]
    + [({"scale": "none"}, {"baseline": "optimal_token"}), ({"scale": "none"}, CRITIC)],
    "scale": [({}, {"scale": level}) for level in ("none", "group", "batch_centered", "running", "nonzero_share")],
    "scale_ddof": [({}, {"scale_ddof": 0}), ({"scale": "none", "whiten": True}, {"scale_ddof": 0})],
    "scale_epsilon": [
        ({}, {"scale_epsilon": 0.1}),
        ({"scale": "none", "whiten": True}, {"scale_epsilon": 0.1}),
        ({"scale": "none", "baseline": "optimal_token"}, {"scale_epsilon": 0.1}),
    ],
    "batch_statistics": [({}, {"batch_statistics": "source"})],
    "reward_clip": [({}, {"reward_clip": 2.0})],
    "discount": [({}, {"discount": 0.9})],
    "gae_lambda": [({"scale": "none", **CRITIC}, {"gae_lambda": 0.0})],
    "gae_lambda_returns": [({"scale": "none", **CRITIC}, {"gae_lambda_returns": 0.5})],
    "gae_length_alpha": [({"scale": "none", **CRITIC}, {"gae_length_alpha": 0.05, "gae_lambda": None})],
    "whiten": [({}, {"whiten": True})],
    "advantage_clip": [({}, {"advantage_clip": 2.0})],
    "surrogate": [
        ({}, change)
        for change in (
            {"surrogate": "reinforce", **NO_CLIP},
            {"surrogate": "cispo"},
            {"surrogate": "gmpo"},
            SAPO,
            TOPR,
            KIMI,
            VESPO,
            DPPO,
            CLIP_COV,
            KL_COV,
        )
    ],
    "ratio": [({}, {"ratio": level}) for level in ("sequence", "sequence_token", "sequence_product")],
    "clip_low": [({"surrogate": name}, {"clip_low": 0.1}) for name in ("ppo_clip", "cispo", "gmpo")]
    + [(DPPO, {"clip_low": 0.1}), (CLIP_COV, {"clip_low": 0.1})],
    "clip_high": [({"surrogate": name}, {"clip_high": 0.3}) for name in ("ppo_clip", "cispo", "gmpo")]
    + [(DPPO, {"clip_high": 0.3}), (CLIP_COV, {"clip_high": 0.3})],
    "dual_clip": [({}, {"dual_clip": 3.0})],
    "ratio_cap": [({}, {"ratio_cap": 2.0})],
    "drop_clipped": [({"surrogate": "cispo"}, {"drop_clipped": True})],
    "sapo_temperature_positive": [(SAPO, {"sapo_temperature_positive": 2.0})],
    "sapo_temperature_negative": [(SAPO, {"sapo_temperature_negative": 2.0})],
    "topr_weight_positive": [(TOPR, {"topr_weight_positive": 2.0})],
    "topr_weight_negative": [(TOPR, {"topr_weight_negative": 2.0})],
    "square_coefficient": [(KIMI, {"square_coefficient": 0.1}), (DPPO, {"square_coefficient": 0.1})],
    **{knob: [(VESPO, {knob: 1.5})] for knob in VESPO if knob.startswith("vespo_")},
    "dppo_by_sign": [(DPPO, {"dppo_by_sign": False})],
    "cov_low": [(CLIP_COV, {"cov_low": 0.5})],
    "cov_high": [(CLIP_COV, {"cov_high": 4.0})],
    "cov_share": [(CLIP_COV, {"cov_share": 0.01}), (KL_COV, {"cov_share": 0.01})],
    "kl_cov_coefficient": [(KL_COV, {"kl_cov_coefficient": 2.0})],
    "old_logprobs": [({}, {"old_logprobs": "trainer"})],
    "top_entropy_share": [({}, {"top_entropy_share": 0.2})],
    "bad_row_threshold": [({}, {"bad_row_threshold": 0.1})],
    "positive_nll_coefficient": [({}, {"positive_nll_coefficient": 0.1})],
    "correction": [({"old_logprobs": "trainer"}, CORRECTION), (CORRECTION, {"correction": "mask"})],
    "correction_level": [(CORRECTION, {"correction_level": level}) for level in ("segment", "sequence", "geometric")],
    "correction_low": [(CORRECTION, {"correction_low": 0.5})],
    "correction_high": [(CORRECTION, {"correction_high": 3.0})],
    "correction_normalize": [(CORRECTION, {"correction_normalize": level}) for level in ("tokens", "rows")],
    "rejection": [({"old_logprobs": "trainer"}, REJECTION)]
    + [(REJECTION, {"rejection": level}) for level in ("k2", "k3")],
    "rejection_level": [
        (REJECTION, {"rejection_level": level}) for level in ("sequence_sum", "sequence_mean", "sequence_max")
    ],
    "rejection_low": [(REJECTION, {"rejection_low": -1.0})],
    "rejection_high": [(REJECTION, {"rejection_high": 1.0})],
    "kl_placement": [({}, KL), (KL, {"kl_placement": "reward"})],
    "kl_estimator": [(KL, {"kl_estimator": level}) for level in ("k2", "absolute", "exact")]
    + [(KL | {"kl_placement": "reward"}, {"kl_estimator": "k1"})],
    "kl_coefficient": [(KL, {"kl_coefficient": 0.2})],
    "kl_importance": [(KL, {"kl_importance": True})],
    "kl_target": [(KL, {"kl_target": 0.1, "kl_horizon": 1000})],
    "kl_horizon": [(KL | {"kl_target": 0.1, "kl_horizon": 1000}, {"kl_horizon": 2000})],
    "entropy_coefficient": [({}, {"entropy_coefficient": 0.01})],
    "entropy_target": [({}, {"entropy_target": 0.3, "entropy_step": 0.01})],
    "entropy_step": [({"entropy_target": 0.3, "entropy_step": 0.01}, {"entropy_step": 0.02})],
    "critic_learning_rate": [({"scale": "none", **CRITIC}, {"critic_learning_rate": 1e-3})],
    "critic_warmup": [({"scale": "none", **CRITIC}, {"critic_warmup": 5})],
    "value_clip": [({"scale": "none", **CRITIC}, {"value_clip": 0.2})],
    "aggregation": [({}, {"aggregation": level}) for level in ("sequence_mean", "prompt_mean", "sequence_sum")]
    + [({}, {"aggregation": "constant"})],
    "aggregation_constant": [({"aggregation": "constant"}, {"aggregation_constant": 100.0})],
    "overlong_filter": [({}, {"overlong_filter": True})],
    "group_filter": [({}, {"group_filter": "zero_variance"}), ({}, DIFFICULTY)],
    "difficulty_low": [(DIFFICULTY, {"difficulty_low": 0.2})],
    "difficulty_high": [(DIFFICULTY, {"difficulty_high": 0.8})],
    "resample_rounds": [({"group_filter": "zero_variance"}, {"resample_rounds": 4})],
}
LITE_PPO = settings("lite_ppo")


def with_knobs(*changes: dict) -> Settings:
    knobs = {name: value for change in changes for name, value in change.items()}
    return dataclasses.replace(LITE_PPO, algorithm=dataclasses.replace(LITE_PPO.algorithm, **knobs))


def test_the_situations_cover_every_knob_and_every_level():
    assert SITUATIONS.keys() == schema.fields(Algorithm).keys()
    for knob, cases in SITUATIONS.items():
        reached = {getattr(LITE_PPO.algorithm, knob)} | {change.get(knob) for _, change in cases}
        reached |= {before.get(knob) for before, _ in cases}
        assert set(levels(knob)) <= reached, knob


@pytest.mark.parametrize(
    ("knob", "before", "change"),
    [(knob, before, change) for knob, cases in SITUATIONS.items() for before, change in cases],
)
def test_every_value_of_every_knob_changes_what_is_said_with_all_its_templates_filled(knob, before, change):
    old, new = explain.rows(with_knobs(before)), explain.rows(with_knobs(before, change))
    assert old != new
    text = "\n".join(text for _, text in new)
    assert "None" not in text
    assert "{" not in text
    if isinstance(change[knob], float) and change[knob] > 0:
        assert f"{change[knob]:g}" in text
    for _, line in new:
        assert not line.endswith((" ", ".", ";", ":")), line


@pytest.mark.parametrize(
    ("field", "choice"),
    [
        (name, choice)
        for name, kind in schema.fields(RewardSettings).items()
        if typing.get_origin(kind) is typing.Literal
        for choice in typing.get_args(kind)
    ],
)
def test_every_choice_of_the_reward_changes_what_is_said(field, choice):
    old = LITE_PPO.reward
    if field == "sandbox" or choice in ("program", "code"):  # these three go together
        old = dataclasses.replace(old, verifier="program", answer_format="code")
    new = dataclasses.replace(old, **{field: choice})
    before, after = (explain.rows(dataclasses.replace(LITE_PPO, reward=reward)) for reward in (old, new))
    assert (before != after) == (new != old)


def test_a_knob_alone_is_its_formula_or_off_and_a_level_that_does_nothing_its_meaning():
    dapo = settings("dapo")
    assert explain.knob(dapo, "advantage_clip") == "off"
    assert explain.knob(dapo, "clip_high").startswith("[1 − 0.2, 1 + 0.28] = [0.8, 1.28]")
    assert explain.knob(settings("gmpo"), "clip_low").startswith("the log-ratio within [−0.4, 0.4]")
    assert explain.knob(dapo, "dual_clip") == explain.knob(dapo, "discount") == "off"
    assert explain.knob(dapo, "kl_placement") == "no reference model is kept"
    assert explain.knob(dapo, "scale").startswith("std_g(r): ")


def test_the_text_fits_the_terminal_and_loses_no_word():
    s = settings("dapo")
    text = explain.explain(s, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.split() == " ".join(f"{heading} {said}" for heading, said in explain.rows(s)).split()
