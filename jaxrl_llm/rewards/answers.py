"""Where the answer stands in a completion, and when two answers are the same text."""

from __future__ import annotations

import decimal
import re
from typing import Literal, get_args

AnswerFormat = Literal["boxed", "hash", "first_number", "last_number", "any", "code"]

_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.])[-\u2212])?"  # a minus between two numbers is an operator
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
)
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
_CHOICE = re.compile(r"\(([A-Z])\)")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")


def extract(text: str, answer_format: AnswerFormat) -> str | None:
    r"""The answer that a completion gives, or None where it gives none in that format.

    * ``boxed``: the content of the last ``\boxed{...}`` whose braces balance (``\{`` and ``\}`` do not count).
    * ``hash``: from the first ``####`` to the end of its line; what a model writes after its answer does not count.
    * ``first_number``, ``last_number``: digits with an optional sign, thousands commas and decimals.
    * ``any``: boxed, else hash, else the last number.
    * ``code``: between the last two lines that begin with three backticks, of those that come in pairs.

    Raises:
      ValueError: where the format is unknown.
    """
    if answer_format == "boxed":
        answer = _last_boxed(text)
    elif answer_format == "hash":
        answer = text.partition("####")[2].partition("\n")[0]
    elif answer_format in ("first_number", "last_number"):
        numbers = _NUMBER.findall(text)
        answer = numbers[0 if answer_format == "first_number" else -1] if numbers else ""
    elif answer_format == "any":
        answer = extract(text, "boxed") or extract(text, "hash") or extract(text, "last_number")
    elif answer_format == "code":
        answer = _last_code(text)
    else:
        raise ValueError(f"answer format {answer_format!r} is none of {', '.join(get_args(AnswerFormat))}")
    return (answer if answer_format == "code" else answer.strip()) if answer and answer.strip() else None


def _last_boxed(text: str) -> str:
    """In one pass: a cut-off or hostile completion may open thousands of boxes that it never closes."""
    opened: list[int | None] = []  # where the content of each open box starts; None for a plain brace
    last = (-1, "")
    for match in _BRACES.finditer(text):
        if match[0].startswith(r"\boxed"):
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened and (start := opened.pop()) is not None:
            last = max(last, (start, text[start : match.start()]))
    return last[1]


def _last_code(text: str) -> str:
    last, opened = "", None  # lines of the block that is open
    for line in text.split("\n"):
        if not line.lstrip().startswith("```"):
            if opened is not None:
                opened.append(line)
        elif opened is None:
            opened = []
        else:
            last, opened = "\n".join(opened), None
    return last


def normalize(answer: str) -> str:
    r"""The form in which two answers are compared as text.

    Removed: ``$`` and ``\$``, the command (not the content) of ``\text{...}`` and its kin, spaces at the ends, runs of
    spaces, one full stop at the end. A decimal number also loses its thousands commas, leading zeros, a plus sign,
    and zeros after the decimal point, so that 59.0, 059, +59 and 59 are one answer, as are 1,234 and 1234. The letter
    of a choice loses its parentheses: (C) is C. Nothing else is equal: neither 1/2 and 0.5 nor 10% and 10.
    """
    text = _TEXT_COMMAND.sub(r"\1", answer.replace("\\$", "").replace("$", "").replace("\u2212", "-"))
    text = " ".join(text.split()).removesuffix(".").strip()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if not _PLAIN_NUMBER.fullmatch(text):
        return _CHOICE.sub(r"\1", text) if _CHOICE.fullmatch(text) else text
    number = decimal.Decimal(text)
    plain = f"{number:f}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if number == 0 else plain


def same(answer: str, gold: str) -> bool:
    """Whether two answers are the same text after :func:`normalize`."""
    return normalize(answer) == normalize(gold)
