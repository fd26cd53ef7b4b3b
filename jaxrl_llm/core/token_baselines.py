"""Baselines that differ from token to token within a row, from the rows of a group and no critic."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.core import groups
from jaxrl_llm.core.masks import count, divide, keep
from jaxrl_llm.core.returns import returns_to_go
from jaxrl_llm.types import Array


def optimal_token_baseline(
    token_rewards: Array,
    mask: Array,
    prompt_id: Array,
    where: Array,
    old_logprobs: Array,
    sum_pi_squared: Array,
    *,
    weights: Array | None = None,
    epsilon: float,
    zero_tail: bool = False,
) -> tuple[Array, Array]:
    """A_t = G_t - b_t, b_t = Σ_j G_{j,t} W_{j,t} / (Σ_j W_{j,t} + epsilon) over the rows j of the group at column t.

    G_t = Σ_{s≥t} r_s. W_t = Σ_{s≤t} w_s² (1 - 2 π_old(o_s) + Σ_v π_old(v)²): the squared norm of the gradient of the
    log-probabilities up to t by the logits, which stands for that by the parameters. Sums are over tokens of the mask.

    Args:
      token_rewards: [B, T].
      mask: bool [B, T].
      prompt_id: [B]; a group of one row has b = 0.
      where: bool [B]; rows with False enter no baseline, and their advantages and returns are 0.
      old_logprobs: [B, T], log π_old(o_t).
      sum_pi_squared: [B, T], of :func:`jaxrl_llm.core.logprobs.sum_pi_squared`, of the policy of ``old_logprobs``.
      weights: w, importance weights [B, T]; None: 1.
      epsilon: above 0; keeps b finite where W is 0.
      zero_tail: b = 0 from column n on, n the tokens of the group's second longest row, in the longest row if it is
        the only one of its length: no other row speaks about those columns.

    Returns:
      (advantages [B, T], 0 off the mask, returns G [B, T]).

    Reference: Li et al., 2026, "The Optimal Token Baseline: Variance Reduction for Long-Horizon LLM-RL", as verl
    computes it.
    """
    mask = mask.astype(bool) & where.astype(bool)[:, None]
    to_go = returns_to_go(token_rewards, mask)
    steps = 1 - 2 * jnp.exp(keep(old_logprobs, mask)) + keep(sum_pi_squared, mask)
    if weights is not None:
        steps = steps * jnp.square(keep(weights, mask))
    energy = keep(jnp.cumsum(keep(steps, mask), axis=1), mask)
    member = groups.members(prompt_id, where)
    gains = _totals(energy * to_go, member)
    baseline = divide(gains, _totals(energy, member) + epsilon)
    baseline = jnp.where(groups.size(member)[:, None] > 1, baseline, 0)
    if zero_tail:
        baseline = jnp.where(_beyond_the_others(count(mask, axis=1), member, mask.shape[1]), 0, baseline)
    return keep(to_go - baseline, mask), to_go


def _totals(values: Array, member: Array) -> Array:
    """[B, T]: for each row, the sums of ``values`` over its group at each column; in full precision on every device."""
    return jnp.matmul(member.astype(values.dtype), values, precision=jax.lax.Precision.HIGHEST)


def _beyond_the_others(length: Array, member: Array, width: int) -> Array:
    """bool [B, T]: columns from the length of the group's second longest row on, in its only longest row."""
    is_longest = length == groups.highest(length, member)
    alone = groups.total(is_longest, member) == 1
    second = groups.highest(length, member & ~is_longest[None, :])
    return (is_longest & alone)[:, None] & (jnp.arange(width)[None, :] >= second[:, None])
