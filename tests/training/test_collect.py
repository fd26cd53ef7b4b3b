"""What a batch is made of: groups with texts of their own, refilled where a filter drops some."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxrl_llm.data.prompts import Problem
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.training import collect as collecting
from jaxrl_llm.training.collect import Completions, bucket, join, prompt_ids, trim
from jaxrl_llm.types import Rollout
from tests import policies


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


def test_a_batch_is_refilled_by_difficulty_and_says_which_share_came_later(monkeypatch):
    """Of each round of two groups one is right in half of its rows, the other in all of them."""
    drawn = iter([[1, 2], [3, 4], [5, 6]])

    def complete_once(session, prepared, problems, ids, data, judge, key, *, samples, sampling):
        made = completions([p.id for p in problems])
        outcomes = [Outcome.CORRECT if p.id % 2 == 0 or row == 0 else Outcome.WRONG for p in problems for row in (0, 1)]
        return made._replace(outcomes=outcomes, rewards=np.ones(len(outcomes), np.float32))

    class Stream:
        def next(self, count):
            return [problem(i) for i in next(drawn)]

    monkeypatch.setattr(collecting, "complete", complete_once)
    algorithm = policies.algorithm(
        "dapo", group_filter="difficulty", difficulty_low=0.0, difficulty_high=1.0, resample_rounds=3
    )
    settings = SimpleNamespace(
        data=SimpleNamespace(prompts_per_step=2, samples_per_prompt=2), algorithm=algorithm, sampling=None
    )
    got, counts = collecting.collect(None, {}, Stream(), settings, None, None)  # type: ignore[arg-type]
    assert [p.id for p in got.problems] == [1, 3], "the rewards are all equal: the filter reads right and wrong"
    assert counts == {"rounds": 2, "groups_drawn": 4, "groups_kept": 2, "effect/resample_rounds": 0.5}


def test_right_and_readable_are_told_by_the_outcome():
    made = completions([1, 2])._replace(
        outcomes=[Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.TIMEOUT], rewards=np.zeros(4, np.float32)
    )
    assert made.correct.tolist() == [True, False, False, False]
    assert made.parseable.tolist() == [True, True, False, True]
