"""Multiple choice as a question with a short answer: choices stand in it under letters, and a letter is the answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import string
from collections.abc import Sequence
from typing import Any

from jaxrl_llm.data.prompts import Problem

LETTERS = string.ascii_uppercase
ASKED = "The answer is the letter of one of these:"


def in_order(problem: Problem, choices: Any, right: Any) -> tuple[Problem, bool]:
    """The problem with its choices in their order, and whether another one is the same text as the right one.

    Args:
      problem: its answer is not read.
      choices: a list of texts.
      right: the letter of the right one, or its integer index from 0.

    Raises:
      ValueError: naming the row; choices that are no such list, or ``right`` is not one of them.
    """
    choices = _checked(problem, choices)
    known = LETTERS[: len(choices)]
    if isinstance(right, str) and len(right.strip()) == 1 and right.strip() in known:
        return _lettered(problem, choices, known.index(right.strip()))
    if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(choices):
        return _lettered(problem, choices, right)
    raise ValueError(
        f"{problem.name}: the right choice is {right!r}, expected a letter of A to {known[-1]}, or an index from 0 to "
        f"{len(choices) - 1}"
    )


def shuffled(problem: Problem, wrong: Sequence[Any], seed: int) -> tuple[Problem, bool]:
    """The problem with its answer among ``wrong`` ones, and whether one of them is the same text.

    Their order follows from seed, question and choices alone.

    Raises:
      ValueError: naming the row; a wrong answer that is no text.
    """
    choices = _checked(problem, [problem.answer, *wrong])

    def place(index: int) -> bytes:
        return hashlib.blake2b(json.dumps([seed, problem.question, choices[index]]).encode()).digest()

    order = sorted(range(len(choices)), key=place)
    return _lettered(problem, [choices[index] for index in order], order.index(0))


def _checked(problem: Problem, choices: Any) -> list[str]:
    """Each on one line."""
    texts = isinstance(choices, list | tuple) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not texts or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"{problem.name}: choices {choices!r}, expected 2 to {len(LETTERS)} texts that are not empty")
    return [" ".join(choice.split()) for choice in choices]


def _lettered(problem: Problem, choices: list[str], right: int) -> tuple[Problem, bool]:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    question = "\n".join([problem.question.rstrip(), "", ASKED, *lines])
    return dataclasses.replace(problem, question=question, answer=LETTERS[right]), choices.count(choices[right]) > 1
