"""The sampling loop on a CPU, driven from the host: rows that have stopped leave the batch.

A program's shapes are fixed, so a loop in one program computes all rows until the last has stopped; where lengths vary,
that is most of its work. Here a loop ends when half of its rows have stopped, and another goes on with the others.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import jax
import numpy as np

from jaxrl_llm.sampling.generate import Draws, Progress, begin, cache_widths, extend
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.types import Array, Model, Params, Rollout

# Of a batch. Fewer take little less time, for most of that is then reading the weights, and each size is a program.
LEAST_ROWS = 4

_lock = threading.Lock()  # a program that threads ask for at the same time is compiled once

_begin = jax.jit(begin, static_argnames=("model", "samples", "draws"))
_extend = jax.jit(extend, static_argnames=("model", "draws", "width"))


def smaller_batches(rows: int, most: int) -> list[int]:
    """Halves of ``rows``, and halves of those, down to LEAST_ROWS: the ones of at most ``most`` rows, largest first."""
    sizes = []
    while (half := -(-rows // 2)) < rows and half >= LEAST_ROWS:
        sizes.append(rows := half)
    return [size for size in sizes if size <= most]


@jax.jit
def _take(progress: Progress, chosen: Array) -> Progress:
    """The rows at the indices ``chosen``, each with its prompt's cache to itself."""
    prompt = chosen // (progress.rows // progress.prompts)
    return Progress(
        column=progress.column,
        keys=progress.keys[chosen],
        prompt_length=progress.prompt_length[prompt],
        prompt_cache=jax.tree.map(lambda x: x[prompt], progress.prompt_cache),
        cache=jax.tree.map(lambda x: x[chosen], progress.cache),
        token=progress.token[chosen],
        done=progress.done[chosen],
        tokens=progress.tokens[chosen],
        mask=progress.mask[chosen],
        logprobs=progress.logprobs[chosen],
    )


def generate_shrinking(
    model: Model,
    prepared: Params,
    prompt_tokens: Array,
    prompt_length: Array,
    prompt_id: Array,
    key: Array,
    *,
    samples: int,
    sampling: Sampling,
    stop_ids: tuple[int, ...],
    pad_id: int,
) -> Rollout:
    """What :func:`~jaxrl_llm.sampling.generate.generate` samples of the same arguments, on the host.

    How many rows are computed beside a row changes the order of sums in its matrix products, and nothing else.
    """
    draws = Draws(sampling, stop_ids, pad_id)
    with _lock:
        progress = _begin(model, prepared, prompt_tokens, prompt_length, prompt_id, key, samples=samples, draws=draws)
    prompt_width = prompt_tokens.shape[1]
    place = np.arange(progress.rows)  # in the rollout, of every row of ``progress``
    whole: tuple[Any, ...] = tuple(np.empty(x.shape, x.dtype) for x in _sampled(progress))

    def keep() -> None:
        for rollout, rows in zip(whole, jax.device_get(_sampled(progress)), strict=True):
            rollout[place] = rows

    for width in cache_widths(sampling.max_tokens):
        while True:
            column, done = jax.device_get((progress.column, progress.done))
            live = np.count_nonzero(~done)
            if not live or column > min(width, sampling.max_tokens - 1):
                break
            # No more memory than all rows would take: in a smaller batch each has its prompt's cache to itself.
            columns = progress.prompts * prompt_width + progress.rows * width
            sizes = smaller_batches(progress.rows, columns // (prompt_width + width))
            if sizes and live <= sizes[0]:
                keep()
                rows = min(size for size in sizes if size >= live)
                chosen = np.sort(np.argsort(done, kind="stable")[:rows])
                place = place[chosen]
                with _lock:
                    progress = _take(progress, chosen)
            else:
                few = np.int32(sizes[0] if sizes else 0)
                with _lock:
                    progress = _extend(model, prepared, progress, draws, width, few)
    keep()
    done, tokens, mask, logprobs = whole
    repeat: Any = functools.partial(np.repeat, repeats=samples, axis=0)
    return Rollout(
        prompt_tokens=repeat(prompt_tokens),
        prompt_length=repeat(prompt_length),
        tokens=tokens,
        mask=mask,
        sampler_logprobs=logprobs,
        truncated=~done,
        prompt_id=repeat(prompt_id),
    )


def _sampled(progress: Progress) -> tuple[Array, Array, Array, Array]:
    """What a rollout holds of the rows."""
    return progress.done, progress.tokens, progress.mask, progress.logprobs
