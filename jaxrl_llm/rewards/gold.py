"""Gold answers as texts: the tests of a program, and what of one a reader sees.

The gold answer of a program is a JSON object ``{"tests": [{"input": TEXT, "output": TEXT}, ...], "function": NAME or
null}``. Without a function, a program reads the input from its standard input, and what it prints is compared; with
one, the input is arguments as JSON, one a line, and what the function (or a method of the class ``Solution``) returns
is compared with the output as JSON. These are the forms of LiveCodeBench (arXiv 2403.07974).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple


def short(gold: str) -> str:
    """A gold answer for a reader: of tests, which may be millions of characters, the beginning."""
    return gold if len(gold) <= 200 else f"{gold[:160]} … ({len(gold)} characters)"


class Tests(NamedTuple):
    """What the gold answer of a program says."""

    cases: tuple[tuple[str, str], ...]  # input, output
    function: str | None


def gold_of(cases: Iterable[tuple[str, str]], function: str | None) -> str:
    """The gold answer that :func:`tests_of` reads."""
    tests = [{"input": given, "output": expected} for given, expected in cases]
    text = json.dumps({"tests": tests, "function": function})
    return text.replace("#", "\\u0023")  # of "####" in an answer, data sources read what follows


def tests_of(gold: str) -> Tests:
    """The tests of a gold answer.

    Raises:
      ValueError: it is none.
    """
    try:
        read = json.loads(gold)
        cases = tuple((case["input"], case["output"]) for case in read["tests"])
        function = read["function"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{short(gold)!r} has no tests of a program: {error!r}") from None
    if not cases or not all(isinstance(text, str) for case in cases for text in case):
        raise ValueError(f"{short(gold)!r}: expected one test or more, whose input and output are texts")
    if function is not None and not (isinstance(function, str) and function.isidentifier()):
        raise ValueError(f"function = {function!r}: expected the name of a function, or null")
    return Tests(cases, function)
