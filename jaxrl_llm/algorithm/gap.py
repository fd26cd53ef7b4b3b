"""The gap between the policy that sampled and the trainer's view of it: weights for it, and rows too far from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_llm.algorithm.kl import KL_ESTIMATORS
from jaxrl_llm.algorithm.ratio import LOG_RATIO_CLAMP
from jaxrl_llm.core import diagnostics, masks, mismatch, ratios
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Mean, Metrics

CHANGED = 1e-3  # a weight nearer to 1 than this counts as unchanged: rounding moves every weight a little

CORRECTION_LEVELS: dict[str, Callable[[Array, Array], Array]] = {
    "token": lambda x, mask: x,
    "segment": mismatch.segment_means,
    "sequence": mismatch.sequence_sums,
    "geometric": mismatch.sequence_means,
}
REJECTION_LEVELS: dict[str, Callable[[Array, Array], Array]] = {
    "token": lambda x, mask: x,
    "sequence_sum": mismatch.sequence_sums,
    "sequence_mean": mismatch.sequence_means,
    "sequence_max": mismatch.sequence_largest,
}
NORMALIZATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "none": lambda weights, mask: weights,
    "tokens": mismatch.mean_one_over_tokens,
    "rows": mismatch.mean_one_over_rows,
}


class Gap(NamedTuple):
    """What the gap asks for.

    Attributes:
      weights: [B, T], without gradient, that multiply the policy loss of a token; None without a correction.
      mask: bool [B, T], what rejection leaves. A rejected token counts nowhere; one of weight 0 still counts in the
        denominator of the loss.
      metrics: how far the two are apart, and what was changed.
    """

    weights: Array | None
    mask: Array
    metrics: Metrics


def correct_gap(algorithm: Algorithm, old_logprobs: Array, sampler_logprobs: Array, mask: Array) -> Gap:
    """Importance weights exp(level of x), cut or masked at their bounds, and rejection; x = log π_old - log π_sampler.

    Args:
      old_logprobs: [B, T], the sampling policy scored by the trainer.
      sampler_logprobs: [B, T], as the sampler recorded them.
      mask: bool [B, T], tokens that keep a gradient after the filters.

    Reference: Yao et al., 2025, "Your efficient RL framework secretly brings you off-policy RL training" (truncated
    importance sampling); Ling team, 2025, arXiv 2510.18855 (masks).
    """
    a, mask = algorithm, mask.astype(bool)
    pair = jax.lax.stop_gradient((old_logprobs, sampler_logprobs))
    measured = diagnostics.policy_gap(*pair, mask, log_ratio_clamp=LOG_RATIO_CLAMP)
    metrics = {f"gap/{name}": Mean.of(value) for name, value in measured.items()}
    x = ratios.log_ratio(*pair, mask)
    weights = None
    if a.correction != "none":
        assert a.correction_level is not None
        weights, changed = _weights(a, CORRECTION_LEVELS[a.correction_level](x, mask), mask)
        metrics |= changed
    if a.rejection != "none":
        kept = _accepted(a, jnp.clip(x, -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP), mask)
        metrics["effect/rejection"] = Mean.of(~kept, mask)
        mask = mask & kept
    return Gap(weights, mask, metrics)


def _weights(a: Algorithm, log_weights: Array, mask: Array) -> tuple[Array, Metrics]:
    assert a.correction_high is not None
    free = mismatch.importance_weights(log_weights, log_ratio_clamp=LOG_RATIO_CLAMP)
    free = jnp.broadcast_to(free, mask.shape)
    bounds = {"low": a.correction_low, "high": a.correction_high}
    bound = {"truncate": mismatch.truncate_weights, "mask": mismatch.drop_weights}[a.correction]
    weights = NORMALIZATIONS[a.correction_normalize](bound(free, **bounds), mask)
    metrics = {
        "effect/correction": Mean.of(jnp.abs(weights - 1) > CHANGED, mask),
        "effect/correction_high": Mean.of(free > a.correction_high, mask),
    }
    if a.correction_low is not None:
        metrics["effect/correction_low"] = Mean.of(free < a.correction_low, mask)
    return masks.keep(weights, mask), metrics


def _accepted(a: Algorithm, x: Array, mask: Array) -> Array:
    """bool [B, T]: low ≤ statistic ≤ high, the statistic an estimate of KL(sampler ‖ trainer) at the level."""
    assert a.rejection_level is not None
    estimate = KL_ESTIMATORS[a.rejection](jnp.zeros_like(x), x)  # log sampler - log trainer is -x
    statistic = REJECTION_LEVELS[a.rejection_level](estimate, mask)
    inside = mismatch.within(statistic, low=a.rejection_low, high=a.rejection_high)
    return jnp.broadcast_to(inside, mask.shape)
