"""Windows, soft caps and layers that are not alike, in rows of lanes, in decoding, and over devices."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import decoder
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.types import BRANCHES

# Both kinds of layers twice; more positions than the window; windows over the whole of what lanes share and a part.
CONFIG = ModelConfig(
    family="gemma3_text",
    vocab_size=50,
    width=16,
    layers=3,
    heads=4,
    kv_heads=2,
    head_size=8,
    mlp_width=24,
    norm_epsilon=1e-6,
    rope_theta=1000.0,
    max_positions=64,
    tied=True,
    qkv_bias=False,
    qk_norm=False,
    norms="around",
    norm_offset=True,
    scaled_embedding=True,
    activation="gelu_tanh",
    attention_cap=2.0,
    logit_cap=4.0,
    window=6,
    windowed=(True, False, True),
    unrotated=(False, True, False),
    local_rope_theta=100.0,
)
PROMPT, SHARED, LANES, LANE = 8, 7, 2, 16  # columns; the prompt has SHARED tokens, then padding
# Float32 sums in another order, through three layers: hidden states of size 1 differ by a few 1e-6.
TOLERANCE = 2e-5


@functools.cache
def params():
    """Large enough that scores reach the cap."""
    made = jax.jit(decoder.functions(CONFIG).init)(jax.random.key(0))
    return jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, made)


def sequences() -> tuple[np.ndarray, list[np.ndarray]]:
    """A prompt and its three completions."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 50, SHARED), [rng.integers(0, 50, length) for length in (10, 6, 9)]


@functools.cache
def alone() -> list[np.ndarray]:
    """Hidden states of each completion with its prompt in a row of its own."""
    prompt, completions = sequences()
    rows = np.zeros((3, SHARED + LANE), np.int32)
    for row, completion in zip(rows, completions, strict=True):
        row[: SHARED + len(completion)] = [*prompt, *completion]
    lengths = np.array([SHARED + len(completion) for completion in completions])
    columns = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    hidden = apply(rows, columns, (columns < lengths[:, None]).astype(np.int32))
    return [row[:length] for row, length in zip(hidden, lengths, strict=True)]


def apply(*rows: np.ndarray, prompt: int = 0, lanes: int = 1, model=None) -> np.ndarray:
    run = functools.partial((model or decoder.functions(CONFIG)).apply, prompt=prompt, lanes=lanes)
    return np.asarray(jax.jit(run)(params(), *(jnp.asarray(x, jnp.int32) for x in rows)))


def packed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, segments of one row: the prompt, a lane with one completion, a lane with two."""
    prompt, (first, second, third) = sequences()
    tokens, positions, segments = np.zeros((3, 1, PROMPT + LANES * LANE), np.int32)
    tokens[0, :SHARED], positions[0, :SHARED], segments[0, :SHARED] = prompt, np.arange(SHARED), 1
    start = PROMPT
    for number, lane in enumerate([[first], [second, third]]):
        start = PROMPT + number * LANE
        for segment, completion in enumerate(lane, 1):
            part = slice(start, start + len(completion))
            tokens[0, part], segments[0, part] = completion, segment
            positions[0, part] = SHARED + np.arange(len(completion))
            start += len(completion)
    return tokens, positions, segments


_SECOND = PROMPT + LANE
PARTS = [slice(PROMPT, PROMPT + 10), slice(_SECOND, _SECOND + 6), slice(_SECOND + 6, _SECOND + 15)]


@pytest.mark.parametrize("mesh", [None, (1, 1, 2, 1), (1, 1, 1, 2)], ids=str)
def test_lanes_that_share_a_prompt_are_rows_of_their_own(mesh):
    if mesh is None:
        hidden = apply(*packed(), prompt=PROMPT, lanes=LANES)
    else:
        with jax.set_mesh(make_mesh(MeshSettings(*mesh), jax.devices()[:2])):
            hidden = apply(*packed(), prompt=PROMPT, lanes=LANES)
    for part, expected in zip(PARTS, alone(), strict=True):
        np.testing.assert_allclose(hidden[0, part], expected[SHARED:], rtol=0, atol=TOLERANCE)


def test_branches_of_a_trunk_are_rows_of_their_own():
    prompt, completions = sequences()
    parts = [(prompt, BRANCHES, 0), *((row, BRANCHES + i, SHARED) for i, row in enumerate(completions, 1))]
    tokens = np.concatenate([row for row, _, _ in parts])[None]
    segments = np.concatenate([np.full(len(row), segment) for row, segment, _ in parts])[None]
    positions = np.concatenate([first + np.arange(len(row)) for row, _, first in parts])[None]
    hidden, start = apply(tokens, positions, segments)[0], SHARED
    for expected in alone():
        end = start + len(expected) - SHARED
        np.testing.assert_allclose(hidden[start:end], expected[SHARED:], rtol=0, atol=TOLERANCE)
        start = end


def test_decoding_over_a_shared_prompt_gives_the_hidden_states_of_the_full_sequence():
    model, (prompt, completions) = decoder.functions(CONFIG), sequences()
    prepared, width = model.prepare(params()), 10
    rows = np.zeros((3, width), np.int32)
    for row, completion in zip(rows, completions, strict=True):
        row[: len(completion)] = completion
    tokens = np.pad(prompt, (0, PROMPT - SHARED))[None].astype(np.int32)

    def run(prepared):
        length = jnp.array([SHARED])
        last, cache = model.prefill(prepared, jnp.asarray(tokens), length)

        def step(own, column):
            position = jnp.full(3, SHARED) + column
            hidden, own = model.decode(prepared, jnp.asarray(rows)[:, column], position, cache, length, own, column)
            return own, hidden

        return last, jax.lax.scan(step, model.empty_cache(3, width), jnp.arange(width))[1]

    last, hidden = jax.jit(run)(prepared)
    np.testing.assert_allclose(last[0], alone()[0][SHARED - 1], rtol=0, atol=TOLERANCE)
    for i, expected in enumerate(alone()):
        np.testing.assert_allclose(hidden[: len(expected) - SHARED, i], expected[SHARED:], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "off",
    [
        {"window": None, "windowed": (), "local_rope_theta": None},
        {"attention_cap": None},
        {"unrotated": ()},
        {"local_rope_theta": None},
    ],
    ids=str,
)
def test_every_switch_changes_what_the_model_computes(off):
    """Else the tests above would hold of a model without it."""
    other = decoder.functions(dataclasses.replace(CONFIG, **off))
    changed = apply(*packed(), prompt=PROMPT, lanes=LANES, model=other)
    assert np.abs(changed[0, PARTS[0]] - alone()[0][SHARED:]).max() > 1e-3


def test_the_final_cap_bounds_the_logits():
    model, hidden = decoder.functions(CONFIG), 50 * jnp.ones((2, CONFIG.width))
    plain = decoder.functions(dataclasses.replace(CONFIG, logit_cap=None)).unembed(params(), hidden)
    found = model.unembed(params(), hidden)
    np.testing.assert_allclose(found, 4 * np.tanh(plain / 4), rtol=1e-6)
    np.testing.assert_array_equal(model.unembed_prepared(model.prepare(params()), hidden), found)


def test_a_scan_over_many_layers_tells_each_of_its_kind():
    deep = dataclasses.replace(CONFIG, layers=9, windowed=(True, False, True) * 3, unrotated=(False, True, False) * 3)
    assert deep.layers > decoder.UNROLLED_LAYERS
    made, (tokens, positions, segments) = jax.jit(decoder.functions(deep).init)(jax.random.key(1)), packed()
    model, rows = decoder.functions(deep), [jnp.asarray(x[:, PROMPT + LANE :]) for x in (tokens, positions, segments)]
    scanned = jax.jit(model.apply)(made, *rows)
    prepared, layer = model.prepare(made), decoder.Layer(deep, jnp.dtype(jnp.float32))
    x = decoder.embedded(deep, prepared, rows[0], rows[1])

    def one_by_one(prepared, x):
        angles = decoder.rotary_angles(deep, rows[1])
        for weights, kind in zip(prepared["layers"], decoder.layer_kinds(deep), strict=True):
            x, _ = layer.apply({"params": weights}, x, angles, rows[2], rows[1], kind)
        return decoder.norm(deep).apply({"params": prepared["final_norm"]}, x)

    expected, real = jax.jit(one_by_one)(prepared, x), np.asarray(rows[2][0]) != 0
    np.testing.assert_allclose(scanned[0, real], expected[0, real], rtol=0, atol=TOLERANCE)
