"""Layouts of packed rows: which sequences stand in which lane of which row, and how many rows a pass takes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrl_llm.types import BRANCHES

MIN_BUCKET = 16  # tokens of the narrowest width
BUCKETS = 4  # widths that an array may take, each compiled once
COPIES = 9  # in a lane behind a prompt stand fewer completions than this under a kernel, which copies the prompt's keys
TREE = 2  # longest sequences that a lane of several groups has room for; wider lanes waste less and attend to more


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
      trees: whether several prompts may stand in one lane with their completions, which attention kernels cannot do.
    """

    tokens: int
    devices: int = 1
    multiple: int = 1
    share: bool = True
    trees: bool = True


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


Lane = list[int]  # rows of the batch, of one group
Row = list[Lane]  # behind a shared prompt, what stands in each lane; else what stands in the one lane, in order


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def padded(sequences: Sequences, budget: Budget) -> tuple[list[Row], Shape]:
    """A row a completion."""
    prompt, lane = (_up(width, budget.multiple) for width in (sequences.prompt_width, sequences.width))
    return [[[row]] for row in sequences.rows.tolist()], Shape(0, prompt, 1, lane, lane)


def shared(sequences: Sequences, budget: Budget) -> tuple[list[Row], Shape]:
    """A prompt and the lanes of its group, as many in a row as the budget allows; several completions in a lane."""
    longest = int(sequences.length[sequences.rows].max(initial=1))
    lane = _up(bucket(longest, sequences.width), budget.multiple)
    prompt = _up(sequences.prompt_width, budget.multiple)
    groups = _groups(sequences)
    most = max(map(len, groups), default=1)
    if budget.tokens:
        rows_of_group = -(-most // max(1, (budget.tokens - prompt) // lane))
        most = -(-most // rows_of_group)
    filled = [_first_fit(rows, sequences.length, lane, BRANCHES if budget.trees else COPIES) for rows in groups]
    rows = [of_group[i : i + most] for of_group in filled for i in range(0, len(of_group), most)]
    return rows, Shape(0, prompt, most, lane, most * lane)


def trees(sequences: Sequences, budget: Budget) -> tuple[list[Row], Shape]:
    """Rows of one lane, in which groups stand one after the other: a prompt, then its completions."""
    longest = int((sequences.prompt_length + sequences.length)[sequences.rows].max(initial=1))
    limit = sequences.prompt_width + sequences.width
    least = bucket(longest, limit)
    lane = TREE * least
    if budget.tokens:
        lane = max(least, min(lane, budget.tokens - budget.tokens % budget.multiple))
    lane = _up(lane, budget.multiple)
    rows: list[Row] = []
    room = 0
    for group in _groups(sequences):
        prompt = int(sequences.prompt_length[group[0]])
        left = sorted(group, key=lambda row: (-sequences.length[row], row))
        while left:
            fits = [row for row in left if prompt + sequences.length[row] <= room]
            if not fits:
                rows.append([])
                room = lane
                continue
            tree: Lane = []
            room -= prompt
            for row in fits:
                if sequences.length[row] <= room and len(tree) < BRANCHES - 1:
                    tree.append(row)
                    room -= int(sequences.length[row])
            rows[-1].append(tree)
            left = [row for row in left if row not in tree]
    return rows, _one_lane(sequences, rows, lane, budget)


def alone(sequences: Sequences, budget: Budget) -> tuple[list[Row], Shape]:
    """Rows of one lane, in which whole sequences stand one after the other, each with a prompt of its own."""
    chosen = sequences.rows
    total = sequences.prompt_length + sequences.length
    limit = sequences.prompt_width + sequences.width
    lane = _up(bucket(int(total[chosen].max(initial=1)), limit), budget.multiple)
    rows = [[[row] for row in lane_rows] for lane_rows in _first_fit(chosen.tolist(), total, lane)]
    return rows, _one_lane(sequences, rows, lane, budget)


def _one_lane(sequences: Sequences, rows: list[Row], lane: int, budget: Budget) -> Shape:
    """With room for the completions of the fullest row, in eighths of the lane."""
    most = max((sum(int(sequences.length[tree].sum()) for tree in row) for row in rows), default=1)
    return Shape(0, 0, 1, lane, min(lane, _up(most, _up(-(-lane // 8), budget.multiple))))


def _groups(sequences: Sequences) -> list[list[int]]:
    """Rows to compute by group, groups in the order of their first row.

    Raises:
      ValueError: rows of one group have prompts of different lengths: what they share would not be theirs.
    """
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for row in sequences.rows.tolist():
        groups[int(sequences.prompt_id[row])].append(row)
    for group, rows in groups.items():
        if len(lengths := set(sequences.prompt_length[rows].tolist())) > 1:
            raise ValueError(f"prompt_id {group}: prompts of {sorted(lengths)} tokens; expected one prompt a group")
    return list(groups.values())


def _first_fit(rows: Sequence[int], length: np.ndarray, width: int, most: int = BRANCHES) -> list[Lane]:
    """First-fit decreasing: the longest first, each into the first lane with room (Johnson, 1973), fewer than ``most``
    in a lane."""
    lanes: list[Lane] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: (-length[row], row)):
        needed = int(length[row])
        fits = (i for i, left in enumerate(room) if left >= needed and len(lanes[i]) < most - 1)
        place = next(fits, len(lanes))
        if place == len(lanes):
            lanes.append([])
            room.append(width)
        lanes[place].append(row)
        room[place] -= needed
    return lanes


def passes(rows: int, shape: Shape, budget: Budget) -> tuple[int, Shape]:
    """(passes, shape of each), with as many rows on a device as the budget allows, or the power of two that holds all
    where those are fewer."""
    needed = 1 << (-(-max(1, rows) // budget.devices) - 1).bit_length()
    on_device = min(needed, max(1, budget.tokens // shape.width)) if budget.tokens else needed
    of_pass = on_device * budget.devices
    return max(1, -(-rows // of_pass)), dataclasses.replace(shape, rows=of_pass)
