"""Layouts of packed rows: which sequences stand in which lane of which row, and how many rows a pass takes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

MIN_BUCKET = 16  # tokens of the narrowest width
BUCKETS = 4  # widths that an array may take, each compiled once


@dataclasses.dataclass(frozen=True)
class Sequences:
    """The sequences of a batch, on the host; [B] each.

    Attributes:
      prompt_length: tokens.
      length: completion tokens up to the last that is needed.
      prompt_id: rows with one number have the same prompt.
      kept: bool, rows to compute; a row of length 0 is never computed.
      prompt_width: Q.
      width: T.
    """

    prompt_length: np.ndarray
    length: np.ndarray
    prompt_id: np.ndarray
    kept: np.ndarray
    prompt_width: int
    width: int

    @property
    def rows(self) -> np.ndarray:
        """Indices of the rows to compute."""
        return np.flatnonzero(self.kept & (self.length > 0))


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a pass may hold.

    Attributes:
      tokens: columns on one device; a row that is longer is a pass of its own. 0: no limit.
      devices: that rows are split over.
      multiple: that widths must divide by.
      share: whether completions share their prompt and lanes; else a row is one completion, padded.
    """

    tokens: int
    devices: int = 1
    multiple: int = 1
    share: bool = True


def bucket(longest: int, limit: int) -> int:
    """The narrowest of a few widths that holds ``longest`` tokens, so that a step neither pads to the limit nor
    compiles for every length."""
    step = max(MIN_BUCKET, -(-limit // BUCKETS))
    return min(limit, -(-longest // step) * step)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a pass: rows of a prompt and lanes."""

    rows: int
    prompt: int
    lanes: int
    lane: int
    predicted: int

    @property
    def width(self) -> int:
        return self.prompt + self.lanes * self.lane


Lane = list[int]  # rows of the batch whose sequences stand in it, in order
Row = list[Lane]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def padded(sequences: Sequences, budget: Budget) -> tuple[list[Row], Shape]:
    """A row a completion."""
    prompt, lane = (_up(width, budget.multiple) for width in (sequences.prompt_width, sequences.width))
    return [[[row]] for row in sequences.rows.tolist()], Shape(0, prompt, 1, lane, lane)


def shared(sequences: Sequences, budget: Budget) -> Iterator[tuple[list[Row], Shape]]:
    """Rows of 1, 2, 4, ... lanes behind a prompt."""
    chosen = sequences.rows
    longest = int(sequences.length[chosen].max(initial=1))
    lane = _up(bucket(longest, sequences.width), budget.multiple)
    prompt = _up(sequences.prompt_width, budget.multiple)
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for row in chosen.tolist():
        groups[int(sequences.prompt_id[row])].append(row)
    filled = [_first_fit(rows, sequences.length, lane) for rows in groups.values()]
    most = max(map(len, filled), default=1)
    lanes = 1
    while True:
        if lanes > 1 and budget.tokens and prompt + lanes * lane > budget.tokens:
            return
        rows = [of_group[i : i + lanes] for of_group in filled for i in range(0, len(of_group), lanes)]
        yield rows, Shape(0, prompt, lanes, lane, lanes * lane)
        if lanes >= most:
            return
        lanes *= 2


def alone(sequences: Sequences, budget: Budget) -> tuple[list[Row], Shape]:
    """Whole sequences, prompts included, in rows of one lane."""
    chosen = sequences.rows
    total = sequences.prompt_length + sequences.length
    limit = sequences.prompt_width + sequences.width
    lane = _up(bucket(int(total[chosen].max(initial=1)), limit), budget.multiple)
    rows = [[lane_rows] for lane_rows in _first_fit(chosen.tolist(), total, lane)]
    most = max((int(sequences.length[row[0]].sum()) for row in rows), default=1)
    return rows, Shape(0, 0, 1, lane, _up(bucket(most, lane), budget.multiple))


def _first_fit(rows: Sequence[int], length: np.ndarray, width: int) -> list[Lane]:
    """First-fit decreasing: the longest first, each into the first lane with room (Johnson, 1973)."""
    lanes: list[Lane] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: (-length[row], row)):
        needed = int(length[row])
        place = next((i for i, left in enumerate(room) if left >= needed), len(lanes))
        if place == len(lanes):
            lanes.append([])
            room.append(width)
        lanes[place].append(row)
        room[place] -= needed
    return lanes


def passes(rows: int, shape: Shape, budget: Budget) -> Iterator[tuple[int, Shape]]:
    """(passes, shape of each): every power of two of rows on a device that the budget allows."""
    most = max(1, budget.tokens // shape.width) if budget.tokens else max(1, -(-rows // budget.devices))
    on_device = 1
    while True:
        of_pass = min(on_device, most) * budget.devices
        yield max(1, -(-rows // of_pass)), dataclasses.replace(shape, rows=of_pass)
        if on_device >= most:
            return
        on_device *= 2
