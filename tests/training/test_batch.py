"""From a judged and scored rollout to a batch: who reads what, and what each number of the log means."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxrl_llm.training.batch import make_slicer
from jaxrl_llm.training.score import Scores
from jaxrl_llm.types import Rollout
from tests import policies

ROWS, TOKENS = 6, 8
REWARDS = np.array([1, 0, 1, 1, 0, 0], np.float32)


def rollout(**changes) -> Rollout:
    """Three groups of two, rows of full length; the odd rows are truncated."""
    tokens = np.tile(np.arange(TOKENS, dtype=np.int32), (ROWS, 1))
    arrays = {
        "prompt_tokens": np.ones((ROWS, 2), np.int32),
        "prompt_length": np.full(ROWS, 2, np.int32),
        "tokens": tokens,
        "mask": np.ones((ROWS, TOKENS), bool),
        "sampler_logprobs": np.full((ROWS, TOKENS), -1.0, np.float32),
        "truncated": np.arange(ROWS) % 2 == 1,
        "prompt_id": np.repeat(np.arange(3, dtype=np.int32), 2),
    }
    return Rollout(**(arrays | changes))  # type: ignore[arg-type]


def value(metrics, name):
    return float(metrics[name].value)


def test_the_repeat_ratio_is_the_share_of_truncated_rows_that_end_in_a_loop():
    tokens = np.array(rollout().tokens)
    tokens[:2] = 5  # a loop: row 1 is truncated, row 0 ended by itself
    tokens[3] = [1, 2] * (TOKENS // 2)  # truncated too
    _, metrics = policies.batch(policies.algorithm("base"), rollout(tokens=tokens), REWARDS)
    assert value(metrics, "repeat_ratio") == pytest.approx(2 / 3)
    _, metrics = policies.batch(policies.algorithm("base"), rollout(truncated=np.zeros(ROWS, bool)), REWARDS)
    assert np.isnan(value(metrics, "repeat_ratio")), "no row was truncated"


def test_rewards_stand_in_the_batch_as_judged_and_in_the_advantages_as_shaped():
    algorithm = policies.algorithm("base", length_penalty="linear", length_coefficient=0.5)
    batch, metrics = policies.batch(algorithm, rollout(), REWARDS)  # every row is as long as it may be
    np.testing.assert_array_equal(batch.rewards, REWARDS)
    np.testing.assert_allclose(batch.advantages[:, 0], REWARDS - 0.5, rtol=1e-6)
    assert value(metrics, "reward") == 0.5
    assert value(metrics, "shaped_reward") == 0
    assert value(metrics, "effect/length_penalty") == 1


def test_dynamic_sampling_reads_rewards_as_judged_whatever_the_shaping_does():
    algorithm = policies.algorithm(
        "lite_ppo", group_filter="zero_variance", length_penalty="linear", length_coefficient=0.5
    )
    mask = np.ones((ROWS, TOKENS), bool)
    mask[3, 4:] = False  # group 1: equal rewards, unequal lengths
    batch, metrics = policies.batch(algorithm, rollout(mask=mask), REWARDS)
    assert batch.mask.any(axis=1).tolist() == [True, True, False, False, False, False]
    assert value(metrics, "effect/group_filter") == pytest.approx(2 / 3)


def test_a_gap_between_trainer_and_sampler_gives_weights_and_takes_tokens_before_the_loss_is_weighed():
    algorithm = policies.algorithm(
        "base",
        old_logprobs="trainer",
        correction="truncate",
        correction_level="token",
        correction_high=1.5,
        rejection="k3",
        rejection_level="token",
        rejection_high=0.5,
    )
    old = np.full((ROWS, TOKENS), -1.0, np.float32)
    old[0, 0], old[1, 1] = -0.5, 2.0  # ratios e^0.5, cut to 1.5, and e^3, rejected
    batch, metrics = policies.batch(algorithm, rollout(), REWARDS, old_logprobs=old)
    assert not batch.mask[1, 1] and int(batch.mask.sum()) == ROWS * TOKENS - 1
    np.testing.assert_allclose(np.asarray(batch.weights)[np.asarray(batch.mask)], 1 / (ROWS * TOKENS - 1), rtol=1e-6)
    assert batch.weights[1, 1] == 0 and batch.correction is not None
    assert float(batch.correction[0, 0]) == 1.5 and float(batch.correction[2, 0]) == 1
    assert value(metrics, "effect/rejection") == pytest.approx(1 / (ROWS * TOKENS))
    sampled = dataclasses.replace(
        algorithm, old_logprobs="sampler", correction="none", rejection="none",
        correction_level=None, correction_high=None, rejection_level=None, rejection_high=None,
    )  # fmt: skip
    _, plain = policies.batch(sampled, rollout(), REWARDS)
    assert not any(name.startswith("gap/") for name in plain)


def test_rows_of_one_source_are_one_batch():
    algorithm = policies.algorithm("base", baseline="batch", batch_statistics="source")
    source = np.array([4, 4, 4, 4, 9, 9], np.int32)
    batch, _ = policies.batch(algorithm, rollout(), REWARDS, source=source)
    np.testing.assert_allclose(batch.advantages[:, 0], REWARDS - np.array([0.75] * 4 + [0] * 2), atol=1e-7)


def test_the_exact_kl_in_the_reward_is_the_scorers():
    algorithm = policies.algorithm("base", kl_placement="reward", kl_estimator="exact", kl_coefficient=0.5)
    kl = np.zeros((ROWS, TOKENS), np.float32)
    kl[:, -1] = 0.2
    nothing = np.zeros((ROWS, TOKENS), np.float32)
    scores = {"policy": Scores(nothing, nothing, None, kl), "ref_logprobs": nothing}  # type: ignore[arg-type]
    batch, _ = policies.batch(algorithm, rollout(), REWARDS, **scores)
    np.testing.assert_allclose(batch.advantages[:, 0], REWARDS - 0.1, rtol=1e-6)


def test_rows_are_numbered_and_keep_their_number_in_a_slice():
    algorithm = policies.algorithm("base")
    batch, _ = policies.batch(algorithm, rollout(), REWARDS)
    assert batch.row_id is not None and batch.row_id.tolist() == list(range(ROWS))
    part = make_slicer(algorithm, TOKENS)(batch, rollout().prompt_id, np.array([5, 2]))
    assert part.row_id is not None and part.rewards is not None
    assert part.row_id.tolist() == [5, 2] and part.rewards.tolist() == [0, 1]
