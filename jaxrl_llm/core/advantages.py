"""Advantages from one reward a row: what is taken from the reward (a baseline), and what the rest is divided by.

Rows with ``where`` False (unscored) enter no statistic; what their own entries hold is of no meaning, and finite.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.core import groups
from jaxrl_llm.core.masks import as_float, count, divide, keep, masked_mean, masked_sum
from jaxrl_llm.types import Array


def minus_nothing(rewards: Array, prompt_id: Array, where: Array) -> Array:
    """The reward as it is, [B] (REINFORCE without a baseline).

    Reference: Williams, 1992, "Simple statistical gradient-following algorithms".
    """
    del prompt_id
    return keep(as_float(rewards), where)


def minus_group_mean(rewards: Array, prompt_id: Array, where: Array) -> Array:
    """r_i - mean of the rewards of row i's group, [B].

    Reference: Shao et al., 2024, arXiv 2402.03300 (GRPO), section 4.1.2.
    """
    rewards = keep(as_float(rewards), where)
    return keep(rewards - groups.mean(rewards, groups.members(prompt_id, where)), where)


def minus_batch_mean(rewards: Array, prompt_id: Array, where: Array) -> Array:
    """r_i - mean of all rewards of the step, [B]. Reference: arXiv 2508.08221, eq. 6."""
    del prompt_id
    rewards = keep(as_float(rewards), where)
    return keep(rewards - groups.mean(rewards, groups.whole_batch(where)), where)


def minus_mean_of_others(rewards: Array, prompt_id: Array, where: Array) -> Array:
    """r_i - mean of the other rewards of row i's group = n / (n - 1) · (r_i - group mean), [B]; 0 for a group of one.

    Reference: Ahmadian et al., 2024, arXiv 2402.14740 (RLOO), eq. 8.
    """
    rows = groups.size(groups.members(prompt_id, where))
    centred = minus_group_mean(rewards, prompt_id, where)
    return centred * divide(rows, jnp.maximum(rows - 1, 0)).astype(centred.dtype)


def group_std(rewards: Array, prompt_id: Array, where: Array, *, ddof: int) -> Array:
    """Standard deviation of the rewards of row i's group about their mean, [B]; 0 where it has ≤ ddof rows."""
    return jnp.sqrt(groups.variance(keep(as_float(rewards), where), groups.members(prompt_id, where), ddof=ddof))


def batch_std(rewards: Array, prompt_id: Array, where: Array, *, ddof: int) -> Array:
    """Standard deviation of all rewards of the step as they are, about the mean of all, [B] (all entries equal).

    Lite PPO divides by it after the group mean is taken away. It counts the spread between prompts as well as the
    spread within them, and is never smaller than :func:`centred_batch_std` but for ddof.

    Reference: arXiv 2508.08221, section 5.
    """
    del prompt_id
    return jnp.sqrt(groups.variance(keep(as_float(rewards), where), groups.whole_batch(where), ddof=ddof))


def centred_batch_std(rewards: Array, prompt_id: Array, where: Array, *, ddof: int) -> Array:
    """Standard deviation of r - group mean over all rows of the step, about 0, [B] (all entries equal)."""
    squares = jnp.square(minus_group_mean(rewards, prompt_id, where))
    degrees = jnp.maximum(count(where) - ddof, 0).astype(squares.dtype)
    return jnp.broadcast_to(jnp.sqrt(divide(jnp.sum(squares), degrees)), squares.shape)


def scaled(centred: Array, std: Array, *, epsilon: float, variance_floor: float = 0.0) -> Array:
    """centred / (max(std, √variance_floor) + epsilon), and 0 where that denominator is 0."""
    return divide(centred, jnp.maximum(std, jnp.sqrt(jnp.asarray(variance_floor, std.dtype))) + epsilon)


def whiten(
    values: Array,
    mask: Array,
    *,
    ddof: int,
    std_epsilon: float = 0.0,
    variance_epsilon: float = 0.0,
    variance_floor: float = 0.0,
    center: bool = True,
    scale: bool = True,
    axis: int | None = None,
) -> Array:
    """(x - mean) / (√(max(var, variance_floor) + variance_epsilon) + std_epsilon) over the tokens of the mask.

    A row weighs as often as it has tokens. Equal values have no spread and become 0, whatever the epsilons.

    Args:
      values: [B, T].
      mask: bool [B, T].
      ddof: var divides by (number of tokens - ddof).
      center: if False, the mean is added again at the end.
      scale: if False, only the mean is taken away.
      axis: None for all tokens of the batch, 1 for each row by itself.

    Returns:
      [B, T], 0 off the mask.
    """
    values = keep(as_float(values), mask)
    low = jnp.min(jnp.where(mask, values, jnp.inf), axis=axis, keepdims=True)
    high = jnp.max(jnp.where(mask, values, -jnp.inf), axis=axis, keepdims=True)
    mean = jnp.where(low == high, low, masked_mean(values, mask, axis, keepdims=True))
    deviations = keep(values - mean, mask)
    result = deviations
    if scale:
        degrees = jnp.maximum(count(mask, axis, keepdims=True) - ddof, 0).astype(values.dtype)
        variance = divide(masked_sum(jnp.square(deviations), mask, axis, keepdims=True), degrees)
        std = jnp.sqrt(jnp.maximum(variance, variance_floor) + variance_epsilon) + std_epsilon
        result = divide(deviations, std)
    return result if center else keep(result + mean, mask)
