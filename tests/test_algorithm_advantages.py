"""Laws of the advantages, of the filters and of the shaped reward."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm import algorithm as library
from jaxrl_llm.algorithm import Algorithm, keep_groups, policy_loss, shape_rewards
from tests.strategies import (
    LITE_PPO,
    ROWS,
    algorithm,
    step,
)

BASELINES = ["group", "batch", "leave_one_out"]
PAPER_REWARDS = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


def row_advantages(a: Algorithm, rewards: np.ndarray, prompt_id: np.ndarray) -> np.ndarray:
    """Advantages [B] of rows of one token each."""
    rows: dict[str, Any] = {"prompt_id": jnp.asarray(prompt_id), "truncated": jnp.zeros(rewards.size, bool)}
    ones = jnp.ones((rewards.size, 1), bool)
    return np.asarray(library.advantages(a, jnp.asarray(rewards), mask=ones, **rows).values[:, 0])


def test_equal_rewards_of_a_group_give_exactly_no_advantage_beside_other_groups():
    rewards = np.array([0.1, 0.1, 0.1, 0.7, 0.3, 0.3], np.float32)
    for baseline in ("group", "leave_one_out"):
        for scale in ("none", "group", "batch", "batch_centered"):
            a = algorithm(baseline=baseline, scale=scale, scale_epsilon=0.0)
            values = row_advantages(a, rewards, np.array([5, 5, 5, 8, 8, 8]))
            assert np.all(values[:3] == 0)
            assert np.all(values[3:] != 0)


@pytest.mark.parametrize("scale", ["group", "batch", "batch_centered"])
def test_where_nothing_spreads_the_scale_leaves_nothing_and_never_divides_by_epsilon_alone(scale: str):
    rewards = np.full(6, 0.1, np.float32)
    a = algorithm(baseline="none", scale=scale)
    assert not np.any(row_advantages(a, rewards, np.array([5, 5, 5, 8, 8, 8])))


def test_equal_advantages_are_whitened_to_exactly_nothing():
    rewards = np.full(11, 0.1, np.float32)
    for epsilon in (0.0, 1e-6):
        a = algorithm(whiten=True, scale_epsilon=epsilon)
        assert not np.any(row_advantages(a, rewards, np.arange(11)))


@pytest.mark.parametrize(
    ("baseline", "scale", "want"),
    [
        ("group", "group", [[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5], [0] * 4, [0] * 4]),
        ("group", "none", [[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75], [0] * 4, [0] * 4]),
        ("group", "batch", [[1.4524, -0.4841, -0.4841, -0.4841], [0.4841] * 3 + [-1.4524], [0] * 4, [0] * 4]),
        ("group", "batch_centered", [[2.3717, -0.7906, -0.7906, -0.7906], [0.7906] * 3 + [-2.3717], [0] * 4, [0] * 4]),
        ("batch", "batch", np.where(PAPER_REWARDS == 1, 0.968246, -0.968246)),
        ("none", "none", PAPER_REWARDS),
    ],
)
def test_the_table_of_small_examples_holds(baseline: str, scale: str, want):
    a = algorithm(baseline=baseline, scale=scale)
    values = row_advantages(a, PAPER_REWARDS.reshape(-1), np.repeat([3, 1, 2, 9], 4))
    np.testing.assert_allclose(values.reshape(4, 4), want, atol=1e-4)


def test_a_group_of_one_scored_row_has_no_advantage():
    rewards = np.array([1.0, np.nan, 0.0, 1.0], np.float32)
    for a in (LITE_PPO, algorithm(baseline="group", scale="group"), algorithm(baseline="leave_one_out")):
        values = row_advantages(a, rewards, np.array([0, 0, 1, 1]))
        assert np.all(values[:2] == 0)
        assert np.all(values[2:] != 0)


def test_filters_act_on_the_mask_and_leave_the_statistics_alone():
    s = dataclasses.replace(step(1, binary=True), truncated=np.arange(ROWS) % 2 == 0)
    plain = s.advantages(LITE_PPO)
    for changes in ({"overlong_filter": True}, {"group_filter": "zero_variance"}):
        filtered = s.advantages(dataclasses.replace(LITE_PPO, **changes))
        np.testing.assert_array_equal(filtered.values, plain.values)
    filtered = s.advantages(dataclasses.replace(LITE_PPO, overlong_filter=True))
    np.testing.assert_array_equal(filtered.mask, s.mask & ~s.truncated[:, None])
    assert filtered.metrics["effect/overlong_filter"].value == np.float32(0.5)


def test_whitened_advantages_have_mean_zero_and_std_one_over_tokens():
    s = step(3)
    values = np.asarray(s.advantages(algorithm(whiten=True, scale_epsilon=0.0)).values)[s.mask]
    np.testing.assert_allclose([values.mean(), values.std(ddof=1)], [0, 1], atol=1e-6)


def test_a_clipped_advantage_says_how_many_tokens_were_clipped():
    s = step(3)
    free, held = s.advantages(algorithm()), s.advantages(algorithm(advantage_clip=0.5))
    np.testing.assert_array_equal(held.values, np.clip(free.values, -0.5, 0.5))
    share = np.mean(np.abs(np.asarray(free.values))[s.mask] > 0.5)
    np.testing.assert_allclose(held.metrics["effect/advantage_clip"].value, share, rtol=1e-6)


def test_kl_goes_into_the_reward_exactly_when_the_knob_says_so():
    s = step(0)
    with pytest.raises(ValueError, match="kl_placement = 'none' but kl is given"):
        s.advantages(LITE_PPO, jnp.asarray(s.kl))
    a = dataclasses.replace(LITE_PPO, kl_placement="reward", kl_coefficient=0.1, kl_estimator="k1")
    named: dict[str, Any] = {name: jnp.asarray(getattr(s, name)) for name in ("prompt_id", "mask", "truncated")}
    with pytest.raises(ValueError, match="kl_placement = 'reward' but kl is None"):
        library.advantages(a, jnp.asarray(s.rewards), **named)
    b = dataclasses.replace(LITE_PPO, kl_placement="loss", kl_estimator="k3", kl_coefficient=0.1)
    batch = dataclasses.replace(s.batch(b), ref_logprobs=None)
    with pytest.raises(ValueError, match="ref_logprobs is None"):
        policy_loss(b, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), batch)


def test_dynamic_sampling_keeps_the_groups_whose_own_rewards_differ():
    rewards = jnp.array([0.1, 1, 0.1, 0, 0.1, 1, np.nan, 5])
    prompt_id = jnp.array([7, 2, 7, 2, 7, 9, 9, 4])
    keep = keep_groups(algorithm(group_filter="zero_variance"), rewards, prompt_id)
    np.testing.assert_array_equal(keep, [False, True, False, True, False, False, False, False])
    assert np.all(keep_groups(algorithm(), rewards, prompt_id))


def test_zero_variance_groups_are_counted_once_each_whatever_their_size():
    rewards, prompt_id = np.array([1, 1, 1, 1, 1, 0, 2, 2], np.float32), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    ones = jnp.ones((8, 1), bool)
    result = library.advantages(
        LITE_PPO, jnp.asarray(rewards), prompt_id=jnp.asarray(prompt_id), mask=ones, truncated=jnp.zeros(8, bool)
    )
    np.testing.assert_allclose(result.metrics["zero_variance_groups"].value, 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(result.metrics["reward_std_group"].value, 0.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(result.metrics["reward_std_batch"].value, rewards.std(), rtol=1e-6)


def test_the_soft_penalty_is_zero_before_the_buffer_and_full_at_the_limit():
    a = algorithm(overlong_buffer=20, overlong_penalty=0.5)
    mask = np.arange(130)[None, :] < np.array([0, 80, 81, 90, 100, 130])[:, None]
    rows: dict[str, Any] = {"mask": jnp.asarray(mask), "prompt_id": jnp.arange(6), "max_tokens": 100}
    shaped = shape_rewards(a, jnp.array([1, 1, 1, 1, 1, 0]), **rows)
    np.testing.assert_allclose(shaped.total, [1, 1, 0.975, 0.75, 0.5, -0.5], rtol=1e-6)
    np.testing.assert_array_equal(shaped.judged, [1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(shaped.metrics["effect/overlong_buffer"].value, 4 / 6, rtol=1e-6)
    np.testing.assert_array_equal(shape_rewards(algorithm(), jnp.ones(6), **rows).total, np.ones(6))
    assert np.all(np.isnan(shape_rewards(a, jnp.full(6, np.nan), **rows).total))


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"format_coefficient": 0.1}, "parseable"),
        ({"length_penalty": "cosine"}, "correct"),
        ({"length_penalty": "group_relative"}, "correct"),
        ({"repetition_coefficient": 0.1, "repetition_ngram": 2}, "tokens"),
    ],
)
def test_a_reward_without_what_it_reads_is_refused(changes, missing: str):
    ones = jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match=f"{missing} is None"):
        shape_rewards(algorithm(**changes), jnp.ones(2), mask=ones, prompt_id=jnp.ones(2), max_tokens=9)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"baseline": "critic"}, "baseline = 'critic' but values"),
        ({"baseline": "greedy"}, "baseline = 'greedy' but greedy_rewards"),
        ({"baseline": "optimal_token"}, "baseline = 'optimal_token' but old_logprobs"),
        ({"baseline": "running"}, "baseline = 'running' but controls"),
        ({"scale": "running"}, "scale = 'running' but controls"),
        ({"scale": "batch", "batch_statistics": "source"}, "batch_statistics = 'source' but source"),
        ({"group_filter": "difficulty"}, "group_filter = 'difficulty' but correct"),
    ],
)
def test_advantages_without_what_a_knob_reads_are_refused_by_the_knobs_name(changes, named: str):
    with pytest.raises(ValueError, match=f"algorithm.{named} is None"):
        row_advantages(algorithm(**changes), np.ones(4), np.zeros(4))
