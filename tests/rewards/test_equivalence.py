"""With the real verifier in its real process: nothing here is a stand-in."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrl_llm.rewards.equivalence import MathVerifier, Outcome

ENDLESS = "9^{9^{9^9}}"  # sympy sets out to compute it


@pytest.fixture(scope="module")
def verifier():
    verifier = MathVerifier(timeout_seconds=20)  # far from any honest question, on the slowest machine
    yield verifier
    verifier.close()


def process(verifier: MathVerifier) -> subprocess.Popen:
    assert verifier._worker is not None
    return verifier._worker._process


def gone(pid: int) -> bool:
    """Whether the process has ended, within ten seconds; a container's init may leave it as a zombie for ever."""
    status = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        # quoted from MATH-500, GSM8K and Minerva: gold answers against other ways to write them
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", Outcome.CORRECT),
        (r"p - q", r"-q+p", Outcome.CORRECT),
        (r"\frac{14}{3}", r"4\frac{2}{3}", Outcome.CORRECT),
        (r"\text{Evelyn}", "Evelyn", Outcome.CORRECT),
        (r"\sqrt{51}", r"\sqrt{15}", Outcome.WRONG),
        (r"90^\circ", "90", Outcome.CORRECT),
        (r"1,-2", r"-2, 1", Outcome.CORRECT),
        (r"3R^2", r"3 R^{2}", Outcome.CORRECT),
        (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", Outcome.CORRECT),
        ("70000", r"\$70,000.00", Outcome.CORRECT),
        ("18", "$18.", Outcome.CORRECT),
        ("18", "x = 18", Outcome.CORRECT),
        ("18", "19", Outcome.WRONG),
        ("18", "the eggs", Outcome.WRONG),
        ("18", "}{", Outcome.UNPARSEABLE),
        ("0.5", r"\dfrac12", Outcome.CORRECT),
        (r"1/3", "0.33", Outcome.WRONG),
    ],
)
def test_two_ways_to_write_an_answer(verifier, gold, answer, outcome):
    assert verifier.compare([(gold, answer)]) == [outcome]


def test_outcomes_come_in_the_order_of_the_pairs_and_equal_pairs_agree(verifier):
    pairs = [("2", "1+1"), ("2", "3"), ("2", "1+1"), ("2", "}{"), ("3", "3")]
    expected = [Outcome.CORRECT, Outcome.WRONG, Outcome.CORRECT, Outcome.UNPARSEABLE, Outcome.CORRECT]
    assert verifier.compare(pairs) == expected
    assert verifier.compare([]) == []


def test_a_batch_larger_than_any_pipe_does_not_block(verifier):
    pairs = [(str(10**60 + n), "1") for n in range(1500)]  # 100 kB of questions, and replies while they are read
    assert verifier.compare(pairs) == [Outcome.WRONG] * len(pairs)


def test_gold_answers_that_can_and_cannot_be_read(verifier):
    assert verifier.parseable(["1", "}{", r"\frac{1}{2}", "1"]) == {"1": True, "}{": False, r"\frac{1}{2}": True}


def test_the_worker_starts_at_the_first_question_and_stays():
    verifier = MathVerifier(timeout_seconds=20)
    assert verifier._worker is None
    verifier.compare([("1", "1")])
    pid = process(verifier).pid
    verifier.compare([("1", "2")])
    assert process(verifier).pid == pid
    verifier.close()
    assert gone(pid)
    verifier.close()  # twice is once


def test_an_endless_answer_costs_its_deadline_and_nothing_else():
    verifier = MathVerifier(timeout_seconds=1)
    verifier.compare([("1", "1+0")])
    before = process(verifier).pid
    start = time.monotonic()
    outcomes = verifier.compare([("2", "1+1"), ("5", ENDLESS), ("2", "3"), ("5", ENDLESS), ("1", "1")])
    seconds = time.monotonic() - start
    assert outcomes == [Outcome.CORRECT, Outcome.TIMEOUT, Outcome.WRONG, Outcome.TIMEOUT, Outcome.CORRECT]
    assert seconds >= 1
    assert gone(before)
    after = process(verifier).pid
    assert after != before
    verifier.close()
    assert gone(after)


def test_a_worker_that_stands_still_is_given_up_by_the_clock():
    verifier = MathVerifier(timeout_seconds=20)
    verifier.compare([("1", "1+0")])
    pid = process(verifier).pid
    verifier._worker._patience = 0.5  # pyright: ignore[reportOptionalMemberAccess]
    os.kill(pid, signal.SIGSTOP)  # it uses no CPU time any more
    assert verifier.compare([("2", "1+1")]) == [Outcome.TIMEOUT]
    assert gone(pid)
    assert verifier.compare([("2", "1+1")]) == [Outcome.CORRECT]
    verifier.close()


def test_a_worker_that_was_killed_from_outside_is_replaced():
    verifier = MathVerifier(timeout_seconds=20)
    verifier.compare([("1", "1+0")])
    process(verifier).kill()
    process(verifier).wait()
    assert verifier.compare([("2", "1+1"), ("2", "3")]) == [Outcome.CORRECT, Outcome.WRONG]
    verifier.close()


CALLER = f"""
import sys, threading
from jaxrl_llm.rewards import equivalence
verifier = equivalence.MathVerifier(timeout_seconds=1.5)
verifier.compare([("1", "1+0")])
print(verifier._worker._process.pid, flush=True)
if sys.argv[1] == "busy":
    verifier.compare([("5", {ENDLESS!r})])
threading.Event().wait()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_worker_ends_when_its_caller_is_killed(state):
    """Idle, it reads the end of its input; busy with an endless answer, its own deadline ends it."""
    with subprocess.Popen([sys.executable, "-c", CALLER, state], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        time.sleep(0.3)  # busy: the question has arrived
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        assert gone(pid)


def test_a_worker_that_cannot_start_says_why(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no sympy here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"did not start(.|\n)*no sympy here"):
        MathVerifier(timeout_seconds=1).compare([("1", "1+0")])
