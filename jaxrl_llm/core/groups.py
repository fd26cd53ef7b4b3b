"""Statistics of rows that share a prompt, found by ``prompt_id``: groups may be uneven and their rows in any order.

Every function takes ``where`` bool [B]: rows that it leaves out enter no statistic. Sums run over a [B, B] table of
equal ids in a fixed order: the same bits on every run and every kind of device, which a scatter-add does not promise.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.core.masks import as_float, divide
from jaxrl_llm.types import Array


def members(prompt_id: Array, where: Array) -> Array:
    """bool [B, B]: True at [i, j] where row j is in row i's group and ``where[j]`` holds."""
    return (prompt_id[:, None] == prompt_id[None, :]) & where.astype(bool)[None, :]


def whole_batch(where: Array) -> Array:
    """bool [B, B]: the members of one group that holds every row with ``where``."""
    return jnp.broadcast_to(where.astype(bool)[None, :], (where.shape[0], where.shape[0]))


def size(member: Array) -> Array:
    """float [B]: rows in each row's group."""
    return jnp.sum(member, axis=1, dtype=jnp.result_type(float))


def total(values: Array, member: Array) -> Array:
    """[B]: for each row, the sum of ``values`` [B] over its group."""
    return jnp.sum(jnp.where(member, as_float(values)[None, :], 0), axis=1)


def lowest(values: Array, member: Array) -> Array:
    """[B]: for each row, the smallest value of its group; inf for an empty group."""
    return jnp.min(jnp.where(member, as_float(values)[None, :], jnp.inf), axis=1)


def highest(values: Array, member: Array) -> Array:
    """[B]: for each row, the largest value of its group; -inf for an empty group."""
    return jnp.max(jnp.where(member, as_float(values)[None, :], -jnp.inf), axis=1)


def mean(values: Array, member: Array) -> Array:
    """[B]: for each row, the mean of its group; 0 for an empty group.

    The mean of equal numbers is exactly that number, so that float noise never looks like a spread.
    """
    low = lowest(values, member)
    sums = total(values, member)
    return jnp.where(low == highest(values, member), low, divide(sums, size(member).astype(sums.dtype)))


def variance(values: Array, member: Array, *, ddof: int) -> Array:
    """[B]: for each row, Σ_j (x_j - mean)² / (n - ddof) over its group of n rows; 0 where n ≤ ddof."""
    values = as_float(values)
    deviations = jnp.where(member, values[None, :] - mean(values, member)[:, None], 0)
    squares = jnp.sum(jnp.square(deviations), axis=1)
    degrees = jnp.maximum(size(member) - ddof, 0).astype(squares.dtype)
    return divide(squares, degrees)
