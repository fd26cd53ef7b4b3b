"""Programs as answers: what is run, what is compared, what a program may not do, and what data sets hold."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm.cli_tiers import TiersSettings, parts_of
from jaxrl_llm.data.tiers import Part, draw
from jaxrl_llm.rewards import gold as golds
from jaxrl_llm.rewards import programs
from jaxrl_llm.rewards.answers import extract
from jaxrl_llm.rewards.combine import Judge, RewardSettings
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.rewards.gold import gold_of
from tests.policies import CONFIGS

SQUARES = gold_of([("2\n", "4\n"), ("3\n", "9\n")], None)
ADDED = gold_of([("[1, 2]\n3", "[4, 5]"), ("[]\n0", "[]")], "add")
SANDBOXES = [
    "none",
    pytest.param(
        "bubblewrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
    ),
]


def outcomes(texts: list[str], gold: str, sandbox: Any = "none", seconds: float = 5.0) -> list[Outcome]:
    return programs.ProgramVerifier(seconds, sandbox).compare([(gold, text) for text in texts])


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_program_is_right_if_it_prints_what_every_test_expects(sandbox):
    texts = [
        "print(int(input()) ** 2)",
        "import sys\nprint(int(sys.stdin.read()) ** 2, end='')\nsys.exit(1)",
        "print(4)",  # right on the first test alone
        "print(int(input()) ** 2)\nraise ValueError",
        "print(int(input()) ** 2",
        "print(open('/etc/passwd').read())\nprint(input(), 'é')",
    ]
    right, wrong, unparseable = Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSEABLE
    assert outcomes(texts, SQUARES, sandbox) == [right, right, wrong, wrong, unparseable, wrong]


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_function_is_right_if_it_returns_what_every_test_expects_whatever_it_prints(sandbox):
    method = "class Solution:\n    def add(self, a: List[int], b: int) -> List[int]:\n        return [x + b for x in a]"
    texts = [
        method,
        "def add(a, b):\n    print('[4, 5]')\n    return tuple(x + b for x in a)",
        "def add(a, b):\n    print('[4, 5]')",
        "def plus(a, b):\n    return [x + b for x in a]",
        "def add(a, b):\n    return {1, 2}",
        "import os\ndef add(a, b):\n    os.write(1, b'[4, 5]')\n    os._exit(0)",
    ]
    assert outcomes(texts, ADDED, sandbox) == [Outcome.CORRECT] * 2 + [Outcome.WRONG] * 4


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_program_that_takes_too_much_is_stopped(sandbox):
    endless = [
        "while True: pass",
        "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass",
        "import time\ntime.sleep(1000)",
        "import os\nif os.fork() == 0:\n    import time\n    time.sleep(1000)\nos.wait()",
    ]
    assert outcomes(endless, SQUARES, sandbox, 0.3) == [Outcome.TIMEOUT] * 4
    greedy = ["x = 'a' * (1 << 33)", "while True: print('a' * 10000)", "def f(): f()\nf()"]
    assert outcomes(greedy, SQUARES, sandbox) == [Outcome.WRONG] * 3
    deadline = time.monotonic() + 10
    while left := [name for name in os.listdir("/proc") if _is_program(name)]:  # those that are killed end in a moment
        assert time.monotonic() < deadline, left


def _is_program(name: str) -> bool:
    try:  # in the sandbox it is /child.py
        return name.isdecimal() and b"child.py\0" in Path("/proc", name, "cmdline").read_bytes()
    except OSError:  # it has ended
        return False


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_program_in_the_sandbox_sees_no_file_no_process_and_no_network_and_writes_nothing(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("4")
    tries = [
        f"open({str(secret)!r})",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "open('/new', 'w')",
        f"os.kill({os.getpid()}, 0)",
        "socket.create_connection(('127.0.0.1', 9), timeout=1)",
        "os.listdir(os.path.expanduser('~'))",
    ]
    says = "import os, socket\ntry:\n    {}\n    print('reached')\nexcept OSError as error:\n    print('refused')"
    gold = gold_of([("", "refused")], None)
    assert outcomes([says.format(text) for text in tries], gold, "bubblewrap") == [Outcome.CORRECT] * len(tries)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_program_has_all_builtins_and_what_contests_have_imported_and_prints_long_numbers():
    text = "print([name for name in vars(builtins) if name[0] != '_' and eval(name) is not getattr(builtins, name)])"
    assert outcomes([text], gold_of([("", "[]")], None)) == [Outcome.CORRECT]
    text = "print(pow(2, 10, 1000), gcd(4, 6), Counter('aab')['a'], heapq.nsmallest(1, [2, 1]), len(str(10 ** 20000)))"
    assert outcomes([text], gold_of([("", "24 2 2 [1] 20001")], None)) == [Outcome.CORRECT]


def test_an_argument_may_hold_characters_that_only_python_takes_for_the_end_of_a_line():
    gold = gold_of([('"a\u2028b"\n1', '"a\u2028b"')], "first")
    assert outcomes(["def first(text, _):\n    return text"], gold) == [Outcome.CORRECT]


def test_a_program_finds_a_set_in_the_same_order_every_time():
    text = "print(hash('one'))"
    command, environment = [sys.executable, "-c", text], {"PYTHONHASHSEED": "0"}
    printed = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
    assert outcomes([text], gold_of([("", printed)] * 3, None)) == [Outcome.CORRECT]


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1 2\n3\n", "1 2 \n3", True),
        ("\n1\n", "1", True),
        ("1\n\n2", "1\n2", False),
        ("0.50 1e3", "0.5 1000", True),
        ("0.5 yes", "0.50 yes", False),  # a word in the line: texts are compared
        ("yes", "YES", False),
        ("1", "1 1", False),
        ("nan", "nan", True),
        ("sNaN", "1", False),
    ],
)
def test_outputs_are_the_same_but_for_spaces_and_the_form_of_numbers(found, expected, same):
    assert programs.same_output(found, expected) is same


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("so:\n```python\nx = 1\n```\n", "x = 1"),
        ("```\na\n```\nno:\n ```py\nb\n  c\n ```", "b\n  c"),
        ("```\na\n```\n```\nb", "a"),  # cut off at the limit
        ("```\n \n```", None),
        ("x = 1", None),
        ("```x```", None),
    ],
)
def test_code_is_the_last_block_that_is_closed(text, code):
    assert extract(text, "code") == code


def test_the_judge_runs_the_code_of_a_completion_and_refuses_gold_answers_without_tests():
    settings = RewardSettings("program", "code", 1.0, -1.0, -2.0, -3.0, None, 0.5, "none")
    block = "```python\n{}\n```".format
    texts = [block("print(int(input()) ** 2)"), block("print(5)"), "4", block("while 1: pass"), block(SQUARES)]
    with Judge(settings) as judge:
        rewards, _ = judge.judge(texts, [SQUARES] * 5, [False] * 5)
        assert rewards.tolist() == [1.0, -1.0, -2.0, -3.0, -1.0]
        for gold in (
            "4",
            '{"tests": [], "function": null}',
            '{"tests": [{"input": 1, "output": ""}], "function": null}',
        ):
            with pytest.raises(ValueError, match=r"file, line 3: the program verifier cannot read the gold answer"):
                judge.check([gold], ["file, line 3"])
        with pytest.raises(ValueError, match="cannot read the gold answer") as refused:
            judge.check([json.dumps(["x" * 10**6])])
        assert len(str(refused.value)) < 300


def test_a_sandbox_that_is_not_there_is_an_error_before_any_program_runs(monkeypatch, tmp_path):
    settings = RewardSettings("program", "code", 1.0, 0.0, 0.0, 0.0, None, 5.0, "bubblewrap")
    monkeypatch.setenv("PATH", str(tmp_path))
    with Judge(settings) as judge:
        assert judge.readable([SQUARES]) == {SQUARES: True}  # needs none
        with pytest.raises(ValueError, match=r"reward\.sandbox = 'bubblewrap': no bwrap on PATH"):
            judge.check([SQUARES])
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with Judge(settings) as judge, pytest.raises(ValueError, match="a program that is right is wrong here"):
        judge.check([SQUARES])


@pytest.mark.parametrize("keys", [{"verifier": "program"}, {"answer_format": "code"}, {"sandbox": "docker"}])
def test_reward_settings_that_do_not_fit_programs_are_refused_by_name(keys):
    plain = {"verifier": "exact", "answer_format": "hash", "sandbox": "none"}
    with pytest.raises(ValueError, match=r"reward\.(answer_format|sandbox) = "):
        RewardSettings(
            **(plain | keys), correct=1.0, wrong=0.0, unparseable=0.0, timeout=0.0, truncated=None, timeout_seconds=5.0
        )


def test_a_reader_sees_the_beginning_of_long_tests_and_short_answers_whole():
    assert golds.short("1/2") == "1/2"
    seen = golds.short(gold_of([("1", "2")] * 1000, None))
    assert seen.startswith('{"tests": [{"input": "1", "output": "2"}') and len(seen) < 200


# --- data -----------------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    "question_key": "question_content",
    "tests_keys": ("public_test_cases", "private_test_cases"),
    "starter_key": "starter_code",
    "metadata_key": "metadata",
}  # as LiveCodeBench has them


def packed(tests: list[Any]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def row(public, private, starter="", metadata="{}", question="Square it. ####\n"):
    public = json.dumps([{"input": a, "output": b, "testtype": "stdin"} for a, b in public])
    private = packed([{"input": a, "output": b} for a, b in private])
    return {
        "question_content": question,
        "public_test_cases": public,
        "private_test_cases": private,
        "starter_code": starter,
        "metadata": metadata,
    }


def drawn(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Judge(RewardSettings("program", "code", 1.0, 0.0, 0.0, 0.0, None, 5.0, "none")) as judge:
        found = draw("file.part", Part(f"jsonl:{path}", **KEYS), judge.readable, 0, set())
    return [row.problem for row in found.rows], found.report


def test_rows_of_livecodebench_become_questions_and_tests_public_and_private(tmp_path):
    starter = "class Solution:\n    def add(self, a: List[int], b: int) -> List[int]:\n        "
    rows = [
        row([("2", "4")], [("####", "#")]),
        row([("[1]\n1", "[2]")], [("[]\n0", "[]")], starter, '{"func_name": "add"}', "Add."),
        row([], [], question="Nothing."),
    ]
    (first, second), report = drawn(tmp_path, rows)
    assert first.question == "Square it. ####\n\nRead from standard input, and write to standard output."
    assert golds.tests_of(first.answer) == ((("2", "4"), ("####", "#")), None)
    assert "####" not in first.answer  # after which a data source would read
    assert second.question == f"Add.\n\nBegin with this code:\n```python\n{starter.rstrip()}\n```"
    assert golds.tests_of(second.answer) == ((("[1]\n1", "[2]"), ("[]\n0", "[]")), "add")
    assert report["dropped"]["unreadable"] == 1  # the row without tests


class _Runs:
    def __reduce__(self):
        return os.getcwd, ()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("public_test_cases", "[1]", "line 1: no tests of a program"),
        ("public_test_cases", "no base64", "neither JSON nor packed tests"),
        ("private_test_cases", base64.b64encode(zlib.compress(pickle.dumps(_Runs()))).decode(), "it would import"),
        ("private_test_cases", base64.b64encode(b"x").decode(), "neither JSON nor packed tests"),
        ("metadata", "[", "line 1: no tests of a program"),
        ("metadata", "[1]", "line 1: no tests of a program"),
        ("starter_code", None, "line 1: no tests of a program"),
    ],
)
def test_tests_that_are_none_are_refused_by_row(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        drawn(tmp_path, [row([("2", "4")], []) | {key: value}])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tests_keys": ("a",), "choices_key": "b"}, "tests_keys"),
        ({"tests_keys": ("a",), "answer_key": "b"}, "answer_key"),
        ({"starter_key": "a"}, "starter_key"),
        ({"metadata_key": "a"}, "metadata_key"),
    ],
)
def test_keys_of_a_part_that_nothing_would_read_are_refused(keys, message):
    with pytest.raises(ValueError, match=f"{message} = "):
        Part("jsonl:x", **keys)


def test_livecodebench_of_the_paper_is_one_benchmark_that_names_itself():
    settings = configs.parse(configs.load(CONFIGS / "paper" / "livecodebench.py", [], TiersSettings), TiersSettings)
    (parts,) = parts_of(settings).values()
    (part,) = parts.values()
    assert list(parts) == ["LiveCodeBench"] and {key: getattr(part, key) for key in KEYS} == KEYS
    assert settings.reward.verifier == "program"
