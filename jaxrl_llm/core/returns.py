"""Returns and advantages from rewards at tokens.

All are linear recurrences y_t = x_t + decay_t · y_{t+1}, solved by an associative scan: log₂ T steps, not T.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.core.masks import as_float, keep, last_token
from jaxrl_llm.types import Array


@jax.jit
def backward_sums(values: Array, decays: Array) -> Array:
    """y_t = values_t + decays_t · y_{t+1} along T, with 0 after the end; both [B, T]."""

    def join(later: tuple[Array, Array], here: tuple[Array, Array]) -> tuple[Array, Array]:
        return later[0] * here[0], here[1] + here[0] * later[1]

    return jax.lax.associative_scan(join, (decays, values), reverse=True, axis=1)[1]


def at_last_token(rewards: Array, mask: Array) -> Array:
    """[B, T]: each row's reward [B] at its last token of the mask, 0 elsewhere and in rows without tokens."""
    return jnp.where(last_token(mask), as_float(rewards)[:, None], 0)


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
    return backward_sums(rewards, jnp.full_like(rewards, gamma))


def returns_of_run(token_rewards: Array, mask: Array, *, gamma: float = 1.0) -> Array:
    """G_t = r_t + γ · mask_{t+1} · G_{t+1}: as :func:`returns_to_go`, but a masked token starts the sum anew.

    Returns:
      [B, T], 0 off the mask.

    Reference: Hu et al., 2025, arXiv 2501.03262 (REINFORCE++), as verl computes it.
    """
    rewards = keep(as_float(token_rewards), mask)
    goes_on = jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1)
    return keep(backward_sums(rewards, gamma * goes_on.astype(rewards.dtype)), mask)


def gae(token_rewards: Array, values: Array, mask: Array, *, gamma: float, lam: float | Array) -> Array:
    """A_t = δ_t + γ λ A_after, δ_t = r_t + γ V_after - V_t; masked tokens are passed over.

    "After" is the next token of the mask, whatever lies between; 0 after the last.

    Args:
      token_rewards: [B, T].
      values: [B, T], V of the state in which token t is chosen.
      mask: bool [B, T].
      lam: λ, or one for each row, [B, 1].

    Returns:
      advantages [B, T], 0 off the mask; the returns are A + V.

    Reference: Schulman et al., 2015, arXiv 1506.02438, eq. 16.
    """
    rewards, values = keep(as_float(token_rewards), mask), keep(as_float(values), mask)
    passed_over = jnp.where(mask, 0, 1).astype(values.dtype)
    next_value = _after(backward_sums(values, passed_over))
    deltas = keep(rewards + gamma * next_value - values, mask)
    return keep(backward_sums(deltas, jnp.where(mask, gamma * lam, 1).astype(values.dtype)), mask)


def gae_through_gaps(token_rewards: Array, values: Array, mask: Array, *, gamma: float, lam: float) -> Array:
    """:func:`gae` in which a masked token is a step like any other, with reward and value 0 (ROLL, OpenRLHF)."""
    rewards, values = keep(as_float(token_rewards), mask), keep(as_float(values), mask)
    return gae(rewards, values, jnp.ones_like(mask, bool), gamma=gamma, lam=lam)


def _after(values: Array) -> Array:
    """[B, T]: the value of the column to the right, 0 in the last."""
    return jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
