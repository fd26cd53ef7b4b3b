"""The knobs of an algorithm: their names, the values they take, and what contradicts what."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args, get_type_hints


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """The knobs; each stands with its unit, default and comment in ``configs/base.py``.

    Raises:
      ValueError: a value is out of its range, or two knobs contradict each other.
    """

    baseline: Literal["none", "group", "batch", "leave_one_out"]
    scale: Literal["none", "group", "batch", "batch_centered"]
    scale_ddof: int
    scale_epsilon: float
    whiten: bool
    advantage_clip: float | None
    surrogate: Literal["ppo_clip", "reinforce"]
    ratio: Literal["token", "sequence"]
    clip_low: float
    clip_high: float
    dual_clip: float | None
    old_logprobs: Literal["sampler", "trainer"]
    kl_placement: Literal["none", "loss", "reward"]
    kl_estimator: Literal["k1", "k2", "k3"]
    kl_coefficient: float
    entropy_coefficient: float
    aggregation: Literal["token_mean", "sequence_mean", "prompt_mean", "sequence_sum", "constant"]
    aggregation_constant: float | None
    overlong_filter: bool
    overlong_buffer: int
    overlong_penalty: float
    group_filter: Literal["none", "zero_variance"]
    resample_rounds: int

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            options = get_args(hint)
            value = getattr(self, name)
            if options and all(isinstance(option, str) for option in options) and value not in options:
                raise ValueError(f"algorithm.{name} = {value!r}: expected one of {', '.join(options)}")
        _check_ranges(self)
        _check_contradictions(self)


def _check_ranges(a: Algorithm) -> None:
    ranges = {
        "scale_ddof": (a.scale_ddof >= 0, "0 or more"),
        "scale_epsilon": (a.scale_epsilon >= 0, "0 or more"),
        "advantage_clip": (a.advantage_clip is None or a.advantage_clip > 0, "a number above 0, or None"),
        "clip_low": (0 <= a.clip_low <= 1, "between 0 and 1"),
        "clip_high": (a.clip_high >= 0, "0 or more"),
        "dual_clip": (a.dual_clip is None or a.dual_clip > 1, "a number above 1, or None"),
        "kl_coefficient": (a.kl_coefficient >= 0, "0 or more"),
        "aggregation_constant": (a.aggregation_constant is None or a.aggregation_constant > 0, "above 0, or None"),
        "overlong_buffer": (a.overlong_buffer >= 0, "tokens, 0 or more"),
        "overlong_penalty": (a.overlong_penalty >= 0, "0 or more (it is taken from the reward)"),
        "resample_rounds": (a.resample_rounds >= 1, "1 or more"),
    }
    for name, (holds, expected) in ranges.items():
        if not holds:
            raise ValueError(f"algorithm.{name} = {getattr(a, name)!r}: expected {expected}")


def _check_contradictions(a: Algorithm) -> None:
    def refuse(found: bool, one: str, other: str, why: str) -> None:
        if found:
            values = f"algorithm.{one} = {getattr(a, one)!r} with algorithm.{other} = {getattr(a, other)!r}"
            raise ValueError(f"{values}: {why}")

    placed, reinforce = a.kl_placement != "none", a.surrogate == "reinforce"
    k1_loss = a.kl_placement == "loss" and a.kl_estimator == "k1"
    constant = a.aggregation_constant is not None and a.aggregation != "constant"
    refuse(placed and a.kl_coefficient == 0, "kl_placement", "kl_coefficient", "expected a coefficient above 0")
    refuse(not placed and a.kl_coefficient > 0, "kl_coefficient", "kl_placement", "expected a place: loss or reward")
    refuse(k1_loss, "kl_placement", "kl_estimator", "the gradient of k1 is 0 on average; expected k2 or k3")
    refuse(constant, "aggregation_constant", "aggregation", "expected aggregation 'constant', which alone reads it")
    refuse(reinforce and a.dual_clip is not None, "dual_clip", "surrogate", "-A log p has no ratio to clip")
    refuse(reinforce and a.ratio != "token", "ratio", "surrogate", "-A log p has no ratio")
    no_penalty = a.overlong_buffer > 0 and a.overlong_penalty == 0
    refuse(no_penalty, "overlong_buffer", "overlong_penalty", "expected a penalty above 0, or no buffer")
    no_filter = a.resample_rounds > 1 and a.group_filter == "none"
    refuse(no_filter, "resample_rounds", "group_filter", "expected a filter: without it no group is ever replaced")


def check(algorithm: Algorithm, *, samples_per_prompt: int, max_tokens: int) -> None:
    """Refuses knobs that contradict the size of a group or of a completion.

    Args:
      samples_per_prompt: completions of a prompt, G.
      max_tokens: the limit of a completion, in tokens.

    Raises:
      ValueError: names the key, its value and what was expected.
    """
    expected = {
        "baseline": 2 if algorithm.baseline in ("group", "leave_one_out") else 1,
        "scale": {"group": max(2, algorithm.scale_ddof + 1), "batch_centered": 2}.get(algorithm.scale, 1),
        "group_filter": 1 if algorithm.group_filter == "none" else 2,
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
