"""Weights and masks for tokens whose sampler was not quite the policy that the trainer takes it for.

x_t = log π_train(o_t) - log π_sampler(o_t), [B, T]; everything here is used without gradient.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.core.masks import count, divide, keep, masked_mean, masked_sum
from jaxrl_llm.core.returns import backward_sums
from jaxrl_llm.types import Array


def probability_differences(train_logprobs: Array, sampler_logprobs: Array, mask: Array) -> Array:
    """π_train(o_t) - π_sampler(o_t), [B, T]; 0 off the mask. Unlike a ratio it hardly sees an improbable token."""
    return jnp.exp(keep(train_logprobs, mask)) - jnp.exp(keep(sampler_logprobs, mask))


def sequence_sums(x: Array, mask: Array) -> Array:
    """[B, 1]: the sum over the row's tokens; 0 in a row without tokens."""
    return masked_sum(x, mask, axis=1, keepdims=True)


def sequence_means(x: Array, mask: Array) -> Array:
    """[B, 1]: the mean over the row's tokens; 0 in a row without tokens."""
    return masked_mean(x, mask, axis=1, keepdims=True)


def sequence_largest(x: Array, mask: Array) -> Array:
    """[B, 1]: the largest of the row's tokens; -inf in a row without tokens."""
    return jnp.max(jnp.where(mask, x, -jnp.inf), axis=1, keepdims=True)


def segment_means(x: Array, mask: Array) -> Array:
    """[B, T]: the mean over each unbroken run of tokens of the mask; 0 off the mask."""
    mask = mask.astype(bool)

    def run_sums(values: Array) -> Array:
        values = keep(values, mask)
        goes_on = jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1)
        came_from = jnp.concatenate([jnp.zeros_like(mask[:, :1]), mask[:, :-1]], axis=1)
        ahead = backward_sums(values, goes_on.astype(values.dtype))
        behind = backward_sums(values[:, ::-1], came_from[:, ::-1].astype(values.dtype))[:, ::-1]
        return ahead + behind - values

    return keep(divide(run_sums(x), run_sums(jnp.ones_like(x))), mask)


def importance_weights(log_weights: Array, *, log_ratio_clamp: float | None = None) -> Array:
    """exp(log_weights), the exponent held within ±log_ratio_clamp nats (None: not held).

    Args:
      log_weights: x itself for a weight a token; its sums or means over rows or runs for a weight they share.
    """
    if log_ratio_clamp is not None:
        log_weights = jnp.clip(log_weights, -log_ratio_clamp, log_ratio_clamp)
    return jnp.exp(log_weights)


def within(values: Array, *, low: float | None, high: float | None) -> Array:
    """bool: low ≤ value ≤ high; None leaves a side open."""
    inside = jnp.ones_like(values, bool)
    if low is not None:
        inside = inside & (values >= low)
    if high is not None:
        inside = inside & (values <= high)
    return inside


def truncate_weights(weights: Array, *, low: float | None, high: float | None) -> Array:
    """clip(w, low, high) (truncated importance sampling). Reference: Yao et al., 2025, "Your efficient RL framework
    secretly brings you off-policy RL training"."""
    return jnp.clip(weights, low, high)


def drop_weights(weights: Array, *, low: float | None, high: float | None) -> Array:
    """w where low ≤ w ≤ high, else 0. Reference: Ling team, 2025, arXiv 2510.18855 (IcePop)."""
    return keep(weights, within(weights, low=low, high=high))


def mean_one_over_tokens(weights: Array, mask: Array) -> Array:
    """weights / (their mean over all tokens), weights [B, T] or [B, 1]."""
    return divide(weights, masked_mean(jnp.broadcast_to(weights, mask.shape), mask))


def mean_one_over_rows(weights: Array, mask: Array) -> Array:
    """weights / (mean over rows that have tokens of the row's mean), weights [B, T] or [B, 1]."""
    row_weights = masked_mean(jnp.broadcast_to(weights, mask.shape), mask, axis=1)
    return divide(weights, masked_mean(row_weights, jnp.any(mask, axis=1)))


def effective_sample_share(weights: Array, mask: Array, *, highest: float) -> Array:
    """1 / mean over tokens of (z / mean z)², z = clip(w, 1 / highest, highest): 1 when all weights are equal."""
    clipped = jnp.clip(jnp.broadcast_to(weights, mask.shape), 1 / highest, highest)
    return divide(jnp.ones(()), masked_mean(jnp.square(mean_one_over_tokens(clipped, mask)), mask))


def keep_bad_rows_near_policy(advantages: Array, x: Array, mask: Array, *, threshold: float) -> Array:
    """bool [B]: A ≥ 0, or the mean over the row's tokens of log π_sampler - log π_train is at most threshold.

    Reference: DeepSeek-AI, 2025, arXiv 2512.02556 (DeepSeek-V3.2), off-policy sequence masking.
    """
    return (advantages >= 0) | (-sequence_means(x, mask)[:, 0] <= threshold)


def keep_high_entropy(entropy: Array, mask: Array, *, share: float) -> Array:
    """bool [B, T]: tokens whose entropy is at least the (1 - share) quantile of those of all tokens of the mask.

    Reference: Wang et al., 2025, arXiv 2506.01939 (80/20 rule).
    """
    mask = mask.astype(bool)
    ascending = jnp.sort(jnp.where(mask, entropy, jnp.inf), axis=None)
    position = (1 - share) * jnp.maximum(count(mask) - 1, 0)
    # "at least the quantile" is "at least the next entropy"; a position that is whole but for rounding names its own
    threshold = ascending[jnp.ceil(position - 1e-6 * (position + 1)).astype(jnp.int32)]
    return mask & (entropy >= threshold)
