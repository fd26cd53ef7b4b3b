"""Log-probabilities and entropies under the whole softmax, by blocks of the vocabulary: [N, V] is never held.

A block of the head is read once a pass, meets all its tokens in one product, and has its gradient written once. By
chunks of tokens every chunk reads the whole head, makes a gradient of its size, and adds it to the last one's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core.logprobs import Sums, from_sums, sums
from jaxrl_llm.types import Array, Params

LogitsOf = Callable[[Params, Array], Array]  # (head or a block of it, hidden [..., D]) -> logits float32 [..., entries]
OfTokens = Callable[[Params, Array, Array], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Blocks of equal width; the last one reaches back over entries that the one before it has had.

    Attributes:
      axes: the axis of each array of the head that goes over the vocabulary.
      size: of the vocabulary.
      width: entries of a block, at most ``size``.
    """

    axes: Any
    size: int
    width: int

    @property
    def starts(self) -> Array:
        """The first entry of each block that no other block has."""
        return jnp.arange(0, self.size, self.width)

    def _first(self, start: Array) -> Array:
        return jnp.minimum(start, self.size - self.width)

    def cut(self, head: Params, start: Array) -> tuple[Params, Array]:
        """A block, and its entries: -1 for one that an earlier block has had."""
        first = self._first(start)
        entries = first + jnp.arange(self.width)
        part = jax.tree.map(lambda x, axis: jax.lax.dynamic_slice_in_dim(x, first, self.width, axis), head, self.axes)
        return part, jnp.where(entries < start, -1, entries)

    def add(self, head: Params, part: Params, start: Array) -> Params:
        """``head`` with ``part`` added to a block, in place under a loop."""
        first = self._first(start)

        def put(whole: Array, part: Array, axis: int) -> Array:
            before = jax.lax.dynamic_slice_in_dim(whole, first, self.width, axis)
            return jax.lax.dynamic_update_slice_in_dim(whole, before + part, first, axis)

        return jax.tree.map(put, head, part, self.axes)


def score_by_vocabulary(logits_of: LogitsOf, blocks: Blocks, *, entropy_gradient: bool) -> OfTokens:
    """(head, hidden [..., D], labels [...]) -> (log_prob [...], entropy [...]), float32.

    The values of :func:`~jaxrl_llm.core.logprobs.log_prob_and_entropy` of all logits, up to the order of its sums. The
    forward pass goes through the blocks with the largest logit so far, and scales its sums where that rises. The
    backward pass computes the logits of a block again, and knows the largest.

    Args:
      logits_of: of each entry by itself: no filter that looks at the others.
      blocks: how the vocabulary is cut.
      entropy_gradient: whether the entropy carries one.
    """

    @jax.custom_vjp
    def scored(head: Params, hidden: Array, labels: Array) -> tuple[Array, Array]:
        return from_sums(_forward(logits_of, blocks, head, hidden, labels)[0])

    def forward(head: Params, hidden: Array, labels: Array) -> tuple[tuple[Array, Array], Any]:
        found, peak = _forward(logits_of, blocks, head, hidden, labels)
        return from_sums(found), (head, hidden, labels, found, peak)

    def backward(kept: Any, cotangents: tuple[Array, Array]) -> tuple[Params, Array, None]:
        head, hidden, labels, found, peak = kept
        of_sums = jax.vjp(from_sums, found)[1](cotangents)[0]
        if not entropy_gradient:
            of_sums = of_sums._replace(weighted=None)
        return *_backward(logits_of, blocks, head, hidden, labels, peak, of_sums), None

    scored.defvjp(forward, backward)
    return scored


def _block_logits(logits_of: LogitsOf, part: Params, hidden: Array, entries: Array) -> Array:
    return jnp.where(entries >= 0, logits_of(part, hidden), -jnp.inf)


def _forward(logits_of: LogitsOf, blocks: Blocks, head: Params, hidden: Array, labels: Array) -> tuple[Sums, Array]:
    """The sums over the vocabulary, and the largest logits, which they are relative to."""

    def step(carry: tuple[Sums, Array], start: Array) -> tuple[tuple[Sums, Array], None]:
        so_far, peak = carry
        part, entries = blocks.cut(head, start)
        logits = _block_logits(logits_of, part, hidden, entries)
        higher = jnp.maximum(peak, jnp.max(logits, axis=-1))
        so_far = _moved(so_far, peak - higher, labels < start)
        return (jax.tree.map(jnp.add, so_far, sums(logits, labels, entries, higher)), higher), None

    nothing = jnp.zeros(labels.shape, jnp.float32)
    lowest = jnp.full(labels.shape, jnp.finfo(jnp.float32).min)  # finite: 0 times its distance to a peak is 0
    return jax.lax.scan(step, (Sums(nothing, nothing, nothing), lowest), blocks.starts)[0]


def _moved(so_far: Sums, fall: Array, had_label: Array) -> Sums:
    """The sums relative to another peak, ``fall`` = old - new <= 0."""
    scale = jnp.exp(fall)
    mass = so_far.mass * scale
    return Sums(mass, so_far.weighted * scale + mass * fall, jnp.where(had_label, so_far.chosen + fall, 0))


def _backward(
    logits_of: LogitsOf, blocks: Blocks, head: Params, hidden: Array, labels: Array, peak: Array, of_sums: Sums
) -> tuple[Params, Array]:
    """Gradients by head and hidden states of Σ ``of_sums`` · sums; a field of ``of_sums`` that is None counts as 0."""

    def step(carry: tuple[Params, Array], start: Array) -> tuple[tuple[Params, Array], None]:
        of_head, of_hidden = carry
        part, entries = blocks.cut(head, start)

        def pulled(part: Params, hidden: Array) -> Array:
            found = sums(_block_logits(logits_of, part, hidden, entries), labels, entries, peak)
            wanted = [jnp.sum(c * x) for c, x in zip(of_sums, found, strict=True) if c is not None]
            return jnp.sum(jnp.stack(wanted))

        of_part, of_states = jax.grad(pulled, (0, 1))(part, hidden)
        return (blocks.add(of_head, of_part, start), of_hidden + of_states), None

    nothing = jax.tree.map(jnp.zeros_like, head), jnp.zeros(hidden.shape, jnp.float32)
    (of_head, of_hidden), _ = jax.lax.scan(step, nothing, blocks.starts)
    return of_head, of_hidden.astype(hidden.dtype)
