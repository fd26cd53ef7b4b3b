"""Attention over rows [prompt | lane | lane | ...]: only the products that somebody sees are computed.

What a token sees is said once, at ``apply`` of :class:`jaxrl_llm.types.Model`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.types import BRANCHES, Array

# Queries of one product. Their keys end where they do, which leaves out nearly half of the scores of a lane; much
# narrower products run slower on CPU than they save.
BLOCK = 128

_HIDDEN = jnp.finfo(jnp.float32).min


def by_lanes(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    *,
    prompt: int = 0,
    lanes: int = 1,
    cap: float | None = None,
    span: tuple[Array, Array] | None = None,
) -> Array:
    """softmax(q · k) v over the keys that a token sees, the softmax in float32.

    Args:
      query: [B, S, K, N / K, H], scaled.
      key: [B, S, K, H].
      value: [B, S, K, H].
      segments: int32 [B, S]; 0 is padding.
      prompt: columns of the prompt that the lanes share.
      lanes: that the other columns are cut into.
      cap: see :func:`soft_cap`.
      span: int32 [B, S] twice: the position of each token, and the first position that it sees; None: it sees all.

    Returns:
      [B, S, K, N / K, H], in the dtype of ``value``.

    Raises:
      ValueError: the columns behind the prompt do not divide into lanes.
    """
    width = segments.shape[1]
    check_lanes(width, prompt, lanes)

    def cut(start: int, end: int, lanes: int) -> tuple[Array, Array, Array]:
        return tuple(_cut(x[:, start:end], lanes) for x in (query, key, value))  # type: ignore[return-value]

    def lanes_of(x: Array) -> Array:
        return x[:, prompt:].reshape(-1, lanes, (width - prompt) // lanes)

    of_lanes, span_of_lanes = lanes_of(segments), None if span is None else (lanes_of(span[0]), lanes_of(span[1]))
    if not prompt:
        return _join(_causal(*cut(0, width, lanes), of_lanes, None, cap, span_of_lanes))
    of_prompt, (first, keys, values) = segments[:, None, :prompt], cut(0, prompt, 1)
    shared, span_of_prompt = (keys[:, :, 0], values[:, :, 0], of_prompt[:, 0] != 0), None
    if span is not None and span_of_lanes is not None:
        span_of_prompt = span[0][:, None, :prompt], span[1][:, None, :prompt]
        near = span_of_lanes[1][..., None] <= span_of_prompt[0][:, :, None]
        shared = *shared[:2], shared[2][:, None, None] & near
    parts = (
        _causal(first, keys, values, of_prompt, None, cap, span_of_prompt),
        _causal(*cut(prompt, width, lanes), of_lanes, shared, cap, span_of_lanes),
    )
    return jnp.concatenate([_join(part) for part in parts], axis=1)


def sees(segment: Array, other: Array) -> Array:
    """bool: whether tokens of ``segment`` see those of ``other`` before them: of their own, and of its trunk."""
    trunk = segment & -BRANCHES
    return (segment == other) | ((trunk == other) & (trunk != 0))


def soft_cap(scores: Array, cap: float | None) -> Array:
    """cap · tanh(scores / cap); None: the scores themselves (Gemma 2, 2024, arXiv 2408.00118)."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def check_lanes(width: int, prompt: int, lanes: int) -> None:
    """Raises ValueError where ``width`` columns are not a prompt and ``lanes`` of equal width."""
    if lanes < 1 or not 0 <= prompt < width or (width - prompt) % lanes:
        raise ValueError(f"a row of {width} columns: expected a prompt of {prompt} and {lanes} lanes of equal width")


def _cut(x: Array, lanes: int) -> Array:
    """[B, L · W, K, ..., H] as [B, K, L, ..., W, H]: batch axes lead, else a product is slow on CPU."""
    x = x.reshape(x.shape[0], lanes, -1, *x.shape[2:])
    return jnp.moveaxis(x, (3, 2), (1, -2))


def _join(x: Array) -> Array:
    """The reverse, of [B, K, L, G, W, H]."""
    x = jnp.moveaxis(x, (1, -2), (3, 2))
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _causal(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    shared: tuple[Array, Array, Array] | None,
    cap: float | None,
    span: tuple[Array, Array] | None,
) -> Array:
    """Attention of every lane to itself and to what the lanes of its row share.

    Args:
      query: [B, K, L, G, W, H].
      key: [B, K, L, W, H], and so is ``value``.
      segments: [B, L, W].
      shared: keys and values [B, K, Q, H] of the prompt, and a bool [B, Q] or [B, L, W, Q]: what of them every token of
        the lanes sees, or each of them; None: nothing.
      span: as of ``by_lanes``, [B, L, W] twice.
    """
    width, columns = query.shape[-2], jnp.arange(query.shape[-2])
    blocks = []
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        seen = sees(segments[:, :, start:end, None], segments[:, :, None, :end])
        seen &= columns[start:end, None] >= columns[:end]
        if span is not None:
            seen &= span[1][:, :, start:end, None] <= span[0][:, :, None, :end]
        keys, values, part = key[:, :, :, :end], value[:, :, :, :end], shared
        if shared is not None and shared[2].ndim > 2:
            part = *shared[:2], shared[2][:, :, start:end]
        blocks.append(_block(query[..., start:end, :], keys, values, seen, part, cap))
    return jnp.concatenate(blocks, axis=-2)


def _block(
    query: Array,
    key: Array,
    value: Array,
    seen: Array,
    shared: tuple[Array, Array, Array] | None,
    cap: float | None,
) -> Array:
    """Queries [B, K, L, G, W, H] over keys [B, K, L, S, H] where ``seen`` [B, L, W, S], and over ``shared``.

    The two parts of the softmax have one maximum and one sum; sum and product are taken apart, which spares a copy of
    both parts side by side.
    """
    rows, kv_heads, lanes, group, width, size = query.shape

    def product(axes: str, left: Array, right: Array) -> Array:
        return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32).reshape(*query.shape[:-1], -1)

    # Queries of a group are further rows of one product a key/value head, and for what is shared, so are the lanes.
    of_lane = query.reshape(rows, kv_heads, lanes, group * width, size)
    seen = seen[:, None, :, None]
    scores = jnp.where(seen, soft_cap(product("bklqh,bklsh->bklqs", of_lane, key), cap), _HIDDEN)
    highest = scores.max(axis=-1, keepdims=True)
    on_shared = None
    if shared is not None:
        of_row, visible = query.reshape(rows, kv_heads, -1, size), shared[2]
        visible = visible[:, None, None, None, None] if visible.ndim == 2 else visible[:, None, :, None]
        on_shared = jnp.where(visible, soft_cap(product("bkqh,bksh->bkqs", of_row, shared[0]), cap), _HIDDEN)
        highest = jnp.maximum(highest, on_shared.max(axis=-1, keepdims=True))
    highest = jax.lax.stop_gradient(highest)  # what is subtracted changes no softmax
    shares = jnp.exp(scores - highest)
    total = shares.sum(axis=-1, keepdims=True)
    shares = shares.astype(value.dtype).reshape(*of_lane.shape[:-1], -1)
    out = product("bklqs,bklsh->bklqh", shares, value)
    if shared is not None and on_shared is not None:
        shares = jnp.exp(on_shared - highest)
        total += shares.sum(axis=-1, keepdims=True)
        shares = shares.astype(value.dtype).reshape(rows, kv_heads, lanes * group * width, -1)
        out += product("bkqs,bksh->bkqh", shares, shared[1])
    return (out / total).astype(value.dtype)
