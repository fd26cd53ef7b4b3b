"""The knobs of an algorithm: their names, the values they take, and what contradicts what.

What may stand together is in ``knob_rules``.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Literal, Union, get_args, get_origin, get_type_hints

from jaxrl_llm import knob_rules


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """The knobs; each stands with its unit, default and comment in ``configs/base.py``.

    Raises:
      ValueError: a value is out of its range, or two knobs contradict each other.
    """

    # what is added to the reward
    format_coefficient: float
    overlong_buffer: int
    overlong_penalty: float | None
    length_penalty: Literal["none", "linear", "group_relative", "cosine"]
    length_coefficient: float | None
    repetition_coefficient: float
    repetition_ngram: int | None
    reward_combination: Literal["sum", "separate"]
    # from rewards to advantages
    baseline: Literal[
        "none",
        "group",
        "batch",
        "leave_one_out",
        "running",
        "length_weighted",
        "pass_at_k",
        "greedy",
        "optimal_token",
        "critic",
    ]
    scale: Literal["none", "group", "batch", "batch_centered", "running", "nonzero_share"]
    scale_ddof: int
    scale_epsilon: float
    batch_statistics: Literal["step", "source"]
    reward_clip: float | None
    discount: float
    gae_lambda: float | None
    gae_lambda_returns: float | None
    gae_length_alpha: float | None
    whiten: bool
    advantage_clip: float | None
    # the policy loss of a token
    surrogate: Literal[
        "ppo_clip",
        "reinforce",
        "cispo",
        "sapo",
        "gmpo",
        "topr",
        "kimi",
        "vespo",
        "dppo",
        "clip_cov",
        "kl_cov",
    ]
    ratio: Literal["token", "sequence", "sequence_token", "sequence_product"]
    clip_low: float | None
    clip_high: float | None
    dual_clip: float | None
    ratio_cap: float | None
    drop_clipped: bool
    sapo_temperature_positive: float | None
    sapo_temperature_negative: float | None
    topr_weight_positive: float | None
    topr_weight_negative: float | None
    square_coefficient: float | None
    vespo_k_positive: float | None
    vespo_lambda_positive: float | None
    vespo_k_negative: float | None
    vespo_lambda_negative: float | None
    dppo_by_sign: bool | None
    cov_low: float | None
    cov_high: float | None
    cov_share: float | None
    kl_cov_coefficient: float | None
    old_logprobs: Literal["sampler", "trainer"]
    top_entropy_share: float | None
    bad_row_threshold: float | None
    positive_nll_coefficient: float
    # the gap between sampler and trainer
    correction: Literal["none", "truncate", "mask"]
    correction_level: Literal["token", "segment", "sequence", "geometric"] | None
    correction_low: float | None
    correction_high: float | None
    correction_normalize: Literal["none", "tokens", "rows"]
    rejection: Literal["none", "k1", "k2", "k3"]
    rejection_level: Literal["token", "sequence_sum", "sequence_mean", "sequence_max"] | None
    rejection_low: float | None
    rejection_high: float | None
    # distance to the reference, and entropy
    kl_placement: Literal["none", "loss", "reward"]
    kl_estimator: Literal["k1", "k2", "k3", "absolute", "exact"] | None
    kl_coefficient: float
    kl_importance: bool
    kl_target: float | None
    kl_horizon: int | None
    entropy_coefficient: float
    entropy_target: float | None
    entropy_step: float | None
    # the critic
    critic_learning_rate: float | None
    critic_warmup: int | None
    value_clip: float | None
    # what counts, and how much
    aggregation: Literal["token_mean", "sequence_mean", "prompt_mean", "sequence_sum", "constant"]
    aggregation_constant: float | None
    overlong_filter: bool
    group_filter: Literal["none", "zero_variance", "difficulty"]
    difficulty_low: float | None
    difficulty_high: float | None
    resample_rounds: int

    def __post_init__(self) -> None:
        _check_levels(self)
        knob_rules.check_ranges(self)
        knob_rules.check_readers(self)
        knob_rules.check_contradictions(self)


@functools.cache  # the annotations are text, and evaluating all of them for each knob of each algorithm takes a while
def levels(name: str) -> tuple[str, ...]:
    """The values that a knob of named levels takes, without None; () for any other knob."""
    hint = get_type_hints(Algorithm)[name]
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(level for arm in arms if get_origin(arm) is Literal for level in get_args(arm))


def _check_levels(a: Algorithm) -> None:
    for field in dataclasses.fields(a):
        value, options = getattr(a, field.name), levels(field.name)
        if options and value is not None and value not in options:
            raise ValueError(f"algorithm.{field.name} = {value!r}: expected one of {', '.join(options)}")


def check(algorithm: Algorithm, *, samples_per_prompt: int, max_tokens: int) -> None:
    """Refuses knobs that contradict the size of a group or of a completion.

    Args:
      samples_per_prompt: completions of a prompt, G.
      max_tokens: the limit of a completion, in tokens.

    Raises:
      ValueError: names the key, its value and what was expected.
    """
    of_a_group = ("group", "leave_one_out", "length_weighted", "pass_at_k", "optimal_token")
    expected = {
        "baseline": 2 if algorithm.baseline in of_a_group else 1,
        "scale": {"group": max(2, algorithm.scale_ddof + 1), "batch_centered": 2}.get(algorithm.scale, 1),
        "group_filter": 2 if algorithm.group_filter == "zero_variance" else 1,
        "length_penalty": 2 if algorithm.length_penalty == "group_relative" else 1,
    }
    for name, least in expected.items():
        if samples_per_prompt < least:
            raise ValueError(
                f"algorithm.{name} = {getattr(algorithm, name)!r} with data.samples_per_prompt = {samples_per_prompt}: "
                f"expected at least {least} samples of a prompt (scale_ddof = {algorithm.scale_ddof}), or nothing is "
                "left to learn from"
            )
    if algorithm.overlong_buffer > max_tokens:
        raise ValueError(
            f"algorithm.overlong_buffer = {algorithm.overlong_buffer} with sampling.max_tokens = {max_tokens}: "
            "expected a buffer that fits into a completion"
        )
