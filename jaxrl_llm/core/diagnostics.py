"""Numbers that say what a step did: where a clip bound, how rewards spread, how far two policies are apart."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.core import groups, kl
from jaxrl_llm.core.advantages import batch_std, group_std
from jaxrl_llm.core.masks import divide, keep, masked_mean, masked_sum
from jaxrl_llm.core.ratios import log_ratio
from jaxrl_llm.core.shaping import has_spread
from jaxrl_llm.types import Array, Mean, Metrics


def clip_binds_low(ratio: Array, advantages: Array, clip_low: float) -> Array:
    """bool [B, T]: A < 0 and ρ < 1 - clip_low, where PPO's clip takes the gradient away."""
    return (advantages < 0) & (ratio < 1 - clip_low)


def clip_binds_high(ratio: Array, advantages: Array, clip_high: float) -> Array:
    """bool [B, T]: A > 0 and ρ > 1 + clip_high, where PPO's clip takes the gradient away."""
    return (advantages > 0) & (ratio > 1 + clip_high)


def dual_clip_binds(loss: Array, advantages: Array, bound: float) -> Array:
    """bool [B, T]: A < 0 and the loss, before the dual clip, is above bound · |A|."""
    return (advantages < 0) & (loss > -bound * advantages)


def reward_spread(rewards: Array, prompt_id: Array, where: Array) -> Metrics:
    """How rewards [B] spread; a group counts once, whatever its size, and rows with ``where`` False do not count.

    `zero_variance_groups`: share of groups whose rewards are all equal. `reward_std_group`: mean over groups of their
    standard deviation (ddof 0). `reward_std_batch`: standard deviation of all (ddof 0).
    """
    rewards = keep(rewards, where)
    rows = groups.size(groups.members(prompt_id, where)).astype(rewards.dtype)
    share_of_group = jnp.where(where, divide(jnp.ones_like(rewards), rows), 0)
    number_of_groups = jnp.sum(share_of_group)
    flat = ~has_spread(rewards, prompt_id, where)
    std = group_std(rewards, prompt_id, where, ddof=0)
    return {
        "zero_variance_groups": Mean(jnp.sum(share_of_group * flat), number_of_groups),
        "reward_std_group": Mean(jnp.sum(share_of_group * std), number_of_groups),
        "reward_std_batch": Mean.of(batch_std(rewards, prompt_id, where, ddof=0), where),
    }


def explained_variance(values: Array, targets: Array, mask: Array) -> Array:
    """1 - Var(targets - values) / Var(targets) over the tokens of the mask, a scalar.

    1: the values are the targets; 0: no better than their mean; nan where all targets are equal.
    """

    def variance(x: Array) -> Array:
        return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)

    of_targets = variance(targets)
    return jnp.where(of_targets > 0, 1 - divide(variance(targets - values), of_targets), jnp.nan)


def policy_gap(
    train_logprobs: Array, sampler_logprobs: Array, mask: Array, *, log_ratio_clamp: float
) -> dict[str, Array]:
    """How far the trainer's log-probabilities of the sampled tokens are from the sampler's, as scalars.

    With x = log π_train - log π_sampler at a token, p_i and q_i the means over row i's tokens of the two
    log-probabilities, h_i = q_i - p_i; rows without tokens do not count.

    Args:
      log_ratio_clamp: x, and its sum over a row, are held within ±it in the two χ² alone.

    Returns:
      training_ppl mean of exp(-p); training_log_ppl mean of -p; rollout_ppl and rollout_log_ppl the same of q;
      log_ppl_diff mean of h, log_ppl_abs_diff of |h|, log_ppl_diff_max, log_ppl_diff_min; ppl_ratio mean of exp(h);
      kl mean over tokens of -x and k3_kl of e^x - x - 1; chi2_token mean of e^(2x) minus 1; chi2_seq mean over rows
      of exp(2 Σ x) minus 1.
    """
    has_tokens = jnp.any(mask, axis=1)
    train, sampler = masked_mean(train_logprobs, mask, axis=1), masked_mean(sampler_logprobs, mask, axis=1)
    gap = sampler - train
    x = log_ratio(train_logprobs, sampler_logprobs, mask)
    clamped = jnp.clip(x, -log_ratio_clamp, log_ratio_clamp)
    row_sum = jnp.clip(masked_sum(x, mask, axis=1), -log_ratio_clamp, log_ratio_clamp)
    kept = {"train": keep(train_logprobs, mask), "sampler": keep(sampler_logprobs, mask)}
    return {
        "training_ppl": masked_mean(jnp.exp(-train), has_tokens),
        "training_log_ppl": masked_mean(-train, has_tokens),
        "rollout_ppl": masked_mean(jnp.exp(-sampler), has_tokens),
        "rollout_log_ppl": masked_mean(-sampler, has_tokens),
        "log_ppl_diff": masked_mean(gap, has_tokens),
        "log_ppl_abs_diff": masked_mean(jnp.abs(gap), has_tokens),
        "log_ppl_diff_max": jnp.max(jnp.where(has_tokens, gap, -jnp.inf)),
        "log_ppl_diff_min": jnp.min(jnp.where(has_tokens, gap, jnp.inf)),
        "ppl_ratio": masked_mean(jnp.exp(gap), has_tokens),
        "kl": masked_mean(kl.k1(kept["sampler"], kept["train"]), mask),
        "k3_kl": masked_mean(kl.k3(kept["sampler"], kept["train"]), mask),
        "chi2_token": masked_mean(jnp.exp(2 * clamped), mask) - 1,
        "chi2_seq": masked_mean(jnp.exp(2 * row_sum), has_tokens) - 1,
    }


PROBABILITY_EDGES = (0.3, 0.6, 0.85, 0.95, 0.99)


def probability_histogram(logprobs: Array, mask: Array) -> Array:
    """float32 [6]: tokens of the mask by their probability exp(logprobs), cut at :data:`PROBABILITY_EDGES`.

    Reference: arXiv 2508.08221, figure 9.
    """
    edges = jnp.array((-jnp.inf, *PROBABILITY_EDGES, jnp.inf))
    probability = jnp.exp(logprobs)[..., None]
    inside = (probability >= edges[:-1]) & (probability < edges[1:]) & mask[..., None]
    return jnp.sum(inside, axis=tuple(range(mask.ndim)), dtype=jnp.float32)


def token_counts(tokens: Array, where: Array, vocabulary: int) -> Array:
    """float32 [V]: how often each token stands where ``where`` holds; for small vocabularies, which it compares all."""
    equal = (tokens[..., None] == jnp.arange(vocabulary)) & where[..., None]
    return jnp.sum(equal, axis=tuple(range(tokens.ndim)), dtype=jnp.float32)
