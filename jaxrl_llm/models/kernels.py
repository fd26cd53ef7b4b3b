"""Attention over rows [prompt | lane | lane | ...] by the fused kernels of TPU and GPU.

Both take the prompts and the lanes as rows of their own, each lane with the prompt's keys in front of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.models.attention import check_lanes, sees
from jaxrl_llm.types import BRANCHES, Array

_COLUMNS = 128  # what the TPU kernel wants the columns to be a multiple of
_BLOCKS = (512, 256, _COLUMNS)  # columns that it works on at a time: the first that divides them
_NOBODY = -1  # a segment that no token has
_BITS = 16  # of a number of a column, two of which the TPU kernel is told in one int32


def splash(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    *,
    prompt: int = 0,
    lanes: int = 1,
    segments_per_lane: int = 1,
    cap: float | None = None,
    span: tuple[Array, Array] | None = None,
    interpret: bool = False,
) -> Array:
    """:func:`~jaxrl_llm.models.attention.by_lanes` by the splash kernel of TPU.

    In the kernel a token sees its own segment and nothing else. So a lane has a copy of the prompt's keys for each of
    its segments, and there are no trunks.

    Args:
      query, key, value, segments, prompt, lanes, cap: as of ``by_lanes``; behind a prompt, the segments of a lane are 1
        to at most ``segments_per_lane``.
      segments_per_lane: copies of the prompt's keys; not read without a prompt.
      span: as of ``by_lanes``; positions never fall within a segment, nor from the prompt to what sees it.
      interpret: run on any device, slowly.

    Returns:
      As ``by_lanes``; NaN in a row with a higher segment, or with a trunk.

    Raises:
      ValueError: a span over more columns than the kernel can be told.
    """
    copies = segments_per_lane if prompt else 1
    kernel = functools.partial(_splash, prompt=prompt, cap=cap, interpret=interpret)
    out = _in_rows(kernel, query, key, value, segments, span, prompt=prompt, lanes=lanes, copies=copies)
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
    span: tuple[Array, Array] | None = None,
    implementation: str = "cudnn",
) -> Array:
    """:func:`~jaxrl_llm.models.attention.by_lanes` by cuDNN's flash attention, under a mask that is held.

    Args:
      query, key, value, segments, prompt, lanes, span: as of ``by_lanes``.
      implementation: of :func:`jax.nn.dot_product_attention`.
    """
    kernel = functools.partial(_cudnn, implementation=implementation)
    return _in_rows(kernel, query, key, value, segments, span, prompt=prompt, lanes=lanes, copies=1)


class _Tokens(NamedTuple):
    """Keys of R rows, and what is known of their tokens.

    Attributes:
      key, value: [R, S, K, H].
      segments: int32 [R, S]; of what stands in front a bool, the keys that are not padding.
      span: see ``by_lanes``.
    """

    key: Array
    value: Array
    segments: Array
    span: tuple[Array, Array] | None


def _in_rows(
    kernel: Callable[..., Array],
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    span: tuple[Array, Array] | None,
    *,
    prompt: int,
    lanes: int,
    copies: int,
) -> Array:
    """``kernel`` over the prompts, and over the lanes with ``copies`` of the prompt in front.

    It takes of R rows the queries [R, S, K, N / K, H], their own tokens, and those in front.
    """
    rows, width = segments.shape
    check_lanes(width, prompt, lanes)
    own = _Tokens(key, value, segments, span)
    of_prompt = jax.tree.map(lambda x: x[:, :prompt], own)
    front = of_prompt._replace(segments=of_prompt.segments != 0)

    def as_rows(x: Array) -> Array:
        return x[:, prompt:].reshape(rows * lanes, -1, *x.shape[2:])

    def copied(x: Array) -> Array:
        return jnp.tile(jnp.repeat(x, lanes, axis=0), (1, copies, *(1 for _ in x.shape[2:])))

    parts = []
    if prompt:
        nothing = jax.tree.map(lambda x: x[:, :0], front)
        parts.append(kernel(query[:, :prompt], of_prompt, nothing))
    out = kernel(as_rows(query), jax.tree.map(as_rows, own), jax.tree.map(copied, front))
    parts.append(out.reshape(rows, width - prompt, *query.shape[2:]))
    return jnp.concatenate(parts, axis=1)


def _fill(x: Array, multiple: int, value: int = 0) -> Array:
    """More columns (axis 1), up to a multiple."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % multiple)] + [(0, 0)] * (x.ndim - 2), constant_values=value)


def _joined(front: Array, own: Array, multiple: int) -> Array:
    return jnp.concatenate([_fill(front, multiple), _fill(own, multiple)], axis=1)


def _splash(
    query: Array,
    own: _Tokens,
    front: _Tokens,
    *,
    prompt: int,
    cap: float | None,
    interpret: bool,
) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention  # only where it is used: it is slow to import

    rows, width, kv_heads, group, size = query.shape
    copy = 1 + jnp.arange(front.segments.shape[1]) // max(prompt, 1)
    of_front = _fill(jnp.where(front.segments, copy, _NOBODY), _COLUMNS, _NOBODY)
    of_own = _fill(own.segments, _COLUMNS)  # padding sees itself: no query is without a key
    ids = splash_attention.SegmentIds(of_own, jnp.concatenate([of_front, of_own], axis=1))
    shape, offset = (of_own.shape[1], ids.kv.shape[1]), of_front.shape[1]
    if own.span is not None and shape[1] > 1 << _BITS:
        raise ValueError(
            f"a window over {shape[1]} columns of a lane and of the prompt before it: splash attention can be told "
            f"{1 << _BITS} at most; expected shorter lanes, or model.attention = 'xla'"
        )
    of_query, of_key = (next(block for block in _BLOCKS if columns % block == 0) for columns in shape)
    # Everything in front lies before the first query, what is its own may not lie behind it.
    mask = splash_attention.CausalMask(shape, offset=offset)
    if own.span is not None:
        mask.q_sequence, mask.mask_function = _interval(0, offset + np.arange(shape[0])), _within
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
        attn_logits_soft_cap=cap,
        interpret=interpret,
    )
    queries = _fill(query.reshape(rows, width, kv_heads * group, size), _COLUMNS).swapaxes(1, 2)
    keys = _joined(front.key, own.key, _COLUMNS).swapaxes(1, 2)
    values = _joined(front.value, own.value, _COLUMNS).swapaxes(1, 2)
    if own.span is None or front.span is None:
        out: Array = jax.vmap(kernel)(queries, keys, values, ids)  # type: ignore[assignment]
    else:
        positions = _joined(front.span[0], own.span[0], _COLUMNS)
        intervals = _intervals(ids, positions, _fill(own.span[1], _COLUMNS), offset)
        out = jax.vmap(lambda interval, *row: _told(kernel, interval)(*row))(intervals, queries, keys, values, ids)
    return out.swapaxes(1, 2)[:, :width].reshape(query.shape)


def _interval(low: Any, high: Any) -> Any:
    """Columns low to high in one int32: that is what the kernel hands of a query to the function of its mask."""
    return low << _BITS | high


def _within(interval: Any, column: Any) -> Any:
    """Whether a column lies within an interval of ``_interval``; of arrays of NumPy too, and in the kernel."""
    lowest = interval >> _BITS & ((1 << _BITS) - 1)  # without the sign that the shift copies
    return (lowest <= column) & (column <= interval & ((1 << _BITS) - 1))


def _intervals(ids: Any, positions: Array, first: Array, offset: int) -> Array:
    """The columns that each query sees, if they are of its segment: from behind the last that is too far, to its own.

    Distances of positions are not those of columns: a prompt ends in padding, and a segment starts where it will.

    Args:
      ids: segments of queries [R, S] and of keys [R, F + S], as the kernel has them.
      positions: [R, F + S], of the keys.
      first: [R, S], the first position that each query sees.
      offset: F.
    """
    columns, last = jnp.arange(ids.kv.shape[1]), offset + jnp.arange(ids.q.shape[1])
    hidden = (ids.q[:, :, None] == ids.kv[:, None, :]) & (positions[:, None, :] < first[:, :, None])
    low = jnp.max(jnp.where(hidden, columns + 1, 0), axis=2)
    return _interval(jnp.minimum(low, last), jnp.broadcast_to(last, low.shape))


def _told(kernel: Any, interval: Array) -> Any:
    """``kernel`` with the intervals of one row, which are data; what blocks it leaves out was decided without them."""
    infos = kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info
    return type(kernel)(*(info._replace(q_sequence=interval) for info in infos), **kernel.kwargs)


def _cudnn(query: Array, own: _Tokens, front: _Tokens, *, implementation: str) -> Array:
    rows, width, _, _, size = query.shape
    # cuDNN masks an even number.
    queries, of_own, of_front = (_fill(x, 2) for x in (query, own.segments, front.segments))
    columns = jnp.arange(of_own.shape[1])
    seen = sees(of_own[:, :, None], of_own[:, None, :]) & (columns[:, None] >= columns)
    before = jnp.broadcast_to(of_front[:, None], (rows, of_own.shape[1], of_front.shape[1]))
    mask = jnp.concatenate([before, seen], axis=2)
    if own.span is not None and front.span is not None:
        mask &= _fill(own.span[1], 2)[:, :, None] <= _joined(front.span[0], own.span[0], 2)[:, None, :]
    out = jax.nn.dot_product_attention(
        queries.reshape(rows, of_own.shape[1], -1, size),
        _joined(front.key, own.key, 2),
        _joined(front.value, own.value, 2),
        mask=mask[:, None],
        scale=1.0,  # is in the query
        implementation=implementation,  # type: ignore[arg-type]
    )
    return out[:, :width].reshape(query.shape)
