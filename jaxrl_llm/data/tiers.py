"""Files of problems drawn from other sources: tiers of difficulty to train on, and benchmarks side by side.

A file has parts, each drawn from one source by a stated rule. What is drawn depends on seed and rows alone: neither on
the order of the rows nor on any library's random numbers. A manifest says of every part where it came from, what was
drawn, and what was dropped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxrl_llm.data import choices, programs
from jaxrl_llm.data.prompts import Problem, fingerprint, read_rows, to_problem, value_of
from jaxrl_llm.rewards.gold import short

MANIFEST = "manifest.json"

Readable = Callable[[Sequence[str]], Mapping[str, bool]]  # of every answer, whether the verifier can read it


@dataclasses.dataclass(frozen=True)
class Part:
    """What a file takes from one source.

    Attributes:
      source: ``jsonl:PATH`` or ``hub:NAME``, see :func:`jaxrl_llm.data.prompts.load_problems`; so are the next three.
      choices_key: key of a list of choices, of which the answer is a letter, or an integer index from 0. The question
        gets the choices under letters, and the answer is the letter. None: the answer is what ``answer_key`` says.
      wrong_keys: keys of wrong answers, which stand beside the right one in an order drawn for each row; as above.
      tests_keys: keys of tests of a program, which together are the answer in place of ``answer_key``, see
        :func:`jaxrl_llm.data.programs.tested`.
      starter_key: key of the code that the program is to begin with, which may be empty; None: there is none.
      metadata_key: key of what names the function to test; None: programs read their standard input.
      by: key of a number in each row, such as a difficulty or the right samples out of 8; None: no number is read.
      low: rows whose number is smaller are left out; None: none are.
      high: rows whose number is larger are left out; None: none are.
      draw: all; uniform (any row is as likely); lowest (the rows with the smallest numbers); proportional (without
        replacement, each next row with probability in proportion to its number).
      rows: to draw; None with draw all, which takes what there is.
      true_false_rows: of them at most so many whose answer is True or False; None: any number.
    """

    source: str
    split: str = "train"
    question_key: str = "question"
    answer_key: str = "answer"
    choices_key: str | None = None
    wrong_keys: tuple[str, ...] = ()
    tests_keys: tuple[str, ...] = ()
    starter_key: str | None = None
    metadata_key: str | None = None
    by: str | None = None
    low: float | None = None
    high: float | None = None
    draw: Literal["all", "uniform", "lowest", "proportional"] = "all"
    rows: int | None = None
    true_false_rows: int | None = None

    def __post_init__(self) -> None:
        numbered = self.draw in ("lowest", "proportional") or self.low is not None or self.high is not None
        for key, holds, expected in (
            ("rows", (self.rows is None) == (self.draw == "all"), "a number, unless draw = 'all'"),
            ("rows", self.rows is None or self.rows >= 1, "at least 1"),
            ("true_false_rows", (self.true_false_rows or 0) >= 0, "0 or more"),
            ("wrong_keys", not (self.wrong_keys and self.choices_key), "none beside choices_key"),
            ("tests_keys", not (self.tests_keys and (self.wrong_keys or self.choices_key)), "none beside choices"),
            ("answer_key", not self.tests_keys or self.answer_key == "answer", "'answer': tests_keys has the answer"),
            ("starter_key", self.tests_keys or self.starter_key is None, "None: only tests_keys reads it"),
            ("metadata_key", self.tests_keys or self.metadata_key is None, "None: only tests_keys reads it"),
            ("by", self.by is not None or not numbered, "the key of a number, which low, high and draw read"),
            ("by", self.by is None or numbered, "None: neither low, high nor draw reads a number"),
            ("low", self.low is None or self.high is None or self.low <= self.high, f"at most high = {self.high}"),
        ):
            if not holds:
                raise ValueError(f"{key} = {getattr(self, key)!r} with draw = {self.draw!r}: expected {expected}")


class Row(NamedTuple):
    problem: Problem
    number: float | None
    ambiguous: bool = False  # two choices are the right text


class Drawn(NamedTuple):
    """Of one part: the rows, in the order of their source, and what the manifest says."""

    rows: list[Row]
    report: dict[str, Any]


def make(
    folder: str | Path,
    files: Mapping[str, Mapping[str, Part]],
    readable: Readable,
    *,
    seed: int,
    held_out: str | None,
) -> dict[str, Any]:
    """Draws and writes ``NAME.jsonl`` for every file, and the manifest, which is returned.

    Nothing is written before everything is drawn. A line is {"question", "answer", "source": name of the part}, and the
    number of ``by`` under its own key.

    Args:
      folder: to write in.
      files: name -> name of a part -> part.
      held_out: name of the file whose questions no other may hold; None: files are drawn apart from each other.

    Raises:
      FileNotFoundError, ValueError: as :func:`draw` says, and of a ``held_out`` that is no file.
    """
    if held_out is not None and held_out not in files:
        raise ValueError(f"held_out = {held_out!r}: expected one of the files {', '.join(files)}, or None")
    drawn: dict[str, dict[str, Drawn]] = {}
    taken: set[str] = set()
    for name in sorted(files, key=lambda name: name != held_out):  # its questions are known when the others are drawn
        seen = set(taken)
        drawn[name] = {key: draw(f"{name}.{key}", part, readable, seed, seen) for key, part in files[name].items()}
        if name == held_out:
            taken = seen
    manifest: dict[str, Any] = {"seed": seed, "held_out": held_out, "files": {}}
    texts = {name: _lines(drawn[name], files[name]) for name in files}
    for name, text in texts.items():
        _write(Path(folder, f"{name}.jsonl"), text)
        manifest["files"][name] = {
            "rows": text.count("\n"),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "parts": {key: part.report for key, part in drawn[name].items()},
        }
    _write(Path(folder, MANIFEST), json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def draw(name: str, part: Part, readable: Readable, seed: int, seen: set[str]) -> Drawn:
    """What a part takes; the questions that it takes are added to ``seen``, and those in it are never taken.

    Rows are ranked by the rule of ``part.draw``. Down the ranking, those whose answer cannot be read are dropped by
    name, until there are enough.

    Raises:
      FileNotFoundError, ValueError: as `load_problems` says; a row without a number, or with one that has no weight;
        fewer rows than are to be drawn.
    """
    every = [_row(part, seed, index, row) for index, row in read_rows(part.source, part.split)]
    dropped: dict[str, int] = {"out_of_bounds": 0, "repeated_or_held_out": 0, "ambiguous_choices": 0}
    dropped |= {"true_or_false": 0, "unreadable": 0}
    candidates, known = [], set(seen)
    for row in every:
        question = _key(row.problem.question)
        if not _within(part, row.number):
            dropped["out_of_bounds"] += 1
        elif question in known:
            dropped["repeated_or_held_out"] += 1
        elif row.ambiguous:
            dropped["ambiguous_choices"] += 1
        else:
            known.add(question)
            candidates.append(row)
    ranked = sorted(candidates, key=lambda row: _rank(name, part, seed, row))
    chosen, unreadable = _first_readable(ranked, part, readable, dropped)
    if len(chosen) < (part.rows or 1):
        raise ValueError(
            f"{name}: {part.source} has {len(chosen)} rows to draw, of {len(every)} rows that were read "
            f"({_said(dropped)}); expected at least {part.rows or 1}"
        )
    seen.update(_key(row.problem.question) for row in chosen)
    report = {
        **dataclasses.asdict(part),
        "rows_of_source": len(every),
        "fingerprint": fingerprint([row.problem for row in every]),
        "drawn": len(chosen),
        "dropped": dropped,
        "unreadable_rows": [{"row": row.problem.name, "answer": short(row.problem.answer)} for row in unreadable],
    }
    return Drawn(sorted(chosen, key=lambda row: row.problem.id), report)


def _first_readable(
    ranked: Sequence[Row], part: Part, readable: Readable, dropped: dict[str, int]
) -> tuple[list[Row], list[Row]]:
    """(As many as the part wants, those that were met and cannot be read); what is left out is counted in ``dropped``.

    Only as many answers are read as it takes: a verifier needs milliseconds for each.
    """
    wanted = len(ranked) if part.rows is None else part.rows
    chosen, unreadable, booleans, position = [], [], 0, 0
    while len(chosen) < wanted and position < len(ranked):
        block = ranked[position : position + wanted - len(chosen)]
        position += len(block)
        can_read = readable([row.problem.answer for row in block])
        for row in block:
            is_boolean = row.problem.answer.strip().lower() in ("true", "false")
            if not can_read[row.problem.answer]:
                unreadable.append(row)
            elif is_boolean and booleans == part.true_false_rows:
                dropped["true_or_false"] += 1
            else:
                booleans += is_boolean
                chosen.append(row)
    dropped["unreadable"] = len(unreadable)
    return chosen, unreadable


def said(manifest: Mapping[str, Any]) -> Iterable[str]:
    """Lines for the console: every part, and every answer that could not be read."""
    for name, file in manifest["files"].items():
        yield f"{name}: {file['rows']} rows"
        for key, part in file["parts"].items():
            of_source = f"{part['drawn']} of {part['rows_of_source']} rows of {part['source']}"
            yield f"  {key}: {of_source}; {_said(part['dropped'])}"
            for row in part["unreadable_rows"]:
                yield f"    {row['row']}: the verifier cannot read {row['answer']!r}"


def _said(dropped: Mapping[str, int]) -> str:
    left = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items() if count)
    return f"left out: {left}" if left else "none left out"


def _row(part: Part, seed: int, index: int, row: Any) -> Row:
    if part.tests_keys and isinstance(row, Mapping):
        row = {**row, part.answer_key: "tests"}  # which stand below in its place
    problem, ambiguous = to_problem(row, part.source, index, part.question_key, part.answer_key), False
    if part.tests_keys:
        problem = programs.tested(problem, row, part.tests_keys, part.starter_key, part.metadata_key)
    elif part.choices_key is not None:
        listed, right = (value_of(row, key, problem.name) for key in (part.choices_key, part.answer_key))
        problem, ambiguous = choices.in_order(problem, listed, right)
    elif part.wrong_keys:
        wrong = [value_of(row, key, problem.name) for key in part.wrong_keys]
        problem, ambiguous = choices.shuffled(problem, wrong, seed)
    return Row(problem, _number(part, row, problem.name), ambiguous)


def _number(part: Part, row: Any, name: str) -> float | None:
    if part.by is None:
        return None
    value = value_of(row, part.by, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: {part.by!r} is {value!r}, expected a number")
    if part.draw == "proportional" and value <= 0 and _within(part, value):
        raise ValueError(f"{name}: {part.by!r} is {value!r}, expected a number above 0, a weight")
    return value


def _within(part: Part, number: float | None) -> bool:
    return number is None or ((part.low is None or number >= part.low) and (part.high is None or number <= part.high))


def _rank(name: str, part: Part, seed: int, row: Row) -> tuple[float, float]:
    """Smaller is drawn first. Proportional: -log(u) / w, u uniform, w the row's number.

    Reference: Efraimidis and Spirakis, 2006, "Weighted random sampling with a reservoir".
    """
    if part.draw == "all":
        return (row.problem.id, 0.0)
    digest = hashlib.blake2b(json.dumps([seed, name, _key(row.problem.question)]).encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 1) / 2.0**64  # in (0, 1]
    if part.draw == "uniform":
        return (uniform, 0.0)
    assert row.number is not None
    return (row.number, uniform) if part.draw == "lowest" else (-math.log(uniform) / row.number, uniform)


def _key(question: str) -> str:
    """Two questions that differ in spaces alone are one."""
    return " ".join(question.split())


def _lines(drawn: Mapping[str, Drawn], parts: Mapping[str, Part]) -> str:
    lines = []
    for key, part in drawn.items():
        by = parts[key].by
        for row in part.rows:
            line = {"question": row.problem.question, "answer": row.problem.answer, "source": key}
            lines.append(json.dumps(line if by is None else line | {by: row.number}, ensure_ascii=False) + "\n")
    return "".join(lines)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
