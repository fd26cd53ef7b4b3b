from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core import shaping

RNG = np.random.default_rng(0)
LIMIT = 10


def ragged(rows: int = 40, width: int = 12, words: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Few words, so that rows repeat themselves; gaps, and rows of no token and of one."""
    mask = RNG.random((rows, width)) < RNG.random((rows, 1)) * 1.2
    mask[0], mask[1] = False, np.arange(width) == 5
    return RNG.integers(0, words, (rows, width)).astype(np.int32), mask


def test_the_linear_penalty_falls_from_zero_to_minus_one_and_no_further():
    penalty = shaping.linear_length_penalty(jnp.array([0, 5, 10, 12]), max_tokens=LIMIT)
    np.testing.assert_allclose(penalty, [0, -0.5, -1, -1], rtol=1e-6)


def test_the_cosine_penalty_charges_right_answers_for_length_and_wrong_ones_for_brevity():
    length = jnp.array([0, 5, 10, 30])
    right = shaping.cosine_length_penalty(length, jnp.ones(4, bool), max_tokens=LIMIT)
    wrong = shaping.cosine_length_penalty(length, jnp.zeros(4, bool), max_tokens=LIMIT)
    np.testing.assert_allclose(right, [0, -0.5, -1, -1], atol=1e-6)
    np.testing.assert_allclose(wrong, [-1, -0.5, 0, 0], atol=1e-6)


def test_the_group_relative_penalty_ranks_lengths_within_each_group_and_never_rewards_a_wrong_answer():
    length = jnp.array([4, 100, 8, 6, 300, 7, 9])
    correct = jnp.array([1, 1, 1, 0, 0, 1, 0], bool)
    prompt_id = jnp.array([5, 9, 5, 5, 9, 7, 5])
    where = jnp.array([1, 1, 1, 1, 1, 1, 0], bool)
    penalty = shaping.group_relative_length_penalty(length, correct, prompt_id, where)
    np.testing.assert_allclose(penalty, [0.5, 0.5, -0.5, 0.0, -0.5, 0.0, 0.0], atol=1e-6)
    shortest_is_wrong = shaping.group_relative_length_penalty(length, ~correct, prompt_id, where)
    np.testing.assert_allclose(shortest_is_wrong, [0, 0, -0.5, 0.0, -0.5, 0, 0], atol=1e-6)


def test_equal_lengths_and_rows_that_do_not_count_have_no_group_relative_penalty():
    length, nobody = jnp.array([3, 3, 8]), jnp.zeros(3, bool)
    ids = jnp.array([1, 1, 2])
    assert not np.any(shaping.group_relative_length_penalty(length, ~nobody, ids, ~nobody))
    assert not np.any(shaping.group_relative_length_penalty(length, ~nobody, jnp.zeros(3, int), nobody))


@pytest.mark.parametrize("ngram", [1, 2, 3, 20])
def test_the_repetition_penalty_is_the_share_of_repeated_ngrams_of_the_masked_tokens(ngram: int):
    tokens, mask = ragged()
    want = []
    for row, keep in zip(tokens, mask, strict=True):
        words = row[keep].tolist()
        found = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
        want.append(-(1 - len(set(found)) / len(found)) if found else 0.0)
    got = jax.jit(lambda x, m: shaping.repetition_penalty(x, m, ngram=ngram))(tokens, mask)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    assert min(want) < -0.3 or ngram > 3


def test_tokens_off_the_mask_repeat_nothing():
    tokens, mask = ragged()
    noise = np.where(mask, tokens, RNG.integers(0, 9, tokens.shape))
    for function in (
        lambda x: shaping.repetition_penalty(x, jnp.asarray(mask), ngram=2),
        lambda x: shaping.loops(x, jnp.asarray(mask), window=4, period=3, repeats=2),
    ):
        np.testing.assert_array_equal(function(jnp.asarray(tokens)), function(jnp.asarray(noise)))


def ends_in_loop(words: list[int], window: int, period: int, repeats: int) -> bool:
    for p in range(1, period + 1):
        n = max(window, repeats * p)
        end = words[len(words) - n :] if len(words) >= n else []
        if end and all(end[i] == end[i - p] for i in range(p, n)):
            return True
    return False


@pytest.mark.parametrize("settings", [(4, 3, 2), (1, 1, 3), (6, 2, 2), (1, 6, 2), (3, 40, 3)])
def test_a_row_loops_if_its_last_tokens_repeat_with_a_short_period(settings: tuple[int, int, int]):
    tokens, mask = ragged(rows=200, words=2)
    names = dict(zip(("window", "period", "repeats"), settings, strict=True))
    want = [ends_in_loop(row[keep].tolist(), **names) for row, keep in zip(tokens, mask, strict=True)]
    got = jax.jit(lambda x, m: shaping.loops(x, m, **names))(tokens, mask)
    np.testing.assert_array_equal(got, want)
    assert 0 < np.mean(want) < 1


def test_a_text_that_ends_well_is_no_loop_though_it_repeated_itself_before():
    loop, ending = [1, 2, 3] * 6, [7, 8, 9, 10]
    tokens, mask = jnp.array([loop + ending, ending + loop]), jnp.ones((2, 22), bool)
    np.testing.assert_array_equal(shaping.loops(tokens, mask, window=8, period=4, repeats=2), [False, True])


def test_settings_that_name_no_loop_are_refused():
    tokens, mask = (jnp.asarray(x) for x in ragged())
    for name, value in (("window", 0), ("period", 0), ("repeats", 1)):
        with pytest.raises(ValueError, match=f"{name}={value}: expected at least"):
            shaping.loops(tokens, mask, **({"window": 4, "period": 3, "repeats": 2} | {name: value}))
    with pytest.raises(ValueError, match="ngram=0: expected at least 1"):
        shaping.repetition_penalty(tokens, mask, ngram=0)
