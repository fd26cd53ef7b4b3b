from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core import returns

GAMMA, LAM = 0.9, 0.8
RNG = np.random.default_rng(0)
MASK = RNG.random((6, 8)) < 0.6
MASK[0], MASK[1], MASK[2, -1] = True, False, False
REWARDS, VALUES = (np.where(MASK, RNG.normal(size=MASK.shape), np.nan).astype(np.float32) for _ in range(2))


def loop_gae(tokens: list[int], rewards: np.ndarray, values: np.ndarray) -> dict[int, float]:
    """Advantages of one row, going back over ``tokens``."""
    advantage, next_value, found = 0.0, 0.0, {}
    for t in reversed(tokens):
        delta = rewards[t] + GAMMA * next_value - values[t]
        advantage = delta + GAMMA * LAM * advantage
        next_value = values[t]
        found[t] = advantage
    return found


@pytest.mark.parametrize("passed_over", [True, False])
def test_gae_is_the_backward_loop_over_tokens(passed_over: bool):
    function = returns.gae if passed_over else returns.gae_through_gaps
    got = np.asarray(function(jnp.asarray(REWARDS), jnp.asarray(VALUES), jnp.asarray(MASK), gamma=GAMMA, lam=LAM))
    for i, row in enumerate(MASK):
        tokens = [t for t in range(8) if row[t] or not passed_over]
        want = loop_gae(tokens, np.nan_to_num(REWARDS[i]), np.nan_to_num(VALUES[i]))
        for t in range(8):
            if row[t]:
                np.testing.assert_allclose(got[i, t], want[t], rtol=1e-4, atol=1e-6)
            elif passed_over:
                assert got[i, t] == 0


def test_returns_to_go_discount_every_column_and_a_run_starts_anew_behind_a_gap():
    to_go = np.asarray(returns.returns_to_go(jnp.asarray(REWARDS), jnp.asarray(MASK), gamma=GAMMA))
    of_run = np.asarray(returns.returns_of_run(jnp.asarray(REWARDS), jnp.asarray(MASK), gamma=GAMMA))
    for i, row in enumerate(MASK):
        total, run = 0.0, 0.0
        for t in reversed(range(8)):
            reward = REWARDS[i, t] if row[t] else 0.0
            total = reward + GAMMA * total
            run = reward + GAMMA * run if row[t] else 0.0
            np.testing.assert_allclose([to_go[i, t], of_run[i, t]], [total, run], rtol=1e-4, atol=1e-6)


def test_a_reward_at_the_last_token_is_the_return_of_every_token_without_discount():
    rewards = jnp.arange(6.0)
    placed = returns.at_last_token(rewards, jnp.asarray(MASK))
    to_go = np.asarray(returns.returns_to_go(placed, jnp.asarray(MASK)))
    assert np.all(to_go[MASK] == np.broadcast_to(np.arange(6.0)[:, None], MASK.shape)[MASK])
    assert not np.any(placed[1])
