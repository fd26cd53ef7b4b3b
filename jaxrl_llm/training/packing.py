"""Which token stands where in a forward pass: rows of a few shapes, filled by a deterministic packer on the host.

A packed row is a prompt, stated once, and lanes of equal width behind it that hold completions of that prompt, several
in a lane where they fit; or one lane of groups, each a prompt and its completions. In either case a token sees exactly
what it saw when it was sampled, so that log-probabilities and gradients are those of one sequence a row, up to the
order of float32 sums.

Rows are cut into passes. All passes of a step have one shape, and shapes come from a short ladder, so that few programs
are compiled; the choice depends on the lengths alone, and a resumed run makes it again.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.algorithm import Algorithm, rows_with_gradient
from jaxrl_llm.sharding import to_host
from jaxrl_llm.training import layouts
from jaxrl_llm.training.layouts import Budget, Row, Sequences, Shape
from jaxrl_llm.types import BRANCHES, Array, Rollout, TrainBatch

_CALL = 64  # tokens' worth of time that a pass costs whatever its size


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packing:
    """One forward pass over tokens of a batch [B, Q] + [B, T]. R packed rows of W columns, C predictions a row.

    Attributes:
      source: int32 [R, W], the token of a column, as an index into the rows [B, Q + T] laid end to end; -1 for padding.
      positions: int32 [R, W].
      segments: int32 [R, W], see ``apply`` of :class:`jaxrl_llm.types.Model`.
      column: int32 [R, C], the column whose hidden state predicts a token.
      target: int32 [R, C], that token, as an index into the completions [B, T] laid end to end; B · T for none.
      prompt: columns of the shared prompt.
      lanes: behind it.
      segments_per_lane: at most, behind a prompt; what an attention kernel must know.
    """

    source: Array
    positions: Array
    segments: Array
    column: Array
    target: Array
    prompt: int = dataclasses.field(metadata={"static": True})
    lanes: int = dataclasses.field(metadata={"static": True})
    segments_per_lane: int = dataclasses.field(metadata={"static": True}, default=1)


def plain(batch: Rollout | TrainBatch, samples: int = 1) -> Packing:
    """A row a prompt [Q], padded, and a lane [T] for each of its completions; works on traced arrays.

    Args:
      samples: completions of a prompt, next to each other in the batch; 1: a row a completion.
    """
    prompt, width = batch.prompt_tokens.shape[1], batch.tokens.shape[1]
    rows = batch.prompt_tokens.shape[0] // samples
    length = batch.prompt_length[::samples, None]
    columns = jnp.broadcast_to(jnp.arange(prompt), (rows, prompt))
    of_lanes = (rows, samples, width)
    tokens = jnp.broadcast_to(jnp.arange(width), of_lanes)
    first = jnp.arange(rows * samples).reshape(rows, samples, 1)  # completions
    before = prompt + jnp.arange(samples)[:, None] * width + tokens - 1
    before = jnp.where(tokens == 0, length[:, :, None] - 1, before)

    def row(of_prompt: Array, of_completions: Array) -> Array:
        return jnp.concatenate([of_prompt, of_completions.reshape(rows, -1)], axis=1)

    return Packing(
        source=row(first[:, 0] * (prompt + width) + columns, first * (prompt + width) + prompt + tokens),
        positions=row(columns, length[:, :, None] + tokens),
        segments=row(columns < length, jnp.ones(of_lanes, bool)).astype(jnp.int32),
        column=before.reshape(rows, -1),
        target=(first * width + tokens).reshape(rows, -1),
        prompt=prompt,
        lanes=samples,
    )


@dataclasses.dataclass(frozen=True)
class Saved:
    """Columns of a step, by what became of them; the plain way is a row of Q + T columns a completion.

    Attributes:
      plain: columns of the plain way.
      of_rows: of rows that were not computed.
      of_prompts: of prompts that stand once for several completions.
      computed: columns of all passes, padding included.
      predicted: columns whose logits were computed.
    """

    plain: int
    of_rows: int
    of_prompts: int
    computed: int
    predicted: int

    def __add__(self, other: Saved) -> Saved:
        return Saved(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def shares(self) -> dict[str, float]:
        """Shares of the plain way's columns that were not computed, by cause, and of its logits.

        `padding` is what lanes saved beside the rest; it is below 0 where rows were added to fill a pass.
        """
        of_padding = self.plain - self.of_rows - self.of_prompts - self.computed
        saved = {"rows": self.of_rows, "prompts": self.of_prompts, "padding": of_padding}
        return {name: columns / self.plain for name, columns in saved.items()} | {
            "logits": 1 - self.predicted / self.plain
        }


def pack(sequences: Sequences, budget: Budget) -> tuple[list[Packing], Saved]:
    """Passes over all rows to compute, in the cheapest of a few layouts, and what they saved.

    There is at least one pass: without rows to compute it is padding.
    """
    layout = [layouts.shared, layouts.trees if budget.trees else layouts.alone] if budget.share else [layouts.padded]
    options = []
    for rows, shape in (of(sequences, budget) for of in layout):
        options.append((rows, *layouts.passes(len(rows), shape, budget)))

    def cost(option: tuple[list[Row], int, Shape]) -> int:
        """In columns on one device."""
        _, passes, shape = option
        return passes * (shape.rows // budget.devices * shape.width + _CALL)

    rows, passes, shape = min(options, key=cost)
    copies = 1
    if shape.prompt and not budget.trees:  # a power of two, so that few programs are compiled
        copies = 1 << (max((len(lane) for row in rows for lane in row), default=1) - 1).bit_length()
    of_passes = (rows[i * shape.rows : (i + 1) * shape.rows] for i in range(passes))
    parts = [dataclasses.replace(_lay(sequences, part, shape), segments_per_lane=copies) for part in of_passes]
    return parts, _saved(sequences, rows, passes, shape)


def _lay(sequences: Sequences, rows: list[Row], shape: Shape) -> Packing:
    """The arrays of one pass; rows that are missing are padding."""
    row_width = sequences.prompt_width + sequences.width
    nothing = len(sequences.length) * sequences.width
    source = np.full((shape.rows, shape.width), -1, np.int32)
    positions, segments = np.zeros_like(source), np.zeros_like(source)
    column = np.zeros((shape.rows, shape.predicted), np.int32)
    target = np.full((shape.rows, shape.predicted), nothing, np.int32)

    def put(i: int, at: int, first: int, position: int, count: int, segment: int) -> None:
        """``count`` tokens from ``first`` on, into columns ``at`` and after of packed row ``i``."""
        span = np.arange(count, dtype=np.int32)
        source[i, at : at + count] = first + span
        positions[i, at : at + count] = position + span
        segments[i, at : at + count] = segment

    def predict(i: int, slot: int, b: int, last: int, at: int) -> None:
        """The completion of row ``b``, which stands from column ``at`` on, its prompt ending in column ``last``."""
        length = int(sequences.length[b])
        span = slice(slot, slot + length)
        column[i, span] = np.concatenate([[last], np.arange(at, at + length - 1)])
        target[i, span] = b * sequences.width + np.arange(length)

    for i, row in enumerate(rows):
        slot = at = last = 0
        if shape.prompt:
            first = row[0][0]
            put(i, 0, first * row_width, 0, int(sequences.prompt_length[first]), 1)
        for j, lane in enumerate(row):
            prompt, segment = int(sequences.prompt_length[lane[0]]), 1
            last = prompt - 1
            if shape.prompt:
                at = shape.prompt + j * shape.lane
            else:  # a completion alone goes on in its prompt's segment; several branch off
                trunk = (j + 1) * BRANCHES
                segment = j + 1 if len(lane) == 1 else trunk + 1
                put(i, at, lane[0] * row_width, 0, prompt, segment if len(lane) == 1 else trunk)
                last, at = at + last, at + prompt
            for branch, b in enumerate(lane):
                put(i, at, b * row_width + sequences.prompt_width, prompt, int(sequences.length[b]), segment + branch)
                predict(i, slot, b, last, at)
                at, slot = at + int(sequences.length[b]), slot + int(sequences.length[b])
    return Packing(source, positions, segments, column, target, prompt=shape.prompt, lanes=shape.lanes)  # type: ignore[arg-type]


def _saved(sequences: Sequences, rows: list[Row], passes: int, shape: Shape) -> Saved:
    row_width = sequences.prompt_width + sequences.width
    chosen = sequences.rows
    first = [lane[0] for row in rows for lane in (row[:1] if shape.prompt else row)]  # of each prompt that stands
    return Saved(
        plain=len(sequences.length) * row_width,
        of_rows=(len(sequences.length) - len(chosen)) * row_width,
        of_prompts=int(sequences.prompt_length[chosen].sum() - sequences.prompt_length[first].sum()),
        computed=passes * shape.rows * shape.width,
        predicted=passes * shape.rows * shape.predicted,
    )


@functools.partial(jax.jit, static_argnums=1)
def _needed(batch: Rollout | TrainBatch, algorithm: Algorithm | None) -> tuple[Array, Array, Array]:
    """[B] each: tokens of the prompt; tokens of the completion up to the mask's last; whether the row is computed."""
    length = jnp.max(jnp.where(batch.mask, jnp.arange(1, batch.mask.shape[1] + 1), 0), axis=1)
    kept = jnp.ones(length.shape, bool)
    if algorithm is not None:
        assert isinstance(batch, TrainBatch)
        kept = rows_with_gradient(algorithm, batch)
    return batch.prompt_length, length, kept


def pack_batch(
    batch: Rollout | TrainBatch, groups: np.ndarray, budget: Budget, algorithm: Algorithm | None = None
) -> tuple[list[Packing], Saved]:
    """The passes over a batch, on the host, and what they saved.

    Args:
      groups: int [B]; rows with one number have the same prompt.
      algorithm: if given, rows in which its policy finds no gradient are left out.
    """
    prompt_length, length, kept = to_host(_needed(batch, algorithm))
    widths = {"prompt_width": batch.prompt_tokens.shape[1], "width": batch.tokens.shape[1]}
    return pack(Sequences(prompt_length, length, groups, kept, **widths), budget)
