"""Policy losses at each token, before aggregation. All arrays are [B, T]; masking and weighing is the caller's.

The comparisons are written with ``where``, not ``maximum``: at ratio 1, where both terms are equal, the gradient is
that of the unclipped term, whatever the bounds.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxrl_llm.core.masks import keep, masked_mean, masked_sum
from jaxrl_llm.types import Array


def reinforce(logprobs: Array, advantages: Array) -> Array:
    """-A log π(o_t). Reference: Williams, 1992."""
    return -advantages * logprobs


def ppo_clip(ratio: Array, advantages: Array, *, clip_low: float, clip_high: float, cap: float | None = None) -> Array:
    """max(-A ρ, -A clip(ρ, 1 - clip_low, 1 + clip_high)).

    The clip is one-sided: it takes the gradient away where A > 0 and ρ > 1 + clip_high, or A < 0 and ρ < 1 - clip_low.

    Args:
      ratio: ρ, of a token or of its sequence.
      cap: the unclipped ρ becomes min(ρ, cap), without gradient beyond; None: it is not capped. It bounds the loss
        where A < 0, as :func:`dual_clip` does.

    Reference: Schulman et al., 2017, arXiv 1707.06347, eq. 7; two bounds: Yu et al., 2025, arXiv 2503.14476 (DAPO),
    eq. 10.
    """
    unclipped = -advantages * (ratio if cap is None else jnp.where(ratio > cap, cap, ratio))
    clipped = -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    return jnp.where(clipped > unclipped, clipped, unclipped)


def dual_clip(loss: Array, advantages: Array, *, bound: float) -> Array:
    """min(loss, -bound · A) where A < 0, else the loss: a second bound against a huge ratio with a bad token.

    Reference: Ye et al., 2020, arXiv 1912.09729, eq. 5.
    """
    limit = -bound * advantages
    return jnp.where((advantages < 0) & (limit < loss), limit, loss)


def weighted_reinforce(
    logprobs: Array, ratio: Array, advantages: Array, *, ratio_min: float | None, ratio_max: float | None
) -> Array:
    """-sg(clip(ρ, ratio_min, ratio_max)) A log π(o_t): the ratio weighs, and carries no gradient.

    With bounds about 1 it is CISPO; with bounds 0 and a maximum it is truncated importance sampling. None leaves a
    side open.

    Reference: MiniMax, 2025, arXiv 2506.13585 (CISPO), eq. 4.
    """
    weight = jax.lax.stop_gradient(jnp.clip(ratio, ratio_min, ratio_max))
    return -weight * advantages * logprobs


def ratio_left(ratio: Array, advantages: Array, *, ratio_min: float | None, ratio_max: float | None) -> Array:
    """bool: A > 0 and ρ > ratio_max, or A < 0 and ρ < ratio_min, as PPO's clip would bind; None leaves a side open."""
    above = jnp.zeros_like(ratio, bool) if ratio_max is None else (advantages > 0) & (ratio > ratio_max)
    below = jnp.zeros_like(ratio, bool) if ratio_min is None else (advantages < 0) & (ratio < ratio_min)
    return above | below


def topr(
    logprobs: Array,
    ratio: Array,
    advantages: Array,
    positive: Array,
    *,
    positive_weight: float,
    negative_weight: float,
) -> Array:
    """-positive_weight A log π(o_t) in good rows, -negative_weight sg(clip(ρ, 0, 1)) A log π(o_t) in the others.

    Args:
      positive: bool [B, T], True at the tokens of rows whose score is above 0.

    Reference: Le Roux et al., 2025, arXiv 2503.14286 (TOPR), eq. 8, with the ratio of a token as ROLL computes it.
    """
    bad = weighted_reinforce(logprobs, ratio, advantages, ratio_min=0.0, ratio_max=1.0)
    return jnp.where(positive, positive_weight * reinforce(logprobs, advantages), negative_weight * bad)


def squared_log_ratio(logprobs: Array, log_ratios: Array, advantages: Array, *, tau: float) -> Array:
    """-A log π(o_t) + τ / 2 d²: REINFORCE held near the policy that sampled. The gradient flows through d too.

    Reference: Kimi team, 2025, arXiv 2501.12599 (Kimi k1.5), section 2.3.2, per token as ROLL computes it.
    """
    return reinforce(logprobs, advantages) + tau / 2 * jnp.square(log_ratios)


def vespo(
    logprobs: Array,
    log_ratios: Array,
    advantages: Array,
    mask: Array,
    *,
    k_positive: float,
    lambda_positive: float,
    k_negative: float,
    lambda_negative: float,
) -> Array:
    """-sg(φ(w)) A log π(o_t) with φ(w) = wᵏ exp(λ (1 - w)) of the ratio w of the whole sequence; φ(1) = 1.

    w_i = exp(clip(Σ_t clip(d_t, ±20), log 1e-8, 20)) over row i's tokens; k and λ by the sign of A, 0 counts as
    positive.

    Args:
      log_ratios: d, [B, T].
      mask: bool [B, T].
      k_positive, lambda_positive: where A ≥ 0.
      k_negative, lambda_negative: where A < 0.

    Reference: Shen et al., 2026, arXiv 2602.10693 (VESPO), as TRL computes it.
    """
    held = jnp.clip(log_ratios, -20, 20)
    log_weight = jnp.clip(masked_sum(held, mask, axis=1, keepdims=True), math.log(1e-8), 20)
    k = jnp.where(advantages >= 0, k_positive, k_negative)
    rate = jnp.where(advantages >= 0, lambda_positive, lambda_negative)
    kernel = jnp.exp(rate + k * log_weight - rate * jnp.exp(log_weight))
    return -jax.lax.stop_gradient(kernel) * advantages * logprobs


def probability_mask(
    logprobs: Array, old_logprobs: Array, advantages: Array, *, low: float, high: float, by_sign: bool
) -> Array:
    """bool [B, T], the tokens kept: a trust region on p = π(o_t) - π_old(o_t) in place of one on the ratio.

    Args:
      low, high: above 0, in probability.
      by_sign: dropped where A > 0 and p > high, or A ≤ 0 and p < -low, as PPO's clip would bind; else where
        |p| > high, whatever the advantage.

    Reference: Qi et al., 2026, arXiv 2602.04879 (DPPO), the binary approximation of total variation.
    """
    difference = jnp.exp(logprobs) - jnp.exp(old_logprobs)
    if not by_sign:
        return jnp.abs(difference) <= high
    return jnp.where(advantages > 0, difference <= high, difference >= -low)


def soft_gate(ratio: Array, advantages: Array, *, temperature_positive: float, temperature_negative: float) -> Array:
    """-A (4 / τ) sigmoid(τ (ρ - 1)), τ by the sign of A: a gradient that fades with distance from ρ = 1.

    Reference: Gao et al., 2025, arXiv 2511.20347 (SAPO), eqs. 5-6.
    """
    temperature = jnp.where(advantages > 0, temperature_positive, temperature_negative)
    return -advantages * (4 / temperature) * jax.nn.sigmoid(temperature * (ratio - 1))


def geometric_mean_loss(
    log_ratios: Array, advantages: Array, mask: Array, *, log_clip_low: float, log_clip_high: float
) -> Array:
    """-(mean of A) exp(mean of σ min(σ d, σ clip(d, -log_clip_low, log_clip_high))) of each row, [B]; σ = sign(A).

    A row without tokens gives 0.

    Reference: Zhao et al., 2025, arXiv 2507.20673 (GMPO), eq. 4.
    """
    sign = jnp.sign(advantages)
    clipped = jnp.clip(log_ratios, -log_clip_low, log_clip_high)
    bounded = jnp.where(sign * clipped < sign * log_ratios, clipped, log_ratios)
    bounded = jnp.where(sign == 0, 0, bounded)
    return -masked_mean(advantages, mask, axis=1) * jnp.exp(masked_mean(keep(bounded, mask), mask, axis=1))


def value_loss(values: Array, old_values: Array, returns: Array, *, clip: float | None) -> Array:
    """(V - G)², or max((V - G)², (clip(V, V_old ± clip) - G)²), [B, T].

    Args:
      values: V, of the critic that learns.
      old_values: V_old, as it was when the advantages were computed.
      returns: G.
      clip: None: the plain square.

    Reference: Schulman et al., 2017, PPO, as in the baselines code (Huang et al., 2022, detail 9).
    """
    squares = jnp.square(values - returns)
    if clip is None:
        return squares
    clipped = jnp.square(jnp.clip(values, old_values - clip, old_values + clip) - returns)
    return jnp.where(clipped > squares, clipped, squares)
