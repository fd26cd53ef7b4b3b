"""Whether two mathematical answers are equal, decided by math-verify in a process of its own, behind a deadline.

sympy can be made to think forever, or to fill the memory, by a short text (9^{9^{9^9}}). So the verifier runs in one
worker process that is killed at the deadline and replaced; only the text that did it is lost. The deadline counts the
worker's own CPU time, so that the outcome depends on the answer and not on what else the machine does; by the clock,
``CLOCK_FACTOR`` times as much passes at most. The worker is a plain subprocess that speaks JSON lines over its pipes:
it does not import the caller's main module, and it ends when the caller does, however that ends.

Run as ``python -m jaxrl_llm.rewards.equivalence``, this module is the worker.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

START_SECONDS = 120.0  # for the worker's imports, on a machine that is busy
CLOCK_FACTOR = 10.0  # seconds of the clock that a second of CPU time may take
MEMORY_BYTES = 2 << 30  # of the worker's address space

Pair = tuple[str, str]  # gold, answer


class Outcome(enum.Enum):
    """What became of a completion's answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"


class MathVerifier:
    """Compares answers in a worker process that starts at the first question and is replaced when it must be killed.

    Every answer that is asked about gets the whole deadline. A worker that dies by itself (out of memory, say) counts
    as a timeout of the answer that it was at.
    """

    def __init__(self, timeout_seconds: float):
        """Starts nothing yet.

        Args:
          timeout_seconds: of CPU time, for one answer.
        """
        self._timeout = timeout_seconds
        self._worker: _Worker | None = None

    def compare(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """The outcome of every pair (gold, answer), each distinct pair asked once."""
        distinct = list(dict.fromkeys(pairs))
        outcomes = dict(zip(distinct, self._ask([["compare", *pair] for pair in distinct]), strict=True))
        return [outcomes[pair] for pair in pairs]

    def parseable(self, answers: Iterable[str]) -> dict[str, bool]:
        """For every distinct answer, whether math-verify can read it before the deadline."""
        distinct = list(dict.fromkeys(answers))
        outcomes = self._ask([["parse", answer] for answer in distinct])
        return {answer: outcome is Outcome.CORRECT for answer, outcome in zip(distinct, outcomes, strict=True)}

    def _ask(self, questions: list[list[str]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(questions):
            if self._worker is not None and not self._worker.alive:  # it died between two questions
                self.close()
            if self._worker is None:
                self._worker = _Worker(self._timeout)
            outcomes += self._worker.ask(questions[len(outcomes) :])
            if len(outcomes) < len(questions):  # it died at its deadline, or is past all patience
                self.close()
                outcomes.append(Outcome.TIMEOUT)
        return outcomes

    def close(self) -> None:
        """Ends the worker; a later question starts another."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


class _Worker:
    """The process, seen from outside."""

    def __init__(self, timeout_seconds: float):
        self._patience = CLOCK_FACTOR * timeout_seconds
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in kill
        root = str(Path(__file__).resolve().parents[2])  # where jaxrl_llm lies, installed or not
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jaxrl_llm.rewards.equivalence", repr(timeout_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._buffer = b""
        if self._line(START_SECONDS) != "ready":
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            reason = self._errors.read().decode(errors="replace").strip()[-2000:]
            self.kill()
            raise RuntimeError(f"the math verifier did not start (exit code {self._process.returncode}): {reason}")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _line(self, seconds: float) -> str | None:
        """The next line that the worker writes, or None if it writes none in time or has ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                return None
            read = os.read(self._output.fileno(), 1 << 16)
            if not read:
                return None
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def ask(self, questions: list[list[str]]) -> list[Outcome]:
        """Outcomes of the questions in order, fewer than asked if the worker missed a deadline or died."""
        outcomes: list[Outcome] = []
        # The worker reads all questions before it answers the first, so the two cannot wait for each other.
        with contextlib.suppress(BrokenPipeError):
            self._input.write(json.dumps(questions).encode() + b"\n")
            self._input.flush()
            while len(outcomes) < len(questions) and (line := self._line(self._patience)) is not None:
                outcomes.append(Outcome(line))
        return outcomes

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._selector.close()
        with contextlib.suppress(BrokenPipeError):  # a question that was never read is still in the buffer
            self._input.close()
        self._output.close()
        self._errors.close()


# --- inside the worker -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)  # the gold answer of a group comes once for every sample
def _parse(answer: str) -> list:
    """What math-verify reads in an answer; the box marks all of it as LaTeX, dollars and a full stop would break it."""
    import math_verify

    plain = answer.replace("\\$", "").replace("$", "").strip().removesuffix(".").strip()
    return math_verify.parse(rf"\boxed{{{plain}}}", parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def _answer(question: list[str]) -> Outcome:
    import math_verify

    gold = _parse(question[1])
    if question[0] == "parse":
        return Outcome.CORRECT if gold else Outcome.UNPARSEABLE
    parsed = _parse(question[2])
    if not parsed:
        return Outcome.UNPARSEABLE
    return Outcome.CORRECT if math_verify.verify(gold, parsed, timeout_seconds=None) else Outcome.WRONG


def _serve(seconds: float) -> None:
    """Answers lines of questions until the input ends."""
    import logging
    import resource

    import math_verify  # noqa: F401  # the import takes a second: before the first deadline runs

    logging.disable(logging.CRITICAL)  # math-verify warns that its own timeouts are off
    with contextlib.suppress(ValueError, OSError):  # a lower limit stands already, or the system knows none
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, even inside a call that never returns
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        for question in json.loads(line):
            signal.setitimer(signal.ITIMER_PROF, seconds)
            outcome = _answer(question)
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(outcome.value, file=replies, flush=True)


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
