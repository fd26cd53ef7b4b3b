"""What is done to rewards and to the set of rows before advantages: penalties, filters, and how a row ends.

Lengths are in tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.core import groups
from jaxrl_llm.core.masks import as_float, count, divide, keep
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


def linear_length_penalty(length: Array, *, max_tokens: int) -> Array:
    """-length / max_tokens, [B], in [-1, 0]; -1 beyond the limit.

    Args:
      length: [B], tokens of the completion.
    """
    return -_share(length, max_tokens)


def group_relative_length_penalty(length: Array, correct: Array, prompt_id: Array, where: Array) -> Array:
    """λ where correct, min(0, λ) elsewhere, with λ = 1/2 - (length - shortest) / (longest - shortest) of the group.

    In [-1/2, 1/2]: the shortest correct answer of a group gains what the longest loses. 0 where all are equally long.

    Args:
      length: [B], tokens of the completion.
      correct: bool [B].
      where: bool [B]; rows with False are in no group and get 0.

    Returns:
      [B], to be added to the reward.

    Reference: Kimi team, 2025, arXiv 2501.12599 (Kimi k1.5), section 2.3.3.
    """
    length = as_float(length)
    member = groups.members(prompt_id, where)
    shortest, longest = groups.lowest(length, member), groups.highest(length, member)
    differ = where & (longest > shortest)
    above = keep(length - shortest, differ)
    rank = 0.5 - divide(above, keep(longest - shortest, differ))
    return keep(jnp.where(correct, rank, jnp.minimum(rank, 0)), differ)


def cosine_length_penalty(length: Array, correct: Array, *, max_tokens: int) -> Array:
    """(cos(π length / max_tokens) - 1) / 2 where correct, (-cos(π length / max_tokens) - 1) / 2 elsewhere, [B].

    In [-1, 0]: a right answer pays for length, a wrong one for brevity. Beyond the limit as at the limit.

    Args:
      length: [B], tokens of the completion.
      correct: bool [B].

    Reference: Yeo et al., 2025, arXiv 2502.03373, section 4.2 (cosine reward), shifted to be a penalty.
    """
    cosine = jnp.cos(jnp.pi * _share(length, max_tokens))
    return (jnp.where(correct, cosine, -cosine) - 1) / 2


def _share(length: Array, max_tokens: int) -> Array:
    return jnp.minimum(as_float(length) / max_tokens, 1)


def repetition_penalty(tokens: Array, mask: Array, *, ngram: int) -> Array:
    """-(1 - distinct n-grams / n-grams) of each row, [B], in (-1, 0]; 0 in a row of fewer than ``ngram`` tokens.

    Args:
      tokens: int [B, T].
      mask: bool [B, T]; the n-grams are of its tokens in order, gaps closed.
      ngram: n, at least 1.

    Reference: Yeo et al., 2025, arXiv 2502.03373, section 4.4 (n-gram repetition penalty), counted over a row.
    """
    if ngram < 1:
        raise ValueError(f"ngram={ngram}: expected at least 1")
    tokens, length = _gaps_closed(tokens, mask)
    column = jnp.arange(tokens.shape[1])
    absent = column[None, :] > length[:, None] - ngram  # no n-gram starts here
    words = [jnp.roll(tokens, -ahead, axis=1) for ahead in range(ngram)]
    order = jnp.lexsort((*words, absent), axis=1)  # equal n-grams become neighbours, those that are none come last
    words = [jnp.take_along_axis(word, order, axis=1) for word in words]
    is_new = jnp.any(jnp.stack([word != jnp.roll(word, 1, axis=1) for word in words]), axis=0)
    is_new = is_new.at[:, 0].set(True)
    total = jnp.maximum(length - (ngram - 1), 0)
    distinct = count(is_new & (column[None, :] < total[:, None]), axis=1)
    return divide(distinct - total, total.astype(distinct.dtype))


def loops(tokens: Array, mask: Array, *, window: int, period: int, repeats: int) -> Array:
    """bool [B]: the row ends in a loop, as a completion that found no end does.

    That is: for some p ≤ period its last n = max(window, repeats · p) tokens exist, and each of them but the first p
    equals the token p before it. So a block of p tokens stands there at least ``repeats`` times, and fills the window.

    Args:
      tokens: int [B, T].
      mask: bool [B, T]; its tokens in order, gaps closed.
      window: at least this many tokens at the end, at least 1.
      period: the longest block, in tokens, at least 1.
      repeats: at least 2.

    Reference: arXiv 2508.08221, appendix B.1 (repeat ratio), whose window and threshold are not stated.
    """
    for name, value, least in (("window", window, 1), ("period", period, 1), ("repeats", repeats, 2)):
        if value < least:
            raise ValueError(f"{name}={value}: expected at least {least}")
    tokens, length = _gaps_closed(tokens[:, ::-1], mask[:, ::-1])  # the last token first
    column = jnp.arange(tokens.shape[1])

    def has_period(p: Array) -> Array:
        agrees = (tokens == jnp.roll(tokens, -p, axis=1)) & (column[None, :] + p < length[:, None])
        run = jnp.sum(jnp.cumprod(agrees.astype(jnp.int32), axis=1), axis=1)
        return run + p >= jnp.maximum(window, repeats * p)

    return jnp.any(jax.lax.map(has_period, jnp.arange(1, min(period, tokens.shape[1]) + 1)), axis=0)


def _gaps_closed(tokens: Array, mask: Array) -> tuple[Array, Array]:
    """(tokens of the mask in order, then the others, [B, T]; number of tokens of the mask, int [B])."""
    mask = mask.astype(bool)
    order = jnp.argsort(~mask, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order, axis=1), jnp.sum(mask, axis=1)
