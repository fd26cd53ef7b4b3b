from __future__ import annotations

import dataclasses
import re

import pytest

from configs.base import get_config
from jaxrl_llm.algorithm import Algorithm, check
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
        ({"overlong_buffer": 8, "overlong_penalty": 0.0}, "overlong_buffer = 8 with algorithm.overlong_penalty = 0.0"),
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
        ({"overlong_buffer": 65}, 8, 64, "algorithm.overlong_buffer = 65 with sampling.max_tokens = 64"),
    ],
)
def test_knobs_that_do_not_fit_the_group_or_the_completion_are_an_error(changes, samples, max_tokens, named: str):
    with pytest.raises(ValueError, match=re.escape(named)):
        check(algorithm(**changes), samples_per_prompt=samples, max_tokens=max_tokens)


def test_knobs_that_fit_pass():
    check(algorithm(), samples_per_prompt=1, max_tokens=1)
    full = {"baseline": "group", "scale": "group", "group_filter": "zero_variance", "overlong_buffer": 64}
    check(algorithm(**full), samples_per_prompt=2, max_tokens=64)
