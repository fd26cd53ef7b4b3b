"""Policy losses that treat the tokens apart which move the entropy most: those of large covariance of A and log π.

Reference: Cui et al., 2025, arXiv 2505.22617, section 4.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.core.masks import count, masked_mean
from jaxrl_llm.types import Array


def token_covariance(logprobs: Array, advantages: Array, mask: Array) -> Array:
    """(A - mean A)(log π - mean log π), means over the tokens of the mask, without gradient, [B, T]."""
    centred = (advantages - masked_mean(advantages, mask)) * (logprobs - masked_mean(logprobs, mask))
    return jax.lax.stop_gradient(centred)


def largest(scores: Array, candidates: Array, number: Array) -> Array:
    """bool [B, T]: the ``number`` candidates of largest score, all of them if there are fewer; ties by position."""
    flat = jnp.where(candidates, scores, -jnp.inf).ravel()
    rank = jnp.argsort(jnp.argsort(-flat, stable=True), stable=True).reshape(scores.shape)
    return candidates & (rank < number)


def clip_cov_tokens(
    covariance: Array,
    mask: Array,
    clip_binds: Array,
    scores: Array,
    *,
    lowest: float,
    highest: float,
    budget: float,
) -> Array:
    """bool [B, T]: tokens with lowest < cov < highest where no clip binds, that then lose their loss (Clip-Cov).

    Args:
      covariance: of :func:`token_covariance`.
      clip_binds: bool [B, T], where PPO's clip already takes the gradient.
      scores: [B, T], at random: the candidates of largest score are chosen.
      budget: at most max(1, ⌊budget · tokens⌋) are chosen.
    """
    candidates = mask.astype(bool) & (lowest < covariance) & (covariance < highest) & ~clip_binds
    return largest(scores, candidates, _number(mask, budget))


def kl_cov_tokens(covariance: Array, mask: Array, *, share: float) -> Array:
    """bool [B, T]: the max(1, ⌊share · tokens⌋) tokens of largest covariance (KL-Cov)."""
    return largest(covariance, mask.astype(bool), _number(mask, share))


def kl_cov_loss(log_ratios: Array, advantages: Array, chosen: Array, *, kl_coefficient: float) -> Array:
    """-A ρ + kl_coefficient |d| at the chosen tokens, else -A ρ (KL-Cov). At d = 0 the gradient of |d| is 0."""
    distance = log_ratios * jnp.sign(log_ratios)  # jnp.abs has gradient 1 at 0
    return -advantages * jnp.exp(log_ratios) + jnp.where(chosen, kl_coefficient * distance, 0)


def _number(mask: Array, share: float) -> Array:
    return jnp.maximum(1, jnp.floor(share * count(mask)))
