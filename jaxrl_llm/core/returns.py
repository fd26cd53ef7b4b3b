"""Returns from rewards at tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.core.masks import as_float, keep
from jaxrl_llm.types import Array


def returns_to_go(token_rewards: Array, mask: Array, *, gamma: float = 1.0) -> Array:
    """G_t = mask_t · r_t + γ G_{t+1}: what is still to come from token t on.

    Args:
      token_rewards: [B, T].
      mask: bool [B, T]; a masked token has reward 0 and still costs a factor of γ.
      gamma: discount of a token.

    Returns:
      [B, T], at masked tokens too.
    """
    rewards = keep(as_float(token_rewards), mask)

    def step(after: Array, reward: Array) -> tuple[Array, Array]:
        total = reward + gamma * after
        return total, total

    _, totals = jax.lax.scan(step, jnp.zeros_like(rewards[:, 0]), rewards.T, reverse=True)
    return totals.T
