"""Problems whose answer is a program: the tests of a row, in LiveCodeBench's forms, as a gold answer."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
import json
import pickle
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxrl_llm.data.prompts import Problem, value_of
from jaxrl_llm.rewards.gold import gold_of

READS = "Read from standard input, and write to standard output."


def tested(
    problem: Problem,
    row: Mapping[str, Any],
    tests_keys: Sequence[str],
    starter_key: str | None,
    metadata_key: str | None,
) -> Problem:
    """The problem with tests for an answer, and with what the program has to be in its question.

    Args:
      problem: its answer is not read.
      row: its row.
      tests_keys: of lists of objects with ``input`` and ``output``, each list as it is, as JSON, or packed (base64 of
        zlib of a pickled text, which is JSON again).
      starter_key: of code that the program is to begin with; None, or no code in that row: it reads its input.
      metadata_key: of an object, or its JSON, whose ``func_name`` is the function to call; None, or no name there:
        programs are tested on their standard input.

    Raises:
      ValueError: naming the row; there are no tests in that form.
    """
    listed = [value_of(row, key, problem.name) for key in tests_keys]
    starter = value_of(row, starter_key, problem.name) if starter_key else ""
    metadata = value_of(row, metadata_key, problem.name) if metadata_key else None
    try:
        cases = [(case["input"], case["output"]) for tests in listed for case in _unpacked(tests)]
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        function = (metadata or {}).get("func_name")
        asked = f"Begin with this code:\n```python\n{starter.rstrip()}\n```" if starter.strip() else READS
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{problem.name}: no tests of a program in LiveCodeBench's form: {error!r}") from None
    question = f"{problem.question.rstrip()}\n\n{asked}"
    return dataclasses.replace(problem, question=question, answer=gold_of(cases, function))


def _unpacked(listed: Any) -> Iterable[Mapping[str, Any]]:
    if not isinstance(listed, str):
        return listed
    try:
        return json.loads(listed)
    except ValueError:
        pass
    try:
        return json.loads(_TextAlone(io.BytesIO(zlib.decompress(base64.b64decode(listed, validate=True)))).load())
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, IndexError) as error:
        raise ValueError(f"neither JSON nor packed tests: {error}") from None


class _TextAlone(pickle.Unpickler):
    """Reads a pickled text; a pickle that names anything to import could run it."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it would import {module_name}.{global_name}")
