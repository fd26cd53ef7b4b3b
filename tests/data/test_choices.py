"""Multiple choice: how choices stand in a question, which letter is right, and what verifiers make of letters."""

from __future__ import annotations

import collections
import json
from typing import Any

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm.cli_tiers import TiersSettings, parts_of
from jaxrl_llm.data.choices import LETTERS
from jaxrl_llm.data.tiers import Part, draw
from jaxrl_llm.rewards.combine import Judge, RewardSettings
from tests.policies import CONFIGS

LISTED: dict[str, Any] = {"choices_key": "options"}  # as MMLU-Pro has them
APART: dict[str, Any] = {
    "answer_key": "Correct Answer",
    "wrong_keys": ("Incorrect Answer 1", "Incorrect Answer 2"),
}  # as GPQA has them


def problems(folder, rows, seed: int = 0, **keys: Any):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = draw("file.part", Part(f"jsonl:{path}", **keys), lambda texts: dict.fromkeys(texts, True), seed, set())
    return [row.problem for row in found.rows], found.report


def apart(right, *wrong, question="Which?"):
    return {"question": question, "Correct Answer": right} | {
        f"Incorrect Answer {i + 1}": w for i, w in enumerate(wrong)
    }


@pytest.mark.parametrize("right", ["B", " B\n", 1])
def test_listed_choices_stand_under_letters_and_a_letter_or_an_index_names_the_right_one(tmp_path, right):
    (problem,), _ = problems(
        tmp_path, [{"question": "2 + 2?\n", "options": ["3", "4 ", "a\nb"], "answer": right}], **LISTED
    )
    assert problem.question == "2 + 2?\n\nThe answer is the letter of one of these:\nA. 3\nB. 4\nC. a b"
    assert problem.answer == "B"


def test_choices_apart_are_shuffled_by_the_seed_and_the_letter_goes_with_the_right_one(tmp_path):
    rows = [apart(f"right {i}", "wrong", "other", question=f"q{i}") for i in range(300)]
    places = {}
    for seed in (0, 1):
        made, _ = problems(tmp_path, rows, seed, **APART)
        for i, problem in enumerate(made):
            assert f"\n{problem.answer}. right {i}" in problem.question
            assert {line[3:] for line in problem.question.split("\n")[-3:]} == {f"right {i}", "wrong", "other"}
        places[seed] = [problem.answer for problem in made]
        counts = collections.Counter(places[seed])
        assert all(70 <= counts[letter] <= 130 for letter in "ABC"), (
            f"100 each expected, 8 is a standard deviation: {counts}"
        )
    assert places[0] != places[1]
    again, _ = problems(tmp_path, rows[::-1], 0, **APART)
    assert [problem.answer for problem in again] == places[0][::-1], "not the order of the rows"


def test_a_row_with_the_right_text_twice_is_left_out_and_counted(tmp_path):
    rows = [apart("x", "x ", "y"), apart("x", "y", "y", question="two wrong ones may be equal")]
    (problem,), report = problems(tmp_path, rows, **APART)
    assert problem.question.startswith("two wrong") and report["dropped"]["ambiguous_choices"] == 1


@pytest.mark.parametrize(
    ("keys", "row", "message"),
    [
        (
            LISTED,
            {"question": "q", "options": ["1", "2"], "answer": "C"},
            r"line 1: the right choice is 'C', .* A to B",
        ),
        (LISTED, {"question": "q", "options": ["1", "2"], "answer": "1"}, "the right choice is '1', expected a letter"),
        (LISTED, {"question": "q", "options": ["1", "2"], "answer": 2}, "the right choice is 2, .* from 0 to 1"),
        (LISTED, {"question": "q", "options": ["1"], "answer": "A"}, r"line 1: choices \['1'\], expected 2 to 26"),
        (LISTED, {"question": "q", "options": "12", "answer": "A"}, "choices '12', expected"),
        (LISTED, {"question": "q", "options": ["1", " "], "answer": "A"}, "texts that are not empty"),
        (LISTED, {"question": "q", "answer": "A"}, "line 1: no key 'options'"),
        (APART, apart("x", 3, "y"), r"choices \['x', 3, 'y'\], expected"),
        (APART, apart("x", "y"), "line 1: no key 'Incorrect Answer 2'"),
        (APART | LISTED, apart("x", "y"), r"wrong_keys = .* expected none beside choices_key"),
    ],
)
def test_choices_that_are_none_are_refused_by_row(tmp_path, keys, row, message):
    with pytest.raises(ValueError, match=message):
        problems(tmp_path, [row], **keys)


@pytest.mark.parametrize("verifier", ["exact", "math"])
def test_every_letter_is_a_gold_answer_and_nothing_but_it_is_right(verifier):
    settings = RewardSettings(verifier, "boxed", 1.0, 0.0, 0.0, 0.0, None, 5.0, "none")
    gold = list(LETTERS[:10])
    with Judge(settings) as judge:
        assert all(judge.readable(gold).values())
        for form in (r"\boxed{%s}", r"\boxed{(%s)}", r"\boxed{\text{%s}}", r"\boxed{\text{(%s)}.}"):
            right, _ = judge.judge([form % letter for letter in gold], gold, [False] * 10)
            others, _ = judge.judge([form % letter for letter in gold[1:] + gold[:1]], gold, [False] * 10)
            assert right.tolist() == [1.0] * 10 and others.tolist() == [0.0] * 10, form


def test_the_choices_of_the_paper_are_two_benchmarks_that_name_themselves():
    settings = configs.parse(configs.load(CONFIGS / "paper" / "choices.py", [], TiersSettings), TiersSettings)
    (parts,) = parts_of(settings).values()
    assert {name: bool(part.choices_key) + 2 * len(part.wrong_keys) for name, part in parts.items()} == {
        "GPQA": 6,
        "MMLU-Pro": 1,
    }
