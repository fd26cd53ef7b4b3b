import dataclasses

import numpy as np
import pytest

from jaxrl_llm.rewards.combine import Judge, RewardSettings
from jaxrl_llm.rewards.equivalence import Outcome

SETTINGS = RewardSettings(
    verifier="exact",
    answer_format="hash",
    correct=1.0,
    wrong=-0.25,
    unparseable=-0.5,
    timeout=0.125,
    truncated=None,
    timeout_seconds=5.0,
    sandbox="none",
)
TEXTS = ["1+1=2\n####2", "####2.0\n1+2=####3", "####3", "2", ""]
GOLD = ["2", "2", "2", "2", "2"]
OUTCOMES = [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.UNPARSEABLE]
NOT_TRUNCATED = [False] * 5


def test_every_outcome_pays_what_the_settings_say():
    with Judge(SETTINGS) as judge:
        rewards, outcomes = judge.judge(TEXTS, GOLD, NOT_TRUNCATED)
    assert outcomes == OUTCOMES
    assert rewards.dtype == np.float32
    assert rewards.tolist() == [1.0, 1.0, -0.25, -0.5, -0.5]


def test_a_truncated_row_gets_its_own_reward_and_keeps_its_outcome():
    truncated = [True, False, True, False, True]
    with Judge(dataclasses.replace(SETTINGS, truncated=-2.0)) as judge:
        rewards, outcomes = judge.judge(TEXTS, GOLD, np.array(truncated))
    assert outcomes == OUTCOMES
    assert rewards.tolist() == [-2.0, 1.0, -2.0, -0.5, -2.0]
    with Judge(SETTINGS) as judge:  # None: judged like any other
        assert judge.judge(TEXTS, GOLD, truncated)[0].tolist() == [1.0, 1.0, -0.25, -0.5, -0.5]


def test_the_math_verifier_sees_what_the_exact_one_does_not():
    settings = dataclasses.replace(SETTINGS, answer_format="boxed", timeout_seconds=20.0)
    texts = [r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{0.6}", r"\boxed{}", r"\boxed{}}{}"]
    gold = [r"\frac{1}{2}"] * 5
    with Judge(settings) as judge:
        assert [outcome.value for outcome in judge.judge(texts, gold, NOT_TRUNCATED)[1]] == ["wrong"] * 3 + [
            "unparseable"
        ] * 2
    with Judge(dataclasses.replace(settings, verifier="math")) as judge:
        rewards, outcomes = judge.judge(texts, gold, NOT_TRUNCATED)
    assert outcomes == [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.UNPARSEABLE]
    assert rewards.tolist() == [1.0, 1.0, -0.25, -0.5, -0.5]


def test_a_verifier_that_runs_out_of_time_pays_the_timeout_and_the_rest_is_judged():
    settings = dataclasses.replace(SETTINGS, verifier="math", answer_format="boxed", timeout_seconds=1.0)
    texts = [r"\boxed{9^{9^{9^9}}}", r"\boxed{1+1}"]
    with Judge(settings) as judge:
        rewards, outcomes = judge.judge(texts, ["5", "2"], [False, False])
    assert outcomes == [Outcome.TIMEOUT, Outcome.CORRECT]
    assert rewards.tolist() == [0.125, 1.0]


@pytest.mark.parametrize(("verifier", "unreadable"), [("exact", " $ "), ("math", "}{")])
def test_an_unreadable_gold_answer_is_an_error_that_names_its_row(verifier, unreadable):
    with Judge(dataclasses.replace(SETTINGS, verifier=verifier)) as judge:
        judge.check(["1", "2"])
        with pytest.raises(ValueError, match=f"file, line 8: the {verifier} verifier cannot read the gold answer"):
            judge.check(["1", unreadable], names=["file, line 7", "file, line 8"])
        with pytest.raises(ValueError, match="row 1: "):
            judge.judge(["####1", "####1"], ["1", unreadable], [False, False])


def test_lists_of_different_lengths_are_refused():
    with Judge(SETTINGS) as judge, pytest.raises(ValueError, match="2 texts, 1 gold answers and 2 truncation flags"):
        judge.judge(["a", "b"], ["1"], [False, False])


@pytest.mark.parametrize(
    ("key", "value"),
    [("verifier", "maths"), ("answer_format", "box"), ("correct", -0.25), ("timeout_seconds", 0.0)],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"reward\\.{key} = {value!r}"):
        dataclasses.replace(SETTINGS, **{key: value})
