"""How the logits of a pass are cut, and the work on the parts: each device on its own rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxrl_llm.sampling.support import Sampling, keeps_all
from jaxrl_llm.sharding import ROW_AXES, column_devices, row_devices
from jaxrl_llm.types import Array, Params

_LANES = 128  # entries of the vocabulary come in as many
KEPT_LOGITS = 2**27  # bytes of a pass's logits on one device that are kept for the backward pass


class Chunks(NamedTuple):
    """How the logits of a pass are cut.

    Attributes:
      columns: of a packed row whose logits are worked on at a time.
      entries: of the vocabulary, likewise.
      count: of chunks, the last one padded.
      kept: whether the backward pass reads the logits; else it computes them again.
    """

    columns: int
    entries: int
    count: int
    kept: bool


def chunks_of(rows: int, width: int, vocabulary: int, chunk: int, *, by_entry: bool) -> Chunks:
    """Chunks of the logits of ``chunk`` tokens at most, of ``width`` predictions in each of ``rows`` packed rows.

    Rows are those of one device. By entries of the vocabulary is cut where that may be (``by_entry``) and tokens are
    fewer than entries: what chunks of entries add up is as large as the hidden states, what chunks of columns add up is
    as large as the head.
    """
    columns = min(width, max(1, chunk // max(1, rows)))
    kept = columns == width or rows * width * vocabulary * 4 <= KEPT_LOGITS
    entries = -(-vocabulary * columns // (width * _LANES)) * _LANES
    if kept or not by_entry or rows * width >= vocabulary or entries >= vocabulary:
        return Chunks(columns, vocabulary, -(-width // columns), kept)
    return Chunks(width, entries, -(-vocabulary // entries), kept)


def may_cut_entries(sampling: Sampling, *, more: bool, head_ways: int) -> bool:
    """Whether logits may be cut by entries of the vocabulary.

    Args:
      sampling: a filter compares the entries with one another.
      more: whether more than log-probabilities and entropies is wanted.
      head_ways: devices that the vocabulary is split over; a block would be of one of them.
    """
    return keeps_all(sampling) and not more and head_ways == 1


def row_ways() -> int:
    """Devices that the rows are split over."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else row_devices(mesh)


def on_own_rows(scorer: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """(heads, hidden, tokens) -> scores, each device working on its own rows.

    With a head that is gathered once, and whose gradient is summed once; left to XLA, either happens in every chunk.
    """
    if row_ways() == 1 or rows % row_ways():
        return scorer
    split = PartitionSpec(ROW_AXES)
    return jax.shard_map(
        scorer,
        in_specs=(PartitionSpec(), split, split),
        out_specs=split,
        axis_names=set(ROW_AXES),
        check_vma=False,
    )


def on_flat_tokens(of_tokens: Callable[..., Any], heads: Any, hidden: Any, tokens: Array) -> Any:
    """``of_tokens(heads, hidden [R, C, D], tokens [R, C])``, flat as in a layer, where that moves no columns.

    The gradient by the head of a product with two leading axes costs a transposed copy of the logits' on CPU.
    """
    if column_devices(jax.sharding.get_abstract_mesh()) > 1:
        return of_tokens(heads, hidden, tokens)
    hidden = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), hidden)
    found = of_tokens(heads, hidden, tokens.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(tokens.shape), found)


def by_columns(
    score_columns: Callable[[list[Params], list[Array], Array], Any],
    chunks: Chunks,
    heads: list[Params],
    hidden: list[Array],
    tokens: Array,
) -> Any:
    """Scores [R, C], computed a chunk at a time."""
    rows, width = tokens.shape
    if chunks.count == 1:
        return score_columns(heads, hidden, tokens)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, chunks.count * chunks.columns - width)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(rows, chunks.count, chunks.columns, *x.shape[2:]).swapaxes(0, 1)

    parts = jax.tree.map(cut, (hidden, tokens))
    scores = jax.lax.map(lambda xs: score_columns(heads, *xs), parts)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, -1)[:, :width], scores)
