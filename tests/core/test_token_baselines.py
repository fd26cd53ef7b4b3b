from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core.token_baselines import optimal_token_baseline

RNG = np.random.default_rng(0)
PROMPT_ID = jnp.array([4, 9, 4, 4, 9, 1])
EVERYONE = jnp.ones(6, bool)
LENGTH = np.array([3, 2, 6, 3, 5, 4])
MASK = jnp.asarray(np.arange(6)[None, :] < LENGTH[:, None])
REWARDS, OLD, SQUARES = (RNG.normal(size=(6, 6)).astype(np.float32) for _ in range(3))
OLD, SQUARES = -np.abs(OLD), np.exp(-np.abs(SQUARES))


def baseline(
    rewards=REWARDS, mask=MASK, where=EVERYONE, old=OLD, squares=SQUARES, weights=None, zero_tail=False
) -> tuple[jax.Array, jax.Array]:
    arrays = (jnp.asarray(rewards), mask, PROMPT_ID, where, jnp.asarray(old), jnp.asarray(squares))
    return optimal_token_baseline(*arrays, weights=weights, epsilon=1e-8, zero_tail=zero_tail)


def test_equal_energies_make_it_the_mean_of_the_returns_of_the_rows_that_reach_the_token():
    advantages, returns = baseline(old=np.full((6, 6), -1e9), squares=np.zeros((6, 6)))  # every step is 1
    returns, mask = np.asarray(returns), np.asarray(MASK)
    for rows in ([0, 2, 3], [1, 4]):
        for t in range(6):
            reaching = [i for i in rows if mask[i, t]]
            for i in reaching:
                want = returns[i, t] - returns[reaching, t].mean()
                np.testing.assert_allclose(advantages[i, t], want, rtol=1e-4, atol=1e-5)


def test_a_row_of_more_energy_weighs_more():
    squares = np.where(np.arange(6)[:, None] == 2, 50.0, SQUARES)
    plain, returns = baseline()
    heavy, _ = baseline(squares=squares)
    # the baseline of row 0's first token moves to the return of row 2
    assert abs((returns - heavy)[0, 0] - returns[2, 0]) < abs((returns - plain)[0, 0] - returns[2, 0])
    np.testing.assert_allclose(plain[1], heavy[1], rtol=1e-6)


def test_a_group_of_one_and_equal_returns_at_the_first_token():
    advantages, returns = baseline()
    np.testing.assert_array_equal(advantages[5], jnp.where(MASK[5], returns[5], 0))
    at_end = np.where(np.arange(6)[None, :] == LENGTH[:, None] - 1, 1.0, 0.0)
    equal, _ = baseline(rewards=at_end)
    np.testing.assert_allclose(np.asarray(equal)[:5, 0], 0, atol=1e-6)


@pytest.mark.parametrize("tail", [False, True])
def test_beyond_the_second_longest_row_the_baseline_is_its_own_return_or_nothing(tail: bool):
    advantages, returns = baseline(zero_tail=tail)
    for row, second in ((2, 3), (4, 2)):
        want = np.asarray(returns)[row, second : LENGTH[row]] if tail else 0
        np.testing.assert_allclose(np.asarray(advantages)[row, second : LENGTH[row]], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(baseline(zero_tail=True)[0][:, :2], baseline()[0][:, :2])


def test_two_rows_of_the_greatest_length_leave_no_tail():
    mask = MASK.at[0].set(MASK[2])
    rows = np.array([0, 2, 3])
    np.testing.assert_array_equal(baseline(mask=mask, zero_tail=True)[0][rows], baseline(mask=mask)[0][rows])


def test_garbage_off_the_mask_and_in_rows_that_do_not_count_changes_nothing():
    where = EVERYONE.at[3].set(False)
    keep = np.asarray(MASK & where[:, None])
    rewards, old, squares = (np.where(keep, x, np.nan) for x in (REWARDS, OLD, SQUARES))
    weights = jnp.asarray(np.where(keep, 1.5, np.nan))
    clean = baseline(where=where, weights=jnp.full((6, 6), 1.5))
    noisy = baseline(rewards=rewards, where=where, old=old, squares=squares, weights=weights)
    for want, got in zip(clean, noisy, strict=True):
        np.testing.assert_array_equal(got, want)
    assert not np.any(noisy[0][3])
