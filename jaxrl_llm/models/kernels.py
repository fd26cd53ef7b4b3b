"""Attention over rows [prompt | lane | lane | ...] by the fused kernels of TPU and GPU.

Both take the prompts and the lanes as rows of their own, each lane with the prompt's keys in front of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl_llm.models.attention import check_lanes, sees
from jaxrl_llm.types import BRANCHES, Array

_COLUMNS = 128  # what the TPU kernel wants the columns to be a multiple of
_BLOCKS = (512, 256, _COLUMNS)  # columns that it works on at a time: the first that divides them
_NOBODY = -1  # a segment that no token has


def splash(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    *,
    prompt: int = 0,
    lanes: int = 1,
    segments_per_lane: int = 1,
    interpret: bool = False,
) -> Array:
    """:func:`~jaxrl_llm.models.attention.by_lanes` by the splash kernel of TPU.

    In the kernel a token sees its own segment and nothing else. So a lane has a copy of the prompt's keys for each of
    its segments, and there are no trunks.

    Args:
      query, key, value, segments, prompt, lanes: as of ``by_lanes``; behind a prompt, the segments of a lane are 1 to
        at most ``segments_per_lane``.
      segments_per_lane: copies of the prompt's keys; not read without a prompt.
      interpret: run on any device, slowly.

    Returns:
      As ``by_lanes``; NaN in a row with a higher segment, or with a trunk.
    """
    copies = segments_per_lane if prompt else 1
    kernel = functools.partial(_splash, prompt=prompt, interpret=interpret)
    out = _in_rows(kernel, query, key, value, segments, prompt=prompt, lanes=lanes, copies=copies)
    highest = jnp.max(segments[:, prompt:], axis=1)
    told = highest <= (copies if prompt else BRANCHES - 1)
    return jnp.where(told[:, None, None, None, None], out, jnp.nan)


def cudnn(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    *,
    prompt: int = 0,
    lanes: int = 1,
    implementation: str = "cudnn",
) -> Array:
    """:func:`~jaxrl_llm.models.attention.by_lanes` by cuDNN's flash attention, under a mask that is held.

    Args:
      query, key, value, segments, prompt, lanes: as of ``by_lanes``.
      implementation: of :func:`jax.nn.dot_product_attention`.
    """
    kernel = functools.partial(_cudnn, implementation=implementation)
    return _in_rows(kernel, query, key, value, segments, prompt=prompt, lanes=lanes, copies=1)


def _in_rows(
    kernel: Callable[..., Array],
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    *,
    prompt: int,
    lanes: int,
    copies: int,
) -> Array:
    """``kernel`` over the prompts, and over the lanes with ``copies`` of the prompt in front.

    It takes query, key, value and segments of R rows, then keys, values and a bool [R, F] of what stands in front: the
    keys that are not padding.
    """
    rows, width = segments.shape
    check_lanes(width, prompt, lanes)
    lane = (width - prompt) // lanes
    front = key[:, :prompt], value[:, :prompt], segments[:, :prompt] != 0
    parts = []
    if prompt:
        parts.append(kernel(*(x[:, :prompt] for x in (query, key, value, segments)), *(x[:, :0] for x in front)))
    own = (x[:, prompt:].reshape(rows * lanes, lane, *x.shape[2:]) for x in (query, key, value, segments))
    copied = (jnp.tile(jnp.repeat(x, lanes, axis=0), (1, copies, *(1 for _ in x.shape[2:]))) for x in front)
    parts.append(kernel(*own, *copied).reshape(rows, lanes * lane, *query.shape[2:]))
    return jnp.concatenate(parts, axis=1)


def _fill(x: Array, multiple: int, value: int = 0) -> Array:
    """More columns (axis 1), up to a multiple."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % multiple)] + [(0, 0)] * (x.ndim - 2), constant_values=value)


def _splash(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    front_key: Array,
    front_value: Array,
    visible: Array,
    *,
    prompt: int,
    interpret: bool,
) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention  # only where it is used: it is slow to import

    rows, width, kv_heads, group, size = query.shape
    copy = 1 + jnp.arange(visible.shape[1]) // max(prompt, 1)
    of_front = _fill(jnp.where(visible, copy, _NOBODY), _COLUMNS, _NOBODY)
    own = _fill(segments, _COLUMNS)  # padding sees itself: no query is without a key
    ids = splash_attention.SegmentIds(own, jnp.concatenate([of_front, own], axis=1))

    def heads_first(*parts: Array) -> Array:
        return jnp.concatenate([_fill(x, _COLUMNS) for x in parts], axis=1).swapaxes(1, 2)

    keys, values = heads_first(front_key, key), heads_first(front_value, value)
    shape = own.shape[1], keys.shape[2]
    of_query, of_key = (next(block for block in _BLOCKS if columns % block == 0) for columns in shape)
    # Everything in front lies before the first query, what is its own may not lie behind it.
    mask = splash_attention.CausalMask(shape, offset=of_front.shape[1])
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([mask] * (kv_heads * group)),
        block_sizes=splash_attention.BlockSizes(
            block_q=of_query,
            block_kv=of_key,
            block_q_dkv=of_query,
            block_kv_dkv=of_key,
            block_q_dq=of_query,
            block_kv_dq=of_key,
        ),
        interpret=interpret,
    )
    queries = heads_first(query.reshape(rows, width, kv_heads * group, size))
    out: Array = jax.vmap(kernel)(queries, keys, values, ids)  # type: ignore[assignment]
    return out.swapaxes(1, 2)[:, :width].reshape(query.shape)


def _cudnn(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    front_key: Array,
    front_value: Array,
    visible: Array,
    *,
    implementation: str,
) -> Array:
    rows, width, _, _, size = query.shape
    queries, own, front = _fill(query, 2), _fill(segments, 2), _fill(visible, 2)  # cuDNN masks an even number
    columns = jnp.arange(own.shape[1])
    seen = sees(own[:, :, None], own[:, None, :]) & (columns[:, None] >= columns)
    before = jnp.broadcast_to(front[:, None], (rows, own.shape[1], front.shape[1]))
    keys, values = (
        jnp.concatenate([_fill(x, 2) for x in pair], axis=1) for pair in ((front_key, key), (front_value, value))
    )
    out = jax.nn.dot_product_attention(
        queries.reshape(rows, own.shape[1], -1, size),
        keys,
        values,
        mask=jnp.concatenate([before, seen], axis=2)[:, None],
        scale=1.0,  # is in the query
        implementation=implementation,  # type: ignore[arg-type]
    )
    return out[:, :width].reshape(query.shape)
