"""Built-in tasks with verifiable answers: row i is computed, not stored, and depends on (task, tier, split, i) alone.

The two splits of a task are disjoint by construction: a hash of the question's text decides to which one it belongs,
about one question in eight to ``held_out``. Within a split, questions repeat as often as chance has it: almost never
for ``chain_sum`` from the medium tier on, now and then for ``digit_chain``, whose easy tier knows 1,024 questions, at
every turn for ``addition``, whose easy tier knows 100 only.

Randomness is a hash of the row's name, not a library's generator, so the rows are the same on every machine and under
every version of Python and numpy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from typing import NamedTuple

SPLITS = ("train", "held_out")


class Example(NamedTuple):
    """One row of a task: the question, its answer, and a worked solution that ends in the answer."""

    question: str
    answer: str
    solution: str


class _Draws:
    """A stream of random integers that is a pure function of its name."""

    def __init__(self, *name: object):
        self._name = "/".join(map(str, name))
        self._words = self._generate()

    def _generate(self):
        for block in itertools.count():
            digest = hashlib.blake2b(f"{self._name}#{block}".encode()).digest()
            yield from (int.from_bytes(digest[i : i + 8], "big") for i in range(0, len(digest), 8))

    def between(self, low: int, high: int) -> int:
        """An integer in low..high, both included (64-bit draws: the modulo's bias is below 1e-15)."""
        return low + next(self._words) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def uniform(self) -> float:
        return next(self._words) / 2**64


def split_of(question: str) -> str:
    """The split that a question belongs to, by a hash of its text alone."""
    return "held_out" if hashlib.blake2b(question.encode(), digest_size=8).digest()[0] % 8 == 0 else "train"


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of problems in tiers of difficulty.

    Attributes:
      name: as in ``task:NAME``.
      tiers: names, easiest first.
      draw: (tier, draws) -> Example; one question at random.
      careless: (example, draws) -> a worked solution with one slip, whose answer is wrong; None for a task that has no
        worked solutions, and no pretraining text.
    """

    name: str
    tiers: tuple[str, ...]
    draw: Callable[[str, _Draws], Example]
    careless: Callable[[Example, _Draws], str] | None = None

    def generate(self, tier: str, split: str, index: int) -> Example:
        """Row ``index`` of a split: the first of the row's own candidates whose question belongs to the split.

        Raises:
          ValueError: where the tier or the split is unknown, or the index is negative.
        """
        if tier not in self.tiers:
            raise ValueError(f"task:{self.name} has no tier {tier!r}; its tiers are {', '.join(self.tiers)}")
        if split not in SPLITS:
            raise ValueError(f"task:{self.name} has no split {split!r}; its splits are {', '.join(SPLITS)}")
        if index < 0:
            raise ValueError(f"task:{self.name} counts its rows from 0, and row {index} was asked for")
        for attempt in itertools.count():
            example = self.draw(tier, _Draws(self.name, tier, split, index, attempt))
            if split_of(example.question) == split:
                return example
        raise AssertionError("unreachable: the loop above has no end")


# --- chain_sum: "23+45-17+8=" ---------------------------------------------------------------------------------------

_CHAIN_SUM_TIERS = {"easy": (3, 49), "medium": (4, 99), "hard": (6, 99)}  # count of numbers, largest number


def _draw_chain(tier: str, draws: _Draws) -> list[int]:
    """Signed terms with running totals of at least 0: where a minus would go below, the term is added instead."""
    count, largest = _CHAIN_SUM_TIERS[tier]
    terms = [draws.between(1, largest)]
    for _ in range(count - 1):
        number, minus = draws.between(1, largest), draws.chance(0.5)
        terms.append(-number if minus and sum(terms) >= number else number)
    return terms


def _chain_question(terms: list[int]) -> str:
    return str(terms[0]) + "".join(f"{term:+d}" for term in terms[1:]) + "="


def _chain_solution(terms: list[int], slip: tuple[int, int] | None = None) -> str:
    """The running totals line by line, then ``####`` and the last of them.

    Args:
      terms: the signed terms.
      slip: (step, error): the result of that step is off by ``error``, and later steps go on from the wrong result.
    """
    lines, total = [], terms[0]
    for step, term in enumerate(terms[1:]):
        after = total + term + (slip[1] if slip is not None and slip[0] == step else 0)
        lines.append(f"{total}{term:+d}={after}")
        total = after
    return "\n".join([*lines, f"####{total}"])


def _chain_sum(tier: str, draws: _Draws) -> Example:
    terms = _draw_chain(tier, draws)
    return Example(_chain_question(terms), str(sum(terms)), _chain_solution(terms))


def _slip(terms: list[int], draws: _Draws) -> tuple[int, int]:
    """A step and an error of +-1 or +-10 for it, such that no later total falls below 0."""
    step = draws.between(0, len(terms) - 2)
    lowest = min(itertools.islice(itertools.accumulate(terms), step + 1, None))
    errors = [error for error in (1, -1, 10, -10) if lowest + error >= 0]
    return step, errors[draws.between(0, len(errors) - 1)]


def _chain_of(example: Example) -> list[int]:
    return [int(term) for term in example.question.rstrip("=").replace("+", " ").replace("-", " -").split()]


def _careless_chain_sum(example: Example, draws: _Draws) -> str:
    terms = _chain_of(example)
    return _chain_solution(terms, _slip(terms, draws))


# --- digit_chain: "38514=", added modulo 10 ---------------------------------------------------------------------------

_DIGIT_CHAIN_TIERS = {"easy": 3, "medium": 6, "hard": 9}  # largest digit
_DIGIT_CHAIN_LENGTH = 5


def _digit_solution(digits: list[int], slip: tuple[int, int] | None = None) -> str:
    """The running totals modulo 10, a digit each, then ``####`` and the last of them: "31671####1".

    Args:
      digits: that are added.
      slip: (step, error): the result of that step is off by ``error``, and later steps go on from the wrong result.
    """
    totals = [digits[0]]
    for step, digit in enumerate(digits[1:]):
        error = slip[1] if slip is not None and slip[0] == step else 0
        totals.append((totals[-1] + digit + error) % 10)
    return f"{''.join(map(str, totals))}####{totals[-1]}"


def _digit_chain(tier: str, draws: _Draws) -> Example:
    digits = [draws.between(0, _DIGIT_CHAIN_TIERS[tier]) for _ in range(_DIGIT_CHAIN_LENGTH)]
    return Example("".join(map(str, digits)) + "=", str(sum(digits) % 10), _digit_solution(digits))


def _careless_digit_chain(example: Example, draws: _Draws) -> str:
    digits = [int(digit) for digit in example.question.rstrip("=")]
    slip = draws.between(0, len(digits) - 2), draws.between(1, 9)
    return _digit_solution(digits, slip)


# --- addition: "a + b" ----------------------------------------------------------------------------------------------

_ADDITION_TIERS = {"easy": (0, 9), "medium": (10, 99), "hard": (100, 999)}  # range of both operands


def _addition(tier: str, draws: _Draws) -> Example:
    a, b = (draws.between(*_ADDITION_TIERS[tier]) for _ in range(2))
    return Example(f"{a} + {b}", str(a + b), str(a + b))


TASKS: dict[str, Task] = {
    "chain_sum": Task("chain_sum", tuple(_CHAIN_SUM_TIERS), _chain_sum, _careless_chain_sum),
    "digit_chain": Task("digit_chain", tuple(_DIGIT_CHAIN_TIERS), _digit_chain, _careless_digit_chain),
    "addition": Task("addition", tuple(_ADDITION_TIERS), _addition),
}


# --- what a base model reads before reinforcement learning -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mix:
    """The quality of pretraining text, as probabilities; ``steps``, ``direct`` and ``careless`` sum to 1.

    Attributes:
      steps: the worked solution.
      direct: the answer alone, no steps.
      careless: a worked solution with one wrong result, carried on to a wrong answer.
      rambling: chance that the text goes on after the answer with another problem and its solution.
    """

    steps: float
    direct: float
    careless: float
    rambling: float

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Mix.{field.name} = {value} is no probability")
        if abs(self.steps + self.direct + self.careless - 1.0) > 1e-9:
            raise ValueError(f"steps + direct + careless must sum to 1: {self}")


def _solution_of_some_quality(task: Task, example: Example, mix: Mix, draws: _Draws) -> str:
    quality = draws.uniform()
    if quality < mix.direct:
        return f"####{example.answer}"
    if quality < mix.direct + mix.careless:
        assert task.careless is not None
        return task.careless(example, draws)
    return example.solution


def pretraining_text(task: Task, tier: str, index: int, mix: Mix, *, seed: int) -> str:
    """A completion of the question of row ``index`` of a task's train split, of mixed quality.

    With probability ``mix.rambling`` a newline, the question of another row of the train split and its solution (of
    mixed quality as well) follow; the text then ends, whatever its quality. Everything is a function of the arguments.

    Raises:
      ValueError: the task has no worked solutions.
    """
    if task.careless is None:
        able = ", ".join(name for name, other in TASKS.items() if other.careless is not None)
        raise ValueError(f"task:{task.name} has no worked solutions to read; those that have: {able}")
    draws = _Draws("pretraining", tier, seed, index)
    text = _solution_of_some_quality(task, task.generate(tier, "train", index), mix, draws)
    if draws.chance(mix.rambling):
        other = task.generate(tier, "train", draws.between(0, 2**32))
        text += f"\n{other.question}{_solution_of_some_quality(task, other, mix, draws)}"
    return text
