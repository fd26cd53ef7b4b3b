"""What one token weighs in the loss: loss = Σ_{i,t} weights[i,t] · L[i,t].

The weights are computed once for an optimizer step, from the mask of all its rows, so that any split of the rows over
micro-batches, devices or hosts sums to the same loss. c_i = Σ_t mask[i,t]; C = Σ_i c_i; R = rows with c_i > 0.

| here            | weight of a token                     | the paper      |
| --------------- | ------------------------------------- | -------------- |
| `token_mean`    | 1 / C                                 | token-level    |
| `sequence_mean` | 1 / (c_i · R)                         | sequence-level |
| `sequence_sum`  | 1 / R                                 | -              |
| `constant`      | 1 / (constant · B)                    | -              |
| `prompt_mean`   | 1 / (tokens of the prompt · prompts)  | -              |

| here            | verl and ROLL               | Tunix                         | TRL, EasyDeL | OpenRLHF     |
| --------------- | --------------------------- | ----------------------------- | ------------ | ------------ |
| `token_mean`    | token-mean                  | token-mean                    | dapo (1)     | token level  |
| `sequence_mean` | seq-mean-token-mean         | sequence-mean-token-mean      | grpo (2)     | sample level |
| `sequence_sum`  | seq-mean-token-sum          | seq-mean-token-sum (3)        | -            | -            |
| `constant`      | seq-mean-token-sum-norm (4) | sequence-mean-token-scale (5) | dr_grpo      | -            |
| `prompt_mean`   | -                           | -                             | -            | -            |

AReaL, prime-rl and Simply have the token mean alone and no name for it. Marin: "dapo" is the token mean divided by B
once more, "grpo" the constant.

(1) cispo and vespo too. Their bnpo is the token mean of each micro-batch by itself, which no mode here reproduces.
(2) of each micro-batch by itself there, of the whole step here.
(3) sequence-mean-token-sum-norm too, unless it is given another norm than R.
(4) a sum over the constant alone, without B: ``constant(mask, tokens_per_row=c, rows=1)``. verl's token-sum is
    ``constant(mask, tokens_per_row=1, rows=1)``.
(5) over R rows there: ``constant(mask, tokens_per_row=width, rows=rows_with_tokens(mask))``.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.core import groups
from jaxrl_llm.core.masks import count, divide
from jaxrl_llm.types import Array


def _weights(mask: Array, denominator: Array | float) -> Array:
    """mask / denominator, and 0 where the denominator is 0."""
    ones = mask.astype(bool).astype(jnp.result_type(float))
    return divide(ones, jnp.broadcast_to(jnp.asarray(denominator, ones.dtype), ones.shape))


def rows_with_tokens(mask: Array) -> Array:
    """R, a float scalar."""
    return count(jnp.any(mask, axis=1))


def token_mean(mask: Array, *, tokens: Array | float | None = None) -> Array:
    """1 / C: every token of the step weighs the same (the paper's token-level loss, arXiv 2508.08221, section 4.3).

    Args:
      mask: bool [B, T].
      tokens: C of the whole step if ``mask`` is a part of it; None: counted from ``mask``.

    Returns:
      [B, T], 0 off the mask; all 0 if there is no token.
    """
    return _weights(mask, count(mask) if tokens is None else tokens)


def sequence_mean(mask: Array, *, rows: Array | float | None = None) -> Array:
    """1 / (c_i R): every sequence weighs the same, the mean of per-sequence means (the paper's sequence-level loss).

    Args:
      mask: bool [B, T].
      rows: what stands for R; None: the rows of ``mask`` that have tokens.

    Reference: Shao et al., 2024, arXiv 2402.03300 (GRPO), eq. 3.
    """
    return _weights(mask, count(mask, axis=1, keepdims=True) * (rows_with_tokens(mask) if rows is None else rows))


def sequence_sum(mask: Array, *, rows: Array | float | None = None) -> Array:
    """1 / R: the mean over sequences of the sum over their tokens. ``rows`` as in :func:`sequence_mean`.

    With the ratio of a sequence it is LUSPO: every row weighs by its length.

    Reference: Liu et al., 2026, arXiv 2602.05261 (LUSPO).
    """
    return _weights(mask, rows_with_tokens(mask) if rows is None else rows)


def constant(mask: Array, *, tokens_per_row: float, rows: Array | float | None = None) -> Array:
    """1 / (tokens_per_row · B): nothing in the data moves the denominator.

    Args:
      mask: bool [B, T].
      tokens_per_row: the constant, in tokens.
      rows: what stands for B; None: all rows of ``mask``, those without tokens included.

    Reference: Liu et al., 2025, arXiv 2503.20783 (Dr. GRPO), section 3.2.
    """
    return _weights(mask, tokens_per_row * (mask.shape[0] if rows is None else rows))


def prompt_mean(mask: Array, prompt_id: Array) -> Array:
    """1 / (tokens of the row's prompt · prompts that have tokens): every prompt weighs the same.

    The mean over prompts of the token mean of a prompt's completions: DAPO's objective as its paper writes it.

    Reference: Yu et al., 2025, arXiv 2503.14476 (DAPO), eq. 8; Khatri et al., 2025, arXiv 2510.13786 (ScaleRL).
    """
    has_tokens = jnp.any(mask, axis=1)
    member = groups.members(prompt_id, has_tokens)
    tokens = groups.total(count(mask, axis=1), member)
    prompts = jnp.sum(jnp.where(has_tokens, divide(jnp.ones_like(tokens), groups.size(member)), 0))
    return _weights(mask, (tokens * jnp.round(prompts))[:, None])
