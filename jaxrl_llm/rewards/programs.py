"""Whether a program passes its tests: each is run in a process of its own, within limits, and in a sandbox.

What a gold answer is, and what a program has to do, is said in :mod:`jaxrl_llm.rewards.gold`. Programs are Python, of
the version that runs this, with its standard library.

The deadline counts CPU time, so that an outcome depends on the program and not on what else the machine does; by the
clock, ``CLOCK_FACTOR`` times as much passes at most.
"""

from __future__ import annotations

import contextlib
import decimal
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from jaxrl_llm.environment import cores
from jaxrl_llm.rewards import program_child
from jaxrl_llm.rewards.equivalence import CLOCK_FACTOR, MEMORY_BYTES, Outcome, Pair
from jaxrl_llm.rewards.gold import gold_of, tests_of

OUTPUT_BYTES = 16 << 20  # that a program may print
FLAGS = ("-P", "-s", "-S")  # no packages beside the standard library's
ENVIRONMENT = {"PYTHONIOENCODING": "utf-8", "PYTHONHASHSEED": "0"}  # all of it; a set has the same order every time
Sandbox = Literal["bubblewrap", "none"]


def same_output(found: str, expected: str) -> bool:
    """Whether two outputs are the same lines, but for empty ones around them, spaces, and how a number is written."""
    mine, theirs = (text.strip().split("\n") for text in (found, expected))
    return len(mine) == len(theirs) and all(map(_same_line, mine, theirs))


def _same_line(found: str, expected: str) -> bool:
    if found.strip() == expected.strip():
        return True
    mine, theirs = found.split(), expected.split()
    try:
        return len(mine) == len(theirs) and all(map(_same_number, mine, theirs))
    except decimal.InvalidOperation:  # a word that is no number
        return False


def _same_number(found: str, expected: str) -> bool:
    return decimal.Decimal(found) == decimal.Decimal(expected)


class ProgramVerifier:
    """Runs programs on their tests, several at a time; starts nothing before the first."""

    def __init__(self, timeout_seconds: float, sandbox: Sandbox):
        """Starts nothing yet.

        Args:
          timeout_seconds: of CPU time, for one test.
          sandbox: bubblewrap (no network, no file but Python's own, no process of others to be seen), or none.
        """
        self._timeout = timeout_seconds
        self._confined = sandbox == "bubblewrap"

    @functools.cached_property
    def _command(self) -> list[str]:
        return _bubblewrap() if self._confined else []

    def try_sandbox(self) -> None:
        """Runs a program that is right.

        Raises:
          ValueError: there is no bubblewrap that works here.
        """
        outcome = self._outcome((gold_of([("2", "4")], None), "print(int(input()) ** 2)"))
        if outcome is not Outcome.CORRECT:
            raise ValueError(
                f"reward.sandbox = {'bubblewrap' if self._confined else 'none'!r}: a program that is right is "
                f"{outcome.value} here; may this user make namespaces? {_ADVICE}"
            )

    def compare(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """The outcome of every pair (gold, program), each distinct pair run once."""
        distinct = list(dict.fromkeys(pairs))
        with ThreadPoolExecutor(cores()) as pool:
            outcomes = dict(zip(distinct, pool.map(self._outcome, distinct), strict=True))
        return [outcomes[pair] for pair in pairs]

    def parseable(self, answers: Iterable[str]) -> dict[str, bool]:
        """For every distinct gold answer, whether it has tests."""
        return {answer: _has_tests(answer) for answer in dict.fromkeys(answers)}

    def close(self) -> None:
        """Nothing runs between two questions."""

    def _outcome(self, pair: Pair) -> Outcome:
        """Of the first test that fails, or CORRECT."""
        tests = tests_of(pair[0])
        with tempfile.TemporaryDirectory(prefix="program-") as folder:
            Path(folder, "program.py").write_text(pair[1], encoding="utf-8", errors="replace")
            for given, expected in tests.cases:
                outcome = self._run(Path(folder), tests.function, given, expected)
                if outcome is not Outcome.CORRECT:
                    return outcome
        return Outcome.CORRECT

    def _run(self, folder: Path, function: str | None, given: str, expected: str) -> Outcome:
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
            stdin.write(given.encode(errors="replace"))
            stdin.seek(0)
            status = self._status(folder, function, stdin, stdout)
            stdout.seek(0)
            printed = stdout.read(OUTPUT_BYTES).decode(errors="replace")
        if status is None or -status in _over_time() or status - 128 in _over_time():  # the second by bubblewrap
            return Outcome.TIMEOUT
        if status == program_child.NO_PROGRAM:
            return Outcome.UNPARSEABLE
        same = same_output(printed, expected) if function is None else _same_value(printed, expected)
        return Outcome.CORRECT if status == 0 and same else Outcome.WRONG

    def _status(self, folder: Path, function: str | None, stdin: Any, stdout: Any) -> int | None:
        """The exit status of a run, below 0 or above 128 by a signal; None if it went on beyond all patience."""
        child, program = Path(program_child.__file__).resolve(), folder / "program.py"
        inside = (Path("/child.py"), Path("/program.py")) if self._confined else (child, program)
        bound = ["--ro-bind", child, inside[0], "--ro-bind", program, inside[1], "--remount-ro", "/", "--"]
        limits = [repr(self._timeout), str(MEMORY_BYTES), str(OUTPUT_BYTES)]
        command = [*self._command, *(bound if self._confined else []), _python(), *FLAGS, inside[0], inside[1]]
        process = subprocess.Popen(
            [*map(str, command), *limits, *([] if function is None else [function])],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            return process.wait(CLOCK_FACTOR * self._timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # and what it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


_ADVICE = (
    "reward.sandbox = 'none' runs what a model writes with the rights of this process: only for a machine or container "
    "that holds nothing of worth and reaches no network"
)


def _over_time() -> tuple[int, ...]:
    """The signals that end a process at a limit of time."""
    return signal.SIGPROF, signal.SIGXCPU, signal.SIGKILL  # not on Windows, which may still import this


def _python() -> str:
    return os.path.realpath(sys.executable)  # not a virtual environment's link, which reads files outside the sandbox


def _bubblewrap() -> list[str]:
    """The command that starts another one with the files of the system and of Python, and with nothing else.

    Raises:
      ValueError: it is not installed.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise ValueError(f"reward.sandbox = 'bubblewrap': no bwrap on PATH; install the package bubblewrap. {_ADVICE}")
    places = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", sys.base_prefix, sys.base_exec_prefix]
    binds = [text for place in dict.fromkeys(places) for text in ("--ro-bind-try", place, place)]
    return [found, "--unshare-all", "--die-with-parent", *binds, "--proc", "/proc", "--dev", "/dev", "--chdir", "/"]


def _has_tests(gold: str) -> bool:
    try:
        tests_of(gold)
    except ValueError:
        return False
    return True


def _same_value(found: str, expected: str) -> bool:
    try:
        return json.loads(found) == json.loads(expected)
    except (ValueError, RecursionError):  # the second: brackets by the thousand
        return False
