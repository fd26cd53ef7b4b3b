"""Attention over rows [prompt | lane | lane | ...] against one dense mask over the whole row."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import attention
from jaxrl_llm.types import BRANCHES

# Float32 sums of up to 150 numbers of size 1, taken in another order: they differ by a few 1e-6.
TOLERANCE = 2e-5
KV_HEADS, GROUP, SIZE = 2, 3, 8
BLOCK = attention.BLOCK

# Columns of the prompt, and the segments of each lane; the prompt's segments come first where there is one.
ROWS = {
    "one short lane": (0, [[1] * 9]),
    "a lane of several segments, with padding between and behind": (
        0,
        [[1] * 40 + [0] * 5 + [1] * 9 + [2] * (BLOCK - 20) + [0] * 7],
    ),
    "lanes without a prompt": (0, [[1] * 7, [1] * 3 + [2] * 4, [0] * 7]),
    "lanes that share a prompt": (6, [[1] * 4 + [0] * 2, [1] * 5 + [2] * 4, [3] * 7 + [0] * 2]),
    "lanes wider than a block": (5, [[1] * 5, [1] * (BLOCK + 3), [1] * 9 + [2] * (BLOCK - 10) + [0] * 4]),
    "a prompt wider than a block": (BLOCK + 4, [[1] * (BLOCK + 2) + [0] * 2, [1] * 3]),
    "branches that share their trunk": (
        0,
        [
            [BRANCHES] * 5
            + [BRANCHES + 1] * 9
            + [BRANCHES + 2] * 4
            + [2 * BRANCHES] * 3
            + [2 * BRANCHES + 1] * 4
            + [0] * 3
        ],
    ),
    "a prompt of padding": (4, [[0] * 4, [1] * 3, [1] * 2 + [0]]),
}


def row(case: str) -> tuple[int, int, np.ndarray]:
    """prompt, lanes and segments [2, S]: the case and, beside it, a row without padding."""
    prompt, parts = ROWS[case]
    segments = np.concatenate(parts).astype(np.int32)
    return prompt, len(parts) - bool(prompt), np.stack([segments, np.ones_like(segments)])


def inputs(segments: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    kv = (*segments.shape, KV_HEADS, SIZE)
    shapes = (*kv[:-1], GROUP, SIZE), kv, kv
    query, key, value = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    return query, key, value


def sees(segments: np.ndarray, prompt: int, lanes: int) -> np.ndarray:
    """bool [B, S, S] (query, key), pair by pair as `types.Model` says it."""
    rows, width = segments.shape
    lane = [-1 if column < prompt else (column - prompt) // ((width - prompt) // lanes) for column in range(width)]
    seen = np.zeros((rows, width, width), bool)
    for b in range(rows):
        for q in range(width):
            for k in range(q + 1):
                trunk = segments[b, q] // BRANCHES * BRANCHES
                own = lane[q] == lane[k] and (segments[b, k] == segments[b, q] or 0 < trunk == segments[b, k])
                of_prompt = lane[q] >= 0 and lane[k] < 0 and segments[b, k] != 0
                seen[b, q, k] = own or of_prompt
    return seen


def dense(query, key, value, *, seen, cap=None):
    scores = jnp.einsum("bqkgh,bskh->bkgqs", query, key)
    scores = scores if cap is None else cap * jnp.tanh(scores / cap)
    return jnp.einsum("bkgqs,bskh->bqkgh", jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf)), value)


def output_and_gradient(function, arguments, segments):
    """Gradients of a loss on the tokens that are no padding."""
    weights = np.random.default_rng(1).standard_normal(arguments[0].shape) * (segments != 0)[..., None, None, None]

    def loss(arguments):
        out = function(*arguments)
        return jnp.sum(weights * jnp.where(weights == 0, 0, out)), out

    (_, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(arguments)
    return out, gradient


@pytest.mark.parametrize("case", ROWS)
def test_a_row_of_lanes_is_one_dense_mask_over_the_row_forward_and_backward(case):
    prompt, lanes, segments = row(case)
    arguments, seen = inputs(segments), sees(segments, prompt, lanes)

    def by_lanes(query, key, value):
        return attention.by_lanes(query, key, value, jnp.asarray(segments), prompt=prompt, lanes=lanes)

    out, gradient = output_and_gradient(by_lanes, arguments, segments)
    expected, expected_gradient = output_and_gradient(functools.partial(dense, seen=seen), arguments, segments)
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE)
    for found, wanted in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
        assert not np.asarray(found)[segments == 0].any()
    assert np.isfinite(out).all()


@pytest.mark.parametrize(
    "case", ["lanes wider than a block", "a prompt wider than a block", "branches that share their trunk"]
)
def test_a_window_and_a_cap_are_those_of_the_dense_mask_forward_and_backward(case):
    prompt, lanes, segments = row(case)
    arguments, cap = inputs(segments), 1.5
    # Positions that repeat and skip columns, and a first position that is seen of each token.
    positions = np.maximum(np.arange(segments.shape[1]) - 3, 0) * np.ones_like(segments)
    first = positions - np.random.default_rng(2).integers(0, 9, segments.shape)
    seen = sees(segments, prompt, lanes) & (first[:, :, None] <= positions[:, None, :])

    def by_lanes(query, key, value):
        span = jnp.asarray(positions), jnp.asarray(first)
        return attention.by_lanes(
            query, key, value, jnp.asarray(segments), prompt=prompt, lanes=lanes, cap=cap, span=span
        )

    out, gradient = output_and_gradient(by_lanes, arguments, segments)
    expected, expected_gradient = output_and_gradient(functools.partial(dense, seen=seen, cap=cap), arguments, segments)
    real = segments != 0
    np.testing.assert_allclose(out[real], expected[real], rtol=0, atol=TOLERANCE)
    for found, wanted in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("prompt", "lanes"), [(0, 3), (4, 4), (10, 1), (-1, 1), (0, 0)])
def test_columns_that_are_no_prompt_and_equal_lanes_are_refused(prompt, lanes):
    segments = np.ones((1, 10), np.int32)
    with pytest.raises(ValueError, match=f"row of 10 columns: expected a prompt of {prompt} and {lanes} lanes"):
        attention.by_lanes(*inputs(segments), jnp.asarray(segments), prompt=prompt, lanes=lanes)
