"""Numbers that say what a step did: where the clip bound, how far the policies are apart."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.types import Array, Mean, Metrics


def clip_fractions(ratio: Array, advantages: Array, mask: Array, *, clip_low: float, clip_high: float) -> Metrics:
    """Shares of the mask's tokens whose ratio left [1 - clip_low, 1 + clip_high].

    `clip_fraction_low` and `clip_fraction_high` count tokens that lost their gradient: below the interval with A < 0,
    above it with A > 0. `outside_low` and `outside_high` ignore the sign of A, as arXiv 2508.08221 and ROLL count.
    """
    below = ratio < 1 - clip_low
    above = ratio > 1 + clip_high
    return {
        "clip_fraction_low": Mean.of(below & (advantages < 0), mask),
        "clip_fraction_high": Mean.of(above & (advantages > 0), mask),
        "outside_low": Mean.of(below, mask),
        "outside_high": Mean.of(above, mask),
    }


def dual_clip_fraction(loss: Array, advantages: Array, mask: Array, *, bound: float) -> Mean:
    """Share of the mask's tokens with A < 0 whose ``loss``, before the dual clip, is above bound · |A|."""
    return Mean.of((advantages < 0) & (loss > -bound * advantages), mask)


def kl_of_sampler(log_ratios: Array, mask: Array) -> Mean:
    """Mean over tokens of e^x - x - 1, x = log π(o_t) - log π_sampler(o_t): an estimate of KL(sampler ‖ policy).

    Never negative, and 0 when sampler and policy agree at every token.
    """
    return Mean.of(jnp.expm1(log_ratios) - log_ratios, mask)
