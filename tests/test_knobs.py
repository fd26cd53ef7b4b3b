"""Which knobs may stand together: every range, every reader and every contradiction is refused by name."""

from __future__ import annotations

import dataclasses
import re

import pytest

from configs.base import get_config
from jaxrl_llm import knob_rules
from jaxrl_llm.knobs import Algorithm, check, levels
from tests.strategies import algorithm


def test_the_knobs_are_the_keys_of_the_base_config():
    assert {field.name for field in dataclasses.fields(Algorithm)} == set(get_config().to_dict()["algorithm"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"baseline": "grup"}, "algorithm.baseline = 'grup': expected one of none, group, batch, leave_one_out"),
        ({"aggregation": "token-mean"}, "algorithm.aggregation = 'token-mean'"),
        ({"clip_low": -0.2}, "algorithm.clip_low = -0.2"),
        ({"clip_low": 1.2}, "algorithm.clip_low = 1.2"),
        ({"clip_high": -0.1}, "algorithm.clip_high = -0.1"),
        ({"dual_clip": 1.0}, "algorithm.dual_clip = 1.0"),
        ({"advantage_clip": 0.0}, "algorithm.advantage_clip = 0.0"),
        ({"scale_ddof": -1}, "algorithm.scale_ddof = -1"),
        ({"scale_epsilon": -1e-6}, "algorithm.scale_epsilon = -1e-06"),
        ({"kl_coefficient": -0.1}, "algorithm.kl_coefficient = -0.1"),
        ({"overlong_buffer": -1}, "algorithm.overlong_buffer = -1"),
        ({"overlong_penalty": -1.0}, "algorithm.overlong_penalty = -1.0"),
        ({"resample_rounds": 0}, "algorithm.resample_rounds = 0"),
        ({"aggregation": "constant", "aggregation_constant": 0.0}, "algorithm.aggregation_constant = 0.0"),
        ({"kl_placement": "loss"}, "kl_placement = 'loss' with algorithm.kl_coefficient = 0.0"),
        ({"kl_coefficient": 0.1}, "kl_coefficient = 0.1 with algorithm.kl_placement = 'none'"),
        (
            {"kl_placement": "loss", "kl_coefficient": 0.1, "kl_estimator": "k1"},
            "kl_placement = 'loss' with algorithm.kl_estimator = 'k1'",
        ),
        ({"aggregation_constant": 64.0}, "aggregation_constant = 64.0 with algorithm.aggregation = 'token_mean'"),
        ({"surrogate": "reinforce", "dual_clip": 3.0}, "dual_clip = 3.0 with algorithm.surrogate = 'reinforce'"),
        ({"surrogate": "reinforce", "ratio": "sequence"}, "ratio = 'sequence' with algorithm.surrogate = 'reinforce'"),
        ({"overlong_penalty": 1.0}, "overlong_penalty = 1.0 with algorithm.overlong_buffer = 0"),
        ({"resample_rounds": 4}, "resample_rounds = 4 with algorithm.group_filter = 'none'"),
    ],
)
def test_a_value_out_of_range_or_a_contradiction_is_an_error_that_names_the_keys(changes, named: str):
    with pytest.raises(ValueError, match=re.escape(named)):
        algorithm(**changes)


@pytest.mark.parametrize(
    ("changes", "samples", "max_tokens", "named"),
    [
        ({"baseline": "group"}, 1, 64, "algorithm.baseline = 'group' with data.samples_per_prompt = 1"),
        ({"baseline": "leave_one_out"}, 1, 64, "algorithm.baseline = 'leave_one_out'"),
        ({"scale": "group"}, 1, 64, "algorithm.scale = 'group'"),
        ({"scale": "group", "scale_ddof": 4}, 4, 64, "at least 5 samples"),
        ({"scale": "batch_centered"}, 1, 64, "algorithm.scale = 'batch_centered'"),
        ({"group_filter": "zero_variance"}, 1, 64, "algorithm.group_filter = 'zero_variance'"),
        (
            {"overlong_buffer": 65, "overlong_penalty": 1.0},
            8,
            64,
            "algorithm.overlong_buffer = 65 with sampling.max_tokens = 64",
        ),
    ],
)
def test_knobs_that_do_not_fit_the_group_or_the_completion_are_an_error(changes, samples, max_tokens, named: str):
    with pytest.raises(ValueError, match=re.escape(named)):
        check(algorithm(**changes), samples_per_prompt=samples, max_tokens=max_tokens)


def test_knobs_that_fit_pass():
    check(algorithm(), samples_per_prompt=1, max_tokens=1)
    full = {"baseline": "group", "scale": "group", "group_filter": "zero_variance"}
    full |= {"overlong_buffer": 64, "overlong_penalty": 1.0}
    check(algorithm(**full), samples_per_prompt=2, max_tokens=64)


BELOW = [
    (name, (-1 if bound == "0" else 0) if kind == "or more" else int(bound))
    for bound, kind, names in knob_rules._RANGES
    for name in names.split()
]
SHARES = [(name, value) for name in knob_rules._SHARES.split() for value in (-0.1, 1.1)]


@pytest.mark.parametrize(("name", "value"), [*BELOW, *SHARES])
def test_a_value_just_out_of_its_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^algorithm\.{name} = {re.escape(repr(value))}: expected "):
        algorithm(**{name: value})


@pytest.mark.parametrize("low", ["cov_low", "correction_low", "rejection_low", "difficulty_low"])
def test_a_lower_bound_that_is_not_below_the_upper_one_is_refused(low):
    with pytest.raises(ValueError, match=rf"algorithm\.{low} = 0\.5: expected less than"):
        algorithm(**{low: 0.5, low.replace("low", "high"): 0.5})


def other_level(selector: str, readers: knob_rules.Readers) -> str:
    """A level under which nothing reads the knob."""
    return next(
        level for level in ("reinforce", *levels(selector)) if level in set(levels(selector)) - {*readers.levels}
    )


VALUES = {
    "dual_clip": 2.0,
    "dppo_by_sign": True,
    "critic_warmup": 1,
    "correction_level": "token",
    "rejection_level": "token",
    "kl_estimator": "k3",
}


@pytest.mark.parametrize("name", knob_rules.READERS)
def test_a_knob_that_nothing_reads_is_refused_with_who_would_read_it(name):
    readers = knob_rules.READERS[name]
    level = other_level(readers.selector, readers)
    named = (
        f"with algorithm.{readers.selector} = {level!r}: only {readers.selector} {', '.join(readers.levels)} reads it"
    )
    with pytest.raises(ValueError, match=re.escape(named)):
        algorithm(**{readers.selector: level, name: VALUES.get(name, 0.5)})


@pytest.mark.parametrize("name", [name for name, readers in knob_rules.READERS.items() if readers.required])
def test_a_knob_that_a_level_needs_must_have_a_value(name):
    readers = knob_rules.READERS[name]
    for level in readers.levels:
        with pytest.raises(ValueError, match=rf"algorithm\.{name} = None with .* = '{level}': expected a value"):
            algorithm(**{readers.selector: level, name: None})


GAP = {"old_logprobs": "trainer"}
KL = {"kl_placement": "loss", "kl_coefficient": 0.1}
CONTRADICTIONS = [
    {"overlong_buffer": 8, "overlong_penalty": None},
    {"overlong_penalty": 1.0},
    {"repetition_coefficient": 0.1},
    {"repetition_ngram": 3},
    {"reward_combination": "separate"},
    {"reward_combination": "separate", "format_coefficient": 0.1, "baseline": "critic"},
    {"reward_combination": "separate", "format_coefficient": 0.1, "baseline": "greedy"},
    {"scale": "group", "baseline": "critic"},
    {"batch_statistics": "source", "baseline": "running", "scale": "batch"},
    {"batch_statistics": "source", "baseline": "group", "scale": "nonzero_share"},
    {"discount": 0.9, "baseline": "optimal_token"},
    {**KL, "kl_placement": "reward", "baseline": "optimal_token"},
    {"baseline": "critic", "gae_lambda": 0.9, "gae_length_alpha": 0.1},
    {"ratio": "sequence", "surrogate": "gmpo"},
    {"surrogate": "dppo", "dppo_by_sign": False, "clip_low": 0.1, "clip_high": 0.2},
    {"drop_clipped": True},
    {**KL, "kl_importance": True, "ratio": "sequence"},
    {"positive_nll_coefficient": 0.1, "surrogate": "reinforce"},
    {"correction": "mask"},
    {"rejection": "k2"},
    {**GAP, "correction_normalize": "rows"},
    {"kl_placement": "reward"},
    {"kl_coefficient": 0.1},
    {**KL, "kl_estimator": "k1"},
    {**KL, "kl_estimator": "exact", "kl_importance": True},
    {**KL, "kl_placement": "reward", "kl_importance": True},
    {**KL, "surrogate": "reinforce", "kl_importance": True},
    {**KL, "kl_target": 0.1},
    {"entropy_step": 0.1},
    {"resample_rounds": 2},
]


@pytest.mark.parametrize("changes", CONTRADICTIONS, ids=str)
def test_a_contradiction_is_refused_with_both_knobs_and_what_was_expected(changes):
    with pytest.raises(ValueError, match=r"^algorithm\.\w+ = .* with algorithm\.\w+ = .*: ."):
        algorithm(**changes)


def test_every_contradiction_has_a_case(monkeypatch):
    seen = set()
    monkeypatch.setattr(knob_rules, "check_contradictions", lambda a: None)
    for changes in CONTRADICTIONS:
        seen |= {rule for rule, (found, *_) in enumerate(knob_rules._contradictions(algorithm(**changes))) if found}
    assert seen == set(range(len(list(knob_rules._contradictions(algorithm())))))
