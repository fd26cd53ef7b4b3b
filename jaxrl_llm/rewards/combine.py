"""From completions to rewards: find the answer, compare it with the gold answer, pay for the outcome."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, Self, get_args

import numpy as np

from jaxrl_llm.rewards import answers
from jaxrl_llm.rewards.equivalence import MathVerifier, Outcome
from jaxrl_llm.rewards.gold import short
from jaxrl_llm.rewards.programs import ProgramVerifier, Sandbox


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """The reward of each outcome; keys of ``c.reward`` in configs/base.py, where the defaults stand.

    Attributes:
      verifier: exact (same text after ``answers.normalize``), math (math-verify), or program (the answer is run on the
        tests that are the gold answer, see :mod:`jaxrl_llm.rewards.programs`).
      answer_format: see ``answers.extract``; code is for program, and for it alone.
      truncated: reward of every truncated row, whatever its answer; None judges it like any other.
      timeout_seconds: deadline of the math verifier for one answer, or of a program for one test, in CPU time of the
        process.
      sandbox: of programs: bubblewrap, or none.
    """

    verifier: Literal["exact", "math", "program"]
    answer_format: answers.AnswerFormat
    correct: float
    wrong: float
    unparseable: float
    timeout: float
    truncated: float | None
    timeout_seconds: float
    sandbox: Sandbox

    def __post_init__(self):
        if self.verifier not in ("exact", "math", "program"):
            raise ValueError(f"reward.verifier = {self.verifier!r}, expected exact, math or program")
        if self.answer_format not in get_args(answers.AnswerFormat):
            expected = ", ".join(get_args(answers.AnswerFormat))
            raise ValueError(f"reward.answer_format = {self.answer_format!r}, expected one of {expected}")
        if (self.verifier == "program") != (self.answer_format == "code"):
            raise ValueError(
                f"reward.answer_format = {self.answer_format!r} with reward.verifier = {self.verifier!r}: code is the "
                "answer format of the verifier program, and of no other"
            )
        if self.sandbox not in get_args(Sandbox):
            raise ValueError(f"reward.sandbox = {self.sandbox!r}, expected {' or '.join(get_args(Sandbox))}")
        if not self.correct > self.wrong:
            raise ValueError(f"reward.correct = {self.correct} must be above reward.wrong = {self.wrong}")
        if not 0 < self.timeout_seconds < math.inf:
            raise ValueError(f"reward.timeout_seconds = {self.timeout_seconds}, expected seconds above 0")

    def of(self, outcome: Outcome) -> float:
        return getattr(self, outcome.value)


class Judge:
    """Judges completions; a context manager, because the math verifier may hold a process."""

    def __init__(self, settings: RewardSettings):
        self._settings = settings
        self._verifier: MathVerifier | ProgramVerifier | None = None
        if settings.verifier == "math":
            self._verifier = MathVerifier(settings.timeout_seconds)
        elif settings.verifier == "program":
            self._verifier = ProgramVerifier(settings.timeout_seconds, settings.sandbox)
        self._readable: set[str] = set()  # gold answers that were checked

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._verifier is not None:
            self._verifier.close()

    def check(self, gold: Sequence[str], names: Sequence[str] | None = None) -> None:
        """Refuses gold answers that the verifier cannot read, and a sandbox in which no program runs.

        Args:
          gold: the answers.
          names: of their rows, for the error message; their positions if None.

        Raises:
          ValueError: naming the first such row, or the sandbox.
        """
        if isinstance(self._verifier, ProgramVerifier) and not self._readable:
            self._verifier.try_sandbox()
        readable = self.readable([answer for answer in gold if answer not in self._readable])
        for row, answer in enumerate(gold):
            if not readable.get(answer, True):
                name = f"row {row}" if names is None else names[row]
                raise ValueError(
                    f"{name}: the {self._settings.verifier} verifier cannot read the gold answer {short(answer)!r}"
                )
        self._readable.update(readable)

    def readable(self, gold: Sequence[str]) -> dict[str, bool]:
        """For every distinct gold answer, whether the verifier can read it."""
        if self._verifier is None:
            return {answer: bool(answers.normalize(answer)) for answer in gold}
        return self._verifier.parseable(gold)

    def judge(
        self, texts: Sequence[str], gold: Sequence[str], truncated: Sequence[bool] | np.ndarray
    ) -> tuple[np.ndarray, list[Outcome]]:
        """Rewards and outcomes of completions.

        Args:
          texts: completions, without special tokens.
          gold: the gold answer of each.
          truncated: whether each reached the limit without a stop token; changes the reward, never the outcome.

        Returns:
          float32 [B] rewards, and B outcomes.

        Raises:
          ValueError: where the lengths differ, or a gold answer cannot be read (as in :meth:`check`).
        """
        if not len(texts) == len(gold) == len(truncated):
            raise ValueError(f"{len(texts)} texts, {len(gold)} gold answers and {len(truncated)} truncation flags")
        self.check(gold)
        outcomes = self._outcomes([answers.extract(text, self._settings.answer_format) for text in texts], gold)
        rewards = np.array([self._settings.of(outcome) for outcome in outcomes], np.float32)
        if self._settings.truncated is not None:
            rewards[np.asarray(truncated, bool)] = self._settings.truncated
        return rewards, outcomes

    def _outcomes(self, found: Sequence[str | None], gold: Sequence[str]) -> list[Outcome]:
        outcomes = [Outcome.UNPARSEABLE] * len(found)
        unequal: dict[int, tuple[str, str]] = {}  # row -> (gold, answer): the same text needs no algebra
        for row, answer in enumerate(found):
            if answer is not None:
                equal = self._settings.verifier != "program" and answers.same(answer, gold[row])
                outcomes[row] = Outcome.CORRECT if equal else Outcome.WRONG
                if not equal:
                    unequal[row] = (gold[row], answer)
        if self._verifier is not None:
            for row, outcome in zip(unequal, self._verifier.compare(list(unequal.values())), strict=True):
                outcomes[row] = outcome
        return outcomes
