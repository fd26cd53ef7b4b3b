"""The verifier on tokens says what the judge says of the text."""

from __future__ import annotations

import random

import jax
import numpy as np
import pytest

from jaxrl_llm.data import tokens
from jaxrl_llm.data.tokens import character_tokenizer
from jaxrl_llm.models import hub
from jaxrl_llm.rewards import answers
from jaxrl_llm.study.lab.verify import gold_digits, token_kinds, verify

GOLD = ("6", "0", "10", "1234", "1234567")
ANSWERS = (
    "6", "06", "+6", "-6", "6.", "6..", "6...", "6 .", "6. .", "6 . .", ".6", "6.0", "6.00.", "6.01", "60", " 6 ",
    "6 6", "6####6", "####6", "", ".", " ", ",", ".0", "-0", "0", "-.0", "+.0.", "00", "1,234", "01,234", "1,23",
    "1,234,567", "1234", "1,234.", "1,234.0", "12,34", "0,006", "006", "6,", "6,000", "6=6", "\n6", "6\n7", "= 6", "6*",
    ",6", "+", "- 6", "1,,234", "1234,567", "6.0 .", "6 0", ". 6", "10", "010", "1 0",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.load(hub.resolve("embedded:tiny"))


def completions(tokenizer) -> list[tuple[list[int], str]]:
    """Answers that try every rule with every gold one, then random ones, some with a random token, special ones too."""
    draws = random.Random(0)
    rows = [(tokenizer.encode(f"1####{answer}"), gold) for answer in ANSWERS for gold in GOLD]
    for _ in range(1500):
        answer = "".join(draws.choices("066666+-.,. \n1", k=draws.randint(0, 7)))
        row = tokenizer.encode(answer if draws.random() < 0.1 else f"####{answer}")
        if draws.random() < 0.3:
            row.insert(draws.randrange(len(row) + 1), draws.randrange(tokenizer.vocabulary_size))
        rows.append((row, draws.choice(("6", "6", "0", "66"))))
    return rows


def test_the_verifier_agrees_with_the_judge_on_random_and_adversarial_completions(tokenizer):
    rows = completions(tokenizer)
    width = max(len(row) for row, _ in rows)
    table, mask = np.full((len(rows), width), 9, np.int32), np.zeros((len(rows), width), bool)
    for i, (row, _) in enumerate(rows):
        table[i, : len(row)], mask[i, : len(row)] = row, True
    found = jax.jit(verify)(table, mask, token_kinds(tokenizer), *gold_digits([gold for _, gold in rows]))
    right = 0
    for i, (row, gold) in enumerate(rows):
        text = tokenizer.decode(row)
        answer = answers.extract(text, "hash")
        expected = (answer is not None and answers.same(answer, gold), answer is not None)
        assert (bool(found.correct[i]), bool(found.parseable[i])) == expected, (text, gold)
        right += expected[0]
    assert right > 60  # the cases are not all wrong


@pytest.mark.parametrize("answer", ["-3", "1/2", "007", "", "3.0"])
def test_a_gold_answer_that_is_no_whole_number_is_refused(answer):
    with pytest.raises(ValueError, match="whole numbers from 0 on"):
        gold_digits(["4", answer])


def test_a_tokenizer_with_tokens_of_several_characters_is_refused(tmp_path):
    assert token_kinds(character_tokenizer(tmp_path)).max() < 19

    class Words:
        vocabulary_size = 2

        def decode(self, ids):
            return ["####", "six"][ids[0]]

    with pytest.raises(ValueError, match=r"the token 'six'.*engine train judges any text"):
        token_kinds(Words())  # type: ignore[arg-type]
