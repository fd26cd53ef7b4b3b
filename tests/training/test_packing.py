"""The packer: every token that is needed is predicted once, from exactly the tokens that stood before it."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from jaxrl_llm.training.layouts import Budget, Sequences
from jaxrl_llm.training.packing import Packing, Saved, pack, plain
from jaxrl_llm.types import BRANCHES, Rollout

GROUPS, WIDTH, PROMPT = 4, 40, 9


@st.composite
def sequences(draw) -> Sequences:
    """Groups of several sizes, their rows in any order; a group's rows have one prompt."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=GROUPS))
    groups = np.repeat(np.arange(len(sizes)) * 7 - 3, sizes)
    prompts = np.repeat(draw(st.lists(st.integers(1, PROMPT), min_size=len(sizes), max_size=len(sizes))), sizes)
    rows = len(groups)
    length = np.array(draw(st.lists(st.integers(0, WIDTH), min_size=rows, max_size=rows)))
    kept = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    order = np.array(draw(st.permutations(range(rows))))
    return Sequences(prompts[order], length[order], groups[order], kept[order], prompt_width=PROMPT, width=WIDTH)


budgets = st.builds(
    Budget,
    tokens=st.sampled_from([0, 1, 60, 130, 400]),
    devices=st.sampled_from([1, 2, 8]),
    multiple=st.sampled_from([1, 4]),
    share=st.booleans(),
    trees=st.booleans(),
)


def seen(part: Packing, row: int, column: int) -> list[tuple[int, int]]:
    """(token, position) of every column that a column sees, in order, as `types.Model.apply` says; token by token."""
    width = part.segments.shape[1]
    lane_width = (width - part.prompt) // part.lanes

    def lane(column: int) -> int:
        return -1 if column < part.prompt else (column - part.prompt) // lane_width

    found = []
    for other in range(column + 1):
        mine, its = int(part.segments[row, column]), int(part.segments[row, other])
        trunk = mine // BRANCHES * BRANCHES
        same = lane(other) == lane(column) and (its == mine or (trunk and its == trunk))
        if same or (lane(other) == -1 and lane(column) >= 0 and its):
            found.append((int(part.source[row, other]), int(part.positions[row, other])))
    return found


def check(part: Packing, of: Sequences) -> list[tuple[int, int]]:
    """The tokens (b, t) that a pass predicts; each sees its own prompt and what was sampled before it, in place."""
    stride, done = of.prompt_width + of.width, []
    for row, slot in zip(*np.nonzero(np.asarray(part.target) < len(of.length) * of.width), strict=True):
        b, t = divmod(int(part.target[row, slot]), of.width)
        prompt = int(of.prompt_length[b])
        context = seen(part, row, int(part.column[row, slot]))
        # a shared prompt is that of another row of the group: its tokens are the same
        groups = [int(of.prompt_id[token // stride]) for token, _ in context]
        assert set(groups) == {int(of.prompt_id[b])}
        assert [token % stride for token, _ in context[:prompt]] == list(range(prompt))
        assert [token for token, _ in context[prompt:]] == [b * stride + of.prompt_width + i for i in range(t)]
        assert [position for _, position in context] == list(range(prompt + t))
        done.append((b, t))
    return done


@settings(max_examples=60, deadline=None)
@given(sequences(), budgets)
def test_every_needed_token_is_predicted_once_from_what_stood_before_it(of: Sequences, budget: Budget):
    parts, saved = pack(of, budget)
    done = [token for part in parts for token in check(part, of)]
    assert sorted(done) == [(b, t) for b in of.rows.tolist() for t in range(of.length[b])]
    assert len({(part.source.shape, part.column.shape, part.prompt, part.lanes) for part in parts}) == 1
    rows, width = parts[0].source.shape
    assert rows % budget.devices == 0 and width % budget.multiple == 0
    longest = (of.prompt_length + of.length)[of.rows].max(initial=1)
    one_a_row = PROMPT + WIDTH + 2 * budget.multiple  # what a row takes that holds one sequence alone
    assert not budget.tokens or rows // budget.devices * width <= max(budget.tokens, one_a_row)
    assert width >= longest or parts[0].lanes > 1
    assert saved.computed == sum(part.source.size for part in parts)
    assert saved.predicted == sum(part.column.size for part in parts)


@settings(max_examples=20, deadline=None)
@given(sequences(), budgets)
def test_the_shares_that_were_saved_add_up_to_what_was_not_computed(of: Sequences, budget: Budget):
    _, saved = pack(of, budget)
    shares = saved.shares()
    assert saved.plain == len(of.length) * (PROMPT + WIDTH)
    assert sum(shares[name] for name in ("rows", "prompts", "padding")) == pytest.approx(
        1 - saved.computed / saved.plain
    )
    assert shares["rows"] == pytest.approx(1 - len(of.rows) / len(of.length))
    assert shares["logits"] == 1 - saved.predicted / saved.plain


def uniform(groups: int, samples: int, prompt: int, width: int) -> Sequences:
    rows = groups * samples
    ids = np.repeat(np.arange(groups), samples)
    return Sequences(
        np.full(rows, prompt), np.full(rows, width), ids, np.ones(rows, bool), prompt_width=prompt, width=width
    )


def test_a_group_of_equal_completions_shares_one_prompt_without_a_column_of_padding():
    parts, saved = pack(uniform(16, 8, 64, 256), Budget(4096))
    assert (len(parts), parts[0].prompt, parts[0].lanes, parts[0].source.shape) == (16, 64, 8, (1, 64 + 8 * 256))
    assert saved == Saved(plain=40960, of_rows=0, of_prompts=16 * 7 * 64, computed=33792, predicted=32768)


def test_short_completions_of_several_prompts_stand_in_one_lane():
    of = dataclasses.replace(uniform(12, 2, 8, 40), length=np.full(24, 4))
    parts, saved = pack(of, Budget(0))
    assert parts[0].prompt == 0 and parts[0].source.shape == (8, 32), "two prompts and their completions in a row"
    assert saved.of_prompts == 12 * 8 and saved.computed == 8 * 32, "six rows, and two to fill a power of two"
    _, of_kernel = pack(of, Budget(0, trees=False))
    assert of_kernel.of_prompts < saved.of_prompts, "an attention kernel knows no trunk"


def test_the_plain_packing_is_the_padded_one():
    of = uniform(2, 3, 5, 7)
    of = dataclasses.replace(of, prompt_length=np.repeat([5, 3], 3), length=np.array([7, 2, 7, 1, 7, 7]))
    arrays = {"prompt_tokens": np.zeros((6, 5), np.int32), "prompt_length": of.prompt_length, "prompt_id": of.prompt_id}
    columns = dict.fromkeys(("tokens", "mask", "sampler_logprobs"), np.zeros((6, 7), np.int32))
    rollout = Rollout(**arrays, **columns, truncated=np.zeros(6, bool))  # type: ignore[arg-type]
    (padded,), _ = pack(of, Budget(0, share=False))
    every = jax.device_get(plain(rollout))
    for row, length in enumerate(of.length):
        np.testing.assert_array_equal(every.target[row, :length], padded.target[row, :length])
        np.testing.assert_array_equal(every.column[row, :length], padded.column[row, :length])
        held = padded.source[row] >= 0
        for name in ("source", "positions", "segments"):
            np.testing.assert_array_equal(getattr(every, name)[row, held], getattr(padded, name)[row, held])


def test_rows_that_are_not_computed_leave_no_pass_without_a_row():
    of = uniform(2, 2, 3, 5)
    parts, saved = pack(dataclasses.replace(of, kept=np.zeros(4, bool)), Budget(64, devices=8))
    assert len(parts) == 1 and (np.asarray(parts[0].source) == -1).all() and saved.shares()["rows"] == 1


def test_a_group_of_several_prompts_is_refused():
    of = dataclasses.replace(uniform(2, 2, 3, 5), prompt_length=np.array([3, 3, 2, 3]))
    with pytest.raises(ValueError, match=r"prompt_id 1: prompts of \[2, 3\] tokens; expected one prompt a group"):
        pack(of, Budget(64))
