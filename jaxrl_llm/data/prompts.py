"""Problems from a built-in task, a JSONL file or the Hub, and the stream that training draws them from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxrl_llm.data.tasks import TASKS, Task


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Keys of ``c.data`` in configs/base.py, where each stands with its default."""

    source: str
    tier: str
    split: str
    question_key: str
    answer_key: str
    source_key: str | None
    template: str
    system: str
    max_prompt_tokens: int
    long_prompts: Literal["error", "drop"]
    prompts_per_step: int
    samples_per_prompt: int

    def __post_init__(self):
        for key in ("max_prompt_tokens", "prompts_per_step", "samples_per_prompt"):
            if getattr(self, key) < 1:
                raise ValueError(f"data.{key} = {getattr(self, key)}, expected at least 1")
        if self.long_prompts not in ("error", "drop"):
            raise ValueError(f"data.long_prompts = {self.long_prompts!r}, expected error or drop")
        if self.template != "chat" and "{question}" not in self.template:
            raise ValueError(f"data.template = {self.template!r}, expected chat or a text with {{question}} in it")
        if self.template != "chat" and self.system:
            raise ValueError(f"data.system = {self.system!r} needs data.template = 'chat': no text template reads it")
        if self.source_key is not None and self.source.startswith("task:"):
            raise ValueError(
                f"data.source_key = {self.source_key!r} with data.source = {self.source!r}: rows of a built-in task "
                "name no source; expected None"
            )


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question and its answer.

    Attributes:
      id: row of the source, from 0; of a file, its line.
      source: as in ``data.source``; of a task, with tier and split.
      origin: what the row's ``data.source_key`` says: of a mixed file, the data set that the row came from.
    """

    id: int
    question: str
    answer: str
    source: str
    origin: str | None = None

    @property
    def name(self) -> str:
        """Source and row, for messages."""
        return _name(self.source, self.id)


def _name(source: str, row: int) -> str:
    kind, _, rest = source.partition(":")
    return f"{rest}, line {row + 1}" if kind == "jsonl" else f"{source}, row {row} (from 0)"


class TaskProblems:
    """The rows of a built-in task: as many as one asks for, each computed from its index."""

    def __init__(self, task: Task, tier: str, split: str):
        self._task, self._tier, self._split = task, tier, split
        self._source = f"task:{task.name}/{tier}/{split}"
        self[0]  # an unknown tier or split is an error now, not in the middle of a run

    def __getitem__(self, index: int) -> Problem:
        example = self._task.generate(self._tier, self._split, index)
        return Problem(index, example.question, example.answer, self._source)


Problems = Sequence[Problem] | TaskProblems


def load_problems(
    source: str, *, tier: str, split: str, question_key: str, answer_key: str, source_key: str | None = None
) -> Problems:
    """The problems of a source.

    Args:
      source: ``task:NAME``, ``jsonl:PATH``, or ``hub:NAME``, of which ``hub:OWNER/NAME/FILE`` is one file, and to
        which ``:CONFIGURATION`` and then ``@REVISION`` may be added.
      tier: of a built-in task.
      split: of a built-in task or a Hub data set.
      question_key: of a row of a file or a data set; ``outer.inner`` is a key of the object ``outer`` in it. The value
        is a text.
      answer_key: the value is a text, a number, or a list of them. Of a worked solution in GSM8K's form, the answer is
        what stands after the last ``####``.
      source_key: the value, a text or a number, names the source of the row; None: rows have none.

    Raises:
      FileNotFoundError: where the file is missing.
      ValueError: where the source is unknown, unreadable or empty, or a row has no question, answer or source.
    """
    kind, _, name = source.partition(":")
    if kind == "task" and name in TASKS:
        return TaskProblems(TASKS[name], tier, split)
    if kind == "task":
        raise ValueError(f"data source {source!r}: the built-in tasks are {', '.join(TASKS)}")
    rows = read_rows(source, split)
    return [to_problem(row, source, index, question_key, answer_key, source_key) for index, row in rows]


def read_rows(source: str, split: str) -> list[tuple[int, Any]]:
    """Index and value of every row of a file or a data set; arguments and errors are those of :func:`load_problems`."""
    kind, _, name = source.partition(":")
    if kind == "jsonl" and name:
        rows = _read_jsonl(Path(name).expanduser())
    elif kind == "hub" and name:
        rows = _read_hub(name, split)
    else:
        raise ValueError(f"data source {source!r}: expected task:NAME, jsonl:PATH or hub:NAME")
    if not rows:
        raise ValueError(f"data source {source!r}: no rows")
    return rows


def first(problems: Problems, count: int) -> list[Problem]:
    """The first ``count`` problems, or all where there are fewer."""
    available = count if isinstance(problems, TaskProblems) else min(count, len(problems))
    return [problems[index] for index in range(available)]


def _read_jsonl(path: Path) -> list[tuple[int, Any]]:
    """Line, from 0, and value of every line that is not blank."""
    if not path.is_file():
        raise FileNotFoundError(f"data file {path} does not exist, or is no file")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data file {path} cannot be read: {error}") from error
    rows = []
    for index, line in enumerate(lines):
        if line.strip():
            try:
                rows.append((index, json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{path}, line {index + 1}: not JSON: {error}") from error
    return rows


def _read_hub(name: str, split: str) -> list[tuple[int, Any]]:
    import datasets

    plain, _, revision = name.partition("@")
    dataset, _, configuration = plain.partition(":")
    owner, *rest = dataset.split("/", 2)
    files = None
    if len(rest) == 2 and not Path(dataset).is_dir():
        dataset, files = f"{owner}/{rest[0]}", {split: rest[1]}
    try:
        rows = datasets.load_dataset(
            dataset, configuration or None, data_files=files, split=split, revision=revision or None
        )
    except Exception as error:  # the library raises many kinds, for what the user can mend: name, split, network
        raise ValueError(f"data source 'hub:{name}', split {split!r}, cannot be loaded: {error}") from error
    return list(enumerate(rows))


def to_problem(
    row: Any, source: str, index: int, question_key: str, answer_key: str, source_key: str | None = None
) -> Problem:
    """A row of :func:`read_rows` as a problem; arguments and errors are those of :func:`load_problems`."""
    name = _name(source, index)
    if not isinstance(row, Mapping):
        raise ValueError(f"{name}: {row!r}, expected an object with {question_key!r} and {answer_key!r}")
    keys = [question_key, answer_key] + ([] if source_key is None else [source_key])
    question, answer, *origins = [value_of(row, key, name) for key in keys]
    answer = _as_text(answer)
    if isinstance(answer, str):
        answer = answer.rpartition("####")[2].strip()
    origin = _as_text(origins[0]) if origins else None
    for key, value in zip(keys, (question, answer, origin), strict=False):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}: {key!r} is {value_of(row, key, name)!r}, expected a text that is not empty")
    return Problem(index, str(question), str(answer), source, origin)


def value_of(row: Mapping[str, Any], key: str, name: str) -> Any:
    """The value of ``key``, or of ``outer.inner`` the value in an object; ``name`` is the row's, for the error."""
    if key in row:
        return row[key]
    outer, _, inner = key.partition(".")
    if inner and isinstance(row.get(outer), Mapping):
        return value_of(row[outer], inner, f"{name}, {outer}")
    raise ValueError(f"{name}: no key {key!r}; the row has {', '.join(map(repr, row))}")


def _as_text(value: Any) -> Any:
    """A number as text, a list with commas between; anything else as it is."""
    if isinstance(value, list) and value:
        texts = [_as_text(part) for part in value]
        return ", ".join(texts) if all(isinstance(text, str) for text in texts) else value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class PromptStream:
    """Draws problems in a seeded order, with a cursor that can be saved and restored exactly.

    Finite data comes in epochs, each a shuffle of its own; a batch may reach over the end of one, and then hold a
    problem twice. The rows of a task come one after the other, from a start that depends on the seed.
    """

    def __init__(self, problems: Problems, seed: int):
        self._problems = problems
        self._seed = seed
        self._epoch = 0
        self._position = 0  # in the epoch
        self._order = self._shuffle()
        self._fingerprint = fingerprint(problems)

    def next(self, count: int) -> list[Problem]:
        """The next ``count`` problems."""
        drawn = []
        for _ in range(count):
            if isinstance(self._problems, TaskProblems):
                drawn.append(self._problems[self._start() + self._position])
            else:
                if self._position == len(self._problems):
                    self._epoch, self._position = self._epoch + 1, 0
                    self._order = self._shuffle()
                drawn.append(self._problems[self._order[self._position]])
            self._position += 1
        return drawn

    def state(self) -> dict[str, Any]:
        """The cursor, as JSON values."""
        return {"epoch": self._epoch, "position": self._position, "seed": self._seed, "fingerprint": self._fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where a stream with this state would.

        Raises:
          ValueError: where the state is of other data or of another seed.
        """
        mine = self.state()
        for key, meaning in (("fingerprint", "other data"), ("seed", "another seed")):
            if state[key] != mine[key]:
                raise ValueError(
                    f"the saved place in the data belongs to {meaning}: {key} {state[key]!r}, and this run's is "
                    f"{mine[key]!r} ({self._problems[0].source})"
                )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._order = self._shuffle()

    def _start(self) -> int:
        """Below 2**30, so that row numbers stay int32 for a billion draws."""
        return int.from_bytes(_digest("start", self._seed)[:4], "big") >> 2

    def _shuffle(self) -> list[int]:
        """Rows of this epoch in the order of a hash: the same under every version of every library."""
        if isinstance(self._problems, TaskProblems):
            return []
        return sorted(range(len(self._problems)), key=lambda row: _digest(self._seed, self._epoch, row))


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def fingerprint(problems: Problems) -> str:
    """A hash of all rows; of a task, of its name and first rows, which change when its generator does."""
    of_task = isinstance(problems, TaskProblems)
    counted = first(problems, 8) if of_task else problems
    rows = [(problem.question, problem.answer, problem.origin) for problem in counted]
    return _digest(problems[0].source if of_task else "rows", rows).hex()
