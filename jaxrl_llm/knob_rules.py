"""Which knobs of an algorithm may stand together: who reads them, their ranges, and what contradicts what.

A knob that only some levels of another knob read is None wherever nothing reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxrl_llm.knobs import Algorithm


class Readers(NamedTuple):
    """Which levels of ``selector`` read a knob.

    Attributes:
      required: the knob must have a value there; else None is its way of being off.
    """

    selector: str
    levels: tuple[str, ...]
    required: bool = True


def _if(selector: str, *names: str, required: bool = True) -> Readers:
    return Readers(selector, names, required)


# Knobs that are None where nothing reads them.
READERS: dict[str, Readers] = {
    "length_coefficient": _if("length_penalty", "linear", "group_relative", "cosine"),
    "gae_lambda": _if("baseline", "critic", required=False),
    "gae_lambda_returns": _if("baseline", "critic"),
    "gae_length_alpha": _if("baseline", "critic", required=False),
    "critic_learning_rate": _if("baseline", "critic"),
    "critic_warmup": _if("baseline", "critic"),
    "value_clip": _if("baseline", "critic", required=False),
    "clip_low": _if("surrogate", "ppo_clip", "cispo", "gmpo", "dppo", "clip_cov"),
    "clip_high": _if("surrogate", "ppo_clip", "cispo", "gmpo", "dppo", "clip_cov"),
    "dual_clip": _if("surrogate", "ppo_clip", required=False),
    "ratio_cap": _if("surrogate", "ppo_clip", required=False),
    "sapo_temperature_positive": _if("surrogate", "sapo"),
    "sapo_temperature_negative": _if("surrogate", "sapo"),
    "topr_weight_positive": _if("surrogate", "topr"),
    "topr_weight_negative": _if("surrogate", "topr"),
    "square_coefficient": _if("surrogate", "kimi", "dppo"),
    "vespo_k_positive": _if("surrogate", "vespo"),
    "vespo_lambda_positive": _if("surrogate", "vespo"),
    "vespo_k_negative": _if("surrogate", "vespo"),
    "vespo_lambda_negative": _if("surrogate", "vespo"),
    "dppo_by_sign": _if("surrogate", "dppo"),
    "cov_low": _if("surrogate", "clip_cov"),
    "cov_high": _if("surrogate", "clip_cov"),
    "cov_share": _if("surrogate", "clip_cov", "kl_cov"),
    "kl_cov_coefficient": _if("surrogate", "kl_cov"),
    "correction_level": _if("correction", "truncate", "mask"),
    "correction_low": _if("correction", "truncate", "mask", required=False),
    "correction_high": _if("correction", "truncate", "mask"),
    "rejection_level": _if("rejection", "k1", "k2", "k3"),
    "rejection_low": _if("rejection", "k1", "k2", "k3", required=False),
    "rejection_high": _if("rejection", "k1", "k2", "k3"),
    "kl_estimator": _if("kl_placement", "loss", "reward"),
    "kl_target": _if("kl_placement", "loss", "reward", required=False),
    "aggregation_constant": _if("aggregation", "constant", required=False),
    "difficulty_low": _if("group_filter", "difficulty"),
    "difficulty_high": _if("group_filter", "difficulty"),
}

# Surrogates that read the level of the ratio; the others work on the token's own log-ratio, or on none.
READ_RATIO = ("ppo_clip", "cispo", "sapo", "topr", "clip_cov")
# Surrogates without any ratio: nothing to clip, nothing that an old policy could change.
WITHOUT_RATIO = ("reinforce",)
# Baselines that have an advantage for each token; a scale for rows has nothing to divide there.
OF_TOKENS = ("optimal_token", "critic")


_RANGES: tuple[tuple[str, str, str], ...] = (  # lowest, its kind, knobs; None passes
    (
        "0",
        "or more",
        "format_coefficient overlong_buffer repetition_coefficient scale_ddof scale_epsilon clip_low clip_high "
        "square_coefficient kl_cov_coefficient cov_low positive_nll_coefficient kl_coefficient "
        "critic_warmup correction_low rejection_high",
    ),
    (
        "0",
        "above",
        "overlong_penalty length_coefficient reward_clip advantage_clip sapo_temperature_positive "
        "sapo_temperature_negative ratio_cap correction_high kl_target entropy_target entropy_step "
        "critic_learning_rate value_clip aggregation_constant gae_length_alpha",
    ),
    ("1", "or more", "repetition_ngram kl_horizon resample_rounds"),
    ("1", "above", "dual_clip"),
)
_SHARES = "discount gae_lambda gae_lambda_returns cov_share top_entropy_share"


def check_ranges(a: Algorithm) -> None:
    def refuse(name: str, expected: str) -> None:
        raise ValueError(f"algorithm.{name} = {getattr(a, name)!r}: expected {expected}")

    for bound, kind, names in _RANGES:
        for name in names.split():
            value = getattr(a, name)
            if value is not None and not (value > float(bound) or (kind == "or more" and value == float(bound))):
                refuse(name, f"{bound} {kind}" if kind == "or more" else f"{kind} {bound}")
    for name in _SHARES.split():
        value = getattr(a, name)
        lowest_is_fine = name.startswith("gae") and value == 0
        if value is not None and not (0 < value <= 1 or lowest_is_fine):
            refuse(name, "above 0 and at most 1")
    if a.top_entropy_share == 1:
        refuse("top_entropy_share", "below 1, or None: a share of 1 keeps every token")
    if a.surrogate in ("ppo_clip", "cispo", "clip_cov") and a.clip_low is not None and a.clip_low > 1:
        refuse("clip_low", "between 0 and 1: the ratio is never below 0")
    for low, high in (
        ("cov_low", "cov_high"),
        ("correction_low", "correction_high"),
        ("rejection_low", "rejection_high"),
        ("difficulty_low", "difficulty_high"),
    ):
        bottom, top = getattr(a, low), getattr(a, high)
        if bottom is not None and top is not None and bottom >= top:
            refuse(low, f"less than algorithm.{high} = {top!r}")


def check_readers(a: Algorithm) -> None:
    """A knob that nothing reads is None, and one that is needed is not."""
    for name, readers in READERS.items():
        value, level = getattr(a, name), getattr(a, readers.selector)
        pair = f"algorithm.{name} = {value!r} with algorithm.{readers.selector} = {level!r}"
        if level not in readers.levels and value is not None:
            names = ", ".join(readers.levels)
            raise ValueError(f"{pair}: only {readers.selector} {names} reads it; expected algorithm.{name} = None")
        if level in readers.levels and readers.required and value is None:
            raise ValueError(f"{pair}: expected a value")


def check_contradictions(a: Algorithm) -> None:
    for found, one, other, why in _contradictions(a):
        if found:
            values = f"algorithm.{one} = {getattr(a, one)!r} with algorithm.{other} = {getattr(a, other)!r}"
            raise ValueError(f"{values}: {why}")


def _contradictions(a: Algorithm) -> Iterable[tuple[bool, str, str, str]]:
    """(whether it is so, knob, knob, what was expected instead)."""
    placed, in_loss = a.kl_placement != "none", a.kl_placement == "loss"
    sequence = a.ratio in ("sequence", "sequence_product")
    return (
        (a.overlong_buffer > 0 and a.overlong_penalty is None, "overlong_penalty", "overlong_buffer",
         "expected the size of the penalty at the limit, or no buffer"),
        (a.overlong_buffer == 0 and a.overlong_penalty is not None, "overlong_penalty", "overlong_buffer",
         "expected algorithm.overlong_penalty = None: nothing is penalized"),
        (a.repetition_coefficient > 0 and a.repetition_ngram is None, "repetition_ngram", "repetition_coefficient",
         "expected the length of the n-grams, in tokens"),
        (a.repetition_coefficient == 0 and a.repetition_ngram is not None, "repetition_ngram", "repetition_coefficient",
         "expected algorithm.repetition_ngram = None: nothing counts n-grams"),
        (a.reward_combination == "separate" and not _has_several_rewards(a), "reward_combination", "format_coefficient",
         "expected a second reward: format, overlong, length or repetition"),
        (a.reward_combination == "separate" and a.baseline in OF_TOKENS, "reward_combination", "baseline",
         "expected a baseline of rows: each reward is normalized by itself"),
        (a.reward_combination == "separate" and (a.baseline == "greedy" or "running" in (a.baseline, a.scale)),
         "reward_combination", "baseline", "expected sum: greedy rewards and running moments are those of the sum"),
        (a.scale != "none" and a.baseline in OF_TOKENS, "scale", "baseline",
         "expected scale none: this baseline leaves one number a token; whiten divides those"),
        (a.batch_statistics == "source" and "running" in (a.baseline, a.scale), "batch_statistics", "baseline",
         "expected step: running moments are those of all rows"),
        (a.batch_statistics == "source" and a.baseline != "batch" and not a.scale.startswith("batch"),
         "batch_statistics", "scale", "expected baseline batch or a scale of the batch, which alone read it"),
        (a.discount != 1 and a.baseline == "optimal_token", "discount", "baseline",
         "expected 1: the optimal token baseline is of undiscounted returns"),
        (placed and a.kl_placement == "reward" and a.baseline == "optimal_token", "kl_placement", "baseline",
         "expected the KL in the loss"),
        (a.baseline == "critic" and (a.gae_lambda is None) == (a.gae_length_alpha is None), "gae_lambda",
         "gae_length_alpha", "expected one of them: a fixed λ, or 1 - 1 / (alpha · length)"),
        (a.ratio != "token" and a.surrogate not in READ_RATIO, "ratio", "surrogate",
         f"expected token; only {', '.join(READ_RATIO)} read its level"),
        (a.surrogate == "dppo" and a.dppo_by_sign is False and a.clip_low != a.clip_high, "clip_low", "clip_high",
         "expected one number: with algorithm.dppo_by_sign = False the bound is the same on both sides"),
        (a.drop_clipped and a.surrogate != "cispo", "drop_clipped", "surrogate", "only cispo reads it"),
        (sequence and a.kl_importance, "kl_importance", "ratio", "expected a ratio of its own for each token"),
        (a.positive_nll_coefficient > 0 and a.surrogate == "reinforce" and a.baseline == "none",
         "positive_nll_coefficient", "surrogate", "expected another: with no baseline it is the loss itself"),
        (a.correction != "none" and a.old_logprobs == "sampler", "correction", "old_logprobs",
         "expected trainer: against the sampler's own log-probabilities there is no gap to correct"),
        (a.rejection != "none" and a.old_logprobs == "sampler", "rejection", "old_logprobs",
         "expected trainer: against the sampler's own log-probabilities there is no gap to reject by"),
        (a.correction == "none" and a.correction_normalize != "none", "correction_normalize", "correction",
         "expected none: there are no weights to normalize"),
        (placed and a.kl_coefficient == 0, "kl_placement", "kl_coefficient", "expected a coefficient above 0"),
        (not placed and a.kl_coefficient > 0, "kl_coefficient", "kl_placement", "expected a place: loss or reward"),
        (in_loss and a.kl_estimator == "k1" and not a.kl_importance, "kl_placement", "kl_estimator",
         "the gradient of k1 is 0 on average; expected k2, k3 or exact, or kl_importance"),
        (in_loss and a.kl_estimator == "exact" and a.kl_importance, "kl_importance", "kl_estimator",
         "expected an estimate from the sampled token: the exact KL has no sampling to correct"),
        (a.kl_importance and not in_loss, "kl_importance", "kl_placement", "expected loss, where alone it is read"),
        (a.kl_importance and a.surrogate in WITHOUT_RATIO, "kl_importance", "surrogate", "it has no ratio"),
        ((a.kl_target is None) != (a.kl_horizon is None), "kl_target", "kl_horizon", "expected both, or neither"),
        ((a.entropy_target is None) != (a.entropy_step is None), "entropy_target", "entropy_step",
         "expected both, or neither"),
        (a.resample_rounds > 1 and a.group_filter == "none", "resample_rounds", "group_filter",
         "expected a filter: without it no group is ever replaced"),
    )  # fmt: skip


def _has_several_rewards(a: Algorithm) -> bool:
    return (
        a.format_coefficient > 0 or a.overlong_buffer > 0 or a.length_penalty != "none" or a.repetition_coefficient > 0
    )
