"""What is done to rewards and to the set of rows before advantages: length penalties and filters. Lengths in tokens."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.core import groups
from jaxrl_llm.core.masks import as_float
from jaxrl_llm.types import Array


def overlong_penalty(
    length: Array, *, max_tokens: int, buffer: int, penalty: float, floor: float | None = None
) -> Array:
    """min(0, -penalty · (length - (max_tokens - buffer)) / buffer): 0 up to the buffer, -penalty at the limit.

    Args:
      length: [B], tokens of the completion.
      max_tokens: the limit.
      buffer: the last this many tokens before the limit, at least 1.
      penalty: its size at the limit.
      floor: the penalty is not below it; None: it goes on falling beyond the limit.

    Returns:
      [B], at most 0, to be added to the reward.

    Reference: Yu et al., 2025, arXiv 2503.14476 (DAPO), eq. 13.
    """
    excess = as_float(length) - (max_tokens - buffer)
    result = jnp.minimum(-excess / buffer * penalty, 0)
    return result if floor is None else jnp.maximum(result, floor)


def has_spread(rewards: Array, prompt_id: Array, where: Array) -> Array:
    """bool [B]: True where the rewards of the row's group are not all equal (DAPO's dynamic sampling keeps these).

    Reference: Yu et al., 2025, arXiv 2503.14476 (DAPO), eq. 11.
    """
    member = groups.members(prompt_id, where)
    return groups.highest(rewards, member) > groups.lowest(rewards, member)


def mean_between(scores: Array, prompt_id: Array, where: Array, *, low: float, high: float) -> Array:
    """bool [B]: True where low < mean score of the row's group < high, both bounds excluded."""
    mean = groups.mean(scores, groups.members(prompt_id, where))
    return (low < mean) & (mean < high)
