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


def minus_group_mean(rewards: Array, prompt_id: Array, where: Array, *, keep_single: bool = False) -> Array:
    """r_i - mean of the rewards of row i's group, [B].

    Args:
      keep_single: a group of one keeps its reward as it is; else its advantage is 0.

    Reference: Shao et al., 2024, arXiv 2402.03300 (GRPO), section 4.1.2.
    """
    rewards = keep(as_float(rewards), where)
    member = groups.members(prompt_id, where)
    mean = groups.mean(rewards, member)
    if keep_single:
        mean = jnp.where(groups.size(member) > 1, mean, 0)
    return keep(rewards - mean, where)


def minus_batch_mean(rewards: Array, prompt_id: Array, where: Array) -> Array:
    """r_i - mean of all rewards of the step, [B]. Reference: arXiv 2508.08221, eq. 6."""
    del prompt_id
    rewards = keep(as_float(rewards), where)
    return keep(rewards - groups.mean(rewards, groups.whole_batch(where)), where)


def minus_mean_of_others(rewards: Array, prompt_id: Array, where: Array, *, keep_single: bool = False) -> Array:
    """r_i - mean of the other rewards of row i's group = n / (n - 1) · (r_i - group mean), [B].

    Args:
      keep_single: a group of one keeps its reward as it is; else its advantage is 0.

    Reference: Ahmadian et al., 2024, arXiv 2402.14740 (RLOO), eq. 8.
    """
    rows = groups.size(groups.members(prompt_id, where))
    centred = minus_group_mean(rewards, prompt_id, where, keep_single=keep_single)
    return centred * jnp.where(rows > 1, divide(rows, rows - 1), 1).astype(centred.dtype)


def minus_length_weighted_mean(
    rewards: Array, length: Array, prompt_id: Array, where: Array, *, keep_single: bool = False
) -> Array:
    """r_i - Σ_j length_j r_j / Σ_j length_j over row i's group, [B]: the baseline of least variance under OPO's model.

    Args:
      length: [B], tokens.
      keep_single: a group of one keeps its reward as it is; else its advantage is 0.

    Reference: Hao et al., 2025, arXiv 2505.23585 (OPO), eq. 8.
    """
    member = groups.members(prompt_id, where)
    centred = minus_group_mean(rewards, prompt_id, where, keep_single=keep_single)
    length = as_float(length)
    # about the group mean first, so that equal rewards give exactly 0
    shift = divide(groups.total(centred * length, member), groups.total(length, member))
    return keep(jnp.where(groups.size(member) > 1, centred - shift, centred), where)


def nonzero_share_scaled(centred: Array, rewards: Array, where: Array) -> Array:
    """α · centred with α = rows / (rows whose reward is not 0, at least 1), [B].

    Reference: Chu et al., 2025, arXiv 2504.02546 (GPG), section 3.
    """
    nonzero = jnp.maximum(count((as_float(rewards) != 0) & where), 1)
    return centred * (count(where) / nonzero).astype(centred.dtype)


def lead_of_best(rewards: Array, prompt_id: Array, where: Array) -> Array:
    """largest - second largest reward of the group for its best row, 0 for the others, for ties and groups of one, [B].

    Reference: Tang et al., 2025, arXiv 2503.19595, as verl computes it.
    """
    rewards = keep(as_float(rewards), where)
    member = groups.members(prompt_id, where)
    best = groups.highest(rewards, member)
    is_best = where & (rewards == best)
    alone = groups.total(is_best, member) == 1
    second = groups.highest(rewards, member & ~is_best[None, :])
    leads = is_best & alone & jnp.isfinite(second)
    return jnp.where(leads, best - jnp.where(leads, second, 0), 0)


def sum_of_normalized(
    rewards: Array, weights: Array, prompt_id: Array, where: Array, *, ddof: int, epsilon: float
) -> Array:
    """Σ_f weights_f · (r_{i,f} - group mean_f) / (group std_f + epsilon) over reward functions f, [B].

    Args:
      rewards: [B, F], one column a reward function.
      weights: [F].

    Reference: Liu et al., 2026, arXiv 2601.05242 (GDPO).
    """
    columns = []
    for column in as_float(rewards).T:
        std = group_std(column, prompt_id, where, ddof=ddof)
        columns.append(scaled(minus_group_mean(column, prompt_id, where), std, epsilon=epsilon))
    return jnp.stack(columns, axis=1) @ weights


def group_std(rewards: Array, prompt_id: Array, where: Array, *, ddof: int, single: float = 0.0) -> Array:
    """Standard deviation of the rewards of row i's group about their mean, [B].

    Args:
      ddof: the variance divides by (rows - ddof); it is 0 where that is not above 0.
      single: what stands for the standard deviation of a group of one.
    """
    member = groups.members(prompt_id, where)
    std = jnp.sqrt(groups.variance(keep(as_float(rewards), where), member, ddof=ddof))
    return jnp.where(groups.size(member) == 1, jnp.asarray(single, std.dtype), std)


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
