from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core import advantages

REWARDS = jnp.array([3.0, 1.0, 0.1, 1.0, 5.0, 0.1, 9.0])
PROMPT_ID = jnp.array([1, 1, 2, 1, 1, 2, 3])
EVERYONE = jnp.ones(7, bool)


def test_only_the_best_row_of_a_group_leads_and_nobody_does_in_a_tie_or_alone():
    np.testing.assert_allclose(advantages.lead_of_best(REWARDS, PROMPT_ID, EVERYONE), [0, 0, 0, 0, 2, 0, 0])
    without = EVERYONE.at[4].set(False)
    np.testing.assert_allclose(advantages.lead_of_best(REWARDS, PROMPT_ID, without), [2, 0, 0, 0, 0, 0, 0])


def test_a_group_of_one_keeps_its_reward_only_if_asked_to():
    length = jnp.arange(7.0) + 1
    for keep, want in ((False, 0.0), (True, 9.0)):
        for centred in (
            advantages.minus_group_mean(REWARDS, PROMPT_ID, EVERYONE, keep_single=keep),
            advantages.minus_mean_of_others(REWARDS, PROMPT_ID, EVERYONE, keep_single=keep),
            advantages.minus_length_weighted_mean(REWARDS, length, PROMPT_ID, EVERYONE, keep_single=keep),
        ):
            assert centred[6] == want
            assert np.all(np.asarray(centred)[[2, 5]] == 0)  # equal rewards


def test_the_length_weighted_baseline_weighs_by_tokens():
    length = jnp.array([1.0, 3.0, 2.0, 4.0, 2.0, 5.0, 7.0])
    centred = advantages.minus_length_weighted_mean(REWARDS, length, PROMPT_ID, EVERYONE)
    own = np.array([0, 1, 3, 4])
    baseline = np.average(np.asarray(REWARDS)[own], weights=np.asarray(length)[own])
    np.testing.assert_allclose(np.asarray(centred)[own], np.asarray(REWARDS)[own] - baseline, rtol=1e-6)


def test_the_raw_batch_std_counts_the_spread_between_prompts_and_the_centred_one_does_not():
    rewards = jnp.array([0.0, 1.0, 10.0, 11.0])
    rows = (jnp.array([0, 0, 1, 1]), jnp.ones(4, bool))
    raw = advantages.batch_std(rewards, *rows, ddof=0)
    centred = advantages.centred_batch_std(rewards, *rows, ddof=0)
    np.testing.assert_allclose(raw, np.std([0, 1, 10, 11]), rtol=1e-6)
    np.testing.assert_allclose(centred, 0.5, rtol=1e-6)


def test_whitening_each_row_uses_its_own_tokens():
    values = jnp.array([[1.0, 2.0, jnp.nan], [5.0, 5.0, 5.0], [4.0, 0.0, 2.0]])
    mask = jnp.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    white = advantages.whiten(values, mask, ddof=0, axis=1)
    np.testing.assert_allclose(white, [[-1, 1, 0], [0, 0, 0], [1.2247449, -1.2247449, 0]], rtol=1e-6, atol=1e-7)
    kept = advantages.whiten(values, mask, ddof=0, axis=1, center=False)
    np.testing.assert_allclose(kept[0], [0.5, 2.5, 0], rtol=1e-6)
    only_centred = advantages.whiten(values, mask, ddof=0, scale=False)
    np.testing.assert_allclose(np.asarray(only_centred)[np.asarray(mask)].sum(), 0, atol=1e-6)
    np.testing.assert_allclose(only_centred[2, 0] - only_centred[2, 1], 4, rtol=1e-6)
