"""Sums and means over the tokens that count, safe against whatever stands at the others.

A mask is True at tokens that count; gaps are allowed. What stands where it is False, NaN included, changes neither a
value nor a gradient: it is replaced before anything is computed from it.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.types import Array


def as_float(values: Array) -> Array:
    """``values`` as floats of at least single precision: half precision is widened, float64 stays, integers and
    booleans become the default float."""
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.floating):
        return values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return values.astype(jnp.result_type(float))


def keep(values: Array, mask: Array) -> Array:
    """``values`` where the mask is True, else 0, with gradient 0 there."""
    return jnp.where(mask, values, jnp.zeros((), values.dtype))


def divide(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0, with gradient 0, where the denominator is 0."""
    is_zero = denominator == 0
    return jnp.where(is_zero, 0, numerator / jnp.where(is_zero, 1, denominator))


def count(mask: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """How many entries are True, as a float of the default precision."""
    return jnp.sum(mask, axis=axis, keepdims=keepdims, dtype=jnp.result_type(float))


def masked_sum(values: Array, mask: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """The sum over the entries whose mask is True."""
    return jnp.sum(keep(as_float(values), mask), axis=axis, keepdims=keepdims)


def masked_mean(values: Array, mask: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """The mean over the entries whose mask is True; 0 where there is none."""
    total = masked_sum(values, mask, axis, keepdims)
    return divide(total, count(mask, axis, keepdims).astype(total.dtype))


def last_token(mask: Array) -> Array:
    """bool [B, T]: True at the last True of each row of ``mask`` [B, T], all False in a row without one."""
    later = jnp.cumsum(mask[:, ::-1].astype(jnp.int32), axis=1)[:, ::-1]  # tokens from t on
    return mask.astype(bool) & (later == 1)


def over_tokens(values: Array, mask: Array) -> Array:
    """[B, T]: each row's value [B] at its tokens, 0 off the mask."""
    return jnp.where(mask, as_float(values)[:, None], 0)
