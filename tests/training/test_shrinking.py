"""Rows that have stopped leave the batch: the texts of one program, from fewer rows and no more memory."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxrl_llm.models.decoder import functions
from jaxrl_llm.sampling.generate import cache_widths, generate
from jaxrl_llm.sampling.keys import step_key
from jaxrl_llm.training import shrinking
from tests import policies
from tests.policies import CONFIG, IDS, LENGTHS, MODEL, PAD, PLAIN, PROMPTS

SAMPLES = 8
ROWS = len(PROMPTS) * SAMPLES
STOPS = tuple(range(1, 17))  # enough for most rows to stop early
WINDOWED = functions(dataclasses.replace(CONFIG, window=5, windowed=(True, False)))


@pytest.fixture
def batches(monkeypatch):
    """(rows, prompts, width) of every loop, where batches may have as few as two rows."""
    monkeypatch.setattr(shrinking, "LEAST_ROWS", 2)
    seen, extend = [], shrinking._extend

    def watched(model, prepared, progress, draws, width, few):
        seen.append((progress.rows, progress.prompts, width))
        return extend(model, prepared, progress, draws, width, few)

    monkeypatch.setattr(shrinking, "_extend", watched)
    return seen


def sample(loop, model=MODEL, prompts=PROMPTS):
    arguments = jax.jit(model.prepare)(policies.params()), prompts, LENGTHS, IDS, step_key(0, 0, 0)
    options = {"samples": SAMPLES, "sampling": PLAIN, "stop_ids": STOPS, "pad_id": PAD}
    return jax.device_get(loop(model, *arguments, **options))


@pytest.mark.parametrize("model", [MODEL, WINDOWED], ids=["all tokens", "windows"])
def test_texts_are_those_of_one_program_whatever_leaves(model, batches):
    whole, shrunk = sample(generate, model), sample(shrinking.generate_shrinking, model)
    assert min(rows for rows, *_ in batches) < ROWS / 4
    for field in dataclasses.fields(whole):
        found, expected = getattr(shrunk, field.name), getattr(whole, field.name)
        assert found.dtype == expected.dtype
        # products of fewer rows may add in another order
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if found.dtype == np.float32 else 0)


def test_a_batch_is_halved_as_soon_as_half_of_its_rows_have_stopped(batches):
    rollout = sample(shrinking.generate_shrinking)
    last = rollout.mask.sum(axis=1) - 1  # the column of the last token
    last[rollout.truncated] = PLAIN.max_tokens
    rows, column, expected = ROWS, 1, []
    for width in cache_widths(PLAIN.max_tokens):
        while column <= min(width, PLAIN.max_tokens - 1) and (last >= column).any():
            while rows > 2 and (last >= column).sum() <= rows / 2:
                rows //= 2
            if not expected or expected[-1][::2] != (rows, width):
                expected.append((rows, len(PROMPTS) if rows == ROWS else rows, width))
            column += 1
    assert batches == expected
    assert len(expected) >= 4


def test_a_smaller_batch_needs_no_more_memory_although_its_rows_share_no_prompt(batches):
    wide = np.pad(PROMPTS, ((0, 0), (0, 57)))
    rollout = sample(shrinking.generate_shrinking, prompts=wide)
    columns = [prompts * wide.shape[1] + rows * width for rows, prompts, width in batches]
    assert all(after <= before for before, after in itertools.pairwise(columns[: [w for *_, w in batches].count(32)]))
    assert batches[1][0] == ROWS // 4  # a half of 16 rows, with a prompt of 64 columns each, would need more
    np.testing.assert_array_equal(rollout.tokens, sample(shrinking.generate_shrinking).tokens)


@pytest.mark.parametrize(
    ("rows", "most", "expected"),
    [
        (128, 128, [64, 32, 16, 8, 4]),
        (100, 100, [50, 25, 13, 7, 4]),
        (128, 40, [32, 16, 8, 4]),
        (7, 7, [4]),
        (6, 6, []),
        (1, 1, []),
    ],
)
def test_batches_are_halves_of_halves_down_to_four_rows(rows, most, expected):
    assert shrinking.smaller_batches(rows, most) == expected
