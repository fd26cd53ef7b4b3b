"""Policy losses at each token, before aggregation. All arrays are [B, T]; masking and weighing is the caller's.

The comparisons are written with ``where``, not ``maximum``: at ratio 1, where both terms are equal, the gradient is
that of the unclipped term, whatever the bounds.
"""

from __future__ import annotations

import jax.numpy as jnp

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
