"""What a batch is made of: groups with texts of their own, refilled where a filter drops some."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrl_llm.data.prompts import Problem
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.training.collect import Completions, bucket, join, prompt_ids, trim
from jaxrl_llm.types import Rollout


def problem(i: int) -> Problem:
    return Problem(i, f"{i}=", str(i), "jsonl:x")


def completions(
    ids: list[int], *, samples: int = 2, prompt_width: int = 3, lengths: tuple[int, ...] = ()
) -> Completions:
    rows = len(ids) * samples
    mask = np.arange(64)[None] < np.array(lengths or (5,) * rows)[:, None]
    numbers = np.repeat(np.array(ids, np.int32), samples)
    rollout = Rollout(
        prompt_tokens=np.tile(numbers[:, None], (1, prompt_width)),  # type: ignore[arg-type]
        prompt_length=np.full(rows, prompt_width, np.int32),  # type: ignore[arg-type]
        tokens=np.tile(numbers[:, None], (1, 64)),  # type: ignore[arg-type]
        mask=mask,  # type: ignore[arg-type]
        sampler_logprobs=np.zeros((rows, 64), np.float32),  # type: ignore[arg-type]
        truncated=~mask[:, -1],  # type: ignore[arg-type]
        prompt_id=numbers,  # type: ignore[arg-type]
    )
    texts = [f"{n}/{i % samples}" for i, n in enumerate(numbers)]
    rewards = np.arange(rows, dtype=np.float32)
    return Completions(rollout, [problem(i) for i in ids], texts, rewards, [Outcome.WRONG] * rows, 0.5)


def test_a_problem_that_comes_twice_in_a_batch_makes_two_groups():
    ids = prompt_ids([problem(i) for i in (4, 9, 4, 4)])
    assert ids.dtype == np.int32 and ids[:2].tolist() == [4, 9] and len(set(ids.tolist())) == 4
    assert (ids[2:] < 0).all(), "never the number of another problem"


def test_chosen_groups_keep_rows_texts_and_rewards_together():
    chosen = completions([7, 8, 9]).groups(np.array([2, 0]))
    assert [p.id for p in chosen.problems] == [9, 7]
    assert chosen.judge_seconds == 0.5
    assert chosen.texts == ["9/0", "9/1", "7/0", "7/1"] and chosen.rewards.tolist() == [4, 5, 0, 1]
    assert chosen.rollout.prompt_id.tolist() == [9, 9, 7, 7]


def test_joined_rollouts_share_the_widest_prompt():
    both = join([completions([1], prompt_width=3), completions([2], prompt_width=5)])
    assert both.rollout.prompt_tokens.shape == (4, 5)
    assert both.rollout.prompt_length.tolist() == [3, 3, 5, 5] and both.judge_seconds == 1.0


@pytest.mark.parametrize(
    ("longest", "limit", "width"), [(1, 64, 16), (17, 64, 32), (64, 64, 64), (3, 8, 8), (90, 100, 100)]
)
def test_a_bucket_holds_the_longest_and_never_passes_the_limit(longest, limit, width):
    assert bucket(longest, limit) == width


def test_trimming_cuts_only_columns_that_no_row_reaches():
    full = completions([1, 2], lengths=(3, 17, 1, 2)).rollout
    cut = trim(full)
    assert cut.tokens.shape == (4, 32)
    np.testing.assert_array_equal(cut.mask.sum(axis=1), full.mask.sum(axis=1))
    assert all(x.shape[0] == 4 for x in jax.tree.leaves(cut))
